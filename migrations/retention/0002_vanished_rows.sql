-- Who was in the source, so that a row that is hard-deleted is missed.

create table retention.roster (
    source   text   not null,
    bucket   integer not null,
    members  bigint not null,
    checksum bigint not null,
    subjects text[] not null,
    primary key (source, bucket)
);
comment on table  retention.roster is 'The subjects each starting-point table had at the last full comparison, in buckets by hash: only buckets whose checksum differs are compared one by one.';
comment on column retention.roster.source is 'The starting-point table and its key columns.';
comment on column retention.roster.bucket is 'Hash bucket of the subject.';
comment on column retention.roster.members is 'Subjects in the bucket.';
comment on column retention.roster.checksum is 'Sum of the subjects'' hashes.';
comment on column retention.roster.subjects is 'Length of the account id, a colon, the account id, and the feature where the table has one.';

create table retention.absences (
    id              bigint generated always as identity primary key,
    source          text        not null,
    account_id      text        not null,
    feature         text,
    first_missed_at timestamptz not null,
    confirmed_at    timestamptz
);
comment on table  retention.absences is 'Rows that vanished from the source. A confirmed one counts as every starting point of its table, from the moment it was first missed.';
comment on column retention.absences.id is 'Identity.';
comment on column retention.absences.source is 'The starting-point table and its key columns.';
comment on column retention.absences.account_id is 'The account that was in it.';
comment on column retention.absences.feature is 'The feature, where the table has one.';
comment on column retention.absences.first_missed_at is 'When a full comparison first missed it.';
comment on column retention.absences.confirmed_at is 'When a second one, at least one resync_interval later, missed it too.';
create unique index absences_subject on retention.absences (source, md5(account_id), md5(coalesce(feature, '')));
create index absences_account on retention.absences (account_id);
comment on index retention.absences_subject is 'One row per subject. Hashed, because an account id may be too long to index.';
comment on index retention.absences_account is 'What batches ask.';

-- The roster is kept in the order of the source's own index, so that comparing it is one range scan for each of its rows.
-- Who was remembered in buckets stays remembered: the next full comparison asks for each of them by key.

alter table retention.roster
    drop constraint roster_pkey,
    drop column bucket,
    add column id       bigint generated always as identity primary key,
    add column ordering text not null default 'bucket',
    add column lower    text not null default '',
    add column upper    text,
    alter column checksum type numeric,
    alter column checksum drop not null;
alter table retention.roster
    alter column ordering drop default,
    alter column lower drop default;
create index roster_walk on retention.roster (source, ordering, id);
comment on table  retention.roster is 'The subjects each starting-point table had when it was last compared, in contiguous ranges of its key: only ranges that count or add up differently are compared one by one. The ranges of one source and ordering touch each other and leave no gap.';
comment on column retention.roster.id is 'Identity; the order in which ranges are compared.';
comment on column retention.roster.ordering is 'What the bounds are: text, uuid, integer or bigint as in the account column, hash of it where no index has its order. Another one than the column has now: written by an earlier version or for an earlier type, asked for by key once.';
comment on column retention.roster.lower is 'First key of the range.';
comment on column retention.roster.upper is 'First key after the range; null for the last.';
comment on column retention.roster.members is 'Subjects in the range.';
comment on column retention.roster.checksum is 'Sum of the subjects'' hashes; null when the range was never compared.';
comment on column retention.roster.subjects is 'Length of the account id, a colon, the account id, and the feature where the table has one.';
comment on index retention.roster_walk is 'The walk over the ranges of one source.';

create index absences_missed on retention.absences (source, first_missed_at);
create index absences_waiting on retention.absences (source, first_missed_at) where confirmed_at is null;
comment on index retention.absences_missed is 'How many the guard counts as lost lately.';
comment on index retention.absences_waiting is 'What a later comparison confirms.';

-- What a completed job proves has levels. Each is written down when it has become true, never before.

create table retention.levels (
    job_id     bigint      not null,
    level      text        not null check (level in ('absent', 'replicated', 'cleaned', 'expired')),
    reached_at timestamptz not null default clock_timestamp(),
    detail     jsonb       not null,
    primary key (job_id, level)
);
comment on table  retention.levels is 'Levels of erasure that completed jobs have reached. Rows are added and never changed, and go with their job''s history.';
comment on column retention.levels.job_id is 'The completed job.';
comment on column retention.levels.level is 'absent: a role that may only read found nothing either. replicated: every standby and slot is past the deletion. cleaned: its dead rows have been vacuumed. expired: copies that cannot be deleted one by one are gone.';
comment on column retention.levels.reached_at is 'When that was found to be so.';
comment on column retention.levels.detail is 'What was looked at to say so, and what was not.';

create table retention.levels_awaited (
    id         bigint generated always as identity primary key,
    feature    text        not null,
    data_class text        not null,
    job_ids    bigint[]    not null,
    awaits     text[]      not null default '{absent,replicated,cleaned,expired}',
    since      timestamptz not null default now(),
    noted_at   timestamptz,
    lsn        pg_lsn,
    xid        bigint,
    expires_at timestamptz,
    vacuums    jsonb,
    look_at    timestamptz not null default now()
);
comment on table  retention.levels_awaited is 'Jobs that were completed by one transaction, until they have reached every level that is meant for them.';
comment on column retention.levels_awaited.id is 'Identity.';
comment on column retention.levels_awaited.feature is 'The feature of all of them.';
comment on column retention.levels_awaited.data_class is 'The data class of all of them.';
comment on column retention.levels_awaited.job_ids is 'The jobs.';
comment on column retention.levels_awaited.awaits is 'Levels that not all of them have reached.';
comment on column retention.levels_awaited.since is 'When they were completed.';
comment on column retention.levels_awaited.noted_at is 'When lsn, xid and expires_at were noted, after their transaction had committed; null until then.';
comment on column retention.levels_awaited.lsn is 'The end of the write-ahead log at that moment.';
comment on column retention.levels_awaited.xid is 'The next transaction at that moment: theirs is older.';
comment on column retention.levels_awaited.expires_at is 'When the last copy of any of them is gone.';
comment on column retention.levels_awaited.vacuums is 'Oid of each table and TOAST table of theirs to the vacuums that it had had, noted once nobody could see their records any more; null until then.';
comment on column retention.levels_awaited.look_at is 'When the role that may only read looks next.';
create index levels_awaited_new on retention.levels_awaited (id) where noted_at is null;
create index levels_awaited_class on retention.levels_awaited (feature, data_class, look_at) where 'absent' = any(awaits);
comment on index retention.levels_awaited_new is 'What is noted next.';
comment on index retention.levels_awaited_class is 'What is looked at next.';

-- What was completed before is watched from now on, as if it had been completed now.
insert into retention.levels_awaited (feature, data_class, job_ids)
    select feature, data_class, array_agg(id)
    from (select id, feature, data_class, (row_number() over (partition by feature, data_class order by id) - 1) / 500 as page
          from retention.history where state = 'completed') h
    group by feature, data_class, page
    order by min(id);

create index history_ended on retention.history (coalesce(completed_at, cancelled_at));
comment on index retention.history_ended is 'Reports of an interval, and what has been kept long enough.';
comment on table retention.history is 'Jobs that are over. Rows are added and never changed; they are forgotten after records.keep_history.';

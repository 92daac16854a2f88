-- Open jobs and history apart: claims read a table that holds what is left to do and nothing else, however much was done before.

-- No replica of an earlier version may end a job while they are moved.
lock table retention.jobs in access exclusive mode;

create table retention.history (
    id              bigint      primary key,
    account_id      text        not null,
    feature         text        not null,
    data_class      text        not null,
    state           text        not null check (state in ('completed', 'cancelled')),
    starting_point  text        not null,
    started_at      timestamptz not null,
    retain_until    timestamptz not null,
    delete_by       timestamptz not null,
    policy          text        not null,
    attempts        integer     not null,
    last_error      text,
    purge_began_at  timestamptz,
    records_deleted jsonb       not null,
    outcomes        jsonb       not null default '{}',
    count_exact     boolean     not null,
    created_at      timestamptz not null,
    completed_at    timestamptz,
    cancelled_at    timestamptz,
    cancel_reason   text,
    -- A job never completes before its time, whatever the program believes.
    check (completed_at >= retain_until),
    check ((state = 'completed') = (completed_at is not null)),
    check ((state = 'cancelled') = (cancelled_at is not null))
);

comment on table  retention.history is 'Jobs that are over. Rows are added and never changed.';
comment on column retention.history.id is 'The job''s identity.';
comment on column retention.history.account_id is 'The account.';
comment on column retention.history.feature is 'The feature the data class belongs to.';
comment on column retention.history.data_class is 'The data class.';
comment on column retention.history.state is 'completed or cancelled.';
comment on column retention.history.starting_point is 'The starting point that counted.';
comment on column retention.history.started_at is 'The instant of the starting point.';
comment on column retention.history.retain_until is 'Nothing was to be deleted before this instant.';
comment on column retention.history.delete_by is 'Everything was to be deleted by this instant.';
comment on column retention.history.policy is 'Fingerprint of the rule the dates were made under.';
comment on column retention.history.attempts is 'Claims that began a new attempt.';
comment on column retention.history.last_error is 'What went wrong last.';
comment on column retention.history.purge_began_at is 'When the first batch ran.';
comment on column retention.history.records_deleted is 'Target name to records deleted.';
comment on column retention.history.outcomes is 'Target name to deleted, already gone, never existed or unknown.';
comment on column retention.history.count_exact is 'False where a store cannot count exactly.';
comment on column retention.history.created_at is 'When the job was scheduled.';
comment on column retention.history.completed_at is 'When a separate look found nothing left.';
comment on column retention.history.cancelled_at is 'When the job was cancelled.';
comment on column retention.history.cancel_reason is 'reactivated, policy or unverifiable.';

insert into retention.history
    select id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, last_error, purge_began_at,
           records_deleted, outcomes, count_exact, created_at, completed_at, cancelled_at, cancel_reason
    from retention.jobs where state in ('completed', 'cancelled');
delete from retention.jobs where state in ('completed', 'cancelled');
create index history_account on retention.history (account_id);
comment on index retention.history_account is 'Everything about one account.';

-- What is left is open; running is what has a lease in force. A claim changes no column that an index knows, and half of each page is free for the
-- version it writes: it costs no index entry.
alter table retention.jobs
    drop column state,
    drop column outcomes,
    drop column completed_at,
    drop column cancelled_at,
    drop column cancel_reason,
    set (fillfactor = 50);
comment on table  retention.jobs is 'One purge of one data class of one account that is not over yet. Running while a lease is in force, else scheduled.';
comment on column retention.jobs.admitted_at is 'When the guard let the purge begin: at the first claim, or when somebody released the guard; null until then.';
comment on column retention.jobs.lease_until is 'The claim lapses at this instant, and whoever comes may claim the job; null while nobody holds it.';

drop index if exists retention.jobs_open, retention.jobs_ready, retention.jobs_unadmitted, retention.jobs_leased, retention.jobs_deadline,
                     retention.jobs_changed, retention.jobs_account;
create unique index jobs_open on retention.jobs (account_id, feature, data_class);
create index jobs_ready on retention.jobs ((feature || '/' || data_class), ready_at);
create index jobs_due on retention.jobs (retain_until);
create index jobs_deadline on retention.jobs (delete_by);
create index jobs_changed on retention.jobs (feature, data_class) where blocked_by in ('changed', 'missing');
comment on index retention.jobs_open is 'At most one open job for each account, feature and data class.';
comment on index retention.jobs_ready is 'Claims, first come first served. By an expression, so that no other question takes it for the way to one job: a table that was empty when it was last analysed looks as if it were.';
comment on index retention.jobs_due is 'What the guard weighs, and what it sees coming.';
comment on index retention.jobs_deadline is 'Overdue jobs and the earliest unmet deadline.';
comment on index retention.jobs_changed is 'Jobs whose starting point a batch found changed; the planner settles them at its next look.';

drop index retention.admissions_window;
alter table retention.admissions set (fillfactor = 70);
comment on column retention.admissions.admitted_at is 'When. Within the window every job of the account may begin, unless a person let it through.';
comment on column retention.admissions.released is 'Let through by a person: does not count in the window, and admits no job but those that waited then.';

-- Until the next analysis the planner would believe in the table of before.
analyze retention.jobs;
analyze retention.history;

create view retention.every_job as
    select id, account_id, feature, data_class, case when lease_until > now() then 'running' else 'scheduled' end as state, starting_point, started_at,
           retain_until, delete_by, policy, attempts, last_error, purge_began_at, records_deleted, '{}'::jsonb as outcomes, count_exact, blocked_by,
           created_at, null::timestamptz as completed_at, null::timestamptz as cancelled_at, null::text as cancel_reason
    from retention.jobs
    union all
    select id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, last_error, purge_began_at,
           records_deleted, outcomes, count_exact, null, created_at, completed_at, cancelled_at, cancel_reason
    from retention.history;
comment on view retention.every_job is 'Open jobs and history together, as jobs list shows them.';

-- The daemon's own tables. Everything lives in schema retention; nothing here belongs to the platform.

create table retention.jobs (
    id              bigint generated always as identity primary key,
    account_id      text        not null,
    feature         text        not null,
    data_class      text        not null,
    state           text        not null default 'scheduled'
                    check (state in ('scheduled', 'running', 'completed', 'cancelled')),
    starting_point  text        not null,
    started_at      timestamptz not null check (isfinite(started_at)),
    retain_until    timestamptz not null check (retain_until >= started_at),
    delete_by       timestamptz not null check (delete_by >= retain_until),
    policy          text        not null,
    seen            text[],
    ready_at        timestamptz not null,
    admitted_at     timestamptz,
    fence           bigint      not null default 0,
    worker          text,
    lease_until     timestamptz,
    attempts        integer     not null default 0,
    continues       boolean     not null default false,
    blocked_by      text,
    looks           integer     not null default 0,
    last_error      text,
    purge_began_at  timestamptz,
    records_deleted jsonb       not null default '{}',
    outcomes        jsonb       not null default '{}',
    count_exact     boolean     not null default true,
    overdue_told_at timestamptz,
    created_at      timestamptz not null default now(),
    completed_at    timestamptz,
    cancelled_at    timestamptz,
    cancel_reason   text,
    -- A job never completes before its time, whatever the program believes.
    check (completed_at >= retain_until),
    check ((state = 'running') = (lease_until is not null)),
    check ((state = 'completed') = (completed_at is not null)),
    check ((state = 'cancelled') = (cancelled_at is not null))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

comment on table  retention.jobs is 'One purge of one data class of one account. Open jobs are scheduled or running; completed and cancelled ones are history.';
comment on column retention.jobs.id is 'Identity; printed as a string.';
comment on column retention.jobs.account_id is 'The account, in the canonical text of the source column.';
comment on column retention.jobs.feature is 'The feature the data class belongs to.';
comment on column retention.jobs.data_class is 'The data class to purge.';
comment on column retention.jobs.state is 'scheduled, running (leased to a worker), completed or cancelled.';
comment on column retention.jobs.starting_point is 'The starting point that counts: the earliest that stands.';
comment on column retention.jobs.started_at is 'The instant of the starting point.';
comment on column retention.jobs.retain_until is 'Nothing is deleted before this instant.';
comment on column retention.jobs.delete_by is 'Everything is deleted by this instant, or the job is overdue.';
comment on column retention.jobs.policy is 'Fingerprint of the rule the dates were made under.';
comment on column retention.jobs.seen is 'Targets that held records when the job was scheduled; null when nobody could look.';
comment on column retention.jobs.ready_at is 'Not claimed before this instant; retain_until at first, later the end of a back-off.';
comment on column retention.jobs.admitted_at is 'When the guard let the purge begin; null until then.';
comment on column retention.jobs.fence is 'Grows with every claim and every change of plan; a worker that holds an older one changes nothing.';
comment on column retention.jobs.worker is 'Who claimed it last.';
comment on column retention.jobs.lease_until is 'The claim lapses at this instant; null while nobody holds it.';
comment on column retention.jobs.attempts is 'Claims that began a new attempt.';
comment on column retention.jobs.continues is 'The last batch gave the job back unfinished so that others pass; the next claim is the same attempt.';
comment on column retention.jobs.blocked_by is 'Why the last batch left it alone: locked, undeletable, changed, missing, held, paused or guarded.';
comment on column retention.jobs.looks is 'Looks in a row that found records which no batch could delete.';
comment on column retention.jobs.last_error is 'What went wrong last; kept for the record.';
comment on column retention.jobs.purge_began_at is 'When the first batch ran.';
comment on column retention.jobs.records_deleted is 'Target name to records deleted.';
comment on column retention.jobs.outcomes is 'Target name to deleted, already gone, never existed or unknown.';
comment on column retention.jobs.count_exact is 'False where a store cannot count exactly.';
comment on column retention.jobs.overdue_told_at is 'When job.overdue was logged, so that it is logged once.';
comment on column retention.jobs.created_at is 'When the job was scheduled.';
comment on column retention.jobs.completed_at is 'When a separate look found nothing left.';
comment on column retention.jobs.cancelled_at is 'When the job was cancelled.';
comment on column retention.jobs.cancel_reason is 'reactivated, policy or unverifiable.';

create unique index jobs_open on retention.jobs (account_id, feature, data_class) where state in ('scheduled', 'running');
create index jobs_ready on retention.jobs (feature, data_class, ready_at) where state = 'scheduled';
create index jobs_unadmitted on retention.jobs (retain_until) where state = 'scheduled' and admitted_at is null;
create index jobs_leased on retention.jobs (lease_until) where state = 'running';
create index jobs_deadline on retention.jobs (delete_by) where state in ('scheduled', 'running');
create index jobs_changed on retention.jobs (feature, data_class) where state = 'scheduled' and blocked_by in ('changed', 'missing');
create index jobs_account on retention.jobs (account_id);
comment on index retention.jobs_open is 'At most one open job for each account, feature and data class.';
comment on index retention.jobs_ready is 'Claims, first come first served.';
comment on index retention.jobs_unadmitted is 'Due jobs the guard has not weighed yet.';
comment on index retention.jobs_leased is 'Leases that lapsed.';
comment on index retention.jobs_deadline is 'Overdue jobs and the earliest unmet deadline.';
comment on index retention.jobs_changed is 'Jobs whose starting point a batch found changed; the planner settles them at its next look.';
comment on index retention.jobs_account is 'Everything about one account.';

create table retention.done_marks (
    account_id     text        not null,
    feature        text        not null,
    data_class     text        not null,
    starting_point text        not null,
    started_at     timestamptz not null,
    places         text        not null,
    job_id         bigint      not null,
    primary key (account_id, feature, data_class)
);
comment on table  retention.done_marks is 'What was purged for a starting point that still stands, whatever happens to the history of jobs.';
comment on column retention.done_marks.account_id is 'The account.';
comment on column retention.done_marks.feature is 'The feature.';
comment on column retention.done_marks.data_class is 'The data class.';
comment on column retention.done_marks.starting_point is 'The starting point that was carried out.';
comment on column retention.done_marks.started_at is 'Its instant; another instant is another purge.';
comment on column retention.done_marks.places is 'Fingerprint of the targets that were purged; an added target opens the class again.';
comment on column retention.done_marks.job_id is 'The job that did it.';

create table retention.holds (
    id             bigint generated always as identity primary key,
    account_id     text        not null,
    feature        text,
    data_class     text,
    reason         text        not null check (reason <> ''),
    placed_by      text        not null,
    placed_at      timestamptz not null default now(),
    until          timestamptz,
    released_at    timestamptz,
    released_by    text,
    release_reason text
);
comment on table  retention.holds is 'While a hold matches a job, no batch of it starts.';
comment on column retention.holds.id is 'Identity.';
comment on column retention.holds.account_id is 'The account held.';
comment on column retention.holds.feature is 'Only this feature; null is every feature.';
comment on column retention.holds.data_class is 'Only this data class; null is every class.';
comment on column retention.holds.reason is 'Why.';
comment on column retention.holds.placed_by is 'Who placed it.';
comment on column retention.holds.placed_at is 'Since when.';
comment on column retention.holds.until is 'Ends by itself at this instant; null is until released.';
comment on column retention.holds.released_at is 'When it was released.';
comment on column retention.holds.released_by is 'Who released it.';
comment on column retention.holds.release_reason is 'Why it was released.';
create index holds_in_force on retention.holds (account_id) where released_at is null;
comment on index retention.holds_in_force is 'The question every batch asks.';

create table retention.pauses (
    id            bigint generated always as identity primary key,
    account_id    text,
    data_class    text,
    reason        text        not null check (reason <> ''),
    paused_by     text        not null,
    paused_at     timestamptz not null default now(),
    resumed_at    timestamptz,
    resumed_by    text,
    resume_reason text
);
comment on table  retention.pauses is 'While a pause matches, nothing is deleted; with neither account nor class it stops everything.';
comment on column retention.pauses.id is 'Identity.';
comment on column retention.pauses.account_id is 'Only this account; null is every account.';
comment on column retention.pauses.data_class is 'Only this data class; null is every class.';
comment on column retention.pauses.reason is 'Why.';
comment on column retention.pauses.paused_by is 'Who paused.';
comment on column retention.pauses.paused_at is 'Since when.';
comment on column retention.pauses.resumed_at is 'When it was lifted.';
comment on column retention.pauses.resumed_by is 'Who lifted it.';
comment on column retention.pauses.resume_reason is 'Why it was lifted.';
create index pauses_in_force on retention.pauses (account_id) where resumed_at is null;
comment on index retention.pauses_in_force is 'The question every batch asks.';

create table retention.guard (
    singleton      boolean primary key default true check (singleton),
    tripped_at     timestamptz,
    reason         text,
    known_accounts bigint,
    released_at    timestamptz,
    released_by    text,
    release_reason text,
    check ((tripped_at is null) = (reason is null))
);
comment on table  retention.guard is 'One row: whether the guard stands between due jobs and their purge. A missing row means stopped.';
comment on column retention.guard.singleton is 'There is one row.';
comment on column retention.guard.tripped_at is 'Since when it stands tripped; null is not tripped.';
comment on column retention.guard.reason is 'Which limit was exceeded, with the figures.';
comment on column retention.guard.known_accounts is 'Accounts in the source at the last full comparison.';
comment on column retention.guard.released_at is 'When it was last released.';
comment on column retention.guard.released_by is 'Who released it.';
comment on column retention.guard.release_reason is 'Why it was released.';
insert into retention.guard default values;

create table retention.admissions (
    account_id  text primary key,
    admitted_at timestamptz not null,
    released    boolean not null default false
);
comment on table  retention.admissions is 'Accounts whose purge the guard let begin; those within the window count against its limits.';
comment on column retention.admissions.account_id is 'The account.';
comment on column retention.admissions.admitted_at is 'When.';
comment on column retention.admissions.released is 'Let through by a person: does not count in the window.';
create index admissions_window on retention.admissions (admitted_at);
comment on index retention.admissions_window is 'The accounts of the window.';

create table retention.quarantine (
    id             bigint generated always as identity primary key,
    account_id     text        not null,
    feature        text        not null,
    data_class     text        not null,
    starting_point text        not null,
    problem        text        not null,
    first_seen_at  timestamptz not null default now(),
    last_seen_at   timestamptz not null default now()
);
comment on table  retention.quarantine is 'Records of the source that cannot be acted on; each stops only itself.';
comment on column retention.quarantine.id is 'Identity.';
comment on column retention.quarantine.account_id is 'The account of the record.';
comment on column retention.quarantine.feature is 'The feature.';
comment on column retention.quarantine.data_class is 'The data class it would have counted for.';
comment on column retention.quarantine.starting_point is 'The starting point whose value is impossible.';
comment on column retention.quarantine.problem is 'What is wrong with it, in words.';
comment on column retention.quarantine.first_seen_at is 'When it was first seen; logged once then.';
comment on column retention.quarantine.last_seen_at is 'The last full comparison that saw it.';
create unique index quarantine_record on retention.quarantine (md5(account_id), feature, data_class, starting_point);
comment on index retention.quarantine_record is 'One row per record. Hashed, because an account id may be too long to index.';

create table retention.passes (
    kind            text primary key,
    succeeded_at    timestamptz not null,
    watermark       timestamptz not null
);
comment on table  retention.passes is 'When the planner last finished a look at the source.';
comment on column retention.passes.kind is 'poll: the cheap look. resync: the full comparison.';
comment on column retention.passes.succeeded_at is 'When it ended.';
comment on column retention.passes.watermark is 'The database clock when it began; the next cheap look reaches back from here.';

-- What the operator's desk keeps: who did what, answers that are not given twice, and one line for each day that outlives its jobs.

create table retention.acts (
    id         bigint generated always as identity primary key,
    done_at    timestamptz not null default now(),
    act        text        not null,
    surface    text        not null check (surface in ('shell', 'api', 'page')),
    actor      text        not null,
    reason     text        not null,
    outcome    text        not null check (outcome in ('done', 'waits')),
    subject    text,
    account_id text,
    feature    text,
    data_class text
);
comment on table  retention.acts is 'What people did, in the order they did it. Rows are added and never changed; they are forgotten after records.keep_acts.';
comment on column retention.acts.id is 'Identity.';
comment on column retention.acts.done_at is 'When.';
comment on column retention.acts.act is 'What, in the words of the command line, like hold place.';
comment on column retention.acts.surface is 'Where: at the shell, through the API, or on a page.';
comment on column retention.acts.actor is 'Who.';
comment on column retention.acts.reason is 'Why; empty where none is asked for.';
comment on column retention.acts.outcome is 'done, or waits: another person has to do the same.';
comment on column retention.acts.subject is 'The id of the hold, the job or the request it was about.';
comment on column retention.acts.account_id is 'The account it was about; null is none in particular.';
comment on column retention.acts.feature is 'Only this feature.';
comment on column retention.acts.data_class is 'Only this data class.';

create table retention.answers (
    actor       text        not null,
    key         text        not null,
    fingerprint bytea       not null,
    status      integer     not null,
    body        text        not null,
    answered_at timestamptz not null default now(),
    primary key (actor, key)
);
comment on table  retention.answers is 'Answers to acts through the API, so that an act that is asked for twice is done once. Forgotten after a day.';
comment on column retention.answers.actor is 'Whose key it is.';
comment on column retention.answers.key is 'The Idempotency-Key.';
comment on column retention.answers.fingerprint is 'SHA-256 of what was asked for: the same key for something else is refused.';
comment on column retention.answers.status is 'The status that was answered.';
comment on column retention.answers.body is 'The body that was answered.';
comment on column retention.answers.answered_at is 'When.';
create index answers_age on retention.answers (answered_at);
comment on index retention.answers_age is 'What is forgotten.';

create table retention.days (
    day        date     not null,
    feature    text     not null,
    data_class text     not null,
    completed  bigint   not null,
    late       bigint   not null,
    cancelled  bigint   not null,
    records    bigint   not null,
    lateness   bigint[] not null,
    primary key (day, feature, data_class)
);
comment on table  retention.days is 'What was done on each day that is over, by data class. Names no account, and is kept when the jobs are forgotten.';
comment on column retention.days.day is 'The day, in UTC.';
comment on column retention.days.feature is 'The feature.';
comment on column retention.days.data_class is 'The data class; empty with the feature for a day on which nothing ended.';
comment on column retention.days.completed is 'Jobs completed on it.';
comment on column retention.days.late is 'Of those, the ones completed after delete_by.';
comment on column retention.days.cancelled is 'Jobs cancelled on it.';
comment on column retention.days.records is 'Records deleted by the jobs completed on it.';
comment on column retention.days.lateness is 'Jobs by seconds from retain_until to completion: up to 1, 5, 15, 60, 300, 900, 3600, 14400, 43200, 86400, 172800, 604800, and above.';

-- Lists go through it in order; jobs of one instant by their ids.
drop index retention.jobs_due;
create index jobs_due on retention.jobs (retain_until, id);
comment on index retention.jobs_due is 'What the guard weighs, what it sees coming, and what comes next, in order.';
create index history_cancelled on retention.history (id) where state = 'cancelled';
comment on index retention.history_cancelled is 'The few that were cancelled among the many that were not.';

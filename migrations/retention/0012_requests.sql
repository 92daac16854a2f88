-- Requests: an early deletion of one account's records that somebody asked for. And approvals: what one person said where two are needed.

create table retention.requests (
    id                bigint generated always as identity primary key,
    account_id        text        not null,
    feature           text,
    data_class        text,
    reason            text        not null check (reason <> ''),
    requested_by      text        not null,
    requested_at      timestamptz not null default now(),
    due_by            timestamptz,
    accepted_at       timestamptz,
    accepted_by       text,
    withdrawn_at      timestamptz,
    withdrawn_by      text,
    withdraw_reason   text,
    fulfilled_told_at timestamptz,
    check ((accepted_at is null) = (accepted_by is null)),
    check ((accepted_at is null) = (due_by is null)),
    check (due_by >= accepted_at),
    check ((withdrawn_at is null) = (withdrawn_by is null))
);
comment on table  retention.requests is 'Who asked that an account''s records be deleted early, and what became of it. Rows are kept.';
comment on column retention.requests.id is 'Identity; printed as a string.';
comment on column retention.requests.account_id is 'The account.';
comment on column retention.requests.feature is 'Only this feature; null is every feature.';
comment on column retention.requests.data_class is 'Only this data class; null is every class.';
comment on column retention.requests.reason is 'Why.';
comment on column retention.requests.requested_by is 'Who asked.';
comment on column retention.requests.requested_at is 'When.';
comment on column retention.requests.due_by is 'Fulfilled by this instant, or overdue; null until it is accepted.';
comment on column retention.requests.accepted_at is 'Nothing is deleted for it before this instant; null while it waits for a second person.';
comment on column retention.requests.accepted_by is 'Who accepted it: whoever asked, where one person is enough, else another.';
comment on column retention.requests.withdrawn_at is 'When it was withdrawn: nothing is deleted for it any more.';
comment on column retention.requests.withdrawn_by is 'Who withdrew it.';
comment on column retention.requests.withdraw_reason is 'Why it was withdrawn.';
comment on column retention.requests.fulfilled_told_at is 'When request.fulfilled was logged, so that it is logged once.';
create index requests_untold on retention.requests (id) where withdrawn_at is null and fulfilled_told_at is null;
comment on index retention.requests_untold is 'Requests that are not over: what is looked at to tell that one is fulfilled.';

create table retention.request_parts (
    request_id   bigint not null references retention.requests,
    account_id   text   not null,
    feature      text   not null,
    data_class   text   not null,
    fulfilled_at timestamptz,
    job_id       bigint,
    primary key (request_id, feature, data_class),
    check ((fulfilled_at is null) = (job_id is null))
);
comment on table  retention.request_parts is 'One data class that a request covers, as configured when it was made.';
comment on column retention.request_parts.request_id is 'The request.';
comment on column retention.request_parts.account_id is 'Its account.';
comment on column retention.request_parts.feature is 'The feature.';
comment on column retention.request_parts.data_class is 'The data class.';
comment on column retention.request_parts.fulfilled_at is 'When a job that claimed its work after the request was accepted found nothing left.';
comment on column retention.request_parts.job_id is 'That job.';
create index request_parts_open on retention.request_parts (account_id, feature, data_class) where fulfilled_at is null;
comment on index retention.request_parts_open is 'The question every batch of a job on request asks, and every completion.';

create index request_parts_fulfilled on retention.request_parts (fulfilled_at) where fulfilled_at is not null;
comment on index retention.request_parts_fulfilled is 'What was fulfilled lately: the planner looks what else stands.';

create index jobs_on_request on retention.jobs (feature, data_class) where starting_point = 'request';
comment on index retention.jobs_on_request is 'Open jobs on request: the planner looks for those whose request was withdrawn.';
comment on column retention.history.cancel_reason is 'reactivated, policy, unverifiable or withdrawn.';

create table retention.approvals (
    id        bigint generated always as identity primary key,
    act       text        not null check (act in ('guard release', 'hold release', 'policy accept')),
    reference text        not null,
    actor     text        not null,
    reason    text        not null check (reason <> ''),
    given_at  timestamptz not null default now(),
    used_at   timestamptz
);
comment on table  retention.approvals is 'What one person said to an act that needs two. Rows are kept.';
comment on column retention.approvals.id is 'Identity.';
comment on column retention.approvals.act is 'guard release, hold release or policy accept.';
comment on column retention.approvals.reference is 'To what: when the guard tripped, the id of the hold, the fingerprint of the policy.';
comment on column retention.approvals.actor is 'Who.';
comment on column retention.approvals.reason is 'Why.';
comment on column retention.approvals.given_at is 'When; it counts for a day.';
comment on column retention.approvals.used_at is 'When the act was carried out on it; it counts no more.';
create index approvals_unused on retention.approvals (act, reference) where used_at is null;
comment on index retention.approvals_unused is 'Who has said so already.';

-- What platforms are told: notices that wait for their endpoint or have gone there, and which endpoint wants what.

create table retention.notice_endpoints (
    name          text        primary key,
    types         text[]      not null,
    ahead         bigint[]    not null,
    regions       text[],
    configured_at timestamptz not null default now(),
    disabled_at   timestamptz,
    disabled_for  text,
    tried_since   timestamptz,
    tried_at      timestamptz,
    tried_for     text
);
comment on table  retention.notice_endpoints is 'Endpoints that a daemon has in its configuration: for these, notices are written.';
comment on column retention.notice_endpoints.name is 'Its name in the configuration.';
comment on column retention.notice_endpoints.types is 'The types it wants.';
comment on column retention.notice_endpoints.ahead is 'Seconds before retain_until at which it is warned.';
comment on column retention.notice_endpoints.regions is 'The only regions of whose accounts it is told; null is all.';
comment on column retention.notice_endpoints.configured_at is 'When a daemon last had it in its configuration; a day later nothing more is written for it.';
comment on column retention.notice_endpoints.disabled_at is 'When it answered that it is gone for good; null while it is sent to.';
comment on column retention.notice_endpoints.disabled_for is 'Fingerprint of the configuration under which it did: under another one it is sent to again.';
comment on column retention.notice_endpoints.tried_since is 'Since when it is sent to without a gap of ten minutes and under one configuration: the time of a notice is not over sooner.';
comment on column retention.notice_endpoints.tried_at is 'When it was last sent to, or nothing waited for it, to the minute.';
comment on column retention.notice_endpoints.tried_for is 'Fingerprint of the configuration under which it is sent to; null where it begins anew.';

create table retention.notice_looks (
    endpoint     text references retention.notice_endpoints on delete cascade,
    ahead        bigint,
    looked_until timestamptz not null,
    primary key (endpoint, ahead)
);
comment on table  retention.notice_looks is 'How far jobs that are soon due were looked at for each endpoint.';
comment on column retention.notice_looks.endpoint is 'The endpoint.';
comment on column retention.notice_looks.ahead is 'Seconds before retain_until.';
comment on column retention.notice_looks.looked_until is 'Jobs with a retain_until before this instant were looked at.';

create table retention.notices (
    id            bigint      generated always as identity primary key,
    endpoint      text        not null,
    event_id      text        not null,
    type          text        not null,
    account_id    text,
    at            timestamptz not null,
    data          jsonb       not null,
    created_at    timestamptz not null default now(),
    waiting_since timestamptz not null default now(),
    attempts      integer     not null default 0,
    next_at       timestamptz not null default now(),
    outcome       text        check (outcome in ('sent', 'given_up')),
    ended_at      timestamptz,
    last_error    text,
    check ((outcome is null) = (ended_at is null))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table  retention.notices is 'What each endpoint is told, one row for each fact and endpoint, written with the entry of the ledger that has its number.';
comment on column retention.notices.id is 'Identity; the order in which an account''s notices are sent.';
comment on column retention.notices.endpoint is 'The endpoint.';
comment on column retention.notices.event_id is 'The fact: the same in each try and for each endpoint.';
comment on column retention.notices.type is 'What happened, as a type of CloudEvents.';
comment on column retention.notices.account_id is 'The account; null where it is about none.';
comment on column retention.notices.at is 'When it happened.';
comment on column retention.notices.data is 'What it says of it: ids, dates, counts.';
comment on column retention.notices.created_at is 'When it was written.';
comment on column retention.notices.waiting_since is 'Since when it is tried: when it was written or replayed.';
comment on column retention.notices.attempts is 'Tries so far.';
comment on column retention.notices.next_at is 'Not tried before this instant: the end of a pause, or of the time that a try may take.';
comment on column retention.notices.outcome is 'sent or given_up; null while it waits.';
comment on column retention.notices.ended_at is 'When it was sent or given up.';
comment on column retention.notices.last_error is 'How the last try failed.';

create unique index notices_fact on retention.notices (endpoint, event_id);
create index notices_waiting on retention.notices (endpoint, id) where outcome is null;
create index notices_line on retention.notices (endpoint, coalesce(account_id, ''), id) where outcome is null;
create index notices_given_up on retention.notices (id) where outcome = 'given_up';
create index notices_age on retention.notices (created_at);
comment on index retention.notices_fact is 'No endpoint is told the same twice.';
comment on index retention.notices_waiting is 'What waits, in its order.';
comment on index retention.notices_line is 'What else of the account waits before it.';
comment on index retention.notices_given_up is 'What did not arrive.';
comment on index retention.notices_age is 'What is to be forgotten.';

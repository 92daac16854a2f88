-- Which policy somebody stands behind: what would delete more or sooner waits until it is accepted.

create table retention.policies (
    id          bigint generated always as identity primary key,
    hash        text        not null,
    terms       jsonb       not null,
    accepted_at timestamptz not null default now(),
    accepted_by text        not null,
    reason      text        not null check (reason <> '')
);
comment on table  retention.policies is 'Every policy that was ever in force; the newest is. A daemon whose configuration asks for another plans and purges nothing.';
comment on column retention.policies.id is 'Identity; the highest is in force.';
comment on column retention.policies.hash is 'Fingerprint of the terms.';
comment on column retention.policies.terms is 'Classes, periods, starting points and targets.';
comment on column retention.policies.accepted_at is 'Since when.';
comment on column retention.policies.accepted_by is 'Who accepted it; retentiond where nothing in it deletes more or sooner.';
comment on column retention.policies.reason is 'Why.';

-- What was done, in a form that cannot be changed unseen: entries are written in the transaction of what they record, unnumbered; one replica at a time
-- numbers them, grows the tree over them and signs its root.

-- What is scheduled or ended while this is applied is told by whoever comes later.
lock table retention.jobs, retention.history in share row exclusive mode;

create table retention.ledger (
    singleton  boolean     primary key default true check (singleton),
    origin     text        not null,
    key        text        not null,
    secret     text,
    size       bigint      not null default 0,
    summary_on date
);
comment on table  retention.ledger is 'One row: which ledger this is, and how many entries it has.';
comment on column retention.ledger.singleton is 'There is one row.';
comment on column retention.ledger.origin is 'The name under which its checkpoints are known.';
comment on column retention.ledger.key is 'The key that checks its signatures, as in a signed note.';
comment on column retention.ledger.secret is 'The key that signs, where no key file is configured; null once one is.';
comment on column retention.ledger.size is 'Entries that have a number.';
comment on column retention.ledger.summary_on is 'The last day that has its summary.';

create table retention.ledger_pending (
    id         bigint      generated always as identity primary key,
    at         timestamptz not null default clock_timestamp(),
    event      text        not null,
    kind       text        not null,
    reference  bigint,
    subject    text,
    actor      text,
    reason     text,
    body       jsonb       not null default '{}'
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
comment on table  retention.ledger_pending is 'Entries that have no number yet. Whatever identifies somebody leaves the entry when it gets one.';
comment on column retention.ledger_pending.id is 'Identity; the order in which they are numbered.';
comment on column retention.ledger_pending.at is 'When it happened.';
comment on column retention.ledger_pending.event is 'What happened.';
comment on column retention.ledger_pending.kind is 'What it happened to: job, hold, pause, guard, policy or ledger.';
comment on column retention.ledger_pending.reference is 'Its id among those; null where there is only one.';
comment on column retention.ledger_pending.subject is 'The account; becomes a commitment.';
comment on column retention.ledger_pending.actor is 'Who did it; becomes a commitment.';
comment on column retention.ledger_pending.reason is 'Why; becomes a commitment.';
comment on column retention.ledger_pending.body is 'Everything else, which names nobody.';

create table retention.ledger_entries (
    index     bigint primary key,
    entry     bytea  not null,
    kind      text   not null,
    reference bigint
);
comment on table  retention.ledger_entries is 'The entries. Rows are added and never changed.';
comment on column retention.ledger_entries.index is 'Its place in the ledger, from 0 on without a gap.';
comment on column retention.ledger_entries.entry is 'The entry as it is hashed: canonical JSON (RFC 8785).';
comment on column retention.ledger_entries.kind is 'As in the entry, to find it by.';
comment on column retention.ledger_entries.reference is 'As in the entry, to find it by.';
create index ledger_entries_reference on retention.ledger_entries (reference, kind) where reference is not null;
create index ledger_entries_own on retention.ledger_entries (index) where kind = 'ledger';
comment on index retention.ledger_entries_reference is 'Everything about one job, hold or pause.';
comment on index retention.ledger_entries_own is 'Which keys signed, since when.';

create table retention.ledger_tiles (
    level  smallint,
    index  bigint,
    hashes bytea not null,
    primary key (level, index)
);
comment on table  retention.ledger_tiles is 'The tree over the entries, in tiles of 256 hashes.';
comment on column retention.ledger_tiles.level is 'Level 0 has the hashes of entries, each next level those of full tiles of the one below.';
comment on column retention.ledger_tiles.index is 'Its place in the level.';
comment on column retention.ledger_tiles.hashes is 'The hashes, 32 bytes each.';
alter table retention.ledger_tiles alter column hashes set storage external;

create table retention.ledger_checkpoints (
    size      bigint      primary key,
    note      text        not null,
    signed_at timestamptz not null default now()
);
comment on table  retention.ledger_checkpoints is 'The signed roots. Of each day that is over the last one is kept.';
comment on column retention.ledger_checkpoints.size is 'Entries it vouches for.';
comment on column retention.ledger_checkpoints.note is 'The signed note (C2SP tlog-checkpoint).';
comment on column retention.ledger_checkpoints.signed_at is 'When it was signed.';

create table retention.ledger_salts (
    kind      text,
    reference bigint,
    salt      bytea not null,
    primary key (kind, reference)
);
comment on table  retention.ledger_salts is 'What the commitments of an entry are opened with. Erased, the entries name nobody for ever.';
comment on column retention.ledger_salts.kind is 'As in the entry.';
comment on column retention.ledger_salts.reference is 'As in the entry; its index where it has none.';
comment on column retention.ledger_salts.salt is '32 random bytes.';

-- Numbered entries and what vouches for them are not changed by mistake. Whoever may drop a trigger may change them on purpose; the checkpoints tell.
create function retention.ledger_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is appended to and never changed (% of %)', lower(tg_op), tg_table_name
        using hint = 'An altered ledger does not verify any more: `retentiond ledger verify`.';
end $$;
create trigger append_only before update or delete on retention.ledger_entries for each row execute function retention.ledger_is_append_only();
create trigger never_emptied before truncate on retention.ledger_entries execute function retention.ledger_is_append_only();

alter table retention.guard
    add column ledger_behind bigint,
    add column ledger_broken text;
comment on column retention.guard.ledger_behind is 'A checkpoint outside the database vouches for so many entries: with fewer, the database is an older one, and nothing is purged. Null is none seen.';
comment on column retention.guard.ledger_broken is 'Why the ledger is not the one that was signed: nothing is purged until it is. Null is sound.';

-- An instant as every text of ours has it.
create function retention.instant(at timestamptz) returns text language sql stable parallel safe as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Jobs that are over, however they ended.
create function retention.ledger_history() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into retention.ledger_pending (at, event, kind, reference, subject, body)
    select coalesce(n.completed_at, n.cancelled_at), n.state, 'job', n.id, n.account_id,
           jsonb_strip_nulls(jsonb_build_object(
               'feature', n.feature, 'data_class', n.data_class, 'starting_point', n.starting_point, 'started_at', retention.instant(n.started_at),
               'retain_until', retention.instant(n.retain_until), 'delete_by', retention.instant(n.delete_by), 'rule', n.policy,
               'attempts', n.attempts, 'purge_began_at', retention.instant(n.purge_began_at), 'records_deleted', n.records_deleted,
               'outcomes', n.outcomes, 'count_exact', n.count_exact, 'cancel_reason', n.cancel_reason,
               'last_copy_gone_at', retention.instant(n.last_copy_gone_at)))
    from new_rows n order by n.id;
    return null;
end $$;
create trigger ledger after insert on retention.history referencing new table as new_rows
    for each statement execute function retention.ledger_history();

-- What people do, and what the guard does. Few, so row by row.
create function retention.ledger_act() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    case tg_table_name
    when 'holds' then
        if tg_op = 'INSERT' then
            insert into retention.ledger_pending (event, kind, reference, subject, actor, reason, body)
            values ('held', 'hold', new.id, new.account_id, new.placed_by, new.reason, jsonb_strip_nulls(jsonb_build_object(
                'feature', new.feature, 'data_class', new.data_class, 'until', retention.instant(new.until))));
        elsif old.released_at is null and new.released_at is not null then
            insert into retention.ledger_pending (event, kind, reference, subject, actor, reason)
            values ('released', 'hold', new.id, new.account_id, new.released_by, new.release_reason);
        end if;
    when 'pauses' then
        if tg_op = 'INSERT' then
            insert into retention.ledger_pending (event, kind, reference, subject, actor, reason, body)
            values ('paused', 'pause', new.id, new.account_id, new.paused_by, new.reason, jsonb_strip_nulls(jsonb_build_object('data_class', new.data_class)));
        elsif old.resumed_at is null and new.resumed_at is not null then
            insert into retention.ledger_pending (event, kind, reference, subject, actor, reason)
            values ('resumed', 'pause', new.id, new.account_id, new.resumed_by, new.resume_reason);
        end if;
    when 'guard' then
        if new.tripped_at is not null and (tg_op = 'INSERT' or old.tripped_at is null) then
            insert into retention.ledger_pending (event, kind, reason) values ('guard_tripped', 'guard', new.reason);
        elsif new.tripped_at is null and old.tripped_at is not null then
            insert into retention.ledger_pending (event, kind, actor, reason) values ('guard_released', 'guard', new.released_by, new.release_reason);
        end if;
    when 'policies' then
        insert into retention.ledger_pending (event, kind, reference, actor, reason, body)
        values ('policy_accepted', 'policy', new.id, new.accepted_by, new.reason, jsonb_build_object('policy', new.hash, 'terms', new.terms));
    end case;
    return null;
end $$;
create trigger ledger after insert or update on retention.holds    for each row execute function retention.ledger_act();
create trigger ledger after insert or update on retention.pauses   for each row execute function retention.ledger_act();
create trigger ledger after insert or update of tripped_at on retention.guard for each row execute function retention.ledger_act();
create trigger ledger after insert on retention.policies for each row execute function retention.ledger_act();

-- What there was before there was a ledger: it begins with what stands.
insert into retention.ledger_pending (event, kind, reference, subject, body)
select 'scheduled', 'job', j.id, j.account_id, jsonb_build_object(
           'feature', j.feature, 'data_class', j.data_class, 'starting_point', j.starting_point, 'started_at', retention.instant(j.started_at),
           'retain_until', retention.instant(j.retain_until), 'delete_by', retention.instant(j.delete_by), 'rule', j.policy)
from retention.jobs j order by j.id;
insert into retention.ledger_pending (at, event, kind, reference, actor, reason, body)
select p.accepted_at, 'policy_accepted', 'policy', p.id, p.accepted_by, p.reason, jsonb_build_object('policy', p.hash, 'terms', p.terms)
from retention.policies p order by p.id;
insert into retention.ledger_pending (at, event, kind, reference, subject, actor, reason, body)
select h.placed_at, 'held', 'hold', h.id, h.account_id, h.placed_by, h.reason, jsonb_strip_nulls(jsonb_build_object(
           'feature', h.feature, 'data_class', h.data_class, 'until', retention.instant(h.until)))
from retention.holds h where h.released_at is null order by h.id;
insert into retention.ledger_pending (at, event, kind, reference, subject, actor, reason, body)
select p.paused_at, 'paused', 'pause', p.id, p.account_id, p.paused_by, p.reason, jsonb_strip_nulls(jsonb_build_object('data_class', p.data_class))
from retention.pauses p where p.resumed_at is null order by p.id;

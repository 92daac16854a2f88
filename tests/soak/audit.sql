-- What the judge of the soak relies on: each delete writes down what was deleted and what the source said in the snapshot of that very statement.

create schema soak;

create table soak.gone (
    id           bigint generated always as identity primary key,
    place        text        not null,
    class        text        not null,
    account_id   text        not null,
    ids          text[]      not null,
    by           text        not null default current_setting('application_name'),
    xid          xid8        not null default pg_current_xact_id(),
    statement_at timestamptz not null default statement_timestamp(),
    at           timestamptz not null default clock_timestamp(),
    said         jsonb
);
create index on soak.gone (account_id);

-- Every version of every row that can start a period, `gone` when it was deleted.
create table soak.history (
    place           text        not null,
    account_id      text        not null,
    gone            boolean     not null,
    deleted_at      timestamptz,
    terminated_at   timestamptz,
    cmq_disabled_at timestamptz,
    at              timestamptz not null default clock_timestamp(),
    xid             xid8        not null default pg_current_xact_id()
);
create index on soak.history (account_id);

create table soak.endings (job_id bigint not null, after text not null, at timestamptz not null default clock_timestamp());

-- Holds, pauses and guard trips, from when the act had returned until its end was begun.
create table soak.stops (
    kind        text        not null,
    account_id  text,
    data_class  text,
    returned_at timestamptz not null,
    released_at timestamptz not null
);

-- Stable, so that it reads in the snapshot of the delete itself; a later snapshot would see what was committed meanwhile.
create function soak.look() returns trigger language plpgsql stable as $$
declare
    said text;
begin
    select coalesce(jsonb_object_agg(o.account_id, jsonb_build_object(
        'account', a.account_id is not null,
        'deleted_at', a.deleted_at,
        'subscribed', s.account_id is not null,
        'terminated_at', s.terminated_at,
        'cmq_disabled_at', s.cmq_disabled_at,
        'account_missed', (select min(x.first_missed_at) from retention.absences x
                           where x.account_id = o.account_id and x.feature is null and x.confirmed_at is not null),
        'subscription_missed', (select min(x.first_missed_at) from retention.absences x
                                where x.account_id = o.account_id and x.feature = 'mps' and x.confirmed_at is not null),
        'held', exists (select 1 from retention.holds h where h.account_id = o.account_id and h.released_at is null
                        and (h.until is null or h.until > now()) and coalesce(h.feature, 'mps') = 'mps'
                        and coalesce(h.data_class, tg_argv[0]) = tg_argv[0]),
        'paused', exists (select 1 from retention.pauses p where p.resumed_at is null and coalesce(p.account_id, o.account_id) = o.account_id
                          and coalesce(p.data_class, tg_argv[0]) = tg_argv[0]),
        'guarded', not exists (select 1 from retention.guard g where g.tripped_at is null),
        'job', (select jsonb_build_object('id', j.id, 'started_at', j.started_at, 'retain_until', j.retain_until, 'delete_by', j.delete_by,
                                          'leased', j.lease_until > now())
                from retention.jobs j where j.account_id = o.account_id and j.feature = 'mps' and j.data_class = tg_argv[0] and j.lease_until is not null)
    )), '{}')::text into said
    from (select distinct account_id from old_rows) o
    left join public.accounts a on a.account_id = o.account_id
    left join public.feature_subscriptions s on s.account_id = o.account_id and s.feature = 'mps';
    perform set_config('soak.said', said, true);
    return null;
end
$$;

create function soak.keep() returns trigger language plpgsql as $$
begin
    insert into soak.gone (place, class, account_id, ids, said)
    select tg_table_name, tg_argv[0], o.account_id, array_agg(to_jsonb(o) ->> tg_argv[1]), current_setting('soak.said')::jsonb -> o.account_id
    from old_rows o group by o.account_id;
    return null;
end
$$;

create trigger a_look after delete on template_configurations referencing old table as old_rows for each statement execute function soak.look('configuration');
create trigger b_keep after delete on template_configurations referencing old table as old_rows for each statement execute function soak.keep('configuration', 'template_id');
create trigger a_look after delete on task_configurations referencing old table as old_rows for each statement execute function soak.look('configuration');
create trigger b_keep after delete on task_configurations referencing old table as old_rows for each statement execute function soak.keep('configuration', 'task_id');
create trigger a_look after delete on queue_messages referencing old table as old_rows for each statement execute function soak.look('queue');
create trigger b_keep after delete on queue_messages referencing old table as old_rows for each statement execute function soak.keep('queue', 'message_id');
create trigger a_look after delete on media_objects referencing old table as old_rows for each statement execute function soak.look('media');
create trigger b_keep after delete on media_objects referencing old table as old_rows for each statement execute function soak.keep('media', 'media_id');

create function soak.remember() returns trigger language plpgsql as $$
declare
    r jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
begin
    if tg_table_name = 'accounts' or r ->> 'feature' = 'mps' then
        insert into soak.history (place, account_id, gone, deleted_at, terminated_at, cmq_disabled_at)
        values (tg_table_name, r ->> 'account_id', tg_op = 'DELETE', (r ->> 'deleted_at')::timestamptz,
                (r ->> 'terminated_at')::timestamptz, (r ->> 'cmq_disabled_at')::timestamptz);
    end if;
    return null;
end
$$;
create trigger remember after insert or update or delete on accounts for each row execute function soak.remember();
create trigger remember after insert or update or delete on feature_subscriptions for each row execute function soak.remember();

create function soak.ending() returns trigger language plpgsql as $$
begin
    insert into soak.endings (job_id, after) values (new.id, new.state);
    return null;
end
$$;
create trigger ending after insert or update on retention.history for each row execute function soak.ending();

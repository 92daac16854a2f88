-- Requests, approvals and levels are told to the ledger as well.

create function retention.ledger_request() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'INSERT' then
        insert into retention.ledger_pending (event, kind, reference, subject, actor, reason, body)
        values ('requested', 'request', new.id, new.account_id, new.requested_by, new.reason, jsonb_strip_nulls(jsonb_build_object(
            'feature', new.feature, 'data_class', new.data_class)));
    end if;
    if new.accepted_at is not null and (tg_op = 'INSERT' or old.accepted_at is null) then
        insert into retention.ledger_pending (event, kind, reference, subject, actor, body)
        values ('request_accepted', 'request', new.id, new.account_id, new.accepted_by, jsonb_build_object(
            'accepted_at', retention.instant(new.accepted_at), 'due_by', retention.instant(new.due_by)));
    end if;
    if new.withdrawn_at is not null and (tg_op = 'INSERT' or old.withdrawn_at is null) then
        insert into retention.ledger_pending (event, kind, reference, subject, actor, reason)
        values ('request_withdrawn', 'request', new.id, new.account_id, new.withdrawn_by, new.withdraw_reason);
    end if;
    return null;
end $$;
create trigger ledger after insert or update on retention.requests for each row execute function retention.ledger_request();

create function retention.ledger_request_part() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if old.fulfilled_at is null and new.fulfilled_at is not null then
        insert into retention.ledger_pending (event, kind, reference, subject, body)
        values ('request_fulfilled', 'request', new.request_id, new.account_id, jsonb_build_object(
            'feature', new.feature, 'data_class', new.data_class, 'job', new.job_id::text));
    end if;
    return null;
end $$;
create trigger ledger after update on retention.request_parts for each row execute function retention.ledger_request_part();

create function retention.ledger_approval() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into retention.ledger_pending (event, kind, reference, actor, reason, body)
    values ('approved', 'approval', new.id, new.actor, new.reason, jsonb_build_object('act', new.act, 'of', new.reference));
    return null;
end $$;
create trigger ledger after insert on retention.approvals for each row execute function retention.ledger_approval();

create function retention.ledger_levels() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into retention.ledger_pending (at, event, kind, reference, body)
    select n.reached_at, 'level', 'job', n.job_id, jsonb_build_object('level', n.level) from new_rows n order by n.job_id, n.level;
    return null;
end $$;
create trigger ledger after insert on retention.levels referencing new table as new_rows for each statement execute function retention.ledger_levels();

-- Copies that cannot be deleted one by one are gone some time after the records were; a completed job says when.

alter table retention.history add column last_copy_gone_at timestamptz;
comment on column retention.history.last_copy_gone_at is 'When the last copy of its records is gone that cannot be deleted one by one; null where the class has none, and for jobs that were not completed.';

create or replace view retention.every_job as
    select id, account_id, feature, data_class, case when lease_until > now() then 'running' else 'scheduled' end as state, starting_point, started_at,
           retain_until, delete_by, policy, attempts, last_error, purge_began_at, records_deleted, '{}'::jsonb as outcomes, count_exact, blocked_by,
           created_at, null::timestamptz as completed_at, null::timestamptz as cancelled_at, null::text as cancel_reason,
           null::timestamptz as last_copy_gone_at
    from retention.jobs
    union all
    select id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, last_error, purge_began_at,
           records_deleted, outcomes, count_exact, null, created_at, completed_at, cancelled_at, cancel_reason, last_copy_gone_at
    from retention.history;

-- Every delete with what the promise says about it. Periods: configuration 6 s, queue 3 s.

create view soak.judged as
select g.id, g.place, g.class, g.account_id, cardinality(g.ids) as n, g.by, g.statement_at, g.at,
       coalesce(pg_xact_commit_timestamp(g.xid::xid), g.at) as committed_at, g.said, s.earliest,
       s.earliest + case g.class when 'queue' then interval '3 s' else interval '6 s' end as due
from soak.gone g
cross join lateral (select (g.said ->> 'account')::bool as account, (g.said ->> 'subscribed')::bool as subscribed) r
-- A row that is missing counts once two full looks have missed it: since its last instant, or since it vanished. Of a row that was
-- changed soon before or created again soon after, the daemon cannot know every version: nothing is asked of the instant then.
left join lateral (
    select h.deleted_at, h.at, not exists (select 1 from soak.history o where o.account_id = h.account_id and o.place = h.place and o.ctid <> h.ctid
        and o.at between h.at - interval '30 s' and g.statement_at) as sure
    from soak.history h where h.account_id = g.account_id and h.place = 'accounts' and h.gone and h.at <= g.statement_at
    order by h.at desc limit 1) va on not r.account
left join lateral (
    select h.terminated_at, h.cmq_disabled_at, h.at, not exists (select 1 from soak.history o where o.account_id = h.account_id and o.place = h.place and o.ctid <> h.ctid
        and o.at between h.at - interval '30 s' and g.statement_at) as sure
    from soak.history h where h.account_id = g.account_id and h.place = 'feature_subscriptions' and h.gone and h.at <= g.statement_at
    order by h.at desc limit 1) vs on not r.subscribed
cross join lateral (
    select min(p.since) as earliest from (values
        (case when r.account then (g.said ->> 'deleted_at')::timestamptz
              when g.said ->> 'account_missed' is null then null
              when va.sure then coalesce(va.deleted_at, va.at) else '-infinity' end),
        (case when r.subscribed then (g.said ->> 'terminated_at')::timestamptz
              when g.said ->> 'subscription_missed' is null then null
              when vs.sure then coalesce(vs.terminated_at, vs.at) else '-infinity' end),
        (case when g.class <> 'queue' then null
              when r.subscribed then (g.said ->> 'cmq_disabled_at')::timestamptz
              when g.said ->> 'subscription_missed' is null then null
              when vs.sure then coalesce(vs.cmq_disabled_at, vs.at) else '-infinity' end)) p(since)) s;

-- What stands now, by account and class, with the records that are there. `since` is null where a row has vanished.
create view soak.standing as
with who as (select distinct account_id from soak.history where account_id not like 'by-%'),
said as (
    select w.account_id, a.account_id is null as no_account, s.account_id is null as no_subscription, a.deleted_at, s.terminated_at, s.cmq_disabled_at
    from who w left join accounts a using (account_id) left join feature_subscriptions s on s.account_id = w.account_id and s.feature = 'mps')
select account_id, class,
       no_account or no_subscription as vanished,
       case when not (no_account or no_subscription) then least(deleted_at, terminated_at, case when class = 'queue' then cmq_disabled_at end) end as since,
       case class when 'queue' then (select count(*) from queue_messages q where q.account_id = said.account_id)
            else (select count(*) from template_configurations t where t.account_id = said.account_id)
               + (select count(*) from task_configurations t where t.account_id = said.account_id) end as records
from said, (values ('configuration'), ('queue')) c(class)
where no_account or no_subscription or deleted_at is not null or terminated_at is not null or (class = 'queue' and cmq_disabled_at is not null);

create view soak.unfinished as
select case when d.account_id is not null then case when d.purged_at > s.newest then 'I10' else 'I11' end
            when j.id is not null then 'I2' else 'I9' end as invariant,
       format('%s %s: stands since %s, %s records, job %s %s, done %s', s.account_id, s.class, coalesce(s.since::text, 'its row vanished'), s.records,
              j.id, j.blocked_by, d.started_at) as what
from (select s.*, greatest((select max(created_at) from template_configurations t where t.account_id = s.account_id and s.class = 'configuration'),
                           (select max(created_at) from task_configurations t where t.account_id = s.account_id and s.class = 'configuration'),
                           (select max(created_at) from queue_messages t where t.account_id = s.account_id and s.class = 'queue')) as newest
      from soak.standing s) s
left join retention.every_job j on j.account_id = s.account_id and j.data_class = s.class and j.state in ('scheduled', 'running')
left join retention.done_marks d on d.account_id = s.account_id and d.data_class = s.class and (s.vanished or d.started_at = s.since)
where d.account_id is null or j.id is not null or s.records > 0
union all
select 'I7', format('%s %s: nothing stands, and job %s is open', j.account_id, j.data_class, j.id)
from retention.every_job j where j.state in ('scheduled', 'running')
and not exists (select 1 from soak.standing s where s.account_id = j.account_id and s.class = j.data_class);

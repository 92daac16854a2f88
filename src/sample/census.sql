-- What each stage of life has now, and what of it is due by the rules: 7 days for the queue, 30 for configuration,
-- counted from the earliest of what stands. Written without the daemon's help, so that it can contradict the daemon.
WITH standing AS (
    SELECT d.account, d.stage,
           least(a.deleted_at, f.terminated_at) + interval '720 hours' <= now() AS configuration_due,
           least(a.deleted_at, f.terminated_at, f.cmq_disabled_at) + interval '168 hours' <= now() AS queue_due
    FROM demo.accounts d
    JOIN public.accounts a ON a.account_id = d.account
    LEFT JOIN public.feature_subscriptions f ON f.account_id = d.account AND f.feature = 'mps'
), templates AS (
    SELECT account_id, count(*) AS records FROM public.template_configurations GROUP BY 1
), tasks AS (
    SELECT account_id, count(*) AS records FROM public.task_configurations GROUP BY 1
), messages AS (
    SELECT account_id, count(*) AS records FROM public.queue_messages GROUP BY 1
), media AS (
    SELECT account_id, count(*) AS records FROM public.media_objects GROUP BY 1
)
SELECT s.name,
       s.reason,
       count(*) AS accounts,
       coalesce(sum(templates.records), 0)::bigint AS templates,
       coalesce(sum(tasks.records), 0)::bigint AS tasks,
       coalesce(sum(messages.records), 0)::bigint AS messages,
       coalesce(sum(media.records), 0)::bigint AS media,
       coalesce(sum(coalesce(templates.records, 0) + coalesce(tasks.records, 0))
           FILTER (WHERE configuration_due), 0)::bigint AS configuration_due,
       coalesce(sum(messages.records) FILTER (WHERE queue_due), 0)::bigint AS queue_due
FROM standing
JOIN demo.stages s USING (stage)
LEFT JOIN templates ON templates.account_id = account
LEFT JOIN tasks ON tasks.account_id = account
LEFT JOIN messages ON messages.account_id = account
LEFT JOIN media ON media.account_id = account
GROUP BY s.stage, s.name, s.reason
ORDER BY s.stage

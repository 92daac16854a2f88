//! What the databases hold before a measurement. The shapes follow the reference platform; ids and payloads are made up.

/// Accounts that ended their subscription a week and an hour ago, so that their queue is due, and as many that live on, each with ten messages. With
/// `skewed` some of the due have 20,000 and most have five, and all ended in one statement, at one instant. The messages of an account lie scattered, as time scatters them.
pub(crate) fn queues(due: u32, rows: u32, skewed: bool) -> String {
    let (accounts, each) = (2 * due, rows);
    let rows_of = if skewed {
        format!(
            "case when n % 2 = 1 then {each} when n <= {0} then 20000 when n <= {1} then 1000 when n <= {2} then 100 else 5 end",
            2 * due / 10_000,
            2 * due / 1_000,
            2 * due / 100
        )
    } else {
        each.to_string()
    };
    let apart = if skewed { 0 } else { 10 };
    format!(
        "insert into accounts (account_id, region) select '1250' || lpad(n::text, 8, '0'), 'ap-singapore' from generate_series(1, {accounts}) n;
         insert into feature_subscriptions (account_id, feature, terminated_at, cmq_enabled)
             select '1250' || lpad(n::text, 8, '0'), 'mps', case when n % 2 = 0 then now() - interval '7 days 1 hour' - n * interval '{apart} ms' end, true
             from generate_series(1, {accounts}) n;
         insert into queue_messages (account_id, event_type, workflow_task_event, session_id, session_context, \"timestamp\", sign, request_id)
             select '1250' || lpad(n::text, 8, '0'), 'WorkflowTask',
                    jsonb_build_object('TaskId', '1250-Workflow-' || md5(n::text || r), 'Status', 'FINISH', 'ErrCode', 0, 'Message', 'SUCCESS'),
                    md5(r::text || n), 'context of ' || n, 1700000000 + r, md5(n::text), gen_random_uuid()
             from generate_series(1, {accounts}) n, lateral generate_series(1, {rows_of}) r order by hashint8(n * 7919 + r * 104729);"
    )
}

/// Subscriptions of which one in a hundred ended within the last five days: nothing is due, and once it has been planned nothing is new.
pub(crate) fn subscriptions(n: u32) -> String {
    format!(
        "insert into accounts (account_id, region) select '1250' || lpad(n::text, 8, '0'), 'ap-singapore' from generate_series(1, {n}) n;
         insert into feature_subscriptions (account_id, feature, terminated_at, cmq_enabled)
             select '1250' || lpad(n::text, 8, '0'), 'mps', case when n % 100 = 0 then now() - random() * interval '5 days' - interval '1 hour' end, true
             from generate_series(1, {n}) n;"
    )
}

/// Subscriptions that all ended yesterday, none of them planned yet.
pub(crate) fn ended(n: u32) -> String {
    format!(
        "insert into accounts (account_id, region) select '1250' || lpad(n::text, 8, '0'), 'ap-singapore' from generate_series(1, {n}) n;
         insert into feature_subscriptions (account_id, feature, terminated_at, cmq_enabled)
             select '1250' || lpad(n::text, 8, '0'), 'mps', now() - interval '1 day' - n * interval '1 ms', true from generate_series(1, {n}) n;"
    )
}

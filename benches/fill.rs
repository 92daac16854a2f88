//! What the databases hold before a measurement. The shapes follow the reference platform; ids and payloads are made up.

/// The columns of a message, of the account in `account` and with the number `r`.
const MESSAGE: &str =
    "insert into queue_messages (account_id, event_type, workflow_task_event, session_id, session_context, \"timestamp\", sign, request_id)
     select account, 'WorkflowTask',
            jsonb_build_object('TaskId', '1250-Workflow-' || md5(account || r), 'Status', 'FINISH', 'ErrCode', 0, 'Message', 'SUCCESS'),
            md5(r::text || account), 'context of ' || account, 1700000000 + r, md5(account), gen_random_uuid()";

/// An account's id.
pub(crate) const ID: &str = "'1250' || lpad(n::text, 8, '0')";

/// Accounts with one subscription each; `ended` is when, as an expression over `n`, null for never.
fn accounts(from: u32, to: u32, ended: &str) -> String {
    format!(
        "insert into accounts (account_id, region) select {ID}, 'ap-singapore' from generate_series({from}, {to}) n;
         insert into feature_subscriptions (account_id, feature, terminated_at, cmq_enabled) select {ID}, 'mps', {ended}, true from generate_series({from}, {to}) n;"
    )
}

/// Messages scattered as time scatters them: sorted while they are two numbers, made when they are in order.
fn messages(accounts: u32, rows_of: &str) -> String {
    format!(
        "{MESSAGE} from (select {ID} as account, r from generate_series(1, {accounts}) n, lateral generate_series(1, {rows_of}) r
                         order by hashint8(n::int8 * 7919 + r::int8 * 104729) offset 0) m"
    )
}

/// A tenth of 10,000 accounts ended a week and an hour ago, so that their queue is due. Of `rows` messages ten accounts have 4 % each, a hundred
/// 0.2 %, a thousand 0.03 %, and all others about 0.001 %; each tenth account is due, among the large ones as among the small.
pub(crate) fn skewed(rows: u32) -> String {
    let rows_of = format!(
        "case when n <= 10 then {} when n <= 110 then {} when n <= 1110 then {} else {} end",
        rows / 25,
        rows / 500,
        rows * 3 / 10_000,
        (rows / 89_000).max(1)
    );
    // When an account ended says nothing about how large it is; the largest one is in the middle.
    let ended = "case when n % 10 = 5 then now() - interval '7 days 1 hour' - n * 1003 % 10000 * interval '10 ms' end";
    accounts(1, 10_000, ended) + &messages(10_000, &rows_of)
}

/// Due accounts, and as many that live on, with `each` messages.
pub(crate) fn uniform(due: u32, each: u32) -> String {
    let ended = "case when n % 2 = 0 then now() - interval '7 days 1 hour' - n * interval '10 ms' end";
    accounts(1, 2 * due, ended) + &messages(2 * due, &each.to_string())
}

/// Due accounts that have no messages, `before` of them numbered already.
pub(crate) fn no_rows(before: u32, due: u32) -> String {
    accounts(before + 1, before + due, "now() - interval '7 days 1 hour' - n * interval '10 ms'")
}

/// Subscriptions of which one in a hundred ended within the last five days: nothing is due, and once it has been planned nothing is new.
pub(crate) fn subscriptions(n: u32) -> String {
    accounts(1, n, "case when n % 100 = 0 then now() - random() * interval '5 days' - interval '1 hour' end")
}

/// Of those, a hundred that ended a moment ago: the overlap of a poll reaches back to them.
pub(crate) fn ended_lately() -> String {
    format!(
        "update feature_subscriptions set terminated_at = now() where account_id in (select {ID} from generate_series(50, 9950, 100) n)"
    )
}

/// Subscriptions that all stand.
pub(crate) fn standing(n: u32) -> String {
    accounts(1, n, "null::timestamptz")
}

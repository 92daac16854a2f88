//! The platform's side: accounts that come and go, features and queues that are ended and resumed, records that are written late, rows that vanish.
//! Each actor has accounts of its own, so that the platform never deadlocks with itself: what fails, fails because of the daemon.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{
    dice::Dice,
    world::{World, lost},
};

/// Accounts that acts are done to.
pub(crate) const ACCOUNTS: u64 = 3_200;
/// Accounts of paying customers, to whom nothing must ever happen.
pub(crate) const BYSTANDERS: u64 = 300;
/// Actors that do one act after the other.
const BUSY: u64 = 6;
/// All of them; the others hold their transactions open for long.
pub(crate) const ACTORS: u64 = 8;
/// Every so many-th account has very many records.
const HEAVY: u64 = 200;

/// Everybody, with data, before the daemon starts.
pub(crate) fn everybody() -> String {
    format!(
        "insert into accounts (account_id, region) select 'acc-' || lpad(i::text, 5, '0'), 'here' from generate_series(0, {}) i;
         insert into accounts (account_id, region) select 'by-' || lpad(i::text, 5, '0'), 'here' from generate_series(1, {BYSTANDERS}) i;
         insert into feature_subscriptions (account_id, feature) select account_id, 'mps' from accounts;
         insert into feature_subscriptions (account_id, feature, terminated_at, cmq_disabled_at)
             select account_id, 'live', now() - interval '1 year', now() - interval '1 year' from accounts where account_id like 'by-%';
         {}
         {}
         insert into media_objects (account_id, kind) select account_id, 'source' from accounts, generate_series(1, 2);
         create table soak.bystanders as {CHECKSUMS};
         analyze",
        ACCOUNTS - 1,
        records("accounts", 1),
        records(
            &format!("(select account_id from accounts where account_id like 'acc-%' and substr(account_id, 5)::int % {HEAVY} = 0) x"),
            300
        ),
    )
}

/// Number and checksum of what belongs to the bystanders, by table.
pub(crate) const CHECKSUMS: &str = "
    select 'template_configurations' as place, count(*) as n, sum(hashtextextended(t::text, 0)) as checksum from template_configurations t where account_id like 'by-%'
    union all select 'task_configurations', count(*), sum(hashtextextended(t::text, 0)) from task_configurations t where account_id like 'by-%'
    union all select 'queue_messages', count(*), sum(hashtextextended(t::text, 0)) from queue_messages t where account_id like 'by-%'
    union all select 'media_objects', count(*), sum(hashtextextended(t::text, 0)) from media_objects t where account_id like 'by-%'
    union all select 'accounts', count(*), sum(hashtextextended(t::text, 0)) from accounts t where account_id like 'by-%'
    union all select 'feature_subscriptions', count(*), sum(hashtextextended(t::text, 0)) from feature_subscriptions t where account_id like 'by-%'";

/// Records for every account of a table expression, so many times the usual number.
fn records(of: &str, times: u64) -> String {
    format!(
        "insert into template_configurations (account_id, template_type, parameters) select account_id, 'video', '{{}}' from {of}, generate_series(1, {});
         insert into task_configurations (task_id, account_id, task_type, source_media_path, output_path)
             select gen_random_uuid()::text, account_id, 'transcode', '/in', '/out' from {of}, generate_series(1, {});
         insert into queue_messages (account_id, event_type) select account_id, 'WorkflowTask' from {of}, generate_series(1, {});",
        2 * times,
        4 * times,
        8 * times
    )
}

/// One act: statements of one transaction, with a pause between two of them.
#[derive(Debug, Clone)]
struct Act {
    name: &'static str,
    first: String,
    pause: Duration,
    then: String,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Terminate,
    TerminateSoon,
    Redate,
    Reactivate,
    ReactivateAndTerminate,
    DisableQueue,
    EnableQueue,
    DeleteAccount,
    RestoreAccount,
    HardDeleteAccount,
    HardDeleteSubscription,
    Recreate,
    Write,
    CustomerDeletes,
    HoldRecords,
    HoldSource,
}

const BUSY_ACTS: [(u64, Kind); 16] = [
    (22, Kind::Terminate),
    (2, Kind::TerminateSoon),
    (3, Kind::Redate),
    (14, Kind::Reactivate),
    (3, Kind::ReactivateAndTerminate),
    (8, Kind::DisableQueue),
    (7, Kind::EnableQueue),
    (6, Kind::DeleteAccount),
    (6, Kind::RestoreAccount),
    (2, Kind::HardDeleteAccount),
    (2, Kind::HardDeleteSubscription),
    (6, Kind::Recreate),
    (9, Kind::Write),
    (2, Kind::CustomerDeletes),
    (3, Kind::HoldRecords),
    (2, Kind::HoldSource),
];

impl Act {
    fn draw(dice: &mut Dice, number: u64) -> Self {
        let account = format!("acc-{number:05}");
        let times = if number.is_multiple_of(HEAVY) { 300 } else { 1 + dice.below(3) };
        let data = records(&format!("(values ('{account}')) x(account_id)"), times);
        let subscription = format!("account_id = '{account}' and feature = 'mps'");
        let set = |what: &str| format!("update feature_subscriptions set {what} where {subscription}");
        let back = if dice.percent(20) { dice.below(20_000) } else { 0 };
        let ago = format!("now() - interval '{back} ms'");
        let kind = dice.weighted(&BUSY_ACTS);
        let refill = |act: String| format!("{act}; {data}");
        let (name, first) = match kind {
            Kind::Terminate => ("feature terminated", set(&format!("terminated_at = {ago}")) + " and terminated_at is null"),
            Kind::TerminateSoon => {
                ("feature to be terminated", set("terminated_at = now() + interval '4 s'") + " and terminated_at is null")
            }
            Kind::Redate => ("termination dated anew", set("terminated_at = now()") + " and terminated_at is not null"),
            Kind::Reactivate => ("feature reactivated", refill(set("terminated_at = null"))),
            Kind::ReactivateAndTerminate => (
                "reactivated and terminated at once",
                set("terminated_at = null") + "; " + &data + &set("terminated_at = clock_timestamp()"),
            ),
            Kind::DisableQueue => ("queue disabled", set(&format!("cmq_disabled_at = {ago}")) + " and cmq_disabled_at is null"),
            Kind::EnableQueue => ("queue enabled", refill(set("cmq_disabled_at = null"))),
            Kind::DeleteAccount => {
                ("account deleted", format!("update accounts set deleted_at = {ago} where account_id = '{account}' and deleted_at is null"))
            }
            Kind::RestoreAccount => {
                ("account restored", refill(format!("update accounts set deleted_at = null where account_id = '{account}'")))
            }
            Kind::HardDeleteAccount => ("account row hard-deleted", format!("delete from accounts where account_id = '{account}'")),
            Kind::HardDeleteSubscription => {
                ("subscription row hard-deleted", format!("delete from feature_subscriptions where {subscription}"))
            }
            Kind::Recreate => (
                "rows created again",
                refill(format!(
                    "insert into accounts (account_id, region) values ('{account}', 'here') on conflict do nothing;
                     insert into feature_subscriptions (account_id, feature) values ('{account}', 'mps') on conflict do nothing"
                )),
            ),
            Kind::Write => ("records written, late or not", data),
            Kind::CustomerDeletes => {
                ("customer deletes records", format!("delete from task_configurations where account_id = '{account}'"))
            }
            Kind::HoldRecords => (
                "records locked for a while",
                format!("select 1 from queue_messages where account_id = '{account}' order by message_id limit 3 for update"),
            ),
            Kind::HoldSource => {
                ("source row locked for a while", format!("select 1 from feature_subscriptions where {subscription} for update"))
            }
        };
        let pause = if matches!(kind, Kind::HoldRecords | Kind::HoldSource) {
            dice.millis(300, 2_500)
        } else if matches!(kind, Kind::Terminate | Kind::Reactivate) && dice.percent(4) {
            dice.millis(50, 1_500)
        } else {
            Duration::ZERO
        };
        Self { name, first, pause, then: "select 1".to_owned() }
    }

    /// A transaction that dates a starting point back and commits long after.
    fn late(dice: &mut Dice, number: u64) -> Self {
        let account = format!("acc-{number:05}");
        let back = 1_000 + dice.below(12_000);
        let set = |what: &str| format!("update feature_subscriptions set {what} where account_id = '{account}' and feature = 'mps'");
        if dice.percent(30) {
            let data = records(&format!("(values ('{account}')) x(account_id)"), 1);
            return Self {
                name: "reactivated, committed late",
                first: set("terminated_at = null, cmq_disabled_at = null"),
                pause: dice.millis(2_000, 9_000),
                then: data,
            };
        }
        let first = set(&format!("terminated_at = now() - interval '{back} ms'"));
        Self { name: "terminated back-dated, committed late", first, pause: dice.millis(10_000, 14_000), then: "select 1".to_owned() }
    }
}

/// Does one act after the other until everything is over.
pub(crate) async fn actor(world: Arc<World>, part: u64, mut dice: Dice) {
    let mut connection = None;
    while !world.over.is_cancelled() {
        let account = dice.below(ACCOUNTS / ACTORS) * ACTORS + part;
        let act = if part < BUSY { Act::draw(&mut dice, account) } else { Act::late(&mut dice, account) };
        perform(&world, &mut connection, &act).await;
        let pause = if part < BUSY { dice.millis(5, 70) } else { dice.millis(50, 500) };
        tokio::time::sleep(pause).await;
    }
}

/// Tries again when the connection was lost, as any platform would, and for no other reason.
async fn perform(world: &World, line: &mut Option<PgConnection>, act: &Act) {
    loop {
        let mut connection = match line.take() {
            Some(connection) => connection,
            None => match connect(world).await {
                Ok(connection) => connection,
                Err(error) => {
                    assert!(lost(&error), "the platform cannot connect: {error}");
                    world.did("(platform: no connection, tried again)");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        match transact(&mut connection, act).await {
            Ok(took) => {
                world.did(act.name);
                world.took(took, act.name);
                *line = Some(connection);
                return;
            }
            Err(error) if lost(&error) => world.did("(platform: connection lost, act done again)"),
            Err(error) => {
                world.violated("I14", format!("the platform's act {:?} failed: {error}", act.name));
                return;
            }
        }
    }
}

async fn connect(world: &World) -> Result<PgConnection, sqlx::Error> {
    let mut connection = <PgConnection as sqlx::Connection>::connect(&world.url).await?;
    sqlx::raw_sql("set application_name = 'platform'; set lock_timeout = '20s'; set statement_timeout = '60s'")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// How long it took, its own pause left aside.
async fn transact(connection: &mut PgConnection, act: &Act) -> Result<Duration, sqlx::Error> {
    let began = Instant::now();
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {}", act.first))).execute(&mut *connection).await?;
    let first = began.elapsed();
    tokio::time::sleep(act.pause).await;
    let began = Instant::now();
    sqlx::raw_sql(AssertSqlSafe(format!("{}; commit", act.then))).execute(&mut *connection).await?;
    Ok(first + began.elapsed())
}

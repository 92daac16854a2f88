//! Takes every predicate out of the purge statement, one at a time, and shows that something then goes wrong which does not go wrong with it.
//!
//! The statement is read, not listed: whatever stands behind a `where`, `on` or `and` is a predicate, so that a new one is tested from the day it is
//! written. Each world below says what a batch must delete after a change made in its own transaction; a statement without a predicate must
//! disagree with at least one of them.

use std::time::Duration;

use retentiond::{
    app::App,
    database::{Purpose, Tx},
    executor::batch::Batch,
    jobs::{self, Claimed},
    planner::Look,
    policy::Class,
    safeguards,
    stores::postgres::Delete,
};
use sqlx::{AssertSqlSafe, Row};

use crate::world::World;

/// Predicates whose absence changes nothing, each with the reason.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("true", "stands where a point at account level has no feature to compare"),
    ("t.\"account_id\" = l.account_id", "beside its byte-for-byte twin; it is there so that the index serves (R7)"),
    (
        "t.\"account_id\" = l.account_id collate \"C\"",
        "beside its twin without a collation, which the catalogue check keeps deterministic (R7)",
    ),
    ("t.ctid = any(array(select at from victim))", "beside the pairs of place and ctid; it is there so that each block is read once"),
    (
        "(t.\"account_id\" = (select account_id from licensed) and t.\"account_id\" = (select account_id from licensed) collate \"C\") is true",
        "what is deleted was found by the same predicate and is locked (R17; races.rs reads the text)",
    ),
    ("t.\"account_id\" = (select account_id from licensed) collate \"C\"", "the same"),
    ("s.\"account_id\" = c.account_id", "beside its byte-for-byte twin (R7)"),
    ("s.\"account_id\" = c.account_id collate \"C\"", "beside its twin (R7)"),
];

/// A purge that is claimed, and what a batch of it must delete after each change.
struct Told {
    world: World,
    app: App,
    class: Class,
    claimed: Vec<Claimed>,
    /// The change, the budget, the records of the first target that must go.
    cases: Vec<(String, i64, i64)>,
}

impl Told {
    /// `a` is due by `point`, set 31 days ago; `live` and `other` have records too, and another feature.
    async fn new(deleted: &str, terminated: &str, prepare: &str, cases: &[(&str, i64, i64)]) -> Self {
        let world = World::new().await;
        world.sql(prepare).await;
        world.account("a", deleted, terminated, "null").await;
        world.account("live", "null", "null", "null").await;
        world.sql("insert into feature_subscriptions (account_id, feature) values ('a', 'live')").await;
        let app = world.app().await.unwrap();
        app.planner().look(Look::Resync).await.unwrap();
        let class = app.policy.classes[0].clone();
        let mut tx = app.database.begin(Purpose::Write).await.unwrap();
        safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
        let claimed =
            jobs::claim(&mut tx, &class.jobs, jobs::Lane::Fresh, "w", Duration::from_mins(10), Duration::from_hours(24), 10).await.unwrap();
        retentiond::database::Database::commit(tx).await.unwrap();
        assert_eq!(claimed.len(), 1);
        let cases = cases.iter().map(|(change, budget, want)| ((*change).to_owned(), *budget, *want)).collect();
        Self { world, app, class, claimed, cases }
    }

    /// What the statement deletes after the change, which is undone. `None` when the database refuses it.
    async fn deletes(&self, batch: &Batch, statement: &str, change: &str, budget: i64) -> Option<i64> {
        let mut tx: Tx = self.app.database.begin(Purpose::Write).await.unwrap();
        batch.enter(&mut tx, &self.app.policy.pinned, &self.app.seen).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(change.to_owned())).execute(&mut *tx).await.unwrap_or_else(|e| panic!("{change}: {e}"));
        let before: i64 = sqlx::query_scalar("select count(*) from template_configurations").fetch_one(&mut *tx).await.unwrap();
        let purge = sqlx::query(AssertSqlSafe(statement.to_owned())).bind(vec![self.claimed[0].id]).bind(vec![self.claimed[0].fence]);
        let purge = match Extent::of(statement) {
            Extent::Whole => purge,
            Extent::Slice => purge.bind(budget),
            Extent::Stretch => match budget {
                BEHIND => purge.bind(1_i64).bind(i64::from(i32::MAX)),
                BEFORE => purge.bind(0_i64).bind(0_i64),
                _ => purge.bind(0_i64).bind(i64::from(i32::MAX)),
            },
        };
        let deleted = purge.fetch_all(&mut *tx).await;
        if let Err(error) = deleted {
            assert!(error.as_database_error().is_some(), "{error}");
            return None;
        }
        let after: i64 = sqlx::query_scalar("select count(*) from template_configurations").fetch_one(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        Some(before - after)
    }

    /// The first case that the statement gets wrong.
    async fn disagrees(&self, batch: &Batch, statement: &str) -> Option<&str> {
        let asked = |budget: i64| match Extent::of(statement) {
            Extent::Whole => budget == 9,
            Extent::Slice => budget > 0,
            Extent::Stretch => budget == 9 || budget < 0,
        };
        for (change, budget, want) in self.cases.iter().filter(|(_, budget, _)| asked(*budget)) {
            if self.deletes(batch, statement, change, *budget).await != Some(*want) {
                return Some(change);
            }
        }
        None
    }
}

/// Instead of a budget: the blocks behind those that there are, and no blocks at all.
const BEHIND: i64 = -1;
const BEFORE: i64 = -2;

/// What a statement takes, by its parameters.
enum Extent {
    Whole,
    Slice,
    Stretch,
}

impl Extent {
    fn of(statement: &str) -> Self {
        match (statement.contains("$3"), statement.contains("$4")) {
            (_, true) => Self::Stretch,
            (true, false) => Self::Slice,
            (false, false) => Self::Whole,
        }
    }
}

/// The statements that delete from the first target: of several jobs, of one, and of one in some blocks.
fn statements(batch: &Batch, class: &Class) -> [String; 3] {
    match batch.statement(&class.targets[0]).unwrap() {
        Delete::Free { whole, slice, stretch } => [whole.clone(), slice.clone(), stretch.clone()],
        Delete::Referenced { .. } => panic!("nothing points at it"),
    }
}

/// The places of every predicate: what follows a `where`, an `on` or an `and`, up to the next of them on the same level.
fn predicates(statement: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    for opening in [" where ", " on ", " and "] {
        for (at, _) in statement.match_indices(opening) {
            let start = at + opening.len();
            let (mut depth, mut quoted, mut end) = (0_u32, false, statement.len());
            for (offset, c) in statement[start..].char_indices() {
                let rest = &statement[start + offset..];
                let over = ["and ", "or ", "order by ", "limit ", "for update ", "returning ", "where ", "group by ", "join "];
                let ends = rest.starts_with('\n') || rest.strip_prefix(' ').is_some_and(|word| over.iter().any(|o| word.starts_with(o)));
                match c {
                    '\'' => quoted = !quoted,
                    _ if quoted => {}
                    '(' => depth += 1,
                    ')' if depth == 0 => end = start + offset,
                    ')' => depth -= 1,
                    _ if depth == 0 && ends => end = start + offset,
                    _ => {}
                }
                if end < statement.len() {
                    break;
                }
            }
            found.push(start..end);
        }
    }
    found.sort_by_key(|range| range.start);
    found
}

const OLD: &str = "now() - interval '31 days'";
const ABSENT: &str = "insert into retention.absences (source, account_id, feature, first_missed_at, confirmed_at)";

/// Everything there is to a job, whatever its starting point.
const OF_THE_JOB: &[(&str, i64, i64)] = &[
    ("select 1", 1_000, 3),
    ("select 1", 1, 1),
    ("select 1", BEHIND, 0),
    ("select 1", BEFORE, 0),
    (
        "update retention.jobs set retain_until = now() + interval '1 hour', delete_by = now() + interval '2 hours' where lease_until is not null",
        9,
        0,
    ),
    ("update retention.jobs set fence = fence + 1 where lease_until is not null", 9, 0),
    ("update retention.jobs set lease_until = now() where lease_until is not null", 9, 0),
    ("update retention.jobs set admitted_at = null where lease_until is not null", 9, 0),
    ("update retention.jobs set policy = 'another' where lease_until is not null", 9, 0),
    ("update retention.jobs set data_class = 'queue2' where lease_until is not null", 9, 0),
    ("update retention.jobs set feature = 'live' where lease_until is not null", 9, 0),
    ("delete from retention.guard", 9, 0),
    ("update retention.guard set tripped_at = now(), reason = 'test'", 9, 0),
    ("update retention.guard set server = server + 1", 9, 0),
    ("update retention.guard set ledger_broken = 'test'", 9, 0),
    ("update retention.guard set ledger_behind = 1000000", 9, 0),
    ("delete from retention.ledger", 9, 0),
    ("insert into retention.policies (hash, terms, accepted_by, reason) values ('another', '{}', 'test', 'test')", 9, 0),
    ("insert into retention.holds (account_id, reason, placed_by) values ('a', 'r', 'b')", 9, 0),
    ("insert into retention.holds (account_id, until, reason, placed_by) values ('a', now() + interval '1 hour', 'r', 'b')", 9, 0),
    ("insert into retention.holds (account_id, feature, reason, placed_by) values ('a', 'mps', 'r', 'b')", 9, 0),
    ("insert into retention.holds (account_id, data_class, reason, placed_by) values ('a', 'configuration', 'r', 'b')", 9, 0),
    ("insert into retention.holds (account_id, reason, placed_by) values ('live', 'r', 'b')", 9, 3),
    ("insert into retention.holds (account_id, feature, reason, placed_by) values ('a', 'live', 'r', 'b')", 9, 3),
    ("insert into retention.holds (account_id, data_class, reason, placed_by) values ('a', 'queue', 'r', 'b')", 9, 3),
    ("insert into retention.holds (account_id, until, reason, placed_by) values ('a', now(), 'r', 'b')", 9, 3),
    ("insert into retention.holds (account_id, released_at, reason, placed_by) values ('a', now(), 'r', 'b')", 9, 3),
    ("insert into retention.pauses (reason, paused_by) values ('r', 'b')", 9, 0),
    ("insert into retention.pauses (account_id, reason, paused_by) values ('a', 'r', 'b')", 9, 0),
    ("insert into retention.pauses (data_class, reason, paused_by) values ('configuration', 'r', 'b')", 9, 0),
    ("insert into retention.pauses (account_id, reason, paused_by) values ('live', 'r', 'b')", 9, 3),
    ("insert into retention.pauses (data_class, reason, paused_by) values ('queue', 'r', 'b')", 9, 3),
    ("insert into retention.pauses (resumed_at, reason, paused_by) values (now(), 'r', 'b')", 9, 3),
];

/// What stands, and since when, for a job that is for the subscription.
fn of_the_subscription() -> Vec<(String, i64, i64)> {
    let gone = "delete from feature_subscriptions where account_id = 'a' and feature = 'mps'";
    let absent = |source: &str, account: &str, feature: &str, confirmed: &str| {
        format!("{gone}; {ABSENT} values ('{source}', '{account}', '{feature}', now() - interval '40 days', {confirmed})")
    };
    let source = "\"public\".\"feature_subscriptions\" (\"account_id\", \"feature\")";
    let mut cases: Vec<(String, i64, i64)> = [
        ("update feature_subscriptions set terminated_at = null where account_id = 'a'", 0),
        ("update feature_subscriptions set terminated_at = terminated_at - interval '1 microsecond' where account_id = 'a'", 0),
        ("update feature_subscriptions set terminated_at = terminated_at + interval '1 microsecond' where account_id = 'a'", 0),
        (gone, 0),
        // The same instant in rows that are somebody else's, or of another feature.
        (
            "update feature_subscriptions s set terminated_at = (select terminated_at from feature_subscriptions where account_id = 'a' and feature = 'mps') where account_id = 'live';
             update feature_subscriptions set terminated_at = null where account_id = 'a'",
            0,
        ),
        (
            "update feature_subscriptions s set terminated_at = (select terminated_at from feature_subscriptions where account_id = 'a' and feature = 'mps') where account_id = 'a' and feature = 'live';
             update feature_subscriptions set terminated_at = null where account_id = 'a' and feature = 'mps'",
            0,
        ),
        // Another job that is due, and in another worker's hands.
        (
            "update feature_subscriptions set terminated_at = (select terminated_at from feature_subscriptions where account_id = 'a' and feature = 'mps')
             where account_id = 'live';
             insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, policy, ready_at, admitted_at, fence, lease_until)
             select 'live', feature, data_class, starting_point, started_at, retain_until, delete_by, policy, ready_at, admitted_at, fence, lease_until
             from retention.jobs where lease_until is not null",
            3,
        ),
        ("update retention.jobs set starting_point = 'account_deleted' where lease_until is not null", 0),
        ("update retention.jobs set starting_point = 'unheard of' where lease_until is not null", 0),
    ]
    .map(|(change, want)| (change.to_owned(), 9, want))
    .into();
    cases.extend([
        (absent(source, "a", "mps", "now()"), 9, 3),
        (absent(source, "a", "mps", "null"), 9, 0),
        (absent(source, "live", "mps", "now()"), 9, 0),
        (absent(source, "a", "live", "now()"), 9, 0),
        (absent("another", "a", "mps", "now()"), 9, 0),
        // Confirmed, and yet there again: its own column decides.
        (
            format!(
                "update feature_subscriptions set terminated_at = null where account_id = 'a'; {ABSENT} values ('{source}', 'a', 'mps', now(), now())"
            ),
            9,
            0,
        ),
    ]);
    cases
}

fn of_the_account() -> Vec<(String, i64, i64)> {
    let (gone, source) = ("delete from accounts where account_id = 'a'", "\"public\".\"accounts\" (\"account_id\")");
    let absent = |source: &str, account: &str, confirmed: &str| {
        format!("{gone}; {ABSENT} values ('{source}', '{account}', null, now() - interval '40 days', {confirmed})")
    };
    let back = "update accounts set deleted_at = null where account_id = 'a'";
    let others = "update accounts set deleted_at = (select deleted_at from accounts where account_id = 'a') where account_id = 'live'";
    vec![
        ("select 1".to_owned(), 9, 3),
        (back.to_owned(), 9, 0),
        ("update accounts set deleted_at = deleted_at + interval '1 microsecond' where account_id = 'a'".to_owned(), 9, 0),
        (gone.to_owned(), 9, 0),
        (format!("{others}; {back}"), 9, 0),
        (absent(source, "a", "now()"), 9, 3),
        (absent(source, "a", "null"), 9, 0),
        (absent(source, "live", "now()"), 9, 0),
        (absent("another", "a", "now()"), 9, 0),
        (format!("{back}; {ABSENT} values ('{source}', 'a', null, now(), now())"), 9, 0),
    ]
}

/// A request for `a`, in force since a while.
const REQUESTED: &str = "
    insert into retention.requests (account_id, reason, requested_by, accepted_by, accepted_at, due_by) values ('a', 'r', 'b', 'b', now() - interval '1 hour', now());
    insert into retention.request_parts (request_id, account_id, feature, data_class) values (1, 'a', 'mps', 'configuration');";

/// What stands for a job that is for a request.
const OF_A_REQUEST: &[(&str, i64, i64)] = &[
    ("select 1", 9, 3),
    ("update accounts set deleted_at = now() where account_id = 'a'", 9, 3),
    ("delete from feature_subscriptions where account_id = 'a'; delete from accounts where account_id = 'a'", 9, 3),
    ("update retention.requests set withdrawn_at = now(), withdrawn_by = 'b'", 9, 0),
    ("update retention.requests set accepted_at = accepted_at - interval '1 microsecond'", 9, 0),
    ("update retention.requests set accepted_at = accepted_at + interval '1 microsecond'", 9, 0),
    ("update retention.requests set accepted_at = null, accepted_by = null, due_by = null", 9, 0),
    ("update retention.request_parts set fulfilled_at = now(), job_id = 1", 9, 0),
    ("update retention.request_parts set account_id = 'live'", 9, 0),
    ("update retention.request_parts set feature = 'live'", 9, 0),
    ("update retention.request_parts set data_class = 'queue'", 9, 0),
    // The part is another request's, which was not accepted then.
    (
        "with r as (insert into retention.requests (account_id, reason, requested_by) values ('a', 'r', 'b') returning id) update retention.request_parts set request_id = r.id from r",
        9,
        0,
    ),
    ("insert into retention.holds (account_id, reason, placed_by) values ('a', 'r', 'b')", 9, 0),
    ("update retention.jobs set starting_point = 'account_deleted' where lease_until is not null", 9, 0),
    ("update retention.jobs set starting_point = 'unheard of' where lease_until is not null", 9, 0),
];

/// Three partitions, each with its first record in the same place: one of them must go, and not its namesakes.
const PARTITIONED: &str = "
    drop table template_configurations;
    create table template_configurations (template_id bigint generated always as identity, account_id text, template_type text, parameters jsonb, created_at timestamptz)
        partition by range (template_id);
    create table t1 partition of template_configurations for values from (1) to (2); create table t2 partition of template_configurations for values from (2) to (3);
    create table t3 partition of template_configurations default; create index on template_configurations (account_id);";

#[tokio::test]
async fn i1_i3_i5_i7_removing_any_single_predicate_from_the_purge_statement_is_noticed() {
    let mut worlds = vec![
        Told::new("null", OLD, "select 1", OF_THE_JOB).await,
        Told::new(OLD, "null", "select 1", &[]).await,
        Told::new("null", OLD, PARTITIONED, &[("select 1", 1, 1), ("select 1", 9, 3)]).await,
        Told::new("null", "null", REQUESTED, OF_A_REQUEST).await,
    ];
    worlds[0].cases.extend(of_the_subscription());
    worlds[1].cases.extend(of_the_account());
    let mut removed = 0;
    let mut unnoticed = Vec::new();
    for (i, told) in worlds.iter().enumerate() {
        let batch = Batch::new(&told.class, &told.app.policy);
        for statement in statements(&batch, &told.class) {
            assert_eq!(told.disagrees(&batch, &statement).await, None, "with every predicate in place, world {i}");
        }
    }
    let batch = Batch::new(&worlds[0].class, &worlds[0].app.policy);
    let statements = statements(&batch, &worlds[0].class);
    let places = statements.iter().flat_map(|s| predicates(s).into_iter().map(move |place| (s, place))).collect::<Vec<_>>();
    assert!(places.len() > 80, "{places:?}");
    for (statement, place) in places {
        let predicate = &statement[place.clone()];
        if WITHOUT_EFFECT.iter().any(|(known, _)| *known == predicate) {
            continue;
        }
        removed += 1;
        let without = format!("{}true{}", &statement[..place.start], &statement[place.end..]);
        let mut noticed = false;
        for told in &worlds {
            let batch = Batch::new(&told.class, &told.app.policy);
            noticed = noticed || told.disagrees(&batch, &without).await.is_some();
        }
        if !noticed {
            unnoticed.push(format!("{predicate}   at {:?}", &statement[place.start.saturating_sub(60)..place.start]));
        }
    }
    assert!(unnoticed.is_empty(), "{} of {removed} predicates can be removed unnoticed:\n{}", unnoticed.len(), unnoticed.join("\n"));
    for told in worlds {
        assert_eq!(told.world.count("media_objects").await, 4);
    }
}

/// Its other predicates once looked like a better way to the records than their ctids: each slice of an account read all of it.
#[tokio::test]
async fn a_slice_reads_the_records_it_chose_and_no_others() {
    let told = Told::new("null", OLD, "select 1", &[]).await;
    told.world.sql("insert into template_configurations (account_id, template_type, parameters) select 'a', 'video', '{}' from generate_series(1, 5000); analyze").await;
    let batch = Batch::new(&told.class, &told.app.policy);
    let [_, slice, stretch] = statements(&batch, &told.class);
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let mut tx: Tx = told.app.database.begin(Purpose::Write).await.unwrap();
        batch.enter(&mut tx, &told.app.policy.pinned, &told.app.seen).await.unwrap();
        let plan = format!(
            "set local plan_cache_mode = {mode}; prepare slice(int8[], int8[], int8) as {slice}; explain (costs off) execute slice('{{1}}', '{{1}}', 10)"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(plan)).fetch_all(&mut *tx).await.unwrap();
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let deletes = lines.iter().position(|line| line.contains("Delete on")).unwrap();
        let scan = lines[deletes..]
            .iter()
            .find(|line| line.contains("Scan on template_configurations t") || line.contains("Scan using template"))
            .unwrap();
        assert!(scan.contains("Tid Scan on template_configurations"), "{mode}: {}", lines.join("\n"));
        // A bitmap would hold every record of the account before the first is chosen.
        assert!(!lines.iter().any(|line| line.contains("Bitmap")), "{mode}: {}", lines.join("\n"));
        sqlx::raw_sql("deallocate slice").execute(&mut *tx).await.unwrap();
        let plan = format!(
            "prepare stretch(int8[], int8[], int8, int8) as {stretch}; explain (costs off) execute stretch('{{1}}', '{{1}}', 0, 10)"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(plan)).fetch_all(&mut *tx).await.unwrap();
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert!(lines.iter().any(|line| line.contains("Tid Range Scan on template_configurations t")), "{mode}: {}", lines.join("\n"));
        sqlx::raw_sql("deallocate stretch").execute(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
    }
}

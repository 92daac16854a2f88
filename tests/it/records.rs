//! What the daemon forgets about its own work: both sides of each period, and what remains.

use std::time::Duration;

use retentiond::records::Report;

use crate::world::{World, left, until};

impl World {
    /// One pass that forgets.
    async fn prune(&self) -> Report {
        let app = self.app().await.unwrap();
        let report = app.records().prune().await.unwrap();
        app.database.close().await;
        report
    }

    /// Puts everything that is over so far back.
    async fn ended(&self, account: &str, ago: &str) {
        self.sql(&format!(
            "update retention.history set retain_until = now() - interval '2000 days', started_at = now() - interval '2000 days',
                    completed_at = case when completed_at is not null then now() - interval '{ago}' end,
                    cancelled_at = case when cancelled_at is not null then now() - interval '{ago}' end
             where account_id = '{account}'"
        ))
        .await;
    }
}

#[tokio::test]
async fn r23_history_goes_after_its_period_and_nobody_is_scheduled_again() {
    let mut world = World::new().await;
    world.set("RECORDS__KEEP_HISTORY", "100d");
    world.set("VERIFIER__WATCH_FOR", "100d");
    for account in ["old", "young", "held"] {
        world.account(account, "null", "now() - interval '31 days'", "null").await;
    }
    world.run_passes().await.unwrap();
    world.no_look_comes().await;
    assert_eq!(world.count("retention.history").await, 6);
    assert!(world.count("retention.levels").await >= 6);
    world.ended("old", "100 days 1 minute").await;
    world.ended("young", "99 days 23 hours 59 minutes").await;
    world.ended("held", "1000 days").await;
    assert!(world.cli(&["hold", "place", "--account", "held", "--data-class", "queue", "--reason", "law"]).status.success());
    let forgotten = world.prune().await;
    assert_eq!(forgotten, Report { history: 3, ..Report::default() }, "both of `old`, one of `held`");
    let of = |account: &str| format!("retention.history where account_id = '{account}'");
    assert_eq!([world.count(&of("old")).await, world.count(&of("young")).await, world.count(&of("held")).await], [0, 2, 1]);
    assert_eq!(world.job("held", "queue").await.state, "completed", "what is held is not forgotten");
    assert_eq!(world.count("retention.levels l where not exists (select 1 from retention.history h where h.id = l.job_id)").await, 0);
    assert!(world.count("retention.levels").await >= 3, "the others keep theirs");
    assert_eq!(world.count("retention.done_marks").await, 6, "every starting point still stands");

    // A full comparison, and a poll: nobody is due again.
    world.run_passes().await.unwrap();
    assert_eq!((world.count("retention.jobs").await, world.count("retention.history").await), (0, 3));
    assert_eq!(world.left("old").await, left(0, 0, 0, 2));
    // What comes back is found and purged all the same.
    world.sql("insert into queue_messages (account_id, event_type) values ('old', 'WorkflowTask')").await;
    world.sql("update retention.done_marks set look_at = now() where look_at is not null").await;
    world.run_passes().await.unwrap();
    assert_eq!((world.left("old").await, world.count(&of("old")).await), (left(0, 0, 0, 2), 1));
}

#[tokio::test]
async fn holds_and_pauses_go_after_they_have_ended_and_never_while_in_force() {
    let mut world = World::new().await;
    world.set("RECORDS__KEEP_ACTS", "100d");
    world
        .sql(
            "insert into retention.holds (account_id, reason, placed_by, placed_at, until, released_at)
             values ('in force', 'r', 'b', now() - interval '1000 days', null, null),
                    ('still', 'r', 'b', now() - interval '1000 days', now() + interval '1 minute', null),
                    ('ended long ago', 'r', 'b', now() - interval '1000 days', now() - interval '100 days 1 minute', null),
                    ('ended', 'r', 'b', now() - interval '1000 days', now() - interval '99 days 23 hours 59 minutes', null),
                    ('released long ago', 'r', 'b', now() - interval '1000 days', null, now() - interval '100 days 1 minute'),
                    ('released', 'r', 'b', now() - interval '1000 days', null, now() - interval '99 days 23 hours 59 minutes');
             insert into retention.pauses (account_id, reason, paused_by, paused_at, resumed_at)
             values ('in force', 'r', 'b', now() - interval '1000 days', null),
                    ('lifted long ago', 'r', 'b', now() - interval '1000 days', now() - interval '100 days 1 minute'),
                    ('lifted', 'r', 'b', now() - interval '1000 days', now() - interval '99 days 23 hours 59 minutes');
             insert into retention.quarantine (account_id, feature, data_class, starting_point, problem, last_seen_at)
             values ('q', 'mps', 'queue', 'p', 'x', now() - interval '1095 days 1 minute'), ('r', 'mps', 'queue', 'p', 'x', now() - interval '1094 days 23 hours')",
        )
        .await;
    assert_eq!(world.prune().await, Report { holds: 2, pauses: 1, quarantine: 1, ..Report::default() });
    let mut c = world.connect().await;
    for (table, remains) in
        [("holds", &["ended", "in force", "released", "still"][..]), ("pauses", &["in force", "lifted"]), ("quarantine", &["r"])]
    {
        let query = format!("select account_id from retention.{table} order by 1");
        let there: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&mut c).await.unwrap();
        assert_eq!(there, remains, "{table}");
    }
    assert_eq!(world.prune().await, Report::default());
}

#[tokio::test]
async fn it_forgets_in_pages_until_nothing_is_left_and_nothing_where_the_period_is_unlimited() {
    let mut world = World::new().await;
    world.set("RECORDS__KEEP_HISTORY", "unlimited");
    world
        .sql(
            "insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts,
                                            records_deleted, count_exact, created_at, completed_at)
             select i, 'somebody', 'mps', 'queue', 'completed', 'p', '2000-01-01Z', '2000-01-01Z', '2000-01-02Z', 'p', 1, '{}', true, '2000-01-01Z', '2000-01-01Z'
             from generate_series(1, 2500) i;
             update retention.history set completed_at = now() where id = 3;
             insert into retention.levels_awaited (feature, data_class, job_ids) values ('mps', 'queue', '{1,2}'), ('mps', 'queue', '{4,3}')",
        )
        .await;
    assert_eq!(world.prune().await, Report::default());
    assert_eq!(world.config().records.keep_history, None);
    world.set("RECORDS__KEEP_HISTORY", "1095d");
    assert_eq!(world.config().records.keep_history, Some(Duration::from_hours(1095 * 24)));
    assert_eq!(world.prune().await.history, 2_499);
    assert_eq!(world.count("retention.history where id = 3").await, 1);
    assert_eq!(world.count("retention.levels_awaited where job_ids = '{4,3}'").await, 1, "one of its jobs is remembered");
    assert_eq!(world.count("retention.levels_awaited").await, 1, "what was awaited for jobs that are forgotten is forgotten with them");
}

/// Something of each kind that is past its period: jobs of three days and a pause.
const PAST: &str = "
    insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts,
                                   records_deleted, count_exact, created_at, completed_at)
    select i, 'somebody', 'mps', 'queue', 'completed', 'p', d, d, d, 'p', 1, '{}', true, d, d
    from generate_series(1, 3) i, lateral (select now() - interval '2000 days' + i * interval '1 day') x(d);
    insert into retention.pauses (account_id, reason, paused_by, resumed_at) values ('a', 'r', 'b', now() - interval '2000 days')";

#[tokio::test]
async fn a_day_that_cannot_be_counted_keeps_its_jobs_and_nothing_else() {
    let world = World::new().await;
    world.sql(PAST).await;
    world.sql("alter table retention.days add constraint never check (false)").await;
    assert_eq!(world.prune().await, Report { pauses: 1, ..Report::default() });
    assert_eq!(world.count("retention.history").await, 3);
    world.sql("alter table retention.days drop constraint never").await;
    assert_eq!(world.prune().await, Report { history: 3, ..Report::default() });
}

#[tokio::test]
async fn days_that_take_too_long_together_are_counted_one_by_one() {
    let world = World::new().await;
    world.sql(PAST).await;
    // As the server says it when a statement has run out of its time.
    world
        .sql(
            "create function slow() returns trigger language plpgsql as $$ begin
                 if (select count(distinct day) from added) > 1 then raise exception 'too long' using errcode = '57014'; end if;
                 return null;
             end $$;
             create trigger slow after insert on retention.days referencing new table as added for each statement execute function slow()",
        )
        .await;
    assert_eq!(world.prune().await, Report { history: 3, pauses: 1, ..Report::default() });
    assert_eq!(world.count("retention.days where feature <> ''").await, 3);
}

#[tokio::test]
async fn a_migration_that_waits_for_a_long_read_lets_the_others_through() {
    let world = World::new().await;
    // As it was before the migration that builds the index of what is due anew.
    world
        .sql(
            "drop table retention.acts, retention.answers, retention.days; drop index retention.history_cancelled;
             delete from retention.migrations where version = 16",
        )
        .await;
    let mut reader = world.connect().await;
    sqlx::query("begin").execute(&mut reader).await.unwrap();
    sqlx::query("select 1 from retention.jobs").execute(&mut reader).await.unwrap();
    let config = world.config();
    let migrating = async { retentiond::schema::migrate(&config, false).await.unwrap() };
    let others = async {
        until("the migration waits", async || world.count("pg_locks where mode = 'AccessExclusiveLock' and not granted and database = (select oid from pg_database where datname = current_database())").await > 0).await;
        // Comes to an end although the reader has not.
        assert_eq!(world.count("retention.jobs").await, 0);
        sqlx::query("commit").execute(&mut reader).await.unwrap();
    };
    tokio::time::timeout(Duration::from_mins(1), futures_util::future::join(migrating, others)).await.expect("nobody waits for ever");
    assert_eq!(world.count("retention.migrations where version = 16").await, 1);
}

#[tokio::test]
async fn the_daemon_forgets_by_itself_and_says_so() {
    let world = World::new().await;
    world.account("live", "null", "null", "null").await;
    world
        .sql(
            "insert into retention.pauses (account_id, reason, paused_by, resumed_at) values ('a', 'r', 'b', now() - interval '1096 days')",
        )
        .await;
    let daemon = world.daemon();
    let said = daemon.wait_for("what was forgotten", |e| e["event"] == "records.pruned").await;
    assert_eq!([&said["pauses"], &said["holds"], &said["history"]].map(serde_json::Value::as_i64), [1, 0, 0].map(Some));
    assert_eq!(world.count("retention.pauses").await, 0);
}

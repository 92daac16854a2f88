//! Levels of erasure: each is written down when it has become true and not before, by what a real server says of itself.
//!
//! A server for each test: slots, standbys, old snapshots and roles are of the whole server.

use retentiond::{
    embedded::{Options, Server},
    levels::{Report, in_full},
    schema,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    manners::replica,
    world::{World, until},
};

fn options() -> Options {
    let settings = [("autovacuum", "off"), ("max_prepared_transactions", "5")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    Options { durable: false, settings, ..Options::default() }
}

/// A server of its own with a world in it.
async fn alone() -> (World, Server) {
    let server = Server::start(&options()).expect("an embedded Postgres");
    let mut admin = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query("create database platform").execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
    let mut world = World::bare().await;
    world.url = server.url("platform");
    let url = world.url.clone();
    world.set("DATABASE__URL", &url);
    schema::migrate(&world.config(), true).await.unwrap();
    (world, server)
}

impl World {
    /// The address under another role.
    fn url_as(&self, role: &str, database: &str) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap();
        let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server).rsplit_once('/').unwrap().0;
        format!("{scheme}://{role}:secret@{server}/{database}")
    }

    /// An account whose queue was disabled long enough ago, purged.
    async fn purged(&self, account: &str) {
        self.account(account, "null", "null", "now() - interval '8 days'").await;
        self.run_passes().await.unwrap();
        assert_eq!(self.job(account, "queue").await.state, "completed");
    }

    /// One more pass over the levels.
    async fn follow(&self) -> Report {
        self.sql("update retention.levels_awaited set look_at = now()").await;
        let app = self.app().await.unwrap();
        let report = app.levels().unwrap().pass().await.unwrap();
        app.database.close().await;
        report
    }

    /// The levels of the account's queue job, as `jobs show` prints them.
    async fn levels(&self, account: &str) -> Vec<String> {
        let id = self.job(account, "queue").await.id;
        self.json(&["jobs", "show", &id])["levels"].as_object().unwrap().keys().cloned().collect()
    }

    async fn detail(&self, account: &str, level: &str) -> Value {
        let id: i64 = self.job(account, "queue").await.id.parse().unwrap();
        let query = "select detail from retention.levels where job_id = $1 and level = $2";
        sqlx::query_scalar(query).bind(id).bind(level).fetch_one(&mut self.connect().await).await.unwrap()
    }

    /// What `check` says about the second role: severity and remedy.
    fn doubts(&self) -> Vec<(String, String)> {
        let findings: Value = serde_json::from_slice(&self.cli(&["check", "-o", "json"]).stdout).unwrap();
        let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let ours = findings
            .as_array()
            .unwrap()
            .iter()
            .filter(|f| f["subject"] == "verifier.url")
            .map(|f| (word(&f["severity"]), word(&f["remedy"])));
        ours.collect()
    }
}

#[tokio::test]
async fn absent_takes_a_role_that_sees_everything_and_can_change_nothing_and_then_an_empty_look() {
    let (mut world, server) = alone().await;
    world.sql("create role witness login password 'secret'; create role strong; grant delete on queue_messages to strong").await;
    // Without a second role nobody ever claims it.
    world.purged("before").await;
    assert_eq!((world.follow().await.absent, world.levels("before").await), (0, vec!["replicated".to_owned()]));

    world.set("VERIFIER__URL", &world.url_as("witness", "platform"));
    world.purged("gone").await;
    assert_eq!(world.follow().await.absent, 0, "it may not read");
    let tables = ["template_configurations", "task_configurations", "queue_messages"];
    let remedies = |remedy: &str| tables.map(|t| remedy.replace("{}", t)).to_vec();
    let grants = remedies("GRANT SELECT ON \"public\".\"{}\" TO witness");
    let said = world.doubts();
    assert!(said.iter().all(|(severity, _)| severity == "grants"), "{said:?}");
    assert_eq!(said.into_iter().map(|(_, remedy)| remedy).collect::<Vec<_>>(), grants);
    for grant in grants {
        world.sql(&grant).await;
    }
    assert!(world.doubts().is_empty());
    for (before, after) in [
        ("grant delete on queue_messages to witness", "revoke delete on queue_messages from witness"),
        ("grant truncate on task_configurations to witness", "revoke truncate on task_configurations from witness"),
        ("grant update (account_id) on queue_messages to witness", "revoke update (account_id) on queue_messages from witness"),
        ("grant strong to witness; alter role witness noinherit", "revoke strong from witness; alter role witness inherit"),
        ("alter table queue_messages owner to witness", "alter table queue_messages owner to current_user"),
        ("alter role witness superuser", "alter role witness nosuperuser"),
    ] {
        world.sql(before).await;
        assert!(
            world.doubts().iter().all(|(severity, remedy)| severity == "error" && remedy.starts_with("REVOKE UPDATE, DELETE, TRUNCATE ON"))
        );
        assert_eq!((world.doubts().is_empty(), world.follow().await.absent), (false, 0), "{before}");
        world.sql(after).await;
        // An owner may have taken them from others.
        world.sql("grant select on queue_messages to witness").await;
        assert_eq!(world.doubts(), [], "{after}");
    }
    world.sql("alter table queue_messages enable row level security").await;
    assert_eq!(world.doubts(), [("error".to_owned(), "ALTER ROLE witness BYPASSRLS".to_owned())]);
    assert_eq!(world.follow().await.absent, 0, "what is hidden is not gone");
    world.sql("alter table queue_messages disable row level security").await;
    let right = world.settings.insert("RETENTIOND__VERIFIER__URL".to_owned(), world.url_as("witness", "postgres")).unwrap();
    assert_eq!((world.doubts().len(), world.cli(&["check"]).status.code()), (1, Some(3)), "another database");
    assert_eq!(world.follow().await.absent, 0);
    world.settings.insert("RETENTIOND__VERIFIER__URL".to_owned(), right);

    world.sql("insert into queue_messages (account_id, event_type) values ('gone', 'WorkflowTask')").await;
    assert_eq!(world.follow().await.absent, 0, "there is something");
    assert_eq!(world.levels("gone").await, ["replicated"]);
    world.sql("delete from queue_messages where account_id = 'gone'").await;
    assert_eq!(world.follow().await.absent, 1);
    assert_eq!(world.levels("gone").await, ["absent", "replicated"]);
    assert_eq!(
        world.detail("gone", "absent").await,
        json!({"role": "witness", "looked_at": ["platform/queue_messages"], "not_looked_at": []})
    );
    assert_eq!(world.levels("before").await, ["replicated"], "it was left out when there was no role");
    server.stop().unwrap();
}

#[tokio::test]
async fn replicated_waits_for_a_slot_that_is_behind() {
    let (world, server) = alone().await;
    world.purged("none").await;
    assert_eq!(world.levels("none").await, ["replicated"]);
    let detail = world.detail("none", "replicated").await;
    assert_eq!((&detail["standbys"], &detail["slots"]), (&json!(0), &json!(0)), "it says that there was nobody to wait for");

    world.sql("select pg_create_physical_replication_slot('behind', true)").await;
    world.purged("slot").await;
    assert_eq!((world.follow().await.replicated, world.levels("slot").await), (0, vec![]));
    // To where the purge ended, less what was written last: still behind.
    let lsn: String = sqlx::query_scalar("select lsn::text from retention.levels_awaited where 'replicated' = any(awaits)")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    world.sql(&format!("checkpoint; select pg_replication_slot_advance('behind', '{lsn}'::pg_lsn - 1)")).await;
    assert_eq!(world.follow().await.replicated, 0);
    world.sql(&format!("select pg_replication_slot_advance('behind', '{lsn}')")).await;
    assert_eq!((world.follow().await.replicated, world.levels("slot").await), (1, vec!["replicated".to_owned()]));
    assert_eq!(world.detail("slot", "replicated").await["slots"], 1);

    // A slot that nobody has used yet: where its reader is, nobody knows.
    world.sql("select pg_create_physical_replication_slot('unused')").await;
    world.purged("unused").await;
    assert_eq!(world.follow().await.replicated, 0);
    world.sql("select pg_drop_replication_slot('unused'); select pg_drop_replication_slot('behind')").await;
    assert_eq!(world.follow().await.replicated, 1);
    server.stop().unwrap();
}

#[tokio::test]
async fn replicated_waits_for_a_standby_to_replay_and_is_never_claimed_by_a_role_that_may_not_see_it() {
    let (mut world, server) = alone().await;
    let dir = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir_in("/tmp").unwrap();
    std::fs::create_dir(dir.path().join("replica")).unwrap();
    let standby = replica(&server, &dir.path().join("replica"), &options());
    until("it streams", async || world.count("pg_stat_replication where state = 'streaming'").await == 1).await;
    let mut there = PgConnection::connect(&standby.url("platform")).await.unwrap();
    world.account("gone", "null", "null", "now() - interval '8 days'").await;
    until("it has the account", async || world.count("pg_stat_replication where replay_lsn >= pg_current_wal_flush_lsn()").await == 1)
        .await;
    sqlx::query("select pg_wal_replay_pause()").execute(&mut there).await.unwrap();
    let at = standby.url("platform");
    until("it pauses", async || {
        let mut there = PgConnection::connect(&at).await.unwrap();
        sqlx::query_scalar::<_, bool>("select pg_get_wal_replay_pause_state() = 'paused'").fetch_one(&mut there).await.unwrap()
    })
    .await;
    world.run_passes().await.unwrap();
    until("it has received everything", async || {
        world.count("pg_stat_replication where flush_lsn = pg_current_wal_flush_lsn()").await == 1
    })
    .await;
    assert_eq!(world.follow().await.replicated, 0, "what is received is not replayed");
    let seen: i64 =
        sqlx::query_scalar("select count(*) from queue_messages where account_id = 'gone'").fetch_one(&mut there).await.unwrap();
    assert_eq!(seen, 7, "the standby still shows them");
    sqlx::query("select pg_wal_replay_resume()").execute(&mut there).await.unwrap();
    until("it has caught up", async || world.count("pg_stat_replication where replay_lsn >= pg_current_wal_flush_lsn()").await == 1).await;

    world
        .sql(
            "create role plain login password 'secret'; grant usage on schema retention to plain;
             grant select, insert, update, delete on all tables in schema retention, public to plain",
        )
        .await;
    let all = world.settings.insert("RETENTIOND__DATABASE__URL".to_owned(), world.url_as("plain", "platform")).unwrap();
    assert_eq!(world.follow().await.replicated, 0, "it may not see how far anybody is");
    let findings = world.json(&["check"]);
    let warning = findings.as_array().unwrap().iter().find(|f| f["remedy"] == "GRANT pg_monitor TO plain").expect("check says so");
    assert_eq!(warning["severity"], "warning");
    world.sql("grant pg_monitor to plain").await;
    assert!(!world.json(&["check"]).to_string().contains("pg_monitor"));
    until("it has caught up again", async || world.follow().await.replicated == 1).await;
    world.settings.insert("RETENTIOND__DATABASE__URL".to_owned(), all);
    assert_eq!(world.detail("gone", "replicated").await["standbys"], 1);
    let seen: i64 =
        sqlx::query_scalar("select count(*) from queue_messages where account_id = 'gone'").fetch_one(&mut there).await.unwrap();
    assert_eq!(seen, 0);
    there.close().await.unwrap();
    standby.stop().unwrap();
    server.stop().unwrap();
}

/// How many vacuums are known to be enough: statistics of older servers arrive late.
async fn enough(world: &World) -> usize {
    if world.count("generate_series(1, 1) where current_setting('server_version_num')::int4 < 150000").await == 1 { 3 } else { 2 }
}

/// Vacuums the queue until that is enough: not one time earlier.
async fn cleaned_by_vacuum(world: &World) {
    for _ in 1..enough(world).await {
        world.sql("vacuum queue_messages").await;
        assert_eq!(world.follow().await.cleaned, 0);
    }
    world.sql("vacuum queue_messages").await;
    assert_eq!(world.follow().await.cleaned, 1);
}

#[tokio::test]
async fn cleaned_takes_two_vacuums_of_every_table_that_ended_after_nobody_could_see_the_records() {
    let (world, server) = alone().await;
    world.purged("gone").await;
    assert_eq!((world.follow().await.cleaned, world.levels("gone").await), (0, vec!["replicated".to_owned()]));
    assert_eq!(world.follow().await.cleaned, 0, "however often one asks");
    cleaned_by_vacuum(&world).await;
    assert_eq!(world.levels("gone").await, ["cleaned", "replicated"]);
    let detail = world.detail("gone", "cleaned").await;
    let relations = detail["relations"].as_object().unwrap();
    assert!(relations.contains_key("queue_messages") && relations.keys().any(|r| r.starts_with("pg_toast.")), "{detail}");
    assert_eq!(relations.len(), 2);
    assert_eq!(world.count("retention.levels_awaited").await, 0, "there is nothing left to wait for");

    // Two tables: one of them alone does not do.
    world.account("two", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    for _ in 0..4 {
        world.sql("vacuum task_configurations").await;
    }
    assert_eq!(world.follow().await.cleaned, 0);
    for _ in 0..enough(&world).await {
        world.sql("vacuum template_configurations").await;
    }
    assert_eq!(world.follow().await.cleaned, 1, "the configuration; its queue has had no vacuum");
    server.stop().unwrap();
}

#[tokio::test]
async fn cleaned_is_held_back_by_old_snapshots_and_prepared_transactions_and_begins_anew_with_new_statistics() {
    let (world, server) = alone().await;
    world.account("old", "null", "null", "now() - interval '8 days'").await;
    let mut reader = world.connect().await;
    sqlx::raw_sql("begin isolation level repeatable read; select 1").execute(&mut reader).await.unwrap();
    world.run_passes().await.unwrap();
    let there: i64 =
        sqlx::query_scalar("select count(*) from queue_messages where account_id = 'old'").fetch_one(&mut reader).await.unwrap();
    assert_eq!(there, 7, "the reader still sees them");
    for _ in 0..4 {
        world.sql("vacuum queue_messages").await;
        assert_eq!(world.follow().await.cleaned, 0);
    }
    sqlx::raw_sql("rollback").execute(&mut reader).await.unwrap();
    assert_eq!(world.follow().await.cleaned, 0, "the vacuums of before count for nothing");
    cleaned_by_vacuum(&world).await;

    world.account("prepared", "null", "null", "now() - interval '8 days'").await;
    world.sql("begin; create table kept (); prepare transaction 'p'").await;
    world.run_passes().await.unwrap();
    for _ in 0..4 {
        world.sql("vacuum queue_messages").await;
        assert_eq!(world.follow().await.cleaned, 0);
    }
    world.sql("commit prepared 'p'").await;
    assert_eq!(world.follow().await.cleaned, 0);
    cleaned_by_vacuum(&world).await;

    world.sql("vacuum queue_messages").await;
    world.purged("reset").await;
    assert_eq!(world.count("retention.levels_awaited where vacuums is not null").await, 1);
    world.sql("vacuum queue_messages").await;
    world.sql("select pg_stat_reset()").await;
    assert_eq!(world.follow().await.cleaned, 0);
    cleaned_by_vacuum(&world).await;
    server.stop().unwrap();
}

#[tokio::test]
async fn expired_is_reached_when_the_last_copy_is_gone_and_only_where_there_are_copies() {
    let mut world = World::new().await;
    world.rules = world.rules.replace(
        "account_column = \"account_id\"\n\n[[data_classes]]\nfeature = \"mps\"\nname = \"media\"",
        "account_column = \"account_id\"\n\n[[data_classes.targets]]\nstore = \"dumps\"\nname = \"nightly\"\nexpires_after = \"7d\"\n\n[[data_classes]]\nfeature = \"mps\"\nname = \"media\"",
    ) + "\n[stores.dumps]\nkind = \"expiring\"\n";
    world.account("gone", "null", "now() - interval '31 days'", "null").await;
    world.run_passes().await.unwrap();
    let [queue, configuration] = [world.job("gone", "queue").await, world.job("gone", "configuration").await];
    assert!(queue.last_copy_gone_at.is_some() && configuration.last_copy_gone_at.is_none());
    assert_eq!(world.follow().await.expired, 0);
    let pending = |level: &str| format!("retention.levels_awaited where '{level}' = any(awaits)");
    assert_eq!(world.count(&pending("expired")).await, 1, "the configuration has no copies to wait for");
    world.sql("update retention.history set last_copy_gone_at = now() + interval '1 hour' where last_copy_gone_at is not null").await;
    world.sql("update retention.levels_awaited set expires_at = now() + interval '1 hour' where expires_at is not null").await;
    assert_eq!(world.follow().await.expired, 0);
    world.sql("update retention.history set last_copy_gone_at = now() where last_copy_gone_at is not null").await;
    world.sql("update retention.levels_awaited set expires_at = now() where expires_at is not null").await;
    assert_eq!(world.follow().await.expired, 1);
    assert!(world.levels("gone").await.contains(&"expired".to_owned()));
    assert_eq!((world.follow().await.expired, world.count("retention.levels where level = 'expired'").await), (0, 1));
}

#[tokio::test]
async fn the_daemon_follows_what_it_has_completed() {
    let mut world = World::new().await;
    world.set("VERIFIER__INTERVAL", "1s");
    world.account("gone", "null", "null", "now() - interval '8 days'").await;
    let daemon = world.daemon();
    let said = daemon.wait_for("a level", |e| e["event"] == "levels.reached").await;
    assert_eq!((&said["level"], &said["replicated"], &said["absent"]), (&json!("info"), &json!(1), &json!(0)));
    assert_eq!(world.levels("gone").await, ["replicated"]);
}

#[tokio::test]
async fn the_number_of_a_transaction_is_told_in_full_on_both_sides_of_a_wraparound() {
    let world = World::bare().await;
    let mut c = world.connect().await;
    let turn = 4_294_967_296_i64;
    for (near, xid, full) in [
        (100, 3_i64, 3),
        (100, 100, 100),
        (100, 120, 120),
        (turn + 5, 3, turn + 3),
        (turn + 5, 10, turn + 10),
        (turn + 5, 4_294_967_290, 4_294_967_290),
        (turn - 6, 3, turn + 3),
        (3 * turn + 7, 4_294_967_295, 3 * turn - 1),
        (turn + 2_147_483_000, 700, turn + 700),
        (5 * turn + 3_000_000_000, 2_000_000_000, 5 * turn + 2_000_000_000),
    ] {
        let query = format!("select {}", in_full(&format!("'{xid}'"), &format!("{near}::int8")));
        let told: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut c).await.unwrap();
        assert_eq!(told, full, "{xid} near {near}");
    }
}

//! The daemon under a role of its own: what `check` prints is enough, nothing more is needed, and what is missing is named.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::world::{ALL, World, left};

/// A world whose daemon connects as a role that may do nothing yet. The role is dropped after the database.
pub(crate) struct Restricted {
    world: Option<World>,
    pub(crate) role: String,
}

impl Restricted {
    pub(crate) async fn new() -> Self {
        let mut world = World::new().await;
        // Quoted wherever it is used.
        let role = format!("{} Daemon", world.database);
        world.sql(&format!("create role \"{role}\" login password 'secret'")).await;
        let (scheme, rest) = world.url.split_once("://").unwrap();
        let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
        let url = format!("{scheme}://{}:secret@{server}", role.replace(' ', "%20"));
        world.set("DATABASE__URL", &url);
        Self { world: Some(world), role }
    }

    pub(crate) fn world(&mut self) -> &mut World {
        self.world.as_mut().unwrap()
    }

    /// `check` as the role: its exit code and what it found.
    fn check(&mut self) -> (Option<i32>, Vec<Value>) {
        let output = self.world().cli(&["check", "-o", "json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {said}")))
    }

    /// Starts from nothing and applies every printed remedy until `check` is content. Yields the statements.
    pub(crate) async fn follow_check(&mut self) -> Vec<String> {
        let mut applied = Vec::new();
        for _ in 0..6 {
            let (code, findings) = self.check();
            if code == Some(0) {
                return applied;
            }
            assert!(matches!(code, Some(12 | 3)), "{code:?} {findings:?}");
            let before = applied.len();
            for remedy in findings.iter().filter(|f| f["severity"] != "warning").filter_map(|f| f["remedy"].as_str()) {
                self.world().sql(remedy).await;
                applied.push(remedy.to_owned());
            }
            assert!(applied.len() > before, "no finding has a remedy: {findings:?}");
        }
        panic!("check is never content: {applied:?} {:?}", self.check());
    }
}

impl Drop for Restricted {
    fn drop(&mut self) {
        let Some(world) = self.world.take() else { return };
        let url = world.url.replace(&format!("/{}", world.database), "/postgres");
        drop(world);
        let role = self.role.clone();
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut admin = PgConnection::connect(&url).await?;
                sqlx::query(AssertSqlSafe(format!("drop role if exists \"{role}\""))).execute(&mut admin).await
            })
        });
        let _ = dropped.join();
    }
}

#[tokio::test]
async fn a_role_with_exactly_the_grants_that_check_prints_does_the_whole_main_job() {
    let mut daemon = Restricted::new().await;
    let world = daemon.world();
    world.account("gone", "null", "now() - interval '31 days'", "null").await;
    world.account("queue", "null", "null", "now() - interval '8 days'").await;
    world.account("back", "null", "now() - interval '29 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    world.account("bad", "'infinity'", "null", "null").await;
    let applied = daemon.follow_check().await;
    for statement in &applied {
        assert!(statement.starts_with("GRANT "), "{statement}");
    }
    let own = |s: &&String| s.contains("retention");
    assert!(
        applied.iter().filter(|s| !own(s)).all(|s| !s.contains("ALL") && !s.contains("INSERT") && !s.contains("TRUNCATE")),
        "{applied:?}"
    );
    assert!(!applied.iter().any(|s| s.contains("media_objects")), "media is not even read: {applied:?}");
    let role = daemon.role.clone();
    let world = daemon.world();
    assert_eq!(world.count(&format!("pg_roles where rolname = '{role}' and (rolsuper or rolbypassrls)")).await, 0);

    let once = world.cli(&["run", "--once"]);
    assert_eq!(once.status.code(), Some(0), "{}", String::from_utf8_lossy(&once.stdout));
    assert_eq!(world.left("gone").await, left(0, 0, 0, 2));
    assert_eq!(world.left("queue").await, left(3, 5, 0, 2));
    assert_eq!(world.left("back").await, left(3, 5, 0, 2));
    assert_eq!(world.left("live").await, ALL);
    world.sql("update feature_subscriptions set terminated_at = null where account_id = 'back'").await;
    for verb in [
        &["run", "--once"][..],
        &["plan"],
        &["status"],
        &["explain", "gone"],
        &["jobs", "list"],
        &["hold", "place", "--account", "live", "--reason", "r"],
        &["hold", "list"],
        &["hold", "release", "1", "--reason", "r"],
        &["pause", "--reason", "r"],
        &["resume", "--reason", "r"],
        &["guard", "status"],
    ] {
        let output = world.cli(verb);
        assert_eq!(output.status.code(), Some(0), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(world.job("back", "configuration").await.cancel_reason.as_deref(), Some("reactivated"));
    // A vanished row, and what comes back after a purge.
    world.sql("delete from accounts where account_id = 'live'").await;
    world.data("gone").await;
    let mut running = world.daemon();
    running.wait_for("the vanished row is missed", |e| e["event"] == "source.vanished").await;
    running.wait_for("what came back is found", |e| e["event"] == "residue.found").await;
    assert!(!running.events().iter().any(|e| e["event"] == "poll.failed" || e["event"] == "tidy.failed" || e["event"] == "purge.failed"));
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.ended().await, Some(0));
}

#[tokio::test]
async fn each_grant_that_check_prints_is_needed() {
    let mut daemon = Restricted::new().await;
    daemon.world().account("gone", "null", "now() - interval '31 days'", "null").await;
    let applied = daemon.follow_check().await;
    for grant in applied.iter().filter(|s| !s.contains("retention")) {
        daemon.world().sql(&grant.replace("GRANT ", "REVOKE ").replace(" TO ", " FROM ")).await;
        let (code, findings) = daemon.check();
        assert_eq!(code, Some(12), "without {grant}: {findings:?}");
        assert!(findings.iter().any(|f| f["remedy"] == grant.as_str()), "without {grant}: {findings:?}");
        let once = daemon.world().cli(&["run", "--once"]);
        assert_eq!(once.status.code(), Some(12), "without {grant}: {}", String::from_utf8_lossy(&once.stdout));
        assert_eq!(daemon.world().left("gone").await, ALL, "without {grant}");
        daemon.world().sql(grant).await;
    }
    assert_eq!(daemon.check().0, Some(0));
}

#[tokio::test]
async fn a_table_of_its_own_that_a_migration_has_left_without_grants_stops_everything_before_it_begins() {
    let mut daemon = Restricted::new().await;
    daemon.world().account("gone", "null", "now() - interval '31 days'", "null").await;
    daemon.follow_check().await;
    let (role, world) = (daemon.role.clone(), daemon.world());
    // As made by another role: nobody else may use it.
    world.sql(&format!("revoke all on retention.acts from \"{role}\"")).await;
    for verb in [&["run", "--once"][..], &["run"], &["pause", "--reason", "r"]] {
        let refused = world.cli(verb);
        let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
        assert_eq!(refused.status.code(), Some(12), "{verb:?}: {said}");
    }
    let refused = world.cli(&["run", "--once"]);
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(said.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON retention.acts TO"), "{said}");
    assert_eq!(world.left("gone").await, ALL);
    daemon.follow_check().await;
    assert_eq!(daemon.world().cli(&["run", "--once"]).status.code(), Some(0));
    assert_eq!(daemon.world().left("gone").await, left(0, 0, 0, 2));
}

/// What `check --grants` prints for the role of the daemon, asked by somebody who may do everything.
fn printed(daemon: &mut Restricted) -> Vec<Value> {
    let role = daemon.role.clone();
    let world = daemon.world();
    let (url, restricted) = (world.url.clone(), world.settings["RETENTIOND__DATABASE__URL"].clone());
    world.set("DATABASE__URL", &url);
    let grants = world.json(&["check", "--grants", &role]);
    let output = world.cli(&["check", "--grants", &role]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    world.set("DATABASE__URL", &restricted);
    let grants = grants.as_array().unwrap().clone();
    // The same as SQL, with a comment before each part.
    let statements: Vec<&str> = text.lines().filter(|line| !line.starts_with("-- ")).collect();
    let expected: Vec<String> = grants.iter().map(|grant| format!("{};", grant["statement"].as_str().unwrap())).collect();
    assert_eq!(statements, expected);
    assert!(text.starts_with(&format!("-- \"{role}\", mode enforce\n")), "{text}");
    grants
}

#[tokio::test]
async fn what_check_grants_prints_beforehand_is_enough_and_each_of_it_is_missed() {
    let mut daemon = Restricted::new().await;
    daemon.world().account("gone", "null", "now() - interval '31 days'", "null").await;
    // What everybody may, nobody misses.
    daemon.world().sql("revoke usage on schema public from public").await;
    let grants = printed(&mut daemon);
    for grant in &grants {
        daemon.world().sql(grant["statement"].as_str().unwrap()).await;
    }
    let (code, findings) = daemon.check();
    assert_eq!(code, Some(0), "{findings:?}");
    assert!(!findings.iter().any(|f| f["remedy"].as_str().is_some_and(|remedy| remedy.starts_with("GRANT "))), "{findings:?}");
    // What is there already does not make it shorter.
    assert_eq!(printed(&mut daemon), grants);
    for grant in &grants {
        let statement = grant["statement"].as_str().unwrap();
        daemon.world().sql(&statement.replace("GRANT ", "REVOKE ").replace(" TO ", " FROM ")).await;
        let (code, findings) = daemon.check();
        assert_eq!(code, Some(if grant["optional"] == true { 0 } else { 12 }), "without {statement}: {findings:?}");
        assert!(findings.iter().any(|f| f["remedy"] == statement), "without {statement}: {findings:?}");
        daemon.world().sql(statement).await;
    }
    let once = daemon.world().cli(&["run", "--once"]);
    assert_eq!(once.status.code(), Some(0), "{}", String::from_utf8_lossy(&once.stdout));
    assert_eq!(daemon.world().left("gone").await, left(0, 0, 0, 2));
}

#[tokio::test]
async fn check_grants_prints_what_the_second_role_needs_and_nothing_that_could_delete() {
    let mut daemon = Restricted::new().await;
    let (witness, url) = (daemon.role.clone(), daemon.world().settings["RETENTIOND__DATABASE__URL"].clone());
    let world = daemon.world();
    let main = world.url.clone();
    world.set("DATABASE__URL", &main).set("VERIFIER__URL", &url);
    let grants = world.json(&["check", "--grants", "somebody"]);
    let grants = grants.as_array().unwrap();
    assert!(
        grants.iter().any(|g| g["role"] == "somebody" && g["statement"] == "GRANT DELETE ON \"public\".\"queue_messages\" TO somebody"),
        "{grants:?}"
    );
    let second: Vec<&str> =
        grants.iter().filter(|g| g["role"] == format!("\"{witness}\"")).map(|g| g["statement"].as_str().unwrap()).collect();
    assert!(
        !second.is_empty() && second.iter().all(|s| s.starts_with("GRANT SELECT ON ") || s.starts_with("GRANT USAGE ON SCHEMA ")),
        "{second:?}"
    );
    for statement in second {
        world.sql(statement).await;
    }
    let findings = world.json(&["check"]);
    assert!(!findings.as_array().unwrap().iter().any(|f| f["subject"] == "verifier.url"), "{findings}");
}

#[tokio::test]
async fn check_grants_names_a_table_that_is_not_there_and_tables_of_its_own_that_are_missing() {
    let world = World::new().await;
    world.sql("drop table queue_messages").await;
    let output = world.cli(&["check", "--grants", "somebody"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(10) && output.stdout.is_empty() && said.contains("queue_messages does not exist"), "{output:?}");
    world.sql("drop schema retention cascade").await;
    let output = world.cli(&["check", "--grants", "somebody"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(10) && said.contains("retentiond migrate"), "{output:?}");
}

#[tokio::test]
async fn observe_is_inert_under_a_role_that_can_neither_delete_nor_update() {
    let mut daemon = Restricted::new().await;
    let world = daemon.world();
    world.set("MODE", "observe");
    world.account("gone", "null", "now() - interval '31 days'", "null").await;
    world.account("live", "null", "null", "null").await;
    let applied = daemon.follow_check().await;
    for grant in applied.iter().filter(|s| !s.contains("retention")) {
        assert!(grant.starts_with("GRANT SELECT ON") || grant.starts_with("GRANT USAGE ON SCHEMA"), "{grant}");
    }
    let role = daemon.role.clone();
    let world = daemon.world();
    let may_change = format!(
        "pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and
         (has_table_privilege('{role}', c.oid, 'delete') or has_any_column_privilege('{role}', c.oid, 'update') or has_table_privilege('{role}', c.oid, 'truncate'))"
    );
    assert_eq!(world.count(&may_change).await, 0);
    let once = world.cli(&["run", "--once"]);
    assert_eq!(once.status.code(), Some(0), "{}", String::from_utf8_lossy(&once.stdout));
    assert_eq!(world.left("gone").await, ALL);
    // It planned and measures: the job is there, due and untouched.
    let job = world.job("gone", "configuration").await;
    assert_eq!((job.state.as_str(), job.attempts, job.purge_began_at), ("scheduled", 0, None));
    let running = world.daemon();
    running.wait_for("a look", |e| e["event"] == "poll.completed").await;
    world.sql("update feature_subscriptions set terminated_at = now() where account_id = 'live'").await;
    running.wait_for("another job", |e| e["event"] == "job.scheduled" && e["account_id"] == "live").await;
    let errors: Vec<Value> = running.events().into_iter().filter(|e| e["level"] == "error" && e["event"] != "job.overdue").collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(world.left("gone").await, ALL);
}

#[tokio::test]
async fn r16_row_security_on_a_target_is_refused_and_never_reads_as_completed() {
    let mut daemon = Restricted::new().await;
    daemon.world().account("gone", "null", "now() - interval '31 days'", "null").await;
    daemon.follow_check().await;
    let hidden = "alter table queue_messages enable row level security; create policy none on queue_messages using (account_id = 'nobody')";

    // While it runs: what is hidden is an error and not an absence.
    let mut running = {
        let world = daemon.world();
        world.sql(&hidden.replace("enable", "disable")).await;
        world.sql("update feature_subscriptions set terminated_at = now() - interval '6 days'").await;
        let running = world.daemon();
        running.wait_for("the job", |e| e["event"] == "job.scheduled" && e["data_class"] == "queue").await;
        world.sql("alter table queue_messages enable row level security").await;
        world.sql("update feature_subscriptions set terminated_at = now() - interval '8 days'").await;
        running
    };
    running.wait_for("the refusal", |e| e["event"] == "job.failed" || e["event"] == "poll.failed").await;
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.ended().await, Some(0));
    assert_eq!(daemon.world().left("gone").await, ALL);
    assert_eq!(daemon.world().count("retention.every_job where state = 'completed'").await, 0);

    // At a start it is refused, with its remedy.
    let (code, findings) = daemon.check();
    assert_eq!(code, Some(3), "{findings:?}");
    let finding = findings.iter().find(|f| f["severity"] == "error").unwrap();
    assert!(finding["problem"].as_str().unwrap().starts_with("row security on queue_messages would hide records"), "{finding}");
    assert_eq!(finding["remedy"], format!("ALTER ROLE \"{}\" BYPASSRLS", daemon.role));
    let once = daemon.world().cli(&["run", "--once"]);
    assert_eq!(once.status.code(), Some(3), "{}", String::from_utf8_lossy(&once.stdout));
    assert_eq!(daemon.world().left("gone").await, ALL);
    assert_eq!(daemon.world().count("retention.every_job where state = 'completed'").await, 0);

    daemon.follow_check().await;
    assert_eq!(daemon.world().cli(&["run", "--once"]).status.code(), Some(0));
    assert_eq!(daemon.world().left("gone").await, left(3, 5, 0, 2));
}

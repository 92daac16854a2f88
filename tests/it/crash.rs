//! The real program dies at each named point of `src/crash.rs`, once, in two runs in a row, and at a later passing; then it runs undisturbed.
//! What it leaves is what an undisturbed run leaves, counts included (I8).

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    sync::atomic::{AtomicUsize, Ordering},
};

use retentiond::{
    crash::{ELSEWHERE, OUTWARD, POINTS, VARIABLE},
    planner::Look,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::world::World;

/// `SIGABRT`.
const ABORTED: i32 = 6;
/// Databases worked on at once.
const AT_ONCE: usize = 3;

/// Every account with something that a pass has to do, and one of each with which it has nothing to do.
async fn prepared() -> World {
    let mut world = World::new().await;
    // What is missed for the first time stays so, however long the runs take.
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "4").set("POLL__RESYNC_INTERVAL", "1h");
    let ago = |days: i64| format!("now() - interval '{} hours'", days * 24);
    for (id, deleted, terminated, cmq_disabled) in [
        ("purged-and-back", ago(400), "null".to_owned(), "null".to_owned()),
        ("reactivated", "null".to_owned(), ago(3), "null".to_owned()),
        ("moved", "null".to_owned(), ago(4), "null".to_owned()),
        ("vanishing", "null".to_owned(), "null".to_owned(), "null".to_owned()),
        ("vanished", ago(1), "null".to_owned(), "null".to_owned()),
        ("live", "null".to_owned(), "null".to_owned(), "null".to_owned()),
        ("asked", "null".to_owned(), "null".to_owned(), "null".to_owned()),
        ("asked-and-ended", ago(3), "null".to_owned(), "null".to_owned()),
        ("asked-and-withdrawn", "null".to_owned(), "null".to_owned(), "null".to_owned()),
    ] {
        world.account(id, &deleted, &terminated, &cmq_disabled).await;
    }
    world.run_passes().await.unwrap();
    // What the next pass finds: a late writer's records, a customer who came back, dates that moved, rows that are gone.
    world.data("purged-and-back").await;
    world
        .sql(&format!(
            "update retention.done_marks set look_at = now();
             update feature_subscriptions set terminated_at = null where account_id = 'reactivated';
             update feature_subscriptions set terminated_at = {} where account_id = 'moved';
             delete from accounts where account_id in ('vanished', 'vanishing')",
            ago(31)
        ))
        .await;
    for (id, deleted, terminated, cmq_disabled) in [
        ("due", ago(31), "null".to_owned(), "null".to_owned()),
        ("queue-due", "null".to_owned(), "null".to_owned(), ago(8)),
        ("held", "null".to_owned(), ago(31), "null".to_owned()),
        ("later", "null".to_owned(), ago(2), "null".to_owned()),
        ("failing", ago(31), "null".to_owned(), "null".to_owned()),
        ("asked-and-due", ago(31), "null".to_owned(), "null".to_owned()),
    ] {
        world.account(id, &deleted, &terminated, &cmq_disabled).await;
    }
    world
        .sql(
            "insert into retention.requests (account_id, reason, requested_by, accepted_by, accepted_at, due_by)
                 select account_id, 'r', 'b', 'b', now(), now() + interval '30 days' from accounts where account_id like 'asked%' order by account_id;
             insert into retention.request_parts (request_id, account_id, feature, data_class)
                 select id, account_id, 'mps', name from retention.requests, unnest(array['configuration', 'queue']) name;
             insert into retention.holds (account_id, reason, placed_by) values ('held', 'r', 'b');
             create function refuse() returns trigger language plpgsql as $$ begin raise 'not this one'; end $$;
             create trigger refuse before delete on queue_messages for each row when (old.account_id = 'failing') execute function refuse()",
        )
        .await;
    // One of the requests has a job, and is withdrawn.
    let app = world.app().await.unwrap();
    app.planner().look(Look::Poll).await.unwrap();
    app.database.close().await;
    assert_eq!(world.count("retention.jobs where account_id = 'asked-and-withdrawn' and starting_point = 'request'").await, 2);
    let requests = "retention.requests set withdrawn_at = now(), withdrawn_by = 'b', withdraw_reason = 'r'";
    world.sql(&format!("update {requests} where account_id = 'asked-and-withdrawn'")).await;
    world
}

/// Starts `run --once`, with a point armed. Whether it died there; leases of what it had claimed lapse.
async fn run(world: &World, armed: Option<String>) -> bool {
    let mut command = world.command(&["run", "--once"]);
    let output = command.envs(armed.iter().map(|point| (VARIABLE, point))).output().unwrap();
    let died = output.status.signal() == Some(ABORTED);
    // One job fails, whatever happens.
    assert!(died || output.status.code() == Some(1), "{armed:?}: {:?}", String::from_utf8_lossy(&output.stdout));
    assert!(armed.is_some() || !died);
    // The server may still be at what the dead process had sent.
    crate::world::until("the dead program's connections are gone", async || {
        world.count("pg_stat_activity where datname = current_database() and application_name = 'retentiond'").await == 0
    })
    .await;
    world.sql("update retention.jobs set lease_until = now() where lease_until is not null").await;
    died
}

/// What is there, without what depends on when and how often was tried.
async fn state(world: &World) -> Vec<String> {
    let mut connection = PgConnection::connect(&world.url).await.unwrap();
    let mut state = Vec::new();
    for query in [
        "select 'templates', account_id, count(*) from template_configurations group by 2",
        "select 'tasks', account_id, count(*) from task_configurations group by 2",
        "select 'messages', account_id, count(*) from queue_messages group by 2",
        "select 'media', account_id, count(*) from media_objects group by 2",
        "select account_id, data_class, state, starting_point, started_at, retain_until, delete_by, policy, records_deleted, outcomes,
                purge_began_at is not null, last_error, blocked_by, cancel_reason from retention.every_job",
        "select account_id, data_class, seen, admitted_at is not null, overdue_told_at is not null from retention.jobs",
        "select account_id, data_class, starting_point, started_at, places, residue, look_at is not null from retention.done_marks",
        "select j.account_id, j.data_class, l.level from retention.levels l join retention.every_job j on j.id = l.job_id",
        "select account_id, released from retention.admissions",
        "select account_id, accepted_at, withdrawn_at, fulfilled_told_at is not null from retention.requests",
        "select account_id, data_class, (select account_id || data_class || state from retention.history h where h.id = q.job_id) from retention.request_parts q",
        "select tripped_at, known_accounts from retention.guard",
        "select source, ordering, lower, upper, members, checksum, subjects from retention.roster",
        "select source, account_id, feature, confirmed_at is not null from retention.absences",
        "select account_id, data_class, starting_point, problem from retention.quarantine",
        "select kind from retention.passes",
        "with told as (
             select kind, reference, convert_from(entry, 'UTF8')::jsonb ->> 'event' as event from retention.ledger_entries
             union all select kind, reference, event from retention.ledger_pending)
         select t.kind, t.event, j.account_id, j.data_class, count(*) from told t left join retention.every_job j on t.kind = 'job' and j.id = t.reference
         group by 1, 2, 3, 4",
        "select singleton from retention.ledger l where size = (select count(*) from retention.ledger_entries)",
    ] {
        let rows = format!("select x::text from ({query}) x order by 1");
        state.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(rows)).fetch_all(&mut connection).await.unwrap());
    }
    state
}

fn assert_same(undisturbed: &[String], disturbed: &[String], how: &str) {
    let [before, after] = [undisturbed, disturbed].map(|state| state.iter().collect::<BTreeSet<_>>());
    assert_eq!(
        before.difference(&after).collect::<Vec<_>>(),
        after.difference(&before).collect::<Vec<_>>(),
        "{how}: undisturbed, disturbed"
    );
    assert_eq!(undisturbed.len(), disturbed.len(), "{how}");
}

async fn dies_at(point: &str, prepared: &World, undisturbed: &[String]) {
    // Once; in the run after that as well; and at its third passing, where there is one.
    for armed in [&[point.to_owned()][..], &[point.to_owned(), point.to_owned()], &[format!("{point}#3")]] {
        if armed[0].contains('#') && !point.starts_with("executor.") {
            continue;
        }
        let world = prepared.copy().await;
        for (i, point) in armed.iter().enumerate() {
            let died = run(&world, Some(point.clone())).await;
            assert!(died || i > 0 || point.contains('#'), "{point} was never reached");
        }
        run(&world, None).await;
        assert_same(undisturbed, &state(&world).await, &armed.join(", then "));
    }
}

#[test]
fn i8_killed_at_every_named_point_it_leaves_what_an_undisturbed_run_leaves() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (prepared, undisturbed) = runtime().block_on(async {
        let prepared = prepared().await;
        let world = prepared.copy().await;
        run(&world, None).await;
        (prepared, state(&world).await)
    });
    assert!(undisturbed.iter().any(|row| row.contains("not this one")), "the failing job has failed");
    for fulfilled in [
        "(asked,queue,askedqueuecompleted)",
        "(asked-and-ended,queue,asked-and-endedqueuecompleted)",
        "(asked-and-due,queue,asked-and-duequeuecompleted)",
        "(asked-and-withdrawn,queue,)",
    ] {
        assert!(undisturbed.iter().any(|row| row == fulfilled), "{fulfilled}: {undisturbed:?}");
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(point) = POINTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    runtime().block_on(dies_at(point, &prepared, &undisturbed));
                }
            });
        }
    });
}

#[test]
fn every_point_is_passed_by_the_code_and_no_other_name_is() {
    fn named(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                named(&path, found);
            } else {
                let text = std::fs::read_to_string(path).unwrap();
                found.extend(text.split("crash::point(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }
    let mut found = Vec::new();
    named(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found.sort_unstable();
    let mut points: Vec<String> = POINTS.iter().chain(&ELSEWHERE).chain(&OUTWARD).map(|point| (*point).to_owned()).collect();
    points.sort_unstable();
    assert_eq!(found, points);
}

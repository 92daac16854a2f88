//! What the screens cost the database: with very many jobs, no screen and no answer of the API reads a whole table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use retentiond::{app::Front, desk, http};
use tokio_util::sync::CancellationToken;

use crate::{client::send, world::World};

/// Jobs of each kind.
const JOBS: i64 = 30_000;

/// Many open jobs, many that are over, some holds, and accounts for all of them.
async fn crowded() -> World {
    let world = World::new().await;
    world
        .sql(&format!(
            "insert into accounts (account_id, region) select 'acc-' || n, 'ap-singapore' from generate_series(1, {JOBS}) n;
             insert into feature_subscriptions (account_id, feature, terminated_at, cmq_enabled)
                 select 'acc-' || n, 'mps', now() - interval '1 day' - n * interval '1 minute', false from generate_series(1, {JOBS}) n;
             insert into template_configurations (account_id, template_type, parameters) select 'acc-' || n, 'video', '{{}}' from generate_series(1, {JOBS}) n;
             insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, ready_at, policy, records_deleted)
                 select 'acc-' || n, 'mps', 'configuration', 'subscription_terminated', now() - interval '1 day' - n * interval '1 minute',
                        now() + interval '29 days' - n * interval '1 minute', now() + interval '30 days' - n * interval '1 minute', now() + interval '29 days' - n * interval '1 minute', 'p', '{{}}' from generate_series(1, {JOBS}) n;
             insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, records_deleted, count_exact, created_at, completed_at)
                 select -n, 'acc-' || n, 'mps', 'queue', 'completed', 'p', now() - interval '60 days', now() - interval '30 days', now() - interval '29 days', 'p', 1, '{{\"platform/queue_messages\": 3}}', true,
                        now() - interval '60 days', now() - n * interval '1 minute' from generate_series(1, {JOBS}) n;
             insert into retention.holds (account_id, reason, placed_by) select 'acc-' || n * 100, 'case', 'ada' from generate_series(1, 50) n;
             analyze"
        ))
        .await;
    world
}

/// How often each table was read from its beginning to its end.
async fn scans(world: &World) -> BTreeMap<String, i64> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select schemaname || '.' || relname, seq_scan from pg_stat_user_tables
         where relname in ('jobs', 'history', 'accounts', 'feature_subscriptions', 'template_configurations', 'task_configurations', 'queue_messages', 'ledger_entries')",
    )
    .fetch_all(&mut world.connect().await)
    .await
    .unwrap();
    rows.into_iter().collect()
}

/// Serves the desk alone, has every address asked, and waits until its connections have told what they did. Returns how often it counted the jobs beside.
async fn asked(world: &World, addresses: &[String]) -> i64 {
    let listener = http::bind("http.listen", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (addr, stop): (SocketAddr, _) = (listener.local_addr().unwrap(), CancellationToken::new());
    let probes = http::Ops::new(Vec::new, || std::future::ready(Vec::new()));
    let served = desk::serve(Front::new(Arc::new(world.config()), listener, stop.clone(), probes)).unwrap();
    let mut counted = BTreeSet::new();
    let ask = async {
        for address in addresses {
            let address = address.clone();
            let reply = tokio::task::spawn_blocking(move || (send(addr, "GET", &address, &[], b""), address)).await.unwrap();
            assert_eq!(reply.0.status, 200, "{}: {}", reply.1, &reply.0.body[..reply.0.body.len().min(300)]);
            let series = tokio::task::spawn_blocking(move || send(addr, "GET", "/api/v1/series", &[], b"")).await.unwrap();
            counted.insert(series.json()["counted_at"].as_str().expect("when").to_owned());
        }
        stop.cancel();
    };
    tokio::join!(served, ask);
    i64::try_from(counted.len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_screen_reads_a_whole_table() {
    let world = crowded().await;
    let id = world.jobs("acc-77").await[0].id.clone();
    let addresses: Vec<String> = [
        "/",
        "/jobs",
        "/jobs?state=open",
        "/jobs?state=completed",
        "/jobs?state=cancelled",
        "/jobs?state=running",
        "/jobs?order=due",
        "/jobs?overdue=true",
        "/jobs?held=true",
        "/jobs?data_class=queue",
        "/jobs?data_class=configuration",
        "/jobs?account_id=acc-77",
        "/jobs?account_id=nobody",
        "/explain?account=acc-77",
        "/plan",
        "/holds",
        "/guard",
        "/requests",
        "/activity",
        "/system",
        "/api/v1/status",
        "/api/v1/jobs?limit=500",
        "/api/v1/jobs?due_before=2026-01-01T00:00:00Z",
        "/api/v1/plan?until=2100-01-01T00:00:00Z&limit=100",
        "/api/v1/accounts/acc-77/explain",
        "/api/v1/past-holds",
        "/api/v1/requests",
        "/api/v1/acts",
        "/api/v1/guard",
        "/api/v1/policy",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([format!("/jobs/{id}"), format!("/api/v1/jobs/{id}"), format!("/api/v1/jobs/{id}/entries")])
    .collect();
    // The first look at the catalogue is told apart: it is the same for one job.
    asked(&world, &["/explain?account=acc-1".to_owned()]).await;
    let before = scans(&world).await;
    let counted = asked(&world, &addresses).await;
    let mut after = scans(&world).await;
    // What counts all open jobs reads them all, beside the screens and seldom.
    *after.get_mut("retention.jobs").unwrap() -= counted;
    assert!(counted < i64::try_from(addresses.len()).unwrap() / 2, "{counted}");
    assert_eq!(before, after);
    assert!(before.len() >= 7, "{before:?}");
}

//! The desk with a million open jobs and as many that are over: how long each screen takes, every one with the figures it shows.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use retentiond::{app::Front, desk, http};
use tokio_util::sync::CancellationToken;

use crate::{
    Bench,
    client::send,
    lab::{COPY, number},
    report::{Goal, Runs, figure, float, millis},
};

/// The screens, by name. `ID` stands for a job and `ACCOUNT` for its account.
const SCREENS: [(&str, &str); 14] = [
    ("overview", "/"),
    ("jobs", "/jobs"),
    ("jobs, overdue", "/jobs?overdue=true"),
    ("jobs, cancelled", "/jobs?state=cancelled"),
    ("jobs of a class", "/jobs?data_class=queue"),
    ("job", "/jobs/ID"),
    ("explain", "/explain?account=ACCOUNT"),
    ("plan", "/plan"),
    ("holds", "/holds"),
    ("guard", "/guard"),
    ("requests", "/requests"),
    ("activity", "/activity"),
    ("reports", "/reports"),
    ("system", "/system"),
];
/// How often each is asked for in a round.
const TIMES: usize = 10;

fn filled(jobs: u32) -> String {
    format!(
        "insert into accounts (account_id, region) select 'acc-' || n, 'ap-singapore' from generate_series(1, {jobs}) n;
         insert into feature_subscriptions (account_id, feature, terminated_at, cmq_enabled)
             select 'acc-' || n, 'mps', now() - interval '2 days' - n % 20000 * interval '1 minute', false from generate_series(1, {jobs}) n;
         insert into retention.jobs (account_id, feature, data_class, starting_point, started_at, retain_until, delete_by, ready_at, policy, records_deleted)
             select 'acc-' || n, 'mps', 'configuration', 'subscription_terminated', at, at + interval '30 days', at + interval '31 days', at + interval '30 days', 'p', '{{}}'
             from (select n, now() - interval '2 days' - n % 20000 * interval '1 minute' as at from generate_series(1, {jobs}) n) n;
         insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, records_deleted, count_exact, created_at, completed_at)
             select -n, 'acc-' || n, 'mps', 'queue', 'completed', 'subscription_terminated', now() - interval '60 days', now() - interval '40 days', now() - interval '39 days', 'p', 1,
                    '{{\"platform/queue_messages\": 3}}', true, now() - interval '60 days', now() - n % 40000 * interval '1 minute' from generate_series(1, {jobs}) n;
         insert into retention.holds (account_id, reason, placed_by) select 'acc-' || n * 100, 'case', 'ada' from generate_series(1, 50) n;
         analyze"
    )
}

pub(crate) async fn desk(bench: &mut Bench) {
    let (lab, jobs) = (&bench.lab, bench.sizes.history);
    lab.template("desk", "select 1").await;
    let mut conn = lab.copy("desk").await;
    crate::lab::sql(&mut conn, &filled(jobs)).await;
    let id = number(&mut conn, "select id from retention.jobs where account_id = 'acc-77'").await;
    let listener = http::bind("http.listen", "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (addr, stop): (SocketAddr, _) = (listener.local_addr().unwrap(), CancellationToken::new());
    let probes = http::Ops::new(Vec::new, || std::future::ready(Vec::new()));
    let config = lab.program(COPY, "enforce").config();
    let served = desk::serve(Front::new(Arc::clone(&config), listener, stop.clone(), probes)).unwrap();
    let times = tokio::task::spawn_blocking(move || {
        let ask = |address: &str| {
            let began = Instant::now();
            let reply = send(addr, "GET", address, &[], b"");
            assert_eq!(reply.status, 200, "{address}: {}", &reply.body[..reply.body.len().min(300)]);
            millis(began.elapsed())
        };
        // Until the jobs are counted once.
        while send(addr, "GET", "/api/v1/series", &[], b"").status != 200 {}
        let measured = SCREENS.map(|(name, address)| {
            let address = address.replace("ID", &id.to_string()).replace("ACCOUNT", "acc-77");
            ask(&address);
            let mut runs = Runs::default();
            // The rate that one client may ask at is not what is measured.
            (0..TIMES).for_each(|_| {
                runs.add(ask(&address));
                std::thread::sleep(std::time::Duration::from_millis(30));
            });
            (name, runs)
        });
        stop.cancel();
        measured
    });
    let ((), times) = tokio::join!(served, times);
    let what = format!("a screen beside {} open jobs and as many that are over", figure(float(i64::from(jobs))));
    for (at, (name, runs)) in times.unwrap().iter().enumerate() {
        let work = if at == 0 { format!("{what}: {name}") } else { format!("– {name}") };
        bench.table.limit(&work, "ms", runs, Goal::AtMost(200.0));
    }
    lab.drop("desk").await;
}

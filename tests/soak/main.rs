//! The soak: the program under everything at once, for as long as you like, and a judge that relies on nothing the program says.
//!
//! Three replicas purge what a busy platform ends and resumes, writes late and hard-deletes, while replicas are killed and frozen, connections
//! cut, Postgres and pgbouncer killed. `make soak` runs it for ten minutes; `SOAK=30m` for longer, `SOAK_SEED=…` repeats the plan of acts and
//! faults (not their interleaving), `SOAK_SABOTAGE=1` deletes what must not be deleted, to see that the judge finds it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a soak says what it expects, stops where it is not so, and prints what it found"
)]

mod dice;
mod faults;
mod judge;
#[path = "../support/pgbouncer.rs"]
mod pgbouncer;
mod platform;
#[path = "../support/proxy.rs"]
#[expect(dead_code, reason = "the tests of server faults need more of it")]
mod proxy;
mod replicas;
mod sabotage;
mod stops;
mod world;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use retentiond::{
    database::{Database, Purpose},
    safeguards::control::{self, Scope},
};

use crate::{dice::Dice, world::World};

/// How many of each kind of violation are printed.
const SHOWN: usize = 12;

fn main() -> ExitCode {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let length =
        given("SOAK").map_or(Duration::from_mins(10), |text| humantime::parse_duration(&text).expect("SOAK is a length of time, like 30m"));
    let seed = given("SOAK_SEED").map_or_else(
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |text| text.parse().expect("SOAK_SEED is a number"),
    );
    let sabotage = given("SOAK_SABOTAGE").is_some();
    println!("soak: {} with SOAK_SEED={seed}{}", humantime::format_duration(length), if sabotage { ", sabotaged" } else { "" });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if runtime.block_on(soak(length, seed, sabotage)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn soak(length: Duration, seed: u64, sabotaged: bool) -> bool {
    let world = Arc::new(World::new().await);
    let mut actor = 0;
    let mut dice = || {
        actor += 1;
        Dice::new(seed, actor)
    };
    let began = Instant::now();
    let replicas: Vec<_> = (0..3).map(|number| tokio::spawn(replicas::life(Arc::clone(&world), number, dice()))).collect();
    first_look(&world).await;
    if sabotaged {
        sabotage::early(&world).await;
    }
    let mut tasks: Vec<_> = (0..platform::ACTORS).map(|part| tokio::spawn(platform::actor(Arc::clone(&world), part, dice()))).collect();
    tasks.extend((0..2).map(|number| tokio::spawn(stops::person(Arc::clone(&world), number, dice()))));
    tasks.push(tokio::spawn(faults::network(Arc::clone(&world), dice())));
    tasks.push(tokio::spawn(faults::servers(Arc::clone(&world), dice())));
    while began.elapsed() < length {
        tokio::time::sleep(Duration::from_secs(30).min(length.saturating_sub(began.elapsed()))).await;
        progress(&world, began.elapsed()).await;
    }
    world.over.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    let mut running = Vec::new();
    for replica in replicas {
        running.push(replica.await.unwrap());
    }
    println!("acts and faults are over; waiting until nothing is left to do");
    release_everything(&world).await;
    judge::prepare(&world).await;
    let quiet = judge::quiet(&world, Duration::from_mins(3)).await;
    for replica in running {
        replica.stop(&world, true).await;
    }
    if sabotaged {
        sabotage::late(&world).await;
    }
    judge::judge(&world).await;
    summary(&world, length, seed, quiet).await;
    let found = world.violations();
    if sabotaged {
        let missed: Vec<_> = sabotage::FOUND.iter().filter(|invariant| !found.contains_key(**invariant)).collect();
        println!("sabotage: {}", if missed.is_empty() { "all of it was found".to_owned() } else { format!("NOT FOUND: {missed:?}") });
    }
    if !found.is_empty() {
        keep_logs(&world);
    }
    found.is_empty()
}

/// Only what a full look has seen can be missed: nothing happens before the first.
async fn first_look(world: &World) {
    let began = Instant::now();
    let looked = "select exists (select 1 from retention.passes where kind = 'resync')";
    while !sqlx::query_scalar::<_, bool>(looked).fetch_one(&mut world.connect().await).await.unwrap() {
        assert!(began.elapsed() < Duration::from_mins(1), "the first look does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn progress(world: &World, elapsed: Duration) {
    let asked = "select format('%s jobs completed, %s open, %s records deleted', count(*) filter (where state = 'completed'),
                 count(*) filter (where state in ('scheduled', 'running')), (select sum(cardinality(ids)) from soak.gone where by <> 'platform')) from retention.every_job";
    let mut connection = world.connect().await;
    // The server may be killed at this very moment.
    let said: String = sqlx::query_scalar(asked).fetch_one(&mut connection).await.unwrap_or_else(|e| format!("({e})"));
    let violations: usize = world.violations().values().map(Vec::len).sum();
    println!("{:>5} s: {said}; {violations} violations so far", elapsed.as_secs());
}

async fn release_everything(world: &World) {
    let database = Database::new(&World::config(&world.url).database).unwrap();
    let mut tx = database.begin(Purpose::Bulk).await.unwrap();
    for hold in control::holds(&mut tx).await.unwrap() {
        control::release_hold(&mut tx, hold.id.parse().unwrap(), "over", "soak").await.unwrap();
    }
    let pauses: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as("select distinct account_id, data_class from retention.pauses where resumed_at is null")
            .fetch_all(&mut *tx)
            .await
            .unwrap();
    for (account, data_class) in pauses {
        control::resume(&mut tx, &Scope { account, feature: None, data_class }, "over", "soak").await.unwrap();
    }
    control::release_guard(&mut tx, Duration::from_hours(24), "over", "soak").await.unwrap();
    Database::commit(tx).await.unwrap();
    database.close().await;
}

/// What can be pasted into a note.
async fn summary(world: &World, length: Duration, seed: u64, quiet: Option<Duration>) {
    let words = replicas::words(world);
    println!("\nwarnings and errors of the replicas");
    for (word, times) in &words {
        println!("  {times:>7}  {word}");
    }
    println!(
        "\nsoak of {}, seed {seed}: three replicas, {} accounts, {} bystanders",
        humantime::format_duration(length),
        platform::ACCOUNTS,
        platform::BYSTANDERS
    );
    for (what, times) in world.counts() {
        println!("  {times:>7}  {what}");
    }
    for (what, figure) in judge::figures(world).await {
        println!("  {what}: {figure}");
    }
    let (longest, act) = world.longest();
    println!("  longest wait of the platform for one act: {:.1} s ({act})", longest.as_secs_f64());
    match quiet {
        Some(time) => println!("  nothing left to do {:.0} s after acts and faults ended", time.as_secs_f64()),
        None => println!("  it never came to rest after acts and faults ended"),
    }
    let violations = world.violations();
    if violations.is_empty() {
        println!("  violations: none");
    }
    for (invariant, all) in &violations {
        println!("  VIOLATED {invariant}: {}", all.len());
        for what in all.iter().take(SHOWN) {
            println!("      {what}");
        }
    }
}

/// The logs of the replicas would go with the folder.
fn keep_logs(world: &World) {
    let kept = std::env::temp_dir().join(format!("retentiond-soak-logs-{}", std::process::id()));
    std::fs::create_dir_all(&kept).unwrap();
    for entry in std::fs::read_dir(world.folder.path()).unwrap().flatten() {
        if entry.path().extension().is_some_and(|e| e == "log") {
            std::fs::copy(entry.path(), kept.join(entry.file_name())).unwrap();
        }
    }
    println!("the replicas' logs are in {}", kept.display());
}

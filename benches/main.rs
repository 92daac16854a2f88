//! `make bench`: each work with the limit it is compared with, both sides in one run on the same server, interleaved, on fresh copies of the same
//! state; the medians, their ratio, what is to be reached and whether it is. `docs/performance.md` says how to read it.
//!
//! `cargo bench -- purge poll` measures these alone. `RETENTIOND_BENCH=quick` shrinks everything: does it run at all?
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement prints what it found and stops where the world is not as it should be"
)]

#[path = "../tests/support/bucket.rs"]
mod bucket;
#[path = "../tests/support/http.rs"]
#[expect(dead_code, reason = "tests look at more of an answer")]
mod client;
mod crowd;
mod desk;
mod fill;
mod lab;
mod ledger;
mod mysql;
mod objects;
mod peers;
mod plan;
mod platform;
mod plots;
mod program;
mod purge;
mod report;
#[path = "../tests/support/standin.rs"]
#[expect(dead_code, reason = "tests look at more of a request")]
mod standin;
mod svg;

use std::time::{Duration, Instant};

use lab::{Lab, number};
use peers::Peers;
use report::Table;

/// Every measurement, in the order of a run: those that share a template stand together.
const NAMES: [&str; 15] = [
    "skewed", "platform", "purge", "empty", "ledger", "mysql", "objects", "schedule", "replicas", "history", "desk", "poll", "compare",
    "memory", "plots",
];
/// A run that has taken longer leaves the plots out.
const PATIENCE: Duration = Duration::from_mins(16);

/// How large everything is.
#[derive(Clone, Copy)]
struct Sizes {
    quick: bool,
    runs: usize,
    /// Messages in the skewed queues.
    skewed: u32,
    /// Due accounts of ten rows.
    due: u32,
    /// Of these, how many a peer gets: it is slow, and its rate does not change.
    peer: u32,
    /// Versions of the objects of one account: few and many.
    versions: [u32; 2],
    /// Due accounts without rows.
    empty: u32,
    /// Entries of a long ledger.
    entries: u32,
    /// Newly ended subscriptions.
    ended: u32,
    /// Subscriptions of the looks.
    subscriptions: u32,
    /// Due jobs that two replicas share, or that are claimed beside the history.
    shared: u32,
    /// Finished jobs in the history.
    history: u32,
    /// Due accounts of the memory figure.
    memory: [u32; 3],
    /// Runs of each point of a plot.
    plotted: usize,
    growth: &'static [u32],
}

const FULL: Sizes = Sizes {
    quick: false,
    runs: 5,
    skewed: 5_000_000,
    due: 100_000,
    peer: 20_000,
    versions: [1_000, 100_000],
    empty: 50_000,
    entries: 1_000_000,
    ended: 1_000_000,
    subscriptions: 10_000_000,
    shared: 20_000,
    history: 1_000_000,
    memory: [10_000, 30_000, 100_000],
    plotted: 1,
    growth: &[10_000, 100_000, 1_000_000, 10_000_000],
};
const QUICK: Sizes = Sizes {
    quick: true,
    runs: 1,
    skewed: 250_000,
    due: 5_000,
    peer: 1_000,
    versions: [500, 5_000],
    empty: 5_000,
    entries: 30_000,
    ended: 20_000,
    subscriptions: 100_000,
    shared: 2_000,
    history: 20_000,
    memory: [1_000, 2_000, 10_000],
    plotted: 1,
    growth: &[10_000, 100_000],
};

/// The rounds of one measurement: as many as are wanted, but three when they take longer than they may.
pub(crate) struct Rounds {
    wanted: usize,
    done: usize,
    until: Instant,
}

impl Rounds {
    fn new(wanted: usize, at_most: Duration) -> Self {
        Self { wanted, done: 0, until: Instant::now() + at_most }
    }

    /// Whether there is another one.
    fn next(&mut self) -> bool {
        let more = self.done < self.wanted && (self.done < 3 || Instant::now() < self.until);
        self.done += 1;
        more
    }
}

/// One run of the benchmark.
pub(crate) struct Bench {
    lab: Lab,
    sizes: Sizes,
    table: Table,
    /// The template of the skewed queues is there.
    filled: bool,
}

impl Bench {
    /// The rounds of a measurement that may take so many seconds.
    fn rounds(&self, seconds: u64) -> Rounds {
        Rounds::new(self.sizes.runs, Duration::from_secs(seconds))
    }

    /// Makes the template of the skewed queues, once.
    async fn skewed(&mut self) {
        if !self.filled {
            self.lab.template("skewed", &fill::skewed(self.sizes.skewed)).await;
            self.lab.plan("skewed").await;
            self.filled = true;
        }
    }

    /// The rows that are due in it.
    async fn skewed_rows(&self) -> i64 {
        let due = "select count(*) from queue_messages natural join feature_subscriptions where terminated_at is not null";
        number(&mut self.lab.connect("skewed").await, due).await
    }
}

fn main() {
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if let Some(unknown) = only.iter().find(|o| !NAMES.contains(&o.as_str())) {
        panic!("there is no measurement {unknown}; there are {}", NAMES.join(", "));
    }
    let quick = std::env::vars().any(|(name, value)| name == "RETENTIOND_BENCH" && value == "quick");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let text = runtime.block_on(all(if quick { QUICK } else { FULL }, &only));
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::write(format!("{root}/target/bench.md"), &text).unwrap();
    if !quick && only.is_empty() {
        into_document(&format!("{root}/docs/performance.md"), &text);
    }
    println!("\n{text}\nwritten to target/bench.md");
}

/// Replaces what stands between the marks.
fn into_document(file: &str, text: &str) {
    const MARKS: (&str, &str) = ("<!-- figures -->\n", "<!-- /figures -->");
    let document = std::fs::read_to_string(file).unwrap();
    let (before, rest) = document.split_once(MARKS.0).expect("the first mark");
    let (_, after) = rest.split_once(MARKS.1).expect("the second mark");
    std::fs::write(file, format!("{before}{}{text}{}{after}", MARKS.0, MARKS.1)).unwrap();
}

async fn all(sizes: Sizes, only: &[String]) -> String {
    let began = Instant::now();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let mut bench = Bench { lab: Lab::open(), sizes, table: Table::default(), filled: false };
    let peers = if wanted("purge") || wanted("empty") { Peers::install() } else { Err("not asked for".to_owned()) };
    let mut looks = None;
    for name in NAMES.into_iter().filter(|name| wanted(name)) {
        let at = Instant::now();
        match name {
            "skewed" => purge::skewed(&mut bench).await,
            "platform" => platform::platform(&mut bench).await,
            "purge" => purge::uniform(&mut bench, &peers).await,
            "empty" => purge::empty(&mut bench, &peers).await,
            "ledger" => ledger::ledger(&mut bench).await,
            "desk" => desk::desk(&mut bench).await,
            "mysql" => mysql::mysql(&mut bench).await,
            "objects" => objects::objects(&mut bench).await,
            "schedule" => plan::schedule(&mut bench).await,
            "replicas" => crowd::replicas(&mut bench).await,
            "history" => crowd::history(&mut bench).await,
            "poll" | "compare" => {
                if looks.is_none() {
                    looks = Some(plan::looks(&bench.lab, sizes.subscriptions, sizes.runs, 60).await);
                }
                let looks = looks.as_ref().expect("they were taken");
                if name == "poll" { plan::poll(&mut bench, looks) } else { plan::compare(&mut bench, looks) }
            }
            "memory" => crowd::memory(&mut bench).await,
            _ if !only.is_empty() || began.elapsed() < PATIENCE => {
                plots::growth(&bench, looks.take()).await;
                plots::batches(&mut bench).await;
            }
            _ => eprintln!("the plots were left out: `cargo bench -- plots` makes them"),
        }
        eprintln!("{name}: {:.0} s", at.elapsed().as_secs_f64());
    }
    let machine = machine(&bench.lab, began.elapsed()).await;
    bench.table.finish(&machine)
}

async fn machine(lab: &Lab, took: Duration) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines().find_map(|l| l.strip_prefix(name)?.split_once(':').map(|(_, v)| v.trim().to_owned())).unwrap_or_else(|| "?".to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let server: String = sqlx::query_scalar("select version()").fetch_one(&mut lab.admin().await).await.unwrap();
    let memory = field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    format!(
        "{cores} cores ({}), {} GiB, Linux {}; {}; durable, 2 GB of shared buffers, data in memory; server, daemon and peers share the cores. \
         The run took {:.0} minutes.",
        field(&read("/proc/cpuinfo"), "model name"),
        memory / 1_048_576,
        read("/proc/sys/kernel/osrelease").trim(),
        server.split(" on ").next().unwrap_or_default(),
        took.as_secs_f64() / 60.0
    )
}

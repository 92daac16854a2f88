//! The program as it is shipped, as a child whose memory is watched and whose log is read.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use chrono::{DateTime, Utc};
use retentiond::config::{self, Config, Needs};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, RULES};

/// The most memory that any run of the program has used, in KiB.
static MOST: AtomicU64 = AtomicU64::new(0);
/// Names the files of a run.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// What is to be run.
pub(crate) struct Program<'a> {
    lab: &'a Lab,
    rules: String,
    settings: BTreeMap<String, String>,
}

impl<'a> Program<'a> {
    pub(crate) fn new(lab: &'a Lab, mode: &str) -> Self {
        let program = Self { lab, rules: RULES.to_owned(), settings: BTreeMap::new() };
        program.set("MODE", mode).set("GUARD__MAX_ACCOUNTS", "unlimited").set("GUARD__MAX_SHARE", "100%")
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(format!("RETENTIOND__{key}"), value.to_owned());
        self
    }

    pub(crate) fn workers(self, workers: Option<u32>) -> Self {
        match workers {
            Some(workers) => self.set("EXECUTOR__CONCURRENCY", &workers.to_string()),
            None => self,
        }
    }

    /// Only queues, and those in another store: what it is, and the place there.
    pub(crate) fn elsewhere(self, store: &str, place: &str) -> Self {
        let mut program = self.queue_only();
        let (before, after) = program.rules.split_once("[[data_classes.targets]]").expect("a first target");
        let (_, after) = after.split_once("[[data_classes]]").expect("the class of media");
        program.rules = format!(
            "{before}[[data_classes.targets]]\nstore = \"elsewhere\"\n{place}\n\n[[data_classes]]{after}\n[stores.elsewhere]\n{store}\n"
        );
        program
    }

    /// The shipped rules without the class `configuration`: a subscription that ends makes one job.
    pub(crate) fn queue_only(mut self) -> Self {
        let (before, rest) = self.rules.split_once("[[data_classes]]").expect("a first class");
        let (_, after) = rest.split_once("[[data_classes]]\n").expect("a second class");
        self.rules = format!("{before}[[data_classes]]\n{after}");
        self
    }

    /// What the program would read, for measurements inside this process.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::new(config::parse(&[("retentiond.toml", &self.rules)], &self.settings, Needs::Database).expect("configuration"))
    }

    /// `run --once`, to its end.
    pub(crate) fn run(&self) -> Ran {
        self.start(&["run", "--once"]).wait()
    }

    pub(crate) fn start(&self, words: &[&str]) -> Running {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let (log, rules) = (self.lab.file(&format!("{run}.log")), self.lab.file(&format!("{run}.toml")));
        std::fs::write(&rules, &self.rules).expect("the rules");
        let child = Command::new(env!("CARGO_BIN_EXE_retentiond"))
            .args(words)
            .arg("-c")
            .arg(&rules)
            .env_clear()
            .envs(&self.settings)
            .stdin(Stdio::null())
            .stdout(File::create(&log).expect("the log"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program");
        let pid = child.id();
        Running { pid, log, watch: std::thread::spawn(move || watch(child)) }
    }
}

/// A run that has begun.
pub(crate) struct Running {
    pub(crate) pid: u32,
    log: PathBuf,
    watch: JoinHandle<bool>,
}

impl Running {
    pub(crate) fn lives(&self) -> bool {
        !self.watch.is_finished()
    }

    /// Tells a daemon to end, and waits until it has.
    pub(crate) fn stop(self) -> Ran {
        let pid = Pid::from_raw(self.pid.cast_signed()).expect("a process");
        kill_process(pid, Signal::TERM).expect("the daemon runs");
        self.wait()
    }

    pub(crate) fn wait(self) -> Ran {
        let succeeded = self.watch.join().expect("the watch");
        if !succeeded {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let bad: Vec<&str> = text.lines().filter(|l| !l.contains("\"level\":\"info\"")).take(20).collect();
            panic!("the program failed:\n{}", bad.join("\n"));
        }
        let ran = Ran::read(&self.log);
        let _gone = std::fs::remove_file(&self.log);
        ran
    }
}

/// A figure in KiB from what Linux says of a process.
pub(crate) fn memory(pid: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
}

/// Waits for the child. The peak is a high-water mark, so that looking now and then misses nothing but the last instants.
fn watch(mut child: Child) -> bool {
    loop {
        MOST.fetch_max(memory(child.id(), "VmHWM").unwrap_or(0), Ordering::Relaxed);
        if let Some(status) = child.try_wait().expect("the child") {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Forgets what was used so far, and says how much that was, in KiB.
pub(crate) fn take_memory() -> u64 {
    MOST.swap(0, Ordering::Relaxed)
}

/// So much was used as well.
pub(crate) fn used_memory(kib: u64) {
    MOST.fetch_max(kib, Ordering::Relaxed);
}

/// What the log of a run tells.
#[derive(Default)]
pub(crate) struct Ran {
    /// When the full comparison had ended.
    pub(crate) compared: DateTime<Utc>,
    /// How long it took.
    pub(crate) comparison: Duration,
    /// When the last job was completed.
    pub(crate) ended: DateTime<Utc>,
    pub(crate) completed: i64,
    /// The longest batch.
    pub(crate) longest: Duration,
}

impl Ran {
    fn read(log: &PathBuf) -> Self {
        let mut ran = Self::default();
        let mut last = None;
        for line in BufReader::new(File::open(log).expect("the log")).lines().map(|line| line.expect("a line")) {
            if line.contains("\"batch.deleted\"") {
                ran.longest = ran.longest.max(duration(&line));
            } else if line.contains("\"job.completed\"") {
                ran.completed += 1;
                last = Some(line);
            } else if line.contains("\"poll.completed\"") && ran.comparison.is_zero() {
                (ran.compared, ran.comparison) = (instant(&line), duration(&line).max(Duration::from_millis(1)));
            }
        }
        ran.ended = last.map_or(ran.compared, |line| instant(&line));
        ran
    }

    /// From the end of the full comparison to the last completion: the purge alone.
    pub(crate) fn purge(&self) -> Duration {
        (self.ended - self.compared).to_std().expect("time goes forward")
    }
}

fn instant(line: &str) -> DateTime<Utc> {
    let value: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
    value["ts"].as_str().and_then(|ts| ts.parse().ok()).expect("ts")
}

/// Read without parsing the line: there are as many as there are jobs.
fn duration(line: &str) -> Duration {
    let digits = line.split_once("\"duration_ms\":").expect("duration_ms").1;
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    Duration::from_millis(digits.parse().expect("a number"))
}

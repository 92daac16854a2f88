//! What the platform feels: its own small transactions, timed from the instant they were scheduled for, with and without a purge beside them.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use chrono::{DateTime, Utc};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Bench, fill,
    lab::{COPY, Lab, pause},
    report::{Goal, Runs, float},
};

/// Seconds without a purge before it.
const QUIET: u64 = 6;
/// Seconds that are not counted: connections are made and plans are prepared.
const WARM: u64 = 2;

/// A message comes in, ten of the same account are read; an account that lives on.
fn script() -> String {
    let id = fill::ID.replace("n::", ":n::");
    format!(
        "\\set n random(0, 999) * 10 + 1\n\
         insert into queue_messages (account_id, event_type, session_context, request_id) values ({id}, 'WorkflowTask', repeat('x', 200), gen_random_uuid());\n\
         select message_id, event_type, created_at from queue_messages where account_id = {id} limit 10;\n"
    )
}

/// `PGBIN`, the packages, or `PATH`.
fn pgbench() -> Option<PathBuf> {
    let named = std::env::vars_os().filter(|(name, _)| name == "PGBIN").map(|(_, value)| PathBuf::from(value));
    let mut packaged: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin")).collect();
    packaged.sort_by_key(|p| std::cmp::Reverse(p.parent().and_then(|p| p.file_name()?.to_str()?.parse::<u32>().ok())));
    let paths: Vec<PathBuf> = std::env::vars_os()
        .filter(|(name, _)| name == "PATH")
        .flat_map(|(_, value)| std::env::split_paths(&value).collect::<Vec<_>>())
        .collect();
    named.chain(packaged).chain(paths).map(|dir| dir.join("pgbench")).find(|program| program.is_file())
}

/// The platform at work.
struct Platform {
    child: Child,
    log: PathBuf,
}

impl Platform {
    /// 300 transactions per second, as they come and not as they are answered.
    fn start(lab: &Lab, pgbench: &Path) -> Self {
        let (script_file, log) = (lab.file("platform.sql"), lab.file("platform"));
        std::fs::write(&script_file, script()).expect("the script");
        let child = Command::new(pgbench)
            .args(["-n", "-M", "prepared", "-c", "4", "-j", "1", "-R", "300", "-T", "3600", "-l", "--log-prefix"])
            .arg(&log)
            .arg("-f")
            .arg(&script_file)
            .arg(lab.url(COPY))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbench");
        Self { child, log }
    }

    /// Ends it as its own timer would, so that its log is whole. Yields when each transaction ended, and its milliseconds since it was scheduled.
    fn stop(mut self) -> Vec<(f64, f64)> {
        kill_process(Pid::from_child(&self.child), Signal::ALARM).expect("pgbench runs");
        let log = PathBuf::from(format!("{}.{}", self.log.display(), self.child.id()));
        self.child.wait().expect("pgbench");
        let text = std::fs::read_to_string(log).expect("the log of pgbench");
        let number = |word: Option<&&str>| word.and_then(|w| w.parse::<f64>().ok()).expect("a number");
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                (number(words.get(4)) + number(words.get(5)) / 1e6, number(words.get(2)) / 1e3)
            })
            .collect()
    }
}

/// The share of a list that is not slower.
fn quantile(times: &[(f64, f64)], from: DateTime<Utc>, to: DateTime<Utc>, permille: usize) -> f64 {
    let seconds = |at: DateTime<Utc>| float(at.timestamp_micros()) / 1e6;
    let mut within: Vec<f64> = times.iter().filter(|(at, _)| *at >= seconds(from) && *at <= seconds(to)).map(|(_, took)| *took).collect();
    within.sort_by(f64::total_cmp);
    within.get((within.len() * permille / 1_000).min(within.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::disallowed_methods, reason = "pgbench and the log of the program carry this clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

pub(crate) async fn platform(bench: &mut Bench) {
    let work = "the platform's 300 transactions/s while a large purge runs: p99";
    let Some(pgbench) = pgbench() else {
        bench.table.missing(work, "there is no pgbench: PGBIN names the folder that has it");
        return;
    };
    bench.skewed().await;
    let lab = &bench.lab;
    let (mut quiet_50, mut quiet_99, mut busy_50, mut busy_99) = (Runs::default(), Runs::default(), Runs::default(), Runs::default());
    let mut rounds = bench.rounds(100);
    while rounds.next() {
        drop(lab.copy("skewed").await);
        let platform = Platform::start(lab, &pgbench);
        pause(WARM).await;
        let from = now();
        pause(QUIET).await;
        let to = now();
        let ran = lab.program(COPY, "enforce").run();
        let times = platform.stop();
        quiet_50.add(quantile(&times, from, to, 500));
        quiet_99.add(quantile(&times, from, to, 990));
        busy_50.add(quantile(&times, ran.compared, ran.ended, 500));
        busy_99.add(quantile(&times, ran.compared, ran.ended, 990));
    }
    let with = "the same without a purge";
    bench.table.compare(work, "ms", &busy_99, with, &quiet_99, Goal::AtMost(1.5));
    bench.table.compare("– p50", "ms", &busy_50, with, &quiet_50, Goal::None);
}

//! The program itself, several times, each of which is killed, stopped and frozen past its lease.

use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{dice::Dice, world::World};

/// One replica; killed when dropped.
pub(crate) struct Replica {
    child: Child,
    log: PathBuf,
    path: &'static str,
}

impl Replica {
    fn start(world: &World, number: u64, generation: u64) -> Self {
        // The first and the third pool, the second does not; none has a way around a proxy.
        let (path, port) = if number == 1 { ("direct", world.direct.port()) } else { ("pooled", world.pooled.port()) };
        let log = world.folder.path().join(format!("replica-{number}-{generation}.log"));
        let file = File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_retentiond"))
            .arg("--config")
            .arg(world.rules())
            .arg("run")
            .env_clear()
            .envs(World::settings(&world.through(port)))
            .current_dir(world.folder.path())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log, path }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; `None` when it does not come.
    async fn ended(&mut self) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(40) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// It has not ended without being asked.
    fn check(&mut self, world: &World) -> bool {
        match self.child.try_wait().unwrap() {
            None => true,
            Some(status) => {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                world.violated(
                    "program",
                    format!("a {} replica ended by itself with {status}: {}", self.path, log.lines().last().unwrap_or_default()),
                );
                false
            }
        }
    }

    /// Asks it to stop and judges how it does.
    pub(crate) async fn stop(mut self, world: &World, undisturbed: bool) {
        if !self.check(world) {
            return;
        }
        self.signal(Signal::TERM);
        match self.ended().await.map(|status| status.code()) {
            Some(Some(0)) => {}
            // Its statements had to be cancelled, because somebody held the database up.
            Some(Some(75)) if !undisturbed => world.did("(replica: stopped with 75)"),
            other => world.violated("program", format!("a {} replica asked to stop ended with {other:?}", self.path)),
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Runs one replica and does things to it until everything is over; then it runs undisturbed.
pub(crate) async fn life(world: Arc<World>, number: u64, mut dice: Dice) -> Replica {
    let mut generation = 0;
    loop {
        let mut replica = Replica::start(&world, number, generation);
        generation += 1;
        loop {
            let goes_on = world.rest(dice.millis(4_000, 22_000)).await;
            if !replica.check(&world) {
                break;
            }
            if !goes_on {
                return replica;
            }
            match dice.below(10) {
                0..4 => {
                    world.did("replica killed");
                    break;
                }
                4..7 => {
                    world.did("replica asked to stop");
                    replica.stop(&world, false).await;
                    replica = Replica::start(&world, number, generation);
                    generation += 1;
                }
                _ => {
                    world.did("replica frozen past its lease");
                    replica.signal(Signal::STOP);
                    tokio::time::sleep(dice.millis(5_500, 12_000)).await;
                    replica.signal(Signal::CONT);
                }
            }
        }
        drop(replica);
        tokio::time::sleep(dice.millis(0, 3_000)).await;
    }
}

/// What the replicas logged as warnings and errors, by event.
pub(crate) fn words(world: &World) -> BTreeMap<String, u64> {
    let mut words = BTreeMap::new();
    for entry in std::fs::read_dir(world.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "log") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // A replica that was killed may have been in the middle of its last line.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let Ok(event) = serde_json::from_str::<Value>(line) else {
                world.violated("program", format!("a line of the log is no JSON: {line}"));
                continue;
            };
            let name = event["event"].as_str().unwrap_or("(without a name)");
            if name == "daemon.panicked" {
                world.violated("program", line.to_owned());
            }
            if event["level"] == "warn" || event["level"] == "error" {
                let error = ["error", "last_error"].into_iter().find_map(|key| event[key].as_str()).unwrap_or_default();
                let why: String = error.chars().take(90).filter(|c| !c.is_ascii_digit()).collect();
                let separator = if why.is_empty() { "" } else { ": " };
                *words.entry(format!("{name}{separator}{why}")).or_default() += 1;
            }
        }
    }
    words
}

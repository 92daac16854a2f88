//! How the process ends: told to stop, it finishes what runs; out of time or told again, it cancels (contract §5).
//! Also the one place that spawns: a task that nobody waits for would be cut off in the middle of a batch.

use std::{
    fmt, io,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long running batches may take after the first signal. Container engines kill after 30 s or more.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// How long cancelled work may take to roll back before the process leaves anyway.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All work was finished; exit 0.
    Drained,
    /// Work was cancelled; exit 75.
    TimedOut,
}

/// A task that should have run until the stop did not; exit 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} {how}")]
pub struct TaskFailed {
    /// The name it was spawned under.
    pub name: &'static str,
    /// What it did instead.
    pub how: Failure,
}

/// What a failed task did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The panic itself is in the log.
    Panicked,
    /// Before it was told to.
    Ended,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panicked => "panicked",
            Self::Ended => "ended before it was told to",
        })
    }
}

/// What work watches to know when to end. Clones watch the same end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Start nothing new, finish the running batch, give leases back.
    pub soft: CancellationToken,
    /// Give up now: cancel the statement, roll back. Never before `soft`.
    pub hard: CancellationToken,
}

/// SIGTERM and SIGINT. From its creation on they no longer kill the process, and one that arrives early is kept.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Takes over both signals. Must be called inside the runtime.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// SIGHUP. From its creation on it no longer kills the process, and one that arrives early is kept.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Takes over the signal. Must be called inside the runtime.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one; several that come at once are one.
    pub async fn next(&mut self) {
        let _ = self.0.recv().await;
    }
}

/// The tasks of the process and their end.
#[derive(Debug)]
pub struct Lifecycle {
    stop: Stop,
    tasks: TaskTracker,
    failed: Arc<OnceLock<TaskFailed>>,
    limit: Duration,
}

impl Lifecycle {
    /// No tasks yet; at most `limit` between the soft and the hard stop, [`DRAIN_LIMIT`] in the daemon.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { stop: Stop::default(), tasks: TaskTracker::new(), failed: Arc::default(), limit }
    }

    /// What work watches. Cancelling `soft` stops the process as a signal does; `run --once` ends that way.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Runs `task` until the stop. If it panics at any time, or ends before the soft stop, the process stops and
    /// [`Lifecycle::run`] tells which one it was.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (soft, failed) = (self.stop.soft.clone(), Arc::clone(&self.failed));
        self.tasks.spawn(async move {
            // Nothing of the task is looked at again after a panic.
            let how = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) if soft.is_cancelled() => return,
                Ok(()) => Failure::Ended,
                Err(_) => Failure::Panicked,
            };
            let failure = TaskFailed { name, how };
            tracing::error!(event = "daemon.task_failed", task = name, "{failure}");
            // The first one is the cause; what fell with it is in the log.
            let _ = failed.set(failure);
            soft.cancel();
        });
    }

    /// Waits for the stop, then for the tasks. Returns at the latest two seconds after the hard stop.
    ///
    /// # Errors
    /// When a task failed, whatever the others did afterwards.
    pub async fn run(self, mut signals: Signals) -> Result<Ended, TaskFailed> {
        self.end(async || signals.next().await).await
    }

    async fn end(self, mut signal: impl AsyncFnMut() -> &'static str) -> Result<Ended, TaskFailed> {
        let Self { stop, tasks, failed, limit } = self;
        let reason = tokio::select! {
            signal = signal() => signal,
            () = stop.soft.cancelled() => if failed.get().is_some() { "task failed" } else { "done" },
        };
        stop.soft.cancel();
        tasks.close();
        tracing::info!(
            event = "daemon.stopping",
            reason,
            tasks = tasks.len(),
            drain_limit_seconds = limit.as_secs_f64(),
            "finishing running batches; a second signal cancels them"
        );
        let reason = tokio::select! {
            biased;
            () = tasks.wait() => None,
            signal = signal() => Some(signal),
            () = sleep(limit) => Some("drain limit"),
        };
        stop.hard.cancel();
        if let Some(reason) = reason {
            tracing::warn!(event = "daemon.cancelling", reason, tasks = tasks.len(), "cancelling");
            if timeout(CANCEL_LIMIT, tasks.wait()).await.is_err() {
                tracing::error!(event = "daemon.abandoning", tasks = tasks.len(), "leaving");
            }
        }
        match (failed.get(), reason) {
            (Some(failure), _) => Err(*failure),
            (None, None) => Ok(Ended::Drained),
            (None, Some(_)) => Ok(Ended::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rustix::process::{Signal as Kill, getpid, kill_process};
    use tokio::{sync::oneshot, time::Instant};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(25);

    async fn no_signal() -> &'static str {
        pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_the_running_batch_and_reports_drained() {
        let lifecycle = Lifecycle::new(LIMIT);
        let (stop, start) = (lifecycle.stop(), Instant::now());
        let (finished, batch) = oneshot::channel();
        lifecycle.spawn("executor", async move {
            stop.soft.cancelled().await;
            sleep(Duration::from_secs(24)).await;
            assert!(!stop.hard.is_cancelled());
            finished.send(()).unwrap();
        });
        lifecycle.stop().soft.cancel();
        assert_eq!(lifecycle.end(no_signal).await, Ok(Ended::Drained));
        batch.await.expect("the batch was cut off");
        assert_eq!(start.elapsed().as_secs(), 24);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_work_is_cancelled_and_may_roll_back() {
        let lifecycle = Lifecycle::new(LIMIT);
        let (stop, start) = (lifecycle.stop(), Instant::now());
        let (rolled_back, batch) = oneshot::channel();
        lifecycle.spawn("executor", async move {
            stop.hard.cancelled().await;
            sleep(Duration::from_secs(1)).await;
            rolled_back.send(start.elapsed()).unwrap();
        });
        lifecycle.stop().soft.cancel();
        assert_eq!(lifecycle.end(no_signal).await, Ok(Ended::TimedOut));
        assert_eq!(batch.await.expect("no time to roll back").as_secs(), 26);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_never_ends_cannot_hold_the_process() {
        let lifecycle = Lifecycle::new(LIMIT);
        let start = Instant::now();
        lifecycle.spawn("stuck", pending());
        lifecycle.stop().soft.cancel();
        assert_eq!(lifecycle.end(no_signal).await, Ok(Ended::TimedOut));
        assert_eq!(start.elapsed(), LIMIT + CANCEL_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_everything_and_names_its_task() {
        let lifecycle = Lifecycle::new(LIMIT);
        let stop = lifecycle.stop();
        let (finished, other) = oneshot::channel();
        lifecycle.spawn("planner", async move {
            stop.soft.cancelled().await;
            finished.send(()).unwrap();
        });
        lifecycle.spawn("executor", async { panic!("of the test") });
        let failure = lifecycle.end(no_signal).await.unwrap_err();
        assert_eq!(failure, TaskFailed { name: "executor", how: Failure::Panicked });
        assert_eq!(failure.to_string(), "executor panicked");
        other.await.expect("the other task was not allowed to finish");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_unasked_fails_the_process() {
        let lifecycle = Lifecycle::new(LIMIT);
        lifecycle.spawn("planner", async {});
        let failure = lifecycle.end(no_signal).await.unwrap_err();
        assert_eq!(failure, TaskFailed { name: "planner", how: Failure::Ended });
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_during_the_drain_is_still_a_failure() {
        let lifecycle = Lifecycle::new(LIMIT);
        let stop = lifecycle.stop();
        lifecycle.spawn("executor", async move {
            stop.soft.cancelled().await;
            panic!("of the test");
        });
        lifecycle.stop().soft.cancel();
        assert_eq!(lifecycle.end(no_signal).await.unwrap_err().name, "executor");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_ends_the_process_by_itself() {
        let lifecycle = Lifecycle::new(LIMIT);
        let stop = lifecycle.stop();
        lifecycle.spawn("once", async move { stop.soft.cancel() });
        assert_eq!(lifecycle.end(no_signal).await, Ok(Ended::Drained));
    }

    /// The only test that takes signals: they reach every listener of the process.
    #[tokio::test]
    async fn the_first_signal_stops_and_the_second_cancels() {
        let lifecycle = Lifecycle::new(Duration::from_hours(1));
        let stop = lifecycle.stop();
        lifecycle.spawn("executor", async move {
            kill_process(getpid(), Kill::TERM).unwrap();
            stop.soft.cancelled().await;
            assert!(!stop.hard.is_cancelled());
            kill_process(getpid(), Kill::INT).unwrap();
            stop.hard.cancelled().await;
        });
        let signals = Signals::listen().unwrap();
        assert_eq!(lifecycle.run(signals).await, Ok(Ended::TimedOut));
    }
}

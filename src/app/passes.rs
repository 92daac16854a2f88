//! The loops of the daemon, under one configuration: each asks one pass to do its work and rests in between. A reload ends them and begins them anew.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{App, changed, daemon::Daemon, worker_name};
use crate::{
    config::Config,
    database::DatabaseError,
    executor::{Executor, Step, Worker},
    heartbeat,
    ledger::{Ledger, LedgerError},
    levels::Levels,
    metrics,
    model::Mode,
    planner::{self, Look, Planner},
    safeguards::agreement::Agreement,
    verifier::Verifier,
};

/// Completed jobs are followed at least so often.
const FOLLOWED: Duration = Duration::from_mins(1);
/// Looks that are asked for are so far apart at least.
const WAKES: Duration = Duration::from_secs(1);
/// How often the daemon forgets records of its own.
const FORGOTTEN: Duration = Duration::from_hours(1);

/// The loops and what they share.
pub(super) struct Passes<'a> {
    pub(super) daemon: &'a Daemon,
    pub(super) app: &'a App,
    pub(super) config: Arc<Config>,
    /// Begin nothing new: the process stops, or another configuration takes over.
    pub(super) end: CancellationToken,
}

impl Passes<'_> {
    /// Plans and purges until the end.
    pub(super) async fn run(&self) {
        let beats = &self.daemon.health.beats;
        // On the heap: all of them together are too large for a stack.
        let (executor, verifier, ledger) = (self.app.executor(), self.app.verifier(), self.app.ledger());
        let levels = self.app.levels().inspect_err(|error| {
            tracing::warn!(event = "levels.failed", error = %error, "nothing is followed to further levels of erasure");
        });
        let following = async {
            if let Ok(levels) = &levels {
                beats.watch("levels", Box::pin(self.follow(levels))).await;
            }
        };
        let (planning, tidying) = (beats.watch("planner", Box::pin(self.plan())), beats.watch("upkeep", Box::pin(self.tidy(&executor))));
        let (verifying, watching) =
            (beats.watch("verifier", Box::pin(self.verify(&verifier))), beats.watch("coverage", Box::pin(self.watch(&verifier))));
        let forgetting = beats.watch("records", Box::pin(self.forget()));
        let (writing, checking) = (
            beats.watch("ledger", Box::pin(self.write_ledger(&ledger))),
            beats.watch("ledger check", Box::pin(self.check_ledger(&ledger))),
        );
        let purging = (0..self.config.executor.concurrency)
            .map(|i| beats.watch("workers", Box::pin(self.purge(executor.worker(worker_name(i)).until(self.end.clone()), &executor))));
        let ours = futures_util::future::join4(following, forgetting, writing, checking);
        tokio::join!(planning, tidying, verifying, watching, ours, futures_util::future::join_all(purging));
    }

    /// Looks at the source every `poll.interval`, and compares everything every `poll.resync_interval` and at the start.
    async fn plan(&self) {
        let planner = self.app.planner();
        let mut failures = 0;
        while !self.end.is_cancelled() {
            let began = Instant::now();
            let pause = match self.look(&planner).await {
                Ok(None) => {
                    failures = 0;
                    self.config.poll.interval
                }
                Ok(Some((look, report))) => {
                    failures = 0;
                    planner::tell_look(look, &report, began.elapsed());
                    self.daemon.health.looked.store(true, Ordering::Relaxed);
                    self.daemon.news.notify_waiters();
                    self.config.poll.interval
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "poll.failed", error = %error, sqlstate = error.sqlstate(), failures, "the look failed and will be taken again");
                    backoff(failures)
                }
            };
            tokio::select! {
                () = self.rest(pause) => {}
                // However often somebody says so.
                () = async {
                    tokio::time::sleep(WAKES.min(pause)).await;
                    self.daemon.wake.notified().await;
                } => {}
            }
        }
    }

    /// A look under the policy in force; none while another one is.
    async fn look(&self, planner: &Planner) -> Result<Option<(Look, planner::Report)>, DatabaseError> {
        // Only a start brings a policy into force by itself: else a replica that runs on with an older file would take back what was accepted.
        let agreement = if self.daemon.health.agreed.load(Ordering::Relaxed) { self.app.agreement().await } else { self.app.agree().await };
        let agreement = agreement.inspect_err(|_| metrics::polled(Look::Poll.as_str(), false))?;
        self.daemon.health.agreed.store(true, Ordering::Relaxed);
        let waiting = matches!(agreement, Agreement::Waiting(_));
        let was_waiting = self.daemon.health.waiting.swap(waiting, Ordering::Relaxed);
        if let Agreement::Waiting(changes) = agreement {
            if !was_waiting {
                let (policy, changes) = (self.app.policy.terms.hash(), changed(&changes));
                tracing::error!(
                    event = "policy.waiting",
                    policy,
                    changes,
                    "another policy is in force than this configuration asks for: nothing is planned or purged here until somebody accepts it"
                );
            }
            return Ok(None);
        }
        if was_waiting {
            tracing::info!(
                event = "policy.accepted",
                policy = self.app.policy.terms.hash(),
                "the policy of this configuration is in force"
            );
        }
        // Nothing is purged before it is known that this is no older database than the ledger's files know.
        if !self.daemon.health.looked.load(Ordering::Relaxed) {
            match self.app.ledger().recognize().await {
                // The guard stands in the way now, of purges and not of looks.
                Ok(()) | Err(LedgerError::Behind { .. } | LedgerError::Broken(_)) => {}
                Err(error) => return Err(DatabaseError::Refused(error.to_string())),
            }
        }
        // Whatever was noted before this start, it is compared anew: things may have changed while nobody looked (I9).
        let look = if self.daemon.health.looked.load(Ordering::Relaxed) { planner.due_look().await } else { Ok(Look::Resync) };
        let look = look.inspect_err(|_| metrics::polled(Look::Poll.as_str(), false))?;
        let report = planner.look(look).await;
        metrics::polled(look.as_str(), report.is_ok());
        Ok(Some((look, report?)))
    }

    async fn tidy(&self, executor: &Executor) {
        let mut failures = 0;
        while !self.end.is_cancelled() {
            let pause = match executor.tidy().await {
                Ok(()) => {
                    failures = 0;
                    self.config.poll.interval
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "tidy.failed", error = %error, failures, "will be tried again");
                    backoff(failures)
                }
            };
            self.rest(pause).await;
        }
    }

    /// Numbers and signs what was done, and lets the files keep up.
    async fn write_ledger(&self, ledger: &Ledger) {
        let mut failures = 0;
        while !self.end.is_cancelled() {
            let pause = match ledger.pass().await {
                Ok(_) => {
                    failures = 0;
                    self.config.poll.interval
                }
                // These are said once, where they are found, and stop every purge.
                Err(LedgerError::Behind { .. } | LedgerError::Broken(_)) => self.config.poll.interval,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "ledger.failed", error = %error, failures, "entries wait for their number; it is tried again");
                    backoff(failures)
                }
            };
            self.rest(pause).await;
        }
    }

    /// Looks every `verifier.interval` whether the ledger is what was signed.
    async fn check_ledger(&self, ledger: &Ledger) {
        while !self.end.is_cancelled() {
            if let Err(error) = ledger.check_and_mark().await {
                tracing::warn!(event = "ledger.failed", error = %error, failures = 1, "the ledger could not be checked; it is tried again");
            }
            self.rest(self.config.verifier.interval).await;
        }
    }

    /// Looks every `verifier.interval` for what nobody thought of. After a failure too: it may read very much.
    async fn watch(&self, verifier: &Verifier) {
        while !self.end.is_cancelled() {
            if let Err(error) = verifier.watch().await {
                tracing::warn!(event = "verify.failed", error = %error, sqlstate = error.sqlstate(), "the look will be taken again");
            }
            self.rest(self.config.verifier.interval).await;
        }
    }

    /// Looks again at what was purged, as each subject's next look comes.
    async fn verify(&self, verifier: &Verifier) {
        let mut failures = 0;
        while !self.end.is_cancelled() {
            if !self.daemon.health.agreed.load(Ordering::Relaxed) || self.daemon.health.waiting.load(Ordering::Relaxed) {
                self.rest(self.config.poll.interval).await;
                continue;
            }
            let pause = match verifier.pass().await {
                Ok(report) => {
                    failures = 0;
                    if report.residue > 0 {
                        tracing::warn!(event = "verify.completed", looked = report.looked, residue = report.residue, "records came back");
                    }
                    verifier.rest(self.config.poll.interval).await.unwrap_or(self.config.poll.interval)
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "verify.failed", error = %error, sqlstate = error.sqlstate(), failures, "the look will be taken again");
                    backoff(failures)
                }
            };
            self.rest(pause.max(Duration::from_millis(100))).await;
        }
    }

    /// Follows completed jobs to further levels of erasure.
    async fn follow(&self, levels: &Levels) {
        while !self.end.is_cancelled() {
            if self.daemon.health.agreed.load(Ordering::Relaxed)
                && !self.daemon.health.waiting.load(Ordering::Relaxed)
                && let Err(error) = levels.pass().await
            {
                tracing::warn!(event = "levels.failed", error = %error, sqlstate = error.sqlstate(), "will be asked again");
            }
            self.rest(self.config.verifier.interval.min(FOLLOWED)).await;
        }
    }

    /// Forgets what the daemon has kept about its own work for long enough.
    async fn forget(&self) {
        let records = self.app.records();
        while !self.end.is_cancelled() {
            if let Err(error) = records.prune().await {
                tracing::warn!(event = "records.failed", error = %error, sqlstate = error.sqlstate(), "will be tried again");
            }
            self.rest(FORGOTTEN).await;
        }
    }

    /// One worker. Nothing is purged in observe mode, nor before the first full comparison of this process.
    async fn purge(&self, mut worker: Worker, executor: &Executor) {
        let mut failures = 0;
        while !self.end.is_cancelled() {
            let news = self.daemon.news.notified();
            heartbeat::beat();
            if self.config.mode == Mode::Observe || !self.daemon.health.looked.load(Ordering::Relaxed) {
                heartbeat::rest(None);
                tokio::select! {
                    () = news => {}
                    () = self.end.cancelled() => {}
                }
                continue;
            }
            let pause = match worker.step().await {
                Ok(Step::Worked) => {
                    failures = 0;
                    continue;
                }
                Ok(Step::Idle) => {
                    failures = 0;
                    let rest = executor.rest(self.config.poll.interval).await;
                    rest.unwrap_or(self.config.poll.interval).max(Duration::from_millis(5))
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(event = "purge.failed", error = %error, sqlstate = error.sqlstate(), failures, "the worker rests and goes on");
                    backoff(failures)
                }
            };
            heartbeat::rest(Some(pause));
            tokio::select! {
                () = news => {}
                () = tokio::time::sleep(pause) => {}
                () = self.end.cancelled() => {}
            }
        }
    }

    async fn rest(&self, pause: Duration) {
        heartbeat::rest(Some(pause));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.end.cancelled() => {}
        }
        heartbeat::beat();
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(30))
}

//! What a worker waits for before it claims: its turn beside the platform, and the guard.

use std::time::{Duration, Instant};

use tokio::sync::MutexGuard;

use super::{Executor, Worker};
use crate::{
    crash,
    database::{Database, DatabaseError, Purpose},
    jobs,
    policy::Class,
    safeguards::{self, Admission},
};

impl Worker {
    /// Asks how hard the database is pressed, and pauses after a batch accordingly. Nothing is claimed meanwhile, and a stop ends it. In company it then
    /// waits for its turn, and rests within it.
    pub(super) async fn yield_to_the_platform<'a>(&mut self, executor: &'a Executor) -> Option<MutexGuard<'a, ()>> {
        let pause = self.pace.press(executor.pressure.pressed().await);
        self.pause(pause).await;
        let rest = self.pace.rest()?;
        let turn = executor.turn.lock().await;
        self.pause(rest).await;
        Some(turn)
    }

    async fn pause(&self, pause: Duration) {
        if self.worked && !pause.is_zero() {
            let began = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
            self.executor.pressure.paused(began.elapsed());
        }
    }

    /// Lets the guard weigh what is due, if anything of the class waits for that. Yields whether another claim may find more.
    pub(super) async fn weigh(&self, class: &Class) -> Result<bool, DatabaseError> {
        let guard = &self.executor.config.guard;
        let mut tx = self.executor.database.begin(Purpose::Work).await?;
        let waits =
            !safeguards::stopped(&mut tx, &class.jobs.accepted).await? && jobs::unweighed(&mut tx, &class.jobs, guard.window).await?;
        drop(tx);
        if waits { self.weigh_all(false).await } else { Ok(false) }
    }

    /// Weighs what is due, `itself` or, if somebody else is at it, by waiting for them.
    pub(super) async fn weigh_all(&self, itself: bool) -> Result<bool, DatabaseError> {
        let guard = &self.executor.config.guard;
        let mut tx = self.executor.database.begin(Purpose::Bulk).await?;
        // What they let in was all there was a moment ago; to weigh it again would only keep the next one waiting.
        if !itself && safeguards::others_weigh(&mut tx).await? {
            return Ok(true);
        }
        let admission = safeguards::admit(&mut tx, guard).await?;
        crash::point("guard.weighed");
        Database::commit(tx).await?;
        crash::point("guard.admitted");
        match admission {
            Admission::Nothing | Admission::Admitted(_) => Ok(true),
            Admission::Tripped(reason) => {
                safeguards::tell_tripped(&reason);
                Ok(false)
            }
        }
    }
}

//! Whether each pass moves. A pass gives a sign of life with every transaction it begins and says how long it rests; one that gives none for longer
//! than its longest statement may take hangs. Knows no pass, and asks nobody.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Longer than the longest statement may take.
const HUNG_AFTER: Duration = Duration::from_mins(15);

tokio::task_local! {
    static BEAT: Arc<Beat>;
}

/// By when the next sign of life is due; `None` while nobody waits for one.
#[derive(Debug, Default)]
struct Beat(Mutex<Option<Instant>>);

impl Beat {
    fn due(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, due: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = due;
    }
}

/// The passes that give signs of life.
#[derive(Debug, Default)]
pub struct Heartbeats(Mutex<Vec<(&'static str, Arc<Beat>)>>);

impl Heartbeats {
    /// Runs a pass under its name until it ends; from then on no sign of it is waited for. Several may have one name.
    pub async fn watch<T>(&self, name: &'static str, pass: impl Future<Output = T>) -> T {
        /// However the pass ends.
        struct Watched<'a>(&'a Heartbeats, Arc<Beat>);
        impl Drop for Watched<'_> {
            fn drop(&mut self) {
                self.0.all().retain(|(_, beat)| !Arc::ptr_eq(beat, &self.1));
            }
        }
        let beat = Arc::new(Beat::default());
        beat.set(Some(Instant::now() + HUNG_AFTER));
        self.all().push((name, Arc::clone(&beat)));
        let watched = Watched(self, Arc::clone(&beat));
        let ended = BEAT.scope(beat, pass).await;
        drop(watched);
        ended
    }

    /// Each name that is watched, and whether all of that name move, as of `now`.
    #[must_use]
    pub fn moving(&self, now: Instant) -> Vec<(&'static str, bool)> {
        let mut all: Vec<(&'static str, bool)> = Vec::new();
        for (name, beat) in self.all().iter() {
            let moves = beat.due().is_none_or(|due| now < due);
            match all.iter_mut().find(|(known, _)| known == name) {
                Some((_, before)) => *before &= moves,
                None => all.push((name, moves)),
            }
        }
        all
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<(&'static str, Arc<Beat>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pass that runs here moves. Without one it says nothing.
pub fn beat() {
    say(Some(Duration::ZERO));
}

/// The pass that runs here rests for so long; `None` is until somebody wakes it.
pub fn rest(pause: Option<Duration>) {
    say(pause);
}

fn say(pause: Option<Duration>) {
    let due = pause.and_then(|pause| Instant::now().checked_add(pause)?.checked_add(HUNG_AFTER));
    // Not within a pass: a verb, or a scrape.
    let _ = BEAT.try_with(|beat| beat.set(due));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_pass_without_a_sign_of_life_hangs_and_no_other_with_it() {
        let beats = Heartbeats::default();
        let (still, working) = (beats.watch("planner", std::future::pending::<()>()), beats.watch("ledger", std::future::pending::<()>()));
        futures_util::pin_mut!(still, working);
        assert!(futures_util::poll!(&mut still).is_pending() && futures_util::poll!(&mut working).is_pending());
        let now = Instant::now();
        assert_eq!(beats.moving(now + Duration::from_mins(14)), [("planner", true), ("ledger", true)]);
        assert_eq!(beats.moving(now + HUNG_AFTER + MOMENT), [("planner", false), ("ledger", false)]);
        beats.all()[1].1.set(Some(now + HUNG_AFTER * 2));
        assert_eq!(beats.moving(now + HUNG_AFTER + MOMENT), [("planner", false), ("ledger", true)]);
    }

    #[tokio::test]
    async fn a_sign_of_life_a_rest_and_an_end_count_for_the_pass_they_are_of() {
        let beats = Heartbeats::default();
        beats
            .watch("records", async {
                beats.all()[0].1.set(Some(Instant::now()));
                assert_eq!(beats.moving(Instant::now() + MOMENT), [("records", false)]);
                beat();
                assert_eq!(beats.moving(Instant::now() + Duration::from_mins(14)), [("records", true)]);
                rest(Some(HUNG_AFTER));
                assert_eq!(beats.moving(Instant::now() + Duration::from_mins(29)), [("records", true)]);
                assert_eq!(beats.moving(Instant::now() + HUNG_AFTER * 2 + MOMENT), [("records", false)]);
                rest(None);
                assert_eq!(beats.moving(Instant::now() + HUNG_AFTER * 9), [("records", true)]);
            })
            .await;
        assert_eq!(beats.moving(Instant::now() + HUNG_AFTER * 9), [], "what has ended hangs no more");
        beat();
    }

    #[tokio::test]
    async fn of_several_with_one_name_one_that_hangs_is_enough() {
        let beats = Heartbeats::default();
        let all =
            futures_util::future::join(beats.watch("worker", std::future::pending::<()>()), beats.watch("worker", async { rest(None) }));
        futures_util::pin_mut!(all);
        assert!(futures_util::poll!(&mut all).is_pending());
        let second = beats.watch("worker", async {
            rest(None);
            std::future::pending::<()>().await;
        });
        futures_util::pin_mut!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(beats.moving(Instant::now() + HUNG_AFTER + MOMENT), [("worker", false)]);
    }
}

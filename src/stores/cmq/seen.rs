//! What was seen of queues and topics, and when: an absence, or figures at zero, count once they were seen twice, far enough apart for lists and figures
//! that lag. In memory alone: whoever forgets it looks twice again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// So many are remembered. The oldest make room, long after their second look.
const MOST: usize = 20_000;
/// Figures that are older say nothing about what came and went since.
const STALE: Duration = Duration::from_mins(10);
/// Nor do absences that are older than this: with very many queues to look at, so much lies between two looks at one of them.
const LONG_GONE: Duration = Duration::from_hours(6);

/// What was seen of one queue or topic.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The last look at it.
    touched: Instant,
    /// It is gone since.
    gone: Option<Instant>,
    /// All its figures are zero since.
    zero: Option<Instant>,
    /// It was cleared for the first time.
    cleared: Option<Instant>,
    /// It was deleted for the first time.
    deleted: Option<Instant>,
    /// What its figures said last.
    holds: i64,
    /// Records that went since, and that nobody was told of.
    owed: i64,
}

/// What was seen, by region, kind and name.
#[derive(Debug)]
pub(super) struct Memory {
    apart: Duration,
    seen: Mutex<BTreeMap<String, Seen>>,
}

impl Memory {
    /// Two looks are so far apart.
    pub(super) fn new(apart: Duration) -> Self {
        Self { apart, seen: Mutex::default() }
    }

    /// It was looked for and is not there. `None` when that is sure; else how long until another look makes it so.
    pub(super) fn gone(&self, key: &str) -> Option<Duration> {
        self.with(key, |seen, now| {
            *seen = Seen { owed: seen.owed + seen.holds, gone: seen.gone, ..Seen::new(now) };
            remaining(*seen.gone.get_or_insert(now), self.apart, now)
        })
    }

    /// It is there, with so many records. `None` when it was empty for long enough to be deleted, or is not although it was cleared so long ago that no
    /// figure lags any more; else how long until another look.
    pub(super) fn there(&self, key: &str, records: i64, empty: bool) -> Option<Duration> {
        self.with(key, |seen, now| {
            if seen.gone.is_some() {
                // Another one of the same name.
                *seen = Seen { owed: seen.owed, ..Seen::new(now) };
            }
            seen.owed += (seen.holds - records).max(0);
            seen.holds = records;
            seen.zero = if empty { seen.zero.or(Some(now)) } else { None };
            let lagged = seen.cleared.map_or(self.apart, |cleared| remaining(cleared, self.apart * 2, now).unwrap_or_default());
            let waits = seen.zero.map_or(lagged, |zero| remaining(zero, self.apart, now).unwrap_or_default().min(lagged));
            (!waits.is_zero()).then_some(waits)
        })
    }

    /// Whether it was cleared before.
    pub(super) fn was_cleared(&self, key: &str) -> bool {
        self.with(key, |seen, _| seen.cleared.is_some())
    }

    /// The service says that it cleared it. How long it may look as if it had not; `None` when that time is over.
    pub(super) fn cleared(&self, key: &str) -> Option<Duration> {
        self.with(key, |seen, now| remaining(*seen.cleared.get_or_insert(now), self.apart * 2, now))
    }

    /// The service says that it deleted it, or will not yet. How long until it would be odd that it is still there; `None` when it is.
    pub(super) fn deleted(&self, key: &str) -> Option<Duration> {
        self.with(key, |seen, now| remaining(*seen.deleted.get_or_insert(now), self.apart * 2, now))
    }

    /// Records that went since the last time this was asked.
    pub(super) fn take_owed(&self, key: &str) -> i64 {
        self.with(key, |seen, _| std::mem::take(&mut seen.owed))
    }

    fn with<T>(&self, key: &str, change: impl FnOnce(&mut Seen, Instant) -> T) -> T {
        let (now, mut all) = (Instant::now(), self.all());
        if all.len() >= MOST
            && !all.contains_key(key)
            && let Some(oldest) = all.iter().min_by_key(|(_, seen)| seen.touched).map(|(key, _)| key.clone())
        {
            all.remove(&oldest);
        }
        let seen = all.entry(key.to_owned()).or_insert_with(|| Seen::new(now));
        if now.duration_since(seen.touched) > STALE.max(self.apart * 10) {
            let gone = seen.gone.filter(|_| now.duration_since(seen.touched) <= LONG_GONE);
            *seen = Seen { owed: seen.owed, gone, ..Seen::new(now) };
        }
        seen.touched = now;
        change(seen, now)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        // Whoever panicked held nothing but figures, each of which stands for itself.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self { touched: now, gone: None, zero: None, cleared: None, deleted: None, holds: 0, owed: 0 }
    }
}

/// What is left of a time that began then.
fn remaining(since: Instant, time: Duration, now: Instant) -> Option<Duration> {
    time.checked_sub(now.duration_since(since)).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const MOMENT: Duration = Duration::from_millis(1);
    const ALMOST: Duration = Duration::from_millis(59_999);

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_absence_is_sure_a_minute_after_it_was_first_seen_and_not_earlier() {
        let memory = Memory::new(MINUTE);
        assert_eq!(memory.gone("q"), Some(MINUTE));
        pass(ALMOST).await;
        assert_eq!(memory.gone("q"), Some(MOMENT));
        pass(MOMENT).await;
        assert_eq!(memory.gone("q"), None);
        assert_eq!(memory.gone("another"), Some(MINUTE));
        // It came back, and went again.
        memory.there("q", 0, true);
        assert_eq!(memory.gone("q"), Some(MINUTE));
        // And one that nobody saw for long may have come and gone.
        pass(MINUTE * 11).await;
        assert_eq!(memory.gone("q"), None, "ten thousand others were looked at in between");
        pass(MINUTE * 361).await;
        assert_eq!(memory.gone("q"), Some(MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn figures_count_when_they_were_zero_twice_and_otherwise_once_they_cannot_lag_any_more() {
        let memory = Memory::new(MINUTE);
        assert_eq!(memory.there("q", 3, false), Some(MINUTE), "nothing was done about it");
        memory.cleared("q");
        assert_eq!(memory.there("q", 0, true), Some(MINUTE));
        pass(ALMOST).await;
        assert_eq!(memory.there("q", 0, true), Some(MOMENT));
        // Something came: it is not empty for so long.
        assert_eq!(memory.there("q", 1, false), Some(MINUTE + MOMENT));
        pass(MINUTE + MOMENT).await;
        assert_eq!(memory.there("q", 1, false), None, "a writer who goes on keeps no queue alive");
        assert_eq!((memory.take_owed("q"), memory.take_owed("q")), (3, 0));
        assert_eq!(memory.deleted("q"), Some(MINUTE * 2));
        memory.gone("q");
        assert_eq!(memory.take_owed("q"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let memory = Memory::new(MINUTE);
        for n in 0..MOST + 10 {
            memory.gone(&n.to_string());
            pass(MOMENT).await;
        }
        assert_eq!(memory.all().len(), MOST);
        assert!(memory.all().contains_key(&(MOST + 9).to_string()) && !memory.all().contains_key("9"));
    }
}

//! The database's clock watched by ours: decisions rest on the former, and a jump of it is noticed because the latter only ever goes on (R32).

use std::{sync::Mutex, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

/// A larger jump stops the start of purges.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);
/// After so long a new comparison begins: two clocks that are both right still drift apart.
const ANCHOR_LIFE: Duration = Duration::from_hours(24);
/// An answer that took longer says too little about when it was given.
const PROMPT: Duration = Duration::from_secs(5);

/// Watches the clock of one database. Shared by everything in the process that asks it for the time.
#[derive(Debug, Default)]
pub struct Clock {
    anchor: Mutex<Option<Anchor>>,
}

/// One answer of the database, which was given between two readings of our clock.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    database: DateTime<Utc>,
    before: Duration,
    after: Duration,
}

/// Our clock. It goes on while the machine sleeps, and nobody can set it.
#[must_use]
pub fn reading() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Clock {
    /// Takes note of what the database said the time was, asked after the reading `before`. How far it has jumped, if it has: everybody who asks is
    /// told, until [`Clock::forget`].
    #[must_use]
    pub fn observe(&self, before: Duration, database: DateTime<Utc>) -> Option<TimeDelta> {
        self.compare(Anchor { database, before, after: reading() })
    }

    /// The guard has tripped for a jump: from here on the clock is taken as it is.
    pub fn forget(&self) {
        *self.anchor() = None;
    }

    fn compare(&self, now: Anchor) -> Option<TimeDelta> {
        let mut anchor = self.anchor();
        let jumped = anchor.and_then(|anchor| anchor.jump(now));
        let old = anchor.is_none_or(|anchor| now.before.saturating_sub(anchor.after) > ANCHOR_LIFE);
        if old && jumped.is_none() && now.after.saturating_sub(now.before) < PROMPT {
            *anchor = Some(now);
        }
        jumped
    }

    fn anchor(&self) -> std::sync::MutexGuard<'_, Option<Anchor>> {
        // Whoever panicked held nothing but a comparison.
        self.anchor.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Anchor {
    /// By how much more or less the database's clock has gone on than ours can have.
    fn jump(self, now: Self) -> Option<TimeDelta> {
        let passed = now.database - self.database;
        let delta = |d: Duration| TimeDelta::from_std(d).unwrap_or(TimeDelta::MAX);
        let (least, most) = (delta(now.before.saturating_sub(self.after)), delta(now.after.saturating_sub(self.before)));
        if passed > most + TOLERANCE {
            Some(passed - most)
        } else if passed < least - TOLERANCE {
            Some(passed - least)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1;
    const MINUTE: u64 = 60;

    /// The database said `database` seconds, asked at `before` and answered at `after` by our clock.
    fn said(database: i64, before: u64, after: u64) -> Anchor {
        Anchor {
            database: DateTime::UNIX_EPOCH + TimeDelta::seconds(database),
            before: Duration::from_secs(before),
            after: Duration::from_secs(after),
        }
    }

    #[test]
    fn r32_a_jump_of_more_than_five_minutes_either_way_is_seen_by_everybody_until_it_is_forgotten() {
        for (database, jump) in [(900, None), (901, Some(301)), (300, None), (299, Some(-301))] {
            let clock = Clock::default();
            assert_eq!(clock.compare(said(0, 0, 0)), None);
            assert_eq!(clock.compare(said(database, 10 * MINUTE, 10 * MINUTE)), jump.map(TimeDelta::seconds), "{database}");
            let later = said(database + 60, 11 * MINUTE, 11 * MINUTE);
            assert_eq!(clock.compare(later), jump.map(TimeDelta::seconds), "{database}");
            clock.forget();
            assert_eq!(clock.compare(later), None, "{database}");
        }
    }

    #[test]
    fn r32_whoever_slept_between_question_and_answer_calls_nothing_a_jump() {
        let clock = Clock::default();
        assert_eq!(clock.compare(said(0, 0, 0)), None);
        // Frozen for an hour after the database had answered, then for an hour before it was asked.
        assert_eq!(clock.compare(said(1, SECOND, 60 * MINUTE)), None);
        assert_eq!(clock.compare(said(7_200, 60 * MINUTE, 120 * MINUTE)), None);
        // Beyond what the pause explains it is one.
        assert_eq!(clock.compare(said(7_200 + 360, 60 * MINUTE, 120 * MINUTE)), Some(TimeDelta::seconds(360)));
    }

    #[test]
    fn r32_a_slow_answer_is_no_anchor_and_a_day_of_drift_is_none() {
        let clock = Clock::default();
        assert_eq!(clock.compare(said(0, 0, 10)), None);
        assert_eq!(clock.compare(said(10_000, 20, 20)), None, "nothing sure to compare with");
        let day = 24 * 60 * MINUTE;
        assert_eq!(clock.compare(said(10_000 + 86_400 + 200, 20 + day + 1, 20 + day + 1)), None);
        assert_eq!(clock.compare(said(10_000 + 2 * 86_400 + 400, 20 + 2 * day + 2, 20 + 2 * day + 2)), None, "drift does not add up");
    }

    #[test]
    fn our_clock_goes_on() {
        let first = reading();
        assert!(reading() >= first && !first.is_zero());
    }
}

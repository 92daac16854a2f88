//! How much a worker takes at once and how long it rests in between (I13, I14). Pure: it is told how long batches took and how hard the
//! database is pressed.

use std::time::Duration;

use crate::pressure::Pressed;

/// Jobs that travel in one batch at most.
const MAX_JOBS: i64 = 500;
/// The first batch of a worker is small; it grows while batches are fast.
const FIRST_JOBS: i64 = 50;
/// Records of the first batch: it is not known yet how fast this database is.
const FIRST_ROWS: i64 = 1_000;
/// How long the longest DELETE of a batch should take. Longer ones are followed by smaller ones.
const TARGET: Duration = Duration::from_millis(100);
/// How long the whole batch may take beside that, from begin to commit: so long a reactivation waits.
const WHOLE: Duration = Duration::from_millis(250);
/// A batch that is merely slow is not made smaller than this: by then it is the round trips that cost, and smaller batches only cost more.
const MIN_ROWS: i64 = 50;
/// The same for jobs.
const MIN_JOBS: i64 = 20;
/// Batches whose jobs were all small, before the next ones are believed to be.
const ALIKE: u32 = 4;
/// The first pause under pressure; each level doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// No pause is longer once a job is past half of its allowance, and no batch smaller than a quarter.
const PRESSING_PAUSE: Duration = FIRST_PAUSE;
const PRESSING_LEVEL: u32 = 2;
/// Records of a batch while others are at work: some milliseconds of work, and of log that their commits wait for.
const COMPANY_ROWS: i64 = 250;
/// The same for jobs.
const COMPANY_JOBS: i64 = 50;

/// What a batch counts for, against [`TARGET`]: its longest DELETE, or the whole of it where that took longer than it may.
fn felt(longest: Duration, whole: Duration) -> Duration {
    longest.max(whole * 100 / u32::try_from(WHOLE.as_millis()).unwrap_or(250))
}

/// The pace of one worker.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    max_rows: i64,
    rows: i64,
    jobs: i64,
    /// Timeouts in a row.
    timeouts: u32,
    /// How hard the database is pressed; 0 is not at all.
    level: u32,
    /// Others are at work in it.
    company: bool,
    /// How long the last batch took.
    took: Duration,
    /// Batches in a row whose jobs were all small.
    alike: u32,
    /// Records of a job in them, on average.
    per_job: i64,
    /// A job of the last group is past half of its allowance.
    pressing: bool,
}

impl Pace {
    pub(super) fn new(max_rows: u32) -> Self {
        let max_rows = i64::from(max_rows);
        Self {
            max_rows,
            rows: FIRST_ROWS.min(max_rows),
            jobs: FIRST_JOBS,
            timeouts: 0,
            level: 0,
            company: false,
            took: Duration::ZERO,
            alike: 0,
            per_job: 0,
            pressing: false,
        }
    }

    /// What was measured before the next group, and whether a deadline is near in the last one. Yields how long to pause.
    pub(super) fn press(&mut self, Pressed { level, company }: Pressed) -> Duration {
        (self.level, self.company) = (level, company && !self.pressing);
        let doublings = level.saturating_sub(1).min(16);
        let pause = if level == 0 { Duration::ZERO } else { FIRST_PAUSE.saturating_mul(1 << doublings) };
        pause.min(if self.pressing { PRESSING_PAUSE } else { LONGEST_PAUSE })
    }

    /// In company every other moment belongs to the others: how long the worker whose turn it is rests after its last batch. `None`: there is nobody to
    /// take turns with, or no time for that, for a deadline is near.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.company.then_some(self.took.min(LONGEST_PAUSE))
    }

    /// Whether a job of the group is past half of its allowance.
    pub(super) fn claimed(&mut self, pressing: bool) {
        self.pressing = pressing;
    }

    /// Records that a batch may delete at most, whatever is believed.
    pub(super) fn most(&self) -> i64 {
        self.max_rows
    }

    /// Records that the next batch may take.
    pub(super) fn rows(&self) -> i64 {
        let rows = if self.company { self.rows.min(COMPANY_ROWS) } else { self.rows };
        (rows >> self.shift()).max(MIN_ROWS.min(rows))
    }

    /// Jobs that the next batch may take.
    pub(super) fn jobs(&self) -> i64 {
        let jobs = if self.company { self.jobs.min(COMPANY_JOBS) } else { self.jobs };
        (jobs >> self.shift()).max(MIN_JOBS.min(jobs))
    }

    fn shift(&self) -> u32 {
        if self.pressing { self.level.min(PRESSING_LEVEL) } else { self.level }
    }

    /// How many jobs may be purged whole without being counted before, for those of the last batches were all alike. A batch that was mistaken is stopped by
    /// the time that such a DELETE may take, or undone when it was larger than [`Pace::most`]. Where there is nothing, counting is cheaper than deleting.
    pub(super) fn trusts(&self) -> Option<usize> {
        (self.alike >= ALIKE && self.per_job > 0).then(|| usize::try_from(self.rows() / self.per_job).unwrap_or(1).max(2))
    }

    /// The first jobs of a group were counted until the batch was full: whether none had more than twice its share.
    pub(super) fn sized(&mut self, sizes: &[i64]) {
        let share = self.rows() / i64::try_from(sizes.len()).unwrap_or(i64::MAX).max(1);
        self.alike = if sizes.iter().all(|records| *records <= 2 * share) { self.alike + 1 } else { 0 };
    }

    /// They were not alike after all.
    pub(super) fn mistaken(&mut self) {
        self.alike = 0;
    }

    /// So many jobs had so many records.
    pub(super) fn purged(&mut self, jobs: usize, records: i64) {
        let jobs = i64::try_from(jobs).unwrap_or(i64::MAX).max(1);
        self.per_job = (records + jobs - 1) / jobs;
        if records > 2 * self.rows() {
            self.alike = 0;
        }
    }

    /// A batch was committed. So many jobs filled it, where more had been claimed than fit.
    pub(super) fn committed(&mut self, filled_by: Option<usize>, longest: Duration, whole: Duration) {
        self.timeouts = 0;
        self.took = whole;
        if felt(longest, whole) > TARGET {
            // A batch that a timeout made smaller stays so.
            self.rows = (self.rows * 3 / 4).max(MIN_ROWS.min(self.rows));
            self.jobs = (self.jobs * 3 / 4).max(MIN_JOBS.min(self.jobs));
        } else if self.level == 0 {
            // In company no further than what it allows: what grows untried would be tried at once when the others have gone.
            if !self.company || self.rows < COMPANY_ROWS {
                self.rows = (self.rows + (self.max_rows / 16).max(1)).min(self.max_rows);
            }
            if !self.company || self.jobs < COMPANY_JOBS {
                // By half: claiming many more than fit would only wear out the job table.
                self.jobs = (self.jobs + self.jobs / 2 + 1).min(MAX_JOBS);
            }
        }
        if let Some(jobs) = filled_by {
            // Whoever is claimed beyond what fits only waits.
            let jobs = i64::try_from(jobs).unwrap_or(i64::MAX);
            self.jobs = self.jobs.min(jobs.saturating_add(jobs / 4 + 1));
        }
    }

    /// A statement ran into its limit. Yields whether a smaller batch is another try; there is none below one record.
    ///
    /// Halved, and more with each further time in a row: the smallest batch is tried before the lease of the group has run out.
    pub(super) fn timed_out(&mut self) -> bool {
        self.timeouts = (self.timeouts + 1).min(4);
        self.alike = 0;
        let smaller = self.rows > 1;
        self.rows = (self.rows() >> self.timeouts).max(1);
        self.jobs = (self.jobs / 2).max(1);
        smaller
    }

    /// Somebody else's lock was waited for in vain.
    pub(super) fn locked_out(&mut self) {
        self.rows = (self.rows / 2).max(MIN_ROWS.min(self.rows));
        self.jobs = (self.jobs / 2).max(MIN_JOBS.min(self.jobs));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(20);
    const SLOW: Duration = Duration::from_millis(101);

    fn at(level: u32) -> Pressed {
        Pressed { level, company: false }
    }

    #[test]
    fn jobs_are_taken_whole_uncounted_only_while_they_are_all_alike() {
        let mut pace = Pace::new(5_000);
        after(&mut pace, 50, FAST);
        for _ in 0..ALIKE {
            assert_eq!(pace.trusts(), None);
            pace.sized(&[]);
        }
        assert_eq!(pace.trusts(), None, "of nothing nothing follows");
        pace.purged(100, 991);
        assert_eq!(pace.trusts(), Some(500), "ten each, rounded up");
        pace.purged(100, 10_000);
        assert_eq!(pace.trusts(), Some(50));
        pace.purged(50, 10_001);
        assert_eq!(pace.trusts(), None, "more than twice what was meant to be");
        for _ in 0..ALIKE {
            pace.sized(&[]);
        }
        assert!(pace.trusts().is_some());
        pace.timed_out();
        assert_eq!(pace.trusts(), None);
        for _ in 1..ALIKE {
            pace.sized(&[]);
        }
        pace.sized(&[10_000]);
        pace.sized(&[]);
        assert_eq!(pace.trusts(), None, "in a row");
    }

    #[test]
    fn i14_in_company_batches_are_small_and_the_others_have_every_other_moment() {
        let mut pace = Pace::new(5_000);
        after(&mut pace, 50, FAST);
        pace.press(Pressed { level: 0, company: true });
        assert_eq!((pace.rows(), pace.jobs(), pace.rest()), (250, 50, Some(FAST)));
        pace.claimed(true);
        pace.press(Pressed { level: 0, company: true });
        assert_eq!((pace.rows(), pace.jobs(), pace.rest()), (5_000, 500, None), "past half of its allowance nobody takes turns");
        pace.claimed(false);
        pace.press(at(0));
        assert_eq!((pace.rows(), pace.jobs(), pace.rest()), (5_000, 500, None), "alone again, at once");
    }

    #[test]
    fn i13_what_a_bad_moment_made_smaller_grows_again_in_company_too() {
        let mut pace = Pace::new(5_000);
        pace.press(Pressed { level: 0, company: true });
        while pace.timed_out() {}
        assert_eq!((pace.rows(), pace.jobs()), (1, 1));
        pace.committed(None, FAST, FAST);
        assert_eq!(pace.jobs(), 2);
        after(&mut pace, 50, FAST);
        assert_eq!((pace.rows(), pace.jobs()), (250, 50));
        pace.press(at(0));
        assert_eq!((pace.rows(), pace.jobs()), (313, 61), "and no further: what is beyond has not been tried");
    }

    fn after(pace: &mut Pace, batches: usize, took: Duration) -> (i64, i64) {
        for _ in 0..batches {
            pace.committed(None, took, took);
        }
        (pace.rows(), pace.jobs())
    }

    #[test]
    fn i14_a_statement_of_100_ms_and_a_batch_of_250_are_not_too_long_and_anything_longer_is() {
        let ms = Duration::from_millis;
        assert_eq!(felt(ms(100), ms(250)), TARGET);
        assert_eq!(felt(ms(101), ms(110)), ms(101));
        assert!(felt(ms(20), ms(251)) > TARGET);
        assert!(felt(ms(20), ms(249)) < TARGET);
    }

    #[test]
    fn i14_batches_grow_by_steps_up_to_the_configured_bound_and_shrink_by_a_quarter_down_to_a_floor() {
        let mut pace = Pace::new(5_000);
        assert_eq!((pace.rows(), pace.jobs()), (1_000, 50));
        assert_eq!(after(&mut pace, 1, TARGET), (1_312, 76), "what takes as long as it should is not too long");
        assert_eq!(after(&mut pace, 50, FAST), (5_000, 500));
        assert_eq!(after(&mut pace, 1, SLOW), (3_750, 375));
        assert_eq!(after(&mut pace, 50, SLOW), (50, 20));
        let mut small = Pace::new(3);
        assert_eq!(after(&mut small, 50, FAST).0, 3, "never above max_rows_per_batch");
        assert_eq!(after(&mut small, 50, SLOW).0, 3, "nor below the floor, where there is one");
    }

    #[test]
    fn i14_a_timeout_halves_and_the_smallest_batch_is_tried_within_a_lease() {
        let mut pace = Pace::new(5_000);
        after(&mut pace, 50, FAST);
        assert!(pace.timed_out());
        assert_eq!((pace.rows(), pace.jobs()), (2_500, 250));
        let mut tries = 1;
        while pace.timed_out() {
            tries += 1;
        }
        assert_eq!(pace.rows(), 1);
        assert!(tries <= 5, "{tries} statements of five seconds in a lease of thirty");
        assert_eq!(after(&mut pace, 1, SLOW).0, 1, "a floor does not undo what timeouts demand");
        assert!(after(&mut pace, 1, FAST).0 > 1);
        let mut locked = Pace::new(5_000);
        for _ in 0..20 {
            locked.locked_out();
        }
        assert_eq!((locked.rows(), locked.jobs()), (50, 20));
    }

    #[test]
    fn i13_about_as_many_jobs_are_claimed_as_fit() {
        let mut pace = Pace::new(5_000);
        pace.committed(Some(8), FAST, FAST);
        assert_eq!(pace.jobs(), 11, "a quarter more, and one");
        pace.committed(None, FAST, FAST);
        assert_eq!(pace.jobs(), 17, "all of them fitted");
        pace.committed(Some(1), FAST, FAST);
        assert_eq!(pace.jobs(), 2);
    }

    #[test]
    fn i14_pressure_makes_batches_smaller_and_pauses_longer_within_bounds_and_its_end_undoes_both() {
        let mut pace = Pace::new(5_000);
        after(&mut pace, 50, FAST);
        let pauses: Vec<_> = (0..=6).map(|level| pace.press(at(level)).as_millis()).collect();
        assert_eq!(pauses, [0, 200, 400, 800, 1_600, 3_000, 3_000]);
        pace.press(at(1));
        assert_eq!((pace.rows(), pace.jobs()), (2_500, 250));
        pace.press(at(5));
        assert_eq!((pace.rows(), pace.jobs()), (156, 20));
        assert_eq!(after(&mut pace, 9, FAST), (156, 20));
        assert_eq!(pace.press(at(0)), Duration::ZERO);
        assert_eq!((pace.rows(), pace.jobs()), (5_000, 500));
    }

    #[test]
    fn i13_past_half_of_its_allowance_a_job_is_slowed_down_less() {
        let mut pace = Pace::new(5_000);
        after(&mut pace, 50, FAST);
        pace.claimed(true);
        assert_eq!(pace.press(at(5)).as_millis(), 200);
        assert_eq!((pace.rows(), pace.jobs()), (1_250, 125));
    }
}

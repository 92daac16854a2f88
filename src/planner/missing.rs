//! The part of a full comparison that misses who is gone: the steps of `source::roster`, each in a transaction of its own, and the guard at the end.

use std::collections::VecDeque;

use sqlx::AssertSqlSafe;

use super::{Planner, stride::Stride};
use crate::{
    catalog, crash,
    database::{Database, DatabaseError, Purpose, Tx},
    safeguards,
    source::roster::{self, Roster},
};

/// Absences that one step asks about, and confirms.
const ABSENCES: i64 = 8_192;

/// What a full comparison missed in one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Missed {
    /// Subjects that were there at the last comparison.
    before: i64,
    /// Of those, missed now for the first time.
    newly: i64,
    /// Missed for the second time: they count from now on.
    confirmed: i64,
    /// Came back.
    returned: i64,
    /// Subjects there are now.
    known: i64,
}

impl Planner {
    /// Notes which rows have vanished from the source, and lets the guard see whether that can be believed.
    pub(super) async fn miss(&self) -> Result<(), DatabaseError> {
        // Before anything counts as missing: whose it was is told by the row that is gone.
        if let Some(remember) = self.policy.classes.iter().find_map(|class| class.source.remember_regions()) {
            let mut tx = self.database.begin(Purpose::Bulk).await?;
            sqlx::query(AssertSqlSafe(remember)).execute(&mut *tx).await?;
            Database::commit(tx).await?;
        }
        for roster in roster::rosters(&self.config, &self.layout) {
            let mut missed = self.compare(&roster).await?;
            crash::point("planner.compared");
            // Nothing counts before the guard has seen all of it.
            let mut tx = self.database.begin(Purpose::Bulk).await?;
            let was_open = !safeguards::guard(&mut tx).await?.tripped;
            let tripped = if roster.of_accounts {
                safeguards::watch_source(&mut tx, &self.config.guard, &roster.source, missed.before, missed.known).await?
            } else {
                None
            };
            Database::commit(tx).await?;
            crash::point("planner.missed");
            if let (true, Some(reason)) = (was_open, tripped) {
                safeguards::tell_tripped(&reason);
            }
            loop {
                let mut tx = self.at(&roster).await?;
                let confirmed = roster.confirm(&mut tx, self.config.poll.vanish_interval, ABSENCES).await?;
                Database::commit(tx).await?;
                missed.confirmed += confirmed;
                if confirmed < ABSENCES {
                    break;
                }
            }
            let Missed { newly, confirmed, returned, known, .. } = missed;
            if newly + confirmed + returned > 0 {
                let source = &roster.source;
                tracing::warn!(
                    event = "source.vanished",
                    source,
                    newly,
                    confirmed,
                    returned,
                    known,
                    "rows vanished from the source, or came back"
                );
            }
        }
        Ok(())
    }

    /// A transaction of one step; it ends when the table is not the one that was checked at the start.
    async fn at(&self, roster: &Roster) -> Result<Tx, DatabaseError> {
        let mut tx = self.database.begin(if roster.whole { Purpose::Bulk } else { Purpose::Work }).await?;
        catalog::unmoved(&mut tx, &self.policy.pinned).await?;
        Ok(tx)
    }

    async fn compare(&self, roster: &Roster) -> Result<Missed, DatabaseError> {
        let mut tx = self.at(roster).await?;
        let mut missed = Missed { before: roster.members(&mut tx).await?, ..Missed::default() };
        // Whom a comparison missed that did not end was there as well: an emptied source trips, however often its comparison is interrupted.
        let interrupted: i64 = sqlx::query_scalar(
            "select count(*) from retention.absences where source = $1
                and first_missed_at > coalesce((select succeeded_at from retention.passes where kind = 'resync'), '-infinity')",
        )
        .bind(&roster.source)
        .fetch_one(&mut *tx)
        .await?;
        missed.before += interrupted;
        let mut walk = roster.open(&mut tx).await?;
        Database::commit(tx).await?;
        let (mut ranges, mut looked) = (Stride::new(64, 1_024), Stride::new(1, 64));
        let mut differ: VecDeque<i64> = VecDeque::new();
        while walk.after < walk.until || !differ.is_empty() {
            if differ.is_empty() {
                ranges.begin();
                let mut tx = self.at(roster).await?;
                differ.extend(roster.compare(&mut tx, &mut walk, ranges.now).await?);
                drop(tx);
                ranges.end();
                continue;
            }
            looked.begin();
            // A table that is read as a whole for each step is read once.
            let some = if roster.whole { differ.len() } else { differ.len().min(usize::try_from(looked.now).unwrap_or(1)) };
            let some: Vec<i64> = differ.drain(..some).collect();
            let mut tx = self.at(roster).await?;
            let inside = roster.look_into(&mut tx, &some).await?;
            Database::commit(tx).await?;
            crash::point("planner.missing");
            looked.end();
            missed.newly += inside.newly;
            differ.extend(inside.rest);
        }
        loop {
            let mut tx = self.at(roster).await?;
            let Some(newly) = roster.adopt(&mut tx).await? else { break };
            Database::commit(tx).await?;
            missed.newly += newly;
        }
        let mut tx = self.at(roster).await?;
        missed.newly += roster.miss_jobs(&mut tx).await?;
        Database::commit(tx).await?;
        let (mut after, mut absences) = (0, Stride::new(256, ABSENCES));
        loop {
            absences.begin();
            let mut tx = self.at(roster).await?;
            let (last, returned) = roster.end_absences(&mut tx, after, absences.now).await?;
            Database::commit(tx).await?;
            absences.end();
            missed.returned += returned;
            let Some(last) = last else { break };
            after = last;
        }
        let mut tx = self.database.begin(Purpose::Read).await?;
        missed.known = roster.members(&mut tx).await?;
        Ok(missed)
    }
}

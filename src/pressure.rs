//! How hard the platform's database is pressed, so that deletion can yield (I14): replicas that lag behind, sessions that wait for each other,
//! connections that run out, log that is written too fast, and whether the platform is at work at all. Measured at most once per second and process, in one short read, by the clock of the database.
//!
//! It knows the statistics of Postgres and the limits, and nothing of what is slowed down.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::FromRow;

use crate::{
    config,
    database::{Database, DatabaseError, Kind, Purpose},
    metrics,
};

/// Between two measurements.
const FRESH: Duration = Duration::from_secs(1);
/// Levels of slowness; one more with each measurement that still finds a limit exceeded.
pub const MAX_LEVEL: u32 = 5;

/// What can press. The order is that of [`Measured`].
const REASONS: [&str; 5] = ["replica_lag", "lock_waits", "connections", "log_rate", "active_sessions"];
/// The one among them that says no more than that somebody else is there.
const COMPANY: usize = 4;

/// How deletion should go about its work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressed {
    /// How much slower: 0 is full speed, [`MAX_LEVEL`] the slowest.
    pub level: u32,
    /// Others are at work in this database: one small batch at a time.
    pub company: bool,
}

/// The pressure of this process's database. Cheap to clone; clones share what they measure.
#[derive(Debug, Clone)]
pub struct Pressure {
    database: Database,
    limits: config::Pressure,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    measured_at: Option<Instant>,
    level: u32,
    /// By reason; `None` is unknown or not asked.
    exceeded: [Option<bool>; 5],
    /// It was said that a reason is unknown; said again only after it was known.
    unknown_told: [bool; 5],
    paused: [Duration; 5],
    /// When the log was how long, in bytes.
    log: Option<(Instant, i64)>,
}

/// What the statistics say.
#[derive(Debug, Clone, Copy, PartialEq, FromRow)]
struct Measured {
    /// Seconds that the slowest visible replica is behind; `None` when there are replicas and this role may not see any of them.
    replica_lag: Option<f64>,
    /// A replica is there that this role may not look at.
    hidden: bool,
    /// Sessions in this database that wait for a lock, ours left out.
    lock_waits: i64,
    /// Client sessions of the server.
    connections: i64,
    /// As many as ordinary roles may have.
    usable: i64,
    /// Where the log ends, in bytes.
    log: i64,
    /// Sessions of others in this database that were at work within the last second; `None` when this role may not see that.
    active: Option<i64>,
}

/// One limit, compared.
#[derive(Debug, Clone, PartialEq)]
struct Compared {
    /// `None` when nobody can tell.
    exceeded: Option<bool>,
    measured: String,
    limit: String,
}

impl Pressure {
    /// Measures nothing yet.
    #[must_use]
    pub fn new(database: Database, limits: config::Pressure) -> Self {
        Self { database, limits, state: Arc::default() }
    }

    /// How deletion should go about its work now. Measures when the last answer is older than a second;
    /// a measurement that fails changes nothing, for the batch after it will say more.
    pub async fn pressed(&self) -> Pressed {
        if self.limits.none() || !self.stale() {
            return self.lock().pressed();
        }
        match self.measure().await {
            Ok(measured) => {
                let mut state = self.lock();
                let rate = state.log_rate(measured.log);
                state.judge(&compare(&self.limits, &measured, rate))
            }
            // No answer from a database that is pressed is no sign that it is at ease.
            Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::Exhausted | Kind::Timeout | Kind::Locked) => {
                self.lock().pressed()
            }
            Err(error) => {
                let unknown = Compared { exceeded: None, measured: error.to_string(), limit: String::new() };
                let asked = compare(&self.limits, &NOTHING, None).map(|c| c.map(|_| unknown.clone()));
                self.lock().judge(&asked)
            }
        }
    }

    /// A worker has paused for so long because of what is exceeded now.
    pub fn paused(&self, pause: Duration) {
        let mut state = self.lock();
        let exceeded = state.exceeded;
        for ((reason, altogether), exceeded) in REASONS.into_iter().zip(&mut state.paused).zip(exceeded) {
            if exceeded == Some(true) {
                *altogether += pause;
                metrics::paused(reason, *altogether);
            }
        }
    }

    /// Whether somebody has to measure; whoever is told so does it, the others go on with what is known.
    fn stale(&self) -> bool {
        let mut state = self.lock();
        let due = state.measured_at.is_none_or(|at| at.elapsed() >= FRESH);
        if due {
            state.measured_at = Some(Instant::now());
        }
        due
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A role that may not look at others' sessions still sees that they are there, and every lock that is waited for.
    /// `replay_lag` is null of a replica that has caught up; `state` is null of one that this role may not look at.
    async fn measure(&self) -> Result<Measured, DatabaseError> {
        let mut tx = self.database.begin(Purpose::Glance).await?;
        Ok(sqlx::query_as(
            "with sessions as materialized (
                 select pid, datid, datname = current_database() as here, state, state_change, wait_event_type, backend_type, application_name from pg_stat_activity where datid is not null and usesysid is not null)
             select case when bool_or(r.state is not null) or count(*) = 0 then coalesce(max(extract(epoch from r.replay_lag)), 0)::float8 end as replica_lag,
                    coalesce(bool_or(r.pid is not null and r.state is null), false) as hidden,
                    case when (select bool_and(backend_type is not null) from sessions)
                        then (select count(*) from sessions where wait_event_type = 'Lock' and application_name <> 'retentiond' and here)
                        else (select count(distinct l.pid) from pg_locks l join sessions s on s.pid = l.pid where not l.granted and s.application_name <> 'retentiond'
                                  and s.here) end as lock_waits,
                    (select count(*) from sessions where coalesce(backend_type, 'client backend') = 'client backend') as connections,
                    current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8
                        - coalesce(current_setting('reserved_connections', true)::int8, 0) as usable,
                    (pg_current_wal_insert_lsn() - '0/0')::int8 as log,
                    (select case when bool_and(backend_type is not null) then count(*) filter (
                                where here and backend_type = 'client backend' and application_name <> 'retentiond'
                                  and (state = 'active' or state_change > clock_timestamp() - interval '1 second')) end from sessions) as active
             from pg_stat_replication r",
        )
        .fetch_one(&mut *tx)
        .await?)
    }
}

/// A measurement without any pressure, to see which limits there are.
const NOTHING: Measured =
    Measured { replica_lag: Some(0.0), hidden: false, lock_waits: 0, connections: 0, usable: 1, log: 0, active: Some(0) };

/// Holds what was measured against the limits; where there is no limit, nothing was asked. `rate` is MiB of log per second, known from the second
/// measurement on.
fn compare(limits: &config::Pressure, measured: &Measured, rate: Option<f64>) -> [Option<Compared>; 5] {
    let lag = limits.max_replica_lag.map(|limit| {
        let behind = measured.replica_lag.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let exceeded = behind.is_some_and(|behind| behind > limit);
        // One visible laggard is enough; that all is well is known only when all are visible.
        let exceeded = if exceeded { Some(true) } else { (!measured.hidden && behind.is_some()).then_some(false) };
        let shown =
            |d: Duration| humantime::format_duration(Duration::from_millis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))).to_string();
        let measured = if exceeded.is_some() { behind.map_or_else(String::new, shown) } else { "hidden from this role".to_owned() };
        Compared { exceeded, measured, limit: shown(limit) }
    });
    let waits = limits.max_lock_waits.map(|limit| Compared {
        exceeded: Some(measured.lock_waits.unsigned_abs() > limit),
        measured: measured.lock_waits.to_string(),
        limit: limit.to_string(),
    });
    let connections = limits.max_connections.map(|limit| {
        #[expect(clippy::cast_precision_loss, reason = "a server has few connections")]
        let share = measured.connections as f64 / measured.usable.max(1) as f64;
        let percent = |share: f64| format!("{:.0}%", share * 100.0);
        Compared {
            exceeded: Some(share > limit),
            measured: format!("{} ({} of {})", percent(share), measured.connections, measured.usable),
            limit: percent(limit),
        }
    });
    let log = limits.max_log_rate.map(|limit| {
        #[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
        let exceeded = rate.is_some_and(|rate| rate > limit as f64);
        let shown = |rate: f64| format!("{rate:.0} MiB/s");
        Compared { exceeded: Some(exceeded), measured: rate.map_or_else(String::new, shown), limit: format!("{limit} MiB/s") }
    });
    let active = limits.max_active_sessions.map(|limit| Compared {
        exceeded: measured.active.map(|active| active.unsigned_abs() > limit),
        measured: measured.active.map_or_else(|| "hidden from this role".to_owned(), |active| active.to_string()),
        limit: limit.to_string(),
    });
    [lag, waits, connections, log, active]
}

impl State {
    fn pressed(&self) -> Pressed {
        Pressed { level: self.level, company: self.exceeded[COMPANY] == Some(true) }
    }

    /// MiB of log per second since the last measurement.
    fn log_rate(&mut self, bytes: i64) -> Option<f64> {
        let (at, before) = self.log.replace((Instant::now(), bytes))?;
        #[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
        let mib = (bytes - before) as f64 / 1_048_576.0;
        Some(mib / at.elapsed().as_secs_f64().max(0.001))
    }

    /// Takes note of a measurement, says what has changed, and yields how to go on.
    fn judge(&mut self, compared: &[Option<Compared>; 5]) -> Pressed {
        for (((reason, compared), before), told) in REASONS.into_iter().zip(compared).zip(&mut self.exceeded).zip(&mut self.unknown_told) {
            let Some(Compared { exceeded, measured, limit }) = compared else { continue };
            match (*before, *exceeded) {
                (Some(true), Some(false)) => {
                    tracing::info!(event = "pressure.changed", reason, measured, limit, "over; back to full speed");
                }
                (_, Some(true)) if *before != Some(true) && reason == REASONS[COMPANY] => {
                    tracing::info!(
                        event = "pressure.changed",
                        reason,
                        measured,
                        limit,
                        "others are at work; deletion takes turns with them"
                    );
                }
                (_, Some(true)) if *before != Some(true) => {
                    tracing::warn!(
                        event = "pressure.changed",
                        reason,
                        measured,
                        limit,
                        "the database is under pressure; deletion slows down"
                    );
                }
                (_, None) if !*told => {
                    tracing::warn!(
                        event = "pressure.unknown",
                        reason,
                        why = measured,
                        "this pressure cannot be measured and does not slow deletion down"
                    );
                }
                _ => {}
            }
            *told = exceeded.is_none();
            *before = *exceeded;
            metrics::pressure(reason, *exceeded);
        }
        let pressed = self.exceeded.iter().enumerate().any(|(reason, exceeded)| reason != COMPANY && *exceeded == Some(true));
        self.level = if pressed { (self.level + 1).min(MAX_LEVEL) } else { 0 };
        self.pressed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: config::Pressure = config::Pressure {
        max_replica_lag: Some(Duration::from_secs(10)),
        max_lock_waits: Some(10),
        max_connections: Some(0.8),
        max_log_rate: Some(100),
        max_active_sessions: Some(2),
    };

    fn exceeded(measured: Measured, rate: f64) -> [Option<bool>; 5] {
        compare(&LIMITS, &measured, Some(rate)).map(|c| c.unwrap().exceeded)
    }

    #[test]
    fn i14_a_limit_may_be_reached_and_not_exceeded() {
        let fine =
            Measured { replica_lag: Some(10.0), hidden: false, lock_waits: 10, connections: 80, usable: 100, log: 0, active: Some(2) };
        let only = |reason: usize| std::array::from_fn(|at| Some(at == reason));
        assert_eq!(exceeded(fine, 100.0), [Some(false); 5]);
        assert_eq!(exceeded(Measured { replica_lag: Some(10.001), ..fine }, 100.0), only(0));
        assert_eq!(exceeded(Measured { lock_waits: 11, ..fine }, 100.0), only(1));
        assert_eq!(exceeded(Measured { connections: 81, ..fine }, 100.0), only(2));
        assert_eq!(exceeded(fine, 100.1), only(3));
        assert_eq!(exceeded(Measured { active: Some(3), ..fine }, 100.0), only(4));
        assert_eq!(exceeded(Measured { active: None, ..fine }, 100.0)[4], None);
    }

    #[test]
    fn i14_a_replica_that_hides_its_lag_is_unknown_and_a_visible_laggard_is_enough() {
        let hidden = Measured { replica_lag: None, hidden: true, ..NOTHING };
        assert_eq!(exceeded(hidden, 0.0)[0], None);
        assert_eq!(exceeded(Measured { replica_lag: Some(1.0), ..hidden }, 0.0)[0], None);
        assert_eq!(exceeded(Measured { replica_lag: Some(11.0), ..hidden }, 0.0)[0], Some(true));
    }

    #[test]
    fn i14_the_level_grows_while_a_limit_is_exceeded_and_falls_at_once() {
        let mut state = State::default();
        let of = |lag: Option<f64>| compare(&LIMITS, &Measured { replica_lag: lag, hidden: lag.is_none(), ..NOTHING }, None);
        assert_eq!(state.judge(&of(Some(0.0))).level, 0);
        for level in 1..=MAX_LEVEL + 2 {
            assert_eq!(state.judge(&of(Some(60.0))).level, level.min(MAX_LEVEL));
        }
        assert_eq!(state.judge(&of(Some(9.0))).level, 0);
        assert_eq!(state.judge(&of(Some(60.0))).level, 1);
        // What is not known any more slows nothing down, and is said.
        assert_eq!((state.judge(&of(None)).level, state.unknown_told[0]), (0, true));
        assert_eq!((state.judge(&of(Some(0.0))).level, state.unknown_told[0]), (0, false));
        // Company alone is no pressure.
        let company = compare(&LIMITS, &Measured { active: Some(3), ..NOTHING }, None);
        assert_eq!(state.judge(&company), Pressed { level: 0, company: true });
        assert_eq!(state.judge(&of(Some(0.0))), Pressed::default());
    }

    #[test]
    fn what_has_no_limit_is_not_asked() {
        let limits = config::Pressure {
            max_replica_lag: None,
            max_lock_waits: None,
            max_connections: None,
            max_log_rate: None,
            max_active_sessions: None,
        };
        let pressed =
            Measured { replica_lag: Some(1e9), hidden: true, lock_waits: 1_000, connections: 1_000, usable: 1, log: 0, active: Some(99) };
        assert_eq!(compare(&limits, &pressed, Some(1e9)), [None, None, None, None, None]);
        assert_eq!(State::default().judge(&compare(&limits, &pressed, None)), Pressed::default());
        assert!(limits.none() && !LIMITS.none());
    }
}

//! Named points at which the program can be made to die, so that a test can kill it between any two of its steps (I8).
//!
//! `RETENTIOND_CRASH=executor.claimed` aborts the process when it comes to that point, `executor.claimed#3` at its third passing. Only in
//! builds with debug assertions: in a release build the variable means nothing and a point is no code at all.

/// The variable that names a point.
pub const VARIABLE: &str = "RETENTIOND_CRASH";

/// Every point, in the order of a pass. Each is passed by one call of [`point`] in the code.
pub const POINTS: [&str; 26] = [
    "verifier.looked",
    "verifier.noted",
    "planner.missing",
    "planner.compared",
    "planner.missed",
    "planner.opened",
    "planner.polled",
    "planner.settling",
    "planner.settled",
    "planner.quarantined",
    "planner.looked",
    "planner.noted",
    "executor.tidied",
    "guard.weighed",
    "guard.admitted",
    "executor.claiming",
    "executor.claimed",
    "executor.entered",
    "executor.licensed",
    "executor.deleted",
    "executor.looked",
    "executor.recorded",
    "executor.committed",
    "executor.giving_back",
    "executor.gave_back",
    "ledger.numbered",
];

/// Those that are passed only where a class has targets in other stores.
pub const ELSEWHERE: [&str; 3] = ["executor.intending", "executor.intended", "executor.away"];

/// Those that are passed only where endpoints are told.
pub const OUTWARD: [&str; 1] = ["notices.sent"];

/// Dies here when told to.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };

    static ARMED: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let told = std::env::var_os(VARIABLE)?.into_string().ok()?;
        let (point, passing) = told.split_once('#').map_or((told.as_str(), Some(1)), |(point, n)| (point, n.parse().ok()));
        Some((point.to_owned(), passing?))
    });
    static PASSED: AtomicU32 = AtomicU32::new(0);
    if let Some((armed, passing)) = &*ARMED
        && armed == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *passing
    {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub fn point(_: &str) {}

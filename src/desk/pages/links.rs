//! Where the pages are, and how a link says what it is about. All that a page shows is in its address.

use std::fmt::Write as _;

/// How it stands.
pub const OVERVIEW: &str = "/";
/// The list of jobs; one is below it.
pub const JOBS: &str = "/jobs";
/// One account.
pub const EXPLAIN: &str = "/explain";
/// What will be deleted.
pub const PLAN: &str = "/plan";
/// Holds; POST places one.
pub const HOLDS: &str = "/holds";
/// The guard and pauses.
pub const GUARD: &str = "/guard";
/// POST: releases the guard.
pub const GUARD_RELEASE: &str = "/guard/release";
/// POST: pauses.
pub const PAUSE: &str = "/pause";
/// POST: resumes.
pub const RESUME: &str = "/resume";
/// Requests; POST places one.
pub const REQUESTS: &str = "/requests";
/// Who did what.
pub const ACTIVITY: &str = "/activity";
/// What was deleted.
pub const REPORTS: &str = "/reports";
/// The same as CSV, from the API.
pub const REPORTS_CSV: &str = "/api/v1/reports/deletions";
/// Leads to one certificate: `?job=17`.
pub const CERTIFICATE: &str = "/certificate";
/// The daemon itself.
pub const SYSTEM: &str = "/system";
/// POST: puts the configured policy into force.
pub const POLICY_ACCEPT: &str = "/policy/accept";
/// GET shows the form, POST signs in.
pub const SIGN_IN: &str = "/sign-in";
/// POST: signs out.
pub const SIGN_OUT: &str = "/sign-out";

/// The page of a job.
#[must_use]
pub fn job(id: &str) -> String {
    format!("{JOBS}/{}", encoded(id))
}

/// POST: ends the back-off of a job.
#[must_use]
pub fn job_retry(id: &str) -> String {
    format!("{JOBS}/{}/retry", encoded(id))
}

/// POST: gives a job up.
#[must_use]
pub fn job_close(id: &str) -> String {
    format!("{JOBS}/{}/close", encoded(id))
}

/// What is known of an account.
#[must_use]
pub fn explain(account: &str) -> String {
    with(EXPLAIN, &[("account", account)])
}

/// POST: releases a hold.
#[must_use]
pub fn hold_release(id: &str) -> String {
    format!("{HOLDS}/{}/release", encoded(id))
}

/// POST: accepts a request.
#[must_use]
pub fn request_approve(id: &str) -> String {
    format!("{REQUESTS}/{}/approve", encoded(id))
}

/// POST: withdraws a request.
#[must_use]
pub fn request_withdraw(id: &str) -> String {
    format!("{REQUESTS}/{}/withdraw", encoded(id))
}

/// The certificate of a job, as a page that prints.
#[must_use]
pub fn certificate(job: &str) -> String {
    format!("/api/v1/jobs/{}/certificate?format=html", encoded(job))
}

/// What is known of an account, for programs.
#[must_use]
pub fn explain_json(account: &str) -> String {
    format!("/api/v1/accounts/{}/explain", encoded(account))
}

/// A path with a query. What is empty is left out.
#[must_use]
pub fn with(path: &str, query: &[(&str, &str)]) -> String {
    let mut link = path.to_owned();
    for (at, (key, value)) in query.iter().filter(|(_, value)| !value.is_empty()).enumerate() {
        link.push(if at == 0 { '?' } else { '&' });
        link.push_str(&encoded(key));
        link.push('=');
        link.push_str(&encoded(value));
    }
    link
}

/// The text as one part of an address.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

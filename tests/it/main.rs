//! Everything that needs a real Postgres, in one binary: one server for the run, one database for each test.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects and stops where it is not so")]

#[path = "../support/pgbouncer.rs"]
#[expect(dead_code, reason = "the soak needs more of it")]
mod pgbouncer;
#[path = "../support/proxy.rs"]
#[expect(dead_code, reason = "the soak needs more of it")]
mod proxy;
mod world;

mod bad_input;
mod cli;
mod crossing;
mod daemon;
mod executor;
mod faults;
mod model;
mod planner;
mod pooler;
mod privileges;
mod promise;
mod races;
mod safeguards;
mod sources;
mod vanished;
mod verifier;
mod wake;

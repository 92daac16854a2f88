//! Everything that needs a real Postgres, in one binary: one server for the run, one database for each test.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects and stops where it is not so")]

#[path = "../support/moto.rs"]
mod moto;
#[path = "../support/cmq.rs"]
mod cmq;
#[path = "../support/pgbouncer.rs"]
#[expect(dead_code, reason = "the soak needs more of it")]
mod pgbouncer;
#[path = "../support/proxy.rs"]
#[expect(dead_code, reason = "the soak needs more of it")]
mod proxy;
#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/bucket.rs"]
mod bucket;
#[path = "../support/standin.rs"]
mod standin;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
#[path = "../support/secantus.rs"]
mod secantus;
#[path = "../support/http.rs"]
mod client;
#[path = "../support/receiver.rs"]
mod receiver;
mod world;

mod bad_input;
mod canary;
mod certificate;
mod children;
mod cli;
mod clock;
mod cmq_queues;
mod coverage;
// A release build has no points to die at.
#[cfg(debug_assertions)]
mod crash;
mod crossing;
mod daemon;
mod desk;
mod desk_fuzz;
mod desk_scans;
mod executor;
mod faults;
mod fence;
mod forecast;
mod ledger;
mod levels;
mod manners;
mod metrics;
mod model;
mod notices;
mod objects;
mod pages;
mod planner;
mod policy;
mod pooler;
mod predicates;
mod privileges;
mod promise;
mod races;
mod requests;
mod records;
mod reports;
mod runbooks;
mod running;
mod safeguards;
mod sources;
mod stores;
mod traces;
mod twin;
mod vanished;
mod verifier;
mod wake;

//! `retentiond` keeps the promise "we delete your configuration 30 days after you leave, your queue data after 7".

// Vocabulary: imported by all, imports nothing further down.
pub mod model;
pub mod config;
pub mod sql;

// Gateways: one outside thing each.
pub mod database;
pub mod catalog;
pub mod source;
pub mod retention;
pub mod safeguards;
pub mod jobs;
pub mod stores;
pub mod policy;

// Passes: the only code that joins gateways.
pub mod planner;
pub mod executor;
pub mod verifier;
pub mod outlook;

// Running: what the passes need to be a program.
pub mod schema;
pub mod lifecycle;
pub mod telemetry;
pub mod http;
pub mod failure;
pub mod app;

// The operator's surface.
pub mod terminal;
pub mod embedded;
pub mod sample;
pub mod cli;

//! `retentiond` keeps the promise "we delete your configuration 30 days after you leave, your queue data after 7".

// Vocabulary: imported by all, imports nothing further down.
pub mod model;
pub mod config;

// The process: what it says, how it ends, what it answers.
pub mod terminal;
pub mod telemetry;
pub mod lifecycle;
pub mod http;

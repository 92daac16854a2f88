//! The places that hold records. One file for each kind of store; this version knows the main Postgres.
//! A store knows its records and how they are addressed, nothing of why they are due.

pub mod postgres;

//! The operator's desk: what people see of the daemon, and do to it.

pub mod pages;
pub mod plot;

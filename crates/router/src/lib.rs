//! Words and decisions of routing, kept free of I/O, tasks and clocks so that every rule can be tested
//! without a network: `now` and randomness are always arguments.

pub mod backoff;
pub mod budget;
pub mod estimate;
pub mod glob;
pub mod outcome;
pub mod pick;
pub mod plan;
pub mod retry_after;
pub mod share;

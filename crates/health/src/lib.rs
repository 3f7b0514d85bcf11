//! States over time: which paths may take traffic, how they trip, and how they earn it back.
//!
//! `breaker` is the pure machine, `evidence` says which breaker an outcome speaks of, `registry` owns all of
//! them on this node and is their only writer. Nothing here opens a socket: the gateway sends probes and copies
//! the way it sends requests, and tells the registry what came of them. Health is each node's own.

pub mod baseline;
pub mod breaker;
pub mod cell;
pub mod evidence;
pub mod gate;
pub mod mark;
pub mod models;
pub mod registry;
pub mod waiting;
pub mod window;

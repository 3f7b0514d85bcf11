//! Measures a gateway: a mock upstream whose every byte can be checked, a generator that does not hide waits,
//! and a comparison of nothing, nginx and Tidegate between the two.
//!
//! The mock and the generator agree on one thing only, the content (`content`): what the mock makes from a
//! seed, the generator makes again and compares. Everything between them is a black box reached by URL, and
//! watched by process id; this crate does not know the gateway's code.
//! Not here: assertions about speed. A figure is printed with how it was measured, and a person judges it.

pub mod compare;
pub mod content;
pub mod load;
pub mod mock;
pub mod process;
pub mod report;

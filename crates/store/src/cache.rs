//! Answers that are kept, and the right to make one: what the store says of them.
//!
//! Beside a stored answer there may be a marker, which says that some node is making it, and the pieces of it so
//! far, for nodes that wait for it. A marker that is not renewed is forgotten, and the next to ask gets the right.

use std::time::Duration;

use bytes::Bytes;

/// What one finds who wants an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is stored, and will be kept this long.
    Found(Bytes, Duration),
    /// It is not, and the caller has the right to make it.
    Lead,
    /// Another is making it, and noted this.
    Follow(String),
    /// It was found lately that it cannot be shared: each on his own.
    Alone,
}

/// What one hears who renews the right to make an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// It is still the caller's.
    pub held: bool,
    /// Another node waits for it, so pieces are wanted.
    pub followed: bool,
}

/// What one hears who waits for an answer of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// It is stored, and will be kept this long.
    Found(Bytes, Duration),
    /// It is being made; the next pieces, or none yet.
    Pieces(Vec<Bytes>),
    /// Nobody makes it: the right is to be had.
    Orphaned,
    /// It cannot be shared: each on his own.
    Alone,
}

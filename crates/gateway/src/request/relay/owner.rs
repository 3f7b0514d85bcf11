//! Who hears how an answer went: the client it is for, or a run that several clients wait for.

use crate::request::settle::{End, Settle};
use crate::request::trail::Trail;

/// Told of usage and of the end.
#[derive(Debug)]
pub enum Owner {
    /// Nobody yet, or nobody any more.
    None,
    /// Settled when the body ends or is dropped.
    Client(Box<Settle>),
    /// Kept, for the run to read when the body has ended.
    Run(Box<Trail>),
}

impl Owner {
    /// What the request met.
    pub const fn trail(&mut self) -> Option<&mut Trail> {
        match self {
            Self::None => None,
            Self::Client(settle) => Some(&mut settle.trail),
            Self::Run(trail) => Some(trail),
        }
    }

    /// Of an answer that went out whole.
    pub fn end_of_whole(&self) -> End {
        match self {
            Self::Client(settle) => {
                http::StatusCode::from_u16(settle.status).map_or(End::Success, End::of_status)
            }
            Self::None | Self::Run(_) => End::Success,
        }
    }

    /// All is said: a client's request is settled.
    pub fn finish(&mut self, end: End) {
        if let Some(trail) = self.trail() {
            trail.end = end;
        }
        if matches!(self, Self::Client(_)) {
            *self = Self::None;
        }
    }
}

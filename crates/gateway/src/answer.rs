//! The body of what goes to a client: known whole, handed through, or relayed event by event.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::request::relay::shared::Shared;
use crate::request::relay::{Passage, Relay};

/// A response body. Breaks are told inside the stream where the format allows it, else by an unfinished
/// transfer, which is the error below.
#[derive(Debug)]
pub enum Answer {
    /// All of it.
    Whole(Bytes),
    /// An upstream's bytes as they come.
    Passage(Box<Passage>),
    /// A stream of events.
    Relay(Box<Relay>),
    /// What more than one client gets.
    Shared(Box<Shared>),
}

/// The upstream broke off in the middle of bytes that cannot carry an error: the connection is closed
/// unfinished, so that the client sees it.
#[derive(Debug, Clone, Copy)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream broke off in the middle of its answer")
    }
}

impl std::error::Error for Broken {}

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let data = match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::Passage(passage) => ready!(passage.poll_data(cx)),
            Self::Relay(relay) => ready!(relay.poll_data(cx)).map(Ok),
            Self::Shared(shared) => ready!(shared.poll_data(cx)),
        };
        Poll::Ready(data.map(|d| d.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Passage(passage) => passage.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Shared(shared) => shared.left().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Relay(_) => SizeHint::default(),
        }
    }
}

/// Pieces held back until it was clear that they may go out.
pub type Held = VecDeque<Bytes>;

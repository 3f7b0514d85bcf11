//! What a request met on its way to an answer: written by the attempt engine, read when the request is settled.
//!
//! Apart from `settle`, because a request that several clients wait for is made for none of them alone.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tidegate_router::outcome::Class;
use tidegate_wire::answer::Usage;
use tokio::time::Instant;

use crate::request::settle::End;
use crate::upstream::Path;

/// The way of one request.
#[derive(Debug, Clone)]
pub struct Trail {
    /// When the request's head was read.
    pub start: Instant,
    /// As the answer carries it.
    pub request_id: HeaderValue,
    /// The path that answered.
    pub path: Option<Arc<Path>>,
    /// Attempts begun.
    pub attempts: u32,
    /// Attempts that failed, in order.
    pub failures: Vec<(Arc<Path>, Class)>,
    /// A fallback answered.
    pub fell_back: bool,
    /// The model that was asked in the end, where it is not the client's.
    pub stand_in: Option<String>,
    /// From start to the first content.
    pub first_content: Option<Duration>,
    /// Spent waiting for upstreams.
    pub upstream_wait: Duration,
    /// As the upstream counted.
    pub usage: Option<Usage>,
    /// Pieces of content that came; a stream's usage is judged by them where the upstream does not say.
    pub emitted: u64,
    /// How it ended, where that is known before the last byte is out.
    pub end: End,
    /// The client's SDK should not send this again of itself.
    pub no_retry: bool,
}

impl Trail {
    /// Of a request that begins now.
    pub fn begin(request_id: HeaderValue) -> Self {
        Self {
            start: Instant::now(),
            request_id,
            path: None,
            attempts: 0,
            failures: Vec::new(),
            fell_back: false,
            stand_in: None,
            first_content: None,
            upstream_wait: Duration::ZERO,
            usage: None,
            emitted: 0,
            end: End::Running,
            no_retry: false,
        }
    }

    /// The request's id, for logs and messages.
    pub fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

//! What the mock has done and is doing, as `/stats` shows it.
//!
//! A request is counted as running from its head to the last byte of its answer or to the moment the client
//! is gone, whichever comes first: so a gateway that forgets to hang up is seen here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Live counters, shared by every thread of one mock.
#[derive(Debug, Default)]
pub struct Tally {
    requests: AtomicU64,
    in_flight: AtomicU64,
    streams: AtomicU64,
    cancelled: AtomicU64,
    faults: AtomicU64,
    connections: AtomicU64,
}

/// The counters at one moment; the body of `/stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Requests begun since the start; `/stats` itself is not counted.
    pub requests: u64,
    /// Answers not yet finished, streams among them.
    pub in_flight: u64,
    /// Streams not yet finished.
    pub streams: u64,
    /// Answers whose client hung up before the end.
    pub cancelled: u64,
    /// Answers that were spoiled on purpose.
    pub faults: u64,
    /// Open connections.
    pub connections: u64,
}

impl Tally {
    /// The counters now.
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            requests: read(&self.requests),
            in_flight: read(&self.in_flight),
            streams: read(&self.streams),
            cancelled: read(&self.cancelled),
            faults: read(&self.faults),
            connections: read(&self.connections),
        }
    }

    /// Counts a request and gives its number, from 0.
    pub fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts an answer that is spoiled on purpose.
    pub fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection until the guard is dropped.
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// Counts an answer as running until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Running {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Running { tally: Arc::clone(self), stream: false, finished: false }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connected(Arc<Tally>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A running answer; dropped unfinished, it counts as cancelled by its client.
#[derive(Debug)]
pub struct Running {
    tally: Arc<Tally>,
    stream: bool,
    finished: bool,
}

impl Running {
    /// Counts the answer among the streams.
    pub fn streams(&mut self) {
        if !self.stream {
            self.stream = true;
            self.tally.streams.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The answer's end is ours: its last byte was handed over, or it was broken on purpose.
    pub fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tally.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.stream {
            self.tally.streams.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.finished {
            self.tally.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_dropped_unfinished_is_a_cancelled_one() {
        let tally = Arc::new(Tally::default());
        let mut first = tally.begin();
        let mut second = tally.begin();
        first.streams();
        second.streams();
        assert_eq!((tally.stats().in_flight, tally.stats().streams), (2, 2));
        first.finish();
        drop(first);
        drop(second);
        let stats = tally.stats();
        assert_eq!((stats.in_flight, stats.streams, stats.cancelled), (0, 0, 1));
    }
}

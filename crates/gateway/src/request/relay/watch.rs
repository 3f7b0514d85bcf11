//! The clocks of an answer that has begun: silence, no progress, the deadline, the end of the node.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Without an event that says anything, comments keep a stream alive only this many times `idle`.
const PROGRESS_FACTOR: u32 = 4;
/// A stream that never pauses looks this often, in pieces, whether the node is going away.
const CUT_LOOK: u32 = 64;

/// The clocks of a running answer.
#[derive(Debug)]
pub struct Watch {
    idle: Duration,
    deadline: Instant,
    last_piece: Instant,
    last_event: Instant,
    pieces: u32,
    alarm: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Why an answer is ended before its upstream ends it.
pub enum Alarm {
    /// Silence for `idle`, or nothing said for several times that.
    Stalled,
    /// The request's time is over.
    Deadline,
    /// The node ends.
    Draining,
}

impl Watch {
    /// Starts the clocks.
    pub fn begin(cut: CancellationToken, idle: Duration, deadline: Instant) -> Self {
        let now = Instant::now();
        Self {
            idle,
            deadline,
            last_piece: now,
            last_event: now,
            pieces: 0,
            alarm: Box::pin(sleep_until((now + idle).min(deadline))),
            cut: Box::pin(cut.cancelled_owned()),
        }
    }

    /// A piece came. The alarm is not set again for each: it finds out when it goes off. An upstream that is never
    /// slow never lets it go off, so what does not depend on slowness is looked at here.
    pub fn piece(&mut self, event: bool, cx: &mut Context<'_>) -> Option<Alarm> {
        self.last_piece = Instant::now();
        if event {
            self.last_event = self.last_piece;
        }
        self.pieces = self.pieces.wrapping_add(1);
        if self.last_piece >= self.deadline {
            Some(Alarm::Deadline)
        } else if self.pieces.is_multiple_of(CUT_LOOK) && self.cut.as_mut().poll(cx).is_ready() {
            Some(Alarm::Draining)
        } else {
            None
        }
    }

    fn due(&self) -> Instant {
        let stall = self.last_event + self.idle * PROGRESS_FACTOR;
        (self.last_piece + self.idle).min(stall).min(self.deadline)
    }

    /// Goes off when the answer must be ended; cancel-safe.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Alarm> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Alarm::Draining);
        }
        loop {
            std::task::ready!(self.alarm.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(Alarm::Deadline);
            }
            let due = self.due();
            if now >= due {
                return Poll::Ready(Alarm::Stalled);
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

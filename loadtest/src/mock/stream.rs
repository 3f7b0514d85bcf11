//! The body of a streamed answer: one event per piece, paced, broken where its script says.
//!
//! One piece is one body frame, and hyper flushes before it waits for the next: with a delay between them,
//! pieces are packets of their own. The delay counts from the piece before; a stream that is late does not
//! catch up in a burst, which would put several pieces in one packet.
//! Backpressure is hyper's: no piece is made before the one before it was taken.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::{Instant, Sleep};

use super::script::{Fault, Script};
use super::socket::Ending;
use super::tally::Running;
use crate::content;

/// Which endpoint's shape the events have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Piece(u32),
    Finish,
    /// What was made is still being sent, then the stream ends well.
    Drain,
    /// What was made is still being sent, then the connection breaks.
    Break,
    /// Everything is sent.
    Broken,
    Stalled,
    Over,
}

/// The events of one stream.
#[derive(Debug)]
pub struct Events {
    script: Script,
    shape: Shape,
    seed: u64,
    /// As a JSON string, quotes included.
    model: String,
    step: Step,
    /// The fault that has not struck yet.
    fault: Option<Fault>,
    /// `split` only: bytes made and not yet sent.
    made: BytesMut,
    random: fastrand::Rng,
    /// `split` without a delay: hyper writes out what it has only when the body has nothing, so every
    /// second poll has nothing.
    rest_next: bool,
    due: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    ending: Ending,
    running: Running,
}

impl Events {
    /// A stream of `seed` by `script`. `model` is a JSON string.
    pub fn new(
        script: Script,
        shape: Shape,
        seed: u64,
        model: String,
        ending: Ending,
        running: Running,
    ) -> Self {
        let mut running = running;
        running.streams();
        let due = (!script.ttft.is_zero()).then(|| Instant::now() + script.ttft);
        Self {
            fault: script.fault,
            script,
            shape,
            seed,
            model,
            step: Step::Piece(0),
            made: BytesMut::new(),
            random: fastrand::Rng::with_seed(seed),
            rest_next: false,
            due,
            sleep: None,
            ending,
            running,
        }
    }

    /// The next frame, when it is due.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        ready!(self.poll_due(cx));
        if self.script.split {
            return self.poll_split(cx);
        }
        let mut event = String::new();
        self.make(&mut event);
        if event.is_empty() { self.end(cx) } else { Poll::Ready(Some(Ok(Frame::data(event.into())))) }
    }

    fn poll_split(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if std::mem::take(&mut self.rest_next) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let want = self.random.usize(1..=600);
        while self.made.len() < want {
            let mut event = String::new();
            self.make(&mut event);
            if event.is_empty() {
                break;
            }
            self.made.extend_from_slice(event.as_bytes());
        }
        if self.made.is_empty() {
            return self.end(cx);
        }
        self.rest_next = self.script.chunk_delay.is_zero();
        let part = self.made.split_to(want.min(self.made.len())).freeze();
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    /// Nothing is left to send.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.step {
            Step::Stalled => Poll::Pending,
            Step::Break => {
                // hyper drops what it has not written yet when a body fails; having nothing for once makes it write.
                self.step = Step::Broken;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Broken => {
                self.step = Step::Over;
                self.running.finish();
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
            }
            _ => {
                self.step = Step::Over;
                self.running.finish();
                Poll::Ready(None)
            }
        }
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Ready(()) };
        match &mut self.sleep {
            Some(sleep) => {
                if sleep.deadline() != due {
                    sleep.as_mut().reset(due);
                }
                ready!(sleep.as_mut().poll(cx));
            }
            None => {
                let sleep = self.sleep.insert(Box::pin(tokio::time::sleep_until(due)));
                ready!(sleep.as_mut().poll(cx));
            }
        }
        self.due = None;
        Poll::Ready(())
    }

    /// Sets when the next piece may go.
    fn pace(&mut self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        let now = Instant::now();
        let planned = self.sleep.as_ref().map_or(now, |sleep| sleep.deadline()) + delay;
        self.due = Some(if planned < now { now + delay } else { planned });
    }

    /// Appends the next event, or nothing when there is none.
    fn make(&mut self, out: &mut String) {
        match self.step {
            Step::Piece(n) => self.make_piece(n, out),
            Step::Finish => {
                let pieces = self.script.chunks;
                let _ = write!(
                    out,
                    "data: {},\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{pieces},\"total_tokens\":{}}}}}\n\n",
                    self.opening(match self.shape {
                        Shape::Chat => "\"delta\":{}",
                        Shape::Completion => "\"text\":\"\"",
                    }),
                    u64::from(pieces) + 9,
                );
                if self.fault != Some(Fault::NoDone) {
                    out.push_str("data: [DONE]\n\n");
                }
                self.step = Step::Drain;
            }
            Step::Drain | Step::Break | Step::Broken | Step::Stalled | Step::Over => {}
        }
    }

    fn make_piece(&mut self, n: u32, out: &mut String) {
        if n == self.script.breaks_at()
            && let Some(fault) = self.fault.take_if(|fault| *fault != Fault::NoDone)
        {
            match fault {
                Fault::Reset => {
                    self.ending.reset();
                    self.step = Step::Break;
                    return;
                }
                Fault::Cut => {
                    out.push_str("data: {\"id\":\"chatcmpl-");
                    self.step = Step::Break;
                    return;
                }
                Fault::Stall => {
                    self.step = Step::Stalled;
                    return;
                }
                Fault::Garbage => out.push_str("data: {\"id\":\"chatcmpl-\n\n"),
                Fault::Error => {
                    out.push_str("data: {\"error\":{\"message\":\"The server had an error\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n");
                    self.step = Step::Drain;
                    return;
                }
                Fault::Html | Fault::NoDone => {}
            }
        }
        if n >= self.script.chunks {
            self.step = Step::Finish;
            return self.make(out);
        }
        let before = match (self.shape, n) {
            (Shape::Chat, 0) => "\"delta\":{\"role\":\"assistant\",\"content\":\"",
            (Shape::Chat, _) => "\"delta\":{\"content\":\"",
            (Shape::Completion, _) => "\"text\":\"",
        };
        let _ = write!(out, "data: {}", self.opening(before));
        content::push_piece(out, self.seed, n, self.script.chunk_bytes);
        out.push_str(match self.shape {
            Shape::Chat => "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
            Shape::Completion => "\",\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        });
        self.step = Step::Piece(n + 1);
        if n + 1 < self.script.chunks || (self.fault.is_some() && self.script.breaks_at() > n) {
            self.pace(self.script.chunk_delay);
        }
    }

    fn opening<'a>(&'a self, choice: &'a str) -> Opening<'a> {
        Opening { events: self, choice }
    }
}

/// Everything of an event before what the choice says.
struct Opening<'a> {
    events: &'a Events,
    choice: &'a str,
}

impl std::fmt::Display for Opening<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (id, object) = match self.events.shape {
            Shape::Chat => ("chatcmpl", "chat.completion.chunk"),
            Shape::Completion => ("cmpl", "text_completion"),
        };
        write!(
            f,
            "{{\"id\":\"{id}-{:016x}\",\"object\":\"{object}\",\"created\":1700000000,\"model\":{},\"system_fingerprint\":\"fp_mock\",\"choices\":[{{\"index\":0,{}",
            self.events.seed, self.events.model, self.choice,
        )
    }
}

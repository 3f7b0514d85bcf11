//! One upstream answer as events: whole, understood as far as the relay must, untouched.
//!
//! Owns the answer's body and what of it is no event yet, at most one event and one piece. Not here: clocks
//! (`watch`) and what a client is told (`relay`).

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use metrics::Counter;
use tidegate_wire::answer::{Chunk, ChunkPeek, Dialect, Usage, peek_chunk};
use tidegate_wire::sse::{Event, Splitter};
use tokio::time::timeout;

use crate::request::attempt::verdict;
use crate::upstream::exchange::AnswerBody;

/// Largest event; one upstream line must not fill this node's memory.
const EVENT_MAX: usize = 1024 * 1024;
/// How long a finished stream's connection is waited for to become reusable.
const LINGER: Duration = Duration::from_secs(1);

/// The events of one upstream answer.
#[derive(Debug)]
pub struct Events {
    body: Option<AnswerBody>,
    splitter: Splitter,
    /// How its events look.
    pub dialect: Dialect,
    malformed: Counter,
    /// How many choices an answer has.
    choices: u32,
    /// The choices that came to an end, a bit for each; one that has begun and not ended leaves the answer open.
    begun: u128,
    ended: u128,
    /// A terminal event came where there are no choices.
    terminal: bool,
    /// Of the next event, where a stream numbers them.
    pub next_number: u64,
    /// As the upstream said last.
    pub usage: Option<Usage>,
    /// Events with content.
    pub emitted: u64,
}

/// What comes next in a stream.
#[derive(Debug)]
pub enum Step {
    /// An event that says something, and what.
    Event(Bytes, ChunkPeek),
    /// A comment, or an event without data.
    Note(Bytes),
    /// `[DONE]`
    Done(Bytes),
    /// The body ended as it should.
    End,
    /// It did not.
    Broken(String),
}

impl Events {
    /// Reads `body` as events; what is not JSON is dropped and counted.
    pub fn new(body: AnswerBody, dialect: Dialect, choices: u32, malformed: Counter) -> Self {
        Self {
            body: Some(body),
            splitter: Splitter::new(EVENT_MAX),
            dialect,
            malformed,
            choices,
            begun: 0,
            ended: 0,
            terminal: false,
            next_number: 0,
            usage: None,
            emitted: 0,
        }
    }

    /// Takes note of what an event said about the end and the usage.
    pub fn note(&mut self, peek: &ChunkPeek) {
        self.usage = peek.usage.or(self.usage);
        self.emitted += u64::from(peek.content);
        self.begun |= peek.begun;
        self.ended |= peek.ended;
        self.terminal |= peek.terminal && peek.ended == 0;
    }

    /// The answer is complete: every choice that was asked for, or has begun, has ended.
    pub fn finished(&self) -> bool {
        self.terminal || (self.ended.count_ones() >= self.choices && self.begun & !self.ended == 0)
    }

    /// The next step; cancel-safe.
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            match self.splitter.next_event() {
                Ok(Some(event)) => {
                    if let Some(step) = self.understand(event) {
                        return Poll::Ready(step);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(too_large) => {
                    self.body = None;
                    return Poll::Ready(Step::Broken(too_large.to_string()));
                }
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Step::End) };
            match std::task::ready!(body.poll_data(cx)) {
                Some(Ok(bytes)) => self.splitter.push(bytes),
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Step::Broken(verdict::text(&error)));
                }
                None => {
                    self.body = None;
                    if let Some(step) = self.splitter.finish().and_then(|last| self.understand(last)) {
                        return Poll::Ready(step);
                    }
                }
            }
        }
    }

    fn understand(&mut self, event: Event) -> Option<Step> {
        let Some(data) = event.data() else { return Some(Step::Note(event.raw.clone())) };
        match peek_chunk(self.dialect, &data) {
            Chunk::Done => Some(Step::Done(event.raw.clone())),
            Chunk::Event(peek) => {
                self.next_number = peek.sequence_number.map_or(self.next_number, |n| n.saturating_add(1));
                Some(Step::Event(event.raw.clone(), peek))
            }
            // Another API's events may be anything; only those we know must be JSON.
            Chunk::Malformed if self.dialect == Dialect::Other => {
                let peek = ChunkPeek { content: true, ..ChunkPeek::default() };
                Some(Step::Event(event.raw.clone(), peek))
            }
            Chunk::Malformed => {
                self.malformed.increment(1);
                None
            }
        }
    }

    /// Nothing more is wanted. The rest of the transfer, usually nothing, is read so that the connection can
    /// be used again; not for long.
    pub fn let_go(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        let mut context = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(ended) = body.poll_data(&mut context) {
            if ended.is_some() {
                drop(body);
            }
            return;
        }
        tokio::spawn(async move {
            let _ = timeout(LINGER, body.next()).await;
        });
    }
}

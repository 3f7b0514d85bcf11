//! Server-sent events as bytes: cuts an upstream's stream into whole events without touching a byte of them.
//! Owns the bytes of the event that is not whole yet, bounded; an event that lies inside one chunk is a slice of
//! that chunk. What the upstream sends is relayed even where it means nothing here (comments, unknown fields).
//! Grammar: WHATWG HTML, "9.2.5 Parsing an event stream". Not here: what is in `data` (`answer`).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use memchr::memchr2;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Cuts a stream into events. Push each chunk as it comes, then take events until there is none.
///
/// The cuts depend on the bytes alone, never on how they were split into chunks. All raw bytes put together are
/// the stream again, but for what [`Splitter::finish`] adds, and for empty lines after the last event.
#[derive(Debug)]
pub struct Splitter {
    /// Largest event, in bytes with its line ends.
    max_event_bytes: usize,
    /// The start of the current event, from chunks that are gone. Copied, so that a stream of tiny pieces does not
    /// hold on to the large read buffers they were cut from.
    partial: Vec<u8>,
    /// The chunk being looked at; nothing of it has been scanned.
    chunk: Bytes,
    /// Chunks after it.
    later: VecDeque<Bytes>,
    at: At,
    /// The current event has a line that is not empty. Until then, empty lines end nothing.
    started: bool,
    /// No event was given out yet.
    first: bool,
    overflow: bool,
}

/// Where in the grammar the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the start of a line, and no LF can still belong to the line before.
    Start,
    /// Inside a line.
    Line,
    /// Behind a CR that ended a line; an LF here belongs to it.
    LineCr,
    /// Behind a CR that ended an empty line in a stream that also uses LF: the event waits for the next byte, for
    /// CRLF is what such streams use.
    BlankCr,
}

/// One event, or a block of comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The upstream's bytes, with the empty line that ends the event (and any empty lines before it).
    pub raw: Bytes,
    first: bool,
}

/// An event is longer than the bound. The stream cannot be read on: where the next event begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTooLarge {
    /// The bound, in bytes.
    pub max: usize,
}

impl fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event of the stream is longer than {} bytes", self.max)
    }
}

impl std::error::Error for EventTooLarge {}

impl Splitter {
    /// A splitter at the start of a stream that refuses events over `max_event_bytes`.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            partial: Vec::new(),
            chunk: Bytes::new(),
            later: VecDeque::new(),
            at: At::Start,
            started: false,
            first: true,
            overflow: false,
        }
    }

    /// Takes the next piece of the stream. Holds on to it until its events are taken, so take them before pushing
    /// more: the bound is on an event, not on what is pushed at once.
    pub fn push(&mut self, chunk: Bytes) {
        if self.overflow || chunk.is_empty() {
            return;
        }
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.later.push_back(chunk);
        }
    }

    /// The next whole event; `None` when it has not arrived yet. Looks at each byte once, however small the chunks.
    ///
    /// # Errors
    /// The current event is longer than the bound, whole or not; from then on always, and what was held is let go.
    pub fn next_event(&mut self) -> Result<Option<Event>, EventTooLarge> {
        while !self.overflow {
            if self.chunk.is_empty() {
                match self.later.pop_front() {
                    Some(chunk) => self.chunk = chunk,
                    None => return Ok(None),
                }
            }
            let end = self.scan();
            if self.partial.len() + end.unwrap_or(self.chunk.len()) > self.max_event_bytes {
                break;
            }
            let Some(end) = end else {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk = Bytes::new();
                continue;
            };
            let head = if end == self.chunk.len() {
                std::mem::take(&mut self.chunk)
            } else {
                self.chunk.split_to(end)
            };
            return Ok(Some(self.event(head)));
        }
        self.overflow = true;
        self.partial = Vec::new();
        self.chunk = Bytes::new();
        self.later = VecDeque::new();
        Err(EventTooLarge { max: self.max_event_bytes })
    }

    /// Bytes held that no event has given out yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.partial.len() + self.chunk.len() + self.later.iter().map(Bytes::len).sum::<usize>()
    }

    /// The body has ended: any event still whole in what is held, then the unfinished one, completed with the empty
    /// line it lacked, then `None`. Empty lines alone are no event. An event over the bound is none either.
    pub fn finish(&mut self) -> Option<Event> {
        if let Some(event) = self.next_event().ok()? {
            return Some(event);
        }
        let started = self.started;
        let missing: &[u8] = match self.at {
            At::Line | At::LineCr => b"\n\n",
            At::Start => b"\n",
            At::BlankCr => b"",
        };
        self.partial.extend_from_slice(missing);
        self.at = At::Start;
        let event = self.event(Bytes::new());
        started.then_some(event)
    }

    /// Ends the current event with `head`.
    fn event(&mut self, head: Bytes) -> Event {
        let raw = if self.partial.is_empty() {
            head
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(&head);
            whole.into()
        };
        self.started = false;
        Event { raw, first: std::mem::take(&mut self.first) }
    }

    /// Runs the grammar over the chunk, from its start, up to the end of an event or of the chunk. The answer is how
    /// many bytes of the chunk belong to the event that ended; 0 is possible, see `BlankCr`.
    fn scan(&mut self) -> Option<usize> {
        let bytes: &[u8] = &self.chunk;
        let mut i = 0;
        while let Some(&byte) = bytes.get(i) {
            let mut blank = false;
            match (self.at, byte) {
                (At::Line, _) => {
                    i += memchr2(b'\n', b'\r', bytes.get(i..)?)?;
                    self.at = if bytes.get(i) == Some(&b'\r') { At::LineCr } else { At::Start };
                    i += 1;
                }
                (At::LineCr, b'\n') => {
                    self.at = At::Start;
                    i += 1;
                }
                (At::Start, b'\n') | (At::BlankCr, b'\n') => {
                    blank = true;
                    self.at = At::Start;
                    i += 1;
                }
                (At::Start, b'\r') => {
                    self.at = At::BlankCr;
                    i += 1;
                }
                // A stream of bare CRs: its events are not held back for an LF that never comes. Should one come
                // after all, it opens the next event, where it means nothing.
                (At::LineCr, b'\r') => {
                    blank = true;
                    i += 1;
                }
                (At::BlankCr, _) => {
                    blank = true;
                    self.at = At::Start;
                }
                (At::Start | At::LineCr, _) => {
                    self.started = true;
                    self.at = At::Line;
                    i += 1;
                }
            }
            if blank && self.started {
                return Some(i);
            }
        }
        None
    }
}

impl Event {
    /// The payload: the values of all `data` lines, joined by LF. `None` when there is no such line, as in a block of
    /// comments. Borrowed unless there are several.
    #[must_use]
    pub fn data(&self) -> Option<Cow<'_, [u8]>> {
        let mut values = self.values(b"data");
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.push(b'\n');
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }

    /// The last non-empty `event` line's value; `None` for the unnamed kind.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.values(b"event").last().filter(|name| !name.is_empty())
    }

    fn values<'a>(&'a self, field: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
        let bom = if self.first { BOM } else { b"" };
        let rest: &[u8] = &self.raw;
        let lines = Lines { rest: rest.strip_prefix(bom).unwrap_or(rest) };
        lines.filter_map(move |line| {
            let rest = line.strip_prefix(field)?;
            match rest.split_first() {
                None => Some(rest),
                Some((b':', value)) => Some(value.strip_prefix(b" ").unwrap_or(value)),
                Some(_) => None,
            }
        })
    }
}

/// The lines of an event, without their ends. A CRLF is given as a line and an empty one, which no caller can tell
/// from the empty lines that end the event.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = memchr2(b'\n', b'\r', self.rest).unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line)
    }
}

#[cfg(test)]
mod tests;

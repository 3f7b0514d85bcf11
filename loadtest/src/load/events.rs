//! Reads the events of an answer and follows its content.
//!
//! A small reader of its own, kept apart from the gateway's: a fault that both shared would not be seen.
//! The mock sends one `data:` line per event, so a line is an event; comments and other fields are skipped.

use std::borrow::Cow;

use bytes::BytesMut;
use serde::Deserialize;

use super::tally::Failure;
use crate::content::Sequence;

/// A line longer than this is no answer of the mock.
const LINE_MAX: usize = 32 * 1024 * 1024;

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Choice<'a> {
    #[serde(borrow, alias = "message")]
    delta: Option<Content<'a>>,
    finish_reason: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    content: Cow<'a, str>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Usage {
    completion_tokens: u32,
}

/// What went wrong, in one kind and in words.
pub type Fault = (Failure, String);

fn corrupt(why: impl std::fmt::Display) -> Fault {
    (Failure::Corrupt, why.to_string())
}

/// Checks a plain answer of `seed`. Errors: it is not the mock's answer.
pub fn check_plain(body: &[u8], seed: u64) -> Result<(), Fault> {
    let message: Message<'_> = serde_json::from_slice(body).map_err(corrupt)?;
    let content = message.choices.first().and_then(|choice| choice.delta.as_ref());
    let content = content.ok_or_else(|| corrupt("no message in the answer"))?;
    Sequence::new(seed).take(&content.content).map_err(|bad| corrupt(format!("{bad:?}")))
}

/// Follows one streamed answer.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    sequence: Sequence,
    /// As asked for; `None`: only the stream itself says.
    want: Option<u32>,
    finished: bool,
    done: bool,
}

impl Reader {
    /// Expects a stream of `seed`, of `want` pieces if that is known.
    pub fn new(seed: u64, want: Option<u32>) -> Self {
        Self { buffer: BytesMut::new(), sequence: Sequence::new(seed), want, finished: false, done: false }
    }

    /// Pieces that came so far.
    pub fn pieces(&self) -> u32 {
        self.sequence.pieces()
    }

    /// Takes the next bytes of the body; `piece` is called for each piece in them. Errors: an error event, or
    /// anything the mock did not send.
    pub fn take(&mut self, bytes: &[u8], mut piece: impl FnMut()) -> Result<(), Fault> {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = memchr::memchr(b'\n', &self.buffer) {
            let line = self.buffer.split_to(end + 1);
            let line = line.trim_ascii_end();
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let before = self.pieces();
            self.event(data.trim_ascii_start())?;
            if self.pieces() > before {
                piece();
            }
        }
        if self.buffer.len() > LINE_MAX { Err(corrupt("an endless line")) } else { Ok(()) }
    }

    fn event(&mut self, data: &[u8]) -> Result<(), Fault> {
        if self.done {
            return Err(corrupt("an event after [DONE]"));
        }
        if data == b"[DONE]" {
            self.done = true;
            return if self.finished { Ok(()) } else { Err(corrupt("[DONE] before the finish_reason")) };
        }
        let message: Message<'_> = serde_json::from_slice(data).map_err(|bad| {
            corrupt(format!("{bad} in {}", String::from_utf8_lossy(data.get(..80).unwrap_or(data))))
        })?;
        if message.error.is_some() {
            return Err((Failure::ErrorEvent, String::from_utf8_lossy(data).into_owned()));
        }
        for choice in &message.choices {
            if let Some(delta) = &choice.delta
                && !delta.content.is_empty()
            {
                self.sequence.take(&delta.content).map_err(|bad| corrupt(format!("{bad:?}")))?;
            }
            if choice.finish_reason.is_some() {
                self.finished = true;
                let said = message.usage.map(|usage| usage.completion_tokens);
                let want = said.ok_or_else(|| corrupt("no usage with the finish_reason"))?;
                self.sequence.finish(want).map_err(|bad| corrupt(format!("{bad:?}")))?;
            }
        }
        Ok(())
    }

    /// The body has ended. Errors: before `[DONE]`, or with another number of pieces than was asked for.
    pub fn end(&self) -> Result<(), Fault> {
        if !self.done {
            return Err((Failure::Cut, format!("the stream ended after {} pieces", self.pieces())));
        }
        match self.want {
            Some(want) => self.sequence.finish(want).map_err(|bad| corrupt(format!("{bad:?}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::push_piece;

    fn stream(pieces: u32) -> String {
        let mut out = String::from(": hello\r\n\r\n");
        for n in 0..pieces {
            out.push_str("data: {\"choices\":[{\"delta\":{\"content\":\"");
            push_piece(&mut out, 5, n, 30);
            out.push_str("\"},\"finish_reason\":null}]}\n\n");
        }
        out.push_str(&format!("data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}],\"usage\":{{\"completion_tokens\":{pieces}}}}}\n\ndata: [DONE]\n\n"));
        out
    }

    fn read(bytes: &[u8], step: usize, want: Option<u32>) -> Result<u32, Failure> {
        let mut reader = Reader::new(5, want);
        let mut pieces = 0;
        for part in bytes.chunks(step) {
            reader.take(part, || pieces += 1).map_err(|fault| fault.0)?;
        }
        reader.end().map_err(|fault| fault.0)?;
        assert_eq!(pieces, reader.pieces());
        Ok(pieces)
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut() {
        let whole = stream(12);
        for step in 1..100 {
            assert_eq!(read(whole.as_bytes(), step, Some(12)), Ok(12), "parts of {step} bytes");
        }
    }

    #[test]
    fn every_lost_line_is_found() {
        let whole = stream(6);
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        for lost in (0..lines.len()).filter(|at| lines[*at].starts_with("data:")) {
            let rest: String =
                lines.iter().enumerate().filter(|(at, _)| *at != lost).map(|(_, line)| *line).collect();
            assert!(read(rest.as_bytes(), 64, None).is_err(), "without line {lost}");
        }
    }

    #[test]
    fn a_stream_without_its_end_is_cut_and_one_with_too_few_pieces_is_corrupt() {
        let whole = stream(6);
        assert_eq!(read(whole.trim_end_matches("data: [DONE]\n\n").as_bytes(), 64, None), Err(Failure::Cut));
        assert_eq!(read(whole.as_bytes(), 64, Some(7)), Err(Failure::Corrupt));
    }

    #[test]
    fn an_error_event_and_garbage_are_told_apart() {
        assert_eq!(read(b"data: {\"error\":{\"message\":\"x\"}}\n\n", 64, None), Err(Failure::ErrorEvent));
        assert_eq!(read(b"data: {\"id\":\n\n", 64, None), Err(Failure::Corrupt));
    }

    #[test]
    fn finish_reason_null_is_no_finish() {
        assert_eq!(
            read(
                b"data: {\"choices\":[{\"delta\":{},\"finish_reason\":null}]}\n\ndata: [DONE]\n\n",
                64,
                None
            ),
            Err(Failure::Corrupt)
        );
    }
}

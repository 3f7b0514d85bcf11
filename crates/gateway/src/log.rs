//! Log lines: made on the request's thread, written by one of their own.
//!
//! Owns the queue to stderr. When stderr does not keep up, lines are dropped and counted; no request ever
//! waits for a log. Every line passes the redaction of keys and bearer tokens before it is queued.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::ValueEnum;
use metrics::counter;
use regex::{NoExpand, Regex};
use tidegate_config::used::{Level, Log};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines waiting to be written.
const QUEUE_MAX: usize = 8192;
/// OpenAI-style keys, the keys `keygen` makes, bearer tokens.
const SECRETS: &str = r"sk-[A-Za-z0-9_-]{6,}|\btg-[A-Za-z0-9_-]{20,}|(?i:bearer)[ +]+[A-Za-z0-9._~+/=-]+";
const REDACTED: &str = "[redacted]";

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// What was asked for, else JSON unless stderr is a terminal.
    pub fn or_default(asked: Option<Self>) -> Self {
        asked.unwrap_or(if io::stderr().is_terminal() { Self::Text } else { Self::Json })
    }
}

static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

struct Sink {
    queue: SyncSender<Message>,
    format: Format,
    requests: bool,
    redact: Vec<Regex>,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Starts the writer and makes it the process's log. Once per process.
pub fn install(format: Format, log: &Log) -> anyhow::Result<()> {
    let (queue, lines) = sync_channel(QUEUE_MAX);
    let mut redact = vec![Regex::new(SECRETS)?];
    redact.extend(log.redact.iter().cloned());
    let level = match log.level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let requests = !matches!(log.level, Level::Error | Level::Warn);
    let sink = Arc::new(Sink { queue, format, requests, redact });
    SINK.set(Arc::clone(&sink)).map_err(|_| anyhow::anyhow!("the log is already set up"))?;
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&lines))?;
    // Libraries speak only when something is wrong; their debug lines may hold bodies.
    let filter = EnvFilter::try_new(format!("warn,tidegate={level}"))?;
    let layer = tracing_subscriber::fmt::layer().with_timer(Clock).with_ansi(false).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Json => {
            registry.with(layer.json().flatten_event(true).with_writer(Lines(sink))).try_init()?
        }
        Format::Text => registry.with(layer.with_writer(Lines(sink))).try_init()?,
    }
    Ok(())
}

/// Waits until all lines so far are written, a second at most.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        let (done, wait) = sync_channel(1);
        if sink.queue.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}

/// The format of request lines; `None` when they are not written.
pub fn requests() -> Option<Format> {
    SINK.get().filter(|s| s.requests).map(|s| s.format)
}

/// Queues a finished line (with its line end).
pub fn write(line: String) {
    if let Some(sink) = SINK.get() {
        sink.push(line.into_bytes());
    }
}

impl Sink {
    fn push(&self, line: Vec<u8>) {
        let line = self.redacted(line);
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(line)) {
            counter!("tidegate_log_lines_dropped_total").increment(1);
        }
    }

    fn redacted(&self, line: Vec<u8>) -> Vec<u8> {
        let Ok(mut text) = String::from_utf8(line) else { return b"[a line that is not UTF-8]\n".to_vec() };
        for pattern in &self.redact {
            if pattern.is_match(&text) {
                text = pattern.replace_all(&text, NoExpand(REDACTED)).into_owned();
            }
        }
        text.into_bytes()
    }
}

fn write_lines(lines: &Receiver<Message>) {
    let mut batch = Vec::with_capacity(64 * 1024);
    while let Ok(first) = lines.recv() {
        let mut waiting = Vec::new();
        for message in std::iter::once(first).chain(lines.try_iter().take(1024)) {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => waiting.push(done),
            }
        }
        // There is nowhere to report that stderr itself is gone.
        let _ = io::stderr().lock().write_all(&batch);
        batch.clear();
        for done in waiting {
            let _ = done.send(());
        }
    }
}

struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_millis(crate::clock::wall()))
    }
}

/// Gives tracing a writer per line.
struct Lines(Arc<Sink>);

struct Line<'a> {
    sink: &'a Sink,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;
    fn make_writer(&'a self) -> Line<'a> {
        Line { sink: &self.0, text: Vec::new() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.sink.push(std::mem::take(&mut self.text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_bearer_tokens_never_reach_a_line() {
        let (queue, lines) = sync_channel(4);
        let redact = vec![Regex::new(SECRETS).unwrap(), Regex::new("hunter[0-9]").unwrap()];
        let sink = Sink { queue, format: Format::Json, requests: true, redact };
        sink.push(b"key sk-proj-abc_DEF-123 and BEARER a.b.c and hunter2 stay\n".to_vec());
        let Message::Line(line) = lines.recv().unwrap() else { panic!("no line") };
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line, "key [redacted] and [redacted] and [redacted] stay\n");
    }
}

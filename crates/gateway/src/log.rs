//! Log lines: made on the request's thread, written by one of their own.
//!
//! Owns the queue to stderr. When stderr does not keep up, lines are dropped and counted; no request ever
//! waits for a log. Every line passes the redaction of keys and bearer tokens before it is queued.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
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

/// Bytes waiting to be written.
const QUEUE_MAX: usize = 4 * 1024 * 1024;
/// Lines are gathered this long and written at once: one wake-up and one write for many requests.
const GATHER: Duration = Duration::from_millis(10);
/// Written without gathering on.
const BATCH: usize = 64 * 1024;
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
    /// Held for an append or a swap.
    queue: Mutex<Queue>,
    /// The queue is no longer empty, has a batch, or should be flushed.
    work: Condvar,
    /// Everything queued before a flush is written.
    written: Condvar,
    format: Format,
    requests: bool,
    redact: Vec<Regex>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    flush: bool,
    writing: bool,
}

/// Starts the writer and makes it the process's log. Once per process.
pub fn install(format: Format, log: &Log) -> anyhow::Result<()> {
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
    let sink = Arc::new(Sink::new(format, requests, redact));
    SINK.set(Arc::clone(&sink)).map_err(|_| anyhow::anyhow!("the log is already set up"))?;
    std::thread::Builder::new().name("log".to_owned()).spawn({
        let sink = Arc::clone(&sink);
        move || sink.write_out()
    })?;
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
        let mut queue = sink.lock();
        queue.flush = true;
        sink.work.notify_one();
        let idle = |q: &mut Queue| q.writing || !q.bytes.is_empty();
        let _ = sink.written.wait_timeout_while(queue, Duration::from_secs(1), idle);
    }
}

/// The format of request lines; `None` when they are not written.
pub fn requests() -> Option<Format> {
    SINK.get().filter(|s| s.requests).map(|s| s.format)
}

/// A text without what no line of the log may show, for what is shown elsewhere.
pub fn redacted(text: &str) -> String {
    let patterns = SINK.get().map(|sink| sink.redact.as_slice()).unwrap_or_default();
    redact(patterns, text.to_owned())
}

/// Queues a finished line (with its line end).
pub fn write(line: String) {
    if let Some(sink) = SINK.get() {
        sink.push(line.into_bytes());
    }
}

impl Sink {
    fn new(format: Format, requests: bool, redact: Vec<Regex>) -> Self {
        let (queue, work, written) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self { queue, work, written, format, requests, redact }
    }

    fn push(&self, line: Vec<u8>) {
        let line = self.redacted(line);
        let mut queue = self.lock();
        let before = queue.bytes.len();
        if before + line.len() > QUEUE_MAX {
            drop(queue);
            counter!("tidegate_log_lines_dropped_total").increment(1);
            return;
        }
        queue.bytes.extend_from_slice(&line);
        let wake = before == 0 || (before < BATCH && queue.bytes.len() >= BATCH);
        drop(queue);
        if wake {
            self.work.notify_one();
        }
    }

    fn redacted(&self, line: Vec<u8>) -> Vec<u8> {
        let Ok(text) = String::from_utf8(line) else { return b"[a line that is not UTF-8]\n".to_vec() };
        redact(&self.redact, text).into_bytes()
    }

    /// The writer's life.
    fn write_out(&self) {
        let mut batch = Vec::new();
        loop {
            let queue = self.work.wait_while(self.lock(), |q| q.bytes.is_empty() && !q.flush);
            let queue = queue.unwrap_or_else(PoisonError::into_inner);
            let gather = |q: &mut Queue| q.bytes.len() < BATCH && !q.flush;
            let gathered = self.work.wait_timeout_while(queue, GATHER, gather);
            let mut queue = gathered.unwrap_or_else(PoisonError::into_inner).0;
            std::mem::swap(&mut batch, &mut queue.bytes);
            queue.flush = false;
            queue.writing = true;
            drop(queue);
            // There is nowhere to report that stderr itself is gone.
            let _ = io::stderr().lock().write_all(&batch);
            batch.clear();
            batch.shrink_to(BATCH);
            self.lock().writing = false;
            self.written.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn redact(patterns: &[Regex], mut text: String) -> String {
    for pattern in patterns {
        if pattern.is_match(&text) {
            text = pattern.replace_all(&text, NoExpand(REDACTED)).into_owned();
        }
    }
    text
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
        let redact = vec![Regex::new(SECRETS).unwrap(), Regex::new("hunter[0-9]").unwrap()];
        let sink = Sink::new(Format::Json, true, redact);
        sink.push(b"key sk-proj-abc_DEF-123 and BEARER a.b.c and hunter2 stay\n".to_vec());
        let line = String::from_utf8(sink.lock().bytes.clone()).unwrap();
        assert_eq!(line, "key [redacted] and [redacted] and [redacted] stay\n");
    }
}

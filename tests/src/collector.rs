//! A real collector of traces: Rotel, which prints each span it takes.
//!
//! Owns the process and its port; the port stays the test's own while no collector runs on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::port::Reserved;
use crate::process::Process;
use crate::{parts, until};

/// A span as the collector understood it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// Hex.
    pub trace: String,
    /// Hex.
    pub id: String,
    /// Hex; empty where the trace begins with it.
    pub parent: String,
    /// As the conventions have it.
    pub name: String,
    /// `SERVER` or `CLIENT`.
    pub kind: String,
    /// Its status is an error.
    pub failed: bool,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// As `Str(chat)`, `Int(5)`, `Bool(true)`, `Double(0.5)`.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// The text or the number of an attribute; empty when it has none.
    pub fn get(&self, key: &str) -> &str {
        let value = self.attributes.get(key).map_or("", String::as_str);
        value.split_once('(').and_then(|(_, value)| value.strip_suffix(')')).unwrap_or(value)
    }

    /// The request's own, not an attempt's.
    pub fn is_request(&self) -> bool {
        self.kind == "SERVER"
    }

    /// The last line of it has been read: the node writes these attributes last.
    fn is_whole(&self) -> bool {
        self.attributes.contains_key("tidegate.request_id")
            || self.attributes.contains_key("tidegate.attempt")
    }
}

/// The collector.
pub struct Collector {
    process: Option<Process>,
    port: Reserved,
    binary: std::path::PathBuf,
    folder: TempDir,
}

impl Collector {
    /// Starts it; `None` when it is not installed.
    pub async fn start() -> Option<Self> {
        let binary = parts::rotel()?;
        let mut collector =
            Self { process: None, port: Reserved::new(), binary, folder: tempfile::tempdir().unwrap() };
        collector.revive().await;
        Some(collector)
    }

    /// Where it takes OTLP over HTTP.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The `tracing` section for it.
    pub fn section(&self, sample: &str) -> String {
        format!("tracing: {{otlp: \"http://{}\", sample: {sample}}}", self.address())
    }

    /// Begins anew, on the same port, after `kill`.
    pub async fn revive(&mut self) {
        let mut command = Command::new(&self.binary);
        command.current_dir(self.folder.path()).env_clear();
        command.args(["start", "--exporter", "blackhole", "--debug-log", "traces"]);
        command.args(["--debug-log-verbosity", "detailed", "--otlp-grpc-endpoint", "127.0.0.1:0"]);
        command.arg("--otlp-http-endpoint").arg(self.address().to_string());
        for (option, file) in [("--pid-file", "pid"), ("--log-file", "log")] {
            command.arg(option).arg(self.folder.path().join(file));
        }
        let process = Process::start("rotel", &mut command);
        until("the collector", async || {
            process.id();
            TcpStream::connect(self.address()).await.ok()
        })
        .await;
        self.process = Some(process);
    }

    /// Ends as a killed process does.
    pub async fn kill(&mut self) {
        drop(self.process.take());
        self.port.refuses().await;
    }

    /// Connections are taken by the kernel, and nothing is answered.
    pub async fn freeze(&self) {
        self.process().signal("STOP").await;
    }

    /// Goes on after `freeze`.
    pub async fn thaw(&self) {
        self.process().signal("CONT").await;
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the collector was killed")
    }

    /// All that it printed since it began.
    pub fn output(&self) -> String {
        self.process().output()
    }

    /// The spans it has taken since it began, in their order of arrival.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for line in self.output().lines() {
            if line.starts_with("Span #") {
                spans.push(Span::default());
                continue;
            }
            let Some(span) = spans.last_mut() else { continue };
            if let Some((key, value)) = line.trim().strip_prefix("-> ").and_then(|l| l.split_once(": ")) {
                span.attributes.insert(key.to_owned(), value.to_owned());
                continue;
            }
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key.trim() {
                "Trace ID" => value.clone_into(&mut span.trace),
                "ID" => value.clone_into(&mut span.id),
                "Parent ID" => value.clone_into(&mut span.parent),
                "Name" => value.clone_into(&mut span.name),
                "Kind" => value.trim_start_matches("SPAN_KIND_").clone_into(&mut span.kind),
                "Start time" => span.start = value.parse().unwrap(),
                "End time" => span.end = value.parse().unwrap(),
                "Status code" => span.failed = value == "STATUS_CODE_ERROR",
                // The next batch: what is of the process is no part of the span before it.
                "Resource SchemaURL" => spans.push(Span::default()),
                _ => {}
            }
        }
        spans.retain(Span::is_whole);
        spans
    }

    /// Waits for the request with this `x-request-id`: its span, and those of its attempts by their number.
    pub async fn request(&self, id: &str) -> (Span, Vec<Span>) {
        let whole = async || {
            let spans = self.spans();
            let request = spans.iter().find(|span| span.get("tidegate.request_id") == id)?;
            let mut attempts: Vec<Span> = spans
                .iter()
                .filter(|span| span.parent == request.id && !span.is_request())
                .cloned()
                .collect();
            attempts.sort_by_key(|attempt| attempt.get("tidegate.attempt").parse::<u32>().unwrap());
            let all = attempts.len().to_string() == request.get("tidegate.attempts");
            all.then(|| (request.clone(), attempts))
        };
        until(&format!("the spans of request {id}"), whole).await
    }
}

//! A real Prometheus that scrapes nodes by the shipped configuration and evaluates the shipped rules; the queries
//! that rules, dashboard and runbook consist of; and `promtool`.
//!
//! Owns its process and the folder it works in; both go when it is dropped. Of the shipped files only times and
//! addresses are changed: a second takes the place of 15. A missing program skips the test as `parts` says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::Call;
use crate::node::Node;
use crate::parts;
use crate::process::Process;
use crate::{PATIENCE, until, within};

/// A file of `deploy/`, as `prometheus/rules.yaml`.
pub fn shipped(name: &str) -> PathBuf {
    parts::root().join("deploy").join(name)
}

/// What a YAML file of `deploy/` says.
pub fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(shipped(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs `promtool` beside the shipped rules; fails with what it says. `None` when it is not installed.
pub async fn promtool(args: &[&str]) -> Option<()> {
    let mut command = Command::new(parts::program("promtool")?);
    command.args(args).current_dir(shipped("prometheus"));
    // It evaluates hours.
    let ended = within(3 * PATIENCE, "promtool", command.output()).await.unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    assert!(ended.status.success(), "promtool {args:?}: {}", String::from_utf8_lossy(&said));
    Some(())
}

/// The server.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes these nodes every second from now on and evaluates the rules as often; `None` when it is not
    /// installed.
    pub async fn scrape(nodes: &[Node]) -> Option<Self> {
        let program = parts::program("prometheus")?;
        let folder = tempfile::tempdir().unwrap();
        let mut config = read("prometheus/prometheus.yaml");
        let targets: Vec<_> = nodes.iter().map(|node| node.admin.to_string()).collect();
        config["global"]["scrape_interval"] = json!("1s");
        config["global"]["evaluation_interval"] = json!("1s");
        config["rule_files"] = json!([shipped("prometheus/rules.yaml").canonicalize().unwrap()]);
        config["scrape_configs"][0]["static_configs"][0]["targets"] = json!(targets);
        config["alerting"] = json!({});
        let file = folder.path().join("prometheus.yaml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], parts::free_port()));
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).current_dir(folder.path());
        let process = Process::start("prometheus", &mut command);
        let this = Self { process, address, _folder: folder };
        until("Prometheus", async || {
            this.process.id();
            let reply = Call::new(address, "GET", "/-/ready").try_send().await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        Some(this)
    }

    async fn ask(address: SocketAddr, path: &str) -> Result<Value, String> {
        let said = Call::new(address, "GET", &format!("/api/v1/{path}")).send().await.json().await;
        if said["status"] == "success" { Ok(said["data"].clone()) } else { Err(said["error"].to_string()) }
    }

    /// Every rule, as `GET /api/v1/rules` tells of it: `name`, `query`, `type`, `health`, `lastError`.
    pub async fn rules(&self) -> Vec<Value> {
        let data = Self::ask(self.address, "rules").await.unwrap();
        let groups = data["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    /// Waits until this alert is pending or fires with these labels; gives its annotations.
    pub async fn alert(&self, name: &str, labels: &[(&str, &str)]) -> Value {
        until(name, async || {
            let data = Self::ask(self.address, "alerts").await.unwrap();
            let alerts = data["alerts"].as_array().unwrap().iter();
            let labels = [&[("alertname", name)], labels].concat();
            let mut fit = alerts.filter(|a| labels.iter().all(|(k, v)| a["labels"][*k] == *v));
            fit.next().map(|alert| alert["annotations"].clone())
        })
        .await
    }

    /// Follows whether each of these has an answer, from now on.
    pub fn follow(&self, queries: impl IntoIterator<Item = Query>) -> Answers {
        let mut open: BTreeMap<String, Query> = BTreeMap::new();
        for query in queries {
            for part in operands(&query.text) {
                let due = open.entry(part).or_insert_with(|| query.clone());
                due.of_events |= query.of_events;
            }
        }
        let all = open.len();
        let (asked, open) = watch::channel(open);
        let address = self.address;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(500));
            loop {
                tick.tick().await;
                let queries: Vec<_> =
                    asked.borrow().iter().map(|(part, query)| (part.clone(), query.of_events)).collect();
                for (part, of_events) in queries {
                    let data = Self::ask(address, &format!("query?query={}", escaped(&part))).await;
                    let data = data.unwrap_or_else(|error| panic!("{error} in {part}"));
                    if has_values(&data, of_events) {
                        asked.send_modify(|open| drop(open.remove(&part)));
                    }
                }
            }
        });
        Answers { all, open, task }
    }
}

/// An instant vector with a number in it, or a number; of events, one above 0.
fn has_values(data: &Value, of_events: bool) -> bool {
    let number = |value: &Value| {
        let number = value[1].as_str().and_then(|text| text.parse::<f64>().ok());
        number.is_some_and(|number| !number.is_nan() && (number > 0.0 || !of_events))
    };
    match data["result"].as_array() {
        Some(series) if data["resultType"] == "vector" => series.iter().any(|s| number(&s["value"])),
        _ => number(&data["result"]),
    }
}

/// What is asked of Prometheus, somewhere.
#[derive(Debug, Clone)]
pub struct Query {
    /// Where it stands.
    pub place: String,
    /// What it asks.
    pub text: String,
    /// It counts what has happened in a test: 0 is no answer.
    pub of_events: bool,
}

/// Queries, and which of them had an answer.
#[derive(Debug)]
pub struct Answers {
    all: usize,
    open: watch::Receiver<BTreeMap<String, Query>>,
    task: JoinSet<()>,
}

impl Answers {
    /// Waits until each had one. Fails with those that had none within `limit`.
    pub async fn complete(mut self, limit: Duration) {
        let done = tokio::time::timeout(limit, self.open.wait_for(BTreeMap::is_empty)).await;
        if done.is_ok_and(|done| done.is_err()) {
            self.task.join_next().await.unwrap().unwrap();
        }
        let open = self.open.borrow();
        let lines: Vec<_> = open.iter().map(|(part, query)| format!("{}: {part}", query.place)).collect();
        assert!(lines.is_empty(), "nothing comes of {} of {}:\n{}", lines.len(), self.all, lines.join("\n"));
    }
}

fn escaped(text: &str) -> String {
    let byte = |b: &u8| match b {
        b if b.is_ascii_alphanumeric() => char::from(*b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.as_bytes().iter().map(byte).collect()
}

/// The parts of a query that must have an answer whatever the state of things: of a comparison or a set operation
/// both sides, without what they are compared with; of `absent` what it looks for. Numbers have no part in it.
pub fn operands(query: &str) -> Vec<String> {
    let query = query.trim();
    let Some((left, right)) = split(query) else {
        if let Some(inner) = enclosed(query, "(").or_else(|| enclosed(query, "absent(")) {
            return operands(inner);
        }
        // A number, or a sum of numbers, names nothing.
        let names_something = query.contains(|c: char| c.is_ascii_alphabetic());
        return if names_something { vec![query.to_owned()] } else { Vec::new() };
    };
    let mut parts = operands(left);
    parts.extend(operands(right));
    parts
}

/// What stands between `open` and the parenthesis that ends it, where nothing follows.
fn enclosed<'a>(query: &'a str, open: &str) -> Option<&'a str> {
    let inner = query.strip_prefix(open)?.strip_suffix(')')?;
    let mut lowest = 0;
    walk(inner, |_, depth| {
        lowest = lowest.min(depth);
        false
    });
    (lowest >= 0).then_some(inner)
}

/// Both sides of the first comparison or set operation that is in no parentheses.
fn split(query: &str) -> Option<(&str, &str)> {
    let mut found = None;
    walk(query, |at, depth| {
        found = if depth == 0 { operator(query, at) } else { None };
        found.is_some()
    });
    let (at, length) = found?;
    let mut right = query[at + length..].trim_start();
    right = right.strip_prefix("bool ").unwrap_or(right).trim_start();
    for word in ["on", "ignoring", "group_left", "group_right"] {
        let Some(labels) = right.strip_prefix(word).map(str::trim_start) else { continue };
        if let Some((_, rest)) = labels.strip_prefix('(').and_then(|labels| labels.split_once(')')) {
            right = rest.trim_start();
        }
    }
    Some((&query[..at], right))
}

fn operator(query: &str, at: usize) -> Option<(usize, usize)> {
    let (before, rest) = query.split_at(at);
    let word = |word: &&str| {
        let after = rest.strip_prefix(*word).is_some_and(|r| r.starts_with([' ', '(']));
        after && before.ends_with([' ', ')'])
    };
    let sign = |sign: &&str| rest.starts_with(*sign);
    let found = ["and", "or", "unless"].into_iter().find(word);
    let found = found.or_else(|| ["==", "!=", ">=", "<=", ">", "<"].into_iter().find(sign))?;
    Some((at, found.len()))
}

/// Calls `at` with each position outside of quotes and how many brackets are open there, until it says true.
fn walk(query: &str, mut at: impl FnMut(usize, i32) -> bool) {
    let (mut depth, mut quote, mut escape) = (0, None, false);
    for (index, c) in query.char_indices() {
        match (quote, c) {
            (Some(_), _) if escape => escape = false,
            (Some(_), '\\') => escape = true,
            (Some(end), _) if c == end => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '(' | '{' | '[') => depth += 1,
            (None, ')' | '}' | ']') => depth -= 1,
            (None, _) => {}
        }
        if quote.is_none() && at(index, depth) {
            return;
        }
    }
}

/// The folder from which Node finds Grafana's types; `None` when they are not installed.
pub fn grafana_types() -> Option<PathBuf> {
    parts::program("node")?;
    let folder = parts::root().join(".parts/node");
    let found = folder.join("node_modules/@grafana/schema").exists();
    parts::or_skip("Grafana's schema", found.then_some(folder))
}

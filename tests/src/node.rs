//! A real `tidegate serve` process with a configuration of the test's.
//!
//! Owns the process and the folder its files are in; both go when it is dropped. Ports are the kernel's choice
//! and read from the `listening` line. The environment is empty but for what a test sets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::client::{Call, Reply};
use crate::process::Process;

/// The binary under test: `$TIDEGATE_BIN` (from the root of the checkout, when relative), else the newest of the debug and the release build.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return crate::parts::root().join(path);
    }
    let this = std::env::current_exe().unwrap();
    let target = this.ancestors().nth(3).unwrap();
    let built = |profile: &str| -> Option<(SystemTime, PathBuf)> {
        let path = target.join(profile).join("tidegate");
        Some((path.metadata().ok()?.modified().ok()?, path))
    };
    let newest = ["debug", "release"].into_iter().filter_map(built).max();
    newest.unwrap_or_else(|| panic!("no tidegate under {}: cargo build -p tidegate", target.display())).1
}

/// The binary under test is not what is shipped: its memory and speed say nothing.
pub fn is_debug_build() -> bool {
    binary().components().any(|part| part.as_os_str() == "debug")
}

/// The key that the upstream called `name` is given.
pub fn upstream_key(name: &str) -> String {
    format!("sk-of-upstream-{name}")
}

/// What a node is started with.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    upstreams: Vec<String>,
    names: Vec<String>,
    routes: Vec<String>,
    addresses: [SocketAddr; 2],
    listen: String,
    admin: String,
    top: String,
    retry: String,
    /// `health` by its own sections; none: nothing counts as a failure.
    health: Vec<(String, String)>,
    /// `health` and probes with the node's defaults, but for what `health` here says.
    own_pace: bool,
    open_files: Option<String>,
    env: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// Nothing but the two listeners.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            upstreams: Vec::new(),
            names: Vec::new(),
            routes: Vec::new(),
            addresses: [SocketAddr::from(([127, 0, 0, 1], 0)); 2],
            listen: String::new(),
            admin: String::new(),
            top: String::new(),
            // Quick, and without the budget, which has a test of its own.
            retry: "{attempts: 3, backoff: {initial: 1ms, factor: 2, max: 20ms}, budget: 100%}".to_owned(),
            health: Vec::new(),
            own_pace: false,
            open_files: None,
            env: Vec::new(),
        }
    }

    /// An upstream with one key.
    pub fn upstream(self, name: &str, base_url: &str) -> Self {
        self.upstream_with(name, base_url, "")
    }

    /// An upstream with further settings, as `timeouts: {idle: 1s}, max_in_flight: 3`; without `keys` among
    /// them it gets `upstream_key(name)`.
    pub fn upstream_with(mut self, name: &str, base_url: &str, settings: &str) -> Self {
        let mut entry = format!("{{name: {name}, base_url: \"{base_url}\"");
        if !settings.contains("keys:") {
            let variable = format!("KEY_{name}");
            entry.push_str(&format!(", keys: [{{env: {variable}}}]"));
            self.env.push((variable, upstream_key(name)));
        }
        if !settings.is_empty() {
            entry.push_str(&format!(", {settings}"));
        }
        self.upstreams.push(entry + "}");
        self.names.push(name.to_owned());
        self
    }

    /// An upstream that needs no key.
    pub fn upstream_without_key(mut self, name: &str, base_url: &str) -> Self {
        self.upstreams.push(format!("{{name: {name}, base_url: \"{base_url}\"}}"));
        self.names.push(name.to_owned());
        self
    }

    /// A route as it stands in the file; without any, every model goes to all upstreams in their order.
    pub fn route(mut self, entry: &str) -> Self {
        self.routes.push(entry.to_owned());
        self
    }

    /// A route for every model to these upstreams, as `a, b`, with the test's `retry` and further settings, as
    /// `shadow: false`.
    pub fn route_to(self, upstreams: &str, settings: &str) -> Self {
        let retry = self.retry.clone();
        let more = if settings.is_empty() { String::new() } else { format!(", {settings}") };
        self.route(&format!("{{match: {{model: \"*\"}}, to: [{upstreams}], retry: {retry}{more}}}"))
    }

    /// Failover at the pace of a test: `health` with rests, spans and steps of fractions of a second, and probes
    /// every 300 ms for each upstream that says nothing of probes.
    pub fn quick_health(mut self) -> Self {
        let sections = [
            ("breaker", "{window: 6s, open_for: 500ms, max_open: 3s, stalled_after: 700ms}"),
            (
                "recovery",
                "{shadow_max: 1200/min, successes: 3, min_span: 300ms, ramp_step: 300ms, ramp_requests: 3}",
            ),
            ("synthetic", "{interval: 300ms, after_idle: 500ms}"),
            ("flap", "{trips: 3, within: 10s, hold: 2s}"),
            ("choice", "{hysteresis: 1s}"),
        ];
        self.health = sections.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        self
    }

    /// Failover as it is shipped: `health` and probes have the node's defaults.
    pub fn own_pace(mut self) -> Self {
        self.own_pace = true;
        self
    }

    /// Another value for one section of `health`, as `flap`.
    pub fn health(mut self, section: &str, value: &str) -> Self {
        self.health.retain(|(name, _)| name != section);
        self.health.push((section.to_owned(), value.to_owned()));
        self
    }

    /// The default route's `retry`.
    pub fn retry(mut self, entry: &str) -> Self {
        entry.clone_into(&mut self.retry);
        self
    }

    /// Clients connect here and operators there, where otherwise the kernel chooses.
    pub const fn on(mut self, listen: SocketAddr, admin: SocketAddr) -> Self {
        self.addresses = [listen, admin];
        self
    }

    /// More of `listen`, as `max_body: 1MiB`.
    pub fn listen(mut self, settings: &str) -> Self {
        self.listen = format!(", {settings}");
        self
    }

    /// More of `admin`, as `token: {env: TOKEN}`.
    pub fn admin(mut self, settings: &str) -> Self {
        self.admin = format!(", {settings}");
        self
    }

    /// Further sections of the file.
    pub fn section(mut self, yaml: &str) -> Self {
        self.top.push_str(yaml);
        self.top.push('\n');
        self
    }

    /// The node may have no more than this many files and sockets open.
    pub fn open_files(mut self, limit: u32) -> Self {
        self.open_files = Some(format!("ulimit -n {limit}"));
        self
    }

    /// The node begins with this many at most and may allow itself more, as most systems start a process.
    pub fn open_files_at_first(mut self, limit: u32) -> Self {
        self.open_files = Some(format!("ulimit -Sn {limit}"));
        self
    }

    /// A variable of the node's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file beside the configuration; gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The whole configuration.
    pub fn yaml(&self) -> String {
        let list = |entries: &[String]| entries.iter().map(|e| format!("  - {e}\n")).collect::<String>();
        let routes = if self.routes.is_empty() {
            format!(
                "  - {{match: {{model: \"*\"}}, to: [{}], retry: {}}}\n",
                self.names.join(", "),
                self.retry
            )
        } else {
            list(&self.routes)
        };
        // Without health of its own a test sees every attempt, in the order of the file.
        let mut health =
            "health: {breaker: {consecutive_failures: 1000000, min_requests: 1000000}}\n".to_owned();
        let quick = self.own_pace || !self.health.is_empty();
        if quick {
            health.clear();
        }
        if !self.health.is_empty() {
            health.push_str("health:\n");
            for (name, value) in &self.health {
                health.push_str(&format!("  {name}: {value}\n"));
            }
        }
        // Elsewhere a probe would be one request more than the test sent.
        let probe = if quick { "{interval: 300ms, timeout: 300ms}" } else { "{path: none}" };
        let mut upstreams = self.upstreams.clone();
        for entry in upstreams.iter_mut().skip(1).filter(|entry| !quick && !entry.contains("weight:")) {
            entry.truncate(entry.len() - 1);
            entry.push_str(", weight: 0}");
        }
        for entry in upstreams.iter_mut().filter(|entry| !self.own_pace && !entry.contains("probe:")) {
            entry.truncate(entry.len() - 1);
            entry.push_str(&format!(", probe: {probe}}}"));
        }
        let [listen, admin] = self.addresses;
        format!(
            "listen: {{address: \"{listen}\"{}}}\nadmin: {{address: \"{admin}\"{}}}\nupstreams:\n{}routes:\n{routes}{health}{}",
            self.listen,
            self.admin,
            list(&upstreams),
            self.top
        )
    }

    /// Runs the node; it accepts when this returns.
    pub async fn start(self) -> Node {
        let config = self.file("tidegate.yaml", self.yaml());
        let mut command = match self.open_files {
            None => Command::new(binary()),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]).arg(binary());
                shell
            }
        };
        command.args(["serve", "--log-format", "json", "--config"]).arg(&config);
        command.current_dir(self.folder.path()).env_clear().envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let process = Process::start("tidegate", &mut command);
        let addresses = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let of = |key: &str| line[key].as_str()?.parse::<SocketAddr>().ok();
            (line["message"] == "listening").then(|| (of("address"), of("admin")))
        };
        let (address, admin) = process.line("`listening` line", addresses).await;
        Node { process, address: address.unwrap(), admin: admin.unwrap(), folder: self.folder }
    }
}

/// The running node.
#[derive(Debug)]
pub struct Node {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin: SocketAddr,
    folder: TempDir,
}

impl Node {
    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A request to the data plane.
    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(self.address, method, path)
    }

    /// A POST of JSON to the data plane.
    pub fn post(&self, path: &str, body: &Value) -> Call {
        self.call("POST", path).header("content-type", "application/json").body(body.to_string())
    }

    /// A plain chat request.
    pub fn chat(&self) -> Call {
        self.post(
            "/v1/chat/completions",
            &json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        )
    }

    /// A streamed chat request.
    pub fn chat_stream(&self) -> Call {
        let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        self.post("/v1/chat/completions", &body)
    }

    /// A GET from the admin address.
    pub async fn admin(&self, path: &str) -> Reply {
        Call::new(self.admin, "GET", path).send().await
    }

    /// The value of the series `name{labels}`, the labels in any order and only those of interest; the sum when
    /// several match, 0 when none does.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.admin("/metrics").await.text().await;
        text.lines()
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (found, rest) = series.split_once('{').unwrap_or((series, ""));
                let fits = labels.iter().all(|(k, v)| rest.contains(&format!("{k}=\"{v}\"")));
                (found == name && fits).then(|| value.parse::<f64>().ok())?
            })
            .sum()
    }

    /// Fails unless an ordinary request is answered: the node has survived what came before.
    pub async fn still_answers(&self) {
        let log = || format!("the node no longer answers; its log:\n{}", self.process.output());
        let reply = self.chat().try_send().await.unwrap_or_else(|error| panic!("{error}: {}", log()));
        let status = reply.status;
        assert_eq!(status, 200, "{}\n{}", reply.text().await, log());
    }
}

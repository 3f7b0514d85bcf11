//! A real Redis or Valkey of the test's own, which can be killed, stopped, brought back empty on its old port and
//! made to refuse; never the one that the system may run.
//!
//! Owns its process, its port and the folder it works in; all go when it is dropped. `sentinel` and `cluster` put
//! several together. A missing program skips the test as `parts` says. What the gateway keeps in it is no business
//! of this file.

pub mod cluster;
pub mod sentinel;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::ca::Ca;
use crate::fault_proxy::FaultProxy;
use crate::parts;
use crate::port::Reserved;
use crate::process::Process;
use crate::until;

/// The `store.url` of a Redis that is reached through this line.
pub fn behind(line: &FaultProxy) -> String {
    format!("redis://127.0.0.1:{}/0", line.port())
}

/// The clock of a server, which is the test's to set.
#[derive(Debug)]
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

/// The server.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    options: Vec<String>,
    password: Option<String>,
    tls: Option<Arc<rustls::ClientConfig>>,
    clock: Option<Clock>,
    port: Reserved,
    process: Option<Process>,
    folder: TempDir,
}

impl Redis {
    /// A Redis without persistence; `None` when it is not installed.
    pub async fn start() -> Option<Self> {
        Self::with(&[]).await
    }

    /// The same with further options, as `["--maxmemory", "1mb"]`.
    pub async fn with(options: &[&str]) -> Option<Self> {
        let mut redis = Self::new(parts::program("redis-server")?);
        redis.options.extend(options.iter().map(|o| (*o).to_owned()));
        redis.restart().await;
        Some(redis)
    }

    /// One that asks for this password.
    pub async fn password(password: &str) -> Option<Self> {
        let mut redis = Self::new(parts::program("redis-server")?);
        redis.options.extend(["--requirepass", password].map(str::to_owned));
        redis.password = Some(password.to_owned());
        redis.restart().await;
        Some(redis)
    }

    /// One that speaks TLS alone, with a certificate of an authority that only the test knows.
    pub async fn tls() -> Option<Self> {
        let mut redis = Self::new(parts::program("redis-server")?);
        let ca = Ca::new();
        let pair = ca.issue(&["127.0.0.1", "localhost"]);
        let file = |name: &str, text: &str| {
            let path = redis.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let files = [("cert", pair.cert), ("key", pair.key), ("ca-cert", ca.pem())];
        let options = files.map(|(name, text)| [format!("--tls-{name}-file"), file(name, &text)]);
        redis.options.extend(options.concat());
        redis.options.extend(["--tls-auth-clients", "no"].map(str::to_owned));
        redis.tls = Some(ca.client());
        redis.restart().await;
        Some(redis)
    }

    /// A Valkey whose clock can be moved by `advance_clock`; `None` when libfaketime or Valkey is not installed.
    pub async fn with_clock() -> Option<Self> {
        // Debian's Redis uses jemalloc, which looks at the clock before libfaketime can.
        let mut redis = Self::new(parts::valkey()?);
        let file = redis.folder.path().join("clock");
        redis.clock = Some(Clock { library: parts::faketime()?, file });
        redis.set_clock(Duration::ZERO);
        redis.restart().await;
        Some(redis)
    }

    /// A Valkey; `None` when it is not installed.
    pub async fn valkey() -> Option<Self> {
        let mut redis = Self::new(parts::valkey()?);
        redis.restart().await;
        Some(redis)
    }

    fn new(program: PathBuf) -> Self {
        Self {
            program,
            options: Vec::new(),
            password: None,
            tls: None,
            clock: None,
            port: Reserved::new(),
            process: None,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The `store.url` of it, without a password.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}/0", self.port.address())
    }

    /// Its port on loopback.
    pub const fn port(&self) -> u16 {
        self.port.address().port()
    }

    /// The folder it works in; an RDB file would be `dump.rdb` there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `kill -9`; connections to it are refused when this returns.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("KILL").await;
            process.ended().await;
        }
        self.port.refuses().await;
    }

    /// Runs again on its port, empty unless it was told to save; it answers when this returns.
    pub async fn restart(&mut self) {
        self.restart_with(&[]).await;
        until("the server to answer", async || {
            let answer = self.try_command(&["PING"]).await.ok()?;
            (answer == "PONG").then_some(())
        })
        .await;
    }

    /// The same with further options, this time alone and without waiting for it.
    pub async fn restart_with(&mut self, options: &[&str]) {
        self.kill().await;
        let port = self.port().to_string();
        let ports = match self.tls {
            None => ["--port", &port].map(str::to_owned).to_vec(),
            Some(_) => ["--port", "0", "--tls-port", &port].map(str::to_owned).to_vec(),
        };
        let mut command = Command::new(&self.program);
        command.current_dir(self.folder.path()).args(ports).args(["--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(self.folder.path());
        command.args(&self.options).args(options);
        if let Some(clock) = &self.clock {
            command.env("LD_PRELOAD", &clock.library).env("FAKETIME_TIMESTAMP_FILE", &clock.file);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.process = Some(Process::start("redis", &mut command));
    }

    /// Its clock is so far ahead when this returns; only for one that was started `with_clock`, and once.
    pub async fn advance_clock(&self, by: Duration) {
        let time = async || {
            let time = self.command(&["EVAL", "return redis.call('TIME')[1]", "0"]).await;
            Duration::from_secs(time.parse().unwrap_or_else(|_| panic!("no time: {time}")))
        };
        let before = time().await;
        self.set_clock(by);
        // A server reads its clock once in a while rather than for every command.
        until("its clock to move", async || (time().await >= before + by).then_some(())).await;
    }

    fn set_clock(&self, by: Duration) {
        let clock = self.clock.as_ref().unwrap_or_else(|| panic!("a server with the system's clock"));
        // Renamed into place: it is read at every look at the clock, and never half written.
        let new = clock.file.with_extension("new");
        std::fs::write(&new, format!("+{}s", by.as_secs())).unwrap();
        std::fs::rename(new, &clock.file).unwrap();
    }

    /// Runs again and takes two seconds to read back what `SAVE` kept, 40 keys of 4 KiB say.
    pub async fn load_slowly(&mut self) {
        self.restart_with(&["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"])
            .await;
    }

    /// From now on it cannot save, and refuses to write for that reason.
    pub async fn cannot_save(&self) {
        // A snapshot is renamed into place, which a folder there prevents.
        std::fs::create_dir_all(self.folder().join("dump.rdb/full")).unwrap();
        self.command(&["CONFIG", "SET", "save", "3600 1"]).await;
        self.command(&["BGSAVE"]).await;
        self.until_info("persistence", "rdb_last_bgsave_status", "err").await;
    }

    /// It need not save any more.
    pub async fn can_save(&self) {
        std::fs::remove_dir_all(self.folder().join("dump.rdb")).unwrap();
        assert_eq!(self.command(&["CONFIG", "SET", "save", ""]).await, "OK");
    }

    /// From now on the test gives it this password.
    pub fn knows(&mut self, password: &str) {
        self.password = Some(password.to_owned());
    }

    /// Stops it: connections stand and nothing is answered.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
    }

    /// Lets it go on.
    pub async fn thaw(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, name: &str) {
        let process = self.process.as_ref().unwrap_or_else(|| panic!("the server is dead"));
        process.signal(name).await;
    }

    /// Its answer to a command, on a connection of its own: an error is its text, an array its parts by lines,
    /// nil is empty.
    pub async fn command(&self, words: &[&str]) -> String {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same where a failure of the connection is expected.
    ///
    /// # Errors
    /// What the connection died of, or that there was no answer in two seconds.
    pub async fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let (tls, password) = (self.tls.clone(), self.password.as_deref());
        Box::pin(wire::ask(self.port.address(), tls, password, words)).await
    }

    /// The value of a line `name:value` in `INFO section`, empty when absent.
    pub async fn info(&self, section: &str, name: &str) -> String {
        let text = self.try_command(&["INFO", section]).await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().to_owned()
    }

    /// Waits until that value is this.
    pub async fn until_info(&self, section: &str, name: &str, value: &str) {
        until(&format!("{name}:{value}"), async || (self.info(section, name).await == value).then_some(()))
            .await;
    }

    /// How often scripts were run, by whomever.
    pub async fn scripts_run(&self) -> u64 {
        let text = self.command(&["INFO", "commandstats"]).await;
        let of = |line: &str| {
            let rest = line.strip_prefix("cmdstat_eval")?;
            rest.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok()
        };
        text.lines().filter_map(of).sum()
    }

    /// All keys of this type, as `string`.
    pub async fn keys(&self, kind: &str) -> Vec<String> {
        let mut found = Vec::new();
        for key in self.command(&["KEYS", "*"]).await.lines() {
            if self.command(&["TYPE", key]).await == kind {
                found.push(key.to_owned());
            }
        }
        found
    }
}

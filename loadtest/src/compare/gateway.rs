//! Starts what is compared: nothing, nginx, Tidegate; each as its users would run it at its best.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::child::{End, Running, free_address};
use super::cores::{Cores, on_cores};

/// What can stand between the generator and the mock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nothing.
    Direct,
    /// nginx as a plain proxy.
    Nginx,
    /// Tidegate with one upstream and one route.
    Tidegate,
}

impl Kind {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Tidegate => "tidegate",
        }
    }
}

/// Where the programs are and how they log.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The `tidegate` binary.
    pub tidegate: PathBuf,
    /// The `nginx` binary.
    pub nginx: PathBuf,
    /// nginx writes its access log.
    pub nginx_access_log: bool,
    /// Tidegate's `log.level`; at `info` it writes a line for each request.
    pub tidegate_log_level: String,
}

/// Something to measure, running.
#[derive(Debug)]
pub struct Gateway {
    /// What it is.
    pub kind: Kind,
    /// Base URL for plain requests.
    pub plain_url: String,
    /// Base URL for streams.
    pub stream_url: String,
    process: Option<Running>,
}

impl Gateway {
    /// The process under test; none for `direct`.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }

    /// The end of what it printed on stderr.
    pub fn last_words(&self) -> String {
        self.process.as_ref().map(Running::last_words).unwrap_or_default()
    }

    /// Starts `kind` in front of the mock at `upstream`, its files in `folder`, and waits until it serves.
    /// Errors: its program is missing, or it does not start.
    pub async fn start(
        kind: Kind,
        programs: &Programs,
        cores: &Cores,
        upstream: SocketAddr,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        match kind {
            Kind::Direct => {
                let url = format!("http://{upstream}/v1");
                Ok(Self { kind, plain_url: url.clone(), stream_url: url, process: None })
            }
            Kind::Nginx => nginx(programs, cores, upstream, folder).await.context("nginx"),
            Kind::Tidegate => tidegate(programs, cores, upstream, folder).await.context("tidegate"),
        }
    }
}

/// Starts the mock, this very program, on the other cores; gives its address. Errors: it does not start.
pub fn mock(cores: &Cores, folder: &Path) -> anyhow::Result<(Running, SocketAddr)> {
    use std::io::BufRead as _;

    let mut command = on_cores(&cores.others, &std::env::current_exe()?);
    command.args(["mock", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut running = Running::start(command, &folder.join("mock.log"), End::Kill)?;
    let mut line = String::new();
    std::io::BufReader::new(running.stdout().context("the mock's stdout is not piped")?)
        .read_line(&mut line)?;
    match line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok()) {
        Some(address) => Ok((running, address)),
        None => bail!("the mock does not start: {line}{}", running.last_words()),
    }
}

/// The version line a program prints; `None`: it does not run.
pub fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
}

async fn nginx(
    programs: &Programs,
    cores: &Cores,
    upstream: SocketAddr,
    folder: &Path,
) -> anyhow::Result<Gateway> {
    let (plain, stream) = (free_address()?, free_address()?);
    let path = folder.join("nginx.conf");
    std::fs::write(&path, nginx_config(plain, stream, upstream, folder, programs.nginx_access_log))?;
    let log = folder.join("nginx.log");
    let mut command = on_cores(&cores.gateway.to_string(), &programs.nginx);
    command.arg("-p").arg(folder).arg("-c").arg(&path).arg("-e").arg(folder.join("nginx-start.log"));
    let mut process = Running::start(command, &log, End::Terminate)?;
    process.ready(&format!("http://{plain}/v1/models")).await?;
    Ok(Gateway {
        kind: Kind::Nginx,
        plain_url: format!("http://{plain}/v1"),
        stream_url: format!("http://{stream}/v1"),
        process: Some(process),
    })
}

/// Plain proxying at its best: kept-alive connections on both sides and as many as are needed, and no
/// buffering where an answer is a stream. One port for each kind of answer, as an administrator who knows the
/// traffic would do.
fn nginx_config(
    plain: SocketAddr,
    stream: SocketAddr,
    upstream: SocketAddr,
    folder: &Path,
    access_log: bool,
) -> String {
    let folder = folder.display();
    let access_log =
        if access_log { format!("access_log {folder}/access.log;") } else { "access_log off;".into() };
    let location = "location / {
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_read_timeout 120s;
        }";
    format!(
        "daemon off;
# Takes effect for root only, whose worker could not use this folder otherwise.
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    {access_log}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_body_buffer_size 64k;
    client_max_body_size 16m;
    keepalive_requests 100000000;
    upstream mock {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen {plain} backlog=4096;
        {location}
    }}
    server {{
        listen {stream} backlog=4096;
        proxy_buffering off;
        {location}
    }}
}}
"
    )
}

async fn tidegate(
    programs: &Programs,
    cores: &Cores,
    upstream: SocketAddr,
    folder: &Path,
) -> anyhow::Result<Gateway> {
    let (listen, admin) = (free_address()?, free_address()?);
    let path = folder.join("tidegate.yaml");
    std::fs::write(&path, tidegate_config(listen, admin, upstream, &programs.tidegate_log_level))?;
    let mut command = on_cores(&cores.gateway.to_string(), &programs.tidegate);
    command.arg("serve").arg("--config").arg(&path).stdout(Stdio::null());
    let mut process = Running::start(command, &folder.join("tidegate.log"), End::Kill)?;
    process.ready(&format!("http://{admin}/readyz")).await?;
    let url = format!("http://{listen}/v1");
    Ok(Gateway { kind: Kind::Tidegate, plain_url: url.clone(), stream_url: url, process: Some(process) })
}

fn tidegate_config(listen: SocketAddr, admin: SocketAddr, upstream: SocketAddr, log_level: &str) -> String {
    format!(
        "node: {{name: loadtest}}
listen: {{address: {listen}}}
admin: {{address: {admin}}}
upstreams:
  - name: mock
    base_url: http://{upstream}/v1
    pool: {{max_idle: 200, max_connections: 2000}}
    max_in_flight: 2000
routes:
  - match: {{model: \"*\"}}
    to: [mock]
limits:
  - {{per: node, in_flight: 2000}}
log: {{level: {log_level}}}
"
    )
}

//! A process that lives as long as its value.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;

use crate::load::fetch;

/// A process that does not answer this long after its start has failed to start.
const START_MAX: Duration = Duration::from_secs(15);
/// Between two questions whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At once.
    Kill,
    /// Asked to, since it has children of its own to end.
    Terminate,
}

/// A running process; ended when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    end: End,
    log: PathBuf,
}

impl Running {
    /// Starts `command`, with what it prints on stderr in the file `log`. Errors: it cannot be started.
    pub fn start(mut command: Command, log: &Path, end: End) -> anyhow::Result<Self> {
        let program = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stderr(File::create(log)?)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child, end, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stdout, if it was piped and not taken yet.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until a GET of `url` is answered 200. Errors: it ends instead, or is not ready in 15 s; with the
    /// end of what it printed.
    pub async fn ready(&mut self, url: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let Err(last) = fetch(url, START_MAX).await else { return Ok(()) };
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status} instead of serving {url}\n{}", self.last_words());
            }
            if start.elapsed() >= START_MAX {
                bail!("not ready in {START_MAX:?}: {last:#}\n{}", self.last_words());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The end of what it printed on stderr.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that is gone already needs no ending; whatever fails here, there is nobody to tell.
        match self.end {
            End::Kill => drop(self.child.kill()),
            End::Terminate => {
                drop(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status());
            }
        }
        drop(self.child.wait());
    }
}

/// An address nobody listens on now. Errors: none is left.
pub fn free_address() -> std::io::Result<std::net::SocketAddr> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_ends_instead_of_serving_is_reported_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the port is taken >&2; exit 3"]);
        let mut running = Running::start(command, &folder.path().join("log"), End::Kill).unwrap();
        let url = format!("http://{}/", free_address().unwrap());
        let error = running.ready(&url).await.unwrap_err().to_string();
        assert!(error.contains("the port is taken") && error.contains('3'), "{error}");
    }
}

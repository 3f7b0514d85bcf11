//! A child process whose output is followed line by line and which does not outlive its test.
//!
//! Owns the child: dropping it kills it. Lines are kept, so a test can look at all of them afterwards.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::soon;

/// The child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    lines: Arc<Mutex<Vec<String>>>,
    arrived: watch::Receiver<usize>,
}

impl Process {
    /// Starts `command`; lines of both its outputs are kept together.
    pub fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (arrived, follow) = watch::channel(0);
        let arrived = Arc::new(arrived);
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        tokio::spawn(collect(out, Arc::clone(&lines), Arc::clone(&arrived)));
        tokio::spawn(collect(err, Arc::clone(&lines), arrived));
        Self { child, name: name.to_owned(), lines, arrived: follow }
    }

    /// Its id; fails once it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended:\n{}", self.name, self.output()))
    }

    /// All lines so far.
    pub fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// How many lines there are so far.
    pub fn count(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    /// Whether one of the lines after the first `before` is `wanted`.
    pub fn said_since(&self, before: usize, wanted: impl FnMut(&str) -> bool) -> bool {
        let lines = self.lines.lock().unwrap();
        lines.iter().skip(before).map(String::as_str).any(wanted)
    }

    /// Waits for a line for which `wanted` gives something. Fails with what was printed when none comes, at once
    /// when both outputs have ended.
    pub async fn line<T>(&self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        let mut arrived = self.arrived.clone();
        let mut looked_at = 0;
        let found = async {
            loop {
                let count = *arrived.borrow_and_update();
                {
                    let lines = self.lines.lock().unwrap();
                    if let Some(value) = lines[looked_at..].iter().find_map(|line| wanted(line)) {
                        return Some(value);
                    }
                    looked_at = lines.len();
                }
                if looked_at >= count && arrived.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(crate::PATIENCE, found).await {
            Ok(Some(value)) => value,
            Ok(None) => panic!("{}: ended before {what}:\n{}", self.name, self.output()),
            Err(_) => panic!("{}: no {what}:\n{}", self.name, self.output()),
        }
    }

    /// Sends a signal by its name, as `TERM`.
    pub async fn signal(&self, name: &str) {
        // The shell's own kill: the program of that name is not everywhere.
        let line = format!("kill -s {name} {}", self.id());
        let status = Command::new("sh").args(["-c", &line]).status().await.unwrap();
        assert!(status.success(), "{line}");
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        soon("the end of the process", self.child.wait()).await.unwrap()
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// CPU time it has used, both of its own and of the kernel for it, to a hundredth of a second.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // The name, the second field, may hold spaces; after it the 12th and 13th are ticks of 10 ms.
        let after = stat.rsplit(')').next().unwrap();
        let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The most memory that was ever resident, bytes.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }
}

async fn collect(
    from: impl AsyncRead + Unpin,
    lines: Arc<Mutex<Vec<String>>>,
    arrived: Arc<watch::Sender<usize>>,
) {
    let mut reader = BufReader::new(from).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        lines.lock().unwrap().push(line);
        arrived.send_modify(|count| *count += 1);
    }
}

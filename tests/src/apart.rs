//! A test in a network and a mount table of its own: lost packets, black holes and a name server on port 53 that
//! nobody else notices.
//!
//! The test runs a second time in new namespaces, which end with it; nothing has to be put back. That needs root
//! or a kernel that gives ordinary users namespaces. Delays are beyond it: the kernel may lack netem.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::parts::{or_skip, program};
use crate::process::Process;
use crate::until_within;

const INSIDE: &str = "TIDEGATE_TESTS_APART";

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
    // Loopback of a new network is down.
    command.args(["sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && exec \"$@\"", "sh"]);
    command.kill_on_drop(true);
    command
}

/// Whether the caller, the test of this name, is in there. If not, it has been run in there by the time this
/// returns, or skipped with a line that says why; fails as it failed.
pub async fn apart(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = unshare().arg("true").output().await;
    let possible = probe.is_ok_and(|output| output.status.success());
    if or_skip("a network namespace (root, iproute2)", possible.then(PathBuf::new)).is_none() {
        return false;
    }
    let mut again = unshare();
    again.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]).env(INSIDE, "1");
    let output = again.output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in a network of its own:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "`{test}` is no test here:\n{out}");
    false
}

/// What this network does with packets, by nftables.
#[derive(Debug)]
pub struct Packets {
    nft: PathBuf,
}

impl Packets {
    /// All pass; `None` when nftables is not installed.
    pub async fn new() -> Option<Self> {
        let this = Self { nft: program("nft")? };
        this.pass().await;
        Some(this)
    }

    async fn run(&self, script: &str) {
        let output = Command::new(&self.nft).arg(script).output().await.unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// All pass again.
    pub async fn pass(&self) {
        // On the way in: a sender is told of what it may not send.
        self.run(
            "flush ruleset; add table inet t; add chain inet t in { type filter hook input priority 0; }",
        )
        .await;
    }

    /// So many percent of what goes to this port of TCP or comes from it vanish.
    pub async fn lose(&self, port: u16, percent: u8) {
        for way in ["dport", "sport"] {
            self.run(&format!("add rule inet t in tcp {way} {port} numgen random mod 100 < {percent} drop"))
                .await;
        }
    }

    /// All that goes to this port of TCP or comes from it vanishes.
    pub async fn black_hole(&self, port: u16) {
        for way in ["dport", "sport"] {
            self.run(&format!("add rule inet t in tcp {way} {port} drop")).await;
        }
    }

    /// All TCP to this address vanishes.
    pub async fn black_hole_address(&self, address: &str) {
        let family = if address.contains(':') { "ip6" } else { "ip" };
        self.run(&format!("add rule inet t in {family} daddr {address} meta l4proto tcp drop")).await;
    }
}

/// The name server of this network: dnsmasq, and `/etc/resolv.conf` that leads to it and nowhere else.
#[derive(Debug)]
pub struct Names {
    dnsmasq: PathBuf,
    process: Option<Process>,
    _folder: TempDir,
}

impl Names {
    /// None runs yet; `None` when dnsmasq is not installed.
    pub async fn new() -> Option<Self> {
        let dnsmasq = program("dnsmasq")?;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.arg("--bind").arg(file).arg("/etc/resolv.conf").status().await.unwrap();
        assert!(mounted.success(), "/etc/resolv.conf cannot be replaced");
        Some(Self { dnsmasq, process: None, _folder: folder })
    }

    /// Ends the one that runs, if any: from now on nobody answers.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("KILL").await;
            process.ended().await;
        }
    }

    /// From now on it answers so, in dnsmasq's words, as `--host-record=api.test,127.0.0.1`.
    pub async fn answer(&mut self, options: &[&str]) {
        self.kill().await;
        let mut command = Command::new(&self.dnsmasq);
        command.args(["--conf-file=/dev/null", "--no-daemon", "--no-resolv", "--no-hosts", "--log-queries"]);
        command.args(["--port=53", "--listen-address=127.0.0.1", "--bind-interfaces"]).args(options);
        let process = Process::start("dnsmasq", &mut command);
        process.line("its first line", |line| line.contains("started").then_some(())).await;
        self.process = Some(process);
    }

    /// Waits until the one that runs has been asked for this name and has said this to anybody, as `NXDOMAIN`.
    pub async fn told(&self, limit: Duration, name: &str, what: &str) {
        let process = self.process.as_ref().unwrap();
        until_within(limit, &format!("{name} answered {what}"), async || {
            let log = process.output();
            // Not every line of what it says has the name it says it of.
            (log.contains(&format!("query[A] {name} ")) && log.contains(what)).then_some(())
        })
        .await;
    }
}

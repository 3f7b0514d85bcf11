//! Who runs where: the gateway alone on one core, the mock and the generator on the others.
//!
//! With `taskset`, since a process may set its own affinity only through an unsafe call. What is pinned
//! before it starts keeps its core in all its threads and children.

use std::process::Command;

use anyhow::{Context as _, bail};

/// The cores this process may use, divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// The gateway's.
    pub gateway: usize,
    /// The others, as `taskset -c` takes them.
    pub others: String,
}

impl Cores {
    /// Gives core `gateway` to the gateway. Errors: it is not ours, it is the only one, or `/proc` is unreadable.
    pub fn divide(gateway: usize) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .and_then(|list| parse_list(list.trim()))
            .context("/proc/self/status does not say which cores may be used")?;
        Self::divide_among(gateway, &allowed)
    }

    fn divide_among(gateway: usize, allowed: &[usize]) -> anyhow::Result<Self> {
        if !allowed.contains(&gateway) {
            bail!("core {gateway} may not be used, only {allowed:?}");
        }
        let others: Vec<String> =
            allowed.iter().filter(|core| **core != gateway).map(ToString::to_string).collect();
        if others.is_empty() {
            bail!("a comparison needs two cores: one for the gateway, one for the mock and the generator");
        }
        Ok(Self { gateway, others: others.join(",") })
    }

    /// Moves this process, all its threads, to the other cores. Errors: `taskset` is missing or refuses.
    pub fn leave_gateway_core(&self) -> anyhow::Result<()> {
        let output = Command::new("taskset")
            .args(["-a", "-c", "-p", &self.others, &std::process::id().to_string()])
            .output()
            .context("taskset (package util-linux) is needed to give each process its core")?;
        if !output.status.success() {
            bail!("taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

/// `program`, to be started on `cores` only.
pub fn on_cores(cores: &str, program: &std::path::Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program);
    command
}

/// `0-2,5`
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        match part.split_once('-') {
            Some((first, last)) => cores.extend(first.parse::<usize>().ok()?..=last.parse().ok()?),
            None => cores.push(part.parse().ok()?),
        }
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_has_its_core_alone() {
        let allowed = parse_list("0-2,5").unwrap();
        assert_eq!(allowed, [0, 1, 2, 5]);
        let cores = Cores::divide_among(1, &allowed).unwrap();
        assert_eq!((cores.gateway, cores.others.as_str()), (1, "0,2,5"));
        assert!(Cores::divide_among(4, &allowed).is_err());
        assert!(Cores::divide_among(0, &[0]).is_err());
        assert_eq!(parse_list("none"), None);
    }
}

//! What a process under test costs: CPU time and resident memory, read from `/proc`.
//!
//! A watched process stands for itself and its children (nginx answers in a child). CPU time comes from
//! each thread's `schedstat`, in nanoseconds. When a thread ended meanwhile, or the kernel has no `schedstat`,
//! it comes from `stat` instead, in ticks of the clock (`CLK_TCK`), and the reading says so.
//! Linux only. A process that is gone is an error: its figures would be those of nothing.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Processes under test.
#[derive(Debug, Clone)]
pub struct Watched {
    pids: Vec<u32>,
    tick: Duration,
}

/// CPU time used so far, at one moment.
#[derive(Debug, Clone)]
pub struct CpuMark {
    /// Nanoseconds on a CPU by thread id; `None`: the kernel does not say.
    threads: Option<HashMap<u32, u64>>,
    ticks: u64,
}

/// CPU time between two marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    /// User and system time of all watched processes.
    pub used: Duration,
    /// Possible error of `used`.
    pub resolution: Duration,
}

impl Watched {
    /// Watches `pids` and the children they have now; none is fine and costs nothing. Errors: a process does
    /// not exist, or the clock's tick is unknown.
    pub fn new(pids: &[u32]) -> anyhow::Result<Self> {
        let parents = if pids.is_empty() { HashMap::new() } else { parents()? };
        for pid in pids {
            if !parents.contains_key(pid) {
                bail!("there is no process {pid}");
            }
        }
        let mut family: Vec<u32> = pids.to_vec();
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            let mut children: Vec<u32> =
                parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid).collect();
            children.retain(|child| !family.contains(child));
            family.extend(children);
            at += 1;
        }
        Ok(Self { pids: family, tick: if pids.is_empty() { Duration::ZERO } else { tick()? } })
    }

    /// Whether there is anything to watch.
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty()
    }

    /// CPU time used so far. Errors: a process has ended.
    pub fn cpu(&self) -> anyhow::Result<CpuMark> {
        let mut threads = Some(HashMap::new());
        let mut ticks = 0;
        for pid in &self.pids {
            ticks += stat(*pid)?.ticks;
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                let schedstat = std::fs::read_to_string(task.path().join("schedstat"));
                let (Ok(schedstat), Some(all)) = (schedstat, threads.as_mut()) else {
                    threads = None;
                    break;
                };
                let on_cpu = schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok());
                let id = task.file_name().to_str().and_then(|id| id.parse().ok());
                if let (Some(id), Some(on_cpu)) = (id, on_cpu) {
                    all.insert(id, on_cpu);
                }
            }
        }
        Ok(CpuMark { threads, ticks })
    }

    /// CPU time between two marks of these processes.
    pub fn between(&self, before: &CpuMark, after: &CpuMark) -> CpuTime {
        if let (Some(before), Some(after)) = (&before.threads, &after.threads)
            && before.keys().all(|id| after.contains_key(id))
        {
            let used: u64 = after
                .iter()
                .map(|(id, now)| now.saturating_sub(before.get(id).copied().unwrap_or_default()))
                .sum();
            return CpuTime { used: Duration::from_nanos(used), resolution: Duration::from_nanos(1) };
        }
        let ticks = u32::try_from(after.ticks.saturating_sub(before.ticks)).unwrap_or(u32::MAX);
        CpuTime { used: self.tick.saturating_mul(ticks), resolution: self.tick * 2 }
    }

    /// Resident memory now, KiB; what processes share is counted once for each. Errors: a process has ended.
    pub fn rss_kib(&self) -> anyhow::Result<u64> {
        self.pids.iter().try_fold(0, |sum, pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
                .with_context(|| format!("process {pid} has ended"))?;
            Ok(sum + vm_rss(&status).with_context(|| format!("process {pid} has ended"))?)
        })
    }
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat(pid: u32) -> anyhow::Result<Stat> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    parse_stat(&line).with_context(|| format!("/proc/{pid}/stat has an unknown form"))
}

/// The name, in brackets, may hold anything, brackets and blanks too: fields count from the last bracket.
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)? })
}

fn vm_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Every process and its parent.
fn parents() -> io::Result<HashMap<u32, u32>> {
    let mut parents = HashMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && let Ok(stat) = stat(pid)
        {
            parents.insert(pid, stat.parent);
        }
    }
    Ok(parents)
}

/// One tick of the clock that `/proc` counts in. Errors: `getconf` is missing or says nonsense.
pub fn tick() -> anyhow::Result<Duration> {
    let output = std::process::Command::new("getconf").arg("CLK_TCK").output().context("getconf CLK_TCK")?;
    let per_second: u32 =
        String::from_utf8_lossy(&output.stdout).trim().parse().context("getconf CLK_TCK gave no number")?;
    Duration::from_secs(1).checked_div(per_second).context("getconf CLK_TCK gave 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_named_like_a_stat_line_is_read_right() {
        let line = "42 (a) R 1 (b)) S 7 42 42 0 -1 4194304 100 0 0 0 250 31 5 5 20 0 3 0 100 1 2";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 281));
    }

    #[test]
    fn work_shows_as_cpu_time_and_memory() {
        let own = Watched::new(&[std::process::id()]).unwrap();
        let before = own.cpu().unwrap();
        let spent_to = Duration::from_millis(60);
        let mut sum = 0_u64;
        let after = loop {
            sum = (0..2_000_000_u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            let after = own.cpu().unwrap();
            if own.between(&before, &after).used >= spent_to {
                break after;
            }
        };
        assert!(own.between(&before, &after).used >= spent_to);
        assert!(own.rss_kib().unwrap() > 500);
    }

    #[test]
    fn children_are_watched_with_their_parent() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let family = Watched::new(&[std::process::id()]).unwrap();
        assert!(family.pids.contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(Watched::new(&[child.id()]).is_err());
    }

    #[test]
    fn an_ended_thread_makes_the_reading_fall_back_to_ticks() {
        let watched = Watched { pids: vec![1], tick: Duration::from_millis(10) };
        let mark = |threads: &[(u32, u64)], ticks| CpuMark {
            threads: Some(threads.iter().copied().collect()),
            ticks,
        };
        let before = mark(&[(1, 500), (2, 900)], 3);
        let same = watched.between(&before, &mark(&[(1, 600), (2, 1000), (3, 50)], 3));
        assert_eq!(same.used, Duration::from_nanos(250));
        let ended = watched.between(&before, &mark(&[(1, 600)], 9));
        assert_eq!((ended.used, ended.resolution), (Duration::from_millis(60), Duration::from_millis(20)));
    }
}

//! What a machine must be like for the figures to mean something: looked at before anything is measured, and
//! how quiet it stayed, afterwards.

use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::process::{CpuMark, Watched, tick};

/// A gateway under 1,000 streams has 2,000 sockets, and some for itself.
const OPEN_FILES_MIN: u64 = 4096;
/// How busy the machine may be before it spoils the figures, part of all cores.
const BUSY_MAX: f64 = 0.05;
/// How long the machine is watched for that.
const WATCHED: Duration = Duration::from_secs(1);

/// Errors: this process, and so those it starts, may not open enough files.
pub fn open_files() -> anyhow::Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let most = soft_limit(&limits).context("/proc/self/limits does not say how many files may be open")?;
    if most < OPEN_FILES_MIN {
        bail!("only {most} open files are allowed: run `ulimit -n {OPEN_FILES_MIN}` first");
    }
    Ok(())
}

/// The soft limit of open files.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        most => most.parse().ok(),
    }
}

/// Watches the machine for a second in which nothing of ours runs; a line of warning when others are at work.
pub async fn not_quiet() -> anyhow::Result<Option<String>> {
    let before = Ticks::now()?;
    tokio::time::sleep(WATCHED).await;
    let busy = Ticks::now()?.busy_since(before);
    Ok((busy > BUSY_MAX).then(|| {
        format!("the machine was {:.0} % busy before the start: figures are less certain", busy * 100.0)
    }))
}

/// Finds out how much of the machine others used meanwhile.
#[derive(Debug)]
pub struct Others {
    ours: Watched,
    before: (CpuMark, Ticks),
}

impl Others {
    /// From now on. This process and all that it has started are not others. Errors: `/proc` is unreadable.
    pub fn watch() -> anyhow::Result<Self> {
        let ours = Watched::new(&[std::process::id()])?;
        let before = (ours.cpu()?, Ticks::now()?);
        Ok(Self { ours, before })
    }

    /// Their part of all cores until now, 0 to 1; the kernel's own work counts with it. Errors: one of our
    /// processes has ended.
    pub fn part(&self) -> anyhow::Result<f64> {
        let (cpu, ticks) = &self.before;
        let now = Ticks::now()?;
        let ours = self.ours.between(cpu, &self.ours.cpu()?).used.as_secs_f64();
        let all = now.all.saturating_sub(ticks.all) as f64 * tick()?.as_secs_f64();
        Ok(if all > 0.0 { (now.busy_since(*ticks) - ours / all).max(0.0) } else { 0.0 })
    }
}

/// Time of all cores together since the machine started.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    fn now() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        Self::parse(&stat).context("/proc/stat has an unknown form")
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // Idle and waiting for disks are the fourth and fifth. Guest time, past the eighth, is in user time too.
        let idle = ticks.iter().skip(3).take(2).sum();
        Some(Self { all: ticks.iter().take(8).sum(), idle })
    }

    /// The part that was not idle.
    fn busy_since(self, before: Self) -> f64 {
        match self.all.saturating_sub(before.all) {
            0 => 0.0,
            all => 1.0 - self.idle.saturating_sub(before.idle) as f64 / all as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_first_of_the_two() {
        let limits = "Limit                     Soft Limit  Hard Limit  Units\nMax open files            1024        524288      files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files  unlimited  unlimited  files"), Some(u64::MAX));
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn waiting_for_disks_is_not_work_and_guests_are_not_counted_twice() {
        let before = Ticks::parse("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 9 9 9 9 9 9 9 9 9 9\n").unwrap();
        let after = Ticks::parse("cpu  20 0 5 60 15 0 0 0 20 0\n").unwrap();
        assert!((after.busy_since(before) - 0.25).abs() < 1e-9);
        assert!(after.busy_since(after).abs() < 1e-9);
    }
}

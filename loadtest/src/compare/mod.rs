//! Nothing, nginx and Tidegate in one run, on one machine, in front of one mock.
//!
//! Owns the processes it starts and a folder for their files; both are gone with it. Rounds are interleaved
//! and each begins with another gateway, so that what drifts meanwhile (clock, heat, neighbours) strikes all.
//! A program that is missing is left out with one line that says what to install.

mod child;
mod cores;
mod expected;
mod gateway;
mod phase;
mod table;

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use cores::Cores;
use gateway::Gateway;
pub use gateway::{Kind, Programs};
use phase::{PHASES, Phase};

use crate::load;
use crate::report::Report;

/// What to compare and how thoroughly.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In the order of the table.
    pub gateways: Vec<Kind>,
    /// Where they are.
    pub programs: Programs,
    /// Window of each phase, after a second of warm-up.
    pub lasting: Duration,
    /// At least 1.
    pub rounds: u32,
    /// The gateway's core.
    pub core: usize,
    /// Plain requests per second where they are paced.
    pub rate: f64,
}

/// One run of the generator against one gateway.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Against what.
    pub kind: Kind,
    #[serde(skip)]
    phase: Phase,
    /// The phase's name.
    pub phase_name: &'static str,
    /// From 0.
    pub round: u32,
    /// What came out.
    pub report: Report,
}

/// A finished comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// How it was made, one fact a line.
    pub conditions: Vec<String>,
    /// What was compared.
    pub kinds: Vec<Kind>,
    /// All runs.
    pub runs: Vec<Measured>,
}

impl Comparison {
    /// Requests that failed, over all runs; figures of such a comparison are not to be believed.
    pub fn failed(&self) -> u64 {
        self.runs.iter().map(|run| run.report.failed).sum()
    }

    /// Conditions, table and failures, as Markdown.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for line in &self.conditions {
            out.push_str(&format!("- {line}\n"));
        }
        out.push('\n');
        out.push_str(&table::table(&self.kinds, &self.runs));
        for run in self.runs.iter().filter(|run| run.report.failed > 0) {
            out.push_str(&format!(
                "\nFAILED: {} of {} requests: {}, {}, round {}: {:?}\n",
                run.report.failed,
                run.report.requests,
                run.kind.name(),
                run.phase_name,
                run.round + 1,
                run.report.examples
            ));
        }
        out
    }
}

/// Compares; `say` gets a line of progress now and then. Moves this process off the gateway's core. Errors:
/// fewer than two cores, too few open files, no `taskset`, nothing left to compare, or a gateway that does not start or dies.
pub async fn compare(settings: &Settings, mut say: impl FnMut(&str)) -> anyhow::Result<Comparison> {
    let cores = Cores::divide(settings.core)?;
    cores.leave_gateway_core()?;
    let mut conditions = conditions(settings, &cores);
    expected::open_files()?;
    if let Some(busy) = expected::not_quiet().await? {
        say(&busy);
        conditions.push(busy);
    }
    let folder = tempfile::tempdir()?;
    let (_mock, upstream) = gateway::mock(&cores, folder.path())?;
    let mut gateways = Vec::new();
    for kind in &settings.gateways {
        if let Some(missing) = missing(*kind, &settings.programs) {
            say(&missing);
            conditions.push(missing);
            continue;
        }
        gateways.push(Gateway::start(*kind, &settings.programs, &cores, upstream, folder.path()).await?);
    }
    anyhow::ensure!(!gateways.is_empty(), "nothing is left to compare");
    let kinds = gateways.iter().map(|gateway| gateway.kind).collect();
    let others = expected::Others::watch()?;
    let mut runs = Vec::new();
    for round in 0..settings.rounds {
        for phase in PHASES {
            for gateway in gateways.iter().filter(|gateway| phase.applies(gateway.kind)) {
                say(&format!(
                    "round {} of {}: {}, {}",
                    round + 1,
                    settings.rounds,
                    phase.name(),
                    gateway.kind.name()
                ));
                let plan = phase.plan(gateway, settings.lasting, settings.rate, round);
                let report = load::run(&plan).await.with_context(|| {
                    format!("{}, {}: {}", gateway.kind.name(), phase.name(), gateway.last_words())
                })?;
                runs.push(Measured { kind: gateway.kind, phase, phase_name: phase.name(), round, report });
            }
        }
        gateways.rotate_left(1);
    }
    conditions.push(format!("other programs used {:.0} % of the machine meanwhile", others.part()? * 100.0));
    Ok(Comparison { conditions, kinds, runs })
}

/// What to install, if the program of `kind` does not run.
fn missing(kind: Kind, programs: &Programs) -> Option<String> {
    match kind {
        Kind::Direct => None,
        Kind::Nginx => gateway::version(&programs.nginx, "-v").is_none().then(|| {
            format!(
                "{} does not run, so nginx is left out: apt-get install nginx-light",
                programs.nginx.display()
            )
        }),
        Kind::Tidegate => gateway::version(&programs.tidegate, "--version").is_none().then(|| {
            format!(
                "{} does not run, so Tidegate is left out: cargo build --release -p tidegate",
                programs.tidegate.display()
            )
        }),
    }
}

fn conditions(settings: &Settings, cores: &Cores) -> Vec<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = |path, flag| gateway::version(path, flag).unwrap_or_else(|| "absent".into());
    let programs = &settings.programs;
    vec![
        format!("{}, Linux {}", cpu.map_or("unknown processor", |(_, model)| model), kernel.trim()),
        format!(
            "{}, access log {}; {}, log level {}",
            version(&programs.nginx, "-v"),
            if programs.nginx_access_log { "on" } else { "off" },
            version(&programs.tidegate, "--version"),
            programs.tidegate_log_level
        ),
        format!(
            "gateway on core {} alone; mock and generator on {}; {} rounds of {:?} windows, interleaved",
            cores.gateway, cores.others, settings.rounds, settings.lasting
        ),
        format!(
            "plain: 2 KiB request, 0.9 KiB answer; paced: open loop of {}/s over 64 connections",
            settings.rate
        ),
        "streams: a chunk every 10 ms in each of 100 streams of 200 chunks; CPU time of everything the gateway did, its share of opening the streams too, by chunks received".into(),
        "added latency: the same round's latency without a gateway is subtracted".into(),
    ]
}

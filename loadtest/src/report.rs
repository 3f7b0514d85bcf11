//! A run in figures, for a reader and as JSON. Each figure says how it was measured.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::load::{Failure, Loop, Mode, Plan, Readings, Summary, Tally};

/// The result of one run. Times are microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Plain answers or streams.
    pub mode: Mode,
    /// `open` or `closed`.
    pub arrivals: &'static str,
    /// Open loop: intended requests a second.
    pub rate: Option<f64>,
    /// Closed loop: clients.
    pub clients: Option<usize>,
    /// How long figures per second and per request were taken.
    pub window_seconds: f64,
    /// Measured requests that are over, well or not.
    pub requests: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, hung up as planned.
    pub hung_up: u64,
    /// Failures by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// The first failure of each kind.
    pub examples: BTreeMap<Failure, String>,
    /// Good answers that ended within the window, per second.
    pub answers_per_second: f64,
    /// Pieces of streams that came within the window, per second.
    pub pieces_per_second: f64,
    /// To the last byte.
    pub latency: Option<Summary>,
    /// To the first piece.
    pub first_piece: Option<Summary>,
    /// Between pieces.
    pub gap: Option<Summary>,
    /// How late the generator itself was.
    pub lag: Option<Summary>,
    /// Of the watched processes; `None`: none was watched.
    pub cpu: Option<Cpu>,
    /// Most resident memory of the watched processes within the window, KiB.
    pub rss_peak_kib: Option<u64>,
}

/// What the watched processes used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cpu {
    /// User and system time within the window, seconds.
    pub seconds: f64,
    /// Possible error of that, seconds.
    pub resolution_seconds: f64,
    /// Part of one core.
    pub cores: f64,
    /// Per good answer that ended within the window; `None`: there was none.
    pub us_per_answer: Option<f64>,
    /// Per piece of a stream that came within the window; `None`: there was none.
    pub us_per_piece: Option<f64>,
}

impl Report {
    /// Puts together what a run has seen.
    pub fn new(plan: &Plan, tally: &Tally, readings: &Readings) -> Self {
        let window = readings.window.as_secs_f64().max(f64::EPSILON);
        let (arrivals, rate, clients) = match plan.arrivals {
            Loop::Open { rate, .. } => ("open", Some(rate), None),
            Loop::Closed { clients, .. } => ("closed", None, Some(clients)),
        };
        let totals = readings.totals;
        let cpu = readings.cpu.map(|cpu| {
            let seconds = cpu.used.as_secs_f64();
            let per = |count: u64| (count > 0).then(|| seconds * 1e6 / count as f64);
            Cpu {
                seconds,
                resolution_seconds: cpu.resolution.as_secs_f64(),
                cores: seconds / window,
                us_per_answer: per(totals.answered),
                us_per_piece: per(totals.pieces),
            }
        });
        Self {
            mode: plan.mode,
            arrivals,
            rate,
            clients,
            window_seconds: window,
            requests: tally.measured,
            failed: tally.failures.values().sum(),
            hung_up: tally.hung_up,
            failures: tally.failures.clone(),
            examples: tally.examples.clone(),
            answers_per_second: totals.answered as f64 / window,
            pieces_per_second: totals.pieces as f64 / window,
            latency: tally.latency.summary(),
            first_piece: tally.first_piece.summary(),
            gap: tally.gap.summary(),
            lag: tally.lag.summary(),
            cpu,
            rss_peak_kib: readings.rss_peak_kib,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rate, self.clients) {
            (Some(rate), _) => writeln!(
                f,
                "open loop: {rate} requests/s due at times fixed beforehand; latency counts from the due time"
            )?,
            (None, clients) => writeln!(
                f,
                "closed loop: {} clients, each waits for its answer; latency counts from the sending, so a stall hides the requests it kept from being made",
                clients.unwrap_or_default()
            )?,
        }
        let good = self.requests.saturating_sub(self.failed + self.hung_up);
        write!(
            f,
            "requests     {} measured, {good} answered and right, {} failed",
            self.requests, self.failed
        )?;
        if self.hung_up > 0 {
            write!(f, ", {} hung up as planned", self.hung_up)?;
        }
        writeln!(f)?;
        for (failure, count) in &self.failures {
            let example = self.examples.get(failure).map_or("", String::as_str);
            writeln!(f, "  {:<12} {count:>8}   first: {example}", failure.name())?;
        }
        write!(f, "throughput   {:.0} answers/s", self.answers_per_second)?;
        if self.mode == Mode::Stream {
            write!(f, ", {:.0} pieces/s", self.pieces_per_second)?;
        }
        writeln!(f, " over a window of {:.2} s", self.window_seconds)?;
        let rows = [
            ("latency", &self.latency),
            ("first piece", &self.first_piece),
            ("gap", &self.gap),
            ("own lag", &self.lag),
        ];
        if rows.iter().any(|(_, row)| row.is_some()) {
            writeln!(
                f,
                "{:<12} {:>10} {:>10} {:>10} {:>10} {:>10}   us",
                "", "p50", "p90", "p99", "p99.9", "max"
            )?;
        }
        for (name, row) in rows {
            if let Some(row) = row {
                writeln!(
                    f,
                    "{name:<12} {:>10.0} {:>10.0} {:>10.0} {:>10.0} {:>10.0}",
                    row.p50_us, row.p90_us, row.p99_us, row.p999_us, row.max_us
                )?;
            }
        }
        if let Some(cpu) = self.cpu {
            write!(
                f,
                "cpu          {:.3} s user+sys within the window ({:.0} % of a core",
                cpu.seconds,
                cpu.cores * 100.0
            )?;
            if cpu.resolution_seconds > 1e-6 {
                write!(f, ", read in ticks: +-{:.0} ms", cpu.resolution_seconds * 1000.0)?;
            }
            write!(f, ")")?;
            if let Some(us) = cpu.us_per_answer {
                write!(f, ", {us:.1} us/answer")?;
            }
            if let Some(us) = cpu.us_per_piece {
                write!(f, ", {us:.1} us/piece, nothing subtracted")?;
            }
            writeln!(f)?;
        }
        if let Some(kib) = self.rss_peak_kib {
            writeln!(f, "memory       {:.1} MiB resident at most, read every 100 ms", kib as f64 / 1024.0)?;
        }
        Ok(())
    }
}

//! `loadtest run`

use std::io::Write as _;
use std::time::Duration;

use tidegate_loadtest::load::{self, Extent, Loop, Mode, Plan};

/// Load a gateway or the mock itself, and check and time every answer
///
/// The target must end at `loadtest mock`: answers are compared with what the mock makes from the same seed.
/// With --rate, requests are due at times fixed beforehand and latency counts from these (open loop: no
/// coordinated omission); with --concurrency, each client waits for its answer (closed loop).
/// Exit status 1 when an answer failed or, with --mock-stats, when the mock still ran a request after 1.5 s.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  loadtest run --url http://127.0.0.1:8080/v1 --mode plain --rate 2000 --duration 10s --pid $(pidof tidegate)
  loadtest run --mode stream --concurrency 1000 --requests 1000 --script 'chunks=50&delay-ms=100'
  loadtest run --mode stream --concurrency 100 --requests 10000 --script 'delay-ms=0&split=true'
  loadtest run --mode stream --concurrency 1000 --requests 1000 --script 'chunks=10000' \\
      --hangup-after 5 --mock-stats http://127.0.0.1:18000/stats")]
pub struct Run {
    /// Base URL, with its /v1; http only
    #[arg(long, default_value = "http://127.0.0.1:8080/v1")]
    url: String,
    /// What to ask for
    #[arg(long, value_enum, default_value = "plain")]
    mode: Mode,
    /// Open loop: requests per second
    #[arg(long, conflicts_with = "concurrency", value_parser = positive)]
    rate: Option<f64>,
    /// Open loop: connections opened beforehand; more are opened when all are busy
    #[arg(long, default_value_t = 64, requires = "rate")]
    connections: u16,
    /// Closed loop: clients
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Closed loop: clients begin evenly over this time
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, conflicts_with = "rate")]
    spread: Duration,
    /// How long requests are begun, after the warm-up
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// So many requests instead of a duration; no warm-up then
    #[arg(long, conflicts_with_all = ["duration", "warmup"])]
    requests: Option<u64>,
    /// Load that is not measured, before
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    warmup: Duration,
    /// Process under test, for CPU time and memory; children count with it. May be given several times
    #[arg(long)]
    pid: Vec<u32>,
    /// Bearer key
    #[arg(long)]
    key: Option<String>,
    /// Model to ask for
    #[arg(long, default_value = "mock")]
    model: String,
    /// Settings for the mock, sent in the model name; see `loadtest mock --help`
    #[arg(long, default_value = "")]
    script: String,
    /// Size of a request's body
    #[arg(long, default_value_t = 2048)]
    request_bytes: usize,
    /// A request that takes longer has failed
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Hang up after so many pieces of a stream
    #[arg(long)]
    hangup_after: Option<u32>,
    /// The mock's /stats: afterwards, see how many requests it still works on after 1.5 s
    #[arg(long)]
    mock_stats: Option<String>,
    /// Request n asks for the content of this seed + n
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("a number above 0, up to 1000000, is meant".into()),
    }
}

impl Run {
    /// Runs and prints. `false`: something failed. Errors: the run cannot be made.
    pub fn run(self) -> anyhow::Result<bool> {
        let plan = Plan {
            url: self.url,
            mode: self.mode,
            arrivals: match self.rate {
                Some(rate) => Loop::Open { rate, connections: self.connections.into() },
                None => Loop::Closed { clients: self.concurrency.into(), spread: self.spread },
            },
            extent: self.requests.map_or(Extent::Lasting(self.duration), Extent::Requests),
            warmup: self.warmup,
            key: self.key,
            model: self.model,
            script: self.script,
            request_bytes: self.request_bytes,
            timeout: self.timeout,
            hangup_after: self.hangup_after,
            seed: self.seed,
            pids: self.pid,
        };
        let (report, leftover) = super::runtime()?.block_on(async {
            let report = load::run(&plan).await?;
            let leftover = match &self.mock_stats {
                Some(url) => Some(load::leftover(url).await?),
                None => None,
            };
            anyhow::Ok((report, leftover))
        })?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let both = serde_json::json!({"report": report, "leftover": leftover});
            writeln!(out, "{both}")?;
        } else {
            write!(out, "{report}")?;
            if let Some(left) = leftover {
                match left.none_after_ms {
                    Some(ms) => write!(out, "upstream     nothing running any more within {ms} ms")?,
                    None => write!(out, "upstream     {} requests still running after 1.5 s", left.running)?,
                }
                writeln!(out, "; {} cancelled since the mock's start", left.cancelled)?;
            }
        }
        Ok(report.failed == 0 && leftover.is_none_or(|left| left.running == 0))
    }
}

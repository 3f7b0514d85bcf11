//! `loadtest compare`

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_loadtest::compare::{self, Kind, Programs, Settings};

/// Compare Tidegate with nginx and with nothing, in one run
///
/// Starts the mock, nginx and Tidegate itself, each gateway pinned to one core, measures them in turn in
/// interleaved rounds, and prints a Markdown table. Needs two cores with nothing else to do, and `taskset`.
/// Exit status 1 when a request failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  loadtest compare --tidegate target/release/tidegate
  loadtest compare --gateways direct,nginx --rounds 1 --duration 2s
  loadtest compare --nginx-access-log --rate 4000 --json > comparison.json")]
pub struct Compare {
    /// The tidegate binary
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// The nginx binary
    #[arg(long, default_value = "nginx")]
    nginx: PathBuf,
    /// What to compare, in the order of the table
    #[arg(long, value_enum, value_delimiter = ',', default_value = "direct,nginx,tidegate")]
    gateways: Vec<Kind>,
    /// Window of each measurement, after a second of warm-up
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Rounds; figures are medians over them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The gateway's core
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Plain requests per second where they are paced; every gateway must sustain it on one core
    #[arg(long, default_value_t = 2000.0, value_parser = super::run::positive)]
    rate: f64,
    /// Let nginx write its access log; off is its best case
    #[arg(long)]
    nginx_access_log: bool,
    /// Tidegate's log level; at info, its default, it writes a line for each request
    #[arg(long, default_value = "info")]
    tidegate_log_level: String,
    /// Print JSON, with every single run
    #[arg(long)]
    json: bool,
}

impl Compare {
    /// Compares and prints. `false`: a request failed. Errors: the comparison cannot be made.
    pub fn run(self) -> anyhow::Result<bool> {
        let settings = Settings {
            gateways: self.gateways,
            programs: Programs {
                tidegate: self.tidegate,
                nginx: self.nginx,
                nginx_access_log: self.nginx_access_log,
                tidegate_log_level: self.tidegate_log_level,
            },
            lasting: self.duration,
            rounds: self.rounds,
            core: self.core,
            rate: self.rate,
        };
        let comparison =
            super::runtime()?.block_on(compare::compare(&settings, |line| eprintln!("{line}")))?;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&comparison)?)?;
        } else {
            write!(out, "{}", comparison.render())?;
        }
        Ok(comparison.failed() == 0)
    }
}

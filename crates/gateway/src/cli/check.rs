//! `tidegate check`: says whether a node could serve with this file, and every reason why not.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use tidegate_config::Purpose;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate check --config tidegate.yaml\n  TIDEGATE_CONFIG=/etc/tidegate/tidegate.yaml tidegate check\n\nEach fault is one line on stderr, FILE:LINE:COLUMN: what is wrong, what is meant. A secret that is absent here is\na warning, because whoever checks a file need not hold the keys; `serve` needs it.\nExit status: 0 when the file is sound, 2 when it is not."
)]
pub struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG", default_value = "tidegate.yaml")]
    config: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match tidegate_config::load(&args.config, Purpose::Check) {
        Ok(loaded) => {
            let mut stderr = std::io::stderr().lock();
            for warning in &loaded.warnings {
                let _ = writeln!(stderr, "{}", as_warning(&warning.to_string(), warning.text()));
            }
            match writeln!(std::io::stdout().lock(), "ok") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(faults) => {
            let _ = writeln!(std::io::stderr().lock(), "{faults}");
            ExitCode::from(2)
        }
    }
}

/// `FILE:LINE:COLUMN: warning: text`, as compilers mark what does not stop them.
fn as_warning(whole: &str, text: &str) -> String {
    match whole.strip_suffix(text) {
        Some(place) => format!("{place}warning: {text}"),
        None => format!("warning: {whole}"),
    }
}

#[cfg(test)]
mod tests {
    use super::as_warning;

    #[test]
    fn a_warning_keeps_its_place_and_says_what_it_is() {
        assert_eq!(as_warning("f:1:2: text", "text"), "f:1:2: warning: text");
    }
}

//! `tidegate schema`: the JSON Schema of the configuration, so that an editor completes and explains every key.

use std::io::Write as _;
use std::process::ExitCode;

use super::check::printed;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate schema > tidegate.schema.json\n\nThen begin the configuration with this line, which most editors understand:\n  # yaml-language-server: $schema=./tidegate.schema.json"
)]
pub struct Args {}

/// Runs the command.
pub fn run(_: Args) -> ExitCode {
    let written = writeln!(std::io::stdout().lock(), "{:#}", tidegate_config::schema());
    printed(written, &mut std::io::stderr().lock())
}

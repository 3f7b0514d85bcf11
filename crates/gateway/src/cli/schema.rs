//! `tidegate schema`: the JSON Schema of the configuration, so that an editor completes and explains every key, or its
//! reference for people.

use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;

use super::check::printed;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate schema > tidegate.schema.json\n  tidegate schema --format markdown > configuration.md\n\nThen begin the configuration with this line, which most editors understand:\n  # yaml-language-server: $schema=./tidegate.schema.json"
)]
pub struct Args {
    /// How the keys are told of
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON Schema, for editors
    Json,
    /// A page with every key, its type and its default
    Markdown,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    let written = match args.format {
        Format::Json => writeln!(stdout, "{:#}", tidegate_config::schema()),
        Format::Markdown => write!(stdout, "{}", tidegate_config::reference()),
    };
    printed(written, &mut std::io::stderr().lock())
}

//! The commands. Exit status: 0 fine; 1 the work failed; 2 wrong usage or wrong config.

pub mod check;
pub mod demo;
pub mod explain;
pub mod keygen;
pub mod schema;
pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::log::Format;

/// A high-availability gateway for OpenAI-compatible APIs.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    after_help = "Examples:\n  tidegate demo                             play with a whole setup, nothing else needed\n  tidegate check --config tidegate.yaml     validate a configuration\n  tidegate serve --config tidegate.yaml     run a node"
)]
struct Cli {
    /// How log lines on stderr look; json unless stderr is a terminal
    #[arg(long, global = true, value_enum)]
    log_format: Option<Format>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(serve::Args),
    /// Validate a configuration
    Check(check::Args),
    /// Run a gateway with simulated upstreams, to play with
    Demo(demo::Args),
    /// Say which route, paths and limits a request would meet, and why
    Explain(explain::Args),
    /// Print the JSON Schema of the configuration, for editors
    Schema(schema::Args),
    /// Make a client key, and the YAML entry that holds only its hash
    Keygen(keygen::Args),
}

/// Runs the command of this process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Serve(args) => serve::run(args, cli.log_format),
        Command::Check(args) => check::run(args),
        Command::Demo(args) => demo::run(args, cli.log_format),
        Command::Explain(args) => explain::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Keygen(args) => keygen::run(args),
    }
}

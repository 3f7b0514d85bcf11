//! What can be typed. Each command has a file; `run` says whether what was measured went well.

mod compare;
mod mock;
mod run;

/// A mock upstream, a load generator and a comparison for OpenAI-compatible gateways.
#[derive(Debug, clap::Parser)]
#[command(name = "loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Mock(mock::Mock),
    Run(run::Run),
    Compare(compare::Compare),
}

impl Cli {
    /// Does what was typed. `false`: it was done, but what was tested failed. Errors: it could not be done.
    pub fn run(self) -> anyhow::Result<bool> {
        match self.command {
            Command::Mock(mock) => mock.run().map(|()| true),
            Command::Run(run) => run.run(),
            Command::Compare(compare) => compare.run(),
        }
    }
}

/// A runtime for one thread: what is measured has the other cores.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

//! `tidegate serve`: runs a node until it is told to go.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use tidegate_config::Purpose;
use tidegate_config::used::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::check::{ConfigFile, FILE_DEFAULT};
use crate::log::{self, Format};
use crate::node::Node;
use crate::reload::{Reads, Trigger};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate serve --config tidegate.yaml\n  TIDEGATE_CONFIG=/etc/tidegate/tidegate.yaml tidegate serve --log-format json\n\nSIGTERM drains: unready at once, new connections for listen.drain_grace, running requests for listen.drain_timeout.\nA second signal shortens that to 5 s.\nSIGHUP, and any change of the file, reads it again; a faulty one changes nothing."
)]
pub struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG", default_value = FILE_DEFAULT, value_parser = ConfigFile)]
    config: PathBuf,
}

/// Runs the command.
pub fn run(args: Args, format: Option<Format>) -> ExitCode {
    let reads = Reads::default();
    let loaded = match tidegate_config::load_with(&args.config, &reads, Purpose::Serve) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let _ = writeln!(std::io::stderr().lock(), "{faults}");
            return ExitCode::from(2);
        }
    };
    let prepared = prepare(&loaded.config, format);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let result = prepared.and_then(|runtime| runtime.block_on(serve(loaded.config, args.config, reads)));
    log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What every command that runs a node sets up once: the log, TLS, the control thread's runtime.
pub fn prepare(config: &Config, format: Option<Format>) -> anyhow::Result<tokio::runtime::Runtime> {
    log::install(Format::or_default(format), &config.log)?;
    raise_file_limit(config.listen.max_connections);
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Systems start processes with a soft limit of 1024 open files for the sake of `select`, which nothing here
/// uses. A client's request may need two: its connection and the upstream's.
fn raise_file_limit(max_connections: usize) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if usize::try_from(limit).is_ok_and(|limit| limit < max_connections.saturating_mul(2)) => {
            tracing::warn!(
                limit,
                max_connections,
                "few open files are allowed: raise the hard limit (ulimit -Hn) to twice listen.max_connections, or lower that"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// Tokens for the first and the second SIGTERM or SIGINT of this process.
pub fn signals() -> anyhow::Result<(CancellationToken, CancellationToken)> {
    let tokens = (CancellationToken::new(), CancellationToken::new());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn({
        let (first, second) = tokens.clone();
        async move {
            for token in [first, second] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                token.cancel();
            }
        }
    });
    Ok(tokens)
}

async fn serve(config: Config, file: PathBuf, reads: Reads) -> anyhow::Result<()> {
    let (first, second) = signals()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let node = Node::start(config, Some((file, reads)), crate::metrics::install()?).await?;
    if let Some(reloader) = node.reloader.clone() {
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                // Its faults are in the log and on the status page.
                let _ = reloader.reload(Trigger::Signal).await;
            }
        });
    }
    tracing::info!(address = %node.address, admin = %node.admin_address, "listening");
    node.run(first, second).await;
    Ok(())
}

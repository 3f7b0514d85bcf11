//! `tidegate demo`: a gateway with simulated upstreams, and an outage played on it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::demo::{self, outage, simulated};
use crate::log::{self, Format};
use crate::node::Node;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate demo\n  tidegate demo --listen 127.0.0.1:18080 --admin 127.0.0.1:19090\n  tidegate demo --script outage\n\nNeeds no network, no keys and no file. Ctrl-C ends it.\nA script ends by itself, with 1 if a simulated user saw an error or traffic did not return."
)]
pub struct Args {
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the status page and the metrics are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// Play this, tell each step, and end
    #[arg(long, value_enum)]
    script: Option<Script>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Script {
    /// Both upstreams fail, the local model stands in, traffic returns; under a minute
    Outage,
}

/// Runs the command.
pub fn run(args: Args, format: Option<Format>) -> ExitCode {
    let result = play(&args, format);
    log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "tidegate demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &Args, format: Option<Format>) -> anyhow::Result<()> {
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let upstreams = control.block_on(simulated::start())?;
    // A script's lines are the log of what happens.
    let level = if args.script.is_some() { "error" } else { "info" };
    let loaded = demo::load(&demo::configuration(args.listen, args.admin, &upstreams, level))?;
    super::serve::prepare(&loaded.config, format)?;
    control.block_on(async {
        let (first, second) = super::serve::signals()?;
        let node = Node::start(loaded.config, None, crate::metrics::install()?).await.map_err(|error| {
            anyhow::anyhow!("{error:#}; choose other addresses with --listen and --admin")
        })?;
        let (address, admin) = (node.address, node.admin_address);
        match args.script {
            None => {
                write!(std::io::stdout().lock(), "{}", greeting(address, admin))?;
                node.run(first, second).await;
                Ok(())
            }
            Some(Script::Outage) => tokio::select! {
                () = first.cancelled() => anyhow::bail!("interrupted"),
                () = node.run(first.clone(), second) => anyhow::bail!("the node was drained"),
                report = outage::play(address, admin, &upstreams) => judge(&report?.faults()),
            },
        }
    })
}

fn judge(faults: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn greeting(address: SocketAddr, admin: SocketAddr) -> String {
    format!(
        r#"Tidegate is running in front of two simulated upstreams and a simulated local model.
Paste these into another terminal:

curl http://{address}/v1/chat/completions -H 'content-type: application/json' -d '{{"model": "gpt-4o", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

curl -N http://{address}/v1/chat/completions -H 'content-type: application/json' -d '{{"model": "gpt-4o", "stream": true, "messages": [{{"role": "user", "content": "Tell me a story."}}]}}'

curl http://{address}/v1/models

Status page: http://{admin}/    Metrics: http://{admin}/metrics    End: Ctrl-C
To see an outage survived, step by step, in half a minute: tidegate demo --script outage
"#
    )
}

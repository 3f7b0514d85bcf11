//! `tidegate demo`: a gateway with simulated upstreams.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::demo::{self, simulated};
use crate::log::{self, Format};
use crate::node::Node;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidegate demo\n  tidegate demo --listen 127.0.0.1:18080 --admin 127.0.0.1:19090\n\nNeeds no network, no keys and no file. Ctrl-C ends it."
)]
pub struct Args {
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the status page and the metrics are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
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
    let addresses = control.block_on(simulated::start())?;
    let loaded = demo::load(&demo::configuration(args.listen, args.admin, &addresses))?;
    super::serve::prepare(&loaded.config, format)?;
    control.block_on(async {
        let (first, second) = super::serve::signals()?;
        let node = Node::start(loaded.config, crate::metrics::install()?).await.map_err(|error| {
            anyhow::anyhow!("{error:#}; choose other addresses with --listen and --admin")
        })?;
        write!(std::io::stdout().lock(), "{}", greeting(node.address, node.admin_address))?;
        node.run(first, second).await;
        Ok(())
    })
}

fn greeting(address: SocketAddr, admin: SocketAddr) -> String {
    format!(
        r#"Tidegate is running in front of two simulated upstreams and a simulated local model.
Paste these into another terminal:

curl http://{address}/v1/chat/completions -H 'content-type: application/json' -d '{{"model": "gpt-4o", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

curl -N http://{address}/v1/chat/completions -H 'content-type: application/json' -d '{{"model": "gpt-4o", "stream": true, "messages": [{{"role": "user", "content": "Tell me a story."}}]}}'

curl http://{address}/v1/models

Status page: http://{admin}/    Metrics: http://{admin}/metrics    End: Ctrl-C
"#
    )
}

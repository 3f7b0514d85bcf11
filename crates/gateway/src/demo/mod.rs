//! A whole setup in one process, to play with: two simulated upstreams, a simulated local model, and a real
//! gateway in front of them. Needs no network, no keys, no file.

pub mod simulated;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tidegate_config::{Loaded, Purpose};

/// The demo's configuration, as an operator would write it.
pub fn configuration(listen: SocketAddr, admin: SocketAddr, simulated: &simulated::Addresses) -> String {
    let simulated::Addresses { primary, secondary, local } = simulated;
    format!(
        "node: {{name: demo}}
listen: {{address: \"{listen}\", drain_grace: 0s, drain_timeout: 5s}}
admin: {{address: \"{admin}\"}}
upstreams:
  - {{name: primary, base_url: \"http://{primary}/v1\"}}
  - {{name: secondary, base_url: \"http://{secondary}/v1\"}}
  - {{name: local, base_url: \"http://{local}/v1\"}}
routes:
  - {{match: {{model: \"local-*\"}}, to: [local]}}
  - {{match: {{model: \"*\"}}, to: [primary, secondary]}}
"
    )
}

/// Checks the demo's configuration like any other.
pub fn load(text: &str) -> anyhow::Result<Loaded> {
    let nothing: BTreeMap<String, String> = BTreeMap::new();
    tidegate_config::parse("demo.yaml", text.as_bytes(), &nothing, Purpose::Serve)
        .map_err(|faults| anyhow::anyhow!("{faults}"))
}

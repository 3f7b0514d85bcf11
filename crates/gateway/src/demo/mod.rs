//! A whole setup in one process, to play with: two simulated upstreams, a simulated local model, and a real
//! gateway in front of them. Needs no network, no keys, no file.

mod client;
pub mod outage;
pub mod simulated;
mod users;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tidegate_config::{Loaded, Purpose};

/// The demo's configuration, as an operator would write it, with times shortened so that an outage can be watched.
/// `log` is the level of the node's own log.
pub fn configuration(
    listen: SocketAddr,
    admin: SocketAddr,
    upstreams: &simulated::Upstreams,
    log: &str,
) -> String {
    let simulated::Upstreams { primary, secondary, local } = upstreams;
    let (primary, secondary, local) = (primary.address, secondary.address, local.address);
    format!(
        r#"node: {{name: demo}}
listen: {{address: "{listen}", drain_grace: 0s, drain_timeout: 5s}}
admin: {{address: "{admin}"}}
upstreams:
  - {{name: primary, base_url: "http://{primary}/v1", probe: {{interval: 1s, timeout: 1s}}}}
  - {{name: secondary, base_url: "http://{secondary}/v1", probe: {{interval: 1s, timeout: 1s}}}}
  - {{name: local, base_url: "http://{local}/v1", local: true, probe: {{interval: 1s, timeout: 1s}}}}
routes:
  - {{match: {{model: "local-*"}}, to: [local]}}
  - match: {{model: "*"}}
    to: [primary, secondary]
    fallback:
      - upstream: local
        model: local-smollm2
        prompt: {{system: "Answer briefly. {{original_system}}", max_tokens: 256, keep_last_turns: 6}}
health:
  breaker: {{window: 12s, open_for: 2s, max_open: 10s, stalled_after: 2s}}
  recovery: {{successes: {COPIES}, min_span: 2s, shadow_max: 90/min, latency_floor: 1s, ramp_step: 2s, ramp_requests: 3}}
  synthetic: {{interval: 1s, after_idle: 2s}}
  choice: {{hysteresis: 2s}}
log: {{level: {log}}}
"#
    )
}

/// Copies of requests that must be answered well before users' requests go to an upstream again.
const COPIES: usize = 3;

/// Checks the demo's configuration like any other.
pub fn load(text: &str) -> anyhow::Result<Loaded> {
    let nothing: BTreeMap<String, String> = BTreeMap::new();
    tidegate_config::parse("demo.yaml", text.as_bytes(), &nothing, Purpose::Serve)
        .map_err(|faults| anyhow::anyhow!("{faults}"))
}

//! What a registry is told of the configuration: names and numbers of paths, upstreams, egresses and routes.

use std::sync::Arc;

use tidegate_config::used::{Choice, Health};

/// What a registry is made for.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// In the order of the node's paths.
    pub paths: Vec<PathSetup>,
    /// In the order of the file.
    pub upstreams: Vec<UpstreamSetup>,
    /// In the order of the file, `direct` first.
    pub egress: Vec<EgressSetup>,
    /// In the order of the file.
    pub routes: Vec<RouteSetup>,
}

/// An upstream over an egress.
#[derive(Debug, Clone)]
pub struct PathSetup {
    /// `openai@hk`
    pub name: String,
    /// Index.
    pub upstream: usize,
    /// Index.
    pub egress: usize,
    /// Active probes run.
    pub probed: bool,
    /// Its index in the configuration before, where it is still the same way to the same upstream.
    pub was: Option<usize>,
}

/// A way out.
#[derive(Debug, Clone)]
pub struct EgressSetup {
    /// Unique.
    pub name: String,
    /// Its index in the configuration before, where it is still the same.
    pub was: Option<usize>,
}

/// An upstream.
#[derive(Debug, Clone)]
pub struct UpstreamSetup {
    /// Unique.
    pub name: String,
    /// Its rules.
    pub rules: Arc<Health>,
    /// A model of ours.
    pub local: bool,
    /// Share of traffic among equals.
    pub weight: f64,
    /// Its index in the configuration before, where it is still the same service.
    pub was: Option<usize>,
}

/// A route.
#[derive(Debug, Clone)]
pub struct RouteSetup {
    /// Indices of paths, of `to`.
    pub paths: Vec<usize>,
    /// The paths of each of its fallbacks.
    pub fallback: Vec<Vec<usize>>,
    /// How its traffic is divided.
    pub choice: Choice,
}

//! `tracing:` as the program uses it.
//!
//! Owns nothing that changes. Not here: how a key is read (`build::tracing`), and sending.

use http::HeaderName;
use secrecy::SecretString;

use super::BaseUrl;

/// Where traces go, and of which requests there are any.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// The collector; traces go to `/v1/traces` below it.
    pub url: BaseUrl,
    /// Share of the requests without a trace of their own that are traced, 0 to 1. Default 0.01.
    pub sample: f64,
    /// Sent with each export; no name twice, none that HTTP itself needs, and values of printable ASCII.
    pub headers: Vec<(HeaderName, SecretString)>,
    /// PEM text of a CA bundle used instead of the built-in roots; only over TLS.
    pub ca_pem: Option<Vec<u8>>,
}

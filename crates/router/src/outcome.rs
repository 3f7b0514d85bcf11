//! What one attempt came to, in the words that retries, metrics and the final answer share.
//!
//! Owns the classes and what each implies. Not here: how a class is found from bytes (the gateway's
//! attempt), and what is tried next (`plan`).

use std::time::Duration;

/// Why an attempt gave nothing that may go to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// TCP to the upstream failed, or the connection broke before the request was on its way.
    Connect,
    /// TLS handshake failed or the certificate is not acceptable.
    Tls,
    /// No usable address.
    Dns,
    /// The egress proxy refused, failed or hung.
    Proxy,
    /// Nothing of use within the time allowed.
    Timeout,
    /// A status that says the upstream is broken: 500, 502-504, 520-527, 529.
    ServerError,
    /// A 200 that is no answer: wrong content type, not JSON, empty, an error object.
    BadResponse,
    /// The connection ended in the middle of the answer.
    Cut,
    /// 429 for too many requests or tokens.
    RateLimited,
    /// The account behind the key is out of quota or unpaid.
    Quota,
    /// The upstream refused our key.
    Auth,
    /// This upstream does not have the model.
    ModelNotFound,
    /// Our own bound on this path or upstream is reached; nothing was sent.
    Busy,
}

impl Class {
    /// Label of `upstream_requests_total{outcome}`.
    #[must_use]
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Connect | Self::Proxy => "connect",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::Timeout => "timeout",
            Self::ServerError => "5xx",
            Self::BadResponse => "bad_response",
            Self::Cut => "cut",
            Self::RateLimited | Self::Quota => "429",
            Self::Auth => "auth",
            Self::ModelNotFound => "model_not_found",
            Self::Busy => "busy",
        }
    }

    /// Label of `api_errors_total{type}`.
    #[must_use]
    pub const fn error_type(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::Timeout => "timeout",
            Self::ServerError => "server_error",
            Self::BadResponse => "bad_response",
            Self::Cut => "cut",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Auth => "auth",
            Self::ModelNotFound => "model_not_found",
            Self::Busy => "overloaded",
        }
    }

    /// The request cannot have reached the upstream, so trying again costs it nothing.
    #[must_use]
    pub const fn never_sent(self) -> bool {
        matches!(self, Self::Connect | Self::Tls | Self::Dns | Self::Proxy | Self::Busy)
    }

    /// The upstream may have done (and billed) the work although no answer came.
    #[must_use]
    pub const fn unknown_fate(self) -> bool {
        matches!(self, Self::Timeout | Self::Cut)
    }

    /// Speaks of the key, not of the upstream's health.
    #[must_use]
    pub const fn of_the_key(self) -> bool {
        matches!(self, Self::RateLimited | Self::Quota | Self::Auth)
    }

    /// Counts as a failure of the upstream when one asks whether it is in trouble.
    #[must_use]
    pub const fn blames_upstream(self) -> bool {
        matches!(
            self,
            Self::Connect
                | Self::Tls
                | Self::Dns
                | Self::Proxy
                | Self::Timeout
                | Self::ServerError
                | Self::BadResponse
                | Self::Cut
        )
    }
}

/// A failed attempt as the plan sees it.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// What went wrong.
    pub class: Class,
    /// How long the upstream asks us to stay away; `None` when it did not say.
    pub retry_after: Option<Duration>,
}

/// What an upstream's status means before its body is read. `None`: an answer (2xx) or the client's own
/// fault, which goes through as it is.
#[must_use]
pub const fn class_of_status(status: u16) -> Option<Class> {
    match status {
        200..=299 => None,
        401 | 403 => Some(Class::Auth),
        402 => Some(Class::Quota),
        429 => Some(Class::RateLimited),
        500 | 502 | 503 | 504 | 520..=527 | 529 => Some(Class::ServerError),
        407 => Some(Class::Proxy),
        // An answer to the client's own condition.
        304 => None,
        // A redirect is a captive portal or a wrong base_url: never followed with a key in hand.
        100..=199 | 300..=399 => Some(Class::BadResponse),
        _ => None,
    }
}

//! `tracing:` as written.

use crate::read::{Table, said};
use crate::secret::Secret;
use crate::unit::{Percent, Text};

said! {
    /// Traces sent to a collector.
    Tracing: "`tracing`", needs [otlp] {
        /// Base URL of a collector that takes OTLP over HTTP, as `http://HOST:4318`; traces go to `/v1/traces` below it.
        otlp: Text,
        /// Share of requests traced, of those that come without a trace of their own. Default 1%.
        sample: Percent,
        /// Sent with each export, by name, as `{authorization: {env: NAME}}`.
        headers: Table<Secret>,
        /// Whom a collector over TLS is trusted by.
        tls: TracingTls,
    }
}

said! {
    /// Trust in the certificate of a collector over TLS, which is always verified.
    TracingTls: "`tracing.tls`", needs [ca] {
        /// PEM file with CAs used instead of the built-in ones.
        ca: Text,
    }
}

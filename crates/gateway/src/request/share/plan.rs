//! Whether a request may share an answer, with whom, and under which name.

use std::time::Duration;

use http::{HeaderMap, header};
use tidegate_store::answers::{Key, Read, Rules};
use tidegate_wire::answer::Dialect;
use tidegate_wire::{cacheable, canonical};

use crate::gateway::Gateway;
use crate::request::read::{Parsed, Target};
use crate::request::route::Call;

/// An `Idempotency-Key` and its answer are remembered this long, and answers up to this size.
const IDEMPOTENCY: Duration = Duration::from_secs(24 * 3600);
const IDEMPOTENT_MAX: usize = 1024 * 1024;

/// How a request shares.
pub struct Plan {
    /// The name of its answer.
    pub key: Key,
    /// How the answer is kept.
    pub rules: Rules,
    /// What the client allows.
    pub read: Read,
    /// Must be the same for all who share: the digest of the request where the client made up the key itself.
    pub note: String,
    /// How its answers look.
    pub dialect: Dialect,
    /// The client wants events.
    pub stream: bool,
    /// The client asked for the usage event, or the answer is given as it came.
    pub usage: bool,
    /// Streams and plain answers are made from each other.
    pub converts: bool,
    /// Any complete answer is kept; else only those that a cache may keep.
    pub idempotent: bool,
}

impl Plan {
    /// `None`: the request goes its own way.
    pub fn of(gateway: &Gateway, call: &Call) -> Option<Self> {
        let parsed = &call.parsed;
        let Target::Upstream { rest, dialect, .. } = &parsed.target else { return None };
        if parsed.method != http::Method::POST {
            return None;
        }
        let client = parsed.client.and_then(|c| gateway.config.clients.as_ref()?.get(c));
        let client = client.map(|c| c.name.as_bytes()).unwrap_or_default();
        // What is not to be kept cannot be given again.
        if let Some(key) = parsed.idempotency.as_ref().filter(|_| !parsed.control.no_store) {
            let digest = digest(gateway, rest, parsed);
            return Some(Self {
                key: gateway.answers.key(&[b"idempotency", client, key.as_bytes()]),
                rules: Rules { ttl: IDEMPOTENCY, stale: Duration::ZERO, max_size: IDEMPOTENT_MAX },
                read: Read::Normal,
                note: digest.hex(),
                dialect: *dialect,
                stream: parsed.stream,
                usage: !parsed.stream || parsed.asks_usage,
                converts: false,
                idempotent: true,
            });
        }
        let route = gateway.routes.get(call.route)?;
        let cache = route.config.cache.as_ref()?;
        let control = parsed.control;
        if control.no_store
            || parsed.pinned
            || !cacheable::may_cache(*dialect, &parsed.body, cache.only_deterministic)
        {
            return None;
        }
        let body = canonical::canonical(&parsed.body)?;
        let scope: &[u8] = if cache.shared { b"" } else { client };
        let converts = matches!(dialect, Dialect::Chat | Dialect::Completions);
        let class = [cache.shared, parsed.no_fallback, !converts && parsed.stream].map(u8::from);
        let (sources, headers) = (route.sources.as_bytes(), telling(&parsed.headers));
        let parts: [&[u8]; 7] = [b"cache", &class, scope, sources, rest.as_bytes(), &headers, &body];
        Some(Self {
            key: gateway.answers.key(&parts),
            rules: Rules { ttl: cache.ttl, stale: cache.stale_if_error, max_size: cache.max_size },
            read: match control {
                _ if control.only_if_cached => Read::OnlyIfCached,
                _ if control.no_cache => Read::Fresh,
                _ => control.max_age.map_or(Read::Normal, Read::MaxAge),
            },
            note: String::new(),
            dialect: *dialect,
            stream: parsed.stream,
            usage: parsed.asks_usage,
            converts,
            idempotent: false,
        })
    }
}

/// Of the headers that go upstream, those that may change an answer: all but what clients send of themselves.
fn telling(headers: &HeaderMap) -> Vec<u8> {
    const SILENT: [&str; 10] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "content-type",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "user-agent",
        "x-request-id",
    ];
    let mut all: Vec<(&str, &[u8])> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| !SILENT.contains(name) && !name.starts_with("x-stainless-"))
        .collect();
    all.sort_unstable();
    all.into_iter()
        .flat_map(|(name, value)| [name.as_bytes(), b":", value, b"\n"])
        .flatten()
        .copied()
        .collect()
}

/// What a request says. The boundary of a form is made up anew each time the form is sent, and says nothing.
fn digest(gateway: &Gateway, rest: &str, parsed: &Parsed) -> Key {
    let content_type = parsed.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = content_type
        .and_then(|value| value.split_once("boundary="))
        .map(|(_, rest)| rest.split(';').next().unwrap_or_default().trim().trim_matches('"'))
        .filter(|boundary| !boundary.is_empty());
    let mut parts: Vec<&[u8]> = vec![b"request", rest.as_bytes()];
    let mut from = 0;
    for at in boundary.iter().flat_map(|b| memchr::memmem::find_iter(&parsed.body, b.as_bytes())) {
        parts.extend(parsed.body.get(from..at));
        from = at + boundary.map_or(0, str::len);
    }
    parts.extend(parsed.body.get(from..));
    gateway.answers.key(&parts)
}

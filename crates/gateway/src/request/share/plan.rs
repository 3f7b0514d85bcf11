//! Whether a request may share an answer, with whom, and under which name.

use std::time::Duration;

use tidegate_store::answers::{Key, Read, Rules};
use tidegate_wire::answer::Dialect;
use tidegate_wire::{cacheable, canonical};

use crate::gateway::Gateway;
use crate::request::read::Target;
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
        if let Some(key) = &parsed.idempotency {
            let digest = gateway.answers.key(&[b"request", rest.as_bytes(), &parsed.body]);
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
        let class = [u8::from(cache.shared), u8::from(parsed.no_fallback)];
        let betas = parsed.headers.get("openai-beta").map(http::HeaderValue::as_bytes).unwrap_or_default();
        let name = route.config.name.as_bytes();
        let parts: [&[u8]; 7] = [b"cache", &class, scope, name, rest.as_bytes(), betas, &body];
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
            converts: matches!(dialect, Dialect::Chat | Dialect::Completions),
            idempotent: false,
        })
    }
}

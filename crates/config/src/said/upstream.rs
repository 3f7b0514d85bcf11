//! `upstreams:` as written.

use super::health::Health;
use crate::read::{Item, said, words};
use crate::secret::Secret;
use crate::unit::{Count, Flag, Number, Text, Time};

said! {
    /// An API requests are sent to.
    Upstream: "an upstream", needs [name, base_url] {
        /// Unique; routes name it. Each of its egress becomes a path `name@egress`.
        name: Text,
        /// Where it is, with the version, as `https://api.openai.com/v1`.
        base_url: Text,
        /// What it speaks. Default openai.
        api: Api,
        /// A pool of API keys; one that is refused or exhausted rests.
        keys: Vec<Item<Secret>>,
        /// Ways out, tried in this order. Default `[direct]`.
        egress: Vec<Item<Text>>,
        /// Share of traffic among equals, 0 to 1000; 0: only used when nothing else is. Default 1.
        weight: Number,
        /// Limits of time.
        timeouts: Timeouts,
        /// Connections kept and opened, for each path.
        pool: Pool,
        /// Trust.
        tls: UpstreamTls,
        /// Active probes.
        probe: Probe,
        /// Requests running at once on this node. Default 1000.
        max_in_flight: Count,
        /// What it serves; absent: everything.
        endpoints: Vec<Item<Endpoint>>,
        /// A model of ours: `max_in_flight` are its slots. Default false.
        local: Flag,
        /// Largest prompt and answer together, tokens.
        context_window: Count,
        /// What it can do; absent: all but prefill.
        capabilities: Vec<Item<Capability>>,
        /// Overrides the file's own `health`.
        health: Health,
    }
}

words! {
    /// Dialects.
    Api { OpenAi = "openai", Azure = "azure", Anthropic = "anthropic", }
}

words! {
    /// Endpoints an upstream may serve.
    Endpoint {
        ChatCompletions = "chat_completions",
        Completions = "completions",
        Embeddings = "embeddings",
        Models = "models",
        Responses = "responses",
    }
}

words! {
    /// What a model can do.
    Capability { Tools = "tools", JsonSchema = "json_schema", Vision = "vision", Prefill = "prefill", }
}

said! {
    /// Limits of time.
    Timeouts: "`timeouts`", needs [] {
        /// DNS to TLS. Default 5s.
        connect: Time,
        /// Each attempt, to the first content (plain: the head). Default 60s.
        first_byte: Time,
        /// Between two pieces of an answer. Default 30s.
        idle: Time,
        /// The whole plain request, all attempts. Default 120s.
        total: Time,
        /// The whole streamed request, all attempts. Default 10m.
        stream_total: Time,
    }
}

said! {
    /// Connections of one path.
    Pool: "`pool`", needs [] {
        /// Idle connections kept. Default 20.
        max_idle: Count,
        /// Connections open at once. Default 100.
        max_connections: Count,
        /// HTTP/2: as the server offers, never, or always. Default auto.
        http2: Http2,
    }
}

words! {
    /// HTTP version.
    Http2 { Auto = "auto", Off = "off", Only = "only", }
}

said! {
    /// Trust in an upstream's certificate, which is always verified.
    UpstreamTls: "`tls`", needs [] {
        /// PEM file with CAs used instead of the built-in ones.
        ca: Text,
        /// Public keys accepted, `sha256/BASE64`.
        pins: Vec<Item<Text>>,
    }
}

said! {
    /// Active probes.
    Probe: "`probe`", needs [] {
        /// How often. Default 5s.
        interval: Time,
        /// How long one may take. Default 2s.
        timeout: Time,
        /// What is asked for; `none` switches probes off. Default /models.
        path: Text,
    }
}

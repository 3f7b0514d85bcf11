//! The file as it is written: one type per section, each key with its place and its docs.
//!
//! Owns no rule beyond "this key takes this kind of value". The docs of a key are what an editor shows for it.
//! Not here: what sections mean together and what is built (`build`), and what the program runs by (`used`).

pub(crate) mod client;
pub(crate) mod filter;
pub(crate) mod health;
pub(crate) mod limit;
pub(crate) mod listener;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod route;
pub(crate) mod store;
pub(crate) mod tracing;
pub(crate) mod upstream;

use crate::read::{Item, Table, said};
use crate::unit::{Count, Number, Time};

said! {
    /// Configuration of a Tidegate node. Durations are `250ms`, `5s`, `1h`; sizes `16MiB`; rates `600/min`.
    /// `${VAR}` and `${VAR:-default}` are taken from the environment in any scalar; between [ ] or { }, in quotes.
    File: "the file", needs [upstreams, routes] {
        /// Who this node is.
        node: listener::Node,
        /// Where clients connect.
        listen: listener::Listen,
        /// Where operators and Prometheus connect.
        admin: listener::Admin,
        /// What nodes share; absent: an embedded store for a single node.
        store: store::Store,
        /// Name resolution.
        dns: network::Dns,
        /// Ways out; `direct` always exists.
        egress: Vec<Item<network::Egress>>,
        /// The APIs requests are sent to.
        upstreams: Vec<Item<upstream::Upstream>>,
        /// Which model goes where; the first match wins.
        routes: Vec<Item<route::Route>>,
        /// When a path is left alone and how it comes back; defaults for every upstream.
        health: health::Health,
        /// Who may call; absent: anyone.
        clients: Vec<Item<client::Client>>,
        /// Ways to authenticate other than a bearer key.
        auth: client::Auth,
        /// Limits that come before any client's own.
        limits: Vec<Item<limit::Limit>>,
        /// Words and patterns that are blocked or redacted.
        filters: Vec<Item<filter::Filter>>,
        /// Embedding requests merged into one upstream call; absent: not merged.
        batch: Batch,
        /// Stored conversations; absent: refused.
        conversations: Conversations,
        /// USD per million tokens, by model glob.
        prices: Table<Price>,
        /// Traces sent over OTLP; absent: none.
        tracing: tracing::Tracing,
        /// What is logged.
        log: log::Log,
    }
}

said! {
    /// Merging of embedding requests.
    Batch: "`batch`", needs [] {
        /// How long a request waits for others. Default 5ms.
        window: Time,
        /// How many are merged at most. Default 64.
        max: Count,
    }
}

said! {
    /// Stored conversations.
    Conversations: "`conversations`", needs [] {
        /// How long a conversation is kept after its last turn.
        ttl: Time,
    }
}

said! {
    /// Price of a model, USD per million tokens.
    Price: "a price", needs [input, output] {
        /// Of tokens sent.
        input: Number,
        /// Of tokens received.
        output: Number,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use schemars::schema_for;
    use serde_json::Value;

    use super::{Batch, Conversations, File, Price, client, filter, health, limit, listener, log, network};
    use super::{route, store, tracing, upstream};
    use crate::secret::{Aws, Vault};

    fn keys(schema: &Value) -> BTreeSet<&str> {
        schema["properties"].as_object().unwrap().keys().map(String::as_str).collect()
    }

    macro_rules! same {
        ($($section:ty,)*) => {{
            $(
                let schema = schema_for!($section).to_value();
                let read: BTreeSet<&str> = <$section>::KEYS.iter().copied().collect();
                assert_eq!(keys(&schema), read, stringify!($section));
                assert_eq!(schema["additionalProperties"], false, stringify!($section));
            )*
            [$(stringify!($section)),*].len()
        }};
    }

    #[test]
    fn the_reader_and_the_schema_know_the_same_keys() {
        let compared = same!(
            File,
            Batch,
            Conversations,
            Price,
            listener::Node,
            listener::Listen,
            listener::ListenTls,
            listener::Admin,
            store::Store,
            store::StoreTls,
            network::Dns,
            network::Egress,
            upstream::Upstream,
            upstream::Timeouts,
            upstream::Pool,
            upstream::UpstreamTls,
            upstream::Probe,
            route::Route,
            route::Match,
            route::Fallback,
            route::Prompt,
            route::Cache,
            route::Retry,
            route::Backoff,
            route::Hedge,
            route::Context,
            health::Health,
            health::Breaker,
            health::SlowCall,
            health::Recovery,
            health::Synthetic,
            health::Flap,
            health::ShadowBudget,
            health::Choice,
            limit::Limit,
            client::Client,
            client::Auth,
            client::Jwt,
            client::JwtKey,
            client::Signature,
            filter::Filter,
            log::Log,
            tracing::Tracing,
            tracing::TracingTls,
            Vault,
            Aws,
        );
        // A section that is missing above would make this count differ; `Secret` has no reader of this kind.
        let schema = crate::schema();
        let sections = schema["$defs"].as_object().unwrap().iter();
        let sections =
            sections.filter(|(name, section)| *name != "Secret" && section["properties"].is_object());
        assert_eq!(compared, sections.count() + 1);
    }

    #[test]
    fn every_key_explains_itself() {
        let schema = crate::schema();
        for (name, section) in schema["$defs"].as_object().unwrap() {
            let Some(keys) = section["properties"].as_object() else { continue };
            for (key, about) in keys {
                let told = about["description"].is_string() || about["$ref"].is_string();
                assert!(told, "{name}.{key}");
            }
        }
    }
}

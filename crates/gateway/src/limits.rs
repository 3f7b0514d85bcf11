//! Which limits a request meets, and what it is expected to cost: built once from the configuration.
//!
//! Owns the rules in the form the limiter takes them, and what was learnt of how long answers are. Not here: how
//! they are counted (`tidegate_store::limit`).

pub mod near;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidegate_config::used::{self, Config, Per, Price};
use tidegate_store::Store;
use tidegate_store::limit::{Applies, Limiter, Rule, Scope};
use tidegate_wire::answer::Dialect;
use tidegate_wire::tokens::{self, Counter};

/// Expected of an answer before anything was learnt, tokens.
const OUTPUT: f64 = 512.0;
/// Pairs of client and model for which the length of answers is learnt; all others of a client share one.
const LEARNT_MAX: usize = 10_000;

/// The limits of one node.
#[derive(Debug)]
pub struct Limits {
    limiter: Arc<Limiter>,
    timeout: Duration,
    /// Of the file's own.
    per_ip: Vec<Arc<Rule>>,
    per_model: Vec<Arc<Rule>>,
    /// Those that hold for every request.
    node: Applying,
    /// By client, its own and the file's.
    clients: Vec<Applying>,
    /// By route.
    routes: Vec<Applying>,
    prices: Vec<Price>,
    counter: Option<Arc<Counter>>,
    meters: bool,
    /// By index, as `Outputs` knows them.
    names: Vec<String>,
    outputs: Arc<RwLock<Outputs>>,
}

/// Limits that hold for a request.
#[derive(Debug, Default, Clone)]
pub struct Applying {
    /// What the limiter is asked.
    pub rules: Vec<Applies>,
    /// Tokens or money are among what they count.
    pub counts: bool,
}

impl Applying {
    fn add(&mut self, rule: &Arc<Rule>, subject: &str) {
        self.counts |= matches!(rule.meter, used::Meter::Tokens(_) | used::Meter::Usd(_));
        self.rules.push(Applies::new(Arc::clone(rule), subject));
    }

    fn extend(&mut self, others: &Self) {
        self.counts |= others.counts;
        self.rules.extend(others.rules.iter().cloned());
    }
}

/// What a request is expected to cost.
#[derive(Debug, Clone, Copy)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the answer.
    pub output: f64,
    /// By the prices, millionths of a US dollar.
    pub micro_usd: f64,
}

impl Estimate {
    /// Both.
    pub fn tokens(&self) -> f64 {
        self.prompt as f64 + self.output
    }
}

/// By client's name (empty: none), then model; the model "" is the one that those beyond `LEARNT_MAX` share.
#[derive(Debug, Default)]
struct Outputs {
    by_client: HashMap<String, HashMap<String, Output>>,
    count: usize,
}

impl Outputs {
    fn get(&self, client: &str, model: &str) -> Option<&Output> {
        let models = self.by_client.get(client)?;
        models.get(model).or_else(|| models.get("").filter(|_| self.count >= LEARNT_MAX))
    }

    fn insert(&mut self, client: &str, model: &str) -> &Output {
        let models = self.by_client.entry(client.to_owned()).or_default();
        let model = if self.count < LEARNT_MAX || models.contains_key(model) { model } else { "" };
        models.entry(model.to_owned()).or_insert_with(|| {
            self.count += 1;
            Output(AtomicU64::new(OUTPUT.to_bits()))
        })
    }
}

/// How long the answers of a model are to a client: about the 90th percentile.
#[derive(Debug)]
struct Output(AtomicU64);

impl Output {
    fn expected(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Moves toward the 90th percentile: nine steps up for one above, one step down for one below. Two at once may
    /// lose a step, which an estimate bears.
    fn learn(&self, tokens: u64) {
        let (now, seen) = (self.expected(), tokens as f64);
        let step = (now * 0.02).max(1.0);
        let next = if seen > now { (now + 9.0 * step).min(seen) } else { (now - step).max(seen) };
        self.0.store(next.to_bits(), Ordering::Relaxed);
    }
}

impl Limits {
    /// Converts the rules. The vocabulary is loaded here where tokens are to be counted, which takes a tenth of a second.
    pub fn new(config: &Config, store: Store, local: Store) -> Self {
        let (expected_nodes, timeout) = config
            .store
            .as_ref()
            .map_or((1, Duration::from_millis(25)), |store| (store.expected_nodes, store.timeout));
        let limiter = Limiter::new(store, local, expected_nodes, timeout);
        Self::of(config, limiter, timeout, None, Arc::default())
    }

    /// The limits of the next configuration, over the same counts: a limit that has stayed goes on where it stands.
    pub fn next(&self, config: &Config) -> Self {
        let (limiter, outputs) = (Arc::clone(&self.limiter), Arc::clone(&self.outputs));
        Self::of(config, limiter, self.timeout, self.counter.clone(), outputs)
    }

    fn of(
        config: &Config,
        limiter: Arc<Limiter>,
        timeout: Duration,
        counter: Option<Arc<Counter>>,
        outputs: Arc<RwLock<Outputs>>,
    ) -> Self {
        let of = |per: Per| {
            config.limits.iter().filter(move |limit| limit.per == per).map(|limit| Arc::new(rule(limit)))
        };
        let clients = config.clients.as_deref().unwrap_or_default();
        let everyone: Vec<Arc<Rule>> = of(Per::Client).collect();
        let each_route: Vec<Arc<Rule>> = of(Per::Route).collect();
        let applies = |own: &[used::Limit], common: &[Arc<Rule>], name: &str| {
            let mut all = Applying::default();
            own.iter().for_each(|limit| all.add(&Arc::new(rule(limit)), name));
            common.iter().for_each(|rule| all.add(rule, name));
            all
        };
        let everywhere: Vec<Arc<Rule>> = of(Per::Node).collect();
        let every = config
            .limits
            .iter()
            .chain(clients.iter().flat_map(|client| &client.limits))
            .chain(config.routes.iter().flat_map(|route| &route.limits));
        let counts =
            every.clone().any(|limit| matches!(limit.meter, used::Meter::Tokens(_) | used::Meter::Usd(_)));
        Self {
            limiter,
            timeout,
            per_ip: of(Per::Ip).collect(),
            per_model: of(Per::Model).collect(),
            node: applies(&[], &everywhere, ""),
            clients: clients.iter().map(|c| applies(&c.limits, &everyone, &c.name)).collect(),
            routes: config.routes.iter().map(|r| applies(&r.limits, &each_route, &r.name)).collect(),
            prices: config.prices.clone(),
            counter: counts.then(|| counter.unwrap_or_else(|| Arc::new(Counter::load()))),
            meters: counts || config.clients.is_some() || !config.prices.is_empty(),
            names: clients.iter().map(|client| client.name.clone()).collect(),
            outputs,
        }
    }

    /// Counts for all.
    pub const fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// A request waits no longer for the store.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Somebody is to know what answers cost, so streams are asked for their usage.
    pub const fn meters(&self) -> bool {
        self.meters
    }

    /// The price of a model, in USD per million tokens.
    pub fn price(&self, model: &str) -> Option<&Price> {
        self.prices.iter().find(|price| price.model.matches(model))
    }

    /// All that hold for a request. Allocates nothing where none does.
    pub fn applying(
        &self,
        client: Option<usize>,
        route: Option<usize>,
        model: Option<&str>,
        remote: Option<IpAddr>,
    ) -> Applying {
        let mut all = Applying::default();
        all.extend(&self.node);
        if let Some(ip) = remote.filter(|_| !self.per_ip.is_empty()) {
            let subject = network(ip);
            self.per_ip.iter().for_each(|rule| all.add(rule, &subject));
        }
        if let Some(own) = route.and_then(|r| self.routes.get(r)) {
            all.extend(own);
        }
        if let Some(model) = model {
            self.per_model.iter().for_each(|rule| all.add(rule, model));
        }
        if let Some(own) = client.and_then(|c| self.clients.get(c)) {
            all.extend(own);
        }
        all
    }

    /// What a request is expected to cost, by its length alone: for where no limit depends on it.
    pub fn rough(body: &[u8]) -> Estimate {
        Estimate { prompt: tokens::estimate(body.len()), output: 0.0, micro_usd: 0.0 }
    }

    /// What a request is expected to cost, counted.
    pub fn estimate(
        &self,
        client: Option<usize>,
        name: &str,
        dialect: Dialect,
        choices: u32,
        body: &[u8],
    ) -> Estimate {
        let Some(counter) = &self.counter else { return Self::rough(body) };
        let prompt = counter.prompt_tokens(dialect, name, body);
        let output = match dialect {
            Dialect::Embeddings => 0.0,
            _ => {
                let each = tokens::asked_output(body).map(|asked| asked as f64);
                each.unwrap_or_else(|| self.expected(client, name)) * f64::from(choices)
            }
        };
        let micro_usd =
            self.price(name).map_or(0.0, |price| prompt as f64 * price.input + output * price.output);
        Estimate { prompt, output, micro_usd }
    }

    /// Tokens of an answer of the model to the client. Only looks: a request that is refused leaves nothing behind.
    fn expected(&self, client: Option<usize>, model: &str) -> f64 {
        let outputs = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        outputs.get(self.name(client), model).map_or(OUTPUT, Output::expected)
    }

    fn name(&self, client: Option<usize>) -> &str {
        client.and_then(|client| self.names.get(client)).map(String::as_str).unwrap_or_default()
    }

    /// An answer of the model to the client was this long. Does nothing where no limit counts tokens.
    pub fn learn(&self, client: Option<usize>, model: &str, tokens: u64) {
        if self.counter.is_none() {
            return;
        }
        let client = self.name(client);
        let known = self.outputs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(output) = known.get(client, model) {
            return output.learn(tokens);
        }
        drop(known);
        self.outputs.write().unwrap_or_else(PoisonError::into_inner).insert(client, model).learn(tokens);
    }
}

/// Addresses that one host may choose from are one: a whole /64 of IPv6.
fn network(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) >> 64 << 64).to_string(),
    }
}

const fn rule(limit: &used::Limit) -> Rule {
    let scope = match limit.per {
        Per::Ip => Scope::Ip,
        Per::Node => Scope::Node,
        Per::Route => Scope::Route,
        Per::Model => Scope::Model,
        Per::Client => Scope::Client,
    };
    Rule { scope, meter: limit.meter, on_store_loss: limit.on_store_loss }
}

#[cfg(test)]
mod tests;

//! Which limits a request meets, and what it is expected to cost: built once from the configuration.
//!
//! Owns the rules in the form the limiter takes them, and what was learnt of how long answers are. Not here: how
//! they are counted (`tidegate_store::limit`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidegate_config::used::{self, Config, Per, Price};
use tidegate_store::Store;
use tidegate_store::limit::{Applies, Limiter, Meter, OnStoreLoss, Pace, Rule, Scope, Smooth, Span};
use tidegate_wire::answer::Dialect;
use tidegate_wire::tokens::{self, Counter};

/// Expected of an answer before anything was learnt, tokens.
const OUTPUT: f64 = 512.0;
/// Pairs of client and model for which the length of answers is learnt; all others share one.
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
    node: Vec<Applies>,
    /// By client, its own and the file's.
    clients: Vec<Vec<Applies>>,
    /// By route.
    routes: Vec<Vec<Applies>>,
    prices: Vec<Price>,
    counter: Option<Counter>,
    meters: bool,
    outputs: RwLock<HashMap<(usize, String), Arc<Output>>>,
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

/// How long the answers of a model are to a client: about the 90th percentile.
#[derive(Debug)]
pub struct Output(AtomicU64);

impl Output {
    fn expected(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Moves toward the 90th percentile: nine steps up for one above, one step down for one below. Two at once may
    /// lose a step, which an estimate bears.
    pub fn learn(&self, tokens: u64) {
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
        let of = |per: Per| {
            config.limits.iter().filter(move |limit| limit.per == per).map(|limit| Arc::new(rule(limit)))
        };
        let clients = config.clients.as_deref().unwrap_or_default();
        let everyone: Vec<Arc<Rule>> = of(Per::Client).collect();
        let each_route: Vec<Arc<Rule>> = of(Per::Route).collect();
        let applies = |own: &[used::Limit], common: &[Arc<Rule>], name: &str| -> Vec<Applies> {
            let own = own.iter().map(|limit| Arc::new(rule(limit)));
            own.chain(common.iter().cloned()).map(|rule| Applies::new(rule, name)).collect()
        };
        let every = config
            .limits
            .iter()
            .chain(clients.iter().flat_map(|client| &client.limits))
            .chain(config.routes.iter().flat_map(|route| &route.limits));
        let counts =
            every.clone().any(|limit| matches!(limit.meter, used::Meter::Tokens(_) | used::Meter::Usd(_)));
        Self {
            limiter: Limiter::new(store, local, expected_nodes, timeout),
            timeout,
            per_ip: of(Per::Ip).collect(),
            per_model: of(Per::Model).collect(),
            node: of(Per::Node).map(|rule| Applies::new(rule, "")).collect(),
            clients: clients.iter().map(|c| applies(&c.limits, &everyone, &c.name)).collect(),
            routes: config.routes.iter().map(|r| applies(&r.limits, &each_route, &r.name)).collect(),
            prices: config.prices.clone(),
            counter: counts.then(Counter::load),
            meters: counts || config.clients.is_some() || !config.prices.is_empty(),
            outputs: RwLock::default(),
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

    /// All that hold for a request.
    pub fn applying(
        &self,
        client: Option<usize>,
        route: Option<usize>,
        model: Option<&str>,
        remote: Option<IpAddr>,
    ) -> Vec<Applies> {
        let mut all = Vec::new();
        all.extend(self.node.iter().cloned());
        if let Some(ip) = remote.filter(|_| !self.per_ip.is_empty()) {
            let subject = network(ip);
            all.extend(self.per_ip.iter().map(|rule| Applies::new(Arc::clone(rule), &subject)));
        }
        all.extend(route.and_then(|r| self.routes.get(r)).into_iter().flatten().cloned());
        if let Some(model) = model {
            all.extend(self.per_model.iter().map(|rule| Applies::new(Arc::clone(rule), model)));
        }
        all.extend(client.and_then(|c| self.clients.get(c)).into_iter().flatten().cloned());
        all
    }

    /// What a request is expected to cost.
    pub fn estimate(
        &self,
        client: Option<usize>,
        model: Option<&str>,
        dialect: Dialect,
        choices: u32,
        body: &[u8],
    ) -> Estimate {
        let name = model.unwrap_or_default();
        let Some(counter) = &self.counter else {
            return Estimate { prompt: tokens::estimate(body.len()), output: 0.0, micro_usd: 0.0 };
        };
        let prompt = counter.prompt_tokens(dialect, name, body);
        let output = match dialect {
            Dialect::Embeddings => 0.0,
            _ => {
                let each = tokens::asked_output(body).map(|asked| asked as f64);
                each.unwrap_or_else(|| self.expected(client, model).map_or(OUTPUT, |o| o.expected()))
                    * f64::from(choices)
            }
        };
        let micro_usd =
            self.price(name).map_or(0.0, |price| prompt as f64 * price.input + output * price.output);
        Estimate { prompt, output, micro_usd }
    }

    /// What is learnt of a model's answers to a client; `None` where nothing counts tokens.
    pub fn expected(&self, client: Option<usize>, model: Option<&str>) -> Option<Arc<Output>> {
        self.counter.as_ref()?;
        let client = client.unwrap_or(usize::MAX);
        let key = (client, model.unwrap_or_default().to_owned());
        if let Some(output) = self.outputs.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Some(Arc::clone(output));
        }
        let mut outputs = self.outputs.write().unwrap_or_else(PoisonError::into_inner);
        let key = if outputs.len() < LEARNT_MAX { key } else { (client, String::new()) };
        let new = || Arc::new(Output(AtomicU64::new(OUTPUT.to_bits())));
        Some(Arc::clone(outputs.entry(key).or_insert_with(new)))
    }
}

/// Addresses that one host may choose from are one: a whole /64 of IPv6.
fn network(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) >> 64 << 64).to_string(),
    }
}

fn rule(limit: &used::Limit) -> Rule {
    let pace = |pace: &used::Pace| Pace {
        span: match pace.span {
            used::Span::Day => Span::Day,
            used::Span::Period(period) => Span::Period(period),
        },
        amount: pace.amount,
        burst: pace.burst,
        smooth: pace.smooth.map(|smooth| Smooth { queue: smooth.queue, timeout: smooth.timeout }),
    };
    Rule {
        scope: match limit.per {
            Per::Ip => Scope::Ip,
            Per::Node => Scope::Node,
            Per::Route => Scope::Route,
            Per::Model => Scope::Model,
            Per::Client => Scope::Client,
        },
        meter: match &limit.meter {
            used::Meter::Requests(said) => Meter::Requests(pace(said)),
            used::Meter::Tokens(said) => Meter::Tokens(pace(said)),
            used::Meter::Usd(said) => Meter::Usd(pace(said)),
            used::Meter::InFlight(limit) => Meter::InFlight(*limit),
        },
        on_store_loss: match limit.on_store_loss {
            used::OnStoreLoss::Share => OnStoreLoss::Share,
            used::OnStoreLoss::Open => OnStoreLoss::Open,
            used::OnStoreLoss::Closed => OnStoreLoss::Closed,
        },
    }
}

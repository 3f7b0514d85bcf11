//! What `explain` says of the cache, the limits and the price.

use std::fmt::Write as _;

use tidegate_config::used::{Client, Config, Limit, Meter, OnStoreLoss, Pace, Per, Route, Span};

use super::shown;

/// Whether answers of the route are kept.
pub fn says_cache(out: &mut String, config: &Config, route: &Route) {
    let Some(cache) = &route.cache else {
        let _ = writeln!(out, "cache: off");
        return;
    };
    let whose = if cache.shared { "shared by all clients" } else { "each client for itself" };
    let _ = write!(
        out,
        "cache: answers are kept for {}, {whose}, up to {} bytes",
        shown(cache.ttl),
        cache.max_size
    );
    if cache.only_deterministic {
        let _ = write!(out, "; only with temperature 0, a seed or embeddings");
    }
    if !cache.stale_if_error.is_zero() {
        let _ = write!(out, "; for {} more where no upstream can be reached", shown(cache.stale_if_error));
    }
    let place =
        if config.store.is_some() { "this node's memory and the store" } else { "this node's memory" };
    let _ = writeln!(out, "; in {place}");
}

/// All limits, in the order they are asked.
pub fn says_limits(out: &mut String, config: &Config, route: &Route, client: Option<&Client>) {
    let node = config.node_limit;
    let _ = writeln!(
        out,
        "limits: node in_flight {}; beyond it {} wait for up to {}, the rest get 503 overloaded",
        node.in_flight,
        node.queue,
        shown(node.queue_timeout)
    );
    for limit in &config.limits {
        if limit.per != Per::Client || client.is_some() {
            says_limit(out, limit, per(limit.per));
        }
    }
    for limit in &route.limits {
        says_limit(out, limit, "this route");
    }
    for limit in client.into_iter().flat_map(|client| &client.limits) {
        says_limit(out, limit, "this client");
    }
}

/// What tokens of the model cost.
pub fn says_price(out: &mut String, config: &Config, model: &str) {
    if config.prices.is_empty() {
        return;
    }
    let _ = match config.prices.iter().find(|price| price.model.matches(model)) {
        None => writeln!(out, "price: none; its tokens count in unpriced_tokens_total"),
        Some(price) => writeln!(
            out,
            "price: {} USD per million tokens read, {} written, by `{}`",
            price.input,
            price.output,
            price.model.as_str()
        ),
    };
}

const fn per(per: Per) -> &'static str {
    match per {
        Per::Ip => "each address",
        Per::Node => "this node",
        Per::Route => "this route",
        Per::Model => "this model",
        Per::Client => "this client",
    }
}

fn says_limit(out: &mut String, limit: &Limit, whose: &str) {
    let what = match &limit.meter {
        Meter::InFlight(most) => format!("{most} requests at once"),
        Meter::Requests(pace) => paced(pace, "requests", 1.0),
        Meter::Tokens(pace) => paced(pace, "tokens", 1.0),
        Meter::Usd(pace) => paced(pace, "USD", 1e-6),
    };
    let lost = match limit.on_store_loss {
        OnStoreLoss::Share => "",
        OnStoreLoss::Open => "; open while the store is away",
        OnStoreLoss::Closed => "; closed while the store is away",
    };
    let _ = writeln!(out, "  {whose}: {what}{lost}");
}

fn paced(pace: &Pace, unit: &str, scale: f64) -> String {
    let amount = pace.amount * scale;
    match (pace.span, pace.smooth) {
        (Span::Day, _) => format!("{amount} {unit} a UTC day"),
        (Span::Period(period), Some(smooth)) => format!(
            "{amount} {unit} in {}, evenly; up to {} wait for up to {}",
            shown(period),
            smooth.queue,
            shown(smooth.timeout)
        ),
        (Span::Period(period), None) => {
            format!("{amount} {unit} in {}, at once {}", shown(period), pace.burst * scale)
        }
    }
}

#[cfg(test)]
mod tests;

//! What is in force, from what the program runs by: the defaults, and what a rule made of what was said.
//!
//! Every struct of `used` is taken apart field by field, without `..`. A field that is left as it was said is `_`.

use serde_json::{Map, Value, json};
use tidegate_router::glob::Glob;

use super::{Shown, number, percent, rate, size, text, time};
use crate::read::{Item, Said};
use crate::said::health::Health as SaidHealth;
use crate::said::limit::Limit as SaidLimit;
use crate::said::upstream::Upstream as SaidUpstream;
use crate::said::{File, route as said_route};
use crate::unit::Amount;
use crate::used;

const MICRO: f64 = 1e6;
/// The largest `burst` a file may say.
const BURST_MAX: f64 = 1e9;

/// Over the whole file.
pub(super) fn config(file: &File, config: &used::Config) -> Value {
    let used::Config {
        node,
        listen,
        admin,
        store,
        dns,
        egress,
        upstreams,
        routes,
        health,
        clients,
        node_limit,
        limits,
        prices,
        tracing,
        log,
        hash: _,
        effective: _,
    } = config;
    // Addresses and names are as the file says them.
    let used::Dns { hosts: _ } = dns;
    let own = file.health.get();
    let mut all = json!({
        "node": self::node(node),
        "listen": self::listen(listen),
        "admin": admin_section(admin),
        "egress": egress.iter().skip(1).map(|_| json!({})).collect::<Vec<_>>(),
        "upstreams": file.upstreams.items().iter().zip(upstreams)
            .map(|(said, upstream)| self::upstream(&said.value, own, upstream, config)).collect::<Vec<_>>(),
        "routes": file.routes.items().iter().zip(routes)
            .map(|(said, route)| self::route(&said.value, route)).collect::<Vec<_>>(),
        "health": self::health(health, &[own]),
        "limits": own_limits(file.limits.items(), node_limit, limits),
        "prices": prices.iter().map(price).collect::<Vec<_>>(),
        "log": self::log(log),
    });
    let optional = [
        ("store", store.as_ref().map(self::store)),
        ("clients", clients.as_ref().map(|all| self::clients(file, all))),
        ("tracing", tracing.as_ref().map(self::tracing)),
    ];
    if let Value::Object(all) = &mut all {
        all.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
    all
}

fn node(node: &used::Node) -> Value {
    let used::Node { name, zone, cache_memory } = node;
    let mut all = json!({"name": text(name), "cache_memory": size(*cache_memory)});
    // A zone is a label where it is said, and an empty text is none.
    if let (false, Value::Object(all)) = (zone.is_empty(), &mut all) {
        all.insert("zone".to_owned(), text(zone));
    }
    all
}

fn listen(listen: &used::Listen) -> Value {
    let used::Listen {
        address,
        tls: _,
        max_body,
        max_connections,
        drain_grace,
        drain_timeout,
        trusted_proxies,
    } = listen;
    json!({
        "address": address.to_string(),
        "max_body": size(*max_body),
        "max_connections": max_connections,
        "drain_grace": time(*drain_grace),
        "drain_timeout": time(*drain_timeout),
        "trusted_proxies": trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn admin_section(admin: &used::Admin) -> Value {
    let used::Admin { address, token: _ } = admin;
    json!({"address": address.to_string()})
}

fn store(store: &used::Store) -> Value {
    let used::Store { url: _, password: _, timeout, prefix, expected_nodes, secret: _, ca_pem: _ } = store;
    json!({"timeout": time(*timeout), "prefix": text(prefix), "expected_nodes": expected_nodes})
}

fn tracing(tracing: &used::Tracing) -> Value {
    let used::Tracing { url: _, sample, headers: _, ca_pem: _ } = tracing;
    json!({"sample": percent(*sample)})
}

fn upstream(
    said: &SaidUpstream,
    own: Option<&SaidHealth>,
    upstream: &used::Upstream,
    config: &used::Config,
) -> Value {
    let used::Upstream {
        name: _,
        base_url: _,
        keys: _,
        egress,
        timeouts,
        pool,
        ca_pem: _,
        max_in_flight,
        weight,
        probe,
        local,
        context_window: _,
        capabilities,
        health,
    } = upstream;
    let used::Timeouts { connect, first_byte, idle, total, stream_total } = timeouts;
    let used::Pool { max_idle, max_connections, http2 } = pool;
    let http2 = match http2 {
        used::Http2::Auto => "auto",
        used::Http2::Off => "off",
        used::Http2::Only => "only",
    };
    let used::Capabilities { tools, json_schema, vision, prefill } = capabilities;
    let can = [("tools", tools), ("json_schema", json_schema), ("vision", vision), ("prefill", prefill)];
    let egress = egress.iter().filter_map(|&index| config.egress.get(index)).map(|egress| text(&egress.name));
    json!({
        "api": said.api.get().map_or("openai".into(), Shown::shown),
        "egress": egress.collect::<Vec<_>>(),
        "timeouts": {
            "connect": time(*connect),
            "first_byte": time(*first_byte),
            "idle": time(*idle),
            "total": time(*total),
            "stream_total": time(*stream_total),
        },
        "pool": {"max_idle": max_idle, "max_connections": max_connections, "http2": http2},
        "max_in_flight": max_in_flight,
        "weight": number(*weight),
        "probe": probe.as_ref().map_or_else(|| json!({"path": "none"}), self::probe),
        "local": local,
        "capabilities": can.iter().filter(|(_, can)| **can).map(|(what, _)| *what).collect::<Vec<_>>(),
        "health": self::health(health, &[said.health.get(), own]),
    })
}

fn probe(probe: &used::Probe) -> Value {
    let used::Probe { interval, timeout, path } = probe;
    json!({"interval": time(*interval), "timeout": time(*timeout), "path": text(path)})
}

fn route(said: &said_route::Route, route: &used::Route) -> Value {
    let used::Route { name: _, model: _, to: _, fallback, shadow, retry, hedge: _, cache, limits } = route;
    let used::Retry { attempts, initial, factor, max, budget } = retry;
    let off = || Value::Bool(false);
    let mut all = json!({
        "fallback": fallback.iter().map(self::fallback).collect::<Vec<_>>(),
        "shadow": shadow,
        "early_commit": said.early_commit.get().map_or("0s".into(), Shown::shown),
        "resumable": said.resumable.get().map_or_else(off, Shown::shown),
        "continue": said.r#continue.get().map_or_else(off, Shown::shown),
        "retry": {
            "attempts": attempts,
            "backoff": {"initial": time(*initial), "factor": number(*factor), "max": time(*max)},
            "budget": percent(*budget),
        },
        "limits": inner_limits(said.limits.items(), limits),
    });
    if let (Some(cache), Value::Object(all)) = (cache, &mut all) {
        all.insert("cache".to_owned(), self::cache(cache));
    }
    all
}

fn cache(cache: &used::Cache) -> Value {
    let used::Cache { ttl, shared, only_deterministic, stale_if_error, max_size } = cache;
    json!({
        "ttl": time(*ttl),
        "shared": shared,
        "only_deterministic": only_deterministic,
        "stale_if_error": time(*stale_if_error),
        "max_size": size(*max_size),
    })
}

fn fallback(fallback: &used::Fallback) -> Value {
    let used::Fallback { upstream: _, when, model: _, prompt } = fallback;
    let used::When { unavailable, context_length_exceeded, rate_limited } = when;
    let used::Prompt { system: _, max_tokens: _, keep_last_turns: _ } = prompt;
    let cases = [
        ("unavailable", unavailable),
        ("context_length_exceeded", context_length_exceeded),
        ("rate_limited", rate_limited),
    ];
    json!({"when": cases.iter().filter(|(_, is)| **is).map(|(case, _)| *case).collect::<Vec<_>>()})
}

/// `said`: the section that says the most, and those around it.
fn health(health: &used::Health, said: &[Option<&SaidHealth>]) -> Value {
    let used::Health { breaker, recovery, synthetic, flap, shadow_budget, reasoning_models, choice } = health;
    let used::Breaker {
        consecutive_failures,
        failure_rate,
        min_requests,
        window,
        slow_after,
        slow_rate,
        stalled_after,
        open_for,
        max_open,
    } = breaker;
    let used::Recovery {
        shadow_sample,
        shadow_every,
        shadow_max_tokens,
        successes,
        min_span,
        max_latency_ratio,
        latency_floor,
        ramp,
        ramp_step,
        ramp_requests,
    } = recovery;
    let used::Synthetic { prompt, max_tokens, interval, after_idle } = synthetic;
    let used::Flap { trips, within, hold } = flap;
    let used::ShadowBudget { per_recovery, usd_per_day } = shadow_budget;
    let used::Choice { band, hysteresis, explore } = choice;
    // A rate is kept as the time between two, which is no way to write it again.
    let shadow_max = said.iter().flatten().find_map(|said| said.recovery.get()?.shadow_max.get());
    let shadow_max = shadow_max
        .map_or_else(|| format!("{}/min", (60.0 / shadow_every.as_secs_f64()).round()).into(), Shown::shown);
    json!({
        "breaker": {
            "consecutive_failures": consecutive_failures,
            "failure_rate": number(*failure_rate),
            "min_requests": min_requests,
            "window": time(*window),
            "slow_call": {"after": time(*slow_after), "rate": number(*slow_rate)},
            "stalled_after": time(*stalled_after),
            "open_for": time(*open_for),
            "max_open": time(*max_open),
        },
        "recovery": {
            "shadow_sample": number(*shadow_sample),
            "shadow_max": shadow_max,
            "shadow_max_tokens": shadow_max_tokens,
            "successes": successes,
            "min_span": time(*min_span),
            "max_latency_ratio": number(*max_latency_ratio),
            "latency_floor": time(*latency_floor),
            "ramp": ramp.iter().map(|step| percent(*step)).collect::<Vec<_>>(),
            "ramp_step": time(*ramp_step),
            "ramp_requests": ramp_requests,
        },
        "synthetic": {
            "prompt": text(prompt),
            "max_tokens": max_tokens,
            "interval": time(*interval),
            "after_idle": time(*after_idle),
        },
        "flap": {"trips": trips, "within": time(*within), "hold": time(*hold)},
        "shadow_budget": {"per_recovery": per_recovery, "usd_per_day": number(*usd_per_day)},
        "reasoning_models": reasoning_models.iter().map(glob).collect::<Vec<_>>(),
        "choice": {"band": percent(*band), "hysteresis": time(*hysteresis), "explore": percent(*explore)},
    })
}

fn clients(file: &File, clients: &[used::Client]) -> Value {
    let one = |(said, client): (&Item<crate::said::client::Client>, &used::Client)| {
        let used::Client { name: _, key_sha256, models: _, limits } = client;
        let digits: String = key_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"key_sha256": digits, "limits": inner_limits(said.value.limits.items(), limits)})
    };
    file.clients.items().iter().zip(clients).map(one).collect()
}

/// In the order of the file; what runs at once on the node comes last where the file does not say it.
fn own_limits(said: &[Item<SaidLimit>], node: &used::NodeLimit, limits: &[used::Limit]) -> Value {
    let used::NodeLimit { in_flight, queue, queue_timeout } = node;
    let node =
        json!({"per": "node", "in_flight": in_flight, "queue": queue, "queue_timeout": time(*queue_timeout)});
    let (mut all, mut rest, mut has_node) = (Vec::new(), limits.iter(), false);
    for Item { value: said, .. } in said {
        let mut entry = said.shown();
        if said.per.get() == Some(&crate::said::limit::Per::Node) && said.in_flight.key().is_some() {
            has_node = true;
            super::lay(&mut entry, node.clone());
        } else if let Some(used) = rest.next() {
            super::lay(&mut entry, limit(said, used));
        }
        all.push(entry);
    }
    if !has_node {
        all.push(node);
    }
    all.into()
}

fn inner_limits(said: &[Item<SaidLimit>], limits: &[used::Limit]) -> Vec<Value> {
    said.iter().zip(limits).map(|(said, used)| limit(&said.value, used)).collect()
}

fn limit(said: &SaidLimit, limit: &used::Limit) -> Value {
    let used::Limit { per, meter, on_store_loss } = limit;
    let mut all = Map::new();
    if *per != used::Per::Node {
        let word = match on_store_loss {
            used::OnStoreLoss::Share => "share",
            used::OnStoreLoss::Open => "open",
            used::OnStoreLoss::Closed => "closed",
        };
        all.insert("on_store_loss".to_owned(), word.into());
    }
    let (key, pace, scale) = match meter {
        used::Meter::Requests(pace) => ("requests", pace, 1.0),
        used::Meter::Tokens(pace) => ("tokens", pace, 1.0),
        used::Meter::Usd(pace) => ("usd", pace, MICRO),
        used::Meter::InFlight(_) => return all.into(),
    };
    let used::Pace { span, amount, burst, smooth } = pace;
    let amount = said_amount(said).unwrap_or(Amount { each: amount / scale, span: *span });
    all.insert(key.to_owned(), rate(amount));
    let burst = burst / scale;
    match smooth {
        Some(used::Smooth { queue, timeout }) => {
            all.insert("smooth".to_owned(), true.into());
            all.insert("queue".to_owned(), json!(queue));
            all.insert("queue_timeout".to_owned(), time(*timeout));
        }
        // A file can say whole bursts alone; one that is not comes of the amount.
        None if matches!(span, used::Span::Period(_))
            && burst.fract() == 0.0
            && (1.0..=BURST_MAX).contains(&burst) =>
        {
            all.insert("burst".to_owned(), number(burst));
        }
        None => {}
    }
    if key == "requests" && smooth.is_none() {
        all.insert("smooth".to_owned(), false.into());
    }
    all.into()
}

fn said_amount(said: &SaidLimit) -> Option<Amount> {
    let rates: [&Said<crate::unit::Rate>; 3] = [&said.requests, &said.tokens, &said.usd];
    rates.into_iter().find_map(|said| said.get().map(|rate| rate.0))
}

fn price(price: &used::Price) -> Value {
    let used::Price { model, input, output } = price;
    let entry = json!({"input": number(*input), "output": number(*output)});
    let mut one = Map::new();
    one.insert(model.as_str().replace("${", "$${"), entry);
    one.into()
}

fn log(log: &used::Log) -> Value {
    let used::Log { level, redact } = log;
    let level = match level {
        used::Level::Error => "error",
        used::Level::Warn => "warn",
        used::Level::Info => "info",
        used::Level::Debug => "debug",
        used::Level::Trace => "trace",
    };
    json!({
        "level": level,
        "bodies": false,
        "redact": redact.iter().map(|pattern| text(pattern.as_str())).collect::<Vec<_>>(),
    })
}

fn glob(glob: &Glob) -> Value {
    text(glob.as_str())
}

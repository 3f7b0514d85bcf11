//! Tries of a recovering path: copies of live requests, and made-up ones where those are lacking.
//!
//! Copies cost money and carry a client's words, so what may be copied is decided by the client, the route and the
//! body (`tidegate_wire::mirror`), and a copy goes only to an upstream of the request's own route. Nothing of it
//! reaches a client or a client's numbers.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use tidegate_health::baseline::size_of;
use tidegate_health::breaker::Verdict;
use tidegate_health::evidence::Detail;
use tidegate_health::models;
use tidegate_health::registry::{MadeUp, Shadow};
use tidegate_router::outcome::Class;
use tidegate_wire::answer::Dialect;
use tidegate_wire::mirror::{self, MirrorRules};
use tidegate_wire::models::parse_models;
use tokio::time::{Instant, timeout};

use super::now;
use crate::gateway::Gateway;
use crate::request::attempt::once::once;
use crate::request::attempt::{Answered, Body, Failed, verdict};
use crate::request::read::{Control, Parsed, Target};
use crate::request::relay::{Events, Step};
use crate::request::route::Call;
use crate::upstream::Path;
use crate::upstream::keys::Offer;

/// How often it is looked whether a made-up request is due.
const LOOK: Duration = Duration::from_millis(100);
/// This much of an answer proves it; the rest is not paid for.
const CONTENT: u32 = 8;
/// Longer between two pieces of an answer is no recovery.
const GAP: Duration = Duration::from_secs(10);
/// A model that thinks first needs this many tokens to say anything.
const REASONING_TOKENS: u32 = 512;
/// No try takes longer.
const LONGEST: Duration = Duration::from_secs(120);
/// A limit without a time to wait is waited for this long.
const LIMITED: Duration = Duration::from_secs(5);

/// Sends a copy of `call` to a recovering path of its route, if one wants it now; returns at once.
pub fn mirror(gateway: &Arc<Gateway>, call: &Call, model: usize) {
    let Some(route) = gateway.routes.get(call.route) else { return };
    let Target::Upstream { dialect, .. } = call.parsed.target else { return };
    if call.parsed.private || !route.config.shadow || call.parsed.body.len() > mirror::MAX_BODY {
        return;
    }
    let Some(shadow) = gateway.health.shadow(call.route, model, now()) else { return };
    let Some(path) = gateway.paths.get(shadow.path).cloned() else { return };
    let name = call.parsed.model.as_deref().unwrap_or_default();
    let body = match mirror::mirror(dialect, &call.parsed.body, rules(&path, name)) {
        Ok(body) => body,
        Err(why) => {
            tracing::debug!(path = %path.name, reason = why.word(), "a request is not copied");
            return path.metrics.shadow("skipped");
        }
    };
    let price = gateway.limits.price(name);
    let tokens = tidegate_wire::tokens::estimate(body.len()) as f64;
    let output = f64::from(rules(&path, name).max_tokens);
    let cost = price.map_or(0.0, |price| tokens * price.input + output * price.output);
    let usd_per_day = path.upstream.config.health.shadow_budget.usd_per_day;
    if !path.upstream.shadows.take(cost, usd_per_day, crate::clock::since_1970()) {
        tracing::debug!(path = %path.name, "a request is not copied: today's money for copies is spent");
        return path.metrics.shadow("skipped");
    }
    let mut copy = call.clone();
    copy.parsed.body = body;
    copy.deadline = Instant::now() + LONGEST;
    copy.deadline_is_clients = false;
    copy.made_up = true;
    // Nobody asked for it: it is no part of the client's trace.
    copy.trace = None;
    crate::trace::strip(&mut copy.parsed.headers);
    gateway.health.mirrored(path.index, model, now());
    tokio::spawn(prove(copy, Arc::clone(&path), path, shadow));
}

fn rules(path: &Path, model: &str) -> MirrorRules {
    let health = &path.upstream.config.health;
    let reasoning = health.reasoning_models.iter().any(|glob| glob.matches(model));
    let max_tokens = if reasoning { REASONING_TOKENS } else { health.recovery.shadow_max_tokens };
    MirrorRules { max_tokens, reasoning }
}

/// Sends one over `way` (the path itself or its connections aside) and tells health what it showed.
async fn prove(call: Call, way: Arc<Path>, path: Arc<Path>, shadow: Shadow) {
    let (kind, size) = (usize::from(call.parsed.stream), size_of(call.parsed.body.len()));
    let in_time = shadow.in_time(kind, size, now());
    let (verdict, _) = attempt(&call, &way, in_time).await;
    path.metrics.shadow(match &verdict {
        Verdict::Pass => "pass",
        Verdict::Slow => "slow",
        Verdict::Fail(_) => "fail",
        Verdict::Limited(_) | Verdict::Unclear | Verdict::Void => "skipped",
    });
    tracing::debug!(path = %path.name, verdict = ?verdict, "a recovering path was tried");
    shadow.judge(&verdict, now());
}

/// What an attempt shows, and what it failed by.
async fn attempt(call: &Call, path: &Arc<Path>, in_time: Duration) -> (Verdict, Option<(Class, Detail)>) {
    let model = call.parsed.model.as_deref().unwrap_or_default();
    let started = Instant::now();
    let key = match path.upstream.keys.offer(model, &[], started) {
        Offer::Key(key) => key,
        Offer::Resting(wait) => return (Verdict::Limited(wait), None),
    };
    let result = once(call, path, key, path.upstream.config.timeouts.first_byte).await;
    let took = started.elapsed();
    match result {
        Ok(answered) => match shows(call, answered).await {
            Ok(()) if took > in_time => (Verdict::Slow, None),
            Ok(()) => (Verdict::Pass, None),
            Err(verdict @ Verdict::Fail(_)) => (verdict, Some((Class::BadResponse, Detail::Plain))),
            Err(verdict) => (verdict, None),
        },
        Err(Failed { clients_fault: true, .. }) => (Verdict::Unclear, None),
        Err(Failed { failure, detail, about, .. }) => {
            path.upstream.keys.rest(key, model, failure.class, failure.retry_after, fastrand::f64(), started);
            match failure.class {
                Class::RateLimited | Class::Quota => {
                    (Verdict::Limited(failure.retry_after.unwrap_or(LIMITED)), None)
                }
                class if class.blames_upstream() => (Verdict::Fail(detail), Some((class, about))),
                _ => (Verdict::Unclear, None),
            }
        }
    }
}

/// Whether an answer would have done for a client.
async fn shows(call: &Call, answered: Answered) -> Result<(), Verdict> {
    if !answered.status.is_success() {
        return Err(Verdict::Unclear);
    }
    let Target::Upstream { dialect, .. } = call.parsed.target else { return Ok(()) };
    match answered.body {
        Body::Whole(bytes, _) if mirror::says_something(dialect, &bytes) => Ok(()),
        Body::Whole(..) => Err(Verdict::Fail("the answer says nothing".to_owned())),
        Body::Passage(..) => Ok(()),
        Body::Events(_, events, _place) => stream(*events).await,
    }
}

/// Reads until enough content has come, or the answer's own end.
async fn stream(mut events: Events) -> Result<(), Verdict> {
    // One with the first content was read before.
    let mut content = u32::from(!events.finished());
    let fail = |why: &str| Err(Verdict::Fail(why.to_owned()));
    while content < CONTENT && !events.finished() {
        let step = std::future::poll_fn(|cx| events.poll_step(cx));
        match timeout(GAP, step).await {
            Err(_) => return fail("the answer stopped in the middle"),
            Ok(Step::Event(_, peek)) => {
                if let Some(error) = &peek.error {
                    if verdict::of_error_object(error).clients_fault {
                        return Err(Verdict::Unclear);
                    }
                    return fail("an error in the middle of the answer");
                }
                content += u32::from(peek.content && !peek.terminal);
                events.note(&peek);
            }
            Ok(Step::Note(_)) => {}
            Ok(Step::Done(_)) => break,
            Ok(Step::End) => return fail("the answer ended before it was finished"),
            Ok(Step::Broken(why)) => return Err(Verdict::Fail(why)),
        }
    }
    if content == 0 { fail("the answer says nothing") } else { Ok(()) }
}

/// Sends made-up requests when they are due, for as long as the process lives.
pub async fn make_up(gateway: Arc<Gateway>) {
    for (index, upstream) in gateway.config.upstreams.iter().enumerate() {
        let named = gateway.config.routes.iter().flat_map(|route| &route.fallback);
        let named = named
            .filter(|fallback| fallback.upstream == index)
            .filter_map(|fallback| fallback.model.as_deref());
        for model in named.filter(|_| upstream.local) {
            gateway.health.expect(index, gateway.health.model(Some(model)), now());
        }
    }
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for due in gateway.health.made_up(now()) {
            tokio::spawn(send(Arc::clone(&gateway), due));
        }
    }
}

async fn send(gateway: Arc<Gateway>, due: MadeUp) {
    let (index, model) = match &due {
        MadeUp::Recovery(shadow) => (shadow.path, shadow.model),
        MadeUp::Canary { path, model } => (*path, *model),
    };
    let Some(path) = gateway.paths.get(index) else { return };
    let way = Arc::clone(path.aside.as_ref().unwrap_or(path));
    let name = if model == models::NONE {
        find_model(&gateway, &way).await
    } else {
        gateway.health.model_name(model).map(|n| n.to_string())
    };
    let Some(name) = name else { return };
    let call = made_up(&gateway, path, model, &name);
    match due {
        MadeUp::Recovery(shadow) => prove(call, way, Arc::clone(path), shadow).await,
        MadeUp::Canary { .. } => {
            let mut flight = gateway.health.begin(index, model, usize::from(call.parsed.stream), 0, now());
            flight.sent(now());
            match attempt(&call, &way, Duration::MAX).await {
                (Verdict::Pass | Verdict::Slow, _) => flight.first(now()),
                (Verdict::Fail(why), Some((class, about))) => {
                    tracing::warn!(path = %path.name, model = %name, cause = %why, "a made-up request fails");
                    flight.failed(class, about, now());
                }
                (Verdict::Fail(_) | Verdict::Limited(_) | Verdict::Unclear | Verdict::Void, _) => {}
            }
        }
    }
}

/// A model to ask for where no client has asked yet: one that the upstream lists and a route takes.
async fn find_model(gateway: &Gateway, path: &Arc<Path>) -> Option<String> {
    let call = Call {
        parsed: parsed(Target::Models, Method::GET, bytes::Bytes::new(), None, false),
        route: 0,
        deadline: Instant::now() + LIMITED,
        deadline_is_clients: false,
        alternatives: true,
        made_up: true,
        has_stale: false,
        trace: None,
    };
    let Offer::Key(key) = path.upstream.keys.offer("", &[], Instant::now()) else { return None };
    let answered = once(&call, path, key, LIMITED).await.ok()?;
    let Body::Whole(bytes, _) = answered.body else { return None };
    let upstream = &path.upstream.config.name;
    let takes = |id: &str| {
        let route = gateway.route_of(id).and_then(|route| gateway.routes.get(route));
        route.is_some_and(|route| {
            route
                .config
                .to
                .iter()
                .filter_map(|u| gateway.config.upstreams.get(*u))
                .any(|u| u.name == *upstream)
        })
    };
    parse_models(&bytes)?.into_iter().map(|model| model.id).find(|id| takes(id))
}

fn made_up(gateway: &Gateway, path: &Path, model: usize, name: &str) -> Call {
    let health = &path.upstream.config.health;
    let dialect = dialect_of(gateway.health.form(path.index, model));
    let rules = rules(path, name);
    let max_tokens = if rules.reasoning { REASONING_TOKENS } else { health.synthetic.max_tokens };
    // As a stream where clients are known to get streams, so that it is judged by how fast theirs begin; not every
    // small server streams.
    let streams = gateway.health.usual_first(path.index, model, 1, 0, now()).is_some();
    let stream = dialect != Dialect::Embeddings && streams;
    let body =
        mirror::synthetic(dialect, name, &health.synthetic.prompt, max_tokens, rules.reasoning, stream);
    let rest = match dialect {
        Dialect::Completions => "/completions",
        Dialect::Embeddings => "/embeddings",
        Dialect::Responses => "/responses",
        Dialect::Chat | Dialect::Other => "/chat/completions",
    };
    let target = Target::Upstream { rest: rest.to_owned(), dialect, model: None, shaped: true };
    Call {
        parsed: parsed(target, Method::POST, body, Some(name.to_owned()), stream),
        route: usize::MAX,
        deadline: Instant::now() + LONGEST,
        deadline_is_clients: false,
        alternatives: true,
        made_up: true,
        has_stale: false,
        trace: None,
    }
}

fn parsed(target: Target, method: Method, body: bytes::Bytes, model: Option<String>, stream: bool) -> Parsed {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static(if stream { "text/event-stream" } else { "application/json" }),
    );
    Parsed {
        client: None,
        target,
        method,
        headers,
        body,
        model,
        stream,
        choices: 1,
        pinned: false,
        client_repeats: false,
        timeout: None,
        no_fallback: true,
        private: true,
        asks_usage: false,
        usage_added: false,
        control: Control::default(),
        idempotency: None,
    }
}

/// Endpoints in the numbers that health keeps for us; `None`: one that nothing can be made up for.
pub const fn form_of(dialect: Dialect) -> Option<u32> {
    match dialect {
        Dialect::Chat => Some(0),
        Dialect::Completions => Some(1),
        Dialect::Embeddings => Some(2),
        Dialect::Responses => Some(3),
        Dialect::Other => None,
    }
}

const fn dialect_of(form: u32) -> Dialect {
    match form {
        1 => Dialect::Completions,
        2 => Dialect::Embeddings,
        3 => Dialect::Responses,
        _ => Dialect::Chat,
    }
}

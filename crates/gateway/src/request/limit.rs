//! Step 6: the limits that hold for this client, route, model and address, and what the request is expected to cost.
//!
//! Tokens and money are reserved before an upstream is asked and settled by what it says of them afterwards
//! (`bill`). The store is waited for at most `store.timeout`; what holds while it is away is each limit's
//! `on_store_loss`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use tidegate_store::limit::{Allowance, Ask, Denied, Headline, Why};
use tidegate_wire::answer::Dialect;
use tidegate_wire::usage_option;
use tokio::time::Instant;

use crate::bill::Bill;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::limits::{Estimate, Limits};
use crate::request::accept::Accepted;
use crate::request::read::{Parsed, Target};

/// Reservations outlive their request's deadline by this, so that its settlement still finds them.
const SPARE: Duration = Duration::from_secs(30);

/// What the tightest limits have left, as the answer tells it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    requests: Option<Headline>,
    tokens: Option<Headline>,
}

impl Standing {
    /// `x-ratelimit-*`, by OpenAI's names. An upstream's own speak of our account and are replaced.
    pub fn write(&self, headers: &mut HeaderMap) {
        const REQUESTS: [&str; 3] =
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
        const TOKENS: [&str; 3] =
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
        for (names, headline) in [(REQUESTS, self.requests), (TOKENS, self.tokens)] {
            let Some(headline) = headline else { continue };
            let values = [whole(headline.limit), whole(headline.remaining), written(headline.reset)];
            for (name, value) in names.into_iter().zip(values) {
                if let Ok(value) = HeaderValue::try_from(value) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

fn whole(amount: f64) -> String {
    format!("{:.0}", amount.max(0.0).floor())
}

/// A time as OpenAI writes it: `17ms`, `1s`, `6m0s`, `3h2m1s`.
fn written(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (seconds, rest) = (millis / 1000, millis % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let tail = match rest {
        0 => format!("{seconds}s"),
        rest => format!("{}s", format!("{seconds}.{rest:03}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => tail,
        (0, minutes) => format!("{minutes}m{tail}"),
        (hours, minutes) => format!("{hours}h{minutes}m{tail}"),
    }
}

/// Lets the request through or refuses it; what it may still wait for the store is given back. Waits its turn where a
/// limit is smooth.
pub async fn limit(
    accepted: &mut Accepted,
    parsed: &mut Parsed,
    route: Option<usize>,
    deadline: Instant,
) -> Result<Duration, GatewayError> {
    let gateway = Arc::clone(&accepted.gateway);
    let limits = &gateway.limits;
    let mut allowance = Allowance::new(limits.timeout());
    let remote = accepted.settle.as_ref().map(|settle| settle.remote());
    let applying = limits.applying(parsed.client, route, parsed.model.as_deref(), remote);
    let estimate = estimate(limits, parsed, applying.counts);
    let mut bill = Bill {
        client: parsed.client,
        route,
        model: may_be_shared(&gateway, parsed, route).then(|| parsed.model.clone()).flatten(),
        prompt: estimate.map(|estimate| estimate.prompt),
        waived: false,
        grant: None,
    };
    let mut wait = Duration::ZERO;
    if !applying.rules.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let ask = Ask {
            requests: 1.0,
            tokens: estimate.map_or(0.0, |estimate| estimate.tokens()),
            micro_usd: estimate.map_or(0.0, |estimate| estimate.micro_usd),
            lives: left + SPARE,
            wait_at_most: left,
        };
        match limits.limiter().admit(&applying.rules, ask, &mut allowance).await {
            Ok(grant) => {
                accepted.note(|settle| {
                    settle.standing = Standing { requests: grant.requests, tokens: grant.tokens };
                });
                wait = grant.wait;
                bill.grant = Some(grant);
            }
            Err(denied) => {
                let standing = Standing { requests: denied.requests, tokens: denied.tokens };
                accepted.note(|settle| settle.standing = standing);
                return Err(refusal(&denied));
            }
        }
    }
    accepted.note(|settle| settle.bill = Some(bill));
    if !wait.is_zero() {
        let turn = Instant::now() + wait;
        if turn > deadline {
            return Err(GatewayError::Deadline);
        }
        tokio::time::sleep_until(turn).await;
    }
    ask_for_usage(limits, parsed);
    Ok(allowance.left())
}

/// What the request is expected to cost. `None` where nobody wants to know, and where no model reads the body: a
/// file, a list, a deletion.
fn estimate(limits: &Limits, parsed: &Parsed, counts: bool) -> Option<Estimate> {
    let Target::Upstream { dialect, .. } = &parsed.target else { return None };
    let model = parsed.model.as_deref().filter(|_| limits.meters() && parsed.method == Method::POST)?;
    Some(if counts {
        limits.estimate(parsed.client, model, *dialect, parsed.choices, &parsed.body)
    } else {
        Limits::rough(&parsed.body)
    })
}

/// A run that takes over the bill has nowhere else to know the model from.
fn may_be_shared(gateway: &Gateway, parsed: &Parsed, route: Option<usize>) -> bool {
    let route = route.and_then(|index| gateway.config.routes.get(index));
    parsed.idempotency.is_some() || route.is_some_and(|route| route.cache.is_some())
}

/// Streams tell their usage only where they are asked to.
fn ask_for_usage(limits: &Limits, parsed: &mut Parsed) {
    let Target::Upstream { dialect: Dialect::Chat | Dialect::Completions, .. } = parsed.target else {
        return;
    };
    if limits.meters()
        && parsed.stream
        && !parsed.asks_usage
        && let Some(body) = usage_option::ask_for_usage(&parsed.body)
    {
        parsed.body = body;
        parsed.usage_added = true;
    }
}

fn refusal(denied: &Denied) -> GatewayError {
    match denied.why {
        Why::Rate => GatewayError::Limited(denied.meter, denied.retry_after),
        Why::Spent if denied.meter == "requests" => GatewayError::Limited(denied.meter, denied.retry_after),
        Why::Spent => GatewayError::Spent(denied.meter, denied.retry_after),
        Why::StoreLost => GatewayError::LimitUnknown(denied.meter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_writes_them() {
        let of = |millis| written(Duration::from_millis(millis));
        assert_eq!(of(17), "17ms");
        assert_eq!(of(1000), "1s");
        assert_eq!(of(1500), "1.5s");
        assert_eq!(of(360_000), "6m0s");
        assert_eq!(of(10_921_000), "3h2m1s");
    }
}

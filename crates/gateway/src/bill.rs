//! What a request cost: settled with the limits, counted for metrics, added to the day's usage.
//!
//! Held by what makes the answer: the request itself, or a run that several clients wait for. Whoever only joins or
//! gets a kept answer pays nothing. Costs nothing to make: where nobody is to know what answers cost, only the tokens
//! that upstreams report are counted.

use std::sync::Arc;

use tidegate_store::limit::Grant;
use tidegate_wire::answer::Usage;

use crate::gateway::Gateway;
use crate::metrics::Series;
use crate::request::settle::End;
use crate::request::trail::Trail;

/// To be paid once.
#[derive(Debug, Default)]
pub struct Bill {
    /// Index.
    pub client: Option<usize>,
    /// Index.
    pub route: Option<usize>,
    /// As the client named it, for a run: a request of its own knows it without.
    pub model: Option<String>,
    /// Tokens of the prompt, as counted here; `None` where nothing depends on them or no model reads the body.
    pub prompt: Option<u64>,
    /// Another request pays for the answer.
    pub waived: bool,
    /// What the limits let through.
    pub grant: Option<Grant>,
}

impl Bill {
    /// Settles by what the request met. Never waits: what the store must hear goes through bounded queues.
    pub fn pay(mut self, gateway: &Arc<Gateway>, trail: &Trail) {
        if self.waived {
            return;
        }
        let model = self.model.take();
        let series = gateway.metrics.series(self.route, self.client, self.route.and(model.as_deref()));
        self.pay_as(gateway, trail, model.as_deref(), &series);
    }

    /// The same where the model and its counters are at hand.
    pub fn pay_as(self, gateway: &Gateway, trail: &Trail, model: Option<&str>, series: &Series) {
        if self.waived {
            return;
        }
        let Some(usage) = self.usage(trail) else { return };
        let sent = trail.stand_in.as_deref().or(model).unwrap_or_default();
        let price = gateway.limits.price(sent);
        let micro_usd = price
            .map_or(0.0, |price| usage.prompt as f64 * price.input + usage.completion as f64 * price.output);
        series.used(usage, price.is_some());
        if gateway.limits.meters() {
            let client = gateway.metrics.client_name(self.client);
            gateway.usage.add(client, series.model, usage, micro_usd);
        }
        if let Some(model) = model {
            gateway.limits.learn(self.client, model, usage.completion);
        }
        if let Some(grant) = self.grant {
            grant.settle(usage.prompt.saturating_add(usage.completion) as f64, micro_usd);
        }
    }

    /// What is owed for; by the upstream's word, else by what was sent and what came.
    fn usage(&self, trail: &Trail) -> Option<Usage> {
        match (trail.usage, trail.end) {
            (Some(usage), _) => Some(usage),
            // Nothing came, so nothing is owed.
            (None, End::Refused { .. } | End::ClientError) => None,
            (None, _) if trail.first_content.is_none() => None,
            // A plain answer by its length. The client left or the stream broke: what was written by then.
            (None, _) => self.prompt.map(|prompt| Usage { prompt, completion: trail.emitted, cached: 0 }),
        }
    }
}

#[cfg(test)]
mod tests;

//! What a request cost: settled with the limits, counted for metrics, added to the day's usage.
//!
//! Held by what makes the answer: the request itself, or a run that several clients wait for. Whoever only joins or
//! gets a kept answer has none.

use std::sync::Arc;

use tidegate_store::limit::Grant;
use tidegate_wire::answer::Usage;

use crate::gateway::Gateway;
use crate::request::settle::End;
use crate::request::trail::Trail;

/// To be paid once.
#[derive(Debug, Default)]
pub struct Bill {
    /// Index.
    pub client: Option<usize>,
    /// Index.
    pub route: Option<usize>,
    /// As the client named it.
    pub model: Option<String>,
    /// Tokens of the prompt, as counted here; `None` where nothing depended on them.
    pub prompt: Option<u64>,
    /// Another request pays for the answer.
    pub waived: bool,
    /// What the limits let through.
    pub grant: Option<Grant>,
}

impl Bill {
    /// Settles by what the request met. Never waits: what the store must hear goes through bounded queues.
    pub fn pay(self, gateway: &Arc<Gateway>, trail: &Trail) {
        if self.waived {
            return;
        }
        let usage = match (trail.usage, trail.end) {
            (Some(usage), _) => Some(usage),
            // Nothing came, so nothing is owed.
            (None, End::Refused { .. } | End::ClientError) => None,
            (None, _) if trail.first_content.is_none() => None,
            // The client left or the stream broke: what was read and what was written by then.
            (None, _) => self.prompt.map(|prompt| Usage { prompt, completion: trail.emitted, cached: 0 }),
        };
        let Some(usage) = usage else { return };
        let sent = trail.stand_in.as_deref().or(self.model.as_deref()).unwrap_or_default();
        let price = gateway.limits.price(sent);
        let micro_usd = price
            .map_or(0.0, |price| usage.prompt as f64 * price.input + usage.completion as f64 * price.output);
        let model = self.route.and(self.model.as_deref());
        let series = gateway.metrics.series(self.route, self.client, model);
        series.used(usage, price.is_some());
        gateway.usage.add(
            self.client,
            gateway.metrics.model_index(model.unwrap_or_default()),
            usage,
            micro_usd,
        );
        if let Some(output) = gateway.limits.expected(self.client, model) {
            output.learn(usage.completion);
        }
        if let Some(grant) = self.grant {
            grant.settle((usage.prompt + usage.completion) as f64, micro_usd);
        }
    }
}

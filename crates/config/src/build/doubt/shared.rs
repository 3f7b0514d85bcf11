//! Limits that never hold, and caches that keep nothing or too much in the open.

use super::Read;
use crate::fault::Collector;
use crate::read::Item;
use crate::said::limit::{Limit, Per};

impl Read<'_> {
    /// Warns of limits and caches.
    pub(super) fn shared(&self, faults: &mut Collector) {
        self.clients_of_nobody(faults);
        self.unpriced(faults);
        self.caches(faults);
    }

    fn clients_of_nobody(&self, faults: &mut Collector) {
        if self.file.clients.key().is_some() {
            return;
        }
        for item in self.file.limits.items() {
            if let Some((Per::Client, place)) = item.value.per.at() {
                faults.warn(
                    place,
                    "without `clients` nobody is one, and this limit holds for no request: write `clients`, or `per: ip`",
                );
            }
        }
    }

    fn unpriced(&self, faults: &mut Collector) {
        if self.priced {
            return;
        }
        let routes = self.file.routes.items().iter().flat_map(|route| route.value.limits.items());
        let clients = self.file.clients.items().iter().flat_map(|client| client.value.limits.items());
        let all = self.file.limits.items().iter().chain(routes).chain(clients);
        for (_, place) in all.filter_map(|Item { value, .. }: &Item<Limit>| value.usd.at()) {
            faults.warn(
                place,
                "`usd` needs `prices`: without them every request costs 0, and this limit never holds",
            );
        }
    }

    fn caches(&self, faults: &mut Collector) {
        let routes = self.file.routes.items().iter();
        let mut caches = routes.filter_map(|route| route.value.cache.key()).peekable();
        match self.file.store.get() {
            Some(store) => {
                if let (Some(_), Some((_, place)), None) = (caches.peek(), store.url.at(), store.secret.key())
                {
                    faults.warn(
                        place,
                        "hashes of prompts lie in Redis unkeyed, and who reads them can try what was asked: add `secret: {env: NAME}`, the same on every node",
                    );
                }
            }
            None if self.file.store.key().is_none() && self.node.cache_memory == 0 => {
                for place in caches {
                    faults.warn(
                        place,
                        "nothing is kept: there is no `store`, and `node.cache_memory` is 0; raise it, or remove `cache`",
                    );
                }
            }
            None => {}
        }
    }
}

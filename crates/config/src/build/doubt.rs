//! What can be used as it stands, but is hardly what was meant.
//!
//! Owns the warnings that compare sections with each other or with how APIs are usually reached. Runs on whatever
//! could be read, also of a file with faults, so that nobody goes round twice; where a fault elsewhere may be the
//! cause, it keeps silent. Nothing here stops a file: each of these setups is right for someone.

use std::net::IpAddr;

use super::check::Names;

mod shared;

use crate::fault::{Collector, Place};
use crate::read::{Item, Said};
use crate::said::{File, upstream};
use crate::unit::Text;
use crate::used;

/// The file beside what came of it; entries of both lists stand at the file's indices.
pub(super) struct Read<'r> {
    pub(super) file: &'r File,
    pub(super) listen: &'r used::Listen,
    pub(super) dns: &'r used::Dns,
    pub(super) egress: &'r Names<'r>,
    pub(super) upstream_names: &'r Names<'r>,
    pub(super) upstreams: &'r [Option<used::Upstream>],
    pub(super) routes: &'r [Option<used::Route>],
    pub(super) node: &'r used::Node,
    pub(super) tracing: Option<&'r used::Tracing>,
    /// Whether the file has `prices`.
    pub(super) priced: bool,
}

impl Read<'_> {
    /// Warns of all of it.
    pub(super) fn doubt(&self, faults: &mut Collector) {
        let upstreams = self.file.upstreams.items().iter().zip(self.upstreams);
        for (index, (said, upstream)) in upstreams.enumerate() {
            if let Some(upstream) = upstream {
                self.address(&said.value, upstream, faults);
                self.times(index, &said.value, upstream, faults);
            }
        }
        self.attempts(faults);
        self.local_among_remote(faults);
        self.unused_upstreams(faults);
        self.unused_egress(faults);
        self.open_door(faults);
        self.collector(faults);
        self.shared(faults);
    }

    fn address(&self, said: &upstream::Upstream, upstream: &used::Upstream, faults: &mut Collector) {
        let Some((_, place)) = said.base_url.at() else { return };
        if upstream.base_url.path.is_empty() {
            faults.warn(
                place,
                "this address has no path, and most APIs live under /v1, as in https://api.openai.com/v1",
            );
        }
        if !upstream.base_url.tls && said.keys.key().is_some() && !self.is_near(&upstream.base_url.host) {
            faults.warn(
                place,
                "over http:// the keys of this upstream travel in clear, and its host is in no private network: write https://",
            );
        }
    }

    fn collector(&self, faults: &mut Collector) {
        let said = self.file.tracing.get().and_then(|said| said.otlp.at());
        if let (Some(tracing), Some((_, place))) = (self.tracing, said)
            && !tracing.url.tls
            && !tracing.headers.is_empty()
            && !self.is_near(&tracing.url.host)
        {
            faults.warn(
                place,
                "over http:// the headers for this collector travel in clear, and its host is in no private network: write https://",
            );
        }
    }

    /// Whether only machines of one's own network stand between here and the host, as far as its name tells.
    fn is_near(&self, host: &str) -> bool {
        if let Ok(address) = host.parse() {
            return is_private(address);
        }
        if let Some(addresses) = self.dns.hosts.get(host) {
            return addresses.iter().all(|&address| is_private(address));
        }
        // A name without a dot is one of a search domain, a container or a cluster; the others never leave a site.
        !host.contains('.')
            || [".localhost", ".local", ".internal", ".svc", ".lan", ".home.arpa"]
                .iter()
                .any(|ending| host.ends_with(ending))
    }

    fn times(
        &self,
        index: usize,
        said: &upstream::Upstream,
        upstream: &used::Upstream,
        faults: &mut Collector,
    ) {
        // The longest `total` of a route's upstreams counts for all of them, so a neighbour's can make room.
        let neighbours = self.routes.iter().flatten().filter(|route| route.to.contains(&index));
        let total = neighbours
            .flat_map(|route| &route.to)
            .filter_map(|&to| self.upstreams.get(to)?.as_ref())
            .chain([upstream])
            .map(|upstream| upstream.timeouts.total)
            .max()
            .unwrap_or_default();
        let first_byte = upstream.timeouts.first_byte;
        let said = said.timeouts.get();
        let place = said.and_then(|times| times.first_byte.at().map(at).or_else(|| times.total.at().map(at)));
        if let Some(place) = place
            && first_byte > total
        {
            let text = format!(
                "`first_byte` is {first_byte:?}, over `total`, which is {total:?}: a request that is not streamed ends before it"
            );
            faults.warn(place, text);
        }
    }

    fn attempts(&self, faults: &mut Collector) {
        for (said, route) in self.file.routes.items().iter().zip(self.routes) {
            let (Some(route), Some((_, to))) = (route, said.value.to.at()) else { continue };
            let ways = |&index: &usize| Some(self.upstreams.get(index)?.as_ref()?.egress.len());
            let paths: usize = route.to.iter().filter_map(ways).sum();
            let Some(text) = beyond_attempts(paths, route.retry.attempts) else { continue };
            let place = said.value.retry.get().and_then(|retry| retry.attempts.at()).map_or(to, at);
            faults.warn(place, text);
        }
    }

    fn local_among_remote(&self, faults: &mut Collector) {
        for (said, route) in self.file.routes.items().iter().zip(self.routes) {
            let (Some(route), items) = (route, said.value.to.items()) else { continue };
            let is_local = |&index: &usize| Some(self.upstreams.get(index)?.as_ref()?.local);
            let locals: Vec<bool> = route.to.iter().filter_map(is_local).collect();
            // Fewer where one of them has a fault, which comes first.
            if locals.len() != items.len() || locals.iter().all(|&local| local) {
                continue;
            }
            for (item, _) in items.iter().zip(locals).filter(|&(_, local)| local) {
                faults.warn(
                    item.place,
                    "a local upstream beside remote ones competes with them by latency: is it meant as a `fallback`?",
                );
            }
        }
    }

    fn unused_upstreams(&self, faults: &mut Collector) {
        let routes = self.file.routes.items();
        let mut used = vec![false; self.file.upstreams.items().len()];
        for route in routes {
            let fallback = route.value.fallback.items().iter().map(|item| &item.value.upstream);
            let fallback = fallback.filter_map(|upstream| upstream.get());
            let Some(to) = words(&route.value.to) else { return };
            for Text(name) in to.chain(fallback) {
                // Whoever misspelt a name is told the right one already.
                let Some(position) = self.upstream_names.position(name) else { return };
                if let Some(used) = used.get_mut(position) {
                    *used = true;
                }
            }
        }
        for (item, used) in self.file.upstreams.items().iter().zip(used) {
            if !used && !routes.is_empty() {
                let place = item.value.name.at().map_or(item.place, at);
                faults.warn(
                    place,
                    "no route goes to this upstream: name it in the `to` or a `fallback` of one, or remove it",
                );
            }
        }
    }

    fn unused_egress(&self, faults: &mut Collector) {
        let upstreams = self.file.upstreams.items();
        let mut used = vec![false; self.file.egress.items().len()];
        for upstream in upstreams {
            let said = &upstream.value.egress;
            if said.key().is_none() {
                continue;
            }
            let Some(names) = words(said) else { return };
            for Text(name) in names.filter(|Text(name)| name != "direct") {
                let Some(position) = self.egress.position(name) else { return };
                if let Some(used) = used.get_mut(position) {
                    *used = true;
                }
            }
        }
        for (item, used) in self.file.egress.items().iter().zip(used) {
            if !used && !upstreams.is_empty() {
                let place = item.value.name.at().map_or(item.place, at);
                faults.warn(
                    place,
                    "no upstream uses this egress: name it in the `egress` of one, or remove it",
                );
            }
        }
    }

    fn open_door(&self, faults: &mut Collector) {
        let has_keys = self.file.upstreams.items().iter().any(|item| item.value.keys.key().is_some());
        let address = self.listen.address;
        if self.file.clients.key().is_some() || !has_keys || address.ip().to_canonical().is_loopback() {
            return;
        }
        let place = match self.file.listen.get().map(|listen| &listen.address) {
            Some(said) if said.key().is_some() => match said.at() {
                Some((_, place)) => place,
                None => return,
            },
            _ => Place::START,
        };
        let text = format!(
            "anyone who reaches {address} may spend your keys: add `clients`, see `tidegate keygen`, or listen on 127.0.0.1"
        );
        faults.warn(place, text);
    }
}

/// What to say of a route with this many paths when some are out of reach of one request's attempts; `None` when
/// none is.
#[must_use]
pub fn beyond_attempts(paths: usize, attempts: u32) -> Option<String> {
    let left = paths.checked_sub(usize::try_from(attempts).ok()?).filter(|&left| left > 0)?;
    let plural = if attempts == 1 { "" } else { "s" };
    let last = if left == 1 { "the last".to_owned() } else { format!("the last {left}") };
    Some(format!(
        "{paths} paths and {attempts} attempt{plural}: {last} may never be reached; raise `retry.attempts`"
    ))
}

fn at<T>((_, place): (&T, Place)) -> Place {
    place
}

/// The words of a list; `None` when it is absent or said wrongly, so that nothing follows from it.
fn words(said: &Said<Vec<Item<Text>>>) -> Option<impl Iterator<Item = &Text>> {
    Some(said.get()?.iter().map(|item| &item.value))
}

/// Loopback, link-local, and what RFC 1918, RFC 4193 and RFC 6598 (overlay networks use it) set aside.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

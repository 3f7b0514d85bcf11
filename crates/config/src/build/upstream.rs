//! `upstreams:`.

use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use secrecy::{ExposeSecret, SecretString};

use super::check::{Names, count, number, refuse, repeated, time, unbuilt};
use super::health;
use super::listener::pem;
use crate::fault::Collector;
use crate::read::{Item, Said};
use crate::said::upstream::{self, Api, Capability, Http2};
use crate::secret::Around;
use crate::unit::{Flag, Text};
use crate::url;
use crate::used;

const MAX_CONNECTIONS_DEFAULT: usize = 100;

/// What an upstream takes from the rest of the file.
pub(super) struct Surroundings<'s> {
    pub(super) egress: &'s Names<'s>,
    pub(super) around: &'s Around<'s>,
    /// The file's own.
    pub(super) health: &'s used::Health,
    /// Whether the file has `prices`.
    pub(super) priced: bool,
}

/// As many as the file has, in its order; `None` for one that cannot be used.
pub(super) fn upstreams(
    said: &Said<Vec<Item<upstream::Upstream>>>,
    file: &Surroundings<'_>,
    faults: &mut Collector,
) -> Vec<Option<used::Upstream>> {
    let Some((items, place)) = said.at() else { return Vec::new() };
    if items.is_empty() {
        faults.fault(place, "no upstream: requests would have nowhere to go");
    }
    items.iter().map(|item| one(&item.value, file, faults)).collect()
}

fn one(said: &upstream::Upstream, file: &Surroundings<'_>, faults: &mut Collector) -> Option<used::Upstream> {
    refuse_unbuilt(said, faults);
    let base_url = said.base_url.at().and_then(|(Text(text), place)| match url::base(text) {
        Ok(url) => {
            if url.path.ends_with("/completions") || url.path.ends_with("/embeddings") {
                faults.warn(
                    place,
                    "this looks like one endpoint: `base_url` is what stands before /chat/completions",
                );
            }
            Some(url)
        }
        Err(wrong) => {
            faults.fault(place, format!("this address {wrong}"));
            None
        }
    });
    let keys = keys(&said.keys, file.around, faults);
    let egress = indices(&said.egress, file.egress, faults);
    let timeouts = timeouts(&said.timeouts, faults);
    let pool = pool(&said.pool, faults);
    let ca_pem = said
        .tls
        .get()
        .and_then(|tls| pem(&tls.ca, "CERTIFICATE-----", "certificate", file.around, faults))
        .and_then(|(_, text)| text);
    let max_in_flight = count(&said.max_in_flight, "max_in_flight", 1..=1_000_000, 1000, faults);
    let weight = number(&said.weight, "weight", 0.0..=1000.0, 1.0, faults);
    let probe = probe(&said.probe, faults);
    let window = count(&said.context_window, "context_window", 1..=1_000_000_000, 1, faults);
    let health = health::health(&said.health, file.health, file.priced, faults);
    Some(used::Upstream {
        name: said.name.get()?.0.clone(),
        base_url: base_url?,
        keys,
        egress,
        timeouts,
        pool,
        ca_pem,
        max_in_flight,
        weight,
        probe,
        local: said.local.get().is_some_and(|&Flag(local)| local),
        context_window: said.context_window.get().map(|_| window),
        capabilities: capabilities(&said.capabilities),
        health,
    })
}

fn keys(
    said: &Said<Vec<Item<crate::secret::Secret>>>,
    around: &Around<'_>,
    faults: &mut Collector,
) -> Vec<SecretString> {
    if let Some(([], place)) = said.at().map(|(keys, place)| (keys.as_slice(), place)) {
        faults.fault(place, "no key: write at least one, or remove `keys` if this upstream needs none");
    }
    let mut keys = Vec::new();
    for item in said.items() {
        let Some(key) = around.fetch(&item.value, item.place, faults) else { continue };
        if HeaderValue::from_str(key.expose_secret()).is_ok() && key.expose_secret().is_ascii() {
            keys.push(key);
        } else {
            around.absent(item.place, "this key holds characters no header can carry".to_owned(), faults);
        }
    }
    keys
}

/// Indices into the ways out, `direct` being 0.
fn indices(said: &Said<Vec<Item<Text>>>, names: &Names<'_>, faults: &mut Collector) -> Vec<usize> {
    let Some((items, place)) = said.at() else { return vec![0] };
    if items.is_empty() {
        faults.fault(place, "no way out: write at least one, as in [direct]");
    }
    let mut indices = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        repeated(items, index, faults);
        match (item.value.0.as_str(), names.position(&item.value.0)) {
            ("direct", _) => indices.push(0),
            (_, Some(position)) => indices.push(position + 1),
            (name, None) => faults.fault(item.place, names.unknown(name, &["direct"])),
        }
    }
    indices
}

fn timeouts(said: &Said<upstream::Timeouts>, faults: &mut Collector) -> used::Timeouts {
    let unsaid = upstream::Timeouts::default();
    let said = said.get().unwrap_or(&unsaid);
    used::Timeouts {
        connect: time(&said.connect, "connect", Duration::from_secs(5), faults),
        first_byte: time(&said.first_byte, "first_byte", Duration::from_secs(60), faults),
        idle: time(&said.idle, "idle", Duration::from_secs(30), faults),
        total: time(&said.total, "total", Duration::from_secs(120), faults),
        stream_total: time(&said.stream_total, "stream_total", Duration::from_secs(600), faults),
    }
}

fn pool(said: &Said<upstream::Pool>, faults: &mut Collector) -> used::Pool {
    let unsaid = upstream::Pool::default();
    let said = said.get().unwrap_or(&unsaid);
    let most = count(&said.max_connections, "max_connections", 1..=100_000, MAX_CONNECTIONS_DEFAULT, faults);
    // The default follows a pool that was made small; only what was said can be too large.
    let idle = count(&said.max_idle, "max_idle", 0..=100_000, most.min(20), faults);
    if let Some((_, place)) = said.max_idle.at()
        && idle > most
    {
        faults.fault(place, format!("`max_idle` is {idle}, over `max_connections`, which is {most}"));
    }
    used::Pool {
        max_idle: idle,
        max_connections: most,
        http2: match said.http2.get() {
            None | Some(Http2::Auto) => used::Http2::Auto,
            Some(Http2::Off) => used::Http2::Off,
            Some(Http2::Only) => used::Http2::Only,
        },
    }
}

/// `None` where probes are switched off.
fn probe(said: &Said<upstream::Probe>, faults: &mut Collector) -> Option<used::Probe> {
    let unsaid = upstream::Probe::default();
    let said = said.get().unwrap_or(&unsaid);
    let default = used::Probe::default();
    let interval = time(&said.interval, "interval", default.interval, faults);
    let timeout = time(&said.timeout, "timeout", default.timeout, faults);
    let path = match said.path.at() {
        None => default.path,
        Some((Text(path), _)) if path == "none" => return None,
        Some((Text(path), place)) => {
            if !path.starts_with('/') {
                faults.fault(place, "a probe's path begins with `/`; `none` switches probes off");
            } else if path.contains('#') || path.parse::<PathAndQuery>().is_err() {
                faults.fault(place, "no request can ask for this path: it has no spaces and no `#`");
            }
            path.clone()
        }
    };
    Some(used::Probe { interval, timeout, path })
}

fn capabilities(said: &Said<Vec<Item<Capability>>>) -> used::Capabilities {
    let Some(items) = said.get() else { return used::Capabilities::default() };
    let has = |what| items.iter().any(|item| item.value == what);
    used::Capabilities {
        tools: has(Capability::Tools),
        json_schema: has(Capability::JsonSchema),
        vision: has(Capability::Vision),
        prefill: has(Capability::Prefill),
    }
}

fn refuse_unbuilt(said: &upstream::Upstream, faults: &mut Collector) {
    if let (Some(&api), Some(place)) = (said.api.get(), said.api.key())
        && api != Api::OpenAi
    {
        refuse(place, &format!("api: {}", api.word()), faults);
    }
    if let Some(tls) = said.tls.get() {
        unbuilt(&tls.pins, "tls.pins", faults);
        for item in tls.pins.items() {
            let is_pin = item
                .value
                .0
                .strip_prefix("sha256/")
                .is_some_and(|hash| hash.len() == 44 && hash.ends_with('='));
            if !is_pin {
                faults.fault(item.place, "a pin is written sha256/ and 44 characters of base64");
            }
        }
    }
    unbuilt(&said.endpoints, "endpoints", faults);
}

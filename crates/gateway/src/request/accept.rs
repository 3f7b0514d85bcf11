//! Step 1: a request id, a start, a guard that settles the request whatever happens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use ipnet::IpNet;

use crate::answer::Answer;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::request::body;
use crate::request::relay::Owner;
use crate::request::settle::{End, Settle};
use crate::trace::Trace;

/// Longest request id taken over from a client.
const REQUEST_ID_MAX: usize = 128;

/// A request that has an id and will be settled.
pub struct Accepted {
    /// The node.
    pub gateway: Arc<Gateway>,
    /// What is known of it so far; goes over to a body that outlives the handler.
    pub settle: Option<Box<Settle>>,
    /// Method, URL, headers.
    pub head: Parts,
    /// Read by `read`; what was not wanted of it is thrown away with a refusal.
    pub body: Option<Incoming>,
    /// How the cache took part.
    pub cache: CacheResult,
    request_id: HeaderValue,
}

/// `x-tidegate-cache`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// A kept answer.
    Hit,
    /// None was kept; this one may be.
    Miss,
    /// The answer to another client's request, as it came.
    Coalesced,
    /// A kept answer past its time, because no upstream could be reached.
    Stale,
    /// The cache had no part in it.
    Bypass,
}

impl CacheResult {
    /// Each once.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::Coalesced, Self::Stale, Self::Bypass];

    /// As the header and the metric say it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
        }
    }
}

/// Begins a request.
pub fn accept(gateway: Arc<Gateway>, peer: SocketAddr, request: Request<Incoming>) -> Accepted {
    let (head, body) = request.into_parts();
    let request_id = head
        .headers
        .get("x-request-id")
        .filter(|id| {
            id.len() <= REQUEST_ID_MAX && id.as_bytes().iter().all(u8::is_ascii_graphic) && !id.is_empty()
        })
        .cloned()
        .unwrap_or_else(new_request_id);
    let remote =
        client_address(peer.ip().to_canonical(), &head.headers, &gateway.config.listen.trusted_proxies);
    let settle = Settle::begin(Arc::clone(&gateway), request_id.clone(), remote, &head);
    Accepted {
        gateway,
        settle: Some(Box::new(settle)),
        head,
        body: Some(body),
        cache: CacheResult::Bypass,
        request_id,
    }
}

impl Accepted {
    /// Notes something about the request.
    pub fn note(&mut self, write: impl FnOnce(&mut Settle)) {
        if let Some(settle) = &mut self.settle {
            write(settle);
        }
    }

    /// The answer, with the headers every answer carries.
    pub fn answer(mut self, mut response: Response<Answer>) -> Response<Answer> {
        let status = response.status();
        if let Some(route) = self.settle.as_ref().and_then(|settle| settle.route) {
            self.gateway.metrics.cache(route, self.cache);
        }
        let headers = response.headers_mut();
        headers.insert("x-request-id", self.request_id.clone());
        headers.insert("x-tidegate-cache", HeaderValue::from_static(self.cache.word()));
        if self.gateway.drain.is_draining() && self.head.version < Version::HTTP_2 {
            // So that by the time the door closes no client sends another request into it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(settle) = &mut self.settle {
            settle.status = status.as_u16();
            settle.cache = self.cache.word();
            headers.insert("x-tidegate-attempts", HeaderValue::from(settle.trail.attempts));
            if let Some(path) = &settle.trail.path {
                headers.insert("x-tidegate-path", path.header.clone());
            }
            if settle.trail.no_retry {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            settle.standing.write(headers);
            if settle.trail.fell_back {
                headers.insert("x-tidegate-fallback", HeaderValue::from_static("true"));
            }
        }
        match response.body_mut() {
            // Settled when the body ends or is dropped.
            Answer::Relay(relay) => relay.owner = self.owner(),
            Answer::Passage(passage) => passage.owner = self.owner(),
            Answer::Shared(shared) => shared.belongs_to(self.owner()),
            Answer::Whole(_) => {
                self.note(|settle| {
                    if settle.trail.end == End::Running {
                        settle.trail.end = End::of_status(status);
                    }
                });
            }
        }
        response
    }

    /// Where its attempts belong; `None`: it is not traced.
    pub fn trace(&self) -> Option<Arc<Trace>> {
        self.settle.as_ref()?.trace.clone()
    }

    /// Somebody else's request pays for the answer: this one is counted, and costs nothing more.
    pub fn waive(&mut self) {
        self.note(|settle| {
            if let Some(bill) = &mut settle.bill {
                bill.waived = true;
            }
        });
    }

    fn owner(&mut self) -> Owner {
        self.settle.take().map_or(Owner::None, Owner::Client)
    }

    /// An answer of our own.
    pub fn refuse(mut self, error: &GatewayError) -> Response<Answer> {
        if let Some(body) = self.body.take() {
            body::discard(body);
        }
        self.note(|settle| {
            settle.trail.end = End::of(error);
            settle.trail.path = None;
        });
        self.answer(error.response().map(Answer::Whole))
    }
}

fn new_request_id() -> HeaderValue {
    HeaderValue::try_from(format!("{:032x}", fastrand::u128(..))).unwrap_or(HeaderValue::from_static("0"))
}

/// The rightmost address that is not a trusted proxy's: everything left of it is hearsay.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    if trusted.is_empty() || !is_trusted(&peer) {
        return peer;
    }
    let mut client = peer;
    let lists: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
    for hop in lists.iter().rev().flat_map(|list| list.rsplit(',')) {
        let Some(ip) = hop_address(hop.trim()) else { break };
        client = ip;
        if !is_trusted(&ip) {
            break;
        }
    }
    client
}

/// As proxies write it: with a port or without, IPv6 in brackets or not, IPv4 also as `::ffff:1.2.3.4`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let ip = bare.parse().ok().or_else(|| hop.parse().ok().map(|with_port: SocketAddr| with_port.ip()))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_are_believed_only_from_trusted_proxies() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "1.1.1.1, 203.0.113.7".parse().unwrap());
        headers.append("x-forwarded-for", "10.0.0.2".parse().unwrap());
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(client_address(ip("10.0.0.1"), &headers, &trusted), ip("203.0.113.7"));
        assert_eq!(client_address(ip("198.51.100.1"), &headers, &trusted), ip("198.51.100.1"));
        assert_eq!(client_address(ip("10.0.0.1"), &HeaderMap::new(), &trusted), ip("10.0.0.1"));
    }

    #[test]
    fn one_host_is_one_address_however_a_proxy_writes_it() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let of = |list: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-forwarded-for"),
                HeaderValue::from_str(list).unwrap(),
            )]);
            client_address("10.0.0.1".parse().unwrap(), &headers, &trusted).to_string()
        };
        for v4 in ["1.2.3.4", "::ffff:1.2.3.4", "1.2.3.4:5678", "[::ffff:1.2.3.4]:443", "[::ffff:1.2.3.4]"] {
            assert_eq!(of(v4), "1.2.3.4", "{v4}");
            assert_eq!(of(&format!("{v4}, ::ffff:10.0.0.9")), "1.2.3.4", "behind a proxy that is trusted");
        }
        for v6 in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:443"] {
            assert_eq!(of(v6), "2001:db8::1", "{v6}");
        }
        for odd in ["unknown", "_hidden", "1.2.3.4:port", "[1.2.3.4", ""] {
            assert_eq!(of(odd), "10.0.0.1", "{odd}");
        }
    }
}

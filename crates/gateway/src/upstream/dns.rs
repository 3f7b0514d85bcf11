//! Names to addresses: the operator's table first, then the system's resolver.
//!
//! Owns the last good answer of each name it was asked for (names come from the configuration, so the table
//! is small and bounded by it). When the resolver fails or hangs, the last good answer is used for an hour: a name
//! server's outage is not an upstream's. Not here: which address of several is tried (`socket`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an answer is used without asking again. The system's resolver does not tell its own lifetime.
const FRESH: Duration = Duration::from_secs(30);
/// How long an answer outlives a resolver that fails (the idea of RFC 8767).
const STALE: Duration = Duration::from_secs(3600);

/// With a last good answer in hand the resolver gets no longer than this: it usually fails by hanging.
const ASK: Duration = Duration::from_secs(1);
/// How long others use the last good answer while one asks, or after it asked in vain.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Shared by all connectors of a node.
#[derive(Debug, Default)]
pub struct Resolver {
    hosts: HashMap<String, Vec<IpAddr>>,
    /// Guards only the table, never held while asking.
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Vec<IpAddr>,
    at: Instant,
    ask_after: Instant,
}

impl Resolver {
    /// `hosts` maps lower-case names to the addresses to use without asking anybody.
    pub fn new(hosts: HashMap<String, Vec<IpAddr>>) -> Self {
        Self { hosts, known: Arc::default() }
    }

    /// Another table, and what was learnt so far.
    #[must_use]
    pub fn with_hosts(&self, hosts: HashMap<String, Vec<IpAddr>>) -> Self {
        Self { hosts, known: Arc::clone(&self.known) }
    }

    /// All addresses of `host`, at least one. Cancel-safe. The error is the resolver's own text.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let with_port = |list: &[IpAddr]| list.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if let Some(list) = self.hosts.get(host) {
            return Ok(with_port(list));
        }
        let now = Instant::now();
        let stale = match self.look_up(host, now) {
            Some(Held::Usable(addresses)) => return Ok(with_port(&addresses)),
            Some(Held::Stale(addresses)) => Some(addresses),
            None => None,
        };
        let asking = tokio::net::lookup_host((host, port));
        let asked = match &stale {
            None => asking.await,
            Some(_) => tokio::time::timeout(ASK, asking)
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())),
        };
        let failure = match asked.map(|found| found.map(|a| a.ip()).collect::<Vec<_>>()) {
            Ok(addresses) if !addresses.is_empty() => {
                let list = with_port(&addresses);
                let known = Known { addresses, at: Instant::now(), ask_after: Instant::now() + FRESH };
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), known);
                return Ok(list);
            }
            Ok(_) => format!("`{host}` has no address"),
            Err(error) => format!("`{host}`: {error}"),
        };
        stale.map(|addresses| with_port(&addresses)).ok_or(failure)
    }

    /// The last good answer. One caller at a time is told that it is stale, and asks; the others use it meanwhile.
    fn look_up(&self, host: &str, now: Instant) -> Option<Held> {
        let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = table.get_mut(host).filter(|k| now.duration_since(k.at) < STALE)?;
        if now < known.ask_after {
            return Some(Held::Usable(known.addresses.clone()));
        }
        known.ask_after = now + ASK_AGAIN;
        Some(Held::Stale(known.addresses.clone()))
    }
}

enum Held {
    Usable(Vec<IpAddr>),
    Stale(Vec<IpAddr>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_table_entry_and_an_address_ask_nobody() {
        let ip: IpAddr = "203.0.113.9".parse().unwrap();
        let resolver = Resolver::new(HashMap::from([("api.invalid".to_owned(), vec![ip])]));
        assert_eq!(resolver.resolve("api.invalid", 443).await, Ok(vec![SocketAddr::new(ip, 443)]));
        assert_eq!(resolver.resolve("::1", 80).await, Ok(vec![SocketAddr::new("::1".parse().unwrap(), 80)]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_outlives_the_resolver_for_an_hour() {
        let ip: IpAddr = "203.0.113.9".parse().unwrap();
        let resolver = Resolver::default();
        let known = Known { addresses: vec![ip], at: Instant::now(), ask_after: Instant::now() + FRESH };
        resolver.known.lock().unwrap().insert("gone.invalid".to_owned(), known);
        tokio::time::advance(FRESH * 2).await;
        assert_eq!(resolver.resolve("gone.invalid", 443).await, Ok(vec![SocketAddr::new(ip, 443)]));
        tokio::time::advance(STALE).await;
        assert!(resolver.resolve("gone.invalid", 443).await.is_err());
    }
}

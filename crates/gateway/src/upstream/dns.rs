//! Names to addresses: the operator's table first, then the system's resolver.
//!
//! Owns the last good answer of each name it was asked for (names come from the configuration, so the table
//! is small and bounded by it). When the resolver fails, the last good answer is used for an hour: a name
//! server's outage is not an upstream's. Not here: which address of several is tried (`socket`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an answer is used without asking again. The system's resolver does not tell its own lifetime.
const FRESH: Duration = Duration::from_secs(30);
/// How long an answer outlives a resolver that fails (the idea of RFC 8767).
const STALE: Duration = Duration::from_secs(3600);

/// Shared by all connectors of a node.
#[derive(Debug, Default)]
pub struct Resolver {
    hosts: HashMap<String, Vec<IpAddr>>,
    /// Guards only the table, never held while asking.
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Vec<IpAddr>,
    at: Instant,
}

impl Resolver {
    /// `hosts` maps lower-case names to the addresses to use without asking anybody.
    pub fn new(hosts: HashMap<String, Vec<IpAddr>>) -> Self {
        Self { hosts, known: Mutex::default() }
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
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        let now = Instant::now();
        if let Some(known) = known.as_ref().filter(|k| now.duration_since(k.at) < FRESH) {
            return Ok(with_port(&known.addresses));
        }
        let asked = tokio::net::lookup_host((host, port)).await;
        let failure = match asked.map(|found| found.map(|a| a.ip()).collect::<Vec<_>>()) {
            Ok(addresses) if !addresses.is_empty() => {
                let list = with_port(&addresses);
                let known = Known { addresses, at: Instant::now() };
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), known);
                return Ok(list);
            }
            Ok(_) => format!("`{host}` has no address"),
            Err(error) => format!("`{host}`: {error}"),
        };
        match known.filter(|k| now.duration_since(k.at) < STALE) {
            Some(known) => Ok(with_port(&known.addresses)),
            None => Err(failure),
        }
    }
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
        let known = Known { addresses: vec![ip], at: Instant::now() };
        resolver.known.lock().unwrap().insert("gone.invalid".to_owned(), known);
        tokio::time::advance(FRESH * 2).await;
        assert_eq!(resolver.resolve("gone.invalid", 443).await, Ok(vec![SocketAddr::new(ip, 443)]));
        tokio::time::advance(STALE).await;
        assert!(resolver.resolve("gone.invalid", 443).await.is_err());
    }
}

//! What of a configuration is still the same in the next one, and so keeps what is known of it.
//!
//! An upstream is the same while its name, its URL and the authority behind its certificate are, and it still has one of
//! its keys (a service behind other credentials may answer otherwise); an egress while it leads through the same proxy
//! with the same login; a path while both are and the file's own table of hosts says the same of them. Timeouts, weights,
//! rules of health and bounds may change: what is known goes on under the new ones.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use tidegate_config::used::{Config, Egress, Upstream, Way};

use super::Gateway;
use crate::upstream::Path;
use crate::upstream::pool::Pool;

/// Its index in `old`.
pub fn upstream(old: &Config, said: &Upstream) -> Option<usize> {
    let at = old.upstreams.iter().position(|other| other.name == said.name)?;
    let other = old.upstreams.get(at)?;
    let keys = said.keys.is_empty() && other.keys.is_empty()
        || said.keys.iter().any(|key| other.keys.iter().any(|other| is_same(key, other)));
    (keys && other.base_url == said.base_url && other.ca_pem == said.ca_pem && other.local == said.local)
        .then_some(at)
}

/// Its index in `old`.
pub fn egress(old: &Config, new: &Config, said: &Egress) -> Option<usize> {
    let at = old.egress.iter().position(|other| other.name == said.name)?;
    let same = match (&old.egress.get(at)?.way, &said.way) {
        (Way::Direct, Way::Direct) => true,
        (Way::Connect(one), Way::Connect(other)) | (Way::Socks5h(one), Way::Socks5h(other)) => {
            let login = match (&one.login, &other.login) {
                (None, None) => true,
                (Some((name, secret)), Some((other_name, other))) => {
                    name == other_name && is_same(secret, other)
                }
                _ => false,
            };
            login && one.host == other.host && one.port == other.port && is_same_host(old, new, &one.host)
        }
        _ => false,
    };
    same.then_some(at)
}

/// The index in `old` of the path of `said` over `way`.
pub fn path(old: &Gateway, new: &Config, said: &Upstream, way: &Egress) -> Option<usize> {
    upstream(&old.config, said)?;
    egress(&old.config, new, way)?;
    if !is_same_host(&old.config, new, &said.base_url.host) {
        return None;
    }
    let name = format!("{}@{}", said.name, way.name);
    old.paths.iter().position(|path| path.name == name)
}

/// The connections of a path that has stayed, unless other bounds or another protocol are asked for: users' and those
/// aside.
pub fn pools(before: &Path, said: &Upstream) -> Option<(Arc<Pool>, Arc<Pool>)> {
    let aside = Arc::clone(&before.aside.as_ref()?.pool);
    (before.upstream.config.pool == said.pool).then(|| (Arc::clone(&before.pool), aside))
}

fn is_same_host(old: &Config, new: &Config, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    old.dns.hosts.get(&host) == new.dns.hosts.get(&host)
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

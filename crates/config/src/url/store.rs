//! `store.url`: one Redis, its sentinels, or a cluster.

use super::host_port;
use crate::is_label;
use crate::used::{Kind, StoreUrl};

/// A node asks one after another, and a list this long finds whoever is alive.
const ADDRESSES_MAX: usize = 32;
const DATABASE_MAX: i64 = 1_000_000;
const USERNAME_MAX: usize = 128;

/// Takes a store's address apart.
///
/// # Errors
/// What is wrong with it, without its text.
pub(crate) fn store(text: &str) -> Result<StoreUrl, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("has no scheme: write it out, as in redis://HOST".to_owned());
    };
    let (username, rest) = match rest.rsplit_once('@') {
        Some((username, rest)) => (Some(user(username)?), rest),
        None => (None, rest),
    };
    let (tls, kind) = match scheme {
        "redis" => (false, Kind::Single),
        "rediss" => (true, Kind::Single),
        "redis+sentinel" => (false, Kind::Sentinel),
        "rediss+sentinel" => (true, Kind::Sentinel),
        "redis+cluster" => (false, Kind::Cluster),
        "rediss+cluster" => (true, Kind::Cluster),
        _ => {
            return Err(
                "has a scheme we do not speak: redis://, redis+sentinel:// or redis+cluster:// is meant, \
                        with TLS rediss://, rediss+sentinel:// or rediss+cluster://"
                    .to_owned(),
            );
        }
    };
    if rest.contains(['?', '#']) {
        return Err("holds a `?` or a `#`: it ends with the path".to_owned());
    }
    let (hosts, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let addresses = addresses(hosts, kind)?;
    let (master, database) = path_of(path.trim_matches('/'), kind)?;
    Ok(StoreUrl { kind, tls, addresses, username, database, master })
}

fn user(text: &str) -> Result<String, String> {
    if text.contains(':') {
        return Err("holds a password: keep it out of this file and write `password: {env: NAME}`".to_owned());
    }
    let usable = (1..=USERNAME_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"%/?#@[],".contains(&b));
    if !usable {
        return Err("has a user name we cannot use: ASCII letters, digits, dots and hyphens".to_owned());
    }
    Ok(text.to_owned())
}

fn addresses(hosts: &str, kind: Kind) -> Result<Vec<(String, u16)>, String> {
    if hosts.is_empty() {
        return Err("has no host: write it after ://".to_owned());
    }
    if kind == Kind::Single && hosts.contains(',') {
        return Err("has several hosts, and redis:// is one: redis+sentinel:// or redis+cluster:// is meant"
            .to_owned());
    }
    let default_port = if kind == Kind::Sentinel { 26_379 } else { 6379 };
    let mut addresses = Vec::new();
    for text in hosts.split(',') {
        let (host, port) = host_port(text)?;
        let address = (host.to_ascii_lowercase(), port.unwrap_or(default_port));
        if addresses.contains(&address) {
            return Err("names a host twice".to_owned());
        }
        if addresses.len() == ADDRESSES_MAX {
            return Err(format!("names more than {ADDRESSES_MAX} hosts: a few find all others"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// The master and the database.
fn path_of(path: &str, kind: Kind) -> Result<(Option<String>, i64), String> {
    let (master, database) = match kind {
        Kind::Single => (None, path),
        Kind::Cluster if matches!(path, "" | "0") => (None, ""),
        Kind::Cluster => return Err("ends after its hosts: a cluster has database 0 alone".to_owned()),
        Kind::Sentinel => {
            let (master, database) = path.split_once('/').unwrap_or((path, ""));
            if master.is_empty() {
                return Err("names no master: write what the sentinels call it after the hosts, as in redis+sentinel://h1:26379,h2:26379/mymaster/0".to_owned());
            }
            if !is_label(master) {
                return Err(
                    "has a master's name we cannot use: 1 to 64 letters, digits, `.`, `_` and `-` are meant"
                        .to_owned(),
                );
            }
            (Some(master.to_owned()), database)
        }
    };
    let digits = database.bytes().all(|b| b.is_ascii_digit());
    match (database, database.parse()) {
        ("", _) => Ok((master, 0)),
        (_, Ok(number)) if digits && number <= DATABASE_MAX => Ok((master, number)),
        _ => Err(format!("has a database that is no number from 0 to {DATABASE_MAX}")),
    }
}

#[cfg(test)]
mod tests;

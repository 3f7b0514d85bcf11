//! `node:`, `listen:` and `admin:`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::check::{count, is_label, size, wait};
use crate::environment::cause;
use crate::fault::{Collector, Place, quote};
use crate::read::Said;
use crate::said::{File, listener};
use crate::secret::Around;
use crate::unit::{Address, Text};
use crate::used;

const LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);
const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);
/// A body is held in memory until its last attempt; nobody sends prompts of a gigabyte.
const BODY_MAX: u64 = 1 << 30;
/// Beyond what a gateway's machine has to spare.
const CACHE_MEMORY_MAX: u64 = 64 << 30;

pub(super) fn node(said: &Said<listener::Node>, around: &Around<'_>, faults: &mut Collector) -> used::Node {
    let unsaid = listener::Node::default();
    let said = said.get().unwrap_or(&unsaid);
    for (text, place) in [said.name.at(), said.zone.at()].into_iter().flatten() {
        if !is_label(&text.0) {
            let text =
                format!("{} is no name: 1 to 64 letters, digits, `.`, `_` and `-` are meant", quote(&text.0));
            faults.fault(place, text);
        }
    }
    let name = match said.name.get() {
        Some(Text(name)) => name.clone(),
        None => around
            .environment
            .variable("HOSTNAME")
            .filter(|host| is_label(host))
            .unwrap_or_else(|| "tidegate-0".to_owned()),
    };
    used::Node {
        name,
        zone: said.zone.get().map(|Text(zone)| zone.clone()).unwrap_or_default(),
        cache_memory: size(&said.cache_memory, "cache_memory", 0..=CACHE_MEMORY_MAX, 128 << 20, faults),
    }
}

pub(super) fn listen(
    said: &Said<listener::Listen>,
    around: &Around<'_>,
    faults: &mut Collector,
) -> used::Listen {
    let unsaid = listener::Listen::default();
    let said = said.get().unwrap_or(&unsaid);
    let tls = said.tls.get().and_then(|tls| {
        let cert = pem(&tls.cert, "CERTIFICATE-----", "certificate", around, faults);
        let key = pem(&tls.key, "PRIVATE KEY-----", "private key", around, faults);
        Some(used::ListenTls { cert: cert?.0, key: key?.0 })
    });
    used::Listen {
        address: said.address.get().map_or(LISTEN_DEFAULT, |&Address(address)| address),
        tls,
        max_body: size(&said.max_body, "max_body", 1..=BODY_MAX, 16 << 20, faults),
        max_connections: count(&said.max_connections, "max_connections", 1..=1_000_000, 10_000, faults),
        drain_grace: wait(&said.drain_grace, "drain_grace", Duration::from_secs(5), faults),
        drain_timeout: wait(&said.drain_timeout, "drain_timeout", Duration::from_secs(60), faults),
        trusted_proxies: said.trusted_proxies.items().iter().map(|item| item.value.0).collect(),
    }
}

/// A PEM file's path and text. The text is `None` when it is absent and that is no fault for this purpose.
pub(super) fn pem(
    said: &Said<Text>,
    mark: &str,
    what: &str,
    around: &Around<'_>,
    faults: &mut Collector,
) -> Option<(PathBuf, Option<Vec<u8>>)> {
    let (Text(written), place) = said.at()?;
    if written.is_empty() {
        faults.fault(place, format!("the path is empty: write where the {what} is"));
        return None;
    }
    let path = around.folder.join(written);
    let text = match around.environment.read(&path) {
        Ok(bytes) if bytes.windows(mark.len()).any(|window| window == mark.as_bytes()) => Some(bytes),
        Ok(_) => {
            around.absent(place, format!("the file {} holds no {what} in PEM", quote(written)), faults);
            None
        }
        Err(error) => {
            around.absent(
                place,
                format!("the file {} cannot be read: {}", quote(written), cause(&error)),
                faults,
            );
            None
        }
    };
    Some((path, text))
}

pub(super) fn admin(
    said: &Said<listener::Admin>,
    around: &Around<'_>,
    faults: &mut Collector,
) -> used::Admin {
    let unsaid = listener::Admin::default();
    let said = said.get().unwrap_or(&unsaid);
    used::Admin {
        address: said.address.get().map_or(ADMIN_DEFAULT, |&Address(address)| address),
        token: around.fetch_said(&said.token, faults),
    }
}

/// Two listeners cannot share a port when one of them takes all addresses.
pub(super) fn apart(file: &File, listen: &used::Listen, admin: &used::Admin, faults: &mut Collector) {
    let (one, other) = (listen.address, admin.address);
    let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    if one.port() != 0 && one.port() == other.port() && overlap {
        let said = file.admin.get().and_then(|admin| admin.address.at()).map(|(_, place)| place);
        let said =
            said.or_else(|| file.listen.get().and_then(|listen| listen.address.at()).map(|(_, place)| place));
        let text =
            format!("`admin` would listen on {other} and `listen` on {one}: give them different ports");
        faults.fault(said.unwrap_or(Place::START), text);
    }
}

//! `dns:` and `egress:`.

use secrecy::{ExposeSecret, SecretString};

use super::check::{refuse, unbuilt};
use crate::fault::{Collector, Place, quote};
use crate::read::{Item, Said};
use crate::said::network;
use crate::secret::Around;
use crate::unit::Text;
use crate::url::{self, Url};
use crate::used::{self, Proxy, Way};

pub(super) fn dns(said: &Said<network::Dns>, faults: &mut Collector) -> used::Dns {
    let mut dns = used::Dns::default();
    let Some(said) = said.get() else { return dns };
    unbuilt(&said.servers, "dns.servers", faults);
    for item in said.servers.items() {
        if !["https://", "tls://", "udp://"].iter().any(|scheme| item.value.0.starts_with(scheme)) {
            faults.fault(item.place, "a resolver is written https://..., tls://... or udp://...");
        }
    }
    unbuilt(&said.reject, "dns.reject", faults);
    for (host, addresses) in said.hosts.get().map(|table| table.0.as_slice()).unwrap_or_default() {
        let name = host.value.to_ascii_lowercase();
        let is_host = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if name.is_empty() || !is_host {
            let text =
                format!("{} is no host name: write it alone, without scheme or port", quote(&host.value));
            faults.fault(host.place, text);
        }
        if addresses.value.is_empty() {
            faults.fault(addresses.place, "no address: write at least one, as in [104.18.6.192]");
        }
        let list = addresses.value.iter().map(|item| item.value.0).collect();
        if dns.hosts.insert(name, list).is_some() {
            faults
                .fault(host.place, format!("host {} is there already, in other letters", quote(&host.value)));
        }
    }
    dns
}

/// All ways out; index 0 is `direct`.
pub(super) fn egress(
    said: &Said<Vec<Item<network::Egress>>>,
    around: &Around<'_>,
    faults: &mut Collector,
) -> Option<Vec<used::Egress>> {
    let direct = used::Egress { name: "direct".to_owned(), way: Way::Direct };
    let mut all = vec![Some(direct)];
    for item in said.items() {
        all.push(one(&item.value, around, faults));
    }
    all.into_iter().collect()
}

fn one(said: &network::Egress, around: &Around<'_>, faults: &mut Collector) -> Option<used::Egress> {
    if let Some((Text(name), place)) = said.name.at()
        && name == "direct"
    {
        faults.fault(place, "`direct` always exists, and means no proxy: give this one another name");
    }
    // Fetched before anything can end this entry, so that an absent password is told in any case.
    let password = around.fetch_said(&said.password, faults);
    around.fetch_said(&said.token, faults);
    let login = login(said, password, faults);
    let (Text(text), place) = said.proxy.at()?;
    let url = match url::split(text) {
        Ok(url) => url,
        Err(wrong) => {
            faults.fault(place, format!("this address {wrong}"));
            return None;
        }
    };
    let scheme = url.scheme.to_owned();
    if scheme != "wss"
        && let Some(place) = said.token.key()
    {
        faults.fault(place, "`token` belongs to a wss:// tunnel: a proxy takes `username` and `password`");
    }
    let way = way(url, login, place, faults)?;
    Some(used::Egress { name: said.name.get()?.0.clone(), way })
}

fn way(
    url: Url<'_>,
    login: Option<(String, SecretString)>,
    place: Place,
    faults: &mut Collector,
) -> Option<Way> {
    let make = match url.scheme {
        "http" => Way::Connect,
        "socks5h" => Way::Socks5h,
        "wss" => {
            refuse(place, "wss://", faults);
            return None;
        }
        "socks5" => {
            let text = "socks5:// would resolve names here, where they may be poisoned: write socks5h://, and the proxy does";
            faults.fault(place, text);
            return None;
        }
        _ => {
            faults.fault(place, "this address has a scheme we do not speak: http:// or socks5h:// is meant");
            return None;
        }
    };
    if !url.path.is_empty() {
        faults.fault(place, "a proxy's address ends with its port: remove the path");
    }
    let Some(port) = url.port else {
        faults.fault(
            place,
            "this address has no port, and proxies have no usual one: write it, as in http://HOST:3128",
        );
        return None;
    };
    Some(make(Proxy { host: url.host, port, login }))
}

/// User name and password, both or neither. SOCKS5 sends each with a length of one byte; CONNECT joins them
/// with a colon.
fn login(
    said: &network::Egress,
    password: Option<SecretString>,
    faults: &mut Collector,
) -> Option<(String, SecretString)> {
    match (said.username.key(), said.password.key()) {
        (Some(place), None) => faults.fault(place, "`username` without `password`: a login needs both"),
        (None, Some(place)) => faults.fault(place, "`password` without `username`: a login needs both"),
        _ => {}
    }
    if let Some((Text(name), place)) = said.username.at()
        && (name.contains(':') || !(1..=255).contains(&name.len()) || name.chars().any(char::is_control))
    {
        faults.fault(place, "a user name has 1 to 255 bytes, and no colon");
    }
    let password = password?;
    if let Some((_, place)) = said.password.at()
        && password.expose_secret().len() > 255
    {
        faults.fault(place, "this password is longer than the 255 bytes a proxy can take");
    }
    Some((said.username.get()?.0.clone(), password))
}

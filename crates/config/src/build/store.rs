//! `store:`.

use std::time::Duration;

use super::check::{between, count32};
use super::listener::pem;
use crate::fault::Collector;
use crate::read::Said;
use crate::said::store;
use crate::secret::Around;
use crate::unit::Text;
use crate::{url, used};

const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Every request may wait this long when the store is frozen.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);
const PREFIX_MAX: usize = 64;

/// The store; `None` when it is unsaid or cannot be used.
pub(super) fn store(
    said: &Said<store::Store>,
    around: &Around<'_>,
    faults: &mut Collector,
) -> Option<used::Store> {
    let said = said.get()?;
    let password = around.fetch_said(&said.password, faults);
    let secret = around.fetch_said(&said.secret, faults);
    let timeout =
        between(&said.timeout, "timeout", TIMEOUT_MIN..=TIMEOUT_MAX, Duration::from_millis(25), faults);
    let expected_nodes = count32(&said.expected_nodes, "expected_nodes", 1..=1000, 1, faults);
    let prefix = said.prefix.at().map(|(Text(prefix), place)| {
        // Braces would say which part of a key decides its place in a cluster, and put all keys in one.
        let usable = (1..=PREFIX_MAX).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_graphic() && !b"{}".contains(&b));
        if !usable {
            let text = format!(
                "`prefix` is 1 to {PREFIX_MAX} letters, digits and signs in ASCII, without spaces, `{{` and `}}`"
            );
            faults.fault(place, text);
        }
        prefix.clone()
    });
    let ca_pem = said
        .tls
        .get()
        .and_then(|tls| pem(&tls.ca, "CERTIFICATE-----", "certificate", around, faults))
        .and_then(|(_, text)| text);
    let (Text(text), place) = said.url.at()?;
    let url = match url::store(text) {
        Ok(url) => url,
        Err(wrong) => {
            faults.fault(place, format!("this address {wrong}"));
            return None;
        }
    };
    if let Some(place) = said.tls.key().filter(|_| !url.tls) {
        let text = "`tls` is for a store over TLS: begin `url` with rediss://, rediss+sentinel:// or \
                    rediss+cluster://, or remove `tls`";
        faults.fault(place, text);
    }
    Some(used::Store {
        url,
        password,
        timeout,
        prefix: prefix.unwrap_or_else(|| "tidegate:".to_owned()),
        expected_nodes,
        secret,
        ca_pem,
    })
}

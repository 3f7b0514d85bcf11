//! `tracing:`.

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use secrecy::{ExposeSecret, SecretString};

use super::check::share;
use super::listener::pem;
use crate::fault::{Collector, quote};
use crate::read::{Said, Table};
use crate::said::tracing;
use crate::secret::{Around, Secret};
use crate::unit::Text;
use crate::{url, used};

const SAMPLE_DEFAULT: f64 = 0.01;
/// Where traces go below the base URL.
const TRACES: &str = "/v1/traces";
/// Said by the gateway itself.
const OWN: [HeaderName; 5] = [HOST, CONTENT_TYPE, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION];

/// Where traces go; `None` when it is unsaid or cannot be used.
pub(super) fn tracing(
    said: &Said<tracing::Tracing>,
    around: &Around<'_>,
    faults: &mut Collector,
) -> Option<used::Tracing> {
    let said = said.get()?;
    let sample = share(&said.sample, "sample", SAMPLE_DEFAULT, faults);
    let headers = headers(&said.headers, around, faults);
    let ca_pem = said
        .tls
        .get()
        .and_then(|tls| pem(&tls.ca, "CERTIFICATE-----", "certificate", around, faults))
        .and_then(|(_, text)| text);
    let (Text(text), place) = said.otlp.at()?;
    let url = match url::base(text) {
        Ok(url) => url,
        Err(wrong) => {
            faults.fault(place, format!("this address {wrong}"));
            return None;
        }
    };
    if url.path.ends_with(TRACES) {
        faults.fault(place, format!("`otlp` is what stands before {TRACES}: remove that from its end"));
    }
    if let Some(place) = said.tls.key().filter(|_| !url.tls) {
        faults.fault(place, "`tls` is for a collector over TLS: begin `otlp` with https://, or remove `tls`");
    }
    Some(used::Tracing { url, sample, headers, ca_pem })
}

fn headers(
    said: &Said<Table<Secret>>,
    around: &Around<'_>,
    faults: &mut Collector,
) -> Vec<(HeaderName, SecretString)> {
    let said = said.get().map(|table| table.0.as_slice()).unwrap_or_default();
    let mut all: Vec<(HeaderName, SecretString)> = Vec::with_capacity(said.len());
    for (name, secret) in said {
        let value = around.fetch(&secret.value, secret.place, faults);
        if value.as_ref().is_some_and(|value| !value.expose_secret().is_ascii()) {
            faults.fault(secret.place, "this secret cannot stand in a header: printable ASCII is meant");
        }
        match name.value.parse::<HeaderName>() {
            Err(_) => faults.fault(name.place, format!("{} is no name of a header", quote(&name.value))),
            Ok(known) if OWN.contains(&known) => {
                faults.fault(name.place, format!("`{known}` is set by the gateway itself: remove it"));
            }
            Ok(known) if all.iter().any(|(other, _)| *other == known) => {
                faults.fault(name.place, format!("`{known}` is there already"));
            }
            Ok(known) => all.extend(value.map(|value| (known, value))),
        }
    }
    all
}

//! Step 2: which client this is, before a byte of its body is read.
//!
//! Keys are looked up by their SHA-256, so neither the table nor the time of a look-up tells anything of a key.

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, header};

use crate::error::GatewayError;
use crate::request::accept::Accepted;

/// A request whose client is known.
#[derive(Debug, Clone, Copy)]
pub struct Authenticated {
    /// Index of the client; `None` where anyone may call.
    pub client: Option<usize>,
}

/// Finds the client.
pub fn authenticate(accepted: &mut Accepted) -> Result<Authenticated, GatewayError> {
    let Some(clients) = &accepted.gateway.clients else { return Ok(Authenticated { client: None }) };
    let key = presented(&accepted.head.headers)?;
    let found = digest(&SHA256, key).as_ref().try_into().ok().and_then(|hash: [u8; 32]| clients.get(&hash));
    let client = *found.ok_or(GatewayError::InvalidApiKey(
        "incorrect API key provided; ask the operator of this gateway for one",
    ))?;
    accepted.note(|settle| settle.client = Some(client));
    Ok(Authenticated { client: Some(client) })
}

fn presented(headers: &HeaderMap) -> Result<&[u8], GatewayError> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked("bearer ".len()).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(b"bearer ") || key.trim_ascii().is_empty() {
            return Err(GatewayError::InvalidApiKey("send your key as `Authorization: Bearer KEY`"));
        }
        return Ok(key.trim_ascii());
    }
    ["api-key", "x-api-key"].iter().find_map(|name| headers.get(*name)).map(|v| v.as_bytes()).ok_or(
        GatewayError::InvalidApiKey("you did not provide an API key; send it as `Authorization: Bearer KEY`"),
    )
}

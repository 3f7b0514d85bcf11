//! Which headers cross the gateway.
//!
//! Hop-by-hop ones (RFC 9110 7.6.1) end here in both directions, and so do credentials: the client's never
//! reaches an upstream, and nothing an upstream says about our account's session reaches a client.

use http::header::{self, HeaderMap, HeaderName};

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
];

/// Beside the hop-by-hop ones: credentials of the client, what belongs to this hop's framing and addressing,
/// and what only the gateway itself reads.
const NOT_UPSTREAM: [HeaderName; 19] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
    // SDKs send these unasked; beside another account's key they make it refused.
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    header::COOKIE,
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-tidegate-timeout-ms"),
    HeaderName::from_static("x-tidegate-shadow"),
    HeaderName::from_static("x-tidegate-fallback"),
    HeaderName::from_static("x-tidegate-continue"),
];

/// Beside the hop-by-hop ones: the upstream's view of our connection and account.
const NOT_CLIENT: [HeaderName; 14] = [
    header::SET_COOKIE,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    header::WWW_AUTHENTICATE,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    // An upstream may be a Tidegate itself; these speak of this node.
    HeaderName::from_static("x-tidegate-path"),
    HeaderName::from_static("x-tidegate-attempts"),
    HeaderName::from_static("x-tidegate-cache"),
    HeaderName::from_static("x-tidegate-fallback"),
    HeaderName::from_static("x-tidegate-stream"),
];

/// Strips a client's headers down to what may go to an upstream. `uncoded` answers are asked for where one is
/// added to or merged: an error event cannot stand inside a compressed stream. Else only codings are asked for
/// that this node can read, because errors and answers are judged by their bodies.
pub fn toward_upstream(headers: &mut HeaderMap, uncoded: bool) {
    drop_hop_by_hop(headers);
    for name in &NOT_UPSTREAM {
        headers.remove(name);
    }
    let wants = |headers: &HeaderMap, coding: &str| {
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).any(|list| {
            list.split(',').map(str::trim).any(|entry| {
                let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
                let refused = weight.trim().strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
                name.trim().eq_ignore_ascii_case(coding) && !refused
            })
        })
    };
    let gzip = !uncoded && wants(headers, "gzip");
    headers.remove(header::ACCEPT_ENCODING);
    if gzip {
        headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
}

/// Strips an upstream's headers down to what may go to a client. The length is set again from the body.
pub fn toward_client(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    for name in &NOT_CLIENT {
        headers.remove(name);
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn credentials_and_hop_by_hop_headers_end_here() {
        let mut headers = map(&[
            ("authorization", "Bearer secret"),
            ("connection", "close, x-per-hop"),
            ("x-per-hop", "1"),
            ("te", "trailers"),
            ("cookie", "a=b"),
            ("openai-organization", "org-of-the-client"),
            ("x-tidegate-timeout-ms", "5"),
            ("openai-beta", "assistants=v2"),
            ("accept-encoding", "br, gzip;q=0.8"),
        ]);
        toward_upstream(&mut headers, false);
        assert_eq!(headers, map(&[("openai-beta", "assistants=v2"), ("accept-encoding", "gzip")]));
        toward_upstream(&mut headers, true);
        assert_eq!(headers, map(&[("openai-beta", "assistants=v2")]));
        for unreadable in ["br, zstd", "gzip;q=0", "identity"] {
            let mut headers = map(&[("accept-encoding", unreadable)]);
            toward_upstream(&mut headers, false);
            assert!(headers.is_empty(), "{unreadable}");
        }
        let mut headers = map(&[("set-cookie", "a=b"), ("keep-alive", "timeout=5"), ("openai-version", "1")]);
        toward_client(&mut headers);
        assert_eq!(headers, map(&[("openai-version", "1")]));
    }
}

//! Addresses of upstreams, proxies and stores, taken apart and checked.
//!
//! Owns nothing. Messages never repeat the address: what people put into it by mistake is a password.

use crate::used::BaseUrl;

mod store;

pub(crate) use store::store;

/// The parts of `scheme://host:port/path`.
#[derive(Debug)]
pub(crate) struct Url<'t> {
    pub(crate) scheme: &'t str,
    /// Lower-case, without brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// Without a `/` at its end.
    pub(crate) path: &'t str,
}

/// Takes an address apart.
///
/// # Errors
/// What is wrong with it, without its text.
pub(crate) fn split(text: &str) -> Result<Url<'_>, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("has no scheme: write it out, as in https://HOST".to_owned());
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if authority.contains('@') {
        return Err(
            "holds a user name or a password: they have keys of their own, and secrets stay out of this file"
                .to_owned(),
        );
    }
    if path.contains(['?', '#']) {
        return Err("holds a `?` or a `#`: it ends with the path".to_owned());
    }
    if !path.is_empty() && path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err("has a path with characters that must be percent-encoded".to_owned());
    }
    let (host, port) = host_port(authority)?;
    Ok(Url { scheme, host: host.to_ascii_lowercase(), port, path: path.trim_end_matches('/') })
}

/// A host without its brackets, and its port.
fn host_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        Some((address, after)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("holds no IPv6 address between [ and ]".to_owned());
            }
            (address, after)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_host =
        host.contains(':') || host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if host.is_empty() || !is_host {
        return Err("has no host name we can use: ASCII letters, digits, dots and hyphens (IDN as xn--...)"
            .to_owned());
    }
    match (port, port.strip_prefix(':').map(str::parse::<u16>)) {
        ("", _) => Ok((host, None)),
        (_, Some(Ok(port))) if port > 0 => Ok((host, Some(port))),
        _ => Err("has a port that is no number from 1 to 65535".to_owned()),
    }
}

/// `base_url`.
///
/// # Errors
/// What is wrong with it, without its text.
pub(crate) fn base(text: &str) -> Result<BaseUrl, String> {
    let url = split(text)?;
    let (tls, default_port) = match url.scheme {
        "https" => (true, 443),
        "http" => (false, 80),
        _ => return Err("has a scheme we do not speak: https:// or http:// is meant".to_owned()),
    };
    let port = url.port.unwrap_or(default_port);
    let bracketed = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let authority = if port == default_port { bracketed } else { format!("{bracketed}:{port}") };
    Ok(BaseUrl { tls, host: url.host, port, path: url.path.to_owned(), authority })
}

#[cfg(test)]
mod tests {
    use super::base;

    #[test]
    fn parts_of_a_base_url() {
        for (text, tls, host, port, path, authority) in [
            ("https://API.openai.com/v1", true, "api.openai.com", 443, "/v1", "api.openai.com"),
            ("https://api.openai.com:443/v1/", true, "api.openai.com", 443, "/v1", "api.openai.com"),
            ("http://127.0.0.1:8000", false, "127.0.0.1", 8000, "", "127.0.0.1:8000"),
            ("http://[::1]:8000/", false, "::1", 8000, "", "[::1]:8000"),
            ("https://[2001:db8::1]/a/b", true, "2001:db8::1", 443, "/a/b", "[2001:db8::1]"),
        ] {
            let url = base(text).unwrap();
            assert_eq!(
                (url.tls, url.host.as_str(), url.port, url.path.as_str(), url.authority.as_str()),
                (tls, host, port, path, authority),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_base_url_is_told_without_being_repeated() {
        for (text, part) in [
            ("api.openai.com/v1", "no scheme"),
            ("ftp://x/v1", "scheme we do not speak"),
            ("https://user:hunter2@x/v1", "user name or a password"),
            ("https://x/v1?key=hunter2", "`?`"),
            ("https://x#hunter2", "`#`"),
            ("https://", "no host name"),
            ("https://x:0/", "port"),
            ("https://x:http/", "port"),
            ("https://[::1/v1", "no host name"),
            ("https://[nope]/v1", "IPv6"),
            ("https://[::1]x/v1", "port"),
            ("https://例え.jp/", "no host name"),
            ("https://x/a b", "percent-encoded"),
        ] {
            let wrong = base(text).unwrap_err();
            assert!(wrong.contains(part), "{text}: {wrong}");
            assert!(!wrong.contains("hunter2"), "{text}: {wrong}");
        }
    }
}

//! What a running node would change: its effective configuration, asked for at its admin address.
//!
//! Owns one request over one connection of its own, bounded in time and size. A node that cannot be asked is an error
//! that says why; nothing is tried twice. Not here: what changed (`tidegate_config::differences`).

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(5);
const BODY_MAX: usize = 8 * 1024 * 1024;
const ENDPOINT: &str = "/api/config";

/// A node's admin address.
#[derive(Debug, Clone)]
pub struct Target {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Reads `http://HOST:PORT`, with or without what stands before `/api/config`, or that itself.
///
/// # Errors
/// What is wrong with it, without its text.
pub fn target(text: &str) -> Result<Target, String> {
    const FORM: &str = "write the admin address, as in http://127.0.0.1:9090";
    let uri: Uri = text.parse().map_err(|_| FORM.to_owned())?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => {}
        Some(scheme) if *scheme == Scheme::HTTPS => {
            return Err(format!("nodes speak plain HTTP there: {FORM}"));
        }
        _ => return Err(FORM.to_owned()),
    }
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.ok_or_else(|| format!("it takes no user name and no password: {FORM}"))?;
    if uri.query().is_some() || authority.host().is_empty() {
        return Err(FORM.to_owned());
    }
    let path = uri.path().trim_end_matches('/');
    let before = path.strip_suffix(ENDPOINT).unwrap_or(path);
    Ok(Target {
        host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: authority.port_u16().unwrap_or(80),
        authority: authority.as_str().to_owned(),
        path: format!("{before}{ENDPOINT}"),
    })
}

/// The node's effective configuration. Blocks for at most 5 s.
///
/// # Errors
/// Why the node cannot be asked, or that what answers is no node.
pub fn ask(target: &Target) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { tokio::time::timeout(WITHIN, get(target)).await });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    answer.map_err(|_| anyhow::anyhow!("no answer within {} s", WITHIN.as_secs())).and_then(|answer| answer)
}

async fn get(target: &Target) -> anyhow::Result<Value> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let request = Request::get(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await.context("it speaks no HTTP/1.1")?.into_parts();
    anyhow::ensure!(
        head.status == StatusCode::OK,
        "it answers {}: is this the admin address of a node?",
        head.status.as_u16()
    );
    let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            anyhow::anyhow!("its answer is over 8 MiB: this is no node")
        } else {
            anyhow::anyhow!("its answer breaks off: {error}")
        }
    })?;
    let config: Option<Value> = serde_json::from_slice(&body.to_bytes()).ok();
    config
        .filter(|config| config.get("upstreams").is_some_and(Value::is_array))
        .context("its answer is no configuration: is this the admin address of a node?")
}

/// One line for each change, marked where a running node does not take it up.
///
/// # Errors
/// Those of `to`.
pub fn tell(running: &Value, file: &Value, to: &mut impl Write) -> io::Result<()> {
    let differences = tidegate_config::differences(running, file);
    if differences.is_empty() {
        return writeln!(to, "no change");
    }
    let restart = tidegate_config::restart_needed(running, file);
    for difference in differences {
        let mark = if restart.contains(&difference.path) { " (needs a restart)" } else { "" };
        writeln!(to, "{difference}{mark}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{target, tell};

    #[test]
    fn the_address_may_be_given_in_every_usual_way() {
        for (text, want) in [
            ("http://127.0.0.1:9090", "http://127.0.0.1:9090/api/config"),
            ("http://127.0.0.1:9090/", "http://127.0.0.1:9090/api/config"),
            ("http://gate:9090/api/config", "http://gate:9090/api/config"),
            ("http://gate/nodes/1/", "http://gate/nodes/1/api/config"),
        ] {
            assert_eq!(target(text).unwrap().to_string(), want);
        }
        let v6 = target("http://[::1]:9090").unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 9090));
        assert_eq!(target("http://gate").unwrap().port, 80);
        for text in
            ["gate:9090", "", "/x", "https://gate:9090", "http://", "http://gate:9090/?x=1", "ftp://gate"]
        {
            let wrong = target(text).unwrap_err();
            assert!(wrong.contains("http://127.0.0.1:9090"), "{text}: {wrong}");
        }
        assert!(!target("http://me:hunter2@gate:9090").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn what_needs_a_restart_is_marked() {
        let told = |from, to| {
            let mut out = Vec::new();
            tell(&from, &to, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let (old, new) =
            (json!({"log": {"level": "info"}, "a": 1}), json!({"log": {"level": "warn"}, "a": 2}));
        assert_eq!(told(old.clone(), new), "~ a: 1 -> 2\n~ log.level: info -> warn (needs a restart)\n");
        assert_eq!(told(old.clone(), old), "no change\n");
    }
}

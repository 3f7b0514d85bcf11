//! Handshakes with forward proxies: HTTP CONNECT (RFC 9110 9.3.6) and SOCKS5 with the name resolved by the
//! proxy (RFC 1928, RFC 1929).
//!
//! Own code, because what a proxy refuses must be told apart: wrong credentials are an operator's fault, a
//! refused target is the upstream's. Reads no byte beyond the handshake.

use base64::Engine as _;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No proxy needs a longer answer to CONNECT.
const HEAD_MAX: usize = 8 * 1024;

/// Why a proxy did not let us through.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The connection to the proxy broke.
    #[error("the connection to the proxy broke: {0}")]
    Io(#[from] std::io::Error),
    /// 407, or SOCKS authentication failed.
    #[error("the proxy refused its user name or password")]
    Login,
    /// Any other status but 2xx.
    #[error("the proxy answered {0} to CONNECT")]
    Status(u16),
    /// A SOCKS reply code but 0.
    #[error("the SOCKS proxy answered: {0}")]
    Reply(&'static str),
    /// Not what the protocol says.
    #[error("the proxy answered something that is not {0}")]
    Protocol(&'static str),
}

/// `CONNECT host:port`.
pub async fn http_connect(
    stream: &mut TcpStream,
    host: &str,
    port: u16,
    login: Option<&(String, SecretString)>,
) -> Result<(), ProxyError> {
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some((user, password)) = login {
        let pair = format!("{user}:{}", password.expose_secret());
        let coded = base64::engine::general_purpose::STANDARD.encode(pair);
        request.push_str(&format!("Proxy-Authorization: Basic {coded}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(stream).await?;
    let status = std::str::from_utf8(&head)
        .ok()
        .and_then(|text| text.strip_prefix("HTTP/1."))
        .and_then(|text| text.split_ascii_whitespace().nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or(ProxyError::Protocol("HTTP"))?;
    match status {
        200..=299 => Ok(()),
        407 => Err(ProxyError::Login),
        other => Err(ProxyError::Status(other)),
    }
}

/// Reads up to and with the empty line. One byte at a time near its end would be slow, so it peeks first
/// and takes only what belongs to the head: the rest is the tunnel's.
async fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>, ProxyError> {
    let mut head = Vec::with_capacity(256);
    let mut seen = [0u8; 1024];
    loop {
        let n = stream.peek(&mut seen).await?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let before = head.len();
        head.extend_from_slice(seen.get(..n).unwrap_or_default());
        let end = memchr::memmem::find(&head, b"\r\n\r\n").map(|at| at + 4);
        let taken = end.unwrap_or(head.len()) - before;
        head.truncate(before + taken);
        stream.read_exact(seen.get_mut(..taken).unwrap_or_default()).await?;
        if end.is_some() {
            return Ok(head);
        }
        if head.len() > HEAD_MAX {
            return Err(ProxyError::Protocol("an HTTP head of sane length"));
        }
    }
}

/// SOCKS5 CONNECT; a name goes to the proxy as a name.
pub async fn socks5h(
    stream: &mut TcpStream,
    host: &str,
    port: u16,
    login: Option<&(String, SecretString)>,
) -> Result<(), ProxyError> {
    const NOT_SOCKS: ProxyError = ProxyError::Protocol("SOCKS5");
    let greeting: &[u8] = if login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    stream.write_all(greeting).await?;
    let mut chosen = [0u8; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, login) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => {
            let password = password.expose_secret();
            let (Ok(user_len), Ok(password_len)) = (u8::try_from(user.len()), u8::try_from(password.len()))
            else {
                return Err(ProxyError::Login);
            };
            let mut message = vec![1, user_len];
            message.extend_from_slice(user.as_bytes());
            message.push(password_len);
            message.extend_from_slice(password.as_bytes());
            stream.write_all(&message).await?;
            let mut verdict = [0u8; 2];
            stream.read_exact(&mut verdict).await?;
            if verdict != [1, 0] {
                return Err(ProxyError::Login);
            }
        }
        ([5, 0xff], _) => return Err(ProxyError::Login),
        _ => return Err(NOT_SOCKS),
    }
    let mut request = vec![5, 1, 0];
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        Ok(std::net::IpAddr::V6(ip)) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            let length = u8::try_from(host.len()).map_err(|_| ProxyError::Reply("the name is too long"))?;
            request.extend_from_slice(&[3, length]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0u8; 4];
    stream.read_exact(&mut reply).await?;
    let [5, code, _, kind] = reply else { return Err(NOT_SOCKS) };
    if code != 0 {
        return Err(ProxyError::Reply(reply_text(code)));
    }
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(NOT_SOCKS),
    };
    let mut bound = [0u8; 257];
    stream.read_exact(bound.get_mut(..length + 2).unwrap_or_default()).await?;
    Ok(())
}

const fn reply_text(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "an unknown reply code",
    }
}

//! As much of RESP (the Redis protocol) as a test needs to ask a server something and to read what it says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A stopped server takes connections and says nothing.
const ANSWER: Duration = Duration::from_secs(2);

pub(super) async fn ask(
    to: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
    password: Option<&str>,
    words: &[&str],
) -> io::Result<String> {
    let exchange = async {
        let stream = TcpStream::connect(to).await?;
        match tls {
            None => over(stream, password, words).await,
            Some(config) => {
                let name = ServerName::from(to.ip());
                over(TlsConnector::from(config).connect(name, stream).await?, password, words).await
            }
        }
    };
    tokio::time::timeout(ANSWER, exchange).await?
}

async fn over<S>(stream: S, password: Option<&str>, words: &[&str]) -> io::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    if let Some(password) = password {
        stream.write_all(&request(&["AUTH", password])).await?;
        stream.flush().await?;
        answer(&mut stream).await?;
    }
    stream.write_all(&request(words)).await?;
    stream.flush().await?;
    answer(&mut stream).await
}

fn request(words: &[&str]) -> Vec<u8> {
    let mut wire = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        wire.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    wire
}

/// One answer; the parts of nested arrays come one after another.
async fn answer<S: AsyncBufReadExt + Unpin>(stream: &mut S) -> io::Result<String> {
    let mut parts = Vec::new();
    let mut due = 1;
    while due > 0 {
        due -= 1;
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at(line.len().min(1));
        let count = || rest.parse::<i64>().map_err(io::Error::other);
        match kind {
            "*" => due += usize::try_from(count()?).unwrap_or(0),
            "$" => match usize::try_from(count()?) {
                // Nil has length -1.
                Err(_) => parts.push(String::new()),
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    stream.read_exact(&mut bytes).await?;
                    bytes.truncate(length);
                    parts.push(String::from_utf8_lossy(&bytes).into_owned());
                }
            },
            _ => parts.push(rest.to_owned()),
        }
    }
    Ok(parts.join("\n"))
}

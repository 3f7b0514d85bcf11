//! `loadtest mock`

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tidegate_loadtest::content::TEXT_MAX;
use tidegate_loadtest::mock::{self, Fault, Script, Settings};

/// Serve as an OpenAI-compatible upstream
///
/// POST /v1/chat/completions, /v1/completions, /v1/embeddings, GET /v1/models; `"stream": true` gives
/// server-sent events. The content follows from the request's `seed`. GET /stats shows what runs.
///
/// A request may say how it wants to be answered, in headers (x-mock-chunks: 50) or, so that it gets through
/// any gateway, behind a ? in the model name (mock?chunks=50&delay-ms=10). Settings: chunks, delay-ms,
/// ttft-ms, size (bytes of content), status, retry-after (s), fault, fault-at (chunk), split (cut the stream's
/// bytes at random). These win over the flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  loadtest mock --listen 127.0.0.1:18000
  loadtest mock --chunks 200 --chunk-delay 5ms --ttft 300ms
  loadtest mock --fault cut --fault-rate 0.15
  curl -s 127.0.0.1:18000/v1/chat/completions -d '{\"model\":\"mock?chunks=3\",\"stream\":true}'
  curl -s 127.0.0.1:18000/stats")]
pub struct Mock {
    /// Where to listen; port 0: any free one, which is printed
    #[arg(long, default_value = "127.0.0.1:18000")]
    listen: SocketAddr,
    /// Threads, each with a listener of its own on the same port
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// Pieces in a stream
    #[arg(long, default_value_t = 50)]
    chunks: u32,
    /// Between two pieces; 0s: as fast as the client reads
    #[arg(long, default_value = "10ms", value_parser = humantime::parse_duration)]
    chunk_delay: Duration,
    /// Before the first event of a stream, or the head of a plain answer
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    ttft: Duration,
    /// Text in one piece of a stream
    #[arg(long, default_value_t = 20, value_parser = text_bytes)]
    chunk_bytes: usize,
    /// Text in a plain answer
    #[arg(long, default_value_t = 600, value_parser = text_bytes)]
    body_bytes: usize,
    /// Status of every answer; other than 200 it carries an error
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..600))]
    status: u16,
    /// What goes wrong
    #[arg(long)]
    fault: Option<Fault>,
    /// In which part of the answers
    #[arg(long, default_value_t = 1.0)]
    fault_rate: f64,
    /// After how many pieces; absent: half of them
    #[arg(long)]
    fault_at: Option<u32>,
    /// Decides which answers go wrong
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn text_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if bytes <= TEXT_MAX => Ok(bytes),
        _ => Err(format!("0 to {TEXT_MAX} bytes are meant")),
    }
}

impl Mock {
    /// Serves until killed; prints where once it accepts. Errors: the address cannot be bound.
    pub fn run(self) -> anyhow::Result<()> {
        let mock = mock::Mock::new(Settings {
            script: Script {
                chunks: self.chunks,
                chunk_delay: self.chunk_delay,
                ttft: self.ttft,
                chunk_bytes: self.chunk_bytes,
                body_bytes: self.body_bytes,
                status: self.status,
                fault: self.fault,
                fault_at: self.fault_at,
                ..Script::default()
            },
            fault_rate: self.fault_rate,
            seed: self.seed,
        });
        let bind =
            |address| mock::Mock::listen(address).with_context(|| format!("cannot listen on {address}"));
        let first = bind(self.listen)?;
        let address = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..self.threads {
            listeners.push(bind(address)?);
        }
        // What starts the mock waits for this line, so the sockets must be listening before it.
        writeln!(std::io::stdout(), "listening on {address}")?;
        let threads: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let mock = mock.clone();
                std::thread::spawn(move || super::runtime()?.block_on(mock.serve(listener)))
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the mock panicked"))??;
        }
        Ok(())
    }
}

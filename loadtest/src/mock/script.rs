//! How one answer goes: how long, how fast, and what goes wrong in it.
//!
//! Said three ways, the later over the earlier: the mock's flags, the model name (`mock?chunks=5&fault=cut`,
//! the one thing every gateway passes on), a header `x-mock-<setting>`. An unknown setting is an error, not
//! ignored: a test whose script is misread measures something else.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;

use crate::content::TEXT_MAX;

/// A stream longer than this is a typing error.
const CHUNKS_MAX: u32 = 10_000_000;
const HEADER_PREFIX: &str = "x-mock-";

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// The connection is reset (RST): a stream at `fault-at`, a plain answer before its head.
    Reset,
    /// The connection is closed (FIN) with the answer unfinished.
    Cut,
    /// Nothing more comes, and the connection stays open.
    Stall,
    /// A stream carries one event that is no JSON and goes on; a plain body is no JSON.
    Garbage,
    /// 200 with a page of HTML, as a captive portal answers.
    Html,
    /// A stream carries an error object and ends; a plain answer is status 500.
    Error,
    /// A stream ends without `data: [DONE]`; a plain answer is not changed.
    NoDone,
}

impl Fault {
    fn parse(name: &str) -> Option<Self> {
        <Self as clap::ValueEnum>::from_str(name, true).ok()
    }
}

/// One answer's script. `Default` is what the flags default to.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// Pieces in a stream.
    pub chunks: u32,
    /// Between two pieces; zero: as fast as the client reads.
    pub chunk_delay: Duration,
    /// Before the first event of a stream, before the head of a plain answer.
    pub ttft: Duration,
    /// Text in one piece of a stream, bytes.
    pub chunk_bytes: usize,
    /// Text in a plain answer, bytes.
    pub body_bytes: usize,
    /// 200, or the status of an error answer.
    pub status: u16,
    /// `retry-after` of an error answer, seconds.
    pub retry_after: Option<u32>,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// After how many pieces it goes wrong; `None`: half of them.
    pub fault_at: Option<u32>,
    /// The stream's bytes are cut anew at random, inside events and characters, each part written by itself.
    pub split: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            chunks: 50,
            chunk_delay: Duration::from_millis(10),
            ttft: Duration::ZERO,
            chunk_bytes: 20,
            body_bytes: 600,
            status: 200,
            retry_after: None,
            fault: None,
            fault_at: None,
            split: false,
        }
    }
}

/// A setting that cannot be understood; the text says which and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadScript(String);

impl fmt::Display for BadScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadScript {}

impl Script {
    /// Applies what stands behind the `?` of a model name. Errors: an unknown setting or a bad value.
    pub fn apply_model(&mut self, model: &str) -> Result<(), BadScript> {
        let Some((_, settings)) = model.split_once('?') else { return Ok(()) };
        for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
            let (name, value) = setting.split_once('=').unwrap_or((setting, "true"));
            self.apply(name, value)?;
        }
        Ok(())
    }

    /// Applies the `x-mock-*` headers. Errors: an unknown setting or a bad value.
    pub fn apply_headers(&mut self, headers: &HeaderMap) -> Result<(), BadScript> {
        for (name, value) in headers {
            if let Some(name) = name.as_str().strip_prefix(HEADER_PREFIX) {
                let value = value.to_str().map_err(|_| BadScript(format!("{name}: not ASCII")))?;
                self.apply(name, value)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<(), BadScript> {
        match name {
            "chunks" => self.chunks = number(name, value, u64::from(CHUNKS_MAX))? as u32,
            "delay-ms" => self.chunk_delay = millis(name, value)?,
            "ttft-ms" => self.ttft = millis(name, value)?,
            "size" => {
                self.body_bytes = number(name, value, TEXT_MAX as u64)? as usize;
                self.chunk_bytes = self.body_bytes;
            }
            "status" => {
                self.status = number(name, value, 599)? as u16;
                if self.status < 200 {
                    return Err(BadScript(format!("status={value}: 200 to 599 is meant")));
                }
            }
            "retry-after" => self.retry_after = Some(number(name, value, u64::from(u32::MAX))? as u32),
            "fault" if value == "none" => self.fault = None,
            "fault" => {
                let fault = Fault::parse(value).ok_or_else(|| {
                    BadScript(format!(
                        "fault={value}: reset, cut, stall, garbage, html, error, no-done or none is meant"
                    ))
                })?;
                self.fault = Some(fault);
            }
            "fault-at" => self.fault_at = Some(number(name, value, u64::from(CHUNKS_MAX))? as u32),
            "split" => {
                self.split = value.parse().map_err(|_| BadScript("split: true or false is meant".into()))?;
            }
            _ => return Err(BadScript(format!("{name}: no such setting of the mock"))),
        }
        Ok(())
    }

    /// After how many pieces the fault comes.
    pub fn breaks_at(&self) -> u32 {
        self.fault_at.unwrap_or(self.chunks / 2).min(self.chunks)
    }
}

fn number(name: &str, value: &str, most: u64) -> Result<u64, BadScript> {
    match value.parse() {
        Ok(number) if number <= most => Ok(number),
        _ => Err(BadScript(format!("{name}={value}: a whole number up to {most} is meant"))),
    }
}

fn millis(name: &str, value: &str) -> Result<Duration, BadScript> {
    number(name, value, 3_600_000).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_wins_over_the_model_name_over_the_flags() {
        let mut script = Script { chunks: 1, chunk_bytes: 5, status: 503, ..Script::default() };
        script.apply_model("mock?chunks=2&delay-ms=3&split").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-mock-chunks", "7".parse().unwrap());
        headers.insert("x-other", "7".parse().unwrap());
        script.apply_headers(&headers).unwrap();
        assert_eq!((script.chunks, script.chunk_bytes, script.status, script.split), (7, 5, 503, true));
        assert_eq!(script.chunk_delay, Duration::from_millis(3));
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        for model in ["m?chunk=2", "m?chunks=many", "m?status=20", "m?fault=cat", "m?size=99999999999"] {
            assert!(Script::default().apply_model(model).is_err(), "{model}");
        }
        assert_eq!(Script::default().apply_model("gpt-4o"), Ok(()));
    }

    #[test]
    fn a_fault_comes_halfway_unless_said_otherwise_and_never_past_the_end() {
        let script = Script { chunks: 10, ..Script::default() };
        assert_eq!(script.breaks_at(), 5);
        assert_eq!(Script { fault_at: Some(3), ..script.clone() }.breaks_at(), 3);
        assert_eq!(Script { fault_at: Some(30), ..script }.breaks_at(), 10);
    }
}

//! Simulated users: real requests to the gateway's own address, every second one streamed, and a record of what
//! each of them got. They know nothing of the upstreams but what the answers' headers say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{self, Answer};

/// How all that users say begins.
pub const WORDS: &str = "I am a simulated user.";
/// Requests a second.
pub const PER_SECOND: u32 = 20;
/// Who waits longer gives up.
const PATIENCE: Duration = Duration::from_secs(15);
/// Of an answer that is no good, this much is quoted.
const QUOTED: usize = 200;

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it was sent.
    pub sent: Instant,
    /// Until the first content.
    pub wait: Duration,
    /// The upstream that answered; empty: none.
    pub upstream: String,
    /// A fallback answered.
    pub fallback: bool,
    /// Why it is no good.
    pub fault: Option<String>,
}

/// How many answers came from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub answers: usize,
    /// By upstream.
    pub by: BTreeMap<String, usize>,
    /// With `x-tidegate-fallback`.
    pub fallback: usize,
}

impl Tally {
    /// As in `primary 52 %, secondary 48 %`.
    pub fn shares(&self) -> String {
        let share = |(name, count): (&String, &usize)| {
            format!("{name} {:.0} %", *count as f64 * 100.0 / self.answers.max(1) as f64)
        };
        self.by.iter().map(share).collect::<Vec<_>>().join(", ")
    }
}

/// All of them.
#[derive(Debug)]
pub struct Users {
    records: Arc<Mutex<Vec<Record>>>,
    running: TaskTracker,
    end: CancellationToken,
}

impl Users {
    /// They begin at once.
    pub fn start(address: SocketAddr) -> Self {
        let users =
            Self { records: Arc::default(), running: TaskTracker::new(), end: CancellationToken::new() };
        let (records, running, end) = (Arc::clone(&users.records), users.running.clone(), users.end.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 0_u64.. {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = end.cancelled() => break,
                }
                let records = Arc::clone(&records);
                running.spawn(async move {
                    let record = ask(address, number).await;
                    lock(&records).push(record);
                });
            }
        });
        users
    }

    /// No more requests; returns when those on their way have ended.
    pub async fn stop(&self) {
        self.end.cancel();
        self.running.close();
        self.running.wait().await;
    }

    /// Of requests sent since.
    pub fn since(&self, since: Instant) -> Tally {
        let mut tally = Tally::default();
        for record in lock(&self.records).iter().filter(|record| record.sent >= since) {
            tally.answers += 1;
            tally.fallback += usize::from(record.fallback);
            let name = if record.upstream.is_empty() { "none" } else { &record.upstream };
            *tally.by.entry(name.to_owned()).or_default() += 1;
        }
        tally
    }

    /// The longest of requests sent since.
    pub fn longest_wait(&self, since: Instant) -> Duration {
        lock(&self.records)
            .iter()
            .filter(|record| record.sent >= since)
            .map(|r| r.wait)
            .max()
            .unwrap_or_default()
    }

    /// What went wrong, in the order in which it ended.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.records).iter().filter_map(|record| record.fault.clone()).collect()
    }
}

fn lock(records: &Mutex<Vec<Record>>) -> MutexGuard<'_, Vec<Record>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(address: SocketAddr, number: u64) -> Record {
    let stream = number % 2 == 1;
    let body = json!({
        "model": "gpt-4o",
        "stream": stream,
        "messages": [{"role": "user", "content": format!("{WORDS} This is question {number}.")}],
    });
    let sent = Instant::now();
    let call = client::call(address, "/v1/chat/completions", Bytes::from(body.to_string()));
    let (answer, broke) = match timeout(PATIENCE, call).await {
        Ok(Ok(answer)) => (Some(answer), None),
        Ok(Err(error)) => (None, Some(format!("{error:#}"))),
        Err(_) => (None, Some(format!("no answer within {PATIENCE:?}"))),
    };
    let header = |name: &str| answer.as_ref()?.headers.get(name)?.to_str().ok().map(str::to_owned);
    let path = header("x-tidegate-path").unwrap_or_default();
    Record {
        sent,
        wait: answer.as_ref().map_or_else(|| sent.elapsed(), |answer| answer.wait),
        upstream: path.split('@').next().unwrap_or_default().to_owned(),
        fallback: header("x-tidegate-fallback").is_some(),
        fault: broke.or_else(|| fault(answer.as_ref()?, stream)),
    }
}

/// Why an answer is none that a user could work with.
fn fault(answer: &Answer, stream: bool) -> Option<String> {
    let text = String::from_utf8_lossy(&answer.body);
    let quoted: String = text.chars().take(QUOTED).collect();
    if !answer.status.is_success() {
        return Some(format!("status {}: {quoted}", answer.status));
    }
    if stream {
        let mut events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        if let Some(error) = events.clone().find(|event| event.starts_with("{\"error\"")) {
            return Some(format!("an error in the middle of a stream: {error}"));
        }
        let whole = events.next_back() == Some("[DONE]");
        return (!whole).then(|| "a stream that ended before it was finished".to_owned());
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = body.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap_or_default();
    said.is_empty().then(|| format!("an answer that says nothing: {quoted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &'static str, stream: bool) -> Option<String> {
        let answer = Answer {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
            wait: Duration::ZERO,
        };
        fault(&answer, stream)
    }

    #[test]
    fn only_whole_answers_are_good() {
        assert_eq!(judged(200, "data: {\"choices\":[]}\n\ndata: [DONE]\n\n", true), None);
        assert_eq!(judged(200, r#"{"choices":[{"message":{"content":"hi"}}]}"#, false), None);
        assert!(judged(200, "data: {\"choices\":[]}\n\n", true).unwrap().contains("before it was finished"));
        let broken = "data: {\"choices\":[]}\n\ndata: {\"error\":{\"code\":\"stream_interrupted\"}}\n\n";
        assert!(judged(200, broken, true).unwrap().contains("stream_interrupted"));
        assert!(judged(503, r#"{"error":{"code":"overloaded"}}"#, false).unwrap().contains("503"));
        assert!(judged(200, r#"{"choices":[]}"#, false).is_some());
    }
}

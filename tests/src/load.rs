//! Clients in number: chat requests on a fixed schedule, each with a marker of its own, and what became of each.
//!
//! The schedule does not wait for answers, so a slow node gets as much as a quick one. Owns the task that sends;
//! dropping it stops the load and forgets what was under way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::answer::{self, DONE};
use crate::client::Call;
use crate::node::Node;
use crate::soon;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A chat request of a user of its own, about to be sent.
#[derive(Debug, Clone)]
pub struct Ask {
    to: SocketAddr,
    streamed: bool,
    headers: Vec<(String, String)>,
}

impl Ask {
    /// A plain one.
    pub const fn plain(node: &Node) -> Self {
        Self { to: node.address, streamed: false, headers: Vec::new() }
    }

    /// A streamed one.
    pub const fn streamed(node: &Node) -> Self {
        Self { to: node.address, streamed: true, headers: Vec::new() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends it and reads the whole answer.
    pub async fn send(self) -> Answered {
        let user = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut body = json!({"model": "m",
            "messages": [{"role": "user", "content": format!("user-{user} wants to know")}]});
        if self.streamed {
            body["stream"] = Value::Bool(true);
        }
        let mut call = Call::new(self.to, "POST", "/v1/chat/completions")
            .header("content-type", "application/json")
            .body(body.to_string());
        for (name, value) in &self.headers {
            call = call.header(name, value);
        }
        let at = Instant::now();
        let mut answered = Answered {
            user,
            at,
            streamed: self.streamed,
            status: 0,
            path: String::new(),
            attempts: 0,
            fallback: false,
            retry_after: None,
            should_retry: String::new(),
            whole: false,
            text: String::new(),
            took: Duration::ZERO,
        };
        match call.try_send().await {
            Err(error) => answered.text = error,
            Ok(reply) => {
                answered.status = reply.status.as_u16();
                answered.path = reply.header("x-tidegate-path").to_owned();
                answered.attempts = reply.header("x-tidegate-attempts").parse().unwrap_or_default();
                answered.fallback = reply.header("x-tidegate-fallback") == "true";
                answered.retry_after = reply.header("retry-after").parse().ok();
                reply.header("x-should-retry").clone_into(&mut answered.should_retry);
                match reply.try_bytes().await {
                    Err(error) => answered.text = error,
                    Ok(bytes) => {
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        answered.whole = match (answered.status, self.streamed) {
                            (200, true) => text.ends_with(DONE) && !text.contains("\"error\""),
                            _ => serde_json::from_str::<Value>(&text).is_ok(),
                        };
                        answered.text = text;
                    }
                }
            }
        }
        answered.took = at.elapsed();
        answered
    }
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The number in its marker, `user-7`.
    pub user: u64,
    /// When it was sent.
    pub at: Instant,
    /// It asked for a stream.
    pub streamed: bool,
    /// Status; 0 without an answer.
    pub status: u16,
    /// The path that answered, empty when none did.
    pub path: String,
    /// Attempts it took.
    pub attempts: u32,
    /// A fallback answered.
    pub fallback: bool,
    /// `retry-after`, seconds.
    pub retry_after: Option<u64>,
    /// `x-should-retry`.
    pub should_retry: String,
    /// The body came to its end: JSON, or a stream with `[DONE]` and no error event.
    pub whole: bool,
    /// The body, or why there is none.
    pub text: String,
    /// From sending to the end of the answer.
    pub took: Duration,
}

impl Answered {
    /// A client is content with it.
    pub const fn ok(&self) -> bool {
        self.status == 200 && self.whole
    }

    /// What the model said.
    pub fn said(&self) -> String {
        if self.streamed {
            return answer::text_of(&self.text);
        }
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        body["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
    }

    /// `type` and `code` of an error answer.
    pub fn error(&self) -> (String, String) {
        let body: Value = serde_json::from_str(&self.text).unwrap_or_default();
        let word = |key: &str| body["error"][key].as_str().unwrap_or_default().to_owned();
        (word("type"), word("code"))
    }
}

/// The load.
#[derive(Debug)]
pub struct Load {
    answered: Arc<Mutex<Vec<Answered>>>,
    count: watch::Receiver<usize>,
    stop: oneshot::Sender<()>,
    driver: JoinSet<()>,
}

impl Load {
    /// So many requests a second, of which this share, 0 to 1, is streamed.
    pub fn start(node: &Node, rate: f64, streamed: f64) -> Self {
        Self::start_with(node, rate, streamed, &[])
    }

    /// The same with further headers on each.
    pub fn start_with(node: &Node, rate: f64, streamed: f64, headers: &[(&str, &str)]) -> Self {
        let mut plain = Ask::plain(node);
        for (name, value) in headers {
            plain = plain.header(name, value);
        }
        let answered = Arc::new(Mutex::new(Vec::new()));
        let (counter, count) = watch::channel(0);
        let (stop, mut stopped) = oneshot::channel();
        let all = Arc::clone(&answered);
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            let mut requests = JoinSet::new();
            let mut due = 0.0;
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    // Also when the load was dropped.
                    _ = &mut stopped => break,
                }
                due += streamed;
                let is_streamed = due >= 1.0;
                if is_streamed {
                    due -= 1.0;
                }
                let ask = Ask { streamed: is_streamed, ..plain.clone() };
                let (all, counter) = (Arc::clone(&all), counter.clone());
                requests.spawn(async move {
                    let answered = ask.send().await;
                    all.lock().unwrap().push(answered);
                    counter.send_modify(|c| *c += 1);
                });
                while let Some(done) = requests.try_join_next() {
                    done.unwrap();
                }
            }
            while let Some(done) = requests.join_next().await {
                done.unwrap();
            }
        });
        Self { answered, count, stop, driver }
    }

    /// Waits until this many more requests are answered.
    pub async fn more(&self, count: usize) {
        let mut answered = self.count.clone();
        let target = *answered.borrow() + count;
        soon("answers under load", answered.wait_for(|c| *c >= target)).await.unwrap();
    }

    /// What is known by now.
    pub fn so_far(&self) -> Report {
        let mut answered = self.answered.lock().unwrap().clone();
        answered.sort_by_key(|a| a.at);
        Report { answered }
    }

    /// Sends nothing more and waits for the answers that are due.
    pub async fn stop(mut self) -> Report {
        let _ = self.stop.send(());
        while let Some(done) = soon("the last answers", self.driver.join_next()).await {
            done.unwrap();
        }
        let mut answered = std::mem::take(&mut *self.answered.lock().unwrap());
        answered.sort_by_key(|a| a.at);
        Report { answered }
    }
}

/// What became of all requests, in the order in which they were sent.
#[derive(Debug, Clone)]
pub struct Report {
    /// Each of them.
    pub answered: Vec<Answered>,
}

impl Report {
    /// Those sent at or after `from`.
    pub fn since(&self, from: Instant) -> Self {
        Self { answered: self.answered.iter().filter(|a| a.at >= from).cloned().collect() }
    }

    /// Those sent before `to`.
    pub fn before(&self, to: Instant) -> Self {
        Self { answered: self.answered.iter().filter(|a| a.at < to).cloned().collect() }
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.answered.len()
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.answered.is_empty()
    }

    /// What clients were not content with, each with its reason.
    pub fn failed(&self) -> Vec<String> {
        let word = |a: &Answered| {
            let kind = if a.streamed { "streamed" } else { "plain" };
            let by = (&a.path, a.attempts);
            format!("user-{} ({kind}): {} by {by:?} after {:?}: {}", a.user, a.status, a.took, a.text)
        };
        self.answered.iter().filter(|a| !a.ok()).map(word).collect()
    }

    /// Fails unless every client is content; and there must have been clients.
    pub fn assert_all_ok(&self) {
        assert!(!self.is_empty(), "no request was sent");
        let failed = self.failed();
        assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), self.len(), failed.join("\n"));
    }

    /// The share, 0 to 1, that this path answered.
    pub fn share_of(&self, path: &str) -> f64 {
        let count = self.answered.iter().filter(|a| a.path == path).count();
        count as f64 / self.len().max(1) as f64
    }

    /// How many a fallback answered.
    pub fn fallbacks(&self) -> usize {
        self.answered.iter().filter(|a| a.fallback).count()
    }

    /// The longest that any took.
    pub fn longest(&self) -> Duration {
        self.answered.iter().map(|a| a.took).max().unwrap_or_default()
    }

    /// The time that half of those took for which `wanted` holds; zero when there is none.
    pub fn median(&self, wanted: impl Fn(&Answered) -> bool) -> Duration {
        let mut times: Vec<_> = self.answered.iter().filter(|a| wanted(a)).map(|a| a.took).collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// For each second since the first: how many each path answered; for the message of a failed test.
    pub fn by_second(&self) -> String {
        let mut seconds: BTreeMap<u64, BTreeMap<&str, usize>> = BTreeMap::new();
        let Some(first) = self.answered.first() else { return String::new() };
        for answered in &self.answered {
            let second = answered.at.duration_since(first.at).as_secs();
            let path = if answered.ok() { answered.path.as_str() } else { "failed" };
            *seconds.entry(second).or_default().entry(path).or_default() += 1;
        }
        seconds.iter().map(|(second, paths)| format!("{second} s: {paths:?}\n")).collect()
    }
}

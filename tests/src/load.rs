//! Clients in number: chat requests on a fixed schedule, each with a marker of its own, and what became of each.
//!
//! The schedule does not wait for answers, so a slow node gets as much as a quick one. Owns the task that sends;
//! dropping it stops the load and forgets what was under way.

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

mod report;

pub use report::Report;

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
            to: self.to,
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
    /// The node that was asked.
    pub to: SocketAddr,
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

    /// A limit of the node's refused it, and said when to come back.
    pub fn limited(&self) -> bool {
        self.status == 429 && self.retry_after.is_some_and(|seconds| seconds >= 1)
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
        Self::over([node], rate, streamed, headers)
    }

    /// The same over several nodes, each request to one of them at random.
    pub fn over<'a>(
        nodes: impl IntoIterator<Item = &'a Node>,
        rate: f64,
        streamed: f64,
        headers: &[(&str, &str)],
    ) -> Self {
        Self::at(nodes.into_iter().map(|node| node.address), rate, streamed, headers)
    }

    /// The same with addresses, as of a load balancer.
    pub fn at(
        addresses: impl IntoIterator<Item = SocketAddr>,
        rate: f64,
        streamed: f64,
        headers: &[(&str, &str)],
    ) -> Self {
        let nodes: Vec<_> = addresses.into_iter().collect();
        let mut plain = Ask { to: nodes[0], streamed: false, headers: Vec::new() };
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
                let to = nodes[fastrand::usize(..nodes.len())];
                let ask = Ask { to, streamed: is_streamed, ..plain.clone() };
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

    /// How many have been answered.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// What is known by now.
    pub fn so_far(&self) -> Report {
        let mut answered = self.answered.lock().unwrap().clone();
        answered.sort_by_key(|a| a.at);
        Report { answered }
    }

    /// What is known by now and was not taken before; it is forgotten here, so that a load can last.
    pub fn take(&self) -> Report {
        let mut answered = std::mem::take(&mut *self.answered.lock().unwrap());
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

//! An upstream that behaves and misbehaves by mode, switched while it runs, and that tells users' requests from
//! shadows, synthetic requests and probes.
//!
//! Built on `Upstream`: it answers as the mode says and keeps who asked what and when. Users' requests carry a
//! marker (`user-7`, see `load`) and no `max_tokens`; a shadow is a copy of one that may have 16 tokens at most.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::answer::{self, DONE};
use crate::port::Reserved;
use crate::upstream::{Act, Script, Seen, Upstream};
use crate::{PATIENCE, within};

/// What a synthetic request asks for.
pub const SYNTHETIC: &str = "Reply with: ok";

/// How it behaves. Probes are answered well in every mode in which a server that lists models is thinkable.
#[derive(Debug, Clone)]
pub enum Mode {
    /// As it should.
    Good,
    /// Answers everything, probes included, with this status and an error of this message.
    Status(u16, &'static str),
    /// A captive portal's page, status 200.
    Html,
    /// Status 200 and `application/json`, but no JSON.
    Garbage,
    /// Status 200, well-formed, and nothing in it.
    Empty,
    /// Resets the connection instead of an answer, probes included.
    Reset,
    /// Every second request gets 500, beginning with the first.
    Half500,
    /// This many percent of streams are reset after their first content.
    CutStreams(usize),
    /// Takes requests and never answers, probes included.
    Silent,
    /// Answers well, this long after it was asked.
    Slow(Duration),
    /// Answers well what may have 16 tokens at most, and 500 to all else: well enough to pass for healthy.
    OnlyTiny,
    /// Does this for everything but probes.
    Does(Script),
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client.
    User,
    /// The gateway, with a copy of a client's request.
    Shadow,
    /// The gateway, with a request of its own.
    Synthetic,
    /// The gateway, for the list of models.
    Probe,
}

impl Kind {
    fn of(seen: &Seen, body: &Value) -> Self {
        if seen.head.starts_with("GET ") {
            return Self::Probe;
        }
        let few = ["max_tokens", "max_completion_tokens", "max_output_tokens"]
            .iter()
            .any(|field| body[field].as_u64().is_some_and(|tokens| tokens <= 16));
        match () {
            () if body.to_string().contains(SYNTHETIC) => Self::Synthetic,
            () if few => Self::Shadow,
            () => Self::User,
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When its last byte had come.
    pub at: Instant,
    /// By whom.
    pub kind: Kind,
    /// Whether it is answered as it should be.
    pub well: bool,
    /// Request line, headers, body.
    pub seen: Seen,
}

struct State {
    mode: Mode,
    latency: Duration,
    /// Streams to users last so long, at random in between.
    lasting: Option<[Duration; 2]>,
    /// Delay of the next request of a user, once.
    outlier: Option<Duration>,
    probes_always_good: bool,
    /// Requests but probes since the mode was set.
    turn: usize,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    asked: watch::Sender<Vec<Asked>>,
}

/// The upstream.
pub struct Simulated {
    shared: Arc<Shared>,
    port: Reserved,
    tls: Option<Arc<rustls::ServerConfig>>,
    upstream: Mutex<Option<Upstream>>,
}

impl Simulated {
    /// Starts it, in good health and without latency; its answers are `from NAME`.
    pub async fn start(name: &str) -> Self {
        Self::bind(name, None).await
    }

    /// The same behind TLS.
    pub async fn tls(name: &str, config: Arc<rustls::ServerConfig>) -> Self {
        Self::bind(name, Some(config)).await
    }

    async fn bind(name: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let state = State {
            mode: Mode::Good,
            latency: Duration::ZERO,
            lasting: None,
            outlier: None,
            probes_always_good: false,
            turn: 0,
        };
        let (state, asked) = (Mutex::new(state), watch::Sender::new(Vec::new()));
        let shared = Arc::new(Shared { name: name.to_owned(), state, asked });
        let this = Self { shared, port: Reserved::new(), tls, upstream: Mutex::new(None) };
        this.revive().await;
        this
    }

    /// Behaves so from now on.
    pub fn set(&self, mode: Mode) {
        let mut state = self.shared.state.lock().unwrap();
        (state.mode, state.turn) = (mode, 0);
    }

    /// Good answers come this long after they were asked for.
    pub fn latency(&self, latency: Duration) {
        self.shared.state.lock().unwrap().latency = latency;
    }

    /// Good streams to users last so long, at random in between, and come in ten pieces.
    pub fn streams_last(&self, least: Duration, most: Duration) {
        self.shared.state.lock().unwrap().lasting = Some([least, most]);
    }

    /// Forgets who asked, so that a load can last.
    pub fn forget(&self) {
        self.shared.asked.send_modify(Vec::clear);
    }

    /// The next user's request alone is answered this late.
    pub fn outlier(&self, delay: Duration) {
        self.shared.state.lock().unwrap().outlier = Some(delay);
    }

    /// Probes are answered well whatever the mode.
    pub fn probes_always_good(&self) {
        self.shared.state.lock().unwrap().probes_always_good = true;
    }

    /// Ends as a killed process does: connections are cut, new ones refused.
    pub async fn kill(&self) {
        drop(self.upstream.lock().unwrap().take());
        self.port.refuses().await;
    }

    /// Comes back on the same port after `kill`.
    pub async fn revive(&self) {
        let shared = Arc::clone(&self.shared);
        let answer = move |seen: &Seen| shared.answer(seen);
        let address = self.port.address().to_string();
        let upstream = Upstream::on(&address, self.tls.clone(), answer).await;
        *self.upstream.lock().unwrap() = Some(upstream);
    }

    /// Its port on loopback.
    pub const fn port(&self) -> u16 {
        self.port.address().port()
    }

    /// The `base_url` for it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/v1", self.port.address())
    }

    /// All requests so far, in order of arrival.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.borrow().clone()
    }

    /// The requests of this kind.
    pub fn of(&self, kind: Kind) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.kind == kind).collect()
    }

    /// How many requests of this kind came.
    pub fn count(&self, kind: Kind) -> usize {
        self.shared.asked.borrow().iter().filter(|asked| asked.kind == kind).count()
    }

    /// How many came at or after `since`.
    pub fn count_since(&self, kind: Kind, since: Instant) -> usize {
        self.shared.asked.borrow().iter().filter(|asked| asked.kind == kind && asked.at >= since).count()
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.upstream.lock().unwrap().as_ref().map_or(0, Upstream::running)
    }

    /// Calls given up by the peer before they were answered, since it started or came back.
    pub fn abandoned(&self) -> usize {
        self.upstream.lock().unwrap().as_ref().map_or(0, Upstream::abandoned)
    }

    /// Waits until `count` requests of this kind have come.
    pub async fn received(&self, kind: Kind, count: usize) {
        self.received_within(PATIENCE, kind, count).await;
    }

    /// Waits for them at most `limit`.
    pub async fn received_within(&self, limit: Duration, kind: Kind, count: usize) {
        let mut asked = self.shared.asked.subscribe();
        let enough = |asked: &Vec<Asked>| asked.iter().filter(|a| a.kind == kind).count() >= count;
        let what = format!("{count} requests of kind {kind:?} at {}", self.shared.name);
        within(limit, &what, asked.wait_for(enough)).await.unwrap();
    }
}

impl Shared {
    fn answer(&self, seen: &Seen) -> Script {
        let at = Instant::now();
        let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let kind = Kind::of(seen, &body);
        let (script, well) = self.script(kind, &body);
        self.asked.send_modify(|all| all.push(Asked { at, kind, well, seen: seen.clone() }));
        script
    }

    fn script(&self, kind: Kind, body: &Value) -> (Script, bool) {
        let mut state = self.state.lock().unwrap();
        if kind == Kind::Probe {
            let models = json!({"object": "list", "data": [{"id": "m", "object": "model", "created": 1,
                "owned_by": self.name}]});
            let good = (vec![Act::Send(answer::json(200, &models))], true);
            return match state.mode {
                _ if state.probes_always_good => good,
                Mode::Status(status, message) => (refusal(status, message), false),
                Mode::Reset => (vec![Act::Reset], false),
                Mode::Silent => (vec![Act::Stall], false),
                _ => good,
            };
        }
        let turn = state.turn;
        state.turn += 1;
        let streamed = body["stream"] == true;
        let outlier = if kind == Kind::User { state.outlier.take() } else { None };
        let delay = outlier.unwrap_or(state.latency);
        let lasting = state.lasting.filter(|_| streamed && kind == Kind::User);
        let good = |delay| match lasting {
            None => (vec![Act::Sleep(delay), Act::Send(self.good(body))], true),
            Some([least, most]) => {
                let lasts = least + (most - least).mul_f64(fastrand::f64());
                (self.good_slowly(body, delay, lasts), true)
            }
        };
        match &state.mode {
            Mode::Good => good(delay),
            Mode::Status(status, message) => (refusal(*status, message), false),
            Mode::Html => {
                let page = answer::whole(200, &[("content-type", "text/html")], "<html>Log in</html>");
                (vec![Act::Send(page)], false)
            }
            Mode::Garbage => {
                let wire = answer::whole(200, &[("content-type", "application/json")], "{\"id\": \"chatcm");
                (vec![Act::Send(wire)], false)
            }
            Mode::Empty => (vec![Act::Send(empty(streamed))], false),
            Mode::Reset => (vec![Act::Reset], false),
            Mode::Half500 if turn.is_multiple_of(2) => (refusal(500, "every second time"), false),
            Mode::Half500 => good(delay),
            // Spread evenly: 30 percent is the fourth, the seventh, the tenth of ten.
            Mode::CutStreams(percent) if streamed && (turn + 1) * percent / 100 > turn * percent / 100 => {
                let begun = [
                    answer::stream_head(),
                    answer::piece(answer::role()),
                    answer::piece(answer::delta("fr")),
                ];
                // A reset at once would take back what was sent.
                let pause = Act::Sleep(Duration::from_millis(30));
                (vec![Act::Sleep(delay), Act::Send(begun.concat().into()), pause, Act::Reset], false)
            }
            Mode::CutStreams(_) => good(delay),
            Mode::Silent => (vec![Act::Stall], false),
            Mode::Slow(delay) => good(*delay),
            Mode::OnlyTiny if kind == Kind::User => (refusal(500, "out of memory"), false),
            Mode::OnlyTiny => good(delay),
            Mode::Does(script) => (script.clone(), false),
        }
    }

    /// What it says in good health, with the model it was asked for.
    fn good(&self, body: &Value) -> Bytes {
        let text = format!("from {}", self.name);
        if body["stream"] != true {
            let mut chat = answer::chat(&text);
            chat["model"] = body["model"].clone();
            return answer::json(200, &chat);
        }
        let model = format!("\"model\":{}", body["model"]);
        let mut wire = answer::stream_head().to_vec();
        for event in [answer::role(), answer::delta("from "), answer::delta(&self.name), answer::finish()] {
            wire.extend(answer::piece(event.replace("\"model\":\"m\"", &model)));
        }
        wire.extend(answer::piece(DONE));
        wire.extend(answer::last_piece());
        wire.into()
    }
}

impl Shared {
    /// The same as a stream that lasts for so long after `delay`.
    fn good_slowly(&self, body: &Value, delay: Duration, lasts: Duration) -> Script {
        const PIECES: u32 = 10;
        let named = |event: String| {
            answer::piece(event.replace("\"model\":\"m\"", &format!("\"model\":{}", body["model"])))
        };
        let text = format!("from {}", self.name);
        let mut acts = vec![
            Act::Sleep(delay),
            Act::Send(
                [answer::stream_head(), named(answer::role()), named(answer::delta(&text))].concat().into(),
            ),
        ];
        for n in 1..PIECES {
            acts.extend([Act::Sleep(lasts / PIECES), Act::Send(named(answer::delta(&format!(" {n}"))))]);
        }
        let end = [named(answer::finish()), answer::piece(DONE), answer::last_piece()];
        acts.extend([Act::Sleep(lasts / PIECES), Act::Send(end.concat().into())]);
        acts
    }
}

fn refusal(status: u16, message: &str) -> Script {
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    vec![Act::Send(answer::json(status, &answer::error(kind, "simulated", message)))]
}

/// An answer that says nothing.
fn empty(streamed: bool) -> Bytes {
    if streamed {
        return [answer::stream_head(), answer::piece(DONE), answer::last_piece()].concat().into();
    }
    let mut chat = answer::chat("");
    chat["choices"] = json!([]);
    answer::json(200, &chat)
}

use tidegate_router::outcome::Class;

use super::*;
use crate::breaker::Verdict;
use crate::evidence::Detail;

mod choice;
mod copies;
mod fleet;
mod handover;
mod outcomes;
mod sequences;
mod waiting;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Paths of the usual node, by number.
const A_DIRECT: usize = 0;
const A_PROXY: usize = 1;
const B_DIRECT: usize = 2;
const B_PROXY: usize = 3;

#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

/// What became of one request.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Good,
    Bad(Class, Detail),
}

const BROKEN: Outcome = Outcome::Bad(Class::ServerError, Detail::Plain);
const UNREACHED: Outcome = Outcome::Bad(Class::Connect, Detail::Plain);
const SILENT: Outcome = Outcome::Bad(Class::Timeout, Detail::Plain);

type Log = Arc<Mutex<Vec<(String, Option<String>, Transition)>>>;

/// A registry and its time.
struct Node {
    registry: Arc<Registry>,
    now: Instant,
    model: usize,
    log: Log,
    drawn: fastrand::Rng,
}

/// Upstreams `a` and `b`, each direct and over a proxy, and one route over all four.
fn setup() -> Setup {
    let upstream = |name: &str| UpstreamSetup {
        name: name.into(),
        rules: Arc::new(Health::default()),
        local: false,
        weight: 1.0,
        was: None,
    };
    let path = |name: &str, upstream, egress| PathSetup {
        name: name.into(),
        upstream,
        egress,
        probed: false,
        was: None,
    };
    Setup {
        paths: vec![
            path("a@direct", 0, 0),
            path("a@proxy", 0, 1),
            path("b@direct", 1, 0),
            path("b@proxy", 1, 1),
        ],
        upstreams: vec![upstream("a"), upstream("b")],
        egress: ["direct", "proxy"].map(|name| EgressSetup { name: name.into(), was: None }).into(),
        routes: vec![RouteSetup {
            paths: vec![0, 1, 2, 3],
            fallback: Vec::new(),
            choice: Health::default().choice,
        }],
    }
}

impl Node {
    fn new() -> Self {
        Self::of(setup())
    }

    fn of(setup: Setup) -> Self {
        let log = Log::default();
        let told = Arc::clone(&log);
        let observer: Observer = Arc::new(move |event| {
            let model = event.model.as_deref().map(str::to_owned);
            told.lock().unwrap().push((event.name.clone(), model, event.transition.clone()));
        });
        let now = start();
        let registry = Arc::new(Registry::new(setup, observer, now));
        let model = registry.model(Some("gpt"));
        Self { registry, now, model, log, drawn: fastrand::Rng::with_seed(7) }
    }

    fn flight(&self, path: usize) -> Flight {
        let mut flight = self.registry.begin(path, self.model, 1, 0, self.now);
        flight.sent(self.now);
        flight
    }

    /// A streamed request of 50 ms.
    fn send(&mut self, path: usize, outcome: Outcome) {
        let mut flight = self.flight(path);
        self.now += MS * 50;
        match outcome {
            Outcome::Good => {
                flight.first(self.now);
                flight.end(false, self.now);
            }
            Outcome::Bad(class, detail) => flight.failed(class, detail, self.now),
        }
    }

    fn sends(&mut self, n: usize, path: usize, outcome: Outcome) {
        for _ in 0..n {
            self.send(path, outcome);
        }
    }

    /// Every path is known well.
    fn warm(mut self) -> Self {
        for _ in 0..12 {
            for path in 0..self.registry.paths.len() {
                self.send(path, Outcome::Good);
            }
        }
        self
    }

    fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = (self.now + MS * 100).min(end);
            self.registry.tick(self.now);
        }
    }

    fn ask(&mut self) -> Ask<impl Fn(usize) -> bool + use<>> {
        let random = self.drawn.u64(..);
        Ask { model: self.model, kind: 1, random, fallback: false, movable: true, ready: |_| true }
    }

    fn choose(&mut self) -> Chosen {
        let ask = self.ask();
        self.registry.choose(0, &ask, self.now)
    }

    /// Of 10000 requests, those to each path in thousandths.
    fn shares(&mut self) -> Vec<u32> {
        let mut counts = vec![0; self.registry.paths.len()];
        for _ in 0..10_000 {
            if let Chosen::Path(path) = self.choose() {
                counts[path] += 1;
            }
        }
        counts.into_iter().map(|n| n / 10).collect()
    }

    fn state(&self, path: usize) -> State {
        self.registry.paths[path].gate.view().state
    }

    fn states(&self) -> Vec<State> {
        (0..self.registry.paths.len()).map(|path| self.state(path)).collect()
    }

    fn admitted(&self) -> Vec<usize> {
        (0..self.registry.paths.len()).filter(|path| self.registry.admits(*path, self.model)).collect()
    }

    fn force(&self, path: usize, state: Option<State>) {
        self.registry.force(path, state, self.now);
    }

    /// What was told since the last call: who, which model, why.
    fn told(&self) -> Vec<(String, Option<String>, Reason)> {
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        log.into_iter().map(|(name, model, change)| (name, model, change.reason)).collect()
    }

    fn told_of_path(&self, name: &str, reason: Reason) {
        assert_eq!(self.told(), [(name.to_owned(), None, reason)]);
    }

    fn told_of_model(&self, name: &str, reason: Reason) {
        assert_eq!(self.told(), [(name.to_owned(), Some("gpt".to_owned()), reason)]);
    }

    /// A path that begins to prove itself.
    fn shadowing(mut self, path: usize) -> Self {
        self.sends(3, path, UNREACHED);
        while self.state(path) == State::Open {
            self.wait(MS * 100);
        }
        assert_eq!(self.state(path), State::Shadowing);
        self.told();
        self
    }
}

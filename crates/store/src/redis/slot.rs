//! A place for one connection: there is one that works, or there is none and nobody waits.
//!
//! Owns the connection, its breaker and the task that dials. A caller finds a connection or fails at once; whether
//! one is good again is found out by that task, with a PING and a script that writes, never by a caller.
//! While Redis is away the task dials every second at the latest. Not here: what is asked (`call`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use metrics::Gauge;
use redis::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::Setup;
use super::breaker::Breaker;
use super::dial::{self, Conn};
use super::fault::said;
use super::script::{Script, Scripts};

/// Between two dials: from here, doubled, to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Before a server that was given up while it still took connections is tried again; then twice as long.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(2);
/// A connection that held so long: what was before it is forgotten.
const CALM: Duration = Duration::from_secs(10);
/// What a probe may take: as long as the caller that was last kept waiting had, within these.
const PROBE_MIN: Duration = Duration::from_millis(25);
const PROBE_MAX: Duration = Duration::from_millis(500);

/// A connection in use.
pub(super) struct Live {
    pub(super) conn: Conn,
    breaker: Mutex<Breaker>,
}

/// The place.
pub(super) struct Slot {
    /// `store` or `store cache`, in log lines.
    name: &'static str,
    kind: &'static str,
    live: ArcSwapOption<Live>,
    trouble: ArcSwapOption<String>,
    lost: Notify,
    /// What was lost last was given up, not broken.
    tripped: AtomicBool,
    /// Milliseconds that the caller had who was last kept waiting.
    patience: AtomicU64,
    up: Option<Gauge>,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It is broken, or leads to a server that may not be written to: another may be had at once.
    Broken,
    /// It stands, but asking it is no use: it rests.
    Tripped,
}

impl Slot {
    pub(super) fn new(name: &'static str, kind: &'static str, up: Option<Gauge>) -> Self {
        if let Some(up) = &up {
            up.set(0.0);
        }
        Self {
            name,
            kind,
            live: ArcSwapOption::empty(),
            trouble: ArcSwapOption::from_pointee("not reached yet".to_owned()),
            lost: Notify::new(),
            tripped: AtomicBool::new(false),
            patience: AtomicU64::new(PROBE_MAX.as_millis() as u64),
            up,
        }
    }

    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.load().as_deref().cloned()
    }

    /// A call over `live` was answered.
    pub(super) fn answered(&self, live: &Live) {
        live.breaker.lock().unwrap_or_else(PoisonError::into_inner).answered(Instant::now());
    }

    /// A call over `live` was not answered in time, or was refused for the state the server is in.
    pub(super) fn failed(&self, live: &Arc<Live>, started: Instant, refused: Option<&str>, within: Duration) {
        if refused.is_none() {
            self.patience.store(within.as_millis() as u64, Ordering::Relaxed);
        }
        let tripped = live.breaker.lock().unwrap_or_else(PoisonError::into_inner).failed(
            started,
            Instant::now(),
            refused.is_some(),
        );
        if let Some(tripped) = tripped {
            self.lose(live, refused.unwrap_or(tripped), Lost::Tripped);
        }
    }

    /// `live` is of no use any more.
    pub(super) fn lose(&self, live: &Arc<Live>, reason: &str, lost: Lost) {
        let found = self.live.compare_and_swap(&Some(Arc::clone(live)), None);
        if !found.as_ref().is_some_and(|found| Arc::ptr_eq(found, live)) {
            return;
        }
        self.trouble.store(Some(Arc::new(reason.to_owned())));
        if let Some(up) = &self.up {
            up.set(0.0);
        }
        warn!(store = self.kind, reason, "{} is down", self.name);
        self.tripped.store(lost == Lost::Tripped, Ordering::Release);
        self.lost.notify_one();
    }

    /// Dials for as long as it is polled.
    pub(super) async fn keep(self: Arc<Self>, setup: Arc<Setup>, scripts: Arc<Scripts>) {
        let (mut pause, mut rest) = (PAUSE, REST);
        let mut said_down = false;
        loop {
            match self.reach(&setup, &scripts.probe).await {
                Ok(conn) => {
                    said_down = true;
                    let since = Instant::now();
                    self.rise(conn);
                    while self.live.load().is_some() {
                        self.lost.notified().await;
                    }
                    if since.elapsed() >= CALM {
                        (pause, rest) = (PAUSE, REST);
                    }
                    if self.tripped.swap(false, Ordering::AcqRel) {
                        sleep(jittered(rest)).await;
                        rest = (rest * 2).min(REST_MAX);
                        continue;
                    }
                }
                Err(reason) => {
                    if !std::mem::replace(&mut said_down, true) {
                        warn!(store = self.kind, reason, "{} is down", self.name);
                    }
                    self.trouble.store(Some(Arc::new(reason)));
                }
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A connection that answers, and lets scripts write.
    async fn reach(&self, setup: &Setup, probe: &Script) -> Result<Conn, String> {
        let mut conn = dial::connect(setup).await.map_err(|e| said(&e))?;
        let patience = Duration::from_millis(self.patience.load(Ordering::Relaxed));
        let patience = patience.clamp(PROBE_MIN, PROBE_MAX);
        let slow = |_| "a probe was not answered in time".to_owned();
        let ping = redis::cmd("PING");
        timeout(patience, conn.ask(&ping)).await.map_err(slow)?.map_err(|e| said(&e))?;
        // In a cluster, any node may be the one that is gone.
        let key = format!("{}v1:probe:{}", setup.prefix, fastrand::u16(..));
        let script = probe.whole(|cmd| {
            cmd.arg(1).arg(&key);
        });
        match timeout(patience, conn.ask(&script)).await.map_err(slow)? {
            Ok(Value::BulkString(_)) => Ok(conn),
            Ok(_) => Err("scripts do not run".to_owned()),
            Err(e) => Err(format!("scripts do not run: {}", said(&e))),
        }
    }

    fn rise(&self, conn: Conn) {
        let breaker = Mutex::new(Breaker::new(Instant::now()));
        self.live.store(Some(Arc::new(Live { conn, breaker })));
        self.trouble.store(None);
        if let Some(up) = &self.up {
            up.set(1.0);
        }
        info!(store = self.kind, "{} is up", self.name);
    }
}

/// Between half of it and all of it.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

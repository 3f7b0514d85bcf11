//! The load generator: makes requests by plan, checks every byte of the answers, and times them honestly.
//!
//! Owns its connections and its tally. Runs on one thread: the second core belongs to what is measured. A
//! target that is down is not an error of the run but its result, counted as `connect`.
//! Not here: starting what is measured (`compare`), printing (`report`).

mod connection;
mod events;
mod exchange;
mod hangup;
mod plan;
mod schedule;
mod tally;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use connection::Connection;
pub use connection::fetch;
use exchange::{Client, Due};
pub use hangup::{Leftover, leftover};
pub use plan::{Extent, Loop, Mode, Plan};
use schedule::{Arrival, Schedule};
pub use tally::{Failure, Summary, Tally, Totals};

use crate::process::{CpuMark, CpuTime, Watched};
use crate::report::Report;

/// Requests of an open loop that run at once; more are due but wait, and their latency says so.
const OPEN_MAX: usize = 10_000;
/// Between two readings of memory.
const MEMORY_EVERY: Duration = Duration::from_millis(100);
/// A closed-loop client whose connection was refused tries again after this, instead of spinning.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// Runs `plan` to its end. Needs a runtime with I/O and time. Errors: the plan cannot be started, or a
/// watched process ended. What the target does wrong is in the report.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let watched = Watched::new(&plan.pids)?;
    let client = Arc::new(Client::new(plan).await?);
    let start = Instant::now();
    let (opens, closes) = match plan.extent {
        Extent::Lasting(lasting) => (start + plan.warmup, Some(start + plan.warmup + lasting)),
        Extent::Requests(_) => (start, None),
    };
    let (over, is_over) = oneshot::channel();
    let watching = tokio::spawn(watch(Arc::clone(&client), watched, opens, closes, is_over));
    match plan.arrivals {
        Loop::Open { rate, connections } => open(&client, plan, rate, connections, start, opens).await?,
        Loop::Closed { clients, spread } => {
            let step = spread / u32::try_from(clients).unwrap_or(u32::MAX).max(1);
            closed(&client, plan, clients, step, opens, closes).await;
        }
    }
    // A watcher that has failed does not listen any more; its error comes next.
    let _ = over.send(());
    let readings = watching.await??;
    Ok(Report::new(plan, &client.tally(), &readings))
}

async fn open(
    client: &Arc<Client>,
    plan: &Plan,
    rate: f64,
    connections: usize,
    start: Instant,
    opens: Instant,
) -> anyhow::Result<()> {
    // Used in turn, oldest first, so that all of them stay warm.
    let idle = Arc::new(Mutex::new(VecDeque::with_capacity(connections)));
    let schedule = match plan.extent {
        Extent::Lasting(lasting) => Schedule::lasting(start, rate, plan.warmup + lasting),
        Extent::Requests(count) => Schedule::new(start, rate, count),
    };
    let mut opened = JoinSet::new();
    for _ in 0..connections {
        let client = Arc::clone(client);
        opened.spawn(async move { Connection::open(&client.target).await });
    }
    let pool = || idle.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(connection) = opened.join_next().await {
        // A refusal shows in the first request.
        pool().extend(connection?.ok());
    }
    let mut arrivals = schedule.run()?;
    let places = Arc::new(Semaphore::new(OPEN_MAX));
    let mut running = JoinSet::new();
    while let Some(Arrival { n, due }) = arrivals.recv().await {
        let place = Arc::clone(&places).acquire_owned().await?;
        while running.try_join_next().is_some() {}
        let (client, idle) = (Arc::clone(client), Arc::clone(&idle));
        running.spawn(async move {
            let pool = || idle.lock().unwrap_or_else(PoisonError::into_inner);
            let mut connection = pool().pop_front();
            let due = Due { n, since: due, measured: due >= opens, scheduled: true };
            client.exchange(&mut connection, due).await;
            pool().extend(connection);
            drop(place);
        });
    }
    while running.join_next().await.is_some() {}
    Ok(())
}

async fn closed(
    client: &Arc<Client>,
    plan: &Plan,
    clients: usize,
    step: Duration,
    opens: Instant,
    closes: Option<Instant>,
) {
    let mut begins = Instant::now();
    let most = match plan.extent {
        Extent::Lasting(_) => u64::MAX,
        Extent::Requests(count) => count,
    };
    let next = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (client, next) = (Arc::clone(client), Arc::clone(&next));
        begins += step;
        running.spawn(async move {
            if !step.is_zero() {
                tokio::time::sleep_until(begins).await;
            }
            let mut connection = None;
            loop {
                let since = Instant::now();
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= most || closes.is_some_and(|closes| since >= closes) {
                    return;
                }
                client
                    .exchange(&mut connection, Due { n, since, measured: since >= opens, scheduled: false })
                    .await;
                if connection.is_none() && since.elapsed() < REFUSED_PAUSE {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        });
    }
    while running.join_next().await.is_some() {}
}

/// Readings at one moment.
#[derive(Debug)]
struct Mark {
    at: Instant,
    totals: Totals,
    cpu: CpuMark,
}

/// What was read at the ends of the window, and between them.
#[derive(Debug, Clone, Copy)]
pub struct Readings {
    /// How long the window was open.
    pub window: Duration,
    /// Answered meanwhile.
    pub totals: Totals,
    /// CPU time of the watched processes meanwhile; `None`: none was watched.
    pub cpu: Option<CpuTime>,
    /// Most memory seen meanwhile, KiB; `None`: none was watched.
    pub rss_peak_kib: Option<u64>,
}

/// Reads at the opening and the closing of the window, and memory between. `closes` absent: it closes when
/// `is_over` says so.
async fn watch(
    client: Arc<Client>,
    watched: Watched,
    opens: Instant,
    closes: Option<Instant>,
    is_over: oneshot::Receiver<()>,
) -> anyhow::Result<Readings> {
    let mark = || anyhow::Ok(Mark { cpu: watched.cpu()?, totals: client.tally().totals, at: Instant::now() });
    tokio::time::sleep_until(opens).await;
    let start = mark()?;
    let closing = async {
        match closes {
            Some(closes) => tokio::time::sleep_until(closes).await,
            // The sender is dropped only with the run.
            None => drop(is_over.await),
        }
    };
    tokio::pin!(closing);
    let mut rss_peak_kib = watched.rss_kib()?;
    while tokio::time::timeout(MEMORY_EVERY, &mut closing).await.is_err() {
        rss_peak_kib = rss_peak_kib.max(watched.rss_kib()?);
    }
    rss_peak_kib = rss_peak_kib.max(watched.rss_kib()?);
    let end = mark()?;
    Ok(Readings {
        window: end.at - start.at,
        totals: Totals {
            answered: end.totals.answered - start.totals.answered,
            pieces: end.totals.pieces - start.totals.pieces,
        },
        cpu: (!watched.is_empty()).then(|| watched.between(&start.cpu, &end.cpu)),
        rss_peak_kib: (!watched.is_empty()).then_some(rss_peak_kib),
    })
}

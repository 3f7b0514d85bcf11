//! The threads that carry requests: one single-threaded runtime per core.
//!
//! A request lives on one worker from its first byte to its last, so its tasks wake each other without
//! crossing threads. `docs/decisions.md` has the measurement against one shared runtime.
//! Connections are dealt to the worker with the fewest (a kernel's hash over a handful of long-lived
//! connections from a load balancer would leave some cores idle).

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections on their way to a worker that has not picked them up yet.
const HANDOVER_MAX: usize = 1024;
const TICK: Duration = Duration::from_millis(500);
/// Outside of any worker: the control thread.
const NO_WORKER: usize = usize::MAX;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(NO_WORKER) };
    static RUNNING: RefCell<Option<TaskTracker>> = const { RefCell::new(None) };
}

/// The runtimes of all workers of this process.
static RUNTIMES: Mutex<Vec<tokio::runtime::Handle>> = Mutex::new(Vec::new());

/// Tasks that live on all workers.
pub fn tasks() -> usize {
    let runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks()).sum()
}

/// The index of the worker whose thread this is.
pub fn current() -> usize {
    CURRENT.with(Cell::get)
}

/// Runs `task` on this worker, which does not end before it; outside of any worker, on the runtime that is there.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    match RUNNING.with_borrow(Clone::clone) {
        Some(running) => drop(running.spawn(task)),
        None => drop(tokio::spawn(task)),
    }
}

/// A connection as it was accepted, with what must live as long as it does.
pub struct Accepted<G> {
    /// Non-blocking.
    pub stream: std::net::TcpStream,
    /// Its peer.
    pub peer: std::net::SocketAddr,
    /// Dropped with the connection.
    pub guard: G,
}

/// Running workers.
pub struct Workers<G> {
    workers: Vec<Worker<G>>,
}

struct Worker<G> {
    queue: mpsc::Sender<Accepted<G>>,
    load: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl<G: Send + 'static> Workers<G> {
    /// Starts `count` threads; `serve` is spawned for each connection on its worker, and `last` is waited for when all
    /// have ended.
    pub fn start<F, S, L>(count: usize, serve: S, last: L) -> io::Result<Self>
    where
        S: Fn(Accepted<G>) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
        L: AsyncFnOnce() + Clone + Send + 'static,
    {
        let count = count.max(1);
        let finish = Finish::new(count);
        let workers = (0..count).map(|index| {
            let finish = Arc::clone(&finish);
            let (queue, mut accepted) = mpsc::channel::<Accepted<G>>(HANDOVER_MAX);
            let load = Arc::new(AtomicUsize::new(0));
            let (serve, last) = (serve.clone(), last.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner).push(runtime.handle().clone());
            let counted = Arc::clone(&load);
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                CURRENT.with(|c| c.set(index));
                runtime.block_on(async {
                    let running = TaskTracker::new();
                    RUNNING.set(Some(running.clone()));
                    tokio::spawn(tick());
                    while let Some(connection) = accepted.recv().await {
                        running
                            .spawn(Counted { load: Load(Arc::clone(&counted)), served: serve(connection) });
                    }
                    running.close();
                    running.wait().await;
                    last().await;
                    finish.all().await;
                });
            })?;
            Ok(Worker { queue, load, thread })
        });
        Ok(Self { workers: workers.collect::<io::Result<_>>()? })
    }

    /// Gives a connection to the least loaded worker; waits while its handover queue is full.
    pub async fn deal(&self, connection: Accepted<G>) {
        if let Some(worker) = self.workers.iter().min_by_key(|w| w.load.load(Ordering::Relaxed)) {
            worker.load.fetch_add(1, Ordering::Relaxed);
            if worker.queue.send(connection).await.is_err() {
                tracing::error!("a worker thread has ended; the connection is closed");
            }
        }
    }

    /// Lets the workers end once their connections have, and waits for that. Blocks: not for async code.
    pub fn join(self) {
        let (queues, threads): (Vec<_>, Vec<_>) =
            self.workers.into_iter().map(|worker| (worker.queue, worker.thread)).unzip();
        drop(queues);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

/// The end of all workers. One may relay over an upstream connection that another opened and whose reactor
/// watches the socket, so none stops its reactor before all have finished.
#[derive(Debug)]
struct Finish {
    running: AtomicUsize,
    all: CancellationToken,
}

impl Finish {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(count), all: CancellationToken::new() })
    }

    async fn all(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.cancel();
        }
        self.all.cancelled().await;
    }
}

/// A timer that is set for earlier than all others makes tokio wake its own driver, which costs a write and a
/// read per request (each sets timers of seconds). With one that is always due sooner, no other is ever first.
async fn tick() {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
    }
}

pin_project_lite::pin_project! {
    /// A connection being served. Not an `async` block around it: that would hold the future twice.
    struct Counted<F> {
        load: Load,
        #[pin]
        served: F,
    }
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().served.poll(cx)
    }
}

struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

//! A running node: listeners, workers and the tasks around them, from start to a drained end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tidegate_config::used::Config;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::live::Live;
use crate::reload::{Reads, Record, Reloader};
use crate::tls::Certificate;
use crate::worker::Workers;
use crate::{admin, listener};

/// How often pools are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// After the second signal.
const HURRY: Duration = Duration::from_secs(5);
/// To tell a store what it is owed, however slow it is: who waits for the process to end gives it ten seconds more.
const SETTLE: Duration = Duration::from_secs(4);
/// After the streams were told to end: for their last bytes to go out.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// A node whose listeners are bound.
pub struct Node {
    live: Arc<Live>,
    /// `None`: the configuration is from no file.
    pub reloader: Option<Arc<Reloader>>,
    workers: Workers<OwnedSemaphorePermit>,
    listener: tokio::net::TcpListener,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin_address: SocketAddr,
}

impl Node {
    /// Builds and binds everything, and starts the admin listener and the upkeep tasks. `file` is what `config` was read
    /// from, with what was read besides it; without one the node keeps its configuration. The error says what could not
    /// be had.
    pub async fn start(
        config: Config,
        file: Option<(PathBuf, Reads)>,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<Self> {
        let certificate = config.listen.tls.clone().map(Certificate::load).transpose()?.map(Arc::new);
        let (data, control) = (config.listen.address, config.admin.address);
        let record = Record::new(file.as_ref().map(|(path, _)| path.clone()));
        let live = Arc::new(Live::new(Gateway::new(config, record).map_err(anyhow::Error::msg)?));
        let gateway = live.gateway();
        let listener = listener::bind(data, "listen.address")?;
        let admin_listener = listener::bind(control, "admin.address")?;
        let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let serve = {
            let (live, certificate) = (Arc::clone(&live), certificate.clone());
            move |accepted| listener::serve(Arc::clone(&live), certificate.clone(), accepted)
        };
        // Other nodes may wait for what is made here.
        let last = {
            let answers = Arc::clone(&gateway.answers);
            async move || answers.idle().await
        };
        crate::trace::start(&gateway.config).map_err(anyhow::Error::msg)?;
        let workers = Workers::start(cores, serve, last)?;
        if let Some(certificate) = certificate {
            tokio::spawn(certificate.watch());
        }
        tokio::spawn(crate::metrics::upkeep(metrics.clone()));
        tokio::spawn(sweep(Arc::clone(&live)));
        tokio::spawn(Arc::clone(gateway.limits.limiter()).run());
        tokio::spawn(Arc::clone(&gateway.answers).run());
        tokio::spawn(crate::usage::keep(Arc::clone(&live)));
        tokio::spawn(crate::history::keep(Arc::clone(&live)));
        crate::health::start(&gateway);
        tokio::spawn(Arc::clone(&gateway.fleet).run(Arc::clone(&live)));
        let reloader = file.map(|(path, reads)| Arc::new(Reloader::new(Arc::clone(&live), path, &reads)));
        if let Some(reloader) = &reloader {
            tokio::spawn(Arc::clone(reloader).watch());
        }
        tokio::spawn(admin::serve(admin_listener, Arc::clone(&live), reloader.clone(), metrics));
        gateway.drain.serving();
        Ok(Self { live, reloader, workers, listener, address, admin_address })
    }

    /// Serves until `signal` (cancelled on the first signal) and then drains; `hurry` is cancelled on the
    /// second signal. Returns when nothing runs any more.
    pub async fn run(self, signal: CancellationToken, hurry: CancellationToken) {
        let Self { live, workers, listener, .. } = self;
        // A restart alone changes what a drain reads.
        let (drain, listen) = {
            let gateway = live.gateway();
            (Arc::clone(&gateway.drain), gateway.config.listen.clone())
        };
        let draining = async {
            tokio::select! {
                () = signal.cancelled() => {}
                () = drain.requested.notified() => {}
            }
            drain.begin();
            tracing::info!(grace = ?listen.drain_grace, timeout = ?listen.drain_timeout, "draining");
            tokio::select! {
                () = tokio::time::sleep(listen.drain_grace) => {}
                () = hurry.cancelled() => {}
            }
            drain.closing.cancel();
        };
        tokio::join!(draining, listener::accept(listener, &workers, &live));
        let timeout = listen.drain_timeout;
        let mut ended = tokio::task::spawn_blocking(move || workers.join());
        let in_time = tokio::select! {
            _ = &mut ended => true,
            () = tokio::time::sleep(timeout) => false,
            () = async { hurry.cancelled().await; tokio::time::sleep(HURRY).await } => false,
        };
        if !in_time {
            drain.cut.cancel();
            let _ = tokio::time::timeout(LAST_BYTES, ended).await;
        }
        let gateway = live.gateway();
        let settle = async {
            gateway.limits.limiter().flush().await;
            gateway.usage.tell(&gateway).await;
        };
        let _ = tokio::time::timeout(SETTLE, settle).await;
        gateway.fleet.leave().await;
        crate::trace::finish().await;
        tracing::info!("stopped");
    }
}

/// Keeps the pools tidy for as long as the process lives.
async fn sweep(live: Arc<Live>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        live.gateway().sweep();
    }
}

//! A running node: listeners, workers and the tasks around them, from start to a drained end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tidegate_config::used::Config;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::tls::Certificate;
use crate::worker::Workers;
use crate::{admin, listener};

/// After the second signal.
const HURRY: Duration = Duration::from_secs(5);
/// After the streams were told to end: for their last bytes to go out.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// A node whose listeners are bound.
pub struct Node {
    gateway: Arc<Gateway>,
    workers: Workers<OwnedSemaphorePermit>,
    listener: tokio::net::TcpListener,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators connect.
    pub admin_address: SocketAddr,
}

impl Node {
    /// Builds and binds everything, and starts the admin listener and the upkeep tasks. The error says what
    /// could not be had.
    pub async fn start(config: Config, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        let certificate = config.listen.tls.clone().map(Certificate::load).transpose()?.map(Arc::new);
        let (data, control) = (config.listen.address, config.admin.address);
        let gateway = Arc::new(Gateway::new(config).map_err(anyhow::Error::msg)?);
        let listener = listener::bind(data, "listen.address")?;
        let admin_listener = listener::bind(control, "admin.address")?;
        let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let serve = {
            let (gateway, certificate) = (Arc::clone(&gateway), certificate.clone());
            move |accepted| listener::serve(Arc::clone(&gateway), certificate.clone(), accepted)
        };
        // Other nodes may wait for what is made here.
        let last = {
            let answers = Arc::clone(&gateway.answers);
            async move || answers.idle().await
        };
        let workers = Workers::start(cores, serve, last)?;
        if let Some(certificate) = certificate {
            tokio::spawn(certificate.watch());
        }
        tokio::spawn(crate::metrics::upkeep(metrics.clone()));
        tokio::spawn(Arc::clone(&gateway).sweep());
        tokio::spawn(Arc::clone(gateway.limits.limiter()).run());
        tokio::spawn(Arc::clone(&gateway.answers).run());
        tokio::spawn(crate::usage::keep(Arc::clone(&gateway)));
        crate::health::start(&gateway);
        tokio::spawn(admin::serve(admin_listener, Arc::clone(&gateway), metrics));
        gateway.drain.serving();
        Ok(Self { gateway, workers, listener, address, admin_address })
    }

    /// Serves until `signal` (cancelled on the first signal) and then drains; `hurry` is cancelled on the
    /// second signal. Returns when nothing runs any more.
    pub async fn run(self, signal: CancellationToken, hurry: CancellationToken) {
        let Self { gateway, workers, listener, .. } = self;
        let drain = async {
            tokio::select! {
                () = signal.cancelled() => {}
                () = gateway.drain.requested.notified() => {}
            }
            gateway.drain.begin();
            let listen = &gateway.config.listen;
            tracing::info!(grace = ?listen.drain_grace, timeout = ?listen.drain_timeout, "draining");
            tokio::select! {
                () = tokio::time::sleep(listen.drain_grace) => {}
                () = hurry.cancelled() => {}
            }
            gateway.drain.closing.cancel();
        };
        tokio::join!(drain, listener::accept(listener, &workers, &gateway));
        // What waited in the kernel's queue was accepted above or is refused now.
        let timeout = gateway.config.listen.drain_timeout;
        let mut ended = tokio::task::spawn_blocking(move || workers.join());
        let in_time = tokio::select! {
            _ = &mut ended => true,
            () = tokio::time::sleep(timeout) => false,
            () = async { hurry.cancelled().await; tokio::time::sleep(HURRY).await } => false,
        };
        if !in_time {
            gateway.drain.cut.cancel();
            let _ = tokio::time::timeout(LAST_BYTES, ended).await;
        }
        gateway.limits.limiter().flush().await;
        gateway.usage.tell(&gateway).await;
        gateway.fleet.leave().await;
        tracing::info!("stopped");
    }
}

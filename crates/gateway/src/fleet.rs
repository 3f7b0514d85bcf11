//! This node among others: what nodes say of themselves every second, and what this one makes of it.
//!
//! Owns what was last heard of every other node, the leases this node holds and the queue of rests to be told. Health
//! decides what peers' words mean (`tidegate_health::registry`); a key pool decides what a told rest means.
//! While the store is away nothing waits for it: peers' words are void after `LIVES`, leases end by themselves, each
//! node tries what recovers for itself, and as many nodes are reckoned with as were last heard of, after `REMEMBERED`
//! no fewer than expected. Not here: the store itself, limits, whether a request may pass.

mod beat;
mod lease;
mod word;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tidegate_health::breaker::State;
use tidegate_health::registry::Registry;
use tidegate_store::Store;
use tidegate_store::fleet::Cooldown;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::health::now;
use crate::live::Live;
use crate::upstream::keys::Rest;
pub use word::Word;

/// A node that was not heard of for so long is gone, and a lease that was not renewed.
const LIVES: Duration = Duration::from_secs(5);
/// No call to the store takes longer. None of them is on the way of a request.
const WITHIN: Duration = Duration::from_millis(250);
/// The number of nodes last heard is good for this long without the store; then there may be more.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Rests that wait to be told.
const QUEUE: usize = 256;
/// Going away waits no longer than this.
const LEAVE: Duration = Duration::from_secs(1);

/// Told when the number of nodes changes.
pub type OnNodes = Box<dyn Fn(u32) + Send + Sync>;

/// This node's place among others.
pub struct Fleet {
    store: Store,
    /// Other nodes may use the store.
    shared: bool,
    node: String,
    zone: String,
    expected: u32,
    /// This run of this node.
    instance: u128,
    born: Instant,
    secret: Option<SecretString>,
    on_nodes: OnNodes,
    /// As last told.
    told_nodes: AtomicU32,
    heard: ArcSwap<Heard>,
    leases: Mutex<lease::Leases>,
    tell: mpsc::Sender<Rest>,
    /// Taken by `run`.
    rests: Mutex<Option<mpsc::Receiver<Rest>>>,
    leaving: CancellationToken,
    gone: CancellationToken,
}

/// What was last heard.
#[derive(Debug, Default)]
struct Heard {
    /// `None`: never.
    at: Option<Instant>,
    /// All but this one.
    peers: Vec<Peer>,
    /// All that do not leave, this one among them.
    nodes: u32,
}

/// Another node.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What it said.
    pub word: Arc<Word>,
    /// How old its word was when it was heard.
    pub age: Duration,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("node", &self.node)
            .field("nodes", &self.nodes())
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Alone until [`Fleet::run`] hears of others. `expected` nodes are reckoned with where the store was never reached.
    #[must_use]
    pub fn new(store: Store, node: String, zone: String, expected: u32) -> Self {
        let (tell, rests) = mpsc::channel(QUEUE);
        Self {
            shared: store.is_shared(),
            store,
            node,
            zone,
            expected,
            instance: fastrand::u128(..),
            born: Instant::now(),
            secret: None,
            on_nodes: Box::new(|_| {}),
            told_nodes: AtomicU32::new(0),
            heard: ArcSwap::default(),
            leases: Mutex::default(),
            tell,
            rests: Mutex::new(Some(rests)),
            leaving: CancellationToken::new(),
            gone: CancellationToken::new(),
        }
    }

    /// Keeps the names of keys from those who read the store.
    #[must_use]
    pub fn with_secret(mut self, secret: Option<SecretString>) -> Self {
        self.secret = secret;
        self
    }

    /// Calls `on_nodes` at the start of [`Fleet::run`] and whenever the number of nodes has changed.
    #[must_use]
    pub fn with_on_nodes(mut self, on_nodes: OnNodes) -> Self {
        self.on_nodes = on_nodes;
        self
    }

    /// How many nodes share what is limited, at least 1: as last heard; after ten minutes without the store, and where it
    /// was never reached, no fewer than expected. Always 1 where nothing is shared.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        if !self.shared {
            return 1;
        }
        let heard = self.heard.load();
        let fresh = heard.at.is_some_and(|at| at.elapsed() < REMEMBERED);
        let least = if fresh { 1 } else { self.expected.max(1) };
        heard.nodes.max(least)
    }

    /// The other nodes, as last heard; those of more than five seconds ago are gone.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let heard = self.heard.load();
        let since = heard.at.map_or(Duration::MAX, |at| at.elapsed());
        let mut peers = heard.peers.clone();
        peers.iter_mut().for_each(|peer| peer.age = peer.age.saturating_add(since));
        peers.retain(|peer| peer.age < LIVES);
        peers
    }

    /// This node alone is cut off from every upstream: it had better get no requests.
    #[must_use]
    pub fn is_dark(&self, registry: &Registry) -> bool {
        let serves = |peer: &Peer| peer.word.ready && !peer.word.cut_off && !peer.word.draining;
        registry.is_cut_off() && self.peers().iter().any(serves)
    }

    /// All nodes for the status page, this one first.
    #[must_use]
    pub fn status(&self, gateway: &Gateway) -> Value {
        let own = self.word(gateway).status(Duration::ZERO);
        let peers = self.peers();
        std::iter::once(own).chain(peers.iter().map(|peer| peer.word.status(peer.age))).collect()
    }

    /// Says this node's word, hears the others', leases what recovers and tells of rests, until [`Fleet::leave`]. Does
    /// nothing where nothing is shared.
    pub async fn run(self: Arc<Self>, live: Arc<Live>) {
        self.count_nodes();
        live.gateway().health.unleased(self.nodes());
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(rests) = rests.filter(|_| self.shared) else { return self.gone.cancel() };
        self.share_keys(&live.gateway());
        let all = async { tokio::join!(self.beats(&live), self.leases(&live), self.tells(rests)) };
        tokio::select! {
            _ = all => {}
            () = self.leaving.cancelled() => {}
        }
        let _ = self.store.leave(&self.key(), WITHIN).await;
        self.release_all(&live.gateway()).await;
        self.gone.cancel();
    }

    /// From now on other nodes are told of the rests of `gateway`'s keys, where anything is shared.
    pub fn share_keys(&self, gateway: &Gateway) {
        if !self.shared {
            return;
        }
        let salt = self.secret.as_ref().map(|secret| secret.expose_secret().as_bytes());
        for upstream in &gateway.upstreams {
            let url = &upstream.config.base_url;
            let scheme = if url.tls { "https" } else { "http" };
            let base = format!("{scheme}://{}{}", url.authority, url.path);
            upstream.keys.share(&base, salt, self.tell.clone());
        }
    }

    /// Takes this node out of the fleet and gives its leases back; at most a second. For the end of a drain: while it
    /// drains it says so itself.
    pub async fn leave(&self) {
        self.leaving.cancel();
        let runs = self.rests.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if runs {
            let _ = timeout(LEAVE, self.gone.cancelled()).await;
        }
    }

    /// Unique, even where two nodes were given one name.
    fn key(&self) -> String {
        format!("{}#{:08x}", self.node, (self.instance >> 96) as u32)
    }

    fn word(&self, gateway: &Gateway) -> Word {
        let said = word::About {
            instance: self.instance,
            name: &self.node,
            zone: &self.zone,
            started: gateway.started,
            config_hash: &gateway.config.hash,
            draining: gateway.drain.is_draining(),
            ready: gateway.drain.is_ready(),
        };
        Word::new(&said, gateway.health.report(now()))
    }

    /// Peers are heard of now.
    fn is_in_touch(&self) -> bool {
        self.heard.load().at.is_some_and(|at| at.elapsed() < LIVES)
    }

    fn count_nodes(&self) {
        let nodes = self.nodes();
        if self.told_nodes.swap(nodes, Ordering::Relaxed) != nodes {
            tracing::info!(nodes, "nodes that share limits");
            (self.on_nodes)(nodes);
        }
    }

    /// Tells of each rest at once: another node may be about to use that key.
    async fn tells(&self, mut rests: mpsc::Receiver<Rest>) {
        while let Some(rest) = rests.recv().await {
            let left = rest.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                continue;
            }
            if let Err(failure) = self.store.cool(&Cooldown { name: rest.name, left }, WITHIN).await {
                tracing::debug!(cause = %failure, "a rest is not told");
            }
        }
    }
}

/// Whether a path in this state takes no traffic.
const fn is_out(state: State) -> bool {
    matches!(state, State::Open | State::Shadowing | State::Disabled)
}

#[cfg(test)]
mod tests;

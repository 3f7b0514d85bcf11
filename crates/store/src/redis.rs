//! The store of a cluster of nodes: Redis or Valkey, alone, behind Sentinel, or as a Redis Cluster.
//!
//! Every operation is one script, so it happens whole or not at all, by the server's own clock. Owns three
//! connections: for what is short and urgent, for answers and usage, which may be long, and one that listens.
//! A call never waits for a connection: without one it fails at once ([`crate::Failure::Down`]), and a task
//! in the background finds the way back within seconds. Scripts, keys and why they are as they are: the files
//! beside this one; keys begin with the prefix and `v1:`, and each has an expiry. Not here: what is done
//! without the store.

mod answers;
mod breaker;
mod call;
mod days;
mod dial;
mod fault;
mod hint;
mod limits;
mod nodes;
mod reply;
mod script;
mod slot;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use script::Scripts;
use slot::Slot;

/// Who answers at the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Single,
    /// Sentinels, which know the master of this name.
    Sentinel {
        /// As the sentinels call it.
        master: String,
    },
    /// Nodes of a Redis Cluster; one that answers is enough.
    Cluster,
}

/// Where the store is, and who asks.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Who answers at the addresses.
    pub kind: Kind,
    /// TLS to all of them, verified against `ca`.
    pub tls: bool,
    /// PEM text of the only CAs that are trusted; none: the bundled roots. Not without `tls`.
    pub ca: Option<Vec<u8>>,
    /// Host and port; at least one.
    pub addresses: Vec<(String, u16)>,
    /// Of the ACL; absent: `default`.
    pub username: Option<String>,
    /// For the servers, and for sentinels that ask for one.
    pub password: Option<SecretString>,
    /// Number of the database; a Redis Cluster has only 0.
    pub database: i64,
    /// All keys and the channel begin with it.
    pub prefix: String,
    /// Unique name of this node.
    pub node: String,
}

impl Setup {
    const fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Single => "redis",
            Kind::Sentinel { .. } => "redis+sentinel",
            Kind::Cluster => "redis+cluster",
        }
    }

    fn channel(&self) -> String {
        format!("{}v1:hint", self.prefix)
    }
}

/// A Redis, there or not. Its methods may be called from any runtime.
pub struct Redis {
    setup: Arc<Setup>,
    scripts: Arc<Scripts>,
    control: Arc<Slot>,
    blobs: Arc<Slot>,
    heard: Arc<Notify>,
    /// Today, in days since 1970, as the store said last.
    day: AtomicI64,
    tasks: [AbortHandle; 3],
}

impl Redis {
    /// Begins to connect, in tasks of the current runtime, which must outlive it, and does not wait.
    ///
    /// # Errors
    /// What is wrong with `setup`, without secrets, or that there is no runtime.
    pub fn start(setup: Setup) -> Result<Self, String> {
        if setup.addresses.is_empty() {
            return Err("a store needs an address".to_owned());
        }
        if setup.kind == Kind::Cluster && setup.database != 0 {
            return Err("a Redis Cluster has only database 0".to_owned());
        }
        if setup.prefix.contains(['{', '}']) {
            // The braces of keys say what lies together in a cluster.
            return Err("the prefix of a store must not contain braces".to_owned());
        }
        dial::trustworthy(&setup)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| e.to_string())?;
        if setup.tls && rustls::crypto::CryptoProvider::get_default().is_none() {
            // Whoever comes first installs the same one.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        describe();
        let setup = Arc::new(setup);
        let scripts = Arc::new(Scripts::new());
        let control = Arc::new(Slot::new("store", setup.kind(), Some(gauge!("tidegate_store_up"))));
        let blobs = Arc::new(Slot::new("store cache", setup.kind(), None));
        let heard = Arc::new(Notify::new());
        let keep = |slot: &Arc<Slot>| {
            runtime.spawn(Arc::clone(slot).keep(Arc::clone(&setup), Arc::clone(&scripts))).abort_handle()
        };
        let listening = runtime.spawn(hint::hear(Arc::clone(&setup), Arc::clone(&heard))).abort_handle();
        let tasks = [keep(&control), keep(&blobs), listening];
        Ok(Self { setup, scripts, control, blobs, heard, day: AtomicI64::new(0), tasks })
    }

    /// `redis`, `redis+sentinel` or `redis+cluster`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.setup.kind()
    }

    /// See [`crate::Store::is_up`].
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.control.live().is_some()
    }

    /// See [`crate::Store::trouble`].
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.control.trouble()
    }

    /// See [`crate::Store::hinted`]. Cancel-safe.
    pub async fn hinted(&self) {
        self.heard.notified().await;
    }

    /// The key of `family` whose slot `tag` decides.
    fn key(&self, family: &str, tag: &str, rest: &str) -> String {
        // An empty tag is none, and keys that belong together would part.
        let guard = if tag.is_empty() || tag.starts_with('}') { "_" } else { "" };
        let colon = if rest.is_empty() { "" } else { ":" };
        format!("{}v1:{family}:{{{guard}{tag}}}{colon}{rest}", self.setup.prefix)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("setup", &self.setup).field("up", &self.is_up()).finish_non_exhaustive()
    }
}

fn describe() {
    describe_gauge!("tidegate_store_up", "1 while the shared store answers");
    describe_histogram!("tidegate_store_operation_seconds", "Time that a call of the shared store took");
    describe_counter!(
        "tidegate_store_failures_total",
        "Calls of the shared store without an answer, by reason"
    );
}

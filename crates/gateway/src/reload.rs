//! Another configuration while the node runs: read, checked and built whole, then put in force in one store.
//!
//! Owns the record of what was tried. One reload runs at a time; reading and building are done off the threads that
//! carry requests. A configuration that cannot be used changes nothing but the record, the log and the metric.
//! Not here: what stays known across configurations (`gateway::same`), and when the file is looked at (`watch`).

mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use metrics::{counter, gauge};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tidegate_config::used::{self, Config};
use tidegate_config::{Environment, Faults, Process, Purpose};

use crate::clock;
use crate::gateway::Gateway;
use crate::live::Live;

/// Faults of one try that are kept for the status page; the log has all of them.
const FAULTS_MAX: usize = 20;

/// Reloads that wait for the one that runs; more are refused.
const WAITING_MAX: usize = 8;
/// Labels of `config_reloads_total{outcome}`.
const OUTCOMES: [&str; 3] = ["applied", "unchanged", "refused"];

/// What asked for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The file, or one that it refers to, has changed.
    File,
    /// SIGHUP.
    Signal,
    /// `POST /api/reload`.
    Api,
}

impl Trigger {
    const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Signal => "signal",
            Self::Api => "api",
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line and column, from 1; `None`: the file as a whole.
    pub place: Option<(usize, usize)>,
    /// What is wrong and what is meant.
    pub text: String,
}

impl Fault {
    /// As operators read it.
    pub fn json(&self) -> Value {
        let (line, column) = self.place.unzip();
        json!({"line": line, "column": column, "text": self.text})
    }
}

/// A configuration that is in force now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// It, or a file that it refers to, is not what was in force before.
    pub changed: bool,
    /// Its hash.
    pub hash: String,
    /// Keys that are as they were until the node is started again.
    pub restart_needed: Vec<String>,
}

impl Applied {
    /// As operators read it.
    pub fn json(&self) -> Value {
        json!({"changed": self.changed, "config_hash": self.hash, "restart_needed": self.restart_needed})
    }
}

/// One try.
#[derive(Debug)]
struct Try {
    at: SystemTime,
    trigger: Trigger,
    result: Result<Applied, Vec<Fault>>,
}

/// What has been tried so far, for operators. Outlives configurations.
#[derive(Debug)]
pub struct Record {
    file: Option<PathBuf>,
    /// When the configuration in force was put in force.
    loaded_at: Mutex<SystemTime>,
    count: AtomicU64,
    last: ArcSwapOption<Try>,
    /// As of the last successful try.
    restart_needed: Mutex<Vec<String>>,
}

impl Record {
    /// Of a node that has just begun to run by `file`; `None`: by no file.
    pub fn new(file: Option<PathBuf>) -> Self {
        gauge!("tidegate_config_last_reload_successful").set(1.0);
        gauge!("tidegate_config_last_reload_timestamp_seconds").set(clock::unix_seconds());
        // An increase is only seen from a value that was there before.
        for outcome in OUTCOMES {
            counter!("tidegate_config_reloads_total", "outcome" => outcome).increment(0);
        }
        Self {
            file,
            loaded_at: Mutex::new(clock::wall()),
            count: AtomicU64::new(0),
            last: ArcSwapOption::empty(),
            restart_needed: Mutex::default(),
        }
    }

    /// For the status page. `hash` is that of the configuration in force.
    pub fn status(&self, hash: &str) -> Value {
        let last = self.last.load();
        let date = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
        json!({
            "hash": hash,
            "file": self.file.as_ref().map(|file| file.display().to_string()),
            "loaded_at": date(*self.loaded_at.lock().unwrap_or_else(PoisonError::into_inner)),
            "reloads": self.count.load(Ordering::Relaxed),
            "restart_needed": *self.restart_needed.lock().unwrap_or_else(PoisonError::into_inner),
            "last_reload": last.as_ref().map(|last| json!({
                "at": date(last.at),
                "successful": last.result.is_ok(),
                "trigger": last.trigger.word(),
                "faults": last.result.as_ref().err().into_iter().flatten().map(Fault::json).collect::<Vec<_>>(),
                "restart_needed": last.result.as_ref().map(|applied| applied.restart_needed.clone()).unwrap_or_default(),
            })),
        })
    }

    fn note(&self, trigger: Trigger, result: &Result<Applied, Vec<Fault>>) {
        let at = clock::wall();
        let [applied, unchanged, refused] = OUTCOMES;
        let outcome = match result {
            Err(_) => refused,
            Ok(result) if result.changed => applied,
            Ok(_) => unchanged,
        };
        counter!("tidegate_config_reloads_total", "outcome" => outcome).increment(1);
        gauge!("tidegate_config_last_reload_successful").set(f64::from(u8::from(result.is_ok())));
        if let Ok(applied) = result {
            gauge!("tidegate_config_last_reload_timestamp_seconds").set(clock::unix_seconds());
            (*self.restart_needed.lock().unwrap_or_else(PoisonError::into_inner))
                .clone_from(&applied.restart_needed);
            *self.loaded_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut result = result.clone();
        if let Err(faults) = &mut result {
            faults.truncate(FAULTS_MAX);
        }
        self.last.store(Some(Arc::new(Try { at, trigger, result })));
    }
}

/// Reads the file again.
#[derive(Debug)]
pub struct Reloader {
    live: Arc<Live>,
    file: PathBuf,
    /// Held for a whole reload. What it guards is what the file and all it refers to held when they were last read.
    seen: tokio::sync::Mutex<Seen>,
    waiting: AtomicUsize,
}

/// Files, each with a digest of what was in it.
type Seen = Vec<(PathBuf, Option<u64>)>;

impl Reloader {
    /// For the node that runs by what was `read` from `file` and what it refers to.
    pub fn new(live: Arc<Live>, file: PathBuf, read: &Reads) -> Self {
        Self { live, file, seen: tokio::sync::Mutex::new(read.seen()), waiting: AtomicUsize::new(0) }
    }

    /// Reads the file and all it refers to, and puts what it says in force. An error changes nothing.
    /// Not cancel-safe in that a reload that was begun is finished all the same.
    pub async fn reload(self: &Arc<Self>, trigger: Trigger) -> Result<Applied, Vec<Fault>> {
        let may_wait = |n: usize| (n < WAITING_MAX).then_some(n + 1);
        if self.waiting.fetch_update(Ordering::AcqRel, Ordering::Relaxed, may_wait).is_err() {
            return Err(vec![whole("several reloads wait already: try again when they are done".to_owned())]);
        }
        let reloader = Arc::clone(self);
        let task = tokio::spawn(async move {
            let mut seen = reloader.seen.lock().await;
            reloader.waiting.fetch_sub(1, Ordering::AcqRel);
            reloader.locked(trigger, &mut seen).await
        });
        task.await.unwrap_or_else(|error| Err(vec![whole(format!("the reload broke off: {error}"))]))
    }

    async fn locked(self: &Arc<Self>, trigger: Trigger, seen: &mut Seen) -> Result<Applied, Vec<Fault>> {
        let before = self.live.gateway();
        let reads = Reads::default();
        let built = {
            let (file, before, reads) = (self.file.clone(), Arc::clone(&before), reads.clone());
            tokio::task::spawn_blocking(move || build(&file, &reads, &before)).await
        };
        let built = built.unwrap_or_else(|error| Err(vec![whole(format!("it cannot be built: {error}"))]));
        let read = reads.seen();
        let changed = *seen != read;
        *seen = read;
        let result = built.map(|(next, restart_needed)| {
            let applied = Applied {
                changed: changed || next.config.hash != before.config.hash,
                hash: next.config.hash.clone(),
                restart_needed,
            };
            self.live.replace(Arc::new(next));
            applied
        });
        match &result {
            Ok(applied) => {
                tracing::info!(trigger = trigger.word(), changed = applied.changed, config_hash = %applied.hash, "configuration loaded");
                for key in &applied.restart_needed {
                    tracing::warn!(
                        key,
                        "this key has changed and holds once the node is started again; the rest holds now"
                    );
                }
            }
            Err(faults) => {
                let file = self.file.display();
                for Fault { place, text } in faults {
                    let at = place.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
                    tracing::error!(trigger = trigger.word(), "{file}{at}: {text}");
                }
                tracing::error!("the configuration is not reloaded: the one in force goes on");
            }
        }
        before.reloads.note(trigger, &result);
        result
    }

    /// Reloads if something looks otherwise than at the last reload.
    async fn look(self: &Arc<Self>) {
        let now = {
            let seen = self.seen.lock().await.clone();
            let look = move || {
                seen.iter().map(|(path, _)| (path.clone(), digest(&Process.read(path)))).collect::<Seen>()
            };
            tokio::task::spawn_blocking(look).await.unwrap_or_default()
        };
        if *self.seen.lock().await != now {
            // Its faults are in the log and the record.
            let _ = self.reload(Trigger::File).await;
        }
    }
}

fn whole(text: String) -> Fault {
    Fault { place: None, text }
}

/// The gateway of the file, and which keys it leaves as they were.
fn build(file: &Path, reads: &Reads, before: &Gateway) -> Result<(Gateway, Vec<String>), Vec<Fault>> {
    let loaded = tidegate_config::load_with(file, reads, Purpose::Serve).map_err(|faults| told(&faults))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let mut config = loaded.config;
    let mut restart_needed = tidegate_config::restart_needed(&before.config.effective, &config.effective);
    restart_needed.extend(other_secrets(&before.config, &config));
    restart_needed.sort_unstable();
    restart_needed.dedup();
    keep(&mut config, &before.config);
    let next = before.next(config).map_err(|why| vec![whole(why)])?;
    Ok((next, restart_needed))
}

fn told(faults: &Faults) -> Vec<Fault> {
    let fault = |fault: &tidegate_config::Fault| Fault {
        place: fault.place().map(|place| (place.line, place.column)),
        text: fault.text().to_owned(),
    };
    faults.iter().map(fault).collect()
}

/// Secrets behind the same references that are read at the start alone.
fn other_secrets(before: &Config, now: &Config) -> Vec<String> {
    let text = |secret: Option<&SecretString>| secret.map(|secret| secret.expose_secret().to_owned());
    let store = |config: &Config| {
        let store = config.store.as_ref();
        let of = |get: fn(&used::Store) -> Option<&SecretString>| text(store.and_then(get));
        [("store.password", of(|s| s.password.as_ref())), ("store.secret", of(|s| s.secret.as_ref()))]
    };
    let all = |config: &Config| {
        let [password, secret] = store(config);
        [("admin.token", text(config.admin.token.as_ref())), password, secret]
    };
    let pairs = all(before).into_iter().zip(all(now));
    pairs.filter(|(before, now)| before.1 != now.1).map(|((key, _), _)| key.to_owned()).collect()
}

/// What a running node cannot change stays as it is.
fn keep(config: &mut Config, before: &Config) {
    config.node = before.node.clone();
    config.listen = before.listen.clone();
    config.admin = before.admin.clone();
    config.store = before.store.clone();
    config.tracing = before.tracing.clone();
    config.log = before.log.clone();
    let mut effective = Value::clone(&config.effective);
    if let (Some(now), Some(before)) = (effective.as_object_mut(), before.effective.as_object()) {
        for section in tidegate_config::AT_START {
            match before.get(section) {
                Some(kept) => now.insert(section.to_owned(), kept.clone()),
                None => now.remove(section),
            };
        }
    }
    config.effective = Arc::new(effective);
}

/// This process's variables and files, and a note of every file that was read.
#[derive(Debug, Clone, Default)]
pub struct Reads(Arc<Mutex<Seen>>);

impl Reads {
    /// What was read, as it was when it was read first.
    fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Environment for Reads {
    fn variable(&self, name: &str) -> Option<String> {
        Process.variable(name)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let read = Process.read(path);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.iter().any(|(known, _)| known == path) {
            seen.push((path.to_owned(), digest(&read)));
        }
        read
    }
}

/// `None`: it cannot be read.
fn digest(read: &io::Result<Vec<u8>>) -> Option<u64> {
    let bytes = read.as_ref().ok()?;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    Some(hash.as_ref().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte)))
}

//! Notices that the configuration has changed.
//!
//! What the system says is taken as a hint to look, whatever it says: the folder is watched, so that a file renamed into
//! place and a Kubernetes ConfigMap, whose `..data` link is swapped, are seen like one that was written over. Without a
//! hint all files are looked at twice a minute, which is also how soon a rotated secret is noticed that lies elsewhere.
//! Where nothing can be watched that is all there is, and the log says so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::Reloader;

/// Without a hint.
const LOOK: Duration = Duration::from_secs(30);
/// A file that was written is left alone for this long, since whoever writes it may not be done.
const QUIET: Duration = Duration::from_millis(100);
/// One that is written all the time is read all the same.
const LOUD: Duration = Duration::from_millis(500);

impl Reloader {
    /// Watches for as long as the process lives.
    pub async fn watch(self: Arc<Self>) {
        let hint = Arc::new(Notify::new());
        let _watcher = watcher(&self.file, &hint)
            .inspect_err(|error| {
                tracing::warn!(%error, every = ?LOOK, "the configuration's folder cannot be watched: its files are looked at from time to time");
            })
            .ok();
        loop {
            if timeout(LOOK, hint.notified()).await.is_ok() {
                let by = Instant::now() + LOUD;
                while let Ok(Ok(())) = timeout_at(by, timeout(QUIET, hint.notified())).await {}
            }
            self.look().await;
        }
    }
}

fn watcher(file: &Path, hint: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let hint = Arc::clone(hint);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is no news.
        if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event)) {
            hint.notify_one();
        }
    })?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    // Where the file is a link, what it leads to may be written over as well.
    if let Some(real) = file.canonicalize().ok().as_deref().and_then(Path::parent)
        && folder.canonicalize().is_ok_and(|folder| folder != real)
    {
        // It may be swapped away at any moment; the folder above is what counts.
        let _ = watcher.watch(real, RecursiveMode::NonRecursive);
    }
    Ok(watcher)
}

fn is_written(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

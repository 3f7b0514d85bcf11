//! Notices that the configuration has changed.
//!
//! What the system says is taken as a hint to look, whatever it says: the folder is watched, so that a file renamed into
//! place and a Kubernetes ConfigMap, whose `..data` link is swapped, are seen like one that was written over. All files
//! are looked at every five seconds besides: a secret that lies elsewhere, or a folder that a link above it leads away
//! from, gives no hint. What is no file (a pipe) is not watched.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::Reloader;

/// Without a hint.
const LOOK: Duration = Duration::from_secs(5);
/// A file that was written is left alone for this long, since whoever writes it may not be done.
const QUIET: Duration = Duration::from_millis(100);
/// One that is written all the time is read all the same.
const LOUD: Duration = Duration::from_millis(500);

/// Folders that are watched, each with device and number: another folder may come to stand under the same name.
type Folders = Vec<(PathBuf, u64, u64)>;

impl Reloader {
    /// Watches for as long as the process lives.
    pub async fn watch(self: Arc<Self>) {
        let file = self.file.clone();
        let about = spawn_blocking(move || std::fs::metadata(file)).await;
        if about.is_ok_and(|about| about.is_ok_and(|about| !about.is_file())) {
            return tracing::warn!(
                "the configuration is no file: SIGHUP and POST /api/reload alone read it again"
            );
        }
        let hint = Arc::new(Notify::new());
        let mut watched: Option<(Folders, notify::Result<RecommendedWatcher>)> = None;
        loop {
            let file = self.file.clone();
            let folders = spawn_blocking(move || folders(&file)).await.unwrap_or_default();
            if watched.as_ref().is_none_or(|(before, _)| *before != folders) {
                let watcher = watcher(&folders, &hint).inspect_err(|error| {
                    tracing::warn!(%error, every = ?LOOK, "the configuration's folder cannot be watched: its files are looked at from time to time");
                });
                watched = Some((folders, watcher));
            }
            if timeout(LOOK, hint.notified()).await.is_ok() {
                let by = Instant::now() + LOUD;
                while let Ok(Ok(())) = timeout_at(by, timeout(QUIET, hint.notified())).await {}
            }
            self.look().await;
        }
    }
}

/// The folder of the file, and where the file is a link, that of what it leads to.
fn folders(file: &Path) -> Folders {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = file.canonicalize().ok().and_then(|real| real.parent().map(Path::to_owned));
    let mut folders = Folders::new();
    for folder in [folder.canonicalize().ok(), real].into_iter().flatten() {
        let Ok(about) = std::fs::metadata(&folder) else { continue };
        let entry = (folder, about.dev(), about.ino());
        if !folders.contains(&entry) {
            folders.push(entry);
        }
    }
    folders
}

fn watcher(folders: &Folders, hint: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let hint = Arc::clone(hint);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is no news.
        if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event)) {
            hint.notify_one();
        }
    })?;
    for (folder, ..) in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

fn is_written(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

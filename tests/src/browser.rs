//! A real Chromium, driven through `tests/browser/drive.mjs`: pages as people see them.
//!
//! Owns the driver's process, and the browser by it; both go when it is dropped. Every wait has the driver's own
//! deadline or the test's.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::parts;
use crate::soon;

/// The browser.
#[derive(Debug)]
pub struct Browser {
    wire: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    // In this order: what the browser keeps goes when it has been told to end.
    _driver: Child,
    _folder: TempDir,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// `prefers-color-scheme: dark`.
    pub dark: bool,
    /// JavaScript runs.
    pub script: bool,
}

impl View {
    /// A desk's screen, light, with JavaScript.
    pub const DESK: Self = Self { width: 1440, height: 900, dark: false, script: true };
    /// A phone's.
    pub const PHONE: Self = Self { width: 390, height: 844, ..Self::DESK };

    /// The same at night.
    pub const fn dark(self) -> Self {
        Self { dark: true, ..self }
    }

    /// The same without JavaScript.
    pub const fn plain(self) -> Self {
        Self { script: false, ..self }
    }
}

/// A page that is open.
#[derive(Debug)]
pub struct Tab<'a> {
    browser: &'a Browser,
    number: Value,
}

impl Browser {
    /// Starts it; `None` when a part of it is not installed.
    pub async fn start() -> Option<Self> {
        let (node, chromium) = (parts::program("node")?, parts::program("chromium")?);
        let modules = parts::playwright()?;
        let mut command = Command::new(node);
        command.arg(parts::root().join("tests/browser/drive.mjs")).arg(chromium).arg(modules);
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(variable);
        }
        let folder = tempfile::tempdir().unwrap();
        command.env("TMPDIR", folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut driver = command.spawn().unwrap();
        let (to, from) = (driver.stdin.take().unwrap(), driver.stdout.take().unwrap());
        Some(Self { wire: Mutex::new((to, BufReader::new(from).lines())), _driver: driver, _folder: folder })
    }

    async fn command(&self, command: Value) -> Value {
        let mut wire = self.wire.lock().await;
        wire.0.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let line = soon(&format!("the browser's answer to {command}"), wire.1.next_line()).await;
        let line = line.unwrap().unwrap_or_else(|| panic!("the browser has ended at {command}"));
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer.get("error"), None, "{command}");
        answer["value"].clone()
    }

    /// Opens a page in a profile of its own and waits until it is loaded.
    pub async fn open(&self, url: &str, view: View) -> Tab<'_> {
        let View { width, height, dark, script } = view;
        let command = json!({"do": "open", "url": url, "width": width, "height": height, "dark": dark, "script": script});
        Tab { browser: self, number: self.command(command).await }
    }
}

impl Tab<'_> {
    async fn command(&self, name: &str, of: &str) -> Value {
        self.browser.command(json!({"do": name, "tab": self.number, "of": of})).await
    }

    /// The value of a JavaScript expression in the page.
    pub async fn value(&self, expression: &str) -> Value {
        self.command("value", expression).await
    }

    /// The visible text of the first element that a selector finds; waited for.
    pub async fn text(&self, selector: &str) -> String {
        self.command("text", selector).await.as_str().unwrap().to_owned()
    }

    /// Clicks it, once it is there.
    pub async fn click(&self, selector: &str) {
        self.command("click", selector).await;
    }

    /// Presses a key, as `Enter`.
    pub async fn press(&self, key: &str) {
        self.command("press", key).await;
    }

    /// Writes into an input.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.browser.command(json!({"do": "fill", "tab": self.number, "of": selector, "text": text})).await;
    }

    /// A picture of the whole page, as PNG.
    pub async fn shot(&self, file: &Path) {
        let command = json!({"do": "shot", "tab": self.number, "file": file, "full": true});
        self.browser.command(command).await;
    }

    /// All that it asked of the network, by URL.
    pub async fn requests(&self) -> Vec<String> {
        let seen = self.command("seen", "").await;
        seen["requests"].as_array().unwrap().iter().map(|url| url.as_str().unwrap().to_owned()).collect()
    }

    /// Errors and warnings of its console, and what its script did not catch.
    pub async fn trouble(&self) -> Vec<String> {
        let seen = self.command("seen", "").await;
        seen["trouble"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }
}

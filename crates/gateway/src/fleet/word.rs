//! What a node says of itself, as it travels: JSON of at most 64 KiB.
//!
//! Other versions may say more, which is ignored, or less, which has defaults; what cannot be read at all is the
//! caller's to skip.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_health::breaker::State;
use tidegate_health::registry::{Report, Said, SubjectName};

/// Longer words are neither said nor read.
const MAX: usize = 64 * 1024;
/// Every number of JSON's is exact up to here; nothing counts that far.
const EPOCH_MAX: u64 = 1 << 53;
/// Names of nodes and the like are cut to this for people.
const TEXT_MAX: usize = 256;

/// A node's word.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Word {
    /// As configured; others may have the same.
    pub name: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    version: String,
    instance: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    config_hash: String,
    /// It is going away.
    #[serde(default)]
    pub draining: bool,
    /// It takes requests.
    #[serde(default)]
    pub ready: bool,
    /// All that it tries fails.
    #[serde(default)]
    pub cut_off: bool,
    #[serde(default)]
    epoch: u64,
    /// There was more to report than fits.
    #[serde(default)]
    truncated: bool,
    #[serde(default)]
    report: Vec<Line>,
}

/// One subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    own: bool,
    #[serde(default)]
    epoch: u64,
}

/// What a node is, apart from what it reports.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) instance: u128,
    pub(super) name: &'a str,
    pub(super) zone: &'a str,
    pub(super) started: SystemTime,
    pub(super) config_hash: &'a str,
    pub(super) draining: bool,
    pub(super) ready: bool,
}

impl Word {
    pub(super) fn new(about: &About<'_>, report: Report) -> Self {
        let line = |said: Said| Line {
            name: said.subject.name,
            model: said.subject.model,
            state: said.state.word().to_owned(),
            reason: said.reason.map(Cow::into_owned),
            own: said.own,
            epoch: said.epoch,
        };
        Self {
            name: about.name.to_owned(),
            zone: about.zone.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: format!("{:032x}", about.instance),
            started_at: humantime::format_rfc3339_millis(about.started).to_string(),
            config_hash: about.config_hash.to_owned(),
            draining: about.draining,
            ready: about.ready,
            cut_off: report.cut_off,
            epoch: report.epoch,
            truncated: false,
            report: report.said.into_iter().map(line).collect(),
        }
    }

    /// As it is sent: where it is too long, without the last of its report, which matters least.
    pub(super) fn payload(mut self) -> String {
        loop {
            // Strings, numbers and booleans: there is nothing that could fail.
            let payload = serde_json::to_string(&self).unwrap_or_default();
            if payload.len() <= MAX || self.report.is_empty() {
                return payload;
            }
            if !self.truncated {
                tracing::debug!(subjects = self.report.len(), "not all of the report fits into a word");
            }
            self.truncated = true;
            let fits = self.report.len() * MAX / payload.len();
            self.report.truncate(fits.min(self.report.len() - 1));
        }
    }

    /// The error says what is wrong with it.
    pub(super) fn read(payload: &str) -> Result<Self, String> {
        if payload.len() > MAX {
            return Err(format!("it is {} bytes long", payload.len()));
        }
        let mut word: Self = serde_json::from_str(payload).map_err(|error| error.to_string())?;
        if word.epoch > EPOCH_MAX || word.report.iter().any(|line| line.epoch > word.epoch) {
            return Err("its epochs cannot be".to_owned());
        }
        for text in
            [&mut word.name, &mut word.zone, &mut word.version, &mut word.started_at, &mut word.config_hash]
        {
            text.truncate(text.floor_char_boundary(TEXT_MAX));
        }
        Ok(word)
    }

    /// What it says of paths and models. States that this version does not know are left out.
    pub(super) fn report(&self) -> Report {
        let said = self.report.iter().filter_map(|line| {
            Some(Said {
                subject: SubjectName { name: line.name.clone(), model: line.model.clone() },
                state: State::of_word(&line.state)?,
                reason: line.reason.clone().map(Cow::Owned),
                own: line.own,
                epoch: line.epoch,
            })
        });
        Report { epoch: self.epoch, cut_off: self.cut_off, said: said.collect() }
    }

    /// For the status page.
    pub(super) fn status(&self, age: Duration) -> Value {
        let state = match (self.draining, self.ready, self.cut_off) {
            (true, ..) => "draining",
            (_, _, true) => "cut_off",
            (_, true, _) => "ready",
            _ => "starting",
        };
        let is_out =
            |line: &&Line| line.model.is_none() && State::of_word(&line.state).is_some_and(super::is_out);
        json!({
            "name": self.name,
            "zone": self.zone,
            "version": self.version,
            "state": state,
            "started_at": self.started_at,
            "config_hash": self.config_hash,
            "age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            "draining": self.draining,
            "cut_off": self.cut_off,
            "open": self.report.iter().filter(is_out).map(|line| line.name.as_str()).collect::<Vec<_>>(),
        })
    }
}

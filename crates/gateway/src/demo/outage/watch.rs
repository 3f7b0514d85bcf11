//! One upstream as its breaker goes through the outage: what the status page says of it, and what of that is new.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use crate::demo::simulated::door::Door;
use crate::demo::{COPIES, client};

/// What was on its way when a path opened still arrives.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// `/api/status`. The error says that there was none.
pub async fn status(admin: SocketAddr) -> anyhow::Result<Value> {
    let answer = client::call(admin, "/api/status", Bytes::new()).await?;
    Ok(serde_json::from_slice(&answer.body)?)
}

/// One upstream and what was last seen of its only path.
#[derive(Debug)]
pub struct Watched {
    /// It.
    pub door: Arc<Door>,
    /// Of its path, as the status page says.
    pub state: String,
    /// From its opening to its first users' requests.
    pub dead: Option<Range<Instant>>,
    share: f64,
    /// When copies could first be sent, and how many have been.
    proving: Option<Instant>,
    copies: usize,
}

impl Watched {
    /// Closed, as all begin.
    pub fn new(door: Arc<Door>) -> Self {
        Self { door, state: "closed".to_owned(), dead: None, share: 1.0, proving: None, copies: 0 }
    }

    /// Takes in a status and gives a line for each thing that is new in it. `broke_at`: when the trouble began.
    pub fn look(&mut self, status: &Value, broke_at: Instant) -> Vec<String> {
        let name = self.door.name;
        let paths = status.get("paths").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let text =
            |path: &Value, key: &str| path.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let ours = |path: &&Value| text(path, "name").split('@').next() == Some(name);
        let Some(path) = paths.iter().find(ours) else { return Vec::new() };
        let (state, reason) = (text(path, "state"), text(path, "reason"));
        let share = path.get("share").and_then(Value::as_f64).unwrap_or_default();
        let changed = state != self.state;
        let was_share = std::mem::replace(&mut self.share, share);
        let was = std::mem::replace(&mut self.state, state);
        let mut lines = self.copied();
        if changed {
            let since = instant(&text(path, "since"));
            self.mark(&was, since);
            let after = since.saturating_duration_since(broke_at).as_millis();
            match self.state.as_str() {
                "open" if was == "closed" => {
                    lines.push(format!(
                        "{name}: open after {after} ms ({reason}). No user's request goes there."
                    ));
                }
                "open" => lines.push(format!("{name}: open again ({reason}).")),
                "shadowing" => {
                    self.proving = Some(since);
                    self.copies = 0;
                    let why = match reason.as_str() {
                        "probes_pass" => "its probes pass, which proves little",
                        _ => "its rest is over",
                    };
                    lines
                        .push(format!("{name}: shadowing: {why}. Copies of users' requests are sent to it."));
                }
                "ramping" => {
                    self.proving = None;
                    lines.push(format!(
                        "{name}: ramping: proven. Users' requests return, at {} of its share.",
                        percent(share)
                    ));
                }
                "closed" => lines.push(format!("{name}: closed. All of its share is back.")),
                _ => lines.push(format!("{name}: {} ({reason}).", self.state)),
            }
        } else if self.state == "ramping" && share != was_share {
            lines.push(format!("{name}: ramping, at {}.", percent(share)));
        }
        lines
    }

    fn mark(&mut self, was: &str, since: Instant) {
        match (was, self.state.as_str()) {
            ("closed", _) if self.dead.is_none() => self.dead = Some(since + ON_ITS_WAY..since + ON_ITS_WAY),
            (_, "ramping" | "closed") => {
                if let Some(dead) = self.dead.as_mut().filter(|dead| dead.is_empty()) {
                    dead.end = since;
                }
            }
            _ => {}
        }
    }

    fn copied(&mut self) -> Vec<String> {
        let Some(since) = self.proving else { return Vec::new() };
        let before = self.copies;
        self.copies = self.door.seen(since..Instant::now()).copies_answered;
        let new = before + 1..=self.copies.min(COPIES);
        new.map(|copy| {
            format!("{}: copy {copy} of {COPIES} is answered, which no user sees.", self.door.name)
        })
        .collect()
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.door.name, self.state)?;
        if self.state == "ramping" { write!(f, " at {}", percent(self.share)) } else { Ok(()) }
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A date of the status page, by the clock that decides.
fn instant(date: &str) -> Instant {
    let now = Instant::now();
    let Ok(date) = humantime::parse_rfc3339(date) else { return now };
    let age = crate::clock::wall().duration_since(date).unwrap_or_default();
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(watched: &mut Watched, state: &str, share: f64) -> Vec<String> {
        let since = humantime::format_rfc3339_millis(crate::clock::wall()).to_string();
        let path = json!({"name": "primary@direct", "state": state, "share": share, "reason": "probe", "since": since});
        watched.look(&json!({"paths": [{"name": "local@direct", "state": "disabled"}, path]}), Instant::now())
    }

    #[test]
    fn each_change_is_told_once() {
        let door = Arc::new(Door::new("primary", SocketAddr::from(([127, 0, 0, 1], 1))));
        let mut watched = Watched::new(door);
        let mut told = Vec::new();
        let steps = [
            ("closed", 1.0),
            ("open", 0.0),
            ("shadowing", 0.0),
            ("ramping", 0.05),
            ("ramping", 0.1),
            ("closed", 1.0),
        ];
        for (state, share) in steps.into_iter().flat_map(|step| [step, step]) {
            told.extend(seen(&mut watched, state, share));
        }
        let words = ["open after", "shadowing", "5 %", "10 %", "closed"];
        assert_eq!(told.len(), words.len(), "{told:#?}");
        for (line, word) in told.iter().zip(words) {
            assert!(line.starts_with("primary: ") && line.contains(word), "{line}");
        }
        assert!(watched.dead.is_some());
    }
}

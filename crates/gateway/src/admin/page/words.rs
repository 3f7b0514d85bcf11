//! What the page says in words: why a path is as it is, how the node is as a whole, times and amounts.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::out::{at, flag, list, word};

/// Why a path is in its state, for the word of `reason`.
pub(super) fn why(state: &str, reason: &str) -> &'static str {
    match reason {
        "" if state == "closed" => "Nothing has gone wrong since the start",
        "consecutive_failures" => "It failed several times in a row",
        "failure_rate" => "Too many of its requests failed",
        "cut_streams" => "Too many of its streams broke off",
        "slow_calls" => "Too many of its answers were slow",
        "stalled" => "Requests waited and nothing answered",
        "probe" => "Its probes failed",
        "html" => "It sent pages instead of answers",
        "certificate" => "Its certificate is not acceptable",
        "egress" => "Its way out is broken",
        "upstream" => "Its upstream fails over every way out",
        "proxy_login" => "The proxy refused our login",
        "shadow_failed" => "A trial request failed",
        "shadow_unproven" => "Trial requests did not prove it in time",
        "ramp_failed" => "Requests failed while its traffic came back",
        "rested" => "Its rest is over, and trial requests go to it",
        "probes_pass" => "Its probes pass again, and trial requests go to it",
        "proven" => "Trial requests passed, and its traffic comes back in steps",
        "probes_alone" => "Its probes pass and nothing else could be tried",
        "ramped" => "All of its traffic came back",
        "fleet" => "Other nodes found it so",
        "operator" => "An operator decided so",
        "new" => "The configuration has just brought it, and its traffic rises in steps",
        _ => "",
    }
}

/// What a state means for traffic.
pub(super) fn means(state: &str) -> &'static str {
    match state {
        "closed" => "traffic flows",
        "ramping" => "traffic comes back",
        "shadowing" => "trial requests only",
        "open" => "no traffic",
        "disabled" => "taken out",
        _ => "",
    }
}

/// A path's own state, whatever single models of it are.
pub(super) fn own(path: &Value) -> &str {
    match word(path, "own_state") {
        "" => word(path, "state"),
        own => own,
    }
}

/// Users' requests go over the path.
pub(super) fn serves(path: &Value) -> bool {
    matches!(own(path), "closed" | "ramping")
}

/// How many models get no requests over a path that serves.
pub(super) fn shut(path: &Value) -> usize {
    let shut = |model: &&Value| matches!(word(model, "state"), "open" | "shadowing");
    if serves(path) { list(path, "models").iter().filter(shut).count() } else { 0 }
}

/// So many models, at the beginning of a sentence.
pub(super) fn models(count: usize) -> String {
    if count == 1 { "One model".to_owned() } else { format!("{count} models") }
}

/// The verb to that.
pub(super) const fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// How bad things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// All is well.
    Good,
    /// Somebody may want to look.
    Watch,
    /// Somebody should.
    Bad,
}

impl Tone {
    /// For the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Watch => "watch",
            Self::Bad => "bad",
        }
    }
}

/// The node as a whole: how it is, and that in sentences, the worst first.
pub(super) fn headline(status: &Value) -> (Tone, Vec<String>) {
    let mut said: Vec<(Tone, String)> = Vec::new();
    let node = at(status, "node");
    if flag(node, "draining") {
        said.push((Tone::Watch, "This node drains: what runs is finished, nothing new is taken.".into()));
    }
    if flag(node, "cut_off") {
        said.push((Tone::Bad, "Cut off: everything this node tries fails.".into()));
    }
    let reload = at(at(status, "config"), "last_reload");
    if reload.get("successful").and_then(Value::as_bool) == Some(false) {
        said.push((Tone::Bad, "The last reload failed; the configuration before it stays in force.".into()));
    }
    let paths = list(status, "paths");
    let of = |states: &[&str]| -> Vec<&str> {
        let found = paths.iter().filter(|path| states.contains(&own(path)));
        found.map(|path| word(path, "name")).collect()
    };
    for (states, tone, one, many) in [
        (&["open"][..], Tone::Bad, "takes no traffic", "take no traffic"),
        (&["shadowing"][..], Tone::Watch, "is being tried", "are being tried"),
        (&["ramping"][..], Tone::Watch, "comes back", "come back"),
        (&["disabled"][..], Tone::Watch, "is taken out", "are taken out"),
    ] {
        match of(states).as_slice() {
            [] => {}
            [name] => said.push((tone, format!("{name} {one}."))),
            [first, second] => said.push((tone, format!("{first} and {second} {many}."))),
            more => said.push((tone, format!("{} of {} paths {many}.", more.len(), paths.len()))),
        }
    }
    let partly: Vec<(&str, usize)> =
        paths.iter().map(|path| (word(path, "name"), shut(path))).filter(|(_, shut)| *shut > 0).collect();
    let text = match partly.as_slice() {
        [] => None,
        [(name, shut)] => Some(format!("{} of {name} {} shut.", models(*shut), are(*shut))),
        [(first, _), (second, _)] => Some(format!("Some models of {first} and {second} are shut.")),
        more => Some(format!("Some models of {} of {} paths are shut.", more.len(), paths.len())),
    };
    said.extend(text.map(|text| (Tone::Watch, text)));
    for route in list(status, "routes").iter().filter(|route| flag(route, "fallback_active")).take(2) {
        let text = format!("A fallback answers for route {}.", word(route, "model"));
        said.push((Tone::Bad, text));
    }
    if word(at(status, "store"), "state") == "down" {
        said.push((Tone::Bad, "The store is away, and this node goes on alone.".into()));
    }
    if said.is_empty() {
        said.push((Tone::Good, "Every path serves.".to_owned()));
    }
    said.sort_by_key(|(tone, _)| std::cmp::Reverse(*tone));
    let tone = said.first().map_or(Tone::Good, |(tone, _)| *tone);
    (tone, said.into_iter().map(|(_, text)| text).collect())
}

/// A time of milliseconds as people read it.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 1_000.0 => format!("{ms:.0} ms"),
        _ if ms < 100_000.0 => format!("{:.1} s", ms / 1_000.0),
        _ => span(Duration::from_secs_f64((ms / 1_000.0).min(1e9))),
    }
}

/// A length of time in its two largest units, or its largest.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago an RFC 3339 time was.
pub(super) fn ago(date: &str, now: SystemTime) -> Option<Duration> {
    let then = humantime::parse_rfc3339_weak(date.get(..19)?).ok()?;
    Some(now.duration_since(then).unwrap_or_default())
}

/// How far an RFC 3339 time is off.
pub(super) fn until(date: &str, now: SystemTime) -> Option<Duration> {
    let then = humantime::parse_rfc3339(date).ok()?;
    then.duration_since(now).ok()
}

/// The time of day of an RFC 3339 time.
pub(super) fn clock(date: &str) -> &str {
    date.get(11..19).unwrap_or(date)
}

/// Bytes.
pub(super) fn bytes(amount: u64) -> String {
    let amount = amount as f64;
    match amount {
        _ if amount < 1024.0 => format!("{amount:.0} B"),
        _ if amount < 1_048_576.0 => format!("{:.0} KiB", amount / 1024.0),
        _ if amount < 1_073_741_824.0 => format!("{:.1} MiB", amount / 1_048_576.0),
        _ => format!("{:.1} GiB", amount / 1_073_741_824.0),
    }
}

/// A share of 0 to 1; what is there is never shown as nothing, nor what is not all as all.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent.round() {
        _ if percent > 0.0 && percent < 0.5 => "<1 %".to_owned(),
        rounded if rounded >= 100.0 && percent < 100.0 => ">99 %".to_owned(),
        rounded => format!("{rounded:.0} %"),
    }
}

/// Requests a second.
pub(super) fn rate(rate: f64) -> String {
    if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

/// No longer than so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_headline_says_the_worst_and_all_of_it() {
        assert_eq!(headline(&json!({})), (Tone::Good, vec!["Every path serves.".to_owned()]));
        let path = |name: &str, state: &str| json!({"name": name, "state": state});
        let status = json!({
            "paths": [path("a@direct", "open"), path("b@direct", "ramping"), path("c@direct", "closed")],
            "routes": [{"model": "*", "fallback_active": true}],
        });
        let (tone, text) = headline(&status);
        assert_eq!(tone, Tone::Bad);
        let all = ["a@direct takes no traffic.", "A fallback answers for route *.", "b@direct comes back."];
        assert_eq!(text, all);
    }

    #[test]
    fn shares_are_never_rounded_to_nothing_or_all() {
        for (share, text) in [(0.0, "0 %"), (0.001, "<1 %"), (0.25, "25 %"), (0.999, ">99 %"), (1.0, "100 %")]
        {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn every_reason_of_a_breaker_has_its_words() {
        for reason in tidegate_health::breaker::Reason::ALL {
            assert!(!why("open", reason.word()).is_empty(), "{}", reason.word());
        }
    }

    #[test]
    fn times_are_read_off_dates() {
        let now = humantime::parse_rfc3339("2026-11-21T10:00:10.500Z").unwrap();
        assert_eq!(ago("2026-11-21T10:00:00.123Z", now).map(|time| time.as_secs()), Some(10));
        assert_eq!(until("2026-11-21T10:00:17.500Z", now), Some(Duration::from_secs(7)));
        assert_eq!(until("2026-11-21T09:00:00.000Z", now), None);
        assert_eq!(ago("no date", now), None);
    }
}

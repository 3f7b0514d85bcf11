//! What changed from one effective configuration to another.
//!
//! Owns how a change is named: by the names an operator gave, not by places in lists, so that an entry put before
//! others changes nothing but itself. Works on values alone, because one side may come from another node, of another
//! version. What an upstream only takes over from the file's own `health` is told once, there.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::build::is_label;

/// Sections that are read when a node starts and never again.
pub const AT_START: [&str; 6] = ["node", "listen", "admin", "store", "tracing", "log"];
/// Lists whose order decides something.
const ORDERED: [&str; 3] = ["routes", "fallback", "prices"];
/// A longer value is cut in a line.
const SHOWN_MAX: usize = 160;

/// One change. Displays as one line: `~ routes["gpt-4*"].retry.attempts: 3 -> 5`, `+ upstreams.azure`,
/// `- clients.team-b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Where: keys, and names of entries of lists, joined by dots; `["..."]` around what is no simple name.
    pub path: String,
    /// What happened there.
    pub change: Change,
}

/// What happened to a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It was not there.
    Added(Value),
    /// It is no longer there.
    Removed(Value),
    /// It has another value.
    Changed {
        /// The old one.
        from: Value,
        /// The new one.
        to: Value,
    },
    /// The entries of a list stand in another order, which decides something; those on one side alone left out.
    Reordered {
        /// Their names as they stood.
        from: Vec<String>,
        /// Their names as they stand.
        to: Vec<String>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.change {
            Change::Added(value) if is_section(value) => write!(f, "+ {path}"),
            Change::Removed(value) if is_section(value) => write!(f, "- {path}"),
            Change::Added(value) => write!(f, "+ {path}: {}", shown(value)),
            Change::Removed(value) => write!(f, "- {path}: {}", shown(value)),
            Change::Changed { from, to } => write!(f, "~ {path}: {} -> {}", shown(from), shown(to)),
            Change::Reordered { from, to } => {
                let names = |names: &[String]| cut(format!("[{}]", names.join(", ")));
                write!(f, "~ {path}, in another order: {} -> {}", names(from), names(to))
            }
        }
    }
}

/// What changes from one effective configuration to another (`Config::effective`, or what `GET /api/config` answers),
/// sorted by path. Empty when both mean the same.
#[must_use]
pub fn differences(from: &Value, to: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    compare("", "", from, to, &mut all);
    let own: HashMap<String, Change> = all
        .iter()
        .filter(|difference| difference.path.starts_with("health."))
        .map(|difference| (difference.path.clone(), difference.change.clone()))
        .collect();
    all.retain(|difference| {
        let inner = difference.path.strip_prefix("upstreams.").and_then(|rest| rest.split_once(".health."));
        inner.is_none_or(|(_, key)| own.get(&format!("health.{key}")) != Some(&difference.change))
    });
    all.sort_by(|one, other| one.path.cmp(&other.path));
    all
}

/// The paths among the differences that a running node takes up only when it is started again, sorted: those of
/// `node`, `listen`, `admin`, `store`, `tracing` and `log`. As `listen.address`, or `store` when the section came or went.
#[must_use]
pub fn restart_needed(from: &Value, to: &Value) -> Vec<String> {
    let paths = differences(from, to).into_iter().map(|difference| difference.path);
    paths.filter(|path| AT_START.contains(&path.split('.').next().unwrap_or_default())).collect()
}

/// `key`: the one that `path` ends with.
fn compare(path: &str, key: &str, from: &Value, to: &Value, all: &mut Vec<Difference>) {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => compare_sections(path, from, to, all),
        (Value::Array(before), Value::Array(after)) => match (names(before), names(after)) {
            (Some(before), Some(after)) => compare_lists(path, key, &before, &after, all),
            _ => changed(path, from, to, all),
        },
        _ => changed(path, from, to, all),
    }
}

fn changed(path: &str, from: &Value, to: &Value, all: &mut Vec<Difference>) {
    if from != to {
        let change = Change::Changed { from: from.clone(), to: to.clone() };
        all.push(Difference { path: path.to_owned(), change });
    }
}

fn compare_sections(
    path: &str,
    from: &Map<String, Value>,
    to: &Map<String, Value>,
    all: &mut Vec<Difference>,
) {
    // A reference is one thing: it changes whole.
    if is_reference(from) || is_reference(to) {
        return changed(path, &from.clone().into(), &to.clone().into(), all);
    }
    for (key, before) in from {
        let path = step(path, key);
        match to.get(key) {
            Some(after) => compare(&path, key, before, after, all),
            None => all.push(Difference { path, change: Change::Removed(before.clone()) }),
        }
    }
    for (key, after) in to.iter().filter(|(key, _)| !from.contains_key(*key)) {
        all.push(Difference { path: step(path, key), change: Change::Added(after.clone()) });
    }
}

fn compare_lists(
    path: &str,
    key: &str,
    from: &[(String, &Value)],
    to: &[(String, &Value)],
    all: &mut Vec<Difference>,
) {
    let table = |list: &[(String, &Value)]| -> HashMap<String, Value> {
        list.iter().map(|(name, value)| (name.clone(), (*value).clone())).collect()
    };
    let (before, after) = (table(from), table(to));
    for (name, value) in from {
        let path = step(path, name);
        match after.get(name) {
            Some(after) => compare(&path, name, value, after, all),
            None => all.push(Difference { path, change: Change::Removed((*value).clone()) }),
        }
    }
    for (name, value) in to.iter().filter(|(name, _)| !before.contains_key(name)) {
        all.push(Difference { path: step(path, name), change: Change::Added((*value).clone()) });
    }
    if ORDERED.contains(&key) {
        let kept = |list: &[(String, &Value)], other: &HashMap<String, Value>| -> Vec<String> {
            list.iter().map(|(name, _)| name.clone()).filter(|name| other.contains_key(name)).collect()
        };
        let (from, to) = (kept(from, &after), kept(to, &before));
        if from != to {
            all.push(Difference { path: path.to_owned(), change: Change::Reordered { from, to } });
        }
    }
}

/// Names for the entries of a list of sections, `#2` after the second of one name; `None` when they have none.
fn names(list: &[Value]) -> Option<Vec<(String, &Value)>> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut named = |value| {
        let (name, value) = name_of(value)?;
        let times = times.entry(name.clone()).and_modify(|times| *times += 1).or_insert(1);
        Some((if *times == 1 { name } else { format!("{name}#{times}") }, value))
    };
    list.iter().map(&mut named).collect()
}

/// What tells an entry from the others of its list, and what there is to compare of it.
fn name_of(value: &Value) -> Option<(String, &Value)> {
    let section = value.as_object()?;
    let text = |key: &str| section.get(key).and_then(Value::as_str);
    if let Some(name) = text("name").or_else(|| text("upstream")).or_else(|| text("kid")) {
        return Some((name.to_owned(), value));
    }
    if let Some(model) = section.get("match").and_then(|of| of.get("model")).and_then(Value::as_str) {
        return Some((model.to_owned(), value));
    }
    if let Some((meter, amount)) =
        ["requests", "tokens", "usd", "in_flight"].iter().find_map(|key| Some((*key, section.get(*key)?)))
    {
        let per = text("per").map(|per| format!("{per} ")).unwrap_or_default();
        let span = amount.as_str().and_then(|rate| rate.split_once('/'));
        let span = span.map(|(_, span)| format!("/{span}")).unwrap_or_default();
        return Some((format!("{per}{meter}{span}"), value));
    }
    // An entry of a table whose order counts.
    match (section.iter().next(), section.len()) {
        (Some((key, inner)), 1) if inner.is_object() => Some((key.clone(), inner)),
        _ => None,
    }
}

/// `{env: NAME}`, `{file: PATH}` and their like.
fn is_reference(section: &Map<String, Value>) -> bool {
    section.len() == 1 && section.keys().all(|key| matches!(&**key, "env" | "file" | "vault" | "aws"))
}

fn step(path: &str, key: &str) -> String {
    match (path, is_label(key) && !key.contains('.')) {
        ("", true) => key.to_owned(),
        (_, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{}]", Value::from(key)),
    }
}

/// The same, cut for a line.
fn shown(value: &Value) -> String {
    cut(written(value))
}

/// As an operator would write it.
pub(crate) fn written(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => {
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{key}: {}", written(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// Too much for a line: a limit or a price is shown whole, an upstream or a route by its name alone.
fn is_section(value: &Value) -> bool {
    let nested = |value: &Value| value.is_object() || value.is_array();
    value.as_object().is_some_and(|entries| entries.is_empty() || entries.values().any(nested))
}

/// Whether a text can stand without quotes between others.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !"\"'[]{},".contains(c))
}

fn cut(text: String) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{differences, restart_needed};

    fn told(from: &Value, to: &Value) -> Vec<String> {
        differences(from, to).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entries_are_known_by_their_names_not_by_their_places() {
        let upstream = |name: &str, connect: &str| json!({"name": name, "timeouts": {"connect": connect}});
        let from = json!({"upstreams": [upstream("a", "5s"), upstream("b", "5s")]});
        let to = json!({"upstreams": [upstream("new.er", "1s"), upstream("b", "2s"), upstream("a", "5s")]});
        assert_eq!(told(&from, &to), ["~ upstreams.b.timeouts.connect: 5s -> 2s", "+ upstreams[\"new.er\"]"]);
        assert_eq!(told(&to, &from).last().map(String::as_str), Some("- upstreams[\"new.er\"]"));
        assert_eq!(told(&from, &from), [""; 0]);
    }

    #[test]
    fn the_order_of_routes_and_prices_is_told_and_that_of_upstreams_is_not() {
        let routes = |models: &[&str]| {
            let all: Vec<Value> = models.iter().map(|model| json!({"match": {"model": model}})).collect();
            json!({"routes": all, "upstreams": models.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()})
        };
        assert_eq!(
            told(&routes(&["a", "b*", "a"]), &routes(&["b*", "a", "a"])),
            ["~ routes, in another order: [a, b*, a#2] -> [b*, a, a#2]"]
        );
        let prices = |input: u32| json!({"prices": [{"gpt-4*": {"input": input}}, {"*": {"input": 1}}]});
        assert_eq!(told(&prices(1), &prices(2)), ["~ prices[\"gpt-4*\"].input: 1 -> 2"]);
    }

    #[test]
    fn what_fits_a_line_is_shown_whole() {
        let from = json!({"limits": [], "upstreams": []});
        let limit = json!({"per": "ip", "requests": "6/h"});
        let to = json!({"limits": [limit], "upstreams": [{"name": "a", "timeouts": {"connect": "5s"}}]});
        assert_eq!(
            told(&from, &to),
            ["+ limits[\"ip requests/h\"]: {per: ip, requests: 6/h}", "+ upstreams.a"]
        );
    }

    #[test]
    fn limits_are_known_by_what_they_count() {
        let limits = |limits: Value| json!({"clients": [{"name": "c", "limits": limits}]});
        let from = limits(json!([{"tokens": "5/min", "burst": 5}, {"tokens": "9/day"}, {"in_flight": 3}]));
        let to = limits(json!([{"tokens": "9/day"}, {"tokens": "6/min", "burst": 6}, {"in_flight": 4}]));
        assert_eq!(
            told(&from, &to),
            [
                "~ clients.c.limits.in_flight.in_flight: 3 -> 4",
                "~ clients.c.limits[\"tokens/min\"].burst: 5 -> 6",
                "~ clients.c.limits[\"tokens/min\"].tokens: 5/min -> 6/min",
            ]
        );
        let own = |burst: u32| json!({"limits": [{"per": "ip", "requests": "1/s", "burst": burst}]});
        assert_eq!(told(&own(1), &own(2)), ["~ limits[\"ip requests/s\"].burst: 1 -> 2"]);
    }

    #[test]
    fn a_value_and_a_list_of_values_change_whole() {
        let from =
            json!({"a": {"keys": [{"env": "A"}], "egress": ["direct"], "token": {"env": "A"}, "p": "x y"}});
        let to = json!({"a": {"keys": [{"env": "A"}, {"file": "b c"}], "egress": ["hk", "direct"], "token": {"file": "A"}}});
        assert_eq!(
            told(&from, &to),
            [
                "~ a.egress: [direct] -> [hk, direct]",
                "~ a.keys: [{env: A}] -> [{env: A}, {file: \"b c\"}]",
                "- a.p: \"x y\"",
                "~ a.token: {env: A} -> {file: A}",
            ]
        );
        let long = told(&json!({"a": ""}), &json!({"a": "\n".repeat(500)}));
        assert!(long.iter().all(|line| line.len() < 400 && line.ends_with("...") && !line.contains('\n')));
    }

    #[test]
    fn what_upstreams_take_over_is_told_once() {
        let all = |own: &str, a: &str, b: &str| {
            let health = |open_for: &str| json!({"breaker": {"open_for": open_for}});
            json!({"health": health(own), "upstreams": [
                {"name": "a", "health": health(a)},
                {"name": "b", "health": health(b)},
            ]})
        };
        assert_eq!(
            told(&all("10s", "10s", "1s"), &all("20s", "20s", "2s")),
            ["~ health.breaker.open_for: 10s -> 20s", "~ upstreams.b.health.breaker.open_for: 1s -> 2s"]
        );
    }

    #[test]
    fn sections_that_are_read_at_the_start_need_another_one() {
        let from = json!({"listen": {"address": "a", "max_body": "1MiB"}, "log": {"level": "info"}, "routes": [], "node": {"name": "n"}});
        let to = json!({"listen": {"address": "b", "max_body": "1MiB"}, "log": {"level": "debug"}, "routes": [1], "node": {"name": "n"}, "store": {"url": "u"}});
        assert_eq!(restart_needed(&from, &to), ["listen.address", "log.level", "store"]);
        assert_eq!(restart_needed(&from, &from), [""; 0]);
    }
}

//! The reference of the file, made from its schema: every section with its keys, their types and defaults.
//!
//! Owns how it reads. What it says of a key is the key's own description, and what it says is not built is what a
//! check of the example refuses. Not here: how a file is put together, which the documentation tells by example.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;

use serde_json::Value;

use crate::difference::written;
use crate::schema::{annotated, definition};
use crate::{Purpose, parse};

/// Every key there is.
const EXAMPLE: &str = include_str!("../tests/whole.yaml");
/// A secret stands in many places, and is told of in one.
const SECRET: &str = "Secret";

const HEAD: &str = "# Configuration reference

<!-- Made by `tidegate schema --format markdown > docs/configuration.md`; changes by hand are lost. -->

One YAML file holds everything. `tidegate check --config FILE` names each fault by line and column, and
`tidegate check --config FILE --against http://NODE:9090` tells what a file would change on a running node, which says
what it runs by at `GET /api/config`. [operating.md](operating.md) goes through it by example;
[configs/](../configs/) has whole files to start from.

Unknown keys are faults. `${VAR}` and `${VAR:-default}` are taken from the environment in any scalar, between [ ] or
{ } in quotes; `$${` stands for `${`. A default is what holds where a key is absent; a key without one is off or empty
then.
";

/// The reference of the configuration file, in Markdown.
#[must_use]
pub fn reference() -> String {
    let schema = annotated();
    let sections = Sections::find(&schema);
    let mut out = String::from(HEAD);
    let example = EXAMPLE.lines().skip_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n");
    // Writing to a text cannot fail.
    let _ = write!(
        out,
        "\n## Example\n\nEvery key there is. It shows forms, not a setup to copy.\n\n```yaml\n{example}\n```\n"
    );
    let unbuilt = unbuilt();
    if !unbuilt.is_empty() {
        let _ = write!(out, "\nNot in this version, and refused by its name: {}.\n", unbuilt.join(", "));
    }
    let _ = write!(out, "\n## Values\n\n| type | written |\n|---|---|\n");
    for due in dues(&schema) {
        if let Some((name, forms)) = due.split_once(" such as ") {
            let _ = writeln!(out, "| {} | {forms} |", bare(name));
        }
    }
    let secrets = title("secret");
    let _ =
        writeln!(out, "| secret | a reference, never the secret itself: [{secrets}](#{}) |", slug(&secrets));
    let _ = write!(out, "\n## The file\n");
    sections.table(&schema, &mut out);
    for name in sections.within("") {
        sections.tell(name, 2, &mut out);
    }
    sections.tell(SECRET, 2, &mut out);
    out
}

/// The named sections of a schema.
struct Sections<'s> {
    schema: &'s Value,
    /// By name: where the section stands, by the shortest way, and the name of the one around it.
    places: HashMap<&'s str, (String, &'s str)>,
    /// In the order of their discovery.
    order: Vec<&'s str>,
}

impl<'s> Sections<'s> {
    fn find(schema: &'s Value) -> Self {
        let mut found = Self { schema, places: HashMap::new(), order: Vec::new() };
        found.places.insert(SECRET, ("secret".to_owned(), SECRET));
        let secret =
            definition(schema, "#/$defs/Secret").map(|(_, about)| (SECRET, about, "secret".to_owned()));
        let mut open: VecDeque<(&str, &Value, String)> =
            [("", schema, String::new())].into_iter().chain(secret).collect();
        while let Some((parent, about, path)) = open.pop_front() {
            for (key, about) in keys(about) {
                let Some((name, about)) = referred(schema, about) else { continue };
                if found.places.contains_key(name) {
                    continue;
                }
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                found.places.insert(name, (path.clone(), parent));
                found.order.push(name);
                open.push_back((name, about, path));
            }
        }
        found
    }

    /// The sections that stand in this one first, in the order of its keys.
    fn within(&self, parent: &str) -> impl Iterator<Item = &'s str> {
        self.order
            .iter()
            .copied()
            .filter(move |name| self.places.get(name).is_some_and(|(_, around)| *around == parent))
    }

    /// A section with all that stand in it.
    fn tell(&self, name: &'s str, level: usize, out: &mut String) {
        let about = self.schema.get("$defs").and_then(|all| all.get(name));
        let (Some((path, _)), Some(about)) = (self.places.get(name), about) else { return };
        let _ = write!(out, "\n{} {}\n", "#".repeat(level), title(path));
        if let Some(text) = about.get("description").and_then(Value::as_str) {
            let _ = write!(out, "\n{}\n", text.replace('\n', " "));
        }
        self.table(about, out);
        for inner in self.within(name) {
            self.tell(inner, 3, out);
        }
    }

    fn table(&self, about: &Value, out: &mut String) {
        let needed: Vec<&str> = about
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let _ = write!(out, "\n| key | type | default | |\n|---|---|---|---|\n");
        for (key, about) in keys(about) {
            let default = about.get("default").map(written);
            let told =
                about.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
            let told = if default.is_some() { without_default(&told) } else { told };
            let default = match default {
                Some(default) => format!("`{default}`"),
                None if needed.contains(&key) => "needed".to_owned(),
                None => String::new(),
            };
            let cells =
                [format!("`{key}`"), self.kind(about), default, told].map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }

    /// How a type is called, with a link where it is a section.
    fn kind(&self, about: &Value) -> String {
        if let Some((path, _)) = about
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| self.places.get(definition(self.schema, reference)?.0))
        {
            return format!("[{path}](#{})", slug(&title(path)));
        }
        if let Some(due) = about.get("x-due").and_then(Value::as_str) {
            return bare(due.split_once(" such as ").map_or(due, |(name, _)| name)).to_owned();
        }
        if let Some(words) = about.get("anyOf").and_then(|any| any.get(0)?.get("enum")?.as_array()) {
            return words.iter().map(|word| format!("`{}`", written(word))).collect::<Vec<_>>().join(", ");
        }
        if let Some(inner) = about.get("additionalProperties").filter(|inner| inner.is_object()) {
            return format!("table of {}", self.kind(inner));
        }
        match about.get("items") {
            Some(inner) => format!("list of {}", self.kind(inner)),
            None => about.get("type").map(written).unwrap_or_default(),
        }
    }
}

/// The keys of a section in the order of the docs.
fn keys(about: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let properties = about.get("properties").and_then(Value::as_object);
    let order = about.get("x-keys").and_then(Value::as_array);
    let names: Vec<&str> = match (order, properties) {
        (Some(order), _) => order.iter().filter_map(Value::as_str).collect(),
        (None, Some(properties)) => properties.keys().map(String::as_str).collect(),
        (None, None) => Vec::new(),
    };
    names.into_iter().filter_map(move |name| Some((name, properties?.get(name)?)))
}

/// The section that a key holds, alone, in a list or in a table.
fn referred<'s>(schema: &'s Value, about: &'s Value) -> Option<(&'s str, &'s Value)> {
    if let Some(reference) = about.get("$ref").and_then(Value::as_str) {
        return definition(schema, reference).filter(|(_, about)| about.get("properties").is_some());
    }
    let inner = about.get("items").and_then(|items| referred(schema, items));
    inner.or_else(|| referred(schema, about.get("additionalProperties")?))
}

/// What a check of the example refuses because it is not built, each once. Where the example says the value that asks
/// for nothing, one that asks for something is put in.
fn unbuilt() -> Vec<String> {
    const ASKED: [(&str, &str); 9] = [
        ("${HOSTNAME:-tidegate-0}", "example"),
        ("early_commit: 0s", "early_commit: 15s"),
        ("resumable: false", "resumable: true"),
        ("continue: false", "continue: true"),
        ("bodies: false", "bodies: true"),
        ("api: openai", "api: azure"),
        ("local: true", "api: anthropic"),
        ("{env: JP_TOKEN}", "{vault: {path: p, field: f}}"),
        ("{env: HK_PASS}", "{aws: {secret_id: s}}"),
    ];
    let asking = ASKED.iter().fold(EXAMPLE.to_owned(), |text, (from, to)| text.replace(from, to));
    let nothing: BTreeMap<String, String> = BTreeMap::new();
    let Err(faults) = parse("example", asking.as_bytes(), &nothing, Purpose::Check) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for fault in faults.iter() {
        let Some((name, _)) = fault.text().split_once(" not built yet") else { continue };
        let name = name.trim_end_matches(" is").trim_end_matches(" are");
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// How values of one scalar type are written, each once.
fn dues(schema: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    collect(schema, &mut found);
    found.sort_unstable();
    found.dedup();
    found
}

fn collect<'s>(value: &'s Value, found: &mut Vec<&'s str>) {
    match value {
        Value::Object(entries) => {
            found.extend(entries.get("x-due").and_then(Value::as_str));
            entries.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// Without its article.
fn bare(name: &str) -> &str {
    name.strip_prefix("a ").or_else(|| name.strip_prefix("an ")).unwrap_or(name)
}

/// The description without its word on the default, which has a column of its own.
fn without_default(text: &str) -> String {
    for (begin, end) in [("Default ", "."), (" (default ", ")")] {
        if let Some((before, rest)) = text.split_once(begin) {
            // A default may hold a point; its sentence ends at the end, or before the next one.
            let after = match end {
                "." => rest.split_once(". ").map_or("", |(_, after)| after),
                _ => rest.split_once(end).map_or("", |(_, after)| after),
            };
            return format!("{before}{after}").trim().to_owned();
        }
    }
    text.to_owned()
}

fn title(path: &str) -> String {
    if path == "secret" { "Secrets".to_owned() } else { path.to_owned() }
}

/// The anchor that a heading gets.
fn slug(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{reference, slug, without_default};

    #[test]
    fn the_page_is_the_one_in_the_documentation() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md"));
        assert!(
            page.is_ok_and(|page| page == reference()),
            "docs/configuration.md is out of date: run `cargo run -p tidegate -- schema --format markdown > docs/configuration.md`"
        );
    }

    #[test]
    fn every_link_has_its_heading() {
        let page = reference();
        let headings: Vec<String> = page
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| slug(line.trim_start_matches('#').trim()))
            .collect();
        let links: Vec<&str> = page.split("](#").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(links.len() > 40, "{links:?}");
        for link in links {
            assert_eq!(headings.iter().filter(|heading| *heading == link).count(), 1, "{link}");
        }
    }

    #[test]
    fn a_default_is_told_once() {
        for (text, want) in [
            ("How often. Default 5s.", "How often."),
            ("Share, 0.001 to 1. Default 0.5.", "Share, 0.001 to 1."),
            ("This many trips (default 3)", "This many trips"),
            ("Default x. More.", "More."),
            ("No word of it.", "No word of it."),
        ] {
            assert_eq!(without_default(text), want);
        }
    }
}

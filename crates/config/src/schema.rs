//! The JSON Schema of the file, for editors.
//!
//! Made from the same types the file is read into, so it knows the same keys. It is wider than the reader where a
//! schema cannot say more: references, ranges, and what is not built. Defaults are those in force: the file below is
//! read as any other is, and what it has beyond its own words are the defaults.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::Purpose;
use crate::build::build;
use crate::effective::Shown;
use crate::fault::Collector;
use crate::read::Read;
use crate::said::File;
use crate::secret::Around;
use crate::tree::grow;

/// Every section that has defaults, with the words it cannot do without. What depends on the host or on other keys is
/// said, too, and has no default in the schema then.
const LEAST: &str = r#"
node: {name: n}
store: {url: "redis://h"}
egress: [{name: e, proxy: "http://h:1"}]
upstreams: [{name: u, base_url: "https://u/v1"}]
routes: [{match: {model: m}, to: [u], fallback: [{upstream: u}], cache: {ttl: 1h}}]
limits: [{per: ip, requests: 1/s, burst: 1}, {per: node, in_flight: 1}]
prices: {m: {input: 1, output: 1}}
tracing: {otlp: "http://h:4318"}
"#;

/// JSON Schema (draft 2020-12) of a whole configuration file, with a description on every key and its default where
/// it has one.
#[must_use]
pub fn schema() -> Value {
    let mut schema = annotated();
    strip(&mut schema);
    schema
}

/// The schema with what the reference needs besides: `x-keys`, a section's keys in their order, and `x-due`, how a
/// value is called.
pub(crate) fn annotated() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    schema.insert("title".to_owned(), "Tidegate configuration".into());
    let mut schema = schema.to_value();
    let mut found = Vec::new();
    if let Some((said, in_force)) = least() {
        defaults(&schema, &schema, "", &said, &in_force, &mut found);
    }
    for (section, key, value) in found {
        let place = if section.is_empty() { String::new() } else { format!("/$defs/{section}") };
        if let Some(about) =
            schema.pointer_mut(&format!("{place}/properties/{key}")).and_then(Value::as_object_mut)
        {
            about.insert("default".to_owned(), value);
        }
    }
    schema
}

/// What [`LEAST`] says, and what is in force then.
fn least() -> Option<(Value, Value)> {
    let nothing: BTreeMap<String, String> = BTreeMap::new();
    let around = Around { environment: &nothing, purpose: Purpose::Check, folder: Path::new("") };
    let mut faults = Collector::new("");
    let file = File::read(&*grow(LEAST, &nothing, &mut faults)?, &mut faults)?;
    let config = build(&file, String::new(), &around, &mut faults)?;
    Some((file.shown(), config.effective.as_ref().clone()))
}

/// Finds the keys of a section that are in force without being said: the section's name, the key, the value. An empty
/// list is no default but the absence of all that could be in it.
fn defaults(
    root: &Value,
    about: &Value,
    section: &str,
    said: &Value,
    in_force: &Value,
    found: &mut Vec<(String, String, Value)>,
) {
    let (section, about) = match about.get("$ref").and_then(Value::as_str) {
        Some(reference) => match definition(root, reference) {
            Some(referred) => referred,
            None => return,
        },
        None => (section, about),
    };
    let Some(keys) = about.get("properties").and_then(Value::as_object) else { return };
    for (key, about) in keys {
        let (said, Some(in_force)) = (said.get(key), in_force.get(key)) else { continue };
        match in_force {
            Value::Object(_) => defaults(root, about, section, said.unwrap_or(&Value::Null), in_force, found),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let Some(about) = about.get("items") else { continue };
                for (index, in_force) in items.iter().enumerate() {
                    let said = said.and_then(|said| said.get(index)).unwrap_or(&Value::Null);
                    defaults(root, about, section, said, in_force, found);
                }
            }
            Value::Array(items) if items.is_empty() => {}
            _ if said.is_none() => found.push((section.to_owned(), key.clone(), in_force.clone())),
            _ => {}
        }
    }
}

/// The name and the schema a `$ref` refers to.
pub(crate) fn definition<'s>(root: &'s Value, reference: &'s str) -> Option<(&'s str, &'s Value)> {
    let name = reference.strip_prefix("#/$defs/")?;
    Some((name, root.get("$defs")?.get(name)?))
}

/// Leaves out what only the reference needs.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            *entries = std::mem::replace(entries, Map::new())
                .into_iter()
                .filter(|(key, _)| !matches!(&**key, "x-keys" | "x-due"))
                .collect();
            entries.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::{annotated, schema};
    use crate::difference::written;
    use crate::unit::duration;

    /// Their features are not built, so that no file shows what would be in force.
    const UNBUILT: [&str; 3] = ["Filter", "Batch", "Context"];

    /// Each key with its section, its description and its default.
    fn keys(schema: &Value) -> Vec<(String, String, Option<Value>)> {
        let mut all = Vec::new();
        for (name, section) in schema["$defs"].as_object().unwrap() {
            for (key, about) in section["properties"].as_object().into_iter().flatten() {
                let text = about["description"].as_str().unwrap_or_default();
                all.push((format!("{name}.{key}"), text.replace('\n', " "), about.get("default").cloned()));
            }
        }
        all
    }

    fn time(text: &str) -> Option<Duration> {
        duration(text).ok()
    }

    #[test]
    fn the_words_on_a_default_are_those_of_the_default_in_force() {
        let mut compared = 0;
        for (key, text, default) in keys(&annotated()) {
            let Some((_, told)) = text.split_once("Default ").or_else(|| text.split_once("(default ")) else {
                // What is off or told in other words has no word on a default.
                let off = |value| ["0s".into(), Value::Bool(false)].contains(&value);
                assert!(default.is_none_or(off) || key == "Upstream.capabilities", "{key}");
                continue;
            };
            if UNBUILT.iter().any(|section| key.starts_with(section)) {
                assert_eq!(default, None, "{key} is built: the list above is too long");
                continue;
            }
            let told = told.trim_end_matches(['.', ')']).trim_matches('`').replace(" and ", ", ");
            let told = told.trim_start_matches('[').trim_end_matches(']');
            let default = default.unwrap_or_else(|| panic!("{key} has no default in the schema"));
            let shown = written(&default);
            let shown = shown.trim_start_matches('[').trim_end_matches(']').replace('"', "");
            let same = shown == told || (time(told).is_some() && time(told) == time(&shown));
            assert!(same, "{key}: {shown} is in force, and its words are {told}");
            compared += 1;
        }
        assert!(compared > 60, "{compared}");
    }

    #[test]
    fn notes_for_the_reference_stay_out_of_the_schema() {
        assert!(annotated().to_string().contains("\"x-due\""));
        assert!(!schema().to_string().contains("\"x-"));
    }
}

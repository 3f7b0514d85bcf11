//! `${VAR}` and `${VAR:-default}` in a scalar; `$${` stands for `${` itself.
//!
//! Owns nothing. A variable that is unset and has no default is a fault, never an empty text: a gateway that
//! came up with half an address would be worse than one that did not come up.

use crate::environment::Environment;
use crate::fault::quote;

/// The text with its variables filled in; `None` when there is nothing to fill in. As in a shell, `:-` also
/// takes the default when the variable is set but empty.
///
/// # Errors
/// What is wrong, once for each variable.
pub(crate) fn expand(text: &str, environment: &dyn Environment) -> Result<Option<String>, Vec<String>> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut wrong = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            wrong.push(
                "`${` is never closed: write ${NAME} or ${NAME:-default}, or $${ for `${` itself".to_owned(),
            );
            rest = "";
            break;
        };
        rest = after;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            wrong.push(format!("{} names no variable: write ${{NAME}} or ${{NAME:-default}}", quote(name)));
            continue;
        }
        match (environment.variable(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => wrong.push(format!(
                "the variable {name} is not set: set it, or give a default as in ${{{name}:-default}}"
            )),
        }
    }
    out.push_str(rest);
    if wrong.is_empty() { Ok(Some(out)) } else { Err(wrong) }
}

/// What a shell takes as a variable's name, at most 128 characters.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::expand;

    #[test]
    fn variables_defaults_and_escapes() {
        let set: BTreeMap<String, String> =
            [("A", "1"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, want) in [
            ("plain $A {x}", None),
            ("${A}", Some("1")),
            ("x${A}y${A}", Some("x1y1")),
            ("${B:-two}", Some("two")),
            ("${EMPTY}", Some("")),
            ("${EMPTY:-d}", Some("d")),
            ("${B:-}", Some("")),
            ("$${A}", Some("${A}")),
            ("^a$", None),
        ] {
            assert_eq!(expand(text, &set).unwrap().as_deref(), want, "{text}");
        }
        for (text, faults) in [("${B} ${C}", 2), ("${", 1), ("${A", 1), ("${1A}", 1), ("${}", 1)] {
            assert_eq!(expand(text, &set).unwrap_err().len(), faults, "{text}");
        }
    }
}

//! A route's `fallback:`.

use super::check::{self, Names, count, count32};
use crate::fault::{Collector, Place, quote};
use crate::read::{Item, Said};
use crate::said::route::{self, When};
use crate::unit::Text;
use crate::used;

/// What a system prompt may have filled in.
const PLACEHOLDER: &str = "original_system";

/// The fallbacks in the order of the file; `to` are the route's own upstreams.
pub(super) fn fallbacks(
    said: &Said<Vec<Item<route::Fallback>>>,
    to: &[usize],
    upstreams: &Names<'_>,
    faults: &mut Collector,
) -> Vec<used::Fallback> {
    let mut all: Vec<(used::Fallback, Place)> = Vec::new();
    for item in said.items() {
        let when = when(&item.value.when, faults);
        let model = model(&item.value.model, faults);
        let prompt = prompt(&item.value.prompt, faults);
        let Some((Text(name), place)) = item.value.upstream.at() else { continue };
        let Some(upstream) = upstreams.find(name, place, faults) else { continue };
        let fallback = used::Fallback { upstream, when, model, prompt };
        if to.contains(&upstream) {
            let text = format!(
                "{} is in `to` of this route, too: what makes its paths unusable there mostly hits this fallback as well",
                quote(name)
            );
            faults.warn(place, text);
        }
        if let Some((_, first)) = all.iter().find(|(other, _)| is_again(other, &fallback)) {
            let text = format!(
                "this fallback is tried already, with the same model, by the one in line {}: remove it, or give it a `model` or a `when` of its own",
                first.line
            );
            faults.warn(place, text);
        }
        all.push((fallback, place));
    }
    all.into_iter().map(|(fallback, _)| fallback).collect()
}

/// Whether there is a case in which both send the same model to the same upstream.
fn is_again(one: &used::Fallback, other: &used::Fallback) -> bool {
    let (a, b) = (one.when, other.when);
    one.upstream == other.upstream
        && one.model == other.model
        && ((a.unavailable && b.unavailable)
            || (a.context_length_exceeded && b.context_length_exceeded)
            || (a.rate_limited && b.rate_limited))
}

fn when(said: &Said<Vec<Item<When>>>, faults: &mut Collector) -> used::When {
    let Some((items, place)) = said.at() else { return used::When::default() };
    if items.is_empty() {
        faults.fault(
            place,
            "no case: this fallback would never be tried; write at least one, as in [unavailable]",
        );
    }
    let has = |case| items.iter().any(|item| item.value == case);
    used::When {
        unavailable: has(When::Unavailable),
        context_length_exceeded: has(When::ContextLengthExceeded),
        rate_limited: has(When::RateLimited),
    }
}

fn model(said: &Said<Text>, faults: &mut Collector) -> Option<String> {
    let (text, place) = said.at()?;
    if text.0.contains('*') {
        faults.fault(place, "a fallback's `model` is sent as it stands: write one model, not a pattern");
    } else {
        check::glob(text, place, faults);
    }
    Some(text.0.clone())
}

fn prompt(said: &Said<route::Prompt>, faults: &mut Collector) -> used::Prompt {
    let Some(said) = said.get() else { return used::Prompt::default() };
    let max_tokens = count32(&said.max_tokens, "max_tokens", 1..=1_000_000_000, 1, faults);
    let keep = count(&said.keep_last_turns, "keep_last_turns", 1..=1_000_000, 1, faults);
    let system = said.system.at().map(|(Text(text), place)| {
        if let Some(name) = placeholders(text).find(|&name| name != PLACEHOLDER) {
            let text = format!(
                "unknown placeholder {}: `{{{PLACEHOLDER}}}` is the only one",
                quote(&format!("{{{name}}}"))
            );
            faults.fault(place, text);
        }
        text.clone()
    });
    used::Prompt {
        system,
        max_tokens: said.max_tokens.get().map(|_| max_tokens),
        keep_last_turns: said.keep_last_turns.get().map(|_| keep),
    }
}

/// The words in braces; braces around anything else, as in JSON, are text.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    words.filter(|word| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

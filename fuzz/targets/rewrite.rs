//! Whole bodies rewritten: what is mirrored is bounded and the same when mirrored again; what is adapted is a body
//! that names its model and has kept its last turn.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate_wire::adapt::{Able, Adaptation, adapt};
use tidegate_wire::answer::Dialect;
use tidegate_wire::mirror::{MAX_BODY, MirrorRules, mirror};
use tidegate_wire::request::peek;

const DIALECTS: [Dialect; 5] =
    [Dialect::Chat, Dialect::Completions, Dialect::Embeddings, Dialect::Responses, Dialect::Other];

fn check_mirror(dialect: Dialect, body: &[u8], reasoning: bool) {
    let rules = MirrorRules { max_tokens: 16, reasoning };
    let Ok(copy) = mirror(dialect, body, rules) else { return };
    assert!(body.len() <= MAX_BODY);
    let whole: Value = serde_json::from_slice(&copy).expect("a copy is JSON");
    let bounds = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    let bound = bounds.iter().filter_map(|key| whole[*key].as_f64()).fold(f64::INFINITY, f64::min);
    assert!(bound <= 16.0 || dialect == Dialect::Embeddings);
    assert!(["user", "metadata", "safety_identifier"].iter().all(|key| whole.get(*key).is_none()));
    assert!(dialect != Dialect::Responses || whole["store"] == false);
    // Written as numbers are written here, a body may be longer than it came.
    if copy.len() <= MAX_BODY {
        assert_eq!(mirror(dialect, &copy, rules), Ok(copy));
    }
}

fn last_turn(whole: &Value, key: &str) -> Option<Vec<Value>> {
    let own = |message: &&Value| message["role"] != "system" && message["role"] != "developer";
    let messages: Vec<Value> = whole[key].as_array()?.iter().filter(own).cloned().collect();
    let first = messages.iter().rposition(|message| message["role"] == "user")?;
    Some(messages[first..].to_vec())
}

fn check_adapt(dialect: Dialect, body: &Bytes, adaptation: &Adaptation<'_>, able: &Able) {
    let Ok(out) = adapt(dialect, body, adaptation, able) else { return };
    let before: Value = serde_json::from_slice(body).expect("what was adapted is JSON");
    let after: Value = serde_json::from_slice(&out).expect("what comes out is JSON");
    let name = peek(&out).expect("a body").model.map(|field| field.name);
    assert_eq!(name.as_deref(), adaptation.model.or(before["model"].as_str()));
    for (dialect_of, key) in [(Dialect::Chat, "messages"), (Dialect::Responses, "input")] {
        if dialect == dialect_of {
            assert_eq!(last_turn(&before, key), last_turn(&after, key));
        }
    }
    for key in before.as_object().expect("an object").keys() {
        let gone = key == "instructions" || key.eq_ignore_ascii_case("model");
        assert!(gone || after.get(key).is_some(), "lost {key}");
    }
}

fuzz_target!(|body: &[u8]| {
    let bytes = Bytes::copy_from_slice(body);
    let all = Able { tools: true, json_schema: true, vision: true, prefill: true, context_window: None };
    let small = Able { context_window: Some(300), vision: false, ..all };
    let named = Adaptation { model: Some("small \"1\""), ..Adaptation::default() };
    let full = Adaptation {
        system: Some("Briefly. {original_system}"),
        max_tokens: Some(32),
        keep_last_turns: Some(2),
        ..named
    };
    for dialect in DIALECTS {
        for reasoning in [false, true] {
            check_mirror(dialect, body, reasoning);
        }
        for adaptation in [Adaptation::default(), named, full] {
            for able in [all, small] {
                check_adapt(dialect, &bytes, &adaptation, &able);
            }
        }
    }
});

//! Peeking at answers, events, errors and model lists: never fails on what is valid JSON, and agrees with a whole
//! reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::Value;
use tidegate_wire::answer::{BadAnswer, Chunk, Dialect, peek_answer, peek_chunk};
use tidegate_wire::error::parse_error;
use tidegate_wire::models::{models_body, parse_models};

const DIALECTS: [Dialect; 5] =
    [Dialect::Chat, Dialect::Completions, Dialect::Embeddings, Dialect::Responses, Dialect::Other];

fn says(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// A document with the same key twice in one object is read differently by different readers, and skipped here.
fn without_duplicates(text: &str, whole: &Value) -> bool {
    fn keys(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.iter().map(keys).sum(),
            Value::Object(entries) => entries.len() + entries.values().map(keys).sum::<usize>(),
            _ => 0,
        }
    }
    // Outside strings, a colon stands behind each key and nowhere else.
    let (mut colons, mut inside, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b':' if !inside => colons += 1,
            _ => {}
        }
    }
    keys(whole) == colons
}

fn check_chunk(data: &[u8], whole: Option<&Value>, is_object: bool) {
    for dialect in DIALECTS {
        match peek_chunk(dialect, data) {
            Chunk::Done => assert_eq!(data.trim_ascii(), b"[DONE]"),
            Chunk::Malformed => assert!(!is_object),
            Chunk::Event(peek) => {
                assert!(is_object);
                assert!(peek.content || !peek.terminal);
                let Some(whole) = whole else { continue };
                let choices = whole["choices"].as_array().map_or(&[][..], |choices| choices);
                let finished = choices.iter().any(|choice| says(&choice["finish_reason"]));
                match dialect {
                    Dialect::Chat => {
                        let said = [
                            "content",
                            "reasoning_content",
                            "reasoning",
                            "refusal",
                            "tool_calls",
                            "function_call",
                            "audio",
                        ];
                        let content =
                            choices.iter().any(|choice| said.iter().any(|key| says(&choice["delta"][*key])));
                        assert_eq!((peek.content, peek.terminal), (content || finished, finished));
                    }
                    Dialect::Completions => {
                        let content = choices.iter().any(|choice| says(&choice["text"]));
                        assert_eq!((peek.content, peek.terminal), (content || finished, finished));
                    }
                    Dialect::Embeddings | Dialect::Responses | Dialect::Other => {}
                }
                let error = &whole["error"];
                let flat = dialect == Dialect::Responses && whole["type"] == "error";
                let told = error.is_object() || error.as_str().is_some_and(|text| !text.is_empty());
                assert_eq!(peek.error.is_some(), told || flat);
                if let Some(prompt) = whole["usage"]["prompt_tokens"]
                    .as_u64()
                    .filter(|_| whole["usage"]["input_tokens"].is_null())
                {
                    assert_eq!(peek.usage.map(|usage| usage.prompt), Some(prompt));
                }
            }
        }
    }
}

fn check_answer(body: &[u8], whole: Option<&Value>, valid: bool) {
    for dialect in DIALECTS {
        let bad = peek_answer(dialect, body).err();
        if matches!(bad, Some(BadAnswer::Empty)) {
            assert!(body.trim_ascii().is_empty());
            continue;
        }
        let container = matches!(body.trim_ascii().first(), Some(b'{' | b'['));
        assert_eq!(matches!(bad, Some(BadAnswer::NotJson)), !(valid && container));
        if let Some(whole) = whole.filter(|whole| whole.is_object()) {
            let answered = match dialect {
                Dialect::Chat | Dialect::Completions => {
                    whole["choices"].as_array().is_some_and(|c| !c.is_empty())
                }
                Dialect::Embeddings => whole["data"].is_array(),
                Dialect::Responses => {
                    whole["output"].is_array() || says(&whole["id"]) || says(&whole["status"])
                }
                Dialect::Other => true,
            };
            assert_eq!(bad.is_none(), answered);
        }
    }
}

fn check_models(body: &[u8]) {
    let Some(models) = parse_models(body) else { return };
    let merged = models_body(&models);
    let again = parse_models(&merged).expect("a list of ours is a list");
    assert_eq!(merged, models_body(&again));
    let mut ids: Vec<&str> = again.iter().map(|model| model.id.as_str()).collect();
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert!(models.iter().all(|model| ids.binary_search(&model.id.as_str()).is_ok()));
}

fuzz_target!(|body: &[u8]| {
    let text = std::str::from_utf8(body).ok();
    let valid = text.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let is_object = valid && body.trim_ascii().first() == Some(&b'{');
    let whole = text.and_then(|text| {
        let whole = serde_json::from_str::<Value>(text).ok()?;
        without_duplicates(text, &whole).then_some(whole)
    });
    check_chunk(body, whole.as_ref(), is_object);
    check_answer(body, whole.as_ref(), valid);
    check_models(body);
    if let Some(error) = parse_error(body) {
        assert!(body.len() > error.message.len() / 3);
        let _ = (
            error.is_quota(),
            error.is_model_not_found(),
            error.is_context_length(),
            error.is_content_filter(),
        );
    }
});

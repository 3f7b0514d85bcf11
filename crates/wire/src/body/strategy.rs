//! Bodies for the tests of whatever rewrites them: near enough to requests that most are understood.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::answer::Dialect;

pub(crate) const DIALECTS: [Dialect; 5] =
    [Dialect::Chat, Dialect::Completions, Dialect::Embeddings, Dialect::Responses, Dialect::Other];

/// Any JSON, of fields that mean something here and of others.
pub(crate) fn odd() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(|n| json!(n)),
        "\\PC{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["text", "function", "user", "system", "assistant", "tool", "image_url"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known = vec![
        "model",
        "Model",
        "stream",
        "messages",
        "input",
        "prompt",
        "role",
        "content",
        "type",
        "text",
        "tools",
        "functions",
        "tool_choice",
        "tool_calls",
        "n",
        "best_of",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "instructions",
        "reasoning",
        "response_format",
        "format",
        "stream_options",
        "conversation",
        "background",
        "store",
        "modalities",
        "output",
    ];
    prop_oneof![8 => prop::sample::select(known).prop_map(str::to_owned), 1 => "[a-c]{1,2}"]
}

fn content() -> impl Strategy<Value = Value> {
    let text = "\\PC{0,60}";
    prop_oneof![
        4 => text.prop_map(Value::from),
        1 => Just(Value::Null),
        1 => prop::collection::vec(text.prop_map(|text| json!({"type": "text", "text": text})), 0..3)
            .prop_map(Value::from),
        1 => Just(json!([{"type": "image_url", "image_url": {"url": "data:x"}}])),
    ]
}

/// A conversation, each message with a number of its own in a field that nobody knows.
pub(crate) fn messages() -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec!["system", "developer", "user", "user", "assistant", "tool"]);
    prop::collection::vec((role, content()), 1..12).prop_map(|list| {
        let numbered = list.into_iter().enumerate();
        numbered.map(|(i, (role, content))| json!({"role": role, "content": content, "x": i})).collect()
    })
}

/// A request for the endpoint, whose odd fields may replace those it needs.
pub(crate) fn request() -> impl Strategy<Value = (Dialect, Map<String, Value>)> {
    let limit = prop_oneof![
        3 => (0_u32..4000).prop_map(Value::from),
        1 => Just(Value::Null),
        1 => odd(),
    ];
    let limits = prop::collection::btree_map(
        prop::sample::select(vec!["max_tokens", "max_completion_tokens", "max_output_tokens"]),
        limit,
        0..3,
    );
    let others = prop::collection::btree_map(key(), odd(), 0..2);
    let model = prop::option::of("[a-z]{0,5}");
    (prop::sample::select(DIALECTS.to_vec()), messages(), limits, others, model).prop_map(
        |(dialect, messages, limits, others, model)| {
            let mut body = Map::new();
            let text = messages.to_string();
            match dialect {
                Dialect::Chat => body.insert("messages".to_owned(), messages),
                Dialect::Responses => body.insert("input".to_owned(), messages),
                Dialect::Completions => body.insert("prompt".to_owned(), text.into()),
                Dialect::Embeddings | Dialect::Other => body.insert("input".to_owned(), text.into()),
            };
            body.extend(limits.into_iter().map(|(key, value)| (key.to_owned(), value)));
            body.extend(model.map(|model| ("model".to_owned(), model.into())));
            body.extend(others);
            (dialect, body)
        },
    )
}

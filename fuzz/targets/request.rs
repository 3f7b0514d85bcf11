//! Peeking at a body: agrees with a whole reading, and a rewritten model leaves every other byte alone.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::Value;
use tidegate_wire::request::{PeekError, peek, replace_model};

fuzz_target!(|body: &[u8]| {
    let valid = serde_json::from_slice::<IgnoredAny>(body).is_ok();
    let whole = serde_json::from_slice::<Value>(body).ok();
    let peeked = match peek(body) {
        Ok(peeked) => peeked,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            match error {
                PeekError::NotUtf8 => assert!(std::str::from_utf8(body).is_err()),
                PeekError::InvalidJson { .. } => assert!(!valid),
                PeekError::NotAnObject => assert!(valid && whole.is_none_or(|v| !v.is_object())),
                // `Value` keeps the last of several, so a fault of an earlier one is not to be seen there.
                PeekError::ModelNotAString | PeekError::StreamNotABool | PeekError::DuplicateKey(_) => {
                    assert!(valid && whole.is_none_or(|v| v.is_object()));
                }
            }
            return;
        }
    };
    assert!(valid);
    if let Some(whole) = whole {
        assert!(whole.is_object());
        assert_eq!(peeked.model.as_ref().map(|field| field.name.as_str()), whole["model"].as_str());
        assert_eq!(peeked.stream, whole["stream"] == true);
        let pins = |key: &str| !whole[key].is_null();
        if pins("previous_response_id") || pins("conversation") || whole["background"] == true {
            assert!(peeked.pinned);
        }
    }
    let Some(field) = peeked.model else { return };
    let body = Bytes::copy_from_slice(body);
    for name in ["gpt-4o", "", "\"\\\n\u{0}\u{4f60}\u{1f600}"] {
        let replaced = replace_model(&body, &field, name);
        let after = peek(&replaced).expect("still an object").model.expect("still a model");
        assert_eq!(after.name, name);
        assert_eq!(replaced[..after.span.start], body[..field.span.start]);
        assert_eq!(replaced[after.span.end..], body[field.span.end..]);
    }
});

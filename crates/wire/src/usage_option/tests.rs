use super::*;
use crate::body::strategy;
use crate::request::peek;
use proptest::prelude::*;
use serde_json::{Value, json};

fn asked(body: &str) -> Option<String> {
    ask_for_usage(&Bytes::copy_from_slice(body.as_bytes()))
        .map(|out| String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn the_option_is_put_in_and_no_other_byte_changes() {
    for (body, out) in [
        (
            r#" {"stream":true, "x": 1.0} "#,
            r#" {"stream_options":{"include_usage":true},"stream":true, "x": 1.0} "#,
        ),
        (
            r#"{"stream":true,"stream_options":null}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"stream_options": { } }"#,
            r#"{"stream":true,"stream_options": {"include_usage":true } }"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_obfuscation":false}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_usage" : false , "a":1e999}}"#,
            r#"{"stream":true,"stream_options":{"include_usage" : true , "a":1e999}}"#,
        ),
        (
            r#"{"stream":true,"stream\u005foptions":{"include_usage":null},"a":"\ud83d"}"#,
            r#"{"stream":true,"stream\u005foptions":{"include_usage":true},"a":"\ud83d"}"#,
        ),
    ] {
        assert_eq!(asked(body).as_deref(), Some(out), "{body}");
    }
}

#[test]
fn what_asks_already_or_is_odd_stays() {
    for body in [
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":1}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":false,"include_usage":false}}"#,
        r#"{"stream":true,"stream_options":{},"stream_options":{}}"#,
        r#"{"stream":true,"stream_options":[]}"#,
        r#"{"stream":true,"stream_options":"on"}"#,
        r#"{"stream":false}"#,
        r#"{}"#,
        r#"[]"#,
        r#"{"stream":true"#,
    ] {
        assert_eq!(asked(body), None, "{body}");
    }
}

#[test]
fn the_event_of_usage_alone_is_told_from_all_others() {
    let of = |data: &str| is_usage_event(Dialect::Chat, data.as_bytes());
    let usage = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":1}}"#;
    assert!(of(usage));
    assert!(of(r#"{"choices":[ ],"usage":{"prompt_tokens":1},"error":null}"#));
    assert!(is_usage_event(Dialect::Completions, usage.as_bytes()));
    assert!(!is_usage_event(Dialect::Responses, usage.as_bytes()));
    for other in [
        r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#,
        r#"{"choices":[],"usage":null}"#,
        r#"{"choices":[{"delta":{"content":"Hi"}}],"usage":{"prompt_tokens":1}}"#,
        r#"{"choices":[{}],"usage":{}}"#,
        r#"{"choices":null,"usage":{}}"#,
        r#"{"usage":{"prompt_tokens":1}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":1},"error":{"message":"x"}}"#,
        "[DONE]",
        "",
        "{",
    ] {
        assert!(!of(other), "{other}");
    }
}

proptest! {
    #[test]
    fn whoever_asked_is_found_to_ask_and_nothing_else_differs(
        (_, mut body) in strategy::request(),
        options in prop::option::of(strategy::odd()),
    ) {
        body.insert("stream".to_owned(), true.into());
        if let Some(options) = options {
            body.insert("stream_options".to_owned(), options);
        }
        let before = Bytes::from(Value::Object(body.clone()).to_string());
        let Some(after) = ask_for_usage(&before) else {
            let options = &body["stream_options"];
            prop_assert!(!(options.is_null() || options.is_object()) || !options["include_usage"].is_null());
            return Ok(());
        };
        prop_assert!(peek(&after).is_err() || peek(&after).unwrap().include_usage);
        prop_assert_eq!(ask_for_usage(&after), None);
        let whole: Value = serde_json::from_slice(&after).unwrap();
        let mut expected = Value::Object(body);
        if !expected["stream_options"].is_object() {
            expected["stream_options"] = json!({});
        }
        expected["stream_options"]["include_usage"] = true.into();
        prop_assert_eq!(whole, expected);
    }
}

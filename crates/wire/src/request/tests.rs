use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn read(body: &str) -> Result<Peek, PeekError> {
    peek(body.as_bytes())
}

fn name(body: &str) -> Option<String> {
    read(body).unwrap().model.map(|field| field.name)
}

/// JSON text as clients write it: odd numbers, repeated keys, escapes, any white space. Not all of it fits `Value`.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1.0e400".to_owned()),
        Just("12345678901234567890123".to_owned()),
        Just("-0.0E-7".to_owned()),
        "-?(0|[1-9][0-9]{0,4})(\\.[0-9]{1,3})?",
        string(),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..5), space())
                .prop_map(|(items, s)| format!("[{s}{}{s}]", items.join(&format!("{s},")))),
            (prop::collection::vec((key(), inner), 0..5), space())
                .prop_map(|(entries, s)| object(&entries, &s)),
        ]
    })
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\u{e9}\u{4f60}\u{1f600}]{0,10}".prop_map(|s| Value::from(s).to_string()),
        Just(r#""\ud83d\ude00\u0000\/\b""#.to_owned()),
        Just(r#""{\"model\":\"no\"}""#.to_owned()),
    ]
}

/// Keys that are not `model` or `stream` in any letter case; few, so that some stand twice.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\"a\"".to_owned()),
        Just("\"models\"".to_owned()),
        Just("\"\\u006dode\"".to_owned()),
        "\"[b-d]{1,2}\""
    ]
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

fn object(entries: &[(String, String)], s: &str) -> String {
    let entries: Vec<String> = entries.iter().map(|(k, v)| format!("{s}{k}{s}:{s}{v}{s}")).collect();
    format!("{{{}}}", entries.join(","))
}

/// A body with a model somewhere in it, and the place of its token.
fn body() -> impl Strategy<Value = (String, String, Range<usize>)> {
    let entries = prop::collection::vec((key(), json()), 0..6);
    let spelling = prop_oneof![Just("\"model\""), Just("\"m\\u006fdel\"")];
    (entries, any::<prop::sample::Index>(), spelling, string(), space()).prop_map(
        |(mut entries, at, spelling, token, s)| {
            let at = at.index(entries.len() + 1);
            entries.insert(at, (spelling.to_owned(), token.clone()));
            let before = object(&entries[..at], &s);
            let comma = usize::from(at > 0);
            // The object before the model, without its brace, then the model's own entry up to its value.
            let start = before.len() - 1 + comma + 3 * s.len() + spelling.len() + 1;
            (object(&entries, &s), token.clone(), start..start + token.len())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn another_model_leaves_every_other_byte_alone((body, token, span) in body(), new in "[ -~\u{4f60}\u{1f600}\\n\"]{0,20}") {
        let field = read(&body).unwrap().model.unwrap();
        prop_assert_eq!(&field.span, &span);
        prop_assert_eq!(&body[span.clone()], &token);
        prop_assert_eq!(Value::from(field.name.as_str()), serde_json::from_str::<Value>(&token).unwrap());

        let replaced = replace_model(&Bytes::from(body.clone()), &field, &new);
        let after = peek(&replaced).unwrap().model.unwrap();
        prop_assert_eq!(&after.name, &new);
        prop_assert_eq!(&replaced[..after.span.start], &body.as_bytes()[..span.start]);
        prop_assert_eq!(&replaced[after.span.end..], &body.as_bytes()[span.end..]);
    }

    #[test]
    fn a_peek_agrees_with_a_whole_reading(
        model in prop_oneof![Just(None), "\\PC{0,12}".prop_map(Some)],
        stream in prop_oneof![Just(None), Just(Some(Value::Null)), any::<bool>().prop_map(|b| Some(Value::from(b)))],
        usage in prop_oneof![Just(Value::Null), Just(Value::from(3)), any::<bool>().prop_map(|b| serde_json::json!({"include_usage": b}))],
        background in any::<bool>(),
        others in prop::collection::hash_map("[a-d]{1,3}", prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), "\\PC{0,6}".prop_map(Value::from)], 0..5),
    ) {
        let mut map: serde_json::Map<String, Value> = others.into_iter().collect();
        if let Some(model) = model {
            map.insert("model".to_owned(), Value::from(model));
        }
        if let Some(stream) = stream {
            map.insert("stream".to_owned(), stream);
        }
        map.insert("stream_options".to_owned(), usage);
        map.insert("background".to_owned(), Value::from(background));
        let value = Value::Object(map);
        let peeked = read(&serde_json::to_string_pretty(&value).unwrap()).unwrap();
        prop_assert_eq!(peeked.model.map(|field| field.name), value["model"].as_str().map(str::to_owned));
        prop_assert_eq!(peeked.stream, value["stream"] == true);
        prop_assert_eq!(peeked.include_usage, value["stream_options"]["include_usage"] == true);
        prop_assert_eq!(peeked.pinned, background);
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(peek(&bytes).is_ok(), serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).is_ok());
    }
}

#[test]
fn only_the_top_level_counts() {
    assert_eq!(name(r#"{"messages":[{"model":"no","stream":true}],"model":"yes"}"#).unwrap(), "yes");
    assert_eq!(name(r#"{"messages":[]}"#), None);
    assert_eq!(name(r#"{"model":null}"#), None);
    assert_eq!(name("\n {\"model\" : \"gpt\\u002d4\"}\r\n").unwrap(), "gpt-4");
}

#[test]
fn what_cannot_be_routed_is_told_apart() {
    for (body, error) in [
        ("", PeekError::InvalidJson { line: 1, column: 0 }),
        ("{\"model\": \"a\",\n  \"stream\": tru}", PeekError::InvalidJson { line: 2, column: 16 }),
        ("{\"model\": \"a\"} x", PeekError::InvalidJson { line: 1, column: 16 }),
        ("{\"\t\": 1}", PeekError::InvalidJson { line: 1, column: 2 }),
        ("{\"model\": 3, \"x\": }", PeekError::InvalidJson { line: 1, column: 19 }),
        ("[{\"model\": \"a\"}]", PeekError::NotAnObject),
        ("\"model\"", PeekError::NotAnObject),
        ("1e999", PeekError::NotAnObject),
        ("{\"model\": 3}", PeekError::ModelNotAString),
        ("{\"model\": [\"a\"]}", PeekError::ModelNotAString),
        ("{\"model\": \"\\ud83d\"}", PeekError::ModelNotAString),
        ("{\"stream\": \"true\"}", PeekError::StreamNotABool),
        ("{\"stream\": 1}", PeekError::StreamNotABool),
    ] {
        assert_eq!(read(body), Err(error), "{body}");
    }
    assert_eq!(peek(b"{\"model\": \"\xff\"}"), Err(PeekError::NotUtf8));
}

#[test]
fn two_models_are_refused_however_they_are_spelt() {
    for body in [
        r#"{"model":"a","model":"a"}"#,
        r#"{"model":"a","mod\u0065l":"b"}"#,
        r#"{"model":null,"model":"b"}"#,
        r#"{"model":"a","Model":"b"}"#,
        r#"{"MODEL":"b","model":"a"}"#,
    ] {
        assert_eq!(read(body), Err(PeekError::DuplicateKey("model")), "{body}");
    }
    assert_eq!(read(r#"{"stream":false,"stream":true}"#), Err(PeekError::DuplicateKey("stream")));
    assert_eq!(name(r#"{"Model":"b","MODEL":"c"}"#), None);
    assert_eq!(name(r#"{"x":1,"x":2,"model":"a"}"#).unwrap(), "a");
}

#[test]
fn what_has_an_effect_of_its_own_is_pinned() {
    for (body, pinned) in [
        (r#"{"previous_response_id":"resp_1"}"#, true),
        (r#"{"previous_response_id":null,"conversation":null,"background":false}"#, false),
        (r#"{"conversation":{"id":"conv_1"}}"#, true),
        (r#"{"background":true}"#, true),
        (r#"{"background":null}"#, false),
        (r#"{"metadata":{"background":true}}"#, false),
    ] {
        assert_eq!(read(body).unwrap().pinned, pinned, "{body}");
    }
}

#[test]
fn half_a_surrogate_pair_elsewhere_is_no_fault() {
    assert_eq!(name(r#"{"\ud83d":1,"messages":["\ude00"],"model":"a"}"#).unwrap(), "a");
}

#[test]
fn depth_costs_neither_stack_nor_time() {
    // On a small stack, so that a recursive reading would overflow it.
    let reading = std::thread::Builder::new().stack_size(128 * 1024).spawn(|| {
        for depth in [100_000, 1_000_000] {
            let deep = format!(
                "{{\"messages\":{}{},\"model\":\"a\",\"stream_options\":{}{}}}",
                "[{\"x\":".repeat(depth),
                "0".to_owned() + &"}]".repeat(depth),
                "{\"include_usage\":".repeat(depth),
                "1".to_owned() + &"}".repeat(depth),
            );
            assert_eq!(name(&deep).unwrap(), "a");
            assert!(matches!(read(&"[".repeat(depth)), Err(PeekError::InvalidJson { .. })));
            assert!(matches!(read(&"{\"a\":".repeat(depth)), Err(PeekError::InvalidJson { .. })));
        }
    });
    reading.unwrap().join().unwrap();
}

#[test]
fn a_foreign_span_changes_nothing() {
    let body = Bytes::from_static(b"{}");
    let field = ModelField { name: "a".to_owned(), span: 5..9 };
    assert_eq!(replace_model(&body, &field, "b"), body);
}

#[test]
fn how_many_choices_are_asked_for() {
    for (n, choices) in [
        ("3", 3),
        ("1", 1),
        ("128", 128),
        ("2.0", 2),
        ("0", 1),
        ("129", 1),
        ("-1", 1),
        ("\"3\"", 1),
        ("null", 1),
    ] {
        let body = format!(r#"{{"model":"m","n":{n}}}"#);
        assert_eq!(peek(body.as_bytes()).unwrap().choices, choices, "{n}");
    }
    assert_eq!(peek(br#"{"model":"m"}"#).unwrap().choices, 1);
}

proptest! {
    #[test]
    fn odd_choices_count_as_one_and_refuse_nothing(
        (n, choices) in prop_oneof![
            (1_u32..=128).prop_map(|n| (n.to_string(), n)),
            (1_u32..=128).prop_map(|n| (format!("{n}.00"), n)),
            (1_u32..=128).prop_map(|n| (format!("{n}.5"), 1)),
            (1_u32..=128).prop_map(|n| (format!("\"{n}\""), 1)),
            (129_u64..).prop_map(|n| (n.to_string(), 1)),
            (i64::MIN..=0).prop_map(|n| (n.to_string(), 1)),
            json().prop_filter("no number", |text| !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()))
                .prop_map(|text| (text, 1)),
        ],
        inner in 2_u32..=128,
        first in any::<bool>(),
    ) {
        // Only the body's own `n` counts, wherever it stands.
        let others = format!(r#""model":"m","N":{inner},"options":{{"n":{inner}}}"#);
        let body = if first { format!(r#"{{"n":{n},{others}}}"#) } else { format!(r#"{{{others},"n":{n}}}"#) };
        prop_assert_eq!(read(&body).map(|peek| peek.choices), Ok(choices), "{}", body);
    }
}

use super::*;
use proptest::prelude::*;

mod choices;

fn event(dialect: Dialect, data: &str) -> ChunkPeek {
    match peek_chunk(dialect, data.as_bytes()) {
        Chunk::Event(peek) => peek,
        other => panic!("{data}: {other:?}"),
    }
}

/// A chat chunk with this one choice.
fn choice(inside: &str) -> ChunkPeek {
    event(
        Dialect::Chat,
        &format!(r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,{inside}}}]}}"#),
    )
}

fn tokens(prompt: u64, completion: u64, cached: u64) -> Option<Usage> {
    Some(Usage { prompt, completion, cached })
}

#[test]
fn a_role_alone_is_no_content() {
    for inside in [
        r#""delta":{"role":"assistant"},"finish_reason":null"#,
        r#""delta":{"role":"assistant","content":null}"#,
        r#""delta":{"role":"assistant","content":"","reasoning_content":null,"tool_calls":[]}"#,
        r#""delta":{"refusal":null,"audio":null,"function_call":null},"logprobs":null"#,
        r#""delta":{}"#,
        r#""delta":null"#,
        r#""finish_reason":"""#,
        r#""text":"not chat's""#,
    ] {
        assert_eq!(choice(inside), ChunkPeek { begun: 1, ..ChunkPeek::default() }, "{inside}");
    }
}

#[test]
fn whatever_the_model_made_is_content() {
    for inside in [
        r#""delta":{"content":"a"}"#,
        r#""delta":{"content":" "}"#,
        r#""delta":{"content":"\ud83d"}"#,
        r#""delta":{"content":[{"type":"text","text":"a"}]}"#,
        r#""delta":{"role":"assistant","content":null,"reasoning_content":"hm"}"#,
        r#""delta":{"content":"","reasoning":"hm"}"#,
        r#""delta":{"refusal":"no"}"#,
        r#""delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}"#,
        r#""delta":{"function_call":{"name":"f"}}"#,
        r#""delta":{"audio":{"id":"a"}}"#,
    ] {
        let peek = choice(inside);
        assert!(peek.content && !peek.terminal, "{inside}");
    }
}

#[test]
fn a_finish_reason_ends_the_answer_and_is_content() {
    for inside in
        [r#""delta":{},"finish_reason":"stop""#, r#""delta":{"content":"a"},"finish_reason":"length""#]
    {
        let peek = choice(inside);
        assert!(peek.content && peek.terminal, "{inside}");
    }
    let two = event(Dialect::Chat, r#"{"choices":[{"delta":{}},{"index":1,"finish_reason":"stop"}]}"#);
    assert!(two.terminal);
}

#[test]
fn chunks_of_real_servers_are_understood() {
    // llama-server: null content first, timings last.
    let first = event(
        Dialect::Chat,
        r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"id":"x","model":"m","system_fingerprint":"b1","object":"chat.completion.chunk"}"#,
    );
    assert!(!first.content);
    let last = event(
        Dialect::Chat,
        r#"{"choices":[],"usage":{"completion_tokens":8,"prompt_tokens":31,"total_tokens":39,"prompt_tokens_details":{"cached_tokens":30}},"timings":{"prompt_n":1,"predicted_per_second":77.04}}"#,
    );
    assert_eq!(last, ChunkPeek { usage: tokens(31, 8, 30), ..ChunkPeek::default() });
    // vLLM: usage null until the end, stop_reason beside finish_reason.
    let vllm = event(
        Dialect::Chat,
        r#"{"choices":[{"index":0,"delta":{"content":"","reasoning_content":null},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}],"usage":null}"#,
    );
    assert!(vllm.terminal && vllm.usage.is_none());
    // Azure: an opening chunk with the filter's verdict and no choice.
    let azure =
        event(Dialect::Chat, r#"{"choices":[],"prompt_filter_results":[{"content_filter_results":{}}]}"#);
    assert_eq!(azure, ChunkPeek::default());
}

#[test]
fn completions_are_told_by_their_text() {
    assert!(event(Dialect::Completions, r#"{"choices":[{"text":"a","finish_reason":null}]}"#).content);
    assert!(!event(Dialect::Completions, r#"{"choices":[{"text":"","finish_reason":null}]}"#).content);
    assert!(!event(Dialect::Completions, r#"{"choices":[{"delta":{"content":"a"}}]}"#).content);
    assert!(event(Dialect::Completions, r#"{"choices":[{"text":"","finish_reason":"length"}]}"#).terminal);
}

#[test]
fn responses_are_told_by_their_type() {
    let of = |data: &str| event(Dialect::Responses, data);
    assert_eq!(
        of(
            r#"{"type":"response.created","sequence_number":0,"response":{"id":"r","error":null,"usage":null}}"#
        ),
        ChunkPeek { sequence_number: Some(0), ..ChunkPeek::default() }
    );
    assert!(!of(r#"{"type":"response.in_progress"}"#).content);
    assert!(of(r#"{"type":"response.output_text.delta","delta":"a"}"#).content);
    assert!(of(r#"{"type":"response.output_item.added","item":{}}"#).content);
    for name in ["completed", "failed", "incomplete"] {
        let peek = of(&format!(
            r#"{{"type":"response.{name}","response":{{"output":[],"usage":{{"input_tokens":9,"input_tokens_details":{{"cached_tokens":4}},"output_tokens":2}}}}}}"#
        ));
        assert!(peek.content && peek.terminal && peek.error.is_none());
        assert_eq!(peek.usage, tokens(9, 2, 4));
    }
    let flat =
        of(r#"{"type":"error","code":"server_error","message":"no","param":null,"sequence_number":3}"#);
    let error = flat.error.unwrap();
    assert_eq!((error.code.as_deref(), error.message.as_str()), (Some("server_error"), "no"));
    assert_eq!((flat.sequence_number, flat.content), (Some(3), false));
}

#[test]
fn other_streams_end_by_convention() {
    for (data, terminal) in [
        (r#"{"type":"message_stop"}"#, true),
        (r#"{"type":"transcript.text.done","text":"a"}"#, true),
        (r#"{"type":"image_generation.completed"}"#, true),
        (r#"{"choices":[{"finish_reason":"stop"}]}"#, true),
        (r#"{"type":"content_block_delta"}"#, false),
        (r#"{"type":3}"#, false),
        ("{}", false),
    ] {
        let peek = event(Dialect::Other, data);
        assert_eq!((peek.content, peek.terminal), (true, terminal), "{data}");
    }
    let usage = event(Dialect::Other, r#"{"type":"message_delta","usage":{"output_tokens":5}}"#).usage;
    assert_eq!(usage, tokens(0, 5, 0));
}

#[test]
fn an_error_inside_a_stream_is_found() {
    let of = |data: &str| event(Dialect::Chat, data).error;
    let error = of(r#"{"error":{"message":"busy","type":"overloaded_error","code":529}}"#).unwrap();
    assert_eq!((error.code.as_deref(), error.kind.as_deref()), (Some("529"), Some("overloaded_error")));
    assert_eq!(of(r#"{"error":"out of memory","choices":[]}"#).unwrap().message, "out of memory");
    assert_eq!(of(r#"{"error":{}}"#).unwrap().message, "{}");
    for none in [
        r#"{"error":null}"#,
        r#"{"error":false}"#,
        r#"{"error":""}"#,
        r#"{"error":[]}"#,
        r#"{"error":0}"#,
        r#"{"type":"error"}"#,
    ] {
        assert_eq!(of(none), None, "{none}");
    }
}

#[test]
fn the_mark_of_the_end_and_what_is_no_object() {
    for data in ["[DONE]", " [DONE] "] {
        assert_eq!(peek_chunk(Dialect::Chat, data.as_bytes()), Chunk::Done);
    }
    for data in [
        "",
        "[done]",
        "null",
        "3",
        "1e999",
        "\"x\"",
        "[]",
        "[{}]",
        "{",
        "{\"a\":1}x",
        "<html>",
        "{\"\t\":1}",
        "{\"\t\":1}",
        "{\"choices\":[{\"delta\":{\"content\":\"a",
    ] {
        assert_eq!(peek_chunk(Dialect::Chat, data.as_bytes()), Chunk::Malformed, "{data}");
    }
    assert_eq!(peek_chunk(Dialect::Chat, b"{\"a\":\"\xe4\xbd\"}"), Chunk::Malformed);
}

#[test]
fn no_figure_of_usage_is_believed_beyond_a_thousand_million() {
    let usage = r#""usage":{"prompt_tokens":1000000001,"completion_tokens":9000000000000000000,"prompt_tokens_details":{"cached_tokens":18446744073709551615}}"#;
    let most = tokens(TOKENS_MAX, TOKENS_MAX, TOKENS_MAX);
    assert_eq!(event(Dialect::Chat, &format!("{{{usage}}}")).usage, most);
    assert_eq!(event(Dialect::Responses, &format!(r#"{{"response":{{{usage}}}}}"#)).usage, most);
    let body = format!(r#"{{"choices":[{{}}],{usage}}}"#);
    assert_eq!(peek_answer(Dialect::Chat, body.as_bytes()).unwrap().usage, most);
}

#[test]
fn known_fields_of_another_type_count_as_absent() {
    for data in [
        r#"{"choices":3,"usage":"x","error":null,"type":{},"response":[],"data":{},"output":1}"#,
        r#"{"choices":1e999,"usage":1e999,"response":"\ud83d"}"#,
        r#"{"choices":{"0":{"delta":{"content":"a"}}}}"#,
        r#"{"choices":["a",null,[]],"usage":[1]}"#,
        r#"{"choices":[{"delta":"a","finish_reason":null}]}"#,
        r#"{"choices":[{"delta":1e999}],"usage":{"prompt_tokens":"9","completion_tokens":-1}}"#,
        r#"{"usage":{}}"#,
        r#"{"\ud83d":1,"choices":[]}"#,
    ] {
        assert_eq!(ChunkPeek { begun: 0, ..event(Dialect::Chat, data) }, ChunkPeek::default(), "{data}");
    }
    let odd = event(
        Dialect::Chat,
        r#"{"usage":{"prompt_tokens":9.0,"completion_tokens":null,"prompt_tokens_details":1e999}}"#,
    );
    // The odd value spoils its own field only, and that is the whole `usage` here: it can not be read further.
    assert_eq!(odd.usage, None);
    let odd = event(
        Dialect::Chat,
        r#"{"usage":{"prompt_tokens":9.0,"completion_tokens":null,"prompt_tokens_details":7}}"#,
    );
    assert_eq!(odd.usage, tokens(9, 0, 0));
}

#[test]
fn a_plain_answer_needs_what_its_endpoint_answers_with() {
    for (dialect, body) in [
        (Dialect::Chat, r#"{"choices":[{"message":{"content":null}}]}"#),
        (Dialect::Chat, r#"{"error":null,"choices":[{}]}"#),
        (Dialect::Completions, r#"{"choices":[{"text":""}]}"#),
        (Dialect::Embeddings, r#"{"data":[{"embedding":[0.1]}]}"#),
        (Dialect::Embeddings, r#"{"data":[]}"#),
        (Dialect::Responses, r#"{"output":[],"error":null}"#),
        (Dialect::Responses, r#"{"id":"resp_1","status":"queued"}"#),
        (Dialect::Other, "{}"),
        (Dialect::Other, "[1e999]"),
        (Dialect::Other, r#"{"status":"failed","error":{"message":"a job's own"}}"#),
    ] {
        assert_eq!(peek_answer(dialect, body.as_bytes()), Ok(AnswerPeek::default()), "{body}");
    }
    for (dialect, body, bad) in [
        (Dialect::Chat, "", BadAnswer::Empty),
        (Dialect::Other, " \r\n", BadAnswer::Empty),
        (Dialect::Chat, "<html><body>Log in</body></html>", BadAnswer::NotJson),
        (Dialect::Chat, "{\"choices\":[{}]", BadAnswer::NotJson),
        (Dialect::Other, "\"ok\"", BadAnswer::NotJson),
        (Dialect::Chat, "{}", BadAnswer::NoChoices),
        (Dialect::Chat, "[]", BadAnswer::NoChoices),
        (Dialect::Chat, r#"{"choices":[]}"#, BadAnswer::NoChoices),
        (Dialect::Chat, r#"{"choices":null,"error":null}"#, BadAnswer::NoChoices),
        (Dialect::Embeddings, r#"{"choices":[{}]}"#, BadAnswer::NoChoices),
        (Dialect::Embeddings, r#"{"data":{}}"#, BadAnswer::NoChoices),
        (Dialect::Responses, r#"{"id":"","status":null}"#, BadAnswer::NoChoices),
    ] {
        assert_eq!(peek_answer(dialect, body.as_bytes()), Err(bad), "{body}");
    }
    let error = peek_answer(Dialect::Chat, br#"{"error":{"message":"no","code":"model_not_found"}}"#);
    assert!(matches!(error, Err(BadAnswer::Error(e)) if e.is_model_not_found()));
}

#[test]
fn usage_is_read_in_both_namings() {
    let of = |dialect, body: &str| peek_answer(dialect, body.as_bytes()).unwrap().usage;
    let chat = r#"{"choices":[{}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":8,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":2}}}"#;
    assert_eq!(of(Dialect::Chat, chat), tokens(10, 5, 8));
    assert_eq!(
        of(Dialect::Embeddings, r#"{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#),
        tokens(8, 0, 0)
    );
    let responses = r#"{"output":[],"usage":{"input_tokens":7,"output_tokens":3,"input_tokens_details":{"cached_tokens":1}}}"#;
    assert_eq!(of(Dialect::Responses, responses), tokens(7, 3, 1));
}

#[test]
fn depth_costs_no_stack() {
    let reading = std::thread::Builder::new().stack_size(128 * 1024).spawn(|| {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for field in ["x", "choices", "usage", "response", "error", "type", "data"] {
            let body = format!("{{\"{field}\":{deep}}}");
            assert!(matches!(peek_chunk(Dialect::Other, body.as_bytes()), Chunk::Event(_)), "{field}");
            assert!(peek_answer(Dialect::Other, body.as_bytes()).is_ok(), "{field}");
            assert_eq!(crate::error::parse_error(body.as_bytes()), None, "{field}");
        }
    });
    reading.unwrap().join().unwrap();
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let key = prop::sample::select(vec![
        "choices",
        "delta",
        "content",
        "text",
        "finish_reason",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "error",
        "type",
        "response",
        "data",
        "tool_calls",
        "message",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (0_u32..50).prop_map(Into::into),
        any::<f32>().prop_map(Into::into),
        "[a-z ]{0,3}".prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 60, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The rules once more, over a whole reading.
fn by_value(value: &serde_json::Value) -> (bool, bool, Option<Usage>) {
    let says = |v: &serde_json::Value| match v {
        serde_json::Value::Null | serde_json::Value::Bool(false) => false,
        serde_json::Value::String(s) => !s.is_empty(),
        serde_json::Value::Array(a) => !a.is_empty(),
        serde_json::Value::Object(o) => !o.is_empty(),
        _ => true,
    };
    let choices = value["choices"].as_array().cloned().unwrap_or_default();
    let delta = choices.iter().any(|c| says(&c["delta"]["content"]) || says(&c["delta"]["tool_calls"]));
    let finished = choices.iter().any(|c| says(&c["finish_reason"]));
    let count = |v: &serde_json::Value| {
        v.as_u64().or_else(|| {
            v.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0 && *f < 2_f64.powi(53)).map(|f| f as u64)
        })
    };
    let usage_in = |holder: &serde_json::Value| {
        let (prompt, completion) =
            (count(&holder["usage"]["prompt_tokens"]), count(&holder["usage"]["completion_tokens"]));
        (prompt.is_some() || completion.is_some()).then(|| Usage {
            prompt: prompt.unwrap_or(0).min(TOKENS_MAX),
            completion: completion.unwrap_or(0).min(TOKENS_MAX),
            cached: 0,
        })
    };
    (delta || finished, finished, usage_in(value).or_else(|| usage_in(&value["response"])))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_peek_agrees_with_a_whole_reading(value in value()) {
        let peeked = peek_chunk(Dialect::Chat, value.to_string().as_bytes());
        match peeked {
            Chunk::Event(peek) => {
                prop_assert!(value.is_object());
                prop_assert_eq!((peek.content, peek.terminal, peek.usage), by_value(&value));
                let error = &value["error"];
                prop_assert_eq!(peek.error.is_some(), error.is_object() || error.as_str().is_some_and(|s| !s.is_empty()));
            }
            other => prop_assert!(!value.is_object() && other == Chunk::Malformed),
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Embeddings, Dialect::Responses, Dialect::Other] {
            let is_json = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|v| v.is_object());
            prop_assert_eq!(matches!(peek_chunk(dialect, &bytes), Chunk::Event(_)), is_json);
        }
    }
}

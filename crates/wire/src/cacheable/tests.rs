use super::*;
use serde_json::json;

const DIALECTS: [Dialect; 5] = crate::body::strategy::DIALECTS;

fn plain(dialect: Dialect) -> Value {
    match dialect {
        Dialect::Chat => json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
        Dialect::Completions => json!({"model": "m", "prompt": "Hi"}),
        Dialect::Embeddings => json!({"model": "m", "input": "Hi"}),
        Dialect::Responses | Dialect::Other => json!({"model": "m", "input": "Hi", "store": false}),
    }
}

fn with(mut body: Value, fields: &Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn cached(dialect: Dialect, fields: &Value) -> bool {
    may_cache(dialect, with(plain(dialect), fields).to_string().as_bytes(), false)
}

#[test]
fn text_is_cached_at_the_four_endpoints() {
    for dialect in DIALECTS {
        assert_eq!(cached(dialect, &json!({})), dialect != Dialect::Other, "{dialect:?}");
    }
    let function =
        json!([{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "c"}}]);
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}]);
    for fields in [
        json!({"n": 3}),
        json!({"tools": function}),
        json!({"tools": []}),
        json!({"modalities": ["text"]}),
        json!({"messages": parts}),
        json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}, {"role": "tool", "content": "4"}]}),
        json!({"unknown": {"a": 1}}),
    ] {
        assert!(cached(Dialect::Chat, &fields), "{fields}");
    }
    for prompt in [json!(["a", "b"]), json!([1, 2]), json!([[1], [2]])] {
        assert!(cached(Dialect::Completions, &json!({"prompt": prompt})));
        assert!(cached(Dialect::Embeddings, &json!({"input": prompt})));
    }
    let items = json!([{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "output": "4"}]);
    assert!(cached(Dialect::Responses, &json!({"input": items})));
}

#[test]
fn what_acts_or_is_kept_at_the_upstream_is_not_cached() {
    for dialect in DIALECTS {
        for fields in [
            json!({"tools": [{"type": "web_search"}]}),
            json!({"tools": [{"type": "function"}, {"type": "mcp"}]}),
            json!({"tools": [{}]}),
            json!({"tools": {}}),
            json!({"web_search_options": {}}),
            json!({"background": true}),
            json!({"previous_response_id": "r"}),
            json!({"conversation": {"id": "c"}}),
            json!({"store": true}),
        ] {
            assert!(!cached(dialect, &fields), "{dialect:?} {fields}");
        }
    }
    for fields in [
        json!({"store": null}),
        json!({"store": "false"}),
        json!({"prompt": {"id": "p"}}),
        json!({"input": [{"type": "item_reference", "id": "x"}]}),
        json!({"input": [{"type": "web_search_call"}]}),
    ] {
        assert!(!cached(Dialect::Responses, &fields), "{fields}");
    }
    assert!(!may_cache(Dialect::Responses, br#"{"model":"m","input":"Hi"}"#, false));
}

#[test]
fn anything_but_text_is_not_cached() {
    for part in [
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}),
        json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
        json!({"type": "input_audio"}),
        json!({"type": "file", "file": {"file_id": "file-1"}}),
        json!({"type": "later_invention", "text": "Hi"}),
        json!({"text": "Hi"}),
    ] {
        let messages = json!([{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]);
        assert!(!cached(Dialect::Chat, &json!({"messages": messages})), "{part}");
    }
    for part in
        [json!({"type": "input_image", "file_id": "f"}), json!({"type": "input_file", "file_id": "f"})]
    {
        assert!(
            !cached(Dialect::Responses, &json!({"input": [{"role": "user", "content": [part]}]})),
            "{part}"
        );
    }
    for fields in [
        json!({"modalities": ["text", "audio"]}),
        json!({"modalities": "text"}),
        json!({"audio": {"voice": "ash"}}),
        json!({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}),
    ] {
        assert!(!cached(Dialect::Chat, &fields), "{fields}");
    }
    assert!(!cached(Dialect::Embeddings, &json!({"input": [{"image": "x"}]})));
}

#[test]
fn what_is_not_understood_is_not_cached() {
    for body in [
        "",
        "[]",
        "{",
        r#"{"model":"m"}"#,
        r#"{"messages":[]}"#,
        r#"{"messages":["Hi"]}"#,
        r#"{"messages":"Hi"}"#,
    ] {
        for dialect in DIALECTS {
            assert!(!may_cache(dialect, body.as_bytes(), false), "{dialect:?} {body}");
        }
    }
    assert!(!cached(Dialect::Completions, &json!({"prompt": []})));
    assert!(!cached(Dialect::Completions, &json!({"prompt": [null]})));
}

#[test]
fn a_route_of_deterministic_answers_asks_for_temperature_0_or_a_seed() {
    let of = |dialect, fields: Value| {
        may_cache(dialect, with(plain(dialect), &fields).to_string().as_bytes(), true)
    };
    for fields in
        [json!({"temperature": 0}), json!({"temperature": 0.0}), json!({"seed": 7, "temperature": 1})]
    {
        assert!(of(Dialect::Chat, fields.clone()), "{fields}");
    }
    for fields in [
        json!({}),
        json!({"temperature": 0.1}),
        json!({"temperature": null}),
        json!({"temperature": "0"}),
        json!({"seed": null}),
    ] {
        assert!(!of(Dialect::Chat, fields.clone()), "{fields}");
    }
    assert!(of(Dialect::Embeddings, json!({})));
    assert!(!of(Dialect::Embeddings, json!({"input": [{"image": "x"}]})));
}

fn kept(dialect: Dialect, answer: &Value) -> bool {
    may_keep(dialect, answer.to_string().as_bytes())
}

#[test]
fn an_answer_is_kept_when_every_choice_ended_by_itself() {
    let chat = |reasons: &[Value]| {
        let choices: Vec<_> = reasons
            .iter()
            .map(|reason| json!({"message": {"role": "assistant", "content": "Hi", "refusal": null}, "finish_reason": reason}))
            .collect();
        json!({"choices": choices})
    };
    let good = [json!("stop"), json!("tool_calls"), json!("function_call")];
    assert!(kept(Dialect::Chat, &chat(&good)));
    for bad in [json!("length"), json!("content_filter"), json!(null), json!("error"), json!(1)] {
        assert!(!kept(Dialect::Chat, &chat(&[json!("stop"), bad.clone()])), "{bad}");
        let text = json!({"choices": [{"text": "Hi", "finish_reason": bad}]});
        assert!(!kept(Dialect::Completions, &text), "{bad}");
    }
    assert!(!kept(Dialect::Chat, &chat(&[])));
    assert!(kept(Dialect::Completions, &json!({"choices": [{"text": "", "finish_reason": "stop"}]})));

    let with_message = |fields: Value| {
        let mut answer = chat(&[json!("stop")]);
        answer["choices"][0]["message"] = with(json!({"role": "assistant"}), &fields);
        answer
    };
    assert!(kept(Dialect::Chat, &with_message(json!({"refusal": "", "tool_calls": [{}]}))));
    assert!(!kept(Dialect::Chat, &with_message(json!({"refusal": "No"}))));
    assert!(!kept(Dialect::Chat, &with_message(json!({"audio": {"id": "a"}}))));
    assert!(!kept(Dialect::Chat, &with(chat(&[json!("stop")]), &json!({"error": {"message": "x"}}))));
    assert!(kept(Dialect::Chat, &with(chat(&[json!("stop")]), &json!({"error": null}))));
    assert!(!kept(Dialect::Chat, &json!({"choices": [{"finish_reason": "stop"}]})));
    assert!(!kept(Dialect::Other, &chat(&[json!("stop")])));
}

#[test]
fn vectors_are_kept_when_each_is_there() {
    assert!(kept(Dialect::Embeddings, &json!({"data": [{"embedding": [0.1]}, {"embedding": "AAAA"}]})));
    for data in [json!([]), json!([{"embedding": [0.1]}, {"embedding": []}]), json!([{}]), json!(null)] {
        assert!(!kept(Dialect::Embeddings, &json!({"data": data})), "{data}");
    }
}

#[test]
fn a_response_is_kept_when_it_is_complete_and_all_its_own() {
    let whole = json!({"status": "completed", "error": null, "incomplete_details": null, "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
    ]});
    assert!(kept(Dialect::Responses, &whole));
    for fields in [
        json!({"status": "incomplete"}),
        json!({"status": null}),
        json!({"incomplete_details": {"reason": "max_output_tokens"}}),
        json!({"error": {"code": "server_error"}}),
        json!({"output": []}),
        json!({"output": [{"type": "web_search_call"}]}),
        json!({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No"}]}]}),
    ] {
        assert!(!kept(Dialect::Responses, &with(whole.clone(), &fields)), "{fields}");
    }
}

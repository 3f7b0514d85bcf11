use super::*;
use crate::body::strategy;
use crate::request::peek;
use proptest::prelude::*;

const RULES: MirrorRules = MirrorRules { max_tokens: 16, reasoning: false };
const THINKING: MirrorRules = MirrorRules { max_tokens: 512, reasoning: true };

/// The copy of a request; fields given as `null` are left out of it.
fn copy(dialect: Dialect, body: &Value, rules: MirrorRules) -> Result<Value, NotMirrored> {
    mirror(dialect, body.to_string().as_bytes(), rules).map(|copy| serde_json::from_slice(&copy).unwrap())
}

fn chat(fields: Value) -> Value {
    with(json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}), fields)
}

fn responses(fields: Value) -> Value {
    with(json!({"model": "gpt-4o", "input": "Hi"}), fields)
}

fn with(mut body: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn refusal(dialect: Dialect, body: &Value) -> Option<NotMirrored> {
    copy(dialect, body, RULES).err()
}

#[test]
fn a_bound_is_lowered_where_the_request_has_it_and_else_set() {
    let of = |fields| copy(Dialect::Chat, &chat(fields), RULES).unwrap();
    assert_eq!(of(json!({})), chat(json!({"max_tokens": 16})));
    assert_eq!(of(json!({"max_tokens": 500})), chat(json!({"max_tokens": 16})));
    assert_eq!(of(json!({"max_tokens": 3})), chat(json!({"max_tokens": 3})));
    assert_eq!(of(json!({"max_completion_tokens": 500})), chat(json!({"max_completion_tokens": 16})));
    let both = json!({"max_completion_tokens": 9, "max_tokens": 99});
    assert_eq!(of(both), chat(json!({"max_completion_tokens": 9, "max_tokens": 16})));
    for odd in [json!(-1), json!("5"), json!([]), json!(null)] {
        assert_eq!(of(json!({"max_tokens": odd}))["max_tokens"], 16);
    }
    assert_eq!(of(json!({"min_tokens": 20})), chat(json!({"max_tokens": 16})));

    let completion = json!({"model": "m", "prompt": ["Hi"], "max_tokens": 99});
    assert_eq!(copy(Dialect::Completions, &completion, RULES).unwrap()["max_tokens"], 16);
    let copied = copy(Dialect::Responses, &responses(json!({"max_output_tokens": 99})), RULES).unwrap();
    assert_eq!(copied, responses(json!({"max_output_tokens": 16, "store": false})));
}

#[test]
fn a_model_that_thinks_gets_all_the_tokens_and_little_effort() {
    let copied = copy(Dialect::Chat, &chat(json!({"max_tokens": 3, "reasoning_effort": "high"})), THINKING);
    assert_eq!(copied, Ok(chat(json!({"max_completion_tokens": 512, "reasoning_effort": "low"}))));

    let asked = json!({"max_output_tokens": 9999, "reasoning": {"effort": "high", "summary": "auto"}});
    let copied = copy(Dialect::Responses, &responses(asked), THINKING).unwrap();
    assert_eq!(copied["max_output_tokens"], 512);
    assert_eq!(copied["reasoning"], json!({"effort": "low", "summary": "auto"}));
    let copied = copy(Dialect::Responses, &responses(json!({"reasoning": null})), THINKING).unwrap();
    assert_eq!(copied["reasoning"], json!({"effort": "low"}));

    let completion = json!({"model": "m", "prompt": "Hi"});
    let copied = copy(Dialect::Completions, &completion, THINKING).unwrap();
    assert_eq!(copied, json!({"model": "m", "prompt": "Hi", "max_tokens": 512}));
}

#[test]
fn nothing_is_stored_and_nobody_is_named() {
    let named = json!({"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k",
        "service_tier": "flex", "store": true, "seed": 7, "x": {"user": "kept"}});
    let copied = copy(Dialect::Chat, &chat(named), RULES).unwrap();
    assert_eq!(copied, chat(json!({"max_tokens": 16, "store": false, "seed": 7, "x": {"user": "kept"}})));
    assert_eq!(copy(Dialect::Responses, &responses(json!({"store": true})), RULES).unwrap()["store"], false);
}

#[test]
fn a_stream_stays_one_and_reports_its_usage() {
    let of = |dialect, body| copy(dialect, &body, RULES).unwrap();
    let copied = of(Dialect::Chat, chat(json!({"stream": true, "stream_options": {"x": 1}})));
    assert_eq!(
        (&copied["stream"], &copied["stream_options"]),
        (&json!(true), &json!({"x": 1, "include_usage": true}))
    );
    let copied = of(Dialect::Completions, json!({"prompt": "Hi", "stream": true, "stream_options": null}));
    assert_eq!(copied["stream_options"], json!({"include_usage": true}));
    assert_eq!(of(Dialect::Responses, responses(json!({"stream": true}))).get("stream_options"), None);
    assert_eq!(of(Dialect::Chat, chat(json!({"stream": false}))).get("stream_options"), None);
}

#[test]
fn embeddings_lose_only_what_names_the_user() {
    let body = json!({"model": "m", "input": ["a", "b"], "dimensions": 8});
    assert_eq!(copy(Dialect::Embeddings, &with(body.clone(), json!({"user": "u"})), THINKING), Ok(body));
    let tokens = json!({"model": "m", "input": [[1, 2], [3]]});
    assert_eq!(copy(Dialect::Embeddings, &tokens, RULES), Ok(tokens));
}

#[test]
fn what_leaves_or_needs_state_is_not_mirrored() {
    for fields in [
        json!({"previous_response_id": "r"}),
        json!({"conversation": {"id": "c"}}),
        json!({"background": true}),
        json!({"prompt": {"id": "p"}}),
        json!({"input": [{"type": "item_reference", "id": "i"}]}),
    ] {
        assert_eq!(
            refusal(Dialect::Responses, &responses(fields.clone())),
            Some(NotMirrored::Stateful),
            "{fields}"
        );
    }
    let none =
        json!({"previous_response_id": null, "conversation": null, "background": false, "prompt": null});
    assert_eq!(refusal(Dialect::Responses, &responses(none)), None);
}

#[test]
fn tools_of_the_upstream_are_not_set_off() {
    for fields in [
        json!({"tools": [{"type": "function"}, {"type": "web_search"}]}),
        json!({"tools": [{"type": "mcp", "server_url": "u"}]}),
        json!({"tools": [{"name": "f"}]}),
        json!({"tools": {"type": "function"}}),
        json!({"web_search_options": {}}),
    ] {
        assert_eq!(refusal(Dialect::Chat, &chat(fields.clone())), Some(NotMirrored::HostedTools), "{fields}");
    }
    let item = json!({"input": [{"type": "computer_call", "id": "c"}]});
    assert_eq!(refusal(Dialect::Responses, &responses(item)), Some(NotMirrored::HostedTools));
    assert_eq!(
        refusal(Dialect::Chat, &chat(json!({"tools": [{"type": "function"}, {"type": "custom"}]}))),
        None
    );
    assert_eq!(refusal(Dialect::Chat, &chat(json!({"tools": null}))), None);
}

#[test]
fn only_text_is_mirrored() {
    let messages = |content: Value| chat(json!({"messages": [{"role": "user", "content": content}]}));
    for part in ["image_url", "input_audio", "file", "something_new"] {
        let body = messages(json!([{"type": "text", "text": "a"}, {"type": part}]));
        assert_eq!(refusal(Dialect::Chat, &body), Some(NotMirrored::Media), "{part}");
    }
    for body in [
        chat(json!({"modalities": ["text", "audio"]})),
        chat(json!({"audio": {"voice": "v"}})),
        chat(json!({"messages": [{"role": "assistant", "audio": {"id": "a"}}]})),
    ] {
        assert_eq!(refusal(Dialect::Chat, &body), Some(NotMirrored::Media), "{body}");
    }
    let output = json!([{"type": "function_call_output", "output": [{"type": "input_image"}]}]);
    assert_eq!(refusal(Dialect::Responses, &responses(json!({"input": output}))), Some(NotMirrored::Media));
    let image = json!({"input": [{"type": "image_url"}]});
    assert_eq!(refusal(Dialect::Embeddings, &image), Some(NotMirrored::Media));

    assert_eq!(refusal(Dialect::Chat, &messages(json!([{"type": "text"}, {"type": "refusal"}]))), None);
    assert_eq!(refusal(Dialect::Chat, &chat(json!({"modalities": ["text"]}))), None);
    let history = json!({"input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "b"}]},
        {"type": "function_call", "call_id": "c", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "d"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "e"}]},
    ]});
    assert_eq!(refusal(Dialect::Responses, &responses(history)), None);
}

#[test]
fn one_answer_is_asked_for_at_most() {
    for fields in [json!({"n": 2}), json!({"n": 0}), json!({"n": "2"}), json!({"best_of": 3})] {
        assert_eq!(
            refusal(Dialect::Chat, &chat(fields.clone())),
            Some(NotMirrored::SeveralChoices),
            "{fields}"
        );
    }
    for prompt in [json!(["a", "b"]), json!([[1], [2]]), json!([1, "b"])] {
        let body = json!({"prompt": prompt});
        assert_eq!(refusal(Dialect::Completions, &body), Some(NotMirrored::SeveralChoices), "{prompt}");
    }
    for fine in [json!({"n": 1}), json!({"n": null, "best_of": 1.0})] {
        assert_eq!(refusal(Dialect::Chat, &chat(fine)), None);
    }
    for prompt in [json!("a"), json!(["a"]), json!([1, 2]), json!([[1, 2]])] {
        assert_eq!(refusal(Dialect::Completions, &json!({"prompt": prompt})), None);
    }
}

#[test]
fn a_body_is_mirrored_up_to_the_bound() {
    let empty = chat(json!({"x": ""})).to_string().len();
    let full = chat(json!({"x": "a".repeat(MAX_BODY - empty)}));
    assert_eq!(full.to_string().len(), MAX_BODY);
    assert_eq!(refusal(Dialect::Chat, &full), None);
    assert_eq!(
        refusal(Dialect::Chat, &chat(json!({"x": "a".repeat(MAX_BODY - empty + 1)}))),
        Some(NotMirrored::TooLong)
    );
}

#[test]
fn what_is_not_understood_is_not_mirrored() {
    let deep = format!("{{\"messages\":[],\"x\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    for body in ["", "[]", "{", "{\"messages\":[{}],\"x\":1e999}", &deep, "{}"] {
        assert_eq!(mirror(Dialect::Chat, body.as_bytes(), RULES), Err(NotMirrored::Unreadable), "{body}");
    }
    for messages in [json!([]), json!("Hi"), json!([1]), json!([{"content": {}}]), json!([{"content": [1]}])]
    {
        assert_eq!(refusal(Dialect::Chat, &json!({"messages": messages})), Some(NotMirrored::Unreadable));
    }
    assert_eq!(refusal(Dialect::Other, &chat(json!({}))), Some(NotMirrored::OtherEndpoint));
}

#[test]
fn a_made_up_request_is_one_of_its_endpoint() {
    let of = |dialect, reasoning, stream| -> Value {
        serde_json::from_slice(&synthetic(dialect, "m", "Reply with: ok", 16, reasoning, stream)).unwrap()
    };
    let messages = json!([{"role": "user", "content": "Reply with: ok"}]);
    let plain = json!({"model": "m", "messages": messages, "max_tokens": 16});
    assert_eq!(of(Dialect::Chat, false, false), plain);
    assert_eq!(of(Dialect::Other, false, false), plain);
    let usage = json!({"include_usage": true});
    let thinking = json!({"model": "m", "messages": messages, "max_completion_tokens": 16,
        "reasoning_effort": "low", "stream": true, "stream_options": usage});
    assert_eq!(of(Dialect::Chat, true, true), thinking);
    let completion = json!({"model": "m", "prompt": "Reply with: ok", "max_tokens": 16, "stream": true,
        "stream_options": usage});
    assert_eq!(of(Dialect::Completions, true, true), completion);
    assert_eq!(of(Dialect::Embeddings, true, true), json!({"model": "m", "input": "Reply with: ok"}));
    let response = json!({"model": "m", "input": "Reply with: ok", "max_output_tokens": 16, "store": false,
        "reasoning": {"effort": "low"}, "stream": true});
    assert_eq!(of(Dialect::Responses, true, true), response);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_json_gets_an_answer(body in strategy::odd(), thinks in any::<bool>()) {
        for dialect in strategy::DIALECTS {
            let rules = if thinks { THINKING } else { RULES };
            if let Ok(copy) = copy(dialect, &body, rules) {
                prop_assert!(copy.is_object());
            }
        }
    }

    #[test]
    fn a_copy_has_a_bound_no_higher_than_the_original(
        (dialect, body) in strategy::request(), max_tokens in 1_u32..5000,
    ) {
        let rules = MirrorRules { max_tokens, reasoning: false };
        let Ok(copy) = copy(dialect, &Value::Object(body.clone()), rules) else { return Ok(()) };
        let bounds = body::limit_keys(dialect);
        for key in bounds {
            let before = body.get(*key).and_then(Value::as_f64).filter(|n| *n >= 0.0);
            let after = copy.get(*key).and_then(Value::as_f64);
            prop_assert!(after <= Some(before.unwrap_or(f64::INFINITY).min(f64::from(max_tokens))));
        }
        prop_assert!(bounds.is_empty() || bounds.iter().any(|key| copy[*key].is_number()));
    }

    #[test]
    fn a_copy_can_be_copied_again_without_change((dialect, body) in strategy::request()) {
        let body = Value::Object(body).to_string();
        if let Ok(copy) = mirror(dialect, body.as_bytes(), RULES) {
            prop_assert_eq!(mirror(dialect, &copy, RULES), Ok(copy));
        }
    }

    #[test]
    fn a_made_up_request_may_be_mirrored(
        model in "\\PC{0,8}", prompt in "\\PC{0,40}", thinks in any::<bool>(), stream in any::<bool>(),
    ) {
        for dialect in strategy::DIALECTS {
            let body = synthetic(dialect, &model, &prompt, 16, thinks, stream);
            let peeked = peek(&body).unwrap();
            prop_assert_eq!(peeked.model.map(|field| field.name), Some(model.clone()));
            prop_assert_eq!(peeked.stream, stream && dialect != Dialect::Embeddings);
            let shape = if dialect == Dialect::Other { Dialect::Chat } else { dialect };
            let rules = MirrorRules { max_tokens: 16, reasoning: thinks };
            prop_assert_eq!(mirror(shape, &body, rules), Ok(body));
        }
    }
}

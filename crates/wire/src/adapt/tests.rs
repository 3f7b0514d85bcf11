use super::*;
use crate::body::strategy;
use proptest::prelude::*;

mod sizes;

const ALL: Able = Able { tools: true, json_schema: true, vision: true, prefill: true, context_window: None };
const TEXT: Able =
    Able { tools: false, json_schema: false, vision: false, prefill: false, context_window: None };
const AS_IS: Adaptation<'_> =
    Adaptation { model: None, system: None, max_tokens: None, keep_last_turns: None };

fn adapted(
    dialect: Dialect,
    body: &Value,
    adaptation: &Adaptation<'_>,
    able: &Able,
) -> Result<Value, Unable> {
    adapt(dialect, &Bytes::from(body.to_string()), adaptation, able)
        .map(|b| serde_json::from_slice(&b).unwrap())
}

fn chat(messages: Value) -> Value {
    json!({"messages": messages, "model": "gpt-4o"})
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The contents left of a conversation given as `role: content`.
fn left(list: &[(&str, &str)], adaptation: &Adaptation<'_>, able: &Able) -> Result<Vec<String>, Unable> {
    let messages: Value = list.iter().map(|(role, content)| said(role, content)).collect();
    let chat = adapted(Dialect::Chat, &chat(messages.clone()), adaptation, able)?;
    let response = adapted(Dialect::Responses, &json!({"input": messages}), adaptation, able);
    if adaptation.system.is_none() {
        assert_eq!(response.unwrap()["input"], chat["messages"]);
    }
    let texts = chat["messages"].as_array().unwrap().iter();
    Ok(texts.map(|message| message["content"].as_str().unwrap().to_owned()).collect())
}

fn refusal(dialect: Dialect, body: &Value, able: &Able) -> Option<Unable> {
    adapted(dialect, body, &Adaptation { model: Some("small"), ..AS_IS }, able).err()
}

#[test]
fn a_request_that_fits_is_the_same_bytes() {
    let body = Bytes::from_static(
        b"{ \"x\": 12345678901234567890123, \"max_tokens\": 5, \"model\": \"a\", \"messages\": [{\"content\": \"Hi\", \"role\": \"user\"}] }",
    );
    let loose = Adaptation {
        model: Some("a"),
        max_tokens: Some(9),
        keep_last_turns: Some(1),
        system: Some("{original_system}"),
    };
    for adaptation in [AS_IS, loose] {
        let same = adapt(Dialect::Chat, &body, &adaptation, &TEXT).unwrap();
        assert_eq!((same.as_ptr(), same.len()), (body.as_ptr(), body.len()));
    }
    let other = adapt(Dialect::Chat, &body, &Adaptation { model: Some("b\""), ..loose }, &TEXT).unwrap();
    assert_eq!(other, String::from_utf8_lossy(&body).replace("\"a\"", "\"b\\\"\""));
}

#[test]
fn a_model_is_put_in_where_the_request_has_none() {
    let adaptation = Adaptation { model: Some("small"), ..AS_IS };
    for body in
        [json!({"input": "a"}), json!({"input": "a", "model": null}), json!({"input": "a", "MODEL": "x"})]
    {
        let out = adapted(Dialect::Embeddings, &body, &adaptation, &TEXT);
        assert_eq!(out, Ok(json!({"input": "a", "model": "small"})));
    }
}

#[test]
fn the_system_prompts_become_one() {
    let messages = json!([said("system", "Be kind."), said("user", "Hi"),
        {"role": "developer", "content": [{"type": "text", "text": "Use"}, {"type": "text", "text": "metres."}]}]);
    let of = |template, messages: &Value| {
        adapted(
            Dialect::Chat,
            &chat(messages.clone()),
            &Adaptation { system: Some(template), ..AS_IS },
            &TEXT,
        )
        .unwrap()["messages"]
            .take()
    };
    assert_eq!(
        of("Briefly. {original_system}", &messages),
        json!([said("system", "Briefly. Be kind.\n\nUse\nmetres."), said("user", "Hi")])
    );
    assert_eq!(of(" {original_system} ", &json!([said("user", "Hi")])), json!([said("user", "Hi")]));
    assert_eq!(of("", &messages), json!([said("user", "Hi")]));
    assert_eq!(of("Briefly. {original_system}", &json!([said("user", "Hi")]))[0], said("system", "Briefly."));
    // What a client writes is never taken for the template.
    let sly = json!([said("system", "{original_system}{original_system}"), said("user", "Hi")]);
    assert_eq!(of("A {original_system}", &sly)[0]["content"], "A {original_system}{original_system}");
}

#[test]
fn each_endpoint_has_its_own_place_for_the_system_prompt() {
    let adaptation = Adaptation { system: Some("Briefly. {original_system}"), ..AS_IS };
    let of = |dialect, body: Value| adapted(dialect, &body, &adaptation, &TEXT).unwrap();
    assert_eq!(
        of(Dialect::Responses, json!({"input": "Hi", "instructions": "Be kind."})),
        json!({"input": "Hi", "instructions": "Briefly. Be kind."})
    );
    assert_eq!(of(Dialect::Responses, json!({"input": [said("user", "Hi")]}))["instructions"], "Briefly.");
    let emptied = Adaptation { system: Some(""), ..AS_IS };
    let body = json!({"input": "Hi", "instructions": "Be kind."});
    assert_eq!(adapted(Dialect::Responses, &body, &emptied, &TEXT), Ok(json!({"input": "Hi"})));
    assert_eq!(of(Dialect::Completions, json!({"prompt": "Hi"})), json!({"prompt": "Briefly.\n\nHi"}));
    assert_eq!(
        of(Dialect::Completions, json!({"prompt": ["a", "b"]})),
        json!({"prompt": ["Briefly.\n\na", "Briefly.\n\nb"]})
    );
    assert_eq!(of(Dialect::Embeddings, json!({"input": "Hi"})), json!({"input": "Hi"}));
    assert_eq!(of(Dialect::Other, json!({"system": "Hi"})), json!({"system": "Hi"}));
}

#[test]
fn the_answer_is_bounded_from_above() {
    let adaptation = Adaptation { max_tokens: Some(256), ..AS_IS };
    for (key, before, after) in [
        ("max_tokens", json!(4000), 256),
        ("max_tokens", json!(12), 12),
        ("max_completion_tokens", json!(4000), 256),
        ("max_tokens", json!(-1), 256),
        ("max_tokens", json!(null), 256),
    ] {
        let mut body = chat(json!([said("user", "Hi")]));
        body[key] = before;
        let out = adapted(Dialect::Chat, &body, &adaptation, &TEXT).unwrap();
        body[key] = after.into();
        assert_eq!(out, body);
    }
    let of = |dialect, body: Value| adapted(dialect, &body, &adaptation, &TEXT).unwrap();
    assert_eq!(of(Dialect::Chat, chat(json!([said("user", "Hi")])))["max_tokens"], 256);
    assert_eq!(of(Dialect::Completions, json!({"prompt": "a"}))["max_tokens"], 256);
    assert_eq!(of(Dialect::Responses, json!({"input": "a"}))["max_output_tokens"], 256);
    assert_eq!(of(Dialect::Embeddings, json!({"input": "a"})), json!({"input": "a"}));
}

#[test]
fn the_last_turns_stay_with_the_system_messages() {
    let talk = [
        ("assistant", "hello"),
        ("system", "s"),
        ("user", "u1"),
        ("assistant", "a1"),
        ("developer", "d"),
        ("user", "u2"),
        ("assistant", "a2"),
        ("user", "u3"),
    ];
    let of = |count| left(&talk, &Adaptation { keep_last_turns: Some(count), ..AS_IS }, &ALL).unwrap();
    assert_eq!(of(2), ["s", "d", "u2", "a2", "u3"]);
    assert_eq!(of(1), ["s", "d", "u3"]);
    assert_eq!(of(0), ["s", "d", "u3"]);
    for roomy in [3, 100] {
        assert_eq!(of(roomy), ["hello", "s", "u1", "a1", "d", "u2", "a2", "u3"]);
    }
}

#[test]
fn what_the_model_cannot_do_is_refused() {
    let body = |fields: Value| {
        let mut body = chat(json!([said("user", "Hi")]));
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    for (fields, due) in [
        (json!({"tools": [{"type": "function"}]}), Some(Unable::Tools)),
        (json!({"functions": [{"name": "f"}], "function_call": "auto"}), Some(Unable::Tools)),
        (json!({"tools": [{"type": "function"}], "tool_choice": "none"}), None),
        (json!({"tools": []}), None),
        (json!({"response_format": {"type": "json_schema"}}), Some(Unable::JsonSchema)),
        (json!({"response_format": {"type": "json_object"}}), Some(Unable::JsonSchema)),
        (json!({"text": {"format": {"type": "json_schema"}}}), Some(Unable::JsonSchema)),
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"modalities": ["text", "audio"], "audio": {"voice": "v"}}), Some(Unable::Vision)),
        (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), Some(Unable::Vision)),
        (json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}), None),
        (json!({"messages": [said("user", "a"), said("assistant", "b")]}), Some(Unable::Prefill)),
        (json!({"messages": [said("user", "a"), said("tool", "b")]}), Some(Unable::Tools)),
    ] {
        assert_eq!(refusal(Dialect::Chat, &body(fields.clone()), &TEXT), due, "{fields}");
        assert_eq!(refusal(Dialect::Chat, &body(fields.clone()), &ALL), None, "{fields}");
    }
}

#[test]
fn what_the_dropped_turns_needed_is_not_asked_of_the_model() {
    let image = json!({"role": "user", "content": [{"type": "image_url"}]});
    let body = chat(json!([image, said("assistant", "A cat."), said("user", "Hi")]));
    assert_eq!(refusal(Dialect::Chat, &body, &TEXT), Some(Unable::Vision));
    let adaptation = Adaptation { keep_last_turns: Some(1), ..AS_IS };
    assert_eq!(adapted(Dialect::Chat, &body, &adaptation, &TEXT), Ok(chat(json!([said("user", "Hi")]))));
}

#[test]
fn what_another_upstream_keeps_cannot_be_served() {
    for body in [
        json!({"input": "a", "previous_response_id": "r"}),
        json!({"input": "a", "conversation": "c"}),
        json!({"input": "a", "background": true}),
        json!({"input": "a", "prompt": {"id": "p"}}),
        json!({"input": [{"type": "item_reference", "id": "i"}]}),
    ] {
        assert_eq!(refusal(Dialect::Responses, &body, &ALL), Some(Unable::Stateful), "{body}");
    }
    let hosted = json!({"input": [{"type": "web_search_call", "id": "w"}, said("user", "Hi")]});
    assert_eq!(refusal(Dialect::Responses, &hosted, &ALL), Some(Unable::Tools));
}

#[test]
fn what_is_not_understood_is_refused() {
    for body in [
        "",
        "[]",
        "{",
        "{\"messages\":[{}],\"x\":1e999}",
        "{\"model\":1}",
        "{\"model\":\"a\",\"Model\":\"b\"}",
    ] {
        let out = adapt(Dialect::Chat, &Bytes::from(body), &AS_IS, &ALL);
        assert_eq!(out, Err(Unable::Unreadable), "{body}");
    }
    for messages in [json!([]), json!("Hi"), json!(null), json!([1]), json!([{"content": {}}])] {
        assert_eq!(refusal(Dialect::Chat, &chat(messages), &ALL), Some(Unable::Unreadable));
    }
    // Tokens mean something to their own model alone.
    for dialect in [Dialect::Embeddings, Dialect::Completions] {
        let body = json!({"model": "a", "input": [[1, 2]], "prompt": [1, 2]});
        assert_eq!(refusal(dialect, &body, &ALL), Some(Unable::Unreadable));
        assert_eq!(adapted(dialect, &body, &AS_IS, &ALL), Ok(body));
    }
}

#[test]
fn a_small_body_that_would_grow_large_is_refused() {
    let adaptation = Adaptation { system: Some("Briefly."), ..AS_IS };
    let prompts = |count| json!({"prompt": vec![""; count]});
    assert!(adapted(Dialect::Completions, &prompts(MAX_PROMPTS), &adaptation, &ALL).is_ok());
    let too_many = adapted(Dialect::Completions, &prompts(MAX_PROMPTS + 1), &adaptation, &ALL);
    assert_eq!(too_many, Err(Unable::TooLong));

    let message = "{\"content\":\"{{{{[,\\\"{[\"},";
    let of = |count: usize| format!("{{\"messages\":[{}{{}}]}}", message.repeat(count));
    let out = |body: String| adapt(Dialect::Chat, &Bytes::from(body), &AS_IS, &ALL).map(|_| ());
    assert_eq!(out(of(90_000)), Ok(()));
    assert_eq!(out(of(100_000)), Err(Unable::Unreadable));
}

fn adaptation() -> impl Strategy<Value = Adaptation<'static>> {
    let system =
        prop::sample::select(vec![None, Some(""), Some("{original_system}"), Some("A {original_system} b")]);
    (prop::option::of(Just("new")), system, prop::option::of(1_u32..99), prop::option::of(1_usize..4))
        .prop_map(|(model, system, max_tokens, keep_last_turns)| Adaptation {
            model,
            system,
            max_tokens,
            keep_last_turns,
        })
}

fn able() -> impl Strategy<Value = Able> {
    (any::<[bool; 4]>(), prop::option::of(0_usize..400)).prop_map(
        |([tools, json_schema, vision, prefill], window)| Able {
            tools,
            json_schema,
            vision,
            prefill,
            context_window: window,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_json_gets_an_answer(body in strategy::odd(), adaptation in adaptation(), able in able()) {
        for dialect in strategy::DIALECTS {
            if let Ok(out) = adapted(dialect, &body, &adaptation, &able) {
                prop_assert!(out.is_object());
            }
        }
    }

    #[test]
    fn what_comes_out_names_the_model((dialect, body) in strategy::request(), adaptation in adaptation(), able in able()) {
        let model = body.get("model").and_then(Value::as_str).map(str::to_owned);
        let body = Bytes::from(Value::Object(body).to_string());
        let Ok(out) = adapt(dialect, &body, &adaptation, &able) else { return Ok(()) };
        let after = peek(&out).unwrap().model.map(|field| field.name);
        prop_assert_eq!(after, adaptation.model.map(str::to_owned).or(model));
    }

    #[test]
    fn the_last_turn_and_unknown_fields_stay(
        messages in strategy::messages(), adaptation in adaptation(), able in able(), responses in any::<bool>(),
    ) {
        let (dialect, key) = if responses { (Dialect::Responses, "input") } else { (Dialect::Chat, "messages") };
        let body = json!({key: messages, "y": {"z": 1}});
        let Ok(out) = adapted(dialect, &body, &adaptation, &able) else { return Ok(()) };
        prop_assert_eq!(&out["y"], &body["y"]);
        let own = |value: &Value| -> Vec<Value> {
            let all = value[key].as_array().unwrap().iter();
            all.filter(|message| message["role"] != "system" && message["role"] != "developer").cloned().collect()
        };
        let (before, after) = (own(&body), own(&out));
        prop_assert!(before.ends_with(&after), "only the oldest go");
        let last = before.iter().rposition(|message| message["role"] == "user").unwrap_or(0);
        prop_assert!(after.ends_with(&before[last..]));
        let turns = after.iter().filter(|message| message["role"] == "user").count();
        prop_assert!(turns <= adaptation.keep_last_turns.unwrap_or(usize::MAX));
    }

    #[test]
    fn what_was_adapted_needs_no_more((dialect, body) in strategy::request(), adaptation in adaptation(), able in able()) {
        // A template that adds to the client's prompt adds again.
        let adaptation = Adaptation { system: adaptation.system.filter(|system| !system.starts_with('A')), ..adaptation };
        let body = Bytes::from(Value::Object(body).to_string());
        let Ok(out) = adapt(dialect, &body, &adaptation, &able) else { return Ok(()) };
        prop_assert_eq!(adapt(dialect, &out, &adaptation, &able), Ok(out));
    }
}

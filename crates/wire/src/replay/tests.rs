use super::*;
use proptest::prelude::*;
use serde_json::json;

fn folded(dialect: Dialect, events: &[Value]) -> Option<Value> {
    let events: Vec<_> = events.iter().map(Value::to_string).collect();
    let events: Vec<_> = events.iter().map(String::as_bytes).collect();
    fold(dialect, &events).map(|body| serde_json::from_slice(&body).unwrap())
}

/// The payloads, `[DONE]` apart.
fn unfolded(dialect: Dialect, answer: &Value, include_usage: bool) -> Option<Vec<Value>> {
    let events = unfold(dialect, answer.to_string().as_bytes(), include_usage)?;
    let (done, events) = events.split_last().unwrap();
    assert_eq!(done, "data: [DONE]\n\n");
    let payload = |event: &Bytes| {
        let payload = event.strip_prefix(b"data: ").unwrap().strip_suffix(b"\n\n").unwrap();
        assert!(!payload.contains(&b'\n'));
        serde_json::from_slice(payload).unwrap()
    };
    Some(events.iter().map(payload).collect())
}

fn chunk(choice: Value) -> Value {
    json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice]})
}

fn delta(delta: Value) -> Value {
    chunk(json!({"index": 0, "delta": delta, "finish_reason": null}))
}

fn end(reason: &str) -> Value {
    chunk(json!({"index": 0, "delta": {}, "finish_reason": reason}))
}

fn message(deltas: &[Value]) -> Option<Value> {
    let events: Vec<_> = deltas.iter().map(|one| delta(one.clone())).chain([end("stop")]).collect();
    folded(Dialect::Chat, &events).map(|answer| answer["choices"][0]["message"].clone())
}

#[test]
fn a_stream_of_openais_becomes_its_plain_answer() {
    let head = json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "service_tier": "default", "system_fingerprint": "fp"});
    let event = |fields: Value| {
        let mut event = head.clone();
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        event
    };
    let choice = |index: u32, delta: Value, reason: Value, logprobs: Value| {
        event(
            json!({"choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}], "usage": null, "obfuscation": "x7"}),
        )
    };
    let token = |text: &str| json!({"content": [{"token": text, "logprob": -0.5}], "refusal": null});
    let null = Value::Null;
    let events = [
        choice(1, json!({"role": "assistant", "content": "", "refusal": null}), null.clone(), null.clone()),
        choice(0, json!({"role": "assistant", "content": "", "refusal": null}), null.clone(), null.clone()),
        choice(0, json!({"content": "Hi "}), null.clone(), token("Hi ")),
        choice(1, json!({"content": "Ho"}), null.clone(), null.clone()),
        choice(0, json!({"content": "there"}), null.clone(), token("there")),
        choice(0, json!({}), json!("stop"), null.clone()),
        choice(1, json!({}), json!("length"), null.clone()),
        event(json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})),
    ];
    let answer = json!({
        "id": "c1", "object": "chat.completion", "created": 7, "model": "m", "service_tier": "default", "system_fingerprint": "fp",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi there", "refusal": null}, "finish_reason": "stop",
             "logprobs": {"content": [{"token": "Hi ", "logprob": -0.5}, {"token": "there", "logprob": -0.5}], "refusal": null}},
            {"index": 1, "message": {"role": "assistant", "content": "Ho", "refusal": null}, "finish_reason": "length", "logprobs": null},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3},
    });
    assert_eq!(folded(Dialect::Chat, &events), Some(answer));
}

#[test]
fn calls_of_tools_are_put_together_by_their_index() {
    let call = |call: Value| json!({"tool_calls": [call]});
    let deltas = [
        json!({"role": "assistant", "content": null}),
        call(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "{\"x\""}})),
        call(json!({"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "1"}})),
        call(json!({"index": 0, "id": "", "function": {"name": null, "arguments": ":1}"}})),
        call(json!({"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": "2"}})),
    ];
    let calls = json!([
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
        {"id": "b", "type": "custom", "custom": {"name": "g", "input": "12"}},
    ]);
    assert_eq!(message(&deltas).unwrap(), json!({"role": "assistant", "content": null, "tool_calls": calls}));

    let old = [
        json!({"function_call": {"name": "f", "arguments": "{"}}),
        json!({"function_call": {"arguments": "}"}}),
    ];
    assert_eq!(message(&old).unwrap()["function_call"], json!({"name": "f", "arguments": "{}"}));
}

#[test]
fn fields_unknown_here_are_joined_or_the_last_counts() {
    let deltas = [
        json!({"reasoning_content": "a", "reasoning": "c", "later": "e", "list": [1], "n": 1, "z": null}),
        json!({"reasoning_content": "b", "reasoning": "d", "later": "f", "list": [2], "n": 2, "content": "Hi"}),
        json!({"later": null, "n": null}),
    ];
    let expected = json!({"role": "assistant", "content": "Hi", "reasoning_content": "ab", "reasoning": "cd", "later": "ef", "list": [1, 2], "n": 2, "z": null});
    assert_eq!(message(&deltas).unwrap(), expected);

    let azure = json!({"id": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [1]});
    let filtered =
        chunk(json!({"index": 0, "delta": {"content": "Hi"}, "content_filter_results": {"hate": 1}}));
    let answer = folded(Dialect::Chat, &[azure, filtered, end("stop")]).unwrap();
    assert_eq!(answer["id"], "c1");
    assert_eq!(answer["created"], 7);
    assert_eq!(answer["prompt_filter_results"], json!([1]));
    assert_eq!(answer["choices"][0]["content_filter_results"], json!({"hate": 1}));
}

#[test]
fn completions_fold_by_their_text() {
    let piece = |text: &str, reason: Value, offset: u32| {
        json!({"id": "c1", "object": "text_completion", "created": 7, "model": "m", "choices": [
            {"index": 0, "text": text, "finish_reason": reason, "logprobs": {"text_offset": [offset], "tokens": [text]}}]})
    };
    let answer =
        folded(Dialect::Completions, &[piece("Hi", Value::Null, 0), piece("!", json!("stop"), 2)]).unwrap();
    let choice = json!({"index": 0, "text": "Hi!", "finish_reason": "stop", "logprobs": {"text_offset": [0, 2], "tokens": ["Hi", "!"]}});
    assert_eq!(
        answer,
        json!({"id": "c1", "object": "text_completion", "created": 7, "model": "m", "choices": [choice]})
    );
}

#[test]
fn what_is_not_whole_or_odd_is_not_folded() {
    let fine = [delta(json!({"content": "Hi"})), end("stop")];
    assert!(folded(Dialect::Chat, &fine).is_some());
    for dialect in [Dialect::Responses, Dialect::Embeddings, Dialect::Other] {
        assert_eq!(folded(dialect, &fine), None);
    }
    assert_eq!(folded(Dialect::Chat, &[]), None);
    assert_eq!(folded(Dialect::Chat, &[json!({"choices": []})]), None);
    assert_eq!(folded(Dialect::Chat, &fine[..1]), None);
    let second = chunk(json!({"index": 1, "delta": {"content": "Ho"}}));
    assert_eq!(folded(Dialect::Chat, &[fine[0].clone(), second, fine[1].clone()]), None);
    for odd in [
        json!([]),
        json!({"error": {"message": "x"}}),
        json!({"choices": {}}),
        json!({"choices": [3]}),
        chunk(json!({"index": 128, "delta": {}})),
        chunk(json!({"index": -1, "delta": {}})),
        chunk(json!({"index": "0", "delta": {}})),
        chunk(json!({"index": 0, "delta": "Hi"})),
        chunk(json!({"index": 0, "message": {"content": "Hi"}})),
        chunk(json!({"index": 0, "finish_reason": ""})),
        delta(json!({"content": 3})),
        delta(json!({"content": ["Hi"]})),
        delta(json!({"audio": {"id": "a"}})),
        delta(json!({"tool_calls": {}})),
        delta(json!({"tool_calls": [{"id": "a"}]})),
    ] {
        let reason_last = odd["choices"][0]["finish_reason"] == "";
        let mut events = vec![fine[0].clone(), odd.clone()];
        events.extend((!reason_last).then(|| fine[1].clone()));
        assert_eq!(folded(Dialect::Chat, &events), None, "{odd}");
    }
    let call =
        |id: &str| delta(json!({"tool_calls": [{"index": 0, "id": id, "function": {"arguments": "{}"}}]}));
    assert_eq!(folded(Dialect::Chat, &[call("a"), call("b"), end("tool_calls")]), None);
    assert_eq!(fold(Dialect::Chat, &[b"{", end("stop").to_string().as_bytes()]), None);
}

#[test]
fn an_answer_unfolds_into_the_events_openai_sends() {
    let answer = json!({"id": "c1", "object": "chat.completion", "created": 7, "model": "m", "x": 1, "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi", "refusal": null}, "logprobs": null, "finish_reason": "stop"},
        {"index": 1, "message": {"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "tool_calls"},
    ], "usage": {"prompt_tokens": 9}});
    let choice = |index: u32, delta: Value| {
        json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "usage": null,
            "choices": [{"index": index, "delta": delta, "finish_reason": null}]})
    };
    let mut expected = vec![
        choice(0, json!({"role": "assistant", "content": "", "refusal": null})),
        choice(0, json!({"content": "Hi"})),
        choice(0, json!({})),
        choice(1, json!({"role": "assistant", "content": null})),
        choice(
            1,
            json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
        ),
        choice(1, json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})),
        choice(1, json!({})),
        choice(0, json!({})),
    ];
    expected[0]["x"] = json!(1);
    expected[1]["choices"][0]["logprobs"] = Value::Null;
    expected[2]["choices"][0]["finish_reason"] = json!("stop");
    expected[6]["choices"][0]["finish_reason"] = json!("tool_calls");
    expected[7]["choices"] = json!([]);
    expected[7]["usage"] = json!({"prompt_tokens": 9});
    assert_eq!(unfolded(Dialect::Chat, &answer, true).unwrap(), expected);

    let quiet = unfolded(Dialect::Chat, &answer, false).unwrap();
    assert_eq!(quiet.len(), 7);
    assert!(quiet.iter().all(|event| event.get("usage").is_none()));
}

#[test]
fn long_texts_go_in_pieces_cut_between_characters() {
    let text = "字".repeat(1000);
    let answer = json!({"id": "c1", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]});
    let events = unfolded(Dialect::Completions, &answer, false).unwrap();
    let pieces: Vec<_> = events.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [1023, 1023, 954, 0]);
    assert_eq!(pieces.concat(), text);
}

#[test]
fn what_is_odd_is_not_unfolded() {
    let fine =
        json!({"id": "c1", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]});
    assert!(unfolded(Dialect::Chat, &fine, true).is_some());
    for dialect in [Dialect::Responses, Dialect::Embeddings, Dialect::Other, Dialect::Completions] {
        assert_eq!(unfolded(dialect, &fine, true), None);
    }
    let of = |path: &str, value: Value| {
        let mut answer = fine.clone();
        let (parent, key) = path.rsplit_once('/').unwrap();
        answer.pointer_mut(parent).unwrap()[key] = value;
        unfolded(Dialect::Chat, &answer, true)
    };
    for (path, value) in [
        ("/error", json!({"message": "x"})),
        ("/choices", json!([])),
        ("/choices", json!([1])),
        ("/choices", json!([fine["choices"][0], fine["choices"][0]])),
        ("/choices/0/index", json!(128)),
        ("/choices/0/finish_reason", json!(null)),
        ("/choices/0/message", json!("Hi")),
        ("/choices/0/message/content", json!([{"type": "text", "text": "Hi"}])),
        ("/choices/0/message/audio", json!({"id": "a"})),
        ("/choices/0/message/tool_calls", json!([1])),
        ("/choices/0/message/tool_calls", json!({})),
        ("/choices/0/message/tool_calls", json!(vec![json!({}); MAX_LIST + 1])),
        ("/choices/0/message/function_call", json!("f")),
        ("/id", json!("c".repeat(MAX_HEAD))),
    ] {
        assert_eq!(of(path, value.clone()), None, "{path}: {value}");
    }
    assert!(of("/choices/0/message/later", json!("c".repeat(4 * MAX_HEAD))).is_some());
    assert_eq!(unfold(Dialect::Chat, b"{", true), None);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "\\PC{0,40}", 1 => "[字a\"\\n😀]{900,1500}"]
}

fn call() -> impl Strategy<Value = Value> {
    ("[a-z0-9]{1,8}", "[a-z]{1,5}", text(), any::<bool>()).prop_map(|(id, name, arguments, custom)| {
        if custom {
            json!({"id": id, "type": "custom", "custom": {"name": name, "input": arguments}})
        } else {
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        }
    })
}

fn choice() -> impl Strategy<Value = Value> {
    let content = prop_oneof![4 => text().prop_map(Value::from), 1 => Just(Value::Null)];
    let others = prop::collection::btree_map(
        prop::sample::select(vec!["reasoning_content", "reasoning", "refusal", "later"]),
        prop_oneof![text().prop_map(Value::from), Just(Value::Null)],
        0..3,
    );
    let calls = prop_oneof![2 => Just(None), 1 => prop::collection::vec(call(), 0..4).prop_map(Some)];
    let logprobs = prop_oneof![
        2 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => prop::collection::vec(("\\PC{0,3}", -9.0..0.0), 0..3).prop_map(|all| {
            let all: Vec<_> = all.into_iter().map(|(token, p)| json!({"token": token, "logprob": p})).collect();
            Some(json!({"content": all, "refusal": null}))
        }),
    ];
    let reason = prop::sample::select(vec!["stop", "length", "tool_calls"]);
    (content, others, calls, logprobs, reason, any::<bool>()).prop_map(
        |(content, others, calls, logprobs, reason, old)| {
            let mut message = json!({"role": "assistant", "content": content});
            for (key, value) in others {
                message[key] = value;
            }
            if let Some(calls) = calls {
                message["tool_calls"] = calls.into();
            }
            if old {
                message["function_call"] = json!({"name": "f", "arguments": "{}"});
            }
            let mut choice = json!({"message": message, "finish_reason": reason});
            if let Some(logprobs) = logprobs {
                choice["logprobs"] = logprobs;
            }
            choice
        },
    )
}

fn answer() -> impl Strategy<Value = Value> {
    (prop::collection::vec(choice(), 1..4), "[a-z0-9]{1,9}", 1_u32.., any::<bool>()).prop_map(
        |(choices, id, created, usage)| {
            let numbered = choices.into_iter().enumerate().map(|(i, mut choice)| {
                choice["index"] = i.into();
                choice
            });
            let mut answer = json!({"id": id, "object": "chat.completion", "created": created, "model": "m",
                "system_fingerprint": null, "later": {"a": [1]}, "choices": numbered.collect::<Vec<_>>()});
            if usage {
                answer["usage"] = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12});
            }
            answer
        },
    )
}

proptest! {
    #[test]
    fn an_answer_unfolded_folds_into_itself(answer in answer(), include_usage in any::<bool>()) {
        let mut events = unfolded(Dialect::Chat, &answer, include_usage).unwrap();
        let mut expected = answer;
        if !include_usage {
            expected.as_object_mut().unwrap().remove("usage");
        }
        prop_assert_eq!(folded(Dialect::Chat, &events), Some(expected));
        // Without its last event but the usage, some choice never ends.
        events.retain(|event| event["choices"] != json!([]));
        events.pop();
        prop_assert_eq!(folded(Dialect::Chat, &events), None);
    }

    #[test]
    fn each_event_is_one_the_gateway_understands(answer in answer()) {
        let events = unfolded(Dialect::Chat, &answer, true).unwrap();
        let choices = answer["choices"].as_array().unwrap().len();
        let (mut ended, mut usage) = (0, false);
        for event in events {
            let data = event.to_string();
            let crate::answer::Chunk::Event(peek) = crate::answer::peek_chunk(Dialect::Chat, data.as_bytes()) else {
                return Err(TestCaseError::fail("no event"));
            };
            ended |= peek.ended;
            prop_assert!(!usage, "something after the usage");
            usage = crate::usage_option::is_usage_event(Dialect::Chat, data.as_bytes());
        }
        prop_assert_eq!(ended, (1 << choices) - 1);
        prop_assert_eq!(usage, answer.get("usage").is_some());
    }
}

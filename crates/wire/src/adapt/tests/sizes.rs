use super::*;

/// A model that reads and writes this many tokens.
fn window(tokens: usize) -> Able {
    Able { context_window: Some(tokens), ..ALL }
}

/// Text of so many tokens by the estimate, whatever stands around it.
fn text(tokens: usize) -> String {
    "a".repeat(tokens * 7 / 2)
}

#[test]
fn the_oldest_turns_go_until_the_rest_fits() {
    // 24 tokens each, and 4 for each message.
    let words: Vec<String> = ["s", "g", "b", "c", "d", "e"].iter().map(|s| s.repeat(84)).collect();
    let roles = ["system", "assistant", "user", "assistant", "user", "user"];
    let talk: Vec<_> = roles.into_iter().zip(words.iter().map(String::as_str)).collect();
    let of = |prompt: usize| {
        let out = left(&talk, &Adaptation { max_tokens: Some(10), ..AS_IS }, &window(prompt + 10));
        out.map(|texts| texts.iter().filter_map(|text| text.chars().next()).collect::<String>())
    };
    let fits = |prompt| of(prompt).unwrap();
    assert_eq!(fits(6 * 28), "sgbcde");
    assert_eq!(fits(6 * 28 - 1), "sbcde");
    assert_eq!(fits(5 * 28), "sbcde");
    assert_eq!(fits(5 * 28 - 1), "sde");
    assert_eq!(fits(3 * 28), "sde");
    assert_eq!(fits(3 * 28 - 1), "se");
    assert_eq!(fits(2 * 28), "se");
    let talk_too_long: Value = talk.iter().map(|(role, content)| said(role, content)).collect();
    let adaptation = Adaptation { max_tokens: Some(10), ..AS_IS };
    for too_small in [2 * 28 - 1, 0] {
        let out = adapted(Dialect::Chat, &chat(talk_too_long.clone()), &adaptation, &window(too_small + 10));
        assert_eq!(out, Err(Unable::TooLong));
    }
}

#[test]
fn the_answer_needs_its_room_too() {
    let body = |fields: Value| {
        let mut body = chat(json!([said("user", &text(100))]));
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let least =
        |body: &Value| (0..2000).find(|tokens| refusal(Dialect::Chat, body, &window(*tokens)).is_none());
    assert_eq!(least(&body(json!({}))), Some(104 + 256));
    assert_eq!(least(&body(json!({"max_tokens": 50}))), Some(104 + 50));
    assert_eq!(least(&body(json!({"max_tokens": 50, "max_completion_tokens": 70}))), Some(104 + 70));
    assert_eq!(least(&body(json!({"max_tokens": 1e300}))), None);
    // What the tools are takes room, and what came of their calls.
    let tool = json!({"tools": [{"type": "function"}], "max_tokens": 0});
    assert_eq!(least(&body(tool)), Some((350_usize + 12).div_ceil(7) * 2 + 4));
    let call = json!([said("user", &text(100)), {"role": "assistant", "tool_calls": text(70)}]);
    assert_eq!(least(&body(json!({"messages": call, "max_tokens": 0}))), Some(178));
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x".repeat(100_000)}}]}]);
    assert_eq!(least(&body(json!({"messages": image, "max_tokens": 0}))), Some(1004));
}

#[test]
fn prompts_without_turns_fit_or_do_not() {
    let least = |dialect, body: &Value, adaptation: &Adaptation<'_>| {
        (0..2000).find(|tokens| adapted(dialect, body, adaptation, &window(*tokens)).is_ok())
    };
    let completion = json!({"prompt": ["a", text(100), "b"], "max_tokens": 6});
    assert_eq!(least(Dialect::Completions, &completion, &AS_IS), Some(110));
    let system = text(10);
    let with_system = Adaptation { system: Some(&system), ..AS_IS };
    assert_eq!(least(Dialect::Completions, &completion, &with_system), Some(121));
    let response = json!({"input": text(100), "max_output_tokens": 6});
    assert_eq!(least(Dialect::Responses, &response, &AS_IS), Some(110));
    assert_eq!(least(Dialect::Responses, &response, &with_system), Some(120));
    assert_eq!(least(Dialect::Embeddings, &json!({"input": [text(100), text(50)]}), &AS_IS), Some(104));
    assert_eq!(least(Dialect::Embeddings, &json!({"input": [[1, 2, 3], [1]]}), &AS_IS), Some(3));
    assert_eq!(least(Dialect::Embeddings, &json!({"input": [1, 2, 3, 4]}), &AS_IS), Some(4));
}

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn of(dialect: Dialect, model: &str, body: &Value) -> u64 {
    Counter::load().prompt_tokens(dialect, model, body.to_string().as_bytes())
}

/// What another tokenizer counts.
fn o200k(text: &str) -> u64 {
    bpe_openai::o200k_base().count(text) as u64
}

fn cl100k(text: &str) -> u64 {
    bpe_openai::cl100k_base().count(text) as u64
}

fn said(content: Value) -> Value {
    json!({"messages": [{"role": "user", "content": content}]})
}

/// Of [`said`], less its text.
const AROUND: u64 = 3 + 3 + 1;

#[test]
fn the_vocabulary_is_the_models() {
    let counter = Counter::load();
    for old in [
        "gpt-4",
        "gpt-4-0613",
        "gpt-4-turbo",
        "gpt-3.5-turbo-16k",
        "gpt-35-turbo",
        "ft:gpt-3.5-turbo:org",
        "openai/gpt-4-turbo",
        "text-embedding-3-small",
    ] {
        assert!(std::ptr::eq(counter.vocabulary(old), counter.cl100k), "{old}");
    }
    for new in ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "o3", "qwen3", "", "ft:gpt-4o:org", "gpt-4o/"] {
        assert!(std::ptr::eq(counter.vocabulary(new), counter.o200k), "{new}");
    }
    let text = "你好，世界。";
    assert_ne!(o200k(text), cl100k(text));
    assert_eq!(of(Dialect::Chat, "gpt-4o", &said(json!(text))), AROUND + o200k(text));
    assert_eq!(of(Dialect::Chat, "gpt-4", &said(json!(text))), AROUND + cl100k(text));
}

#[test]
fn an_answer_whose_upstream_tells_no_usage_is_judged_by_its_length() {
    for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Responses] {
        assert_eq!(answer_tokens(dialect, &[b'x'; 35]), 10);
        assert_eq!(answer_tokens(dialect, b""), 1);
    }
    for dialect in [Dialect::Embeddings, Dialect::Other] {
        assert_eq!(answer_tokens(dialect, &[b'x'; 35]), 0);
    }
}

#[test]
fn the_cookbooks_example_counts_as_openai_counts_it() {
    // "How to count tokens with tiktoken": the API itself reports 129 for gpt-4 and 124 for gpt-4o.
    let messages = json!([
        {"role": "system", "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
        {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
        {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
        {"role": "system", "name": "example_user", "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
        {"role": "system", "name": "example_assistant", "content": "Let's talk later when we're less busy about how to do better."},
        {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
    ]);
    assert_eq!(of(Dialect::Chat, "gpt-4-0613", &json!({"messages": messages})), 129);
    assert_eq!(of(Dialect::Chat, "gpt-4o", &json!({"messages": messages})), 124);
}

#[test]
fn all_that_the_model_reads_counts() {
    let hi = o200k("Hi there");
    let text = |body: Value| of(Dialect::Chat, "m", &body);
    assert_eq!(
        text(said(json!([{"type": "text", "text": "Hi there"}, {"type": "refusal", "refusal": "Hi there"}]))),
        AROUND + 2 * hi
    );
    let picture = json!([{"type": "text", "text": "Hi there"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]);
    assert_eq!(text(said(picture)), AROUND + hi + MEDIA_TOKENS);
    let named = json!({"messages": [{"role": "user", "name": "Hi there", "content": null}]});
    assert_eq!(text(named), AROUND + 1 + hi);
    let call = json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "Hi there", "arguments": "Hi there"}}]}]});
    assert_eq!(text(call), AROUND + 3 + 2 * hi);

    let tools = json!([{"type": "function", "function": {"name": "f", "description": "Hi there"}}]);
    let mut with_tools = said(json!("Hi there"));
    with_tools["tools"] = tools.clone();
    assert_eq!(text(with_tools.clone()), AROUND + hi + o200k(&tools.to_string()));
    with_tools["tools"] = json!([]);
    assert_eq!(text(with_tools), AROUND + hi);
    let format = json!({"type": "json_schema", "json_schema": {"name": "Hi there"}});
    let mut with_format = said(json!(""));
    with_format["response_format"] = format.clone();
    assert_eq!(text(with_format), AROUND + o200k(&format.to_string()));
}

#[test]
fn prompts_and_inputs_count_in_all_their_kinds() {
    let (one, two) = (o200k("Hi there"), o200k("General"));
    for (dialect, key) in [
        (Dialect::Completions, "prompt"),
        (Dialect::Embeddings, "input"),
        (Dialect::Responses, "input"),
        (Dialect::Other, "input"),
        (Dialect::Other, "prompt"),
    ] {
        let of = |prompt: Value| of(dialect, "m", &json!({key: prompt}));
        assert_eq!(of(json!("Hi there")), one);
        assert_eq!(of(json!(["Hi there", "General"])), one + two);
        assert_eq!(of(json!([1, 2, 3])), 3);
        assert_eq!(of(json!([[1, 2, 3], [4]])), 4);
        assert_eq!(of(json!(null)), 0);
    }
    let items = json!({
        "instructions": "General",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi there"}, {"type": "input_image"}]},
            {"type": "function_call", "call_id": "call_1", "name": "General", "arguments": "Hi there"},
            {"type": "function_call_output", "call_id": "call_1", "output": "General"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "General"}], "encrypted_content": "AAAA"},
        ],
    });
    let expected = 3 * 6 + o200k("user") + 1 + 2 * one + 4 * two + MEDIA_TOKENS;
    assert_eq!(of(Dialect::Responses, "m", &items), expected);
    // What belongs to another endpoint is not read.
    assert_eq!(of(Dialect::Completions, "m", &json!({"prompt": "Hi there", "input": "General"})), one);
}

#[test]
fn what_would_take_long_is_judged_by_its_length() {
    let counter = Counter::load();
    let most = "word ".repeat(MAX_COUNTED / 5);
    assert_eq!(of(Dialect::Completions, "m", &json!({"prompt": most})), o200k(&most));
    let more = most.clone() + "words";
    assert_eq!(of(Dialect::Completions, "m", &json!({"prompt": more})), text::estimate(more.len()));
    let halves = json!({"prompt": [&most[..MAX_COUNTED / 2], &most[..MAX_COUNTED / 2], "x"]});
    assert_eq!(of(Dialect::Completions, "m", &halves), text::estimate(MAX_COUNTED / 2 * 2 + 1));

    for c in ["a", " ", "-", "é", "字"] {
        let run = c.repeat(MAX_RUN / c.len() + 1);
        let around = format!("one 1{run}2 two");
        let expected = o200k("one 1") + text::estimate(run.len()) + o200k("2 two");
        assert_eq!(of(Dialect::Completions, "m", &json!({"prompt": around})), expected, "{c:?}");
    }
    assert_eq!(counter.prompt_tokens(Dialect::Chat, "m", &[b'['; 7000]), 2000);
    assert_eq!(text::estimate(usize::MAX), (u64::MAX).div_ceil(7));
}

#[test]
fn the_largest_bound_on_the_answer_counts() {
    for (body, most) in [
        (r#"{"max_tokens":5}"#, Some(5)),
        (r#"{"max_tokens":5,"max_completion_tokens":9,"max_output_tokens":7}"#, Some(9)),
        (r#"{"max_tokens":9,"max_tokens":5}"#, Some(9)),
        (r#"{"max_tokens":5.0,"max_output_tokens":"9"}"#, Some(5)),
        (r#"{"max_tokens":5.9}"#, Some(5)),
        (r#"{"max_tokens":0}"#, Some(0)),
        (r#"{"max_tokens":1e300}"#, Some(u64::MAX)),
        (r#"{"max_tokens":1e999}"#, Some(u64::MAX)),
        (r#"{"max_tokens":-1,"max_completion_tokens":null}"#, None),
        (r#"{"a":{"max_tokens":5}}"#, None),
        ("[]", None),
        ("", None),
    ] {
        assert_eq!(asked_output(body.as_bytes()), most, "{body}");
    }
}

proptest! {
    #[test]
    fn two_tokenizers_count_the_same(text in "\\PC{0,200}|[ \\n\\ta-zA-Z0-9.,'!字é-]{0,200}") {
        let body = json!({"prompt": text});
        prop_assert_eq!(of(Dialect::Completions, "gpt-4o", &body), o200k(&text));
        prop_assert_eq!(of(Dialect::Completions, "gpt-4", &body), cl100k(&text));
    }

    #[test]
    fn a_bound_is_found_wherever_it_stands((_, body) in crate::body::strategy::request(), bound in 0_u64..1 << 53) {
        let mut body = body;
        body.insert("max_output_tokens".to_owned(), bound.into());
        prop_assert!(asked_output(Value::Object(body).to_string().as_bytes()) >= Some(bound));
    }
}

/// `cargo test -p tidegate-wire --release -- --ignored --nocapture timing`
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
fn timing_of_a_count() {
    let start = std::time::Instant::now();
    let counter = Counter::load();
    println!("tokens, load: {:?}", start.elapsed());
    let message = |i: usize| json!({"role": "user", "content": format!("Message {i} of a conversation about the weather: {}", "it rains, and then it shines. ".repeat(10))});
    let chat = |count: usize| {
        json!({"model": "gpt-4o", "messages": (0..count).map(message).collect::<Vec<_>>()}).to_string()
    };
    let picture = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "A".repeat(8 << 20)}}]}]});
    let runs = |c: &str| {
        let run = c.repeat(MAX_RUN / c.len()) + "1 ";
        said(json!(run.repeat((MAX_COUNTED - 64) / run.len()))).to_string()
    };
    let marks = said(json!("a\u{301}".repeat(MAX_COUNTED / 3 - 16))).to_string();
    for (name, body, rounds) in [
        ("4 KB", chat(10), 1000),
        ("31 KB", chat(85), 200),
        ("1 MB", chat(2800), 10),
        ("8 MB picture", picture.to_string(), 10),
        ("runs of a", runs("a"), 10),
        ("runs of blanks", runs(" "), 10),
        ("runs of signs", runs("-="), 10),
        ("runs of 字", runs("字"), 10),
        ("runs of letters", runs("qzjxkvbwpfgyhmucldrtsneioa"), 10),
        ("marks", marks, 10),
    ] {
        let start = std::time::Instant::now();
        let mut tokens = 0;
        for _ in 0..rounds {
            tokens = std::hint::black_box(counter.prompt_tokens(Dialect::Chat, "gpt-4o", body.as_bytes()));
        }
        println!("tokens, {name} ({} bytes, {tokens} tokens): {:?}", body.len(), start.elapsed() / rounds);
    }
}

use super::*;
use crate::body::strategy;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn form(body: &str) -> Option<String> {
    canonical(body.as_bytes()).map(|form| String::from_utf8(form).unwrap())
}

/// The form of a number.
fn number(token: &str) -> Option<String> {
    let form = form(&format!(r#"{{"a":{token}}}"#))?;
    Some(form.strip_prefix(r#"{"a":"#).unwrap().strip_suffix('}').unwrap().to_owned())
}

#[test]
fn the_examples_of_the_standard_come_out_as_printed_there() {
    let example = r#"{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    let printed = concat!(
        r#"{"literals":[null,true,false],"#,
        r#""numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
        r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
    );
    assert_eq!(form(example).unwrap(), printed);

    let keys = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
    let sorted =
        "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
    assert_eq!(form(keys).unwrap(), sorted);
}

#[test]
fn numbers_are_written_as_ecmascript_writes_them() {
    // Appendix B of the standard, and the turns between its notations.
    for (bits, text) in [
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ] {
        let value = f64::from_bits(bits);
        assert_eq!(number(&format!("{value:e}")).unwrap(), text);
    }
    for (token, text) in [
        ("1.0", "1"),
        ("1", "1"),
        ("10e-1", "1"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e9", "0"),
        ("0.70", "0.7"),
        ("-1.5E+2", "-150"),
    ] {
        assert_eq!(number(token).unwrap(), text);
    }
}

#[test]
fn whole_numbers_beyond_the_doubles_keep_their_digits() {
    for token in
        ["9007199254740993", "9007199254740992", "-9007199254740993", "123456789012345678901234567890"]
    {
        assert_eq!(number(token).unwrap(), token);
    }
}

#[test]
fn what_readers_could_read_differently_has_no_form() {
    for body in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":[{"b":{"x":1,"y":2,"x":3}}]}"#,
        r#"{"stream":true,"stream":false}"#,
        r#"{"metadata":{"x":1,"x":1},"a":1}"#,
        r#"{"a":"\ud83d"}"#,
        r#"{"\ude00":1}"#,
        r#"{"a":1e400}"#,
        "[1]",
        "3",
        "",
        "null",
        "{",
        r#"{"a":1}x"#,
        r#"{"a":01}"#,
        "{\"a\":\"\n\"}",
        "\u{feff}{}",
    ] {
        assert_eq!(form(body), None, "{body}");
    }
    assert_eq!(canonical(b"{\"a\":\"\xff\"}"), None);
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!(r#"{{"a":{}0{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert_eq!(form(&nested(MAX_DEPTH)), Some(nested(MAX_DEPTH)));
    assert_eq!(form(&nested(MAX_DEPTH + 1)), None);
    assert_eq!(form(&nested(2_000_000)), None);
}

#[test]
fn fields_are_left_out_at_the_top_alone() {
    let body = r#"{"user":"u","a":{"user":"v"},"stream":true,"metadata":{"z":{"b":1,"a":2}},"Stream":1}"#;
    assert_eq!(form(body).unwrap(), r#"{"Stream":1,"a":{"user":"v"}}"#);
    assert_eq!(form(r#"{"us\u0065r":"u"}"#).unwrap(), "{}");
    assert_eq!(
        form(r#"{"b":{"d":1,"c":2},"user":{"d":1,"c":2},"a":{"y":0,"x":[{"n":1,"m":2}]}}"#).unwrap(),
        r#"{"a":{"x":[{"m":2,"n":1}],"y":0},"b":{"c":2,"d":1}}"#
    );
}

/// Every documented field of the four endpoints that changes what is answered, with two values.
fn documented() -> Vec<(&'static str, Value, Value)> {
    let tool = |name: &str| json!([{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}]);
    vec![
        // chat completions
        ("messages", json!([{"role": "user", "content": "a"}]), json!([{"role": "system", "content": "a"}])),
        ("model", json!("gpt-4o"), json!("gpt-4o-mini")),
        ("audio", json!({"voice": "ash", "format": "wav"}), json!({"voice": "ash", "format": "mp3"})),
        ("frequency_penalty", json!(0), json!(0.1)),
        ("function_call", json!("none"), json!("auto")),
        ("functions", json!([{"name": "a"}]), json!([{"name": "b"}])),
        ("logit_bias", json!({"50256": -100}), json!({"50256": -99})),
        ("logprobs", json!(true), json!(false)),
        ("max_completion_tokens", json!(16), json!(17)),
        ("max_tokens", json!(16), json!(null)),
        ("modalities", json!(["text"]), json!(["text", "audio"])),
        ("n", json!(1), json!(2)),
        ("parallel_tool_calls", json!(true), json!(false)),
        (
            "prediction",
            json!({"type": "content", "content": "a"}),
            json!({"type": "content", "content": "b"}),
        ),
        ("presence_penalty", json!(0.5), json!(-0.5)),
        ("prompt_cache_retention", json!("in_memory"), json!("24h")),
        ("reasoning_effort", json!("low"), json!("high")),
        ("response_format", json!({"type": "text"}), json!({"type": "json_object"})),
        ("seed", json!(9_007_199_254_740_992_u64), json!(9_007_199_254_740_993_u64)),
        ("stop", json!("a"), json!(["a"])),
        ("store", json!(true), json!(false)),
        ("temperature", json!(0.7), json!(0.700_000_000_000_000_1)),
        ("tool_choice", json!("auto"), json!("required")),
        ("tools", tool("a"), tool("b")),
        ("top_logprobs", json!(1), json!(2)),
        ("top_p", json!(1), json!(0.9)),
        ("verbosity", json!("low"), json!("medium")),
        ("web_search_options", json!({}), json!({"search_context_size": "low"})),
        // completions
        ("prompt", json!("a"), json!("a ")),
        ("best_of", json!(1), json!(2)),
        ("echo", json!(true), json!(false)),
        ("suffix", json!("a"), json!("b")),
        // embeddings
        ("input", json!("a"), json!(["a"])),
        ("dimensions", json!(256), json!(1024)),
        ("encoding_format", json!("float"), json!("base64")),
        // responses
        ("background", json!(true), json!(false)),
        ("context_management", json!([{"type": "compaction"}]), json!([])),
        ("conversation", json!("conv_1"), json!({"id": "conv_1"})),
        ("include", json!([]), json!(["reasoning.encrypted_content"])),
        ("instructions", json!("a"), json!("A")),
        ("max_output_tokens", json!(16), json!(17)),
        ("max_tool_calls", json!(1), json!(2)),
        ("previous_response_id", json!("resp_1"), json!("resp_2")),
        ("prompt", json!({"id": "pmpt_1"}), json!({"id": "pmpt_1", "version": "2"})),
        ("reasoning", json!({"effort": "low"}), json!({"effort": "low", "summary": "auto"})),
        ("text", json!({"verbosity": "low"}), json!({"format": {"type": "json_object"}})),
        ("truncation", json!("auto"), json!("disabled")),
        // fields of other servers
        ("provider", json!({"order": ["a", "b"]}), json!({"order": ["b", "a"]})),
        ("top_k", json!(1), json!("1")),
        ("chat_template_kwargs", json!({"enable_thinking": true}), json!({"enable_thinking": false})),
        ("Stream", json!(true), json!(false)),
    ]
}

/// JSON of the value in another spelling: objects in reverse, blanks, escapes where none are needed.
fn respelt(value: &Value, blank: &str, out: &mut String) {
    let string = |text: &str, out: &mut String| {
        out.push('"');
        for unit in text.encode_utf16() {
            out.push_str(&format!("\\u{unit:04X}"));
        }
        out.push('"');
    };
    out.push_str(blank);
    match value {
        Value::Object(entries) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().rev().enumerate() {
                out.push_str(if i == 0 { blank } else { "," });
                out.push_str(blank);
                string(key, out);
                out.push_str(blank);
                out.push(':');
                respelt(value, blank, out);
            }
            out.push_str(blank);
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                respelt(item, blank, out);
            }
            out.push_str(blank);
            out.push(']');
        }
        Value::String(text) => string(text, out),
        Value::Number(number) if number.is_f64() && !number.to_string().contains('e') => {
            out.push_str(&format!("{number}0E+0"));
        }
        scalar => out.push_str(&scalar.to_string()),
    }
    out.push_str(blank);
}

fn without(body: &Map<String, Value>, key: &str) -> Map<String, Value> {
    let mut body = body.clone();
    body.remove(key);
    body
}

proptest! {
    #[test]
    fn order_blanks_and_escapes_change_nothing((_, body) in strategy::request(), blank in "[ \t\r\n]{0,3}") {
        let body = Value::Object(body);
        let mut other = String::new();
        respelt(&body, &blank, &mut other);
        prop_assert_eq!(form(&other), form(&body.to_string()));
    }

    #[test]
    fn the_form_is_its_own_form_and_says_the_same((_, body) in strategy::request()) {
        let once = form(&Value::Object(body.clone()).to_string()).unwrap();
        prop_assert_eq!(form(&once).unwrap(), once.clone());
        let kept: Map<_, _> =
            body.into_iter().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str())).collect();
        let same = |a: &Value, b: &Value| -> bool {
            fn same(a: &Value, b: &Value) -> bool {
                match (a, b) {
                    (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
                    (Value::Array(a), Value::Array(b)) => {
                        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
                    }
                    (Value::Object(a), Value::Object(b)) => {
                        a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
                    }
                    (a, b) => a == b,
                }
            }
            same(a, b)
        };
        prop_assert!(same(&serde_json::from_str(&once).unwrap(), &Value::Object(kept)));
    }

    #[test]
    fn a_field_that_is_left_out_never_changes_it((_, body) in strategy::request(), value in strategy::odd()) {
        for key in LEFT_OUT {
            let mut with = body.clone();
            with.insert(key.to_owned(), value.clone());
            let none = form(&Value::Object(without(&body, key)).to_string()).unwrap();
            prop_assert_eq!(form(&Value::Object(with).to_string()).unwrap(), none, "{}", key);
        }
    }

    #[test]
    fn every_double_reads_back_as_it_was(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let text = number(&format!("{value:e}")).unwrap();
        prop_assert_eq!(text.parse::<f64>().unwrap(), value);
    }

    #[test]
    fn keys_are_in_the_order_of_utf_16(keys in prop::collection::btree_set(".{0,3}", 0..8)) {
        let body: Map<String, Value> = keys.iter().map(|key| (key.clone(), json!(0))).collect();
        let mut sorted: Vec<_> = keys.into_iter().filter(|key| !LEFT_OUT.contains(&key.as_str())).collect();
        sorted.sort_by_key(|key| key.encode_utf16().collect::<Vec<_>>());
        let written: Vec<String> = sorted.iter().map(|key| format!("{}:0", json!(key))).collect();
        prop_assert_eq!(form(&Value::Object(body).to_string()).unwrap(), format!("{{{}}}", written.join(",")));
    }

    #[test]
    fn whatever_has_a_form_is_an_object(body in "\\PC{0,20}|[{}\\[\\]\",:\\\\ua0-9e. -]{0,30}|\\{\"[a-c]\":[0-9eE.+-]{1,8}\\}") {
        let Some(form) = form(&body) else { return Ok(()) };
        prop_assert!(serde_json::from_str::<Value>(&body).unwrap().is_object());
        prop_assert!(serde_json::from_str::<Value>(&form).unwrap().is_object());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_documented_field_changes_it((_, body) in strategy::request()) {
        for (key, one, other) in documented() {
            let with = |value: &Value| {
                let mut body = body.clone();
                body.insert(key.to_owned(), value.clone());
                form(&Value::Object(body).to_string()).unwrap()
            };
            let none = form(&Value::Object(without(&body, key)).to_string()).unwrap();
            prop_assert_ne!(with(&one), with(&other), "{}", key);
            prop_assert_ne!(with(&one), none.clone(), "{}", key);
            prop_assert_ne!(with(&other), none, "{}", key);
        }
    }
}

/// `cargo test -p tidegate-wire --release -- --ignored --nocapture timing`
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
fn timing_of_a_form() {
    let turn = |i: usize| json!({"role": "user", "content": format!("turn {i}: \"quoted\"\n{}", "word ".repeat(60))});
    let body = |turns: usize| {
        json!({"model": "gpt-4o", "temperature": 0.7, "stream": true, "messages": (0..turns).map(turn).collect::<Vec<_>>()}).to_string()
    };
    let mut sideways = r#"{"b":"#.repeat(127);
    sideways.push_str(&format!("[{}0]", "0,".repeat(4 << 20)));
    sideways.push_str(&r#","a":0}"#.repeat(127));
    for (name, body, rounds) in
        [("4 KB", body(12), 2000), ("1 MB", body(3000), 20), ("8 MB, 127 deep", sideways, 3)]
    {
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            assert!(std::hint::black_box(canonical(body.as_bytes())).is_some());
        }
        println!("canonical, {name} ({} bytes): {:?}", body.len(), start.elapsed() / rounds);
    }
}

//! The canonical form of a body: its own form, the same for another spelling, and JSON that says what the body says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate_wire::canonical::canonical;

const LEFT_OUT: [&str; 7] =
    ["stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"];

/// Equal but for whole numbers beyond the doubles, which `Value` reads as doubles where they exceed 64 bits.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fuzz_target!(|body: &[u8]| {
    let Some(form) = canonical(body) else { return };
    assert_eq!(canonical(&form).as_ref(), Some(&form));
    assert!(form.starts_with(b"{") && form.ends_with(b"}"));

    let text = std::str::from_utf8(body).expect("only text has a form");
    // A number too long for any double has a form, and no `Value`.
    let Ok(Value::Object(mut before)) = serde_json::from_str(text) else { return };
    before.retain(|key, _| !LEFT_OUT.contains(&key.as_str()));
    let before = Value::Object(before);
    let after: Value = serde_json::from_slice(&form).expect("what is read before is read after");
    assert!(same(&before, &after));

    // Written anew, keys in another order and numbers in another spelling, it is the same question.
    let anew = before.to_string();
    let exact = |digits: &[u8]| !digits.split(|b| !b.is_ascii_digit()).any(|run| run.len() > 15);
    if exact(body) && exact(anew.as_bytes()) {
        assert_eq!(canonical(anew.as_bytes()), Some(form));
    }
});

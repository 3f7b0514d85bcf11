//! Streams and plain answers turned into each other: what unfolds folds into the same answer, and what folds unfolds.
//! The input is a plain answer, and also the payloads of a stream, one on each line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate_wire::answer::{Chunk, Dialect, peek_chunk};
use tidegate_wire::cacheable::{may_cache, may_keep};
use tidegate_wire::replay::{fold, unfold};
use tidegate_wire::usage_option::is_usage_event;

const DIALECTS: [Dialect; 5] =
    [Dialect::Chat, Dialect::Completions, Dialect::Embeddings, Dialect::Responses, Dialect::Other];

/// Folds an answer unfolded.
fn there_and_back(dialect: Dialect, answer: &[u8]) -> Option<Option<Vec<u8>>> {
    let events = unfold(dialect, answer, true)?;
    let (done, events) = events.split_last().expect("never empty");
    assert_eq!(done, "data: [DONE]\n\n");
    let payloads: Vec<&[u8]> = events
        .iter()
        .map(|event| event.strip_prefix(b"data: ").and_then(|e| e.strip_suffix(b"\n\n")).expect("an event"))
        .collect();
    let mut terminal = false;
    for payload in &payloads {
        let Chunk::Event(peek) = peek_chunk(dialect, payload) else { panic!("no event of an answer") };
        assert!(peek.error.is_none());
        terminal |= peek.terminal;
    }
    assert!(terminal);
    assert!(payloads.iter().rev().skip(1).all(|payload| !is_usage_event(dialect, payload)));
    Some(fold(dialect, &payloads))
}

fuzz_target!(|input: &[u8]| {
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    for dialect in DIALECTS {
        assert!(!may_cache(dialect, input, true) || may_cache(dialect, input, false));
        if let Some(once) = there_and_back(dialect, input).flatten() {
            // What was put right on the way (a role, an odd `object`) stays so.
            assert_eq!(there_and_back(dialect, &once).flatten().as_ref(), Some(&once));
            if may_keep(dialect, input) {
                assert!(may_keep(dialect, &once));
            }
        }
        if let Some(answer) = fold(dialect, &lines) {
            let whole: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
            let choices = whole["choices"].as_array().expect("an answer has choices");
            assert!(choices.iter().all(|choice| choice["finish_reason"].is_string()));
            assert_eq!(fold(dialect, &lines), Some(answer));
        }
    }
});

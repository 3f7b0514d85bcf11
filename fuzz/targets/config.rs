//! The configuration: any file is either used, or refused with reasons that stand inside the file and on one line.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use tidegate_config::{Fault, Purpose, parse};

/// The faults of a refused file, or the warnings of one that is used.
fn judge(file: &[u8], purpose: Purpose) -> (bool, Vec<Fault>) {
    match parse("fuzz.yaml", file, &BTreeMap::new(), purpose) {
        Ok(loaded) => (true, loaded.warnings),
        Err(faults) => {
            assert!(faults.iter().next().is_some(), "refused without a reason");
            (false, faults.iter().cloned().collect())
        }
    }
}

fuzz_target!(|file: &[u8]| {
    let (used, said) = judge(file, Purpose::Check);
    assert_eq!(judge(file, Purpose::Check), (used, said.clone()), "the same file, the same judgement");
    // An absent secret stops a node and only warns an onlooker; nothing is the other way round.
    assert!(used || !judge(file, Purpose::Serve).0);

    assert!(said.is_sorted());
    let text = String::from_utf8_lossy(file);
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
    for fault in said {
        assert!(!fault.text().is_empty());
        assert_eq!(fault.to_string().lines().count(), 1, "{fault}");
        if let Some(place) = fault.place() {
            assert!((1..=lines).contains(&place.line), "{fault}");
            assert!((1..=text.chars().count() + 1).contains(&place.column), "{fault}");
        }
    }
});

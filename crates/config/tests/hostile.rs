//! No bytes make the reader panic, take long, or repeat a secret.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;
use tidegate_config::{Purpose, parse};

const SOUND: [&str; 4] = [
    include_str!("../../../configs/single-node.yaml"),
    include_str!("../../../configs/china-egress.yaml"),
    include_str!("../../../configs/cluster.yaml"),
    include_str!("whole.yaml"),
];

/// What a mutation puts in: pieces that mean something to YAML or to us.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    "&a ",
    "*a",
    "<<: *a\n",
    "!t ",
    "\n",
    "  ",
    "\t",
    "${",
    "${X:-",
    "}",
    "\"",
    "'",
    "|\n",
    "---\n",
    "\u{feff}",
    "é",
    "-1",
    "99999999999999999999",
];

fn read(text: &[u8]) -> String {
    match parse("f", text, &BTreeMap::new(), Purpose::Check) {
        Ok(loaded) => {
            assert!(!loaded.config.upstreams.is_empty() && !loaded.config.routes.is_empty());
            for route in &loaded.config.routes {
                assert!(route.to.iter().all(|&index| index < loaded.config.upstreams.len()));
            }
            for upstream in &loaded.config.upstreams {
                assert!(upstream.egress.iter().all(|&index| index < loaded.config.egress.len()));
            }
            String::new()
        }
        Err(faults) => {
            let text = faults.to_string();
            assert!(!text.is_empty());
            for fault in faults.iter() {
                let place = fault.place().map(|place| (place.line, place.column));
                assert!(place.is_none_or(|(line, column)| line >= 1 && column >= 1));
                assert!(!fault.text().contains('\n'), "one line each");
            }
            text
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused_or_read(text in prop::collection::vec(any::<u8>(), 0..512)) {
        read(&text);
    }

    #[test]
    fn arbitrary_text_is_refused_or_read(text in "[\\PC\n]{0,256}") {
        read(text.as_bytes());
    }

    #[test]
    fn mutated_files_are_refused_or_read(
        which in 0..SOUND.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..PIECES.len(), 0..8_usize), 1..8),
    ) {
        let mut bytes = SOUND.get(which).unwrap().as_bytes().to_vec();
        for (at, piece, cut) in edits {
            let at = at.index(bytes.len());
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, PIECES.get(piece).unwrap().bytes());
        }
        read(&bytes);
    }

    #[test]
    fn a_key_is_never_repeated(which in 0..SOUND.len(), at in any::<prop::sample::Index>()) {
        const KEY: &str = "sk-abcdefghijklmnopqrstuvwx";
        let mut text = SOUND.get(which).unwrap().to_string();
        let spaces: Vec<usize> = text.match_indices(' ').map(|(index, _)| index).collect();
        text.insert_str(*at.get(&spaces), &format!(" {KEY}"));
        prop_assert!(!read(text.as_bytes()).contains(KEY));
    }
}

#[test]
fn a_file_of_nothing_but_faults_is_told_in_bounds() {
    let mut text = String::new();
    for n in 0..40_000 {
        writeln!(text, "key{n}: 1").unwrap();
    }
    let told = read(text.as_bytes());
    assert!(told.ends_with("more faults"));
    assert_eq!(told.lines().count(), 1001);
}

#[test]
fn a_list_has_an_end() {
    let text = format!("upstreams: [{}]\nroutes: []\n", "a,".repeat(5001));
    assert!(read(text.as_bytes()).starts_with("f:1:12: more than 5000 entries in one list"));
}

#[test]
fn a_table_has_an_end() {
    let mut text = String::from("prices:\n");
    for n in 0..5001 {
        writeln!(text, "  m{n}*: {{input: 1, output: 1}}").unwrap();
    }
    let told = read(text.as_bytes());
    assert!(told.ends_with("\nf:2:3: more than 5000 entries in one section"), "{told}");
}

#[test]
fn long_words_are_cut() {
    let told = read(format!("{}: 1\n", "k".repeat(900)).as_bytes());
    assert!(told.contains(&format!("unknown key `{}...`", "k".repeat(48))));
}

//! What is wrong with a configuration, and where.
//!
//! Owns the collector every later step writes into, so that one reading reports every fault and not only the
//! first. Depends on nothing. Not here: deciding what is a fault. Words from the file reach a message through
//! [`quote`] alone, which keeps anything that looks like a secret, and anything that would break the line, out.

use std::fmt;
use std::sync::Arc;

/// More faults than this are counted, not kept: nobody reads them, and a hostile file could hold a hundred
/// thousand.
const FAULTS_MAX: usize = 1000;

/// A place in the file; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Place {
    /// The first character: for what the whole file lacks.
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong (or, as a warning, doubtful). Displays as `FILE:LINE:COLUMN: text`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    place: Option<Place>,
    text: String,
    file: Arc<str>,
}

impl Fault {
    /// Where it is; `None` when the file as a whole cannot be used.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What is wrong and what is meant, one line, free of secrets.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(Place { line, column }) => write!(f, "{}:{line}:{column}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

/// Every fault of one file, sorted by place, never empty. Displays one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    kept: Vec<Fault>,
    left_out: usize,
    warnings: Vec<Fault>,
}

impl Faults {
    /// The faults in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.kept.iter()
    }

    /// What an operator should look at besides, in the order of the file, so that one round of edits is enough.
    /// Not displayed: a warning is no reason why the file cannot be used.
    #[must_use]
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.kept.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        if self.left_out > 0 {
            write!(f, "\nand {} more faults", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Where every step puts what it finds. Knows the file's name and nothing else.
#[derive(Debug)]
pub(crate) struct Collector {
    file: Arc<str>,
    faults: Vec<Fault>,
    left_out: usize,
    warnings: Vec<Fault>,
}

impl Collector {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.into(), faults: Vec::new(), left_out: 0, warnings: Vec::new() }
    }

    /// What makes the file unusable.
    pub(crate) fn fault(&mut self, place: Place, text: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { place: Some(place), text: text.into(), file: Arc::clone(&self.file) });
        } else {
            self.left_out += 1;
        }
    }

    /// What an operator should look at, though the file can be used.
    pub(crate) fn warn(&mut self, place: Place, text: impl Into<String>) {
        if self.warnings.len() < FAULTS_MAX {
            self.warnings.push(Fault { place: Some(place), text: text.into(), file: Arc::clone(&self.file) });
        }
    }

    /// Whether there is a fault already.
    pub(crate) fn is_faulty(&self) -> bool {
        !self.faults.is_empty()
    }

    /// `Ok` with the sorted warnings, or every fault and the warnings with them. A value under an alias is read once per use, so equal
    /// faults at one place are one fault.
    pub(crate) fn finish(mut self) -> Result<Vec<Fault>, Faults> {
        for list in [&mut self.faults, &mut self.warnings] {
            list.sort();
            list.dedup();
        }
        if self.faults.is_empty() {
            Ok(self.warnings)
        } else {
            Err(Faults { kept: self.faults, left_out: self.left_out, warnings: self.warnings })
        }
    }

    /// One fault about the file as a whole.
    pub(crate) fn fatal(file: &str, text: impl Into<String>) -> Faults {
        let fault = Fault { place: None, text: text.into(), file: file.into() };
        Faults { kept: vec![fault], left_out: 0, warnings: Vec::new() }
    }
}

/// A word of the file as it may stand in a message: in backticks, short, on one line, and not at all when it
/// looks like a secret.
pub(crate) fn quote(word: &str) -> String {
    const SHOWN_MAX: usize = 48;
    if looks_secret(word) {
        return "`[redacted]`".to_owned();
    }
    let mut shown: String = word.chars().take(SHOWN_MAX).flat_map(shown_char).collect();
    if word.chars().nth(SHOWN_MAX).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

fn shown_char(c: char) -> impl Iterator<Item = char> {
    let escape = c.is_control().then(|| c.escape_default());
    let plain = escape.is_none().then_some(c);
    escape.into_iter().flatten().chain(plain)
}

/// Whether something that must not be repeated stands in the text.
pub(crate) fn looks_secret(text: &str) -> bool {
    holds_vendor_key(text) || holds_client_key(text)
}

/// A key of a model vendor: `sk-` and at least 8 characters.
pub(crate) fn holds_vendor_key(text: &str) -> bool {
    holds_key(text, "sk-", 8)
}

/// A key of ours, whole: `tg-` and 43 characters, so that names beginning in `tg-` are left alone.
pub(crate) fn holds_client_key(text: &str) -> bool {
    holds_key(text, "tg-", 43)
}

fn holds_key(text: &str, prefix: &str, body_min: usize) -> bool {
    text.match_indices(prefix).any(|(at, _)| {
        let begins = !text.get(..at).unwrap_or_default().ends_with(|c: char| c.is_ascii_alphanumeric());
        let body = text.get(at + prefix.len()..).unwrap_or_default();
        let in_key = |b: &u8| b.is_ascii_alphanumeric() || b"-_".contains(b);
        begins && body.bytes().take_while(in_key).take(body_min).count() == body_min
    })
}

/// The candidate nearest to `word`, if one is near enough to be what was meant: about one slip in four characters.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A longer word than any name of ours is no typing slip, and comparing it would be slow.
    const LENGTH_MAX: usize = 64;
    if word.len() > LENGTH_MAX {
        return None;
    }
    let near_enough = (word.chars().count() + 2) / 4;
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= near_enough)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// "a, b and c", for lists of what is right.
pub(crate) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<&str> = words.into_iter().collect();
    match words.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Collector, Place, listed, looks_secret, nearest, quote};

    #[test]
    fn secrets_are_seen_and_names_are_left_alone() {
        for (text, yes) in [
            ("sk-abcdefgh", true),
            ("Bearer sk-proj-abc_DEF-123", true),
            ("sk-short", false),
            ("desk-abcdefghijk", false),
            ("sk-[A-Za-z0-9_-]{20,}", false),
            ("tg-team", false),
            ("tg-0123456789012345678901234567890123456789012", true),
        ] {
            assert_eq!(looks_secret(text), yes, "{text}");
        }
    }

    #[test]
    fn quoted_words_stay_short_on_one_line_and_without_secrets() {
        assert_eq!(quote("a\nb"), "`a\\nb`");
        assert_eq!(quote("x sk-abcdefghijk"), "`[redacted]`");
        assert_eq!(quote(&"y".repeat(60)), format!("`{}...`", "y".repeat(48)));
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_near() {
        assert_eq!(nearest("tiemouts", ["timeouts", "tls"]), Some("timeouts"));
        assert_eq!(nearest("zebra", ["timeouts", "tls"]), None);
        assert_eq!(listed(["a", "b", "c"]), "a, b and c");
    }

    #[test]
    fn faults_come_sorted_and_once() {
        let mut collector = Collector::new("f.yaml");
        collector.fault(Place { line: 9, column: 1 }, "late");
        collector.fault(Place { line: 2, column: 5 }, "early");
        collector.fault(Place { line: 2, column: 5 }, "early");
        let faults = collector.finish().unwrap_err();
        assert_eq!(faults.to_string(), "f.yaml:2:5: early\nf.yaml:9:1: late");
    }

    #[test]
    fn faults_bring_the_warnings_with_them() {
        let mut collector = Collector::new("f.yaml");
        collector.warn(Place { line: 7, column: 1 }, "doubtful");
        collector.fault(Place { line: 9, column: 1 }, "wrong");
        collector.warn(Place { line: 3, column: 2 }, "odd");
        let faults = collector.finish().unwrap_err();
        assert_eq!(faults.to_string(), "f.yaml:9:1: wrong");
        let warnings: Vec<String> = faults.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(warnings, ["f.yaml:3:2: odd", "f.yaml:7:1: doubtful"]);
    }
}

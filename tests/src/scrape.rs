//! What a node's `/metrics` says, read as Prometheus reads it and not by searching its text.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::node::Node;
use crate::parts;

/// One series.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// With `_bucket`, `_sum` or `_count` where it is a histogram's.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

impl Sample {
    fn of(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = BTreeMap::new();
        let mut rest = rest.strip_suffix('}')?;
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.insert(label.to_owned(), value);
            rest = quoted[end + 1..].trim_start_matches(',');
        }
        Some(Self { name: name.to_owned(), labels, value: value.parse().ok()? })
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(label, value)| self.labels.get(*label).is_some_and(|found| found == value))
    }
}

/// One answer of `/metrics`.
#[derive(Debug)]
pub struct Scrape {
    /// As it came.
    pub text: String,
    /// Kinds of families by name: `counter`, `gauge`, `histogram`.
    pub kinds: HashMap<String, String>,
    /// All series.
    pub samples: Vec<Sample>,
}

impl Scrape {
    /// Asks the node, and fails on what Prometheus would not take: a family or a series that is there twice, a line
    /// that is none.
    pub async fn of(node: &Node) -> Self {
        Self::read(node.admin("/metrics").await.text().await)
    }

    fn read(text: String) -> Self {
        let (mut kinds, mut samples, mut seen) = (HashMap::new(), Vec::new(), HashSet::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                let before = kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} is there twice");
            }
            if line.starts_with('#') {
                continue;
            }
            let sample = Sample::of(line).unwrap_or_else(|| panic!("no sample: {line}"));
            let series = (sample.name.clone(), sample.labels.clone());
            assert!(seen.insert(series), "there twice: {line}");
            samples.push(sample);
        }
        Self { text, kinds, samples }
    }

    /// The series of this name that have these labels, among others.
    pub fn series(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.name == name && sample.has(labels)).collect()
    }

    /// The sum of them; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).iter().map(|sample| sample.value).sum()
    }

    /// What `promtool check metrics` finds fault with: empty when nothing; `None` when it is not installed.
    pub async fn lint(&self) -> Option<String> {
        let mut command = Command::new(parts::program("promtool")?);
        command
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut promtool = command.spawn().unwrap();
        let mut stdin = promtool.stdin.take().unwrap();
        stdin.write_all(self.text.as_bytes()).await.unwrap();
        drop(stdin);
        let output = promtool.wait_with_output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success() || !said.is_empty(), "promtool: {}", output.status);
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_with_escapes_and_without_labels() {
        let text = "# TYPE a counter\na{x=\"1,}\",y=\"q\\\"\\\\\\n\"} 2\na 0.5\n\n# TYPE b gauge\nb +Inf\n";
        let scrape = Scrape::read(text.to_owned());
        assert_eq!(scrape.series("a", &[("x", "1,}")])[0].labels["y"], "q\"\\\n");
        assert_eq!((scrape.sum("a", &[]), scrape.sum("b", &[])), (2.5, f64::INFINITY));
        assert_eq!(scrape.kinds["b"], "gauge");
    }

    #[test]
    #[should_panic(expected = "there twice")]
    fn a_series_that_is_there_twice_is_refused() {
        Scrape::read("a{x=\"1\"} 1\na{x=\"1\"} 2\n".to_owned());
    }
}

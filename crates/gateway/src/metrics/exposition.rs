//! Writes families as Prometheus reads them (text format 0.0.4), for what is as it is now and not a running count.
//!
//! Why beside the recorder: what is registered there stays for as long as the process lives, so a path that a reload
//! removed would keep its last state; and its counters are whole numbers, which money is not. A family is written once,
//! and nowhere else. Not here: histograms, which the recorder keeps.

use std::collections::HashSet;
use std::fmt::Write as _;

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, but for restarts.
    Counter,
    /// Rises and falls.
    Gauge,
}

/// The text so far.
#[derive(Debug)]
pub struct Exposition(String);

impl Exposition {
    /// Goes on after `text`, which ends with a line.
    pub const fn after(text: String) -> Self {
        Self(text)
    }

    /// Begins a family; without a sample nothing of it is written. `help` says no more than a line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        Family { text: &mut self.0, name, kind, help, written: HashSet::new() }
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// One family of an [`Exposition`].
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    written: HashSet<String>,
}

impl Family<'_> {
    /// Adds a sample. A second one with the same labels is left out: Prometheus would refuse the whole text for it.
    pub fn sample(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let mut said = String::new();
        for (label, value) in labels {
            said.push(if said.is_empty() { '{' } else { ',' });
            // Writing into a String cannot fail.
            let _ = write!(said, "{label}=\"{}\"", escaped(value));
        }
        if !said.is_empty() {
            said.push('}');
        }
        let Self { text, name, .. } = self;
        if self.written.is_empty() {
            let kind = match self.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", self.help);
        }
        if self.written.contains(&said) {
            return;
        }
        let _ = match value {
            f64::INFINITY => writeln!(text, "{name}{said} +Inf"),
            f64::NEG_INFINITY => writeln!(text, "{name}{said} -Inf"),
            value => writeln!(text, "{name}{said} {value}"),
        };
        self.written.insert(said);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_says_once_what_it_is_and_then_its_samples() {
        let mut text = Exposition::after("before 1\n".to_owned());
        let mut family = text.family("a_usd_total", Kind::Counter, "Spent");
        family.sample(&[("client", "x"), ("model", "m")], 0.25);
        family.sample(&[("client", "y"), ("model", "m")], 3.0);
        text.gauge("b", "Up", 1.0);
        let expected = "before 1\n# HELP a_usd_total Spent\n# TYPE a_usd_total counter\n\
            a_usd_total{client=\"x\",model=\"m\"} 0.25\na_usd_total{client=\"y\",model=\"m\"} 3\n\
            # HELP b Up\n# TYPE b gauge\nb 1\n";
        assert_eq!(text.into_text(), expected);
    }

    #[test]
    fn label_values_are_escaped() {
        let mut text = Exposition::after(String::new());
        text.family("a", Kind::Gauge, "A").sample(&[("model", "q\"b\\s\nn")], 1.0);
        assert!(text.into_text().ends_with("a{model=\"q\\\"b\\\\s\\nn\"} 1\n"));
    }

    #[test]
    fn a_family_without_samples_is_not_there_and_no_sample_is_there_twice() {
        let mut text = Exposition::after(String::new());
        text.family("empty", Kind::Gauge, "E");
        let mut family = text.family("a", Kind::Gauge, "A");
        family.sample(&[("route", "x")], 1.0);
        family.sample(&[("route", "x")], 2.0);
        assert_eq!(text.into_text(), "# HELP a A\n# TYPE a gauge\na{route=\"x\"} 1\n");
    }

    #[test]
    fn what_is_no_finite_number_is_said_as_prometheus_says_it() {
        let mut text = Exposition::after(String::new());
        text.gauge("a", "A", f64::INFINITY);
        text.gauge("b", "B", f64::NEG_INFINITY);
        text.gauge("c", "C", f64::NAN);
        let text = text.into_text();
        let values: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(values, ["a +Inf", "b -Inf", "c NaN"]);
    }
}

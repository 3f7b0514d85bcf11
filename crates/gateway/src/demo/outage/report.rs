//! What came of it all, and whether it is what was promised: no user saw an error, and traffic returned.

use std::fmt;
use std::time::Duration;

use crate::demo::simulated::door::Counts;
use crate::demo::users::Tally;

/// What reached an upstream from its opening to its ramp.
#[derive(Debug)]
pub struct Dead {
    /// Its name.
    pub name: &'static str,
    /// By kind.
    pub seen: Counts,
}

/// The whole.
#[derive(Debug)]
pub struct Report {
    /// From first to last.
    pub took: Duration,
    /// All answers.
    pub all: Tally,
    /// Until a first content.
    pub longest_wait: Duration,
    /// Of users' requests, those that failed: why.
    pub faults: Vec<String>,
    /// The upstreams that failed.
    pub dead: Vec<Dead>,
    /// Answers at the very end.
    pub last: Tally,
    /// What did not happen in time.
    pub missed: Option<String>,
}

impl Report {
    /// What is not as promised; nothing: all is.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(missed) = &self.missed {
            faults.push(format!("after {:.0} s this has not happened: {missed}", self.took.as_secs_f64()));
        }
        if let Some(first) = self.faults.first() {
            faults.push(format!(
                "{} of {} requests failed, the first by: {first}",
                self.faults.len(),
                self.all.answers
            ));
        }
        for dead in self.dead.iter().filter(|dead| dead.seen.users > 0) {
            faults.push(format!(
                "{} users' requests went to `{}` while it was open",
                dead.seen.users, dead.name
            ));
        }
        if self.missed.is_none() && (self.last.answers == 0 || self.last.fallback > 0) {
            let Tally { answers, fallback, .. } = self.last;
            faults.push(format!(
                "traffic is not back: the fallback gave {fallback} of the last {answers} answers"
            ));
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (took, wait) = (self.took.as_secs_f64(), self.longest_wait.as_secs_f64());
        writeln!(
            f,
            "\nIn {took:.0} s users sent {} requests. {} failed.",
            self.all.answers,
            self.faults.len()
        )?;
        write!(f, "Answered by: {}. Longest wait for a first word: {wait:.1} s.", self.all.shares())?;
        for Dead { name, seen: Counts { users, copies, made_up, probes, .. } } in &self.dead {
            write!(
                f,
                "\nFrom its opening to its ramp the {name} saw {probes} probes, {copies} copies of requests, \
                 {made_up} made-up requests and {users} users' requests."
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Report {
        let tally = |fallback| Tally { answers: 40, by: [("primary".to_owned(), 40)].into(), fallback };
        let seen = Counts { copies: 4, probes: 9, ..Counts::default() };
        Report {
            took: Duration::from_secs(30),
            all: tally(20),
            longest_wait: Duration::from_secs(2),
            faults: Vec::new(),
            dead: vec![Dead { name: "primary", seen }],
            last: tally(0),
            missed: None,
        }
    }

    /// The only complaint of a report.
    fn complaint(report: &Report) -> String {
        let faults = report.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.concat()
    }

    #[test]
    fn no_failure_and_traffic_back_is_as_promised() {
        assert_eq!(sound().faults(), Vec::<String>::new());
        let text = sound().to_string();
        assert!(text.contains("40 requests. 0 failed.") && text.contains("9 probes, 4 copies"), "{text}");
    }

    #[test]
    fn a_users_error_is_not() {
        let report = Report { faults: vec!["status 503".into(), "status 502".into()], ..sound() };
        assert!(complaint(&report).contains("2 of 40 requests failed, the first by: status 503"));
    }

    #[test]
    fn traffic_that_did_not_return_is_not() {
        let last = Tally { fallback: 3, ..sound().last };
        assert!(complaint(&Report { last, ..sound() }).contains("3 of the last 40"));
        let last = Tally::default();
        assert!(complaint(&Report { last, ..sound() }).contains("not back"));
    }

    #[test]
    fn a_story_that_stopped_is_not() {
        let missed = Some("both upstreams to be closed (primary is open)".to_owned());
        let report = Report { missed, last: Tally::default(), ..sound() };
        assert!(complaint(&report).contains("primary is open"));
    }

    #[test]
    fn a_users_request_at_an_open_upstream_is_not() {
        let mut report = sound();
        report.dead[0].seen.users = 1;
        assert!(complaint(&report).contains("while it was open"));
    }
}

//! The figures side by side, as a Markdown table.

use std::fmt::Write as _;

use super::Measured;
use super::gateway::Kind;
use super::phase::{FIGURES, Figure};

/// The middle of some values and their ends.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The median; of an even number of values, the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of `values`; `None`: there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), least, most })
    }
}

/// `figure` of `kind` over the rounds. With `added`, each round's value without a gateway is subtracted first.
fn spread(figure: &Figure, kind: Kind, measured: &[Measured]) -> Option<Spread> {
    let value = |kind, round| {
        measured
            .iter()
            .find(|one| one.kind == kind && one.phase == figure.phase && one.round == round)
            .and_then(|one| (figure.read)(&one.report))
    };
    let rounds = measured.iter().map(|one| one.round).max()?;
    let values = (0..=rounds).filter_map(|round| match figure.added {
        false => value(kind, round),
        true if kind == Kind::Direct => None,
        true => Some(value(kind, round)? - value(Kind::Direct, round)?),
    });
    Spread::of(values.collect())
}

/// The table for `kinds`, in that order; ratios to nginx where it is among them.
pub fn table(kinds: &[Kind], measured: &[Measured]) -> String {
    let compared = kinds.contains(&Kind::Nginx) && kinds.contains(&Kind::Tidegate);
    let mut out = String::from("| median of the rounds (least to most) |");
    for kind in kinds {
        let _ = write!(out, " {} |", kind.name());
    }
    if compared {
        out.push_str(" tidegate / nginx |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(kinds.len() + usize::from(compared)));
    out.push('\n');
    for figure in &FIGURES {
        let _ = write!(out, "| {} |", figure.what);
        for kind in kinds {
            match spread(figure, *kind, measured) {
                Some(spread) => {
                    let Spread { median, least, most } = spread;
                    let _ = write!(out, " {} ({} to {}) |", number(median), number(least), number(most));
                }
                None => out.push_str(" |"),
            }
        }
        if compared {
            let ratio = ratio(figure, measured).map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let _ = write!(out, " {ratio} |");
        }
        out.push('\n');
    }
    out
}

fn ratio(figure: &Figure, measured: &[Measured]) -> Option<f64> {
    let tidegate = spread(figure, Kind::Tidegate, measured)?.median;
    let nginx = spread(figure, Kind::Nginx, measured)?.median;
    // A difference of latencies can come out at nothing, and a ratio to that says nothing.
    (figure.ratio && nginx > 0.0).then_some(tidegate / nginx)
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_whatever_the_order() {
        assert_eq!(Spread::of(vec![]), None);
        let odd = Spread::of(vec![9.0, 1.0, 2.0]);
        assert_eq!(odd, Some(Spread { median: 2.0, least: 1.0, most: 9.0 }));
        let even = Spread::of(vec![4.0, 1.0, 2.0, 9.0]);
        assert_eq!(even, Some(Spread { median: 3.0, least: 1.0, most: 9.0 }));
    }
}

//! How near the limits of the configured clients and routes are to their ends, for operators.
//!
//! Told from what this node has heard: nobody is asked for a scrape or a page, and no request pays for it. The limiter
//! keeps it fresh in the background, within about 15 s over a shared store. The store away, it is what was heard last
//! and what this node took since. Not here: limits per address, model and node, whose subjects no file names.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_config::used::{Meter, Pace, Span};
use tidegate_store::limit::{Applies, Limiter};

use super::Limits;
use crate::gateway::Gateway;
use crate::metrics::exposition::{Exposition, Kind};

/// Shown on the page: those nearest to their ends.
const SHOWN_MAX: usize = 500;

/// One limit of one subject.
#[derive(Debug, Clone, Copy)]
struct Near<'a> {
    /// `client` or `route`.
    scope: &'static str,
    /// The client's or the route's name.
    subject: &'a str,
    meter: &'a Meter,
    /// The part that is used or reserved, 0 to 1; above in debt.
    used_ratio: f64,
    /// Until all of it is there again; zero where it is, and for what runs.
    resets_in: Duration,
}

impl Limits {
    /// Has the limiter keep known how the limits of clients and routes stand.
    pub fn watch(&self) {
        let all = self.clients.iter().chain(&self.routes);
        self.limiter.watch(all.map(|applying| applying.rules.clone()));
    }
}

/// All limits of clients and routes, in the order of the file.
fn all(gateway: &Gateway) -> impl Iterator<Item = Near<'_>> {
    let Limits { limiter, clients, routes, .. } = &gateway.limits;
    let client_names = gateway.config.clients.iter().flatten().map(|client| &client.name);
    let route_names = gateway.config.routes.iter().map(|route| &route.name);
    let clients = client_names.zip(clients).map(|(name, applying)| ("client", name, applying));
    let routes = route_names.zip(routes).map(|(name, applying)| ("route", name, applying));
    clients
        .chain(routes)
        .flat_map(move |(scope, name, applying)| subject(limiter, scope, name, &applying.rules))
}

fn subject<'a>(
    limiter: &Limiter,
    scope: &'static str,
    subject: &'a str,
    rules: &'a [Applies],
) -> impl Iterator<Item = Near<'a>> {
    rules.iter().zip(limiter.stands(rules)).map(move |(applies, stand)| Near {
        scope,
        subject,
        meter: &applies.rule().meter,
        used_ratio: stand.used_ratio(),
        resets_in: stand.reset,
    })
}

/// So many of them, the nearest to its end first; those alike stand as they came.
fn nearest<'a>(all: impl Iterator<Item = Near<'a>>, most: usize) -> Vec<Near<'a>> {
    let mut all: Vec<(usize, Near<'a>)> = all.enumerate().collect();
    let order = |(n, a): &(usize, Near<'a>), (m, b): &(usize, Near<'a>)| {
        b.used_ratio.total_cmp(&a.used_ratio).then(n.cmp(m))
    };
    if most < all.len() {
        all.select_nth_unstable_by(most, order);
        all.truncate(most);
    }
    all.sort_unstable_by(order);
    all.into_iter().map(|(_, near)| near).collect()
}

const fn budget(meter: &Meter) -> Option<&'static str> {
    let (word, pace) = match meter {
        Meter::Requests(pace) => ("requests", pace),
        Meter::Tokens(pace) => ("tokens", pace),
        Meter::Usd(pace) => ("usd", pace),
        Meter::InFlight(_) => return None,
    };
    if matches!(pace.span, Span::Day) { Some(word) } else { None }
}

fn said(meter: &Meter) -> String {
    let paced = |word: &str, Pace { span, amount, .. }: &Pace, scale: f64| {
        let span = match span {
            Span::Day => "day".to_owned(),
            Span::Period(period) => match period.as_secs() {
                1 => "s".to_owned(),
                60 => "min".to_owned(),
                3600 => "h".to_owned(),
                _ => format!("{period:?}"),
            },
        };
        format!("{word}: {}/{span}", amount / scale)
    };
    match meter {
        Meter::Requests(pace) => paced("requests", pace, 1.0),
        Meter::Tokens(pace) => paced("tokens", pace, 1.0),
        Meter::Usd(pace) => paced("usd", pace, 1e6),
        Meter::InFlight(most) => format!("in_flight: {most}"),
    }
}

/// Adds `budget_used_ratio`; of several budgets of one subject that meter the same, the one nearest to its end.
pub fn render(gateway: &Gateway, text: &mut Exposition) {
    let mut budgets: BTreeMap<_, f64> = BTreeMap::new();
    for Near { scope, subject, meter, used_ratio, .. } in all(gateway) {
        if let Some(meter) = budget(meter) {
            let most = budgets.entry((scope, subject, meter)).or_insert(used_ratio);
            *most = most.max(used_ratio);
        }
    }
    let mut family =
        text.family("tidegate_budget_used_ratio", Kind::Gauge, "Part that is used of a limit of a UTC day");
    for ((scope, subject, meter), used) in budgets {
        family.sample(&[("scope", scope), ("subject", subject), ("meter", meter)], used);
    }
}

/// For `/api/status`.
pub fn status(gateway: &Gateway) -> Value {
    let shown = nearest(all(gateway), SHOWN_MAX).into_iter().map(|near| {
        json!({
            "scope": near.scope,
            "subject": near.subject,
            "limit": said(near.meter),
            "used_ratio": near.used_ratio,
            "resets_in_s": near.resets_in.as_secs_f64().ceil(),
        })
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_said_as_the_file_says_them() {
        let pace = |span, amount| Pace { span, amount, burst: amount, smooth: None };
        let per = |seconds, amount| pace(Span::Period(Duration::from_secs(seconds)), amount);
        for (meter, words, day) in [
            (Meter::Requests(per(60, 600.0)), "requests: 600/min", None),
            (Meter::Requests(per(1, 2.5)), "requests: 2.5/s", None),
            (Meter::Tokens(per(3600, 1e6)), "tokens: 1000000/h", None),
            (Meter::Tokens(pace(Span::Day, 2e6)), "tokens: 2000000/day", Some("tokens")),
            (Meter::Usd(pace(Span::Day, 20e6)), "usd: 20/day", Some("usd")),
            (Meter::InFlight(50), "in_flight: 50", None),
        ] {
            assert_eq!((said(&meter).as_str(), budget(&meter)), (words, day));
        }
    }
    #[test]
    fn the_nearest_to_their_ends_are_chosen_and_those_alike_stand_as_in_the_file() {
        let meter = Meter::InFlight(1);
        let near = |(subject, used_ratio)| Near {
            scope: "client",
            subject,
            meter: &meter,
            used_ratio,
            resets_in: Duration::ZERO,
        };
        let all = [("a", 0.1), ("b", 0.5), ("c", 1.25), ("d", 0.5), ("e", 0.0), ("f", 0.5)];
        let chosen = |most| -> String {
            nearest(all.into_iter().map(near), most).iter().map(|near| near.subject).collect()
        };
        assert_eq!([chosen(0), chosen(3), chosen(6), chosen(9)], ["", "cbd", "cbdfae", "cbdfae"]);
    }
}

//! The effective configuration: every key with its value in force, as a file could say it.
//!
//! Two things are laid over each other: what the file says, which [`Shown`] tells of every section, and what is in
//! force, which `in_force` tells of everything the program runs by. The first is made by the macro that makes a
//! section's keys, and the second takes every field of `used` by name, so that neither a new key nor a new default
//! can be forgotten: the one is there by itself, the other does not compile until it is told. Text is written so that
//! it can be read again: variables are filled in, and a `${` that is meant as it stands is `$${`. `prices` are a list
//! of one-entry sections, because their order counts and JSON objects have none.
//!
//! Of a secret only the reference is known here. Addresses with a password in them are refused long before
//! (`url`). Not here: what changed from one to another (`difference`).

mod in_force;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::build::{spelt, spelt_time};
use crate::read::{Item, Table};
use crate::said::File;
use crate::unit::{Address, Amount, Count, Flag, Ip, Net, Number, Pattern, Percent, Rate, Size, Text, Time};
use crate::used::{Config, Span};

/// What was said, in the file's own forms.
pub(crate) trait Shown {
    fn shown(&self) -> Value;
}

/// The whole of it. `config` is made from `file`, which has no fault.
pub(crate) fn effective(file: &File, config: &Config) -> Value {
    let mut all = file.shown();
    lay(&mut all, in_force::config(file, config));
    all
}

/// Lays what is in force over what was said: sections key by key, lists of sections entry by entry, the rest whole.
fn lay(said: &mut Value, in_force: Value) {
    match (said, in_force) {
        (Value::Object(said), Value::Object(in_force)) => {
            for (key, value) in in_force {
                match said.get_mut(&key) {
                    Some(said) => lay(said, value),
                    None => {
                        said.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(said), Value::Array(in_force)) if is_sections(said) && said.len() == in_force.len() => {
            for (said, in_force) in said.iter_mut().zip(in_force) {
                lay(said, in_force);
            }
        }
        (said, in_force) => *said = in_force,
    }
}

fn is_sections(list: &[Value]) -> bool {
    list.iter().all(Value::is_object)
}

/// A text that means itself when it is read again.
fn text(text: &str) -> Value {
    text.replace("${", "$${").into()
}

fn time(time: Duration) -> Value {
    if time.is_zero() { "0s".into() } else { spelt_time(time).into() }
}

fn size(bytes: usize) -> Value {
    spelt(u64::try_from(bytes).unwrap_or(u64::MAX)).into()
}

/// Whole numbers without a point.
fn number(number: f64) -> Value {
    // Every whole number up to here is one in an f64.
    const EXACT: f64 = 9e15;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return json!(number as i64);
    }
    json!(number)
}

/// 0.07 is `7%`: what the hundredfold has beyond its ninth decimal comes of the arithmetic.
fn percent(share: f64) -> Value {
    format!("{}%", (share * 1e11).round() / 1e9).into()
}

fn rate(amount: Amount) -> Value {
    let span = match amount.span {
        Span::Day => "day",
        Span::Period(period) if period == Duration::from_secs(1) => "s",
        Span::Period(period) if period == Duration::from_secs(60) => "min",
        Span::Period(_) => "h",
    };
    format!("{}/{span}", amount.each).into()
}

impl<T: Shown> Shown for Vec<Item<T>> {
    fn shown(&self) -> Value {
        self.iter().map(|item| item.value.shown()).collect()
    }
}

impl<T: Shown> Shown for Table<T> {
    fn shown(&self) -> Value {
        let entries = self.0.iter().map(|(key, value)| (key.value.replace("${", "$${"), value.value.shown()));
        Value::Object(entries.collect::<Map<_, _>>())
    }
}

macro_rules! shown {
    ($($unit:ident: $show:expr,)*) => {
        $(impl Shown for $unit {
            fn shown(&self) -> Value {
                let Self(value) = self;
                let show: fn(_) -> Value = $show;
                show(value)
            }
        })*
    };
}

shown! {
    Text: |value: &String| text(value),
    Flag: |&value: &bool| value.into(),
    Count: |&value: &u64| value.into(),
    Number: |&value: &f64| number(value),
    Time: |&value: &Duration| time(value),
    Size: |&value: &u64| spelt(value).into(),
    Rate: |&value: &Amount| rate(value),
    Percent: |&value: &f64| percent(value),
    Address: |value: &std::net::SocketAddr| value.to_string().into(),
    Ip: |value: &std::net::IpAddr| value.to_string().into(),
    Net: |value: &ipnet::IpNet| value.to_string().into(),
    Pattern: |value: &regex::Regex| text(value.as_str()),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{lay, number, percent, size, text, time};

    #[test]
    fn values_are_spelt_as_a_file_spells_them() {
        for (seconds, want) in [(0.0, "0s"), (0.25, "250ms"), (60.0, "1m"), (90.0, "90s"), (86_400.0, "1d")] {
            assert_eq!(time(Duration::from_secs_f64(seconds)), want);
        }
        for (share, want) in
            [(0.07, "7%"), (0.1, "10%"), (0.005, "0.5%"), (0.0, "0%"), (1.0 / 3.0, "33.333333333%")]
        {
            assert_eq!(percent(share), want);
        }
        assert_eq!([number(2.0), number(0.5), number(1e300)].map(|n| n.to_string()), ["2", "0.5", "1e+300"]);
        assert_eq!((size(0), size(16 << 20)), ("0B".into(), "16MiB".into()));
        assert_eq!(text("a ${B} $c"), "a $${B} $c");
    }

    #[test]
    fn what_is_in_force_lies_over_what_was_said() {
        let lain = |mut said: Value, in_force: Value| {
            lay(&mut said, in_force);
            said
        };
        assert_eq!(
            lain(json!({"a": 1, "b": {"c": 2}}), json!({"b": {"d": 3}})),
            json!({"a": 1, "b": {"c": 2, "d": 3}})
        );
        assert_eq!(lain(json!([{"a": 1}]), json!([{"b": 2}])), json!([{"a": 1, "b": 2}]));
        assert_eq!(lain(json!(["5%"]), json!(["5%", "100%"])), json!(["5%", "100%"]));
    }
}

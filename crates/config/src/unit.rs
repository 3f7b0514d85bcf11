//! The scalars of the file: times, sizes, rates, shares, counts, addresses, patterns.
//!
//! Each type knows how it is written, what to say when it is not, and its pattern in the schema. Numbers with a
//! dimension always carry their unit: a bare `5` is refused, because half of its readers would take it for
//! milliseconds. Not here: ranges, which depend on the key (`build`).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::fault::Collector;
use crate::read::{Read, scalar};
use crate::tree::{Node, Scalar};
use crate::used::Span;

/// What a variable looks like to an editor, which cannot fill it in and must accept it anywhere.
pub(crate) const VARIABLE: &str = r"\$\{";

/// Any scalar as text.
#[derive(Debug)]
pub(crate) struct Text(pub(crate) String);
/// `true` or `false`.
#[derive(Debug)]
pub(crate) struct Flag(pub(crate) bool);
/// A whole number from 0.
#[derive(Debug)]
pub(crate) struct Count(pub(crate) u64);
/// A finite number.
#[derive(Debug)]
pub(crate) struct Number(pub(crate) f64);
/// `250ms`, `5s`, `1h30m`.
#[derive(Debug)]
pub(crate) struct Time(pub(crate) Duration);
/// Bytes, as `16MiB`.
#[derive(Debug)]
pub(crate) struct Size(pub(crate) u64);
/// `600/min` is 600 in 60s.
#[derive(Debug)]
pub(crate) struct Rate(pub(crate) Amount);
/// `10%` is 0.1.
#[derive(Debug)]
pub(crate) struct Percent(pub(crate) f64);
/// An IP address and a port.
#[derive(Debug)]
pub(crate) struct Address(pub(crate) SocketAddr);
/// An IP address.
#[derive(Debug)]
pub(crate) struct Ip(pub(crate) IpAddr);
/// A network, as `10.0.0.0/8`; one address is a network of itself.
#[derive(Debug)]
pub(crate) struct Net(pub(crate) IpNet);
/// A regular expression.
#[derive(Debug)]
pub(crate) struct Pattern(pub(crate) regex::Regex);

/// How much in how long, 0 or more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) each: f64,
    pub(crate) span: Span,
}

impl Amount {
    pub(crate) fn per_second(self) -> f64 {
        match self.span {
            Span::Day => self.each / 86_400.0,
            Span::Period(period) => self.each / period.as_secs_f64(),
        }
    }
}

macro_rules! unit {
    ($name:ident, $due:literal, $parse:expr, $schema:tt) => {
        impl Read for $name {
            fn read(node: &Node, faults: &mut Collector) -> Option<Self> {
                let scalar = scalar(node, faults, $due)?;
                let parse: fn(&Scalar) -> Result<_, String> = $parse;
                match parse(scalar) {
                    Ok(value) => Some(Self(value)),
                    Err(wrong) => {
                        faults.fault(node.place, format!("{} {wrong}", scalar.quoted()));
                        None
                    }
                }
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = json_schema!($schema);
                schema.insert("x-due".to_owned(), $due.into());
                schema
            }
        }
    };
}

unit!(Text, "a text", |scalar| Ok(scalar.text.clone()), { "type": ["string", "number"] });
unit!(Flag, "true or false", flag, { "type": ["boolean", "string"], "pattern": VARIABLE });
unit!(Count, "a whole number", count, { "type": ["integer", "string"], "minimum": 0, "pattern": VARIABLE });
unit!(Number, "a number", number, { "type": ["number", "string"], "pattern": VARIABLE });
unit!(Time, "a time such as 250ms, 5s, 10m or 1h", time,
    { "type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$|\$\{" });
unit!(Size, "a size such as 64KiB or 16MiB", size, { "type": "string", "pattern": r"^[0-9]+(B|KiB|MiB|GiB)$|\$\{" });
unit!(Rate, "a rate such as 10/s, 600/min or 2000000/day", rate,
    { "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?/(s|min|h|day)$|\$\{" });
unit!(Percent, "a share such as 10%", percent, { "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$|\$\{" });
unit!(Address, "an address and port such as 0.0.0.0:8080", address, { "type": "string" });
unit!(Ip, "an IP address", |scalar| scalar.text.parse().map_err(|_| "is no IP address: write one such as 10.1.2.3, not a name".to_owned()),
    { "type": "string" });
unit!(Net, "a network such as 10.0.0.0/8", net, { "type": "string" });
unit!(Pattern, "a regular expression", pattern, { "type": "string", "format": "regex" });

fn flag(scalar: &Scalar) -> Result<bool, String> {
    match &*scalar.text {
        "true" if scalar.is_bare() => Ok(true),
        "false" if scalar.is_bare() => Ok(false),
        "true" | "false" => Err("stands in quotes: write true or false without them".to_owned()),
        _ => Err("is neither true nor false".to_owned()),
    }
}

fn count(scalar: &Scalar) -> Result<u64, String> {
    if !scalar.is_bare() {
        return Err("stands in quotes: write the number without them".to_owned());
    }
    if !scalar.text.is_empty() && scalar.text.bytes().all(|b| b.is_ascii_digit()) {
        return scalar.text.parse().map_err(|_| "is too large".to_owned());
    }
    Err(match scalar.text.parse::<f64>() {
        Ok(number) if number < 0.0 => "is negative: a whole number from 0 is due".to_owned(),
        _ => "is no whole number: write digits alone, as in 100".to_owned(),
    })
}

fn number(scalar: &Scalar) -> Result<f64, String> {
    if !scalar.is_bare() {
        return Err("stands in quotes: write the number without them".to_owned());
    }
    decimal(&scalar.text).ok_or_else(|| "is no number: write one such as 2 or 0.5".to_owned())
}

/// Digits with an optional sign, fraction and exponent; not `inf`, not `nan`.
fn decimal(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    (number.is_finite() && text.bytes().any(|b| b.is_ascii_digit())).then_some(number)
}

/// Splits leading digits (with one point, if asked) from the rest.
fn digits(text: &str, point: bool) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || (point && c == '.'))).unwrap_or(text.len());
    text.split_at(end)
}

fn time(scalar: &Scalar) -> Result<Duration, String> {
    duration(&scalar.text)
}

/// A time as it is written; the error goes on where the text ends.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "a time is written 250ms, 5s, 10m, 1h or 1d";
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(format!("is empty: {FORM}"));
    }
    while !rest.is_empty() {
        let (amount, after) = digits(rest, false);
        if amount.is_empty() {
            return Err(format!("is no time: {FORM}"));
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let amount: u64 = amount.parse().map_err(|_| "is too long".to_owned())?;
        let seconds = |each: u64| amount.checked_mul(each).map(Duration::from_secs);
        let part = match unit {
            "ms" => Some(Duration::from_millis(amount)),
            "s" => seconds(1),
            "m" => seconds(60),
            "h" => seconds(3600),
            "d" => seconds(86_400),
            "" => return Err(format!("has no unit: {FORM}")),
            _ => return Err(format!("has no unit we know: {FORM}")),
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(|| "is too long".to_owned())?;
        rest = next;
    }
    Ok(total)
}

fn size(scalar: &Scalar) -> Result<u64, String> {
    const FORM: &str = "a size is written 100B, 64KiB, 16MiB or 1GiB";
    let (amount, unit) = digits(&scalar.text, false);
    let each: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => return Err(format!("has no unit: {FORM}")),
        _ => return Err(format!("is no size: {FORM}")),
    };
    if amount.is_empty() {
        return Err(format!("is no size: {FORM}"));
    }
    let amount: Option<u64> = amount.parse().ok();
    amount.and_then(|amount| amount.checked_mul(each)).ok_or_else(|| "is too large".to_owned())
}

fn rate(scalar: &Scalar) -> Result<Amount, String> {
    const FORM: &str = "a rate is written 10/s, 600/min, 100/h or 2000000/day";
    let Some((amount, period)) = scalar.text.split_once('/') else {
        return Err(format!("has no period: {FORM}"));
    };
    let span = match period {
        "s" => Span::Period(Duration::from_secs(1)),
        "min" => Span::Period(Duration::from_secs(60)),
        "h" => Span::Period(Duration::from_secs(3600)),
        "day" => Span::Day,
        _ => return Err(format!("has no period we know: {FORM}")),
    };
    match (digits(amount, true), decimal(amount)) {
        ((_, ""), Some(each)) => Ok(Amount { each, span }),
        _ => Err(format!("is no rate: {FORM}")),
    }
}

fn percent(scalar: &Scalar) -> Result<f64, String> {
    const FORM: &str = "a share is written 10% or 0.5%";
    let Some(amount) = scalar.text.strip_suffix('%') else {
        return Err(format!("has no unit: {FORM}"));
    };
    match (digits(amount, true), decimal(amount)) {
        ((_, ""), Some(amount)) => Ok(amount / 100.0),
        _ => Err(format!("is no share: {FORM}")),
    }
}

fn address(scalar: &Scalar) -> Result<SocketAddr, String> {
    scalar.text.parse().map_err(|_| match scalar.text.strip_prefix(':') {
        Some(port) if port.parse::<u16>().is_ok() => {
            format!("names no address: write 0.0.0.0:{port} for all of them, or 127.0.0.1:{port} for this machine alone")
        }
        _ => "is no address: write an IP address and a port, as in 0.0.0.0:8080 or [::]:8080".to_owned(),
    })
}

fn net(scalar: &Scalar) -> Result<IpNet, String> {
    let alone = scalar.text.parse::<IpAddr>().map(IpNet::from);
    alone
        .or_else(|_| scalar.text.parse())
        .map_err(|_| "is no network: write one such as 10.0.0.0/8, or a single IP address".to_owned())
}

fn pattern(scalar: &Scalar) -> Result<regex::Regex, String> {
    // Compiled size is bounded well under the crate's 10 MiB, because every log line is matched against it.
    regex::RegexBuilder::new(&scalar.text).size_limit(1 << 20).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "is too large a regular expression".to_owned(),
        // The crate's own text spans lines; its last one says what is wrong.
        other => format!(
            "is no regular expression: {}",
            other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")
        ),
    })
}

//! How long an upstream asks to be left alone: `retry-after-ms`, `Retry-After` as seconds or as a date
//! (RFC 9110 10.2.3), else the reset times OpenAI sends with its rate limits.

use std::time::{Duration, SystemTime};

/// No hint shortens a rest below this, and none makes it longer than `LONGEST`: a wrong clock or a joke in
/// a header must not take a key away for a day.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// Reads the hint from an answer's headers, `get` giving a header's text by its lower-case name. `now` is
/// the wall clock, needed for the date form. `None`: no header said anything that can be understood.
pub fn hint<'a>(get: impl Fn(&str) -> Option<&'a str>, now: SystemTime) -> Option<Duration> {
    let millis = get("retry-after-ms").and_then(|v| v.trim().parse::<f64>().ok()).map(|ms| ms / 1000.0);
    let after = || get("retry-after").and_then(|v| seconds_or_date(v.trim(), now));
    let reset = || {
        ["requests", "tokens"]
            .iter()
            .filter(|kind| {
                get(&format!("x-ratelimit-remaining-{kind}")).is_some_and(|left| left.trim().starts_with('0'))
            })
            .filter_map(|kind| get(&format!("x-ratelimit-reset-{kind}")).and_then(reset_time))
            .max_by(f64::total_cmp)
    };
    let seconds = millis.or_else(after).or_else(reset)?;
    let wait = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST);
    Some(wait.clamp(SHORTEST, LONGEST))
}

fn seconds_or_date(value: &str, now: SystemTime) -> Option<f64> {
    if let Ok(seconds) = value.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).map_or(0.0, |d| d.as_secs_f64()))
}

/// OpenAI's form: `1s`, `6m0s`, `120ms`, `1h2m3.5s`.
fn reset_time(value: &str) -> Option<f64> {
    let mut rest = value.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    (!value.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Option<Duration> {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 08:00:00 GMT").unwrap();
        hint(|name| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v), now)
    }

    #[test]
    fn every_form_is_understood_and_clamped() {
        let s = |n| Some(Duration::from_secs(n));
        assert_eq!(read(&[("retry-after", "7")]), s(7));
        assert_eq!(
            read(&[("retry-after-ms", "2500"), ("retry-after", "9")]),
            Some(Duration::from_millis(2500))
        );
        assert_eq!(read(&[("retry-after", "Sat, 21 Nov 2026 08:00:20 GMT")]), s(20));
        assert_eq!(
            read(&[("retry-after", "Sat, 21 Nov 2020 08:00:20 GMT")]),
            s(1),
            "a past date is a second"
        );
        assert_eq!(read(&[("retry-after", "999999")]), s(300));
        assert_eq!(read(&[("retry-after", "-5")]), s(1));
        assert_eq!(read(&[("retry-after", "soon")]), None);
        assert_eq!(read(&[("retry-after", "inf")]), None);
        assert_eq!(read(&[]), None);
        let reset = |v| read(&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", v)]);
        assert_eq!(reset("1s"), s(1));
        assert_eq!(reset("1m30s"), s(90));
        assert_eq!(reset("6m0s"), s(300));
        assert_eq!(reset("4500ms"), Some(Duration::from_millis(4500)));
        assert_eq!(reset("tomorrow"), None);
        assert_eq!(
            read(&[("x-ratelimit-remaining-requests", "5"), ("x-ratelimit-reset-requests", "20s")]),
            None,
            "a limit with requests left is no reason to wait"
        );
    }
}

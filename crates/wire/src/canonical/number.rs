//! Numbers as ECMAScript writes them (`Number::toString`), which RFC 8785 asks for.

use std::io::Write;

/// Writes a JSON number's canonical form. `None` when no double comes near it.
pub(super) fn write(out: &mut Vec<u8>, token: &str) -> Option<()> {
    if !token.contains(['.', 'e', 'E']) {
        // ECMAScript's own form up to 2^53; beyond, the digits tell apart what a double does not.
        out.extend_from_slice(if token == "-0" { b"0" } else { token.as_bytes() });
        return Some(());
    }
    let value: f64 = token.parse().ok()?;
    if !value.is_finite() {
        return None;
    }
    if value == 0.0 {
        out.push(b'0');
        return Some(());
    }
    // The shortest digits that read back as this double: of two as near, the even, which std does not promise.
    let shortest = serde_json::to_string(&value.abs()).ok()?;
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let written = format!("{whole}{fraction}");
    let digits = written.trim_start_matches('0');
    let zeros_before = i32::try_from(written.len() - digits.len()).ok()?;
    let digits = digits.trim_end_matches('0');
    let count = i32::try_from(digits.len()).ok()?;
    // Where the point stands, counted from before the first digit.
    let point = i32::try_from(whole.len()).ok()? - zeros_before + exponent.parse::<i32>().ok()?;
    if value < 0.0 {
        out.push(b'-');
    }
    if (count..=21).contains(&point) {
        out.extend_from_slice(digits.as_bytes());
        zeros(out, point - count);
    } else if (1..=21).contains(&point) {
        let (whole, fraction) = digits.split_at_checked(usize::try_from(point).ok()?)?;
        write!(out, "{whole}.{fraction}").ok()?;
    } else if (-5..=0).contains(&point) {
        out.extend_from_slice(b"0.");
        zeros(out, -point);
        out.extend_from_slice(digits.as_bytes());
    } else {
        let (first, others) = digits.split_at_checked(1)?;
        let dot = if others.is_empty() { "" } else { "." };
        write!(out, "{first}{dot}{others}e{:+}", point - 1).ok()?;
    }
    Some(())
}

fn zeros(out: &mut Vec<u8>, count: i32) {
    out.extend(std::iter::repeat_n(b'0', usize::try_from(count).unwrap_or(0)));
}

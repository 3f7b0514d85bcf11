//! What a script's reply holds. Nothing of it is trusted: what is not as agreed is `None`.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

/// A list.
pub(super) fn list(value: Value) -> Option<std::vec::IntoIter<Value>> {
    match value {
        Value::Array(values) => Some(values.into_iter()),
        _ => None,
    }
}

/// Bytes as they were stored.
pub(super) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

/// Text.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A finite number.
pub(super) fn number(value: Value) -> Option<f64> {
    let number = match value {
        #[allow(clippy::cast_precision_loss)]
        Value::Int(n) => n as f64,
        value => text(value)?.parse().ok()?,
    };
    f64::is_finite(number).then_some(number)
}

/// A whole number.
pub(super) fn int(value: Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(n),
        value => text(value)?.parse().ok(),
    }
}

/// A time in milliseconds; what is below zero is none left.
pub(super) fn duration(value: Value) -> Option<Duration> {
    Some(Duration::try_from_secs_f64(number(value)?.max(0.0) / 1000.0).unwrap_or(Duration::MAX))
}

/// Milliseconds for a script; a key cannot live for none.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, MILLIS_MAX)
}

/// A hundred years; more than that Redis refuses.
const MILLIS_MAX: u64 = 100 * 365 * 86_400_000;

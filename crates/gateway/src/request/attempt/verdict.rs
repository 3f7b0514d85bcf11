//! What an upstream's answer means: whose fault, and whether another path may do better.

use http::StatusCode;
use http::header::{self, HeaderMap};
use tidegate_router::outcome::Class;
use tidegate_wire::answer::BadAnswer;
use tidegate_wire::error::{UpstreamError, error_body, parse_error};

use super::{Failed, OwnWords};
use crate::upstream::exchange::SendError;

/// An error's body is read up to here.
pub const ERROR_BODY_MAX: usize = 256 * 1024;

/// What a content type says about a 2xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json` and its kin.
    Json,
    /// `text/event-stream`.
    Events,
    /// A page: a captive portal, a login, an error page with status 200.
    Html,
    /// Not said.
    None,
    /// Anything else.
    Other,
}

/// Reads the content type.
pub fn media(headers: &HeaderMap) -> Media {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Media::None };
    let value = value.as_bytes();
    let kind = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    let is = |name: &[u8]| kind.eq_ignore_ascii_case(name);
    let ends = |suffix: &[u8]| {
        kind.len()
            .checked_sub(suffix.len())
            .and_then(|at| kind.get(at..))
            .is_some_and(|e| e.eq_ignore_ascii_case(suffix))
    };
    if is(b"text/event-stream") {
        Media::Events
    } else if is(b"application/json") || ends(b"+json") {
        Media::Json
    } else if is(b"text/html") || is(b"application/xhtml+xml") {
        Media::Html
    } else {
        Media::Other
    }
}

/// The class of a non-2xx. `None`: the client's own fault, which goes through as it is.
pub fn of_error(by_status: Option<Class>, status: StatusCode, body: &[u8]) -> Option<Class> {
    let error = parse_error(body);
    // Whatever status it comes with: what one model's rules refuse is not put to another.
    if error.as_ref().is_some_and(|e| e.is_content_filter() || e.is_context_length()) {
        return None;
    }
    let quota = error.as_ref().is_some_and(UpstreamError::is_quota);
    match by_status {
        Some(Class::RateLimited) if quota => Some(Class::Quota),
        // The upstream refuses the country this way out ends in: another egress may do.
        Some(Class::Auth)
            if error.as_ref().and_then(|e| e.code.as_deref())
                == Some("unsupported_country_region_territory") =>
        {
            Some(Class::Proxy)
        }
        Some(class) => Some(class),
        None if status == StatusCode::BAD_REQUEST && quota => Some(Class::Quota),
        None if status == StatusCode::NOT_FOUND && error.is_some_and(|e| e.is_model_not_found()) => {
            Some(Class::ModelNotFound)
        }
        None => None,
    }
}

/// The upstream's own words may go to the client when nothing else answers.
pub fn is_clients_business(class: Class, status: StatusCode) -> bool {
    match class {
        Class::RateLimited | Class::ModelNotFound => true,
        Class::Quota => status == StatusCode::TOO_MANY_REQUESTS,
        _ => false,
    }
}

/// An error object where an answer should be: status 200, or the first event of a stream.
pub fn of_error_object(error: &UpstreamError) -> Failed {
    let said = |what: &str| {
        [error.code.as_deref(), error.kind.as_deref()].into_iter().flatten().any(|word| word.contains(what))
    };
    let class = if error.is_quota() {
        Class::Quota
    } else if said("rate_limit") || said("429") {
        Class::RateLimited
    } else if error.is_model_not_found() {
        Class::ModelNotFound
    } else if said("authentication") || said("invalid_api_key") {
        Class::Auth
    } else {
        Class::BadResponse
    };
    let mut failed = Failed::new(class, "an error object instead of an answer");
    let clients_fault = error.is_context_length() || error.is_content_filter() || said("invalid_request");
    if clients_fault && class == Class::BadResponse {
        failed.clients_fault = true;
        let kind = error.kind.as_deref().unwrap_or("invalid_request_error");
        let code = error.code.as_deref().unwrap_or("invalid_request_error");
        let body = error_body(&error.message, kind, code, None);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        failed.answer = Some(Box::new(OwnWords { status: StatusCode::BAD_REQUEST, headers, body }));
    }
    failed
}

/// A 200 that is no answer.
pub fn of_bad_answer(bad: BadAnswer) -> Failed {
    match bad {
        BadAnswer::Error(error) => of_error_object(&error),
        other => Failed::new(Class::BadResponse, other.to_string()),
    }
}

/// No head came over a connection that stood.
pub fn of_send(error: &SendError) -> Failed {
    let source = &error.source;
    let class =
        if source.is_parse() || source.is_parse_too_large() { Class::BadResponse } else { Class::Cut };
    Failed::new(class, text(source))
}

/// An error with its causes, on one line.
pub fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_strictly() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            media(&headers)
        };
        assert_eq!(of("application/json; charset=utf-8"), Media::Json);
        assert_eq!(of("application/problem+json"), Media::Json);
        assert_eq!(of("Text/Event-Stream;charset=UTF-8"), Media::Events);
        assert_eq!(of("text/html"), Media::Html);
        assert_eq!(of("text/plain"), Media::Other);
        assert_eq!(media(&HeaderMap::new()), Media::None);
    }

    #[test]
    fn quota_is_told_from_rate_and_keys_from_countries() {
        let quota = br#"{"error":{"message":"x","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        let of = |status: u16, body: &[u8]| {
            of_error(
                tidegate_router::outcome::class_of_status(status),
                StatusCode::from_u16(status).unwrap(),
                body,
            )
        };
        assert_eq!(of(429, quota), Some(Class::Quota));
        assert_eq!(of(429, b"slow down"), Some(Class::RateLimited));
        assert_eq!(of(400, quota), Some(Class::Quota));
        assert_eq!(of(400, b"{}"), None);
        assert_eq!(
            of(403, br#"{"error":{"message":"x","code":"unsupported_country_region_territory"}}"#),
            Some(Class::Proxy)
        );
        assert_eq!(
            of(404, br#"{"error":{"message":"x","code":"model_not_found"}}"#),
            Some(Class::ModelNotFound)
        );
        assert_eq!(of(404, b"{}"), None);
        assert_eq!(of(501, b"{}"), None);
        assert_eq!(of(302, b""), Some(Class::BadResponse));
    }
}

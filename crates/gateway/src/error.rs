//! What the gateway itself answers when it cannot give an upstream's answer.
//!
//! One small enum, and total matches for status, type, code and whether a client should try again: a new
//! kind of error does not compile until all of them are decided. Messages say what to do; causes, hosts and
//! keys stay in the log.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use thiserror::Error;
use tidegate_router::outcome::Class;

/// An answer of our own.
#[derive(Debug, Clone, Error)]
pub enum GatewayError {
    /// The body is not the JSON it should be.
    #[error("{0}")]
    InvalidJson(String),
    /// Framing or headers that no honest client sends.
    #[error("{0}")]
    BadRequest(&'static str),
    /// No `model` in the body.
    #[error("you must provide a `model` parameter")]
    MissingModel,
    /// No key, or one we do not know.
    #[error("{0}")]
    InvalidApiKey(&'static str),
    /// The client may not use the model.
    #[error("your key may not use the model `{0}`; ask the operator of this gateway for access")]
    ModelNotAllowed(String),
    /// The client may use only some models, and the request does not say which one it wants.
    #[error("your key may use only some models, and this request does not name one in a JSON body")]
    ModelUnknown,
    /// No route takes the model.
    #[error("the model `{0}` does not exist here; GET /v1/models lists those that do")]
    ModelNotFound(String),
    /// No such URL.
    #[error("unknown URL: {0}; the API lives under /v1/")]
    NotFound(String),
    /// The URL knows other methods.
    #[error("this URL does not take {0}; use {1}")]
    MethodNotAllowed(String, &'static str),
    /// The client's body did not arrive in time.
    #[error("the request body did not arrive in time; send it again")]
    RequestTimeout,
    /// The client's body broke off or is malformed on the wire.
    #[error("the request body could not be read: {0}")]
    BodyBroken(String),
    /// Over `listen.max_body`.
    #[error("the request body is larger than the {0} bytes this gateway takes")]
    BodyTooLarge(usize),
    /// Header block too large.
    #[error("the request headers are larger than the {0} bytes this gateway takes")]
    HeadersTooLarge(usize),
    /// A fault of ours.
    #[error("the gateway failed to handle this request; the operator finds it in the log by its request id")]
    Internal,
    /// Every attempt failed; the last cause.
    #[error("{}", upstream_message(*.0))]
    Upstream(Class),
    /// Every key of every path rests because of rate limits.
    #[error("every upstream of this model asks for less traffic; retry after the time given")]
    RateLimited(Duration),
    /// A limit of ours; which meter (`requests`, `tokens`, `usd`, `in_flight`), and when it lets through again.
    #[error("{}", limited_message(.0))]
    Limited(&'static str, Duration),
    /// A day's tokens or money are spent; which, and when the next day begins.
    #[error("{}", spent_message(.0))]
    Spent(&'static str, Duration),
    /// A limit that is closed while the store is away; which meter.
    #[error("a limit on {0} cannot be checked at the moment and is closed meanwhile; retry shortly")]
    LimitUnknown(&'static str),
    /// `only-if-cached`, and it is not.
    #[error("no kept answer, and the request forbids asking an upstream (cache-control: only-if-cached)")]
    NotKept,
    /// An `Idempotency-Key` that was used with another request.
    #[error("this Idempotency-Key was used with another request before; use a new key for a new request")]
    KeyReused,
    /// Every path of the route is shut off; when the first may be tried again.
    #[error("no upstream of this model is healthy; retry after the time given")]
    NoHealthyUpstream(Duration),
    /// The request's time ran out.
    #[error("no upstream answered in time")]
    Deadline,
    /// This node runs as many requests as it may.
    #[error("the gateway is at its limit of concurrent requests; retry shortly")]
    Overloaded,
    /// This node is shutting down.
    #[error("this gateway node is shutting down; retry to reach another")]
    Draining,
}

fn limited_message(meter: &str) -> String {
    match meter {
        "in_flight" => {
            "rate limit reached: too many requests are running at once; retry when one has ended".to_owned()
        }
        "usd" => "rate limit reached for cost; retry after the time given".to_owned(),
        meter => format!("rate limit reached for {meter}; retry after the time given"),
    }
}

fn spent_message(meter: &str) -> String {
    let what = if meter == "usd" { "budget" } else { meter };
    format!("today's {what} are used up; they begin anew at midnight UTC")
}

fn upstream_message(class: Class) -> &'static str {
    match class {
        Class::Connect | Class::Proxy => "no upstream could be reached",
        Class::Tls => "no secure connection to an upstream could be made",
        Class::Dns => "the upstream's name could not be resolved",
        Class::Timeout => "no upstream answered in time",
        Class::ServerError => "every upstream tried answered with a server error",
        Class::BadResponse => "the upstream's answer was not a valid API answer",
        Class::Cut => "the upstream ended the connection before it had answered",
        Class::RateLimited => {
            "every upstream of this model asks for less traffic; retry after the time given"
        }
        Class::Quota => "the quota at the upstream is used up; the operator of this gateway must renew it",
        Class::Auth => "the upstream refused the gateway's key; the operator of this gateway must renew it",
        Class::ModelNotFound => "no upstream has this model",
        Class::Busy => "every upstream of this model is at its limit of concurrent requests; retry shortly",
    }
}

impl GatewayError {
    /// HTTP status.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::InvalidJson(_) | Self::BadRequest(_) | Self::MissingModel | Self::BodyBroken(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::InvalidApiKey(_) => StatusCode::UNAUTHORIZED,
            Self::ModelNotAllowed(_) | Self::ModelUnknown => StatusCode::FORBIDDEN,
            Self::ModelNotFound(_) | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(..) => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadersTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::RateLimited(_) | Self::Limited(..) | Self::LimitUnknown(_) | Self::Spent(..) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Deadline | Self::NotKept => StatusCode::GATEWAY_TIMEOUT,
            Self::Overloaded | Self::Draining | Self::NoHealthyUpstream(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(class) => match class {
                Class::Timeout => StatusCode::GATEWAY_TIMEOUT,
                Class::RateLimited | Class::Quota => StatusCode::TOO_MANY_REQUESTS,
                Class::ModelNotFound => StatusCode::NOT_FOUND,
                Class::Busy => StatusCode::SERVICE_UNAVAILABLE,
                Class::Connect
                | Class::Proxy
                | Class::Tls
                | Class::Dns
                | Class::ServerError
                | Class::BadResponse
                | Class::Cut
                | Class::Auth => StatusCode::BAD_GATEWAY,
            },
        }
    }

    /// `error.type` and `error.code`.
    pub const fn kind_and_code(&self) -> (&'static str, &'static str) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::InvalidJson(_) => (INVALID, "invalid_json"),
            Self::BadRequest(_) | Self::BodyBroken(_) => (INVALID, "bad_request"),
            Self::MissingModel => (INVALID, "missing_model"),
            Self::InvalidApiKey(_) => ("authentication_error", "invalid_api_key"),
            Self::ModelNotAllowed(_) | Self::ModelUnknown => ("permission_error", "model_not_allowed"),
            Self::ModelNotFound(_) => (INVALID, "model_not_found"),
            Self::NotFound(_) => (INVALID, "not_found"),
            Self::MethodNotAllowed(..) => (INVALID, "method_not_allowed"),
            Self::RequestTimeout => (INVALID, "request_timeout"),
            Self::BodyTooLarge(_) => (INVALID, "body_too_large"),
            Self::HeadersTooLarge(_) => (INVALID, "headers_too_large"),
            Self::Internal => ("server_error", "internal_error"),
            Self::RateLimited(_) | Self::Limited(..) | Self::LimitUnknown(_) => {
                ("rate_limit_error", "rate_limit_exceeded")
            }
            Self::Spent(..) => ("insufficient_quota", "insufficient_quota"),
            Self::NotKept => (INVALID, "only_if_cached"),
            Self::KeyReused => (INVALID, "idempotency_key_reused"),
            Self::Deadline => ("upstream_error", "timeout"),
            Self::Overloaded => ("overloaded_error", "overloaded"),
            Self::Draining => ("overloaded_error", "draining"),
            Self::NoHealthyUpstream(_) => ("overloaded_error", "no_healthy_upstream"),
            Self::Upstream(class) => match class {
                Class::Connect | Class::Proxy => ("upstream_error", "connect"),
                Class::Tls => ("upstream_error", "tls"),
                Class::Dns => ("upstream_error", "dns"),
                Class::Timeout => ("upstream_error", "timeout"),
                Class::ServerError => ("upstream_error", "upstream_5xx"),
                Class::BadResponse | Class::Cut => ("upstream_error", "bad_response"),
                Class::Auth => ("upstream_error", "upstream_auth"),
                Class::RateLimited => ("rate_limit_error", "rate_limit_exceeded"),
                Class::Quota => ("insufficient_quota", "insufficient_quota"),
                Class::ModelNotFound => (INVALID, "model_not_found"),
                Class::Busy => ("overloaded_error", "overloaded"),
            },
        }
    }

    /// `error.param`: the field at fault.
    const fn param(&self) -> Option<&'static str> {
        match self {
            Self::MissingModel | Self::ModelNotAllowed(_) | Self::ModelNotFound(_) => Some("model"),
            Self::Limited(meter, _) | Self::Spent(meter, _) | Self::LimitUnknown(meter) => Some(meter),
            _ => None,
        }
    }

    /// Label of `requests_total{status}`.
    pub const fn request_status(&self) -> &'static str {
        match self {
            Self::Internal | Self::Overloaded | Self::Draining => "error",
            Self::RateLimited(_)
            | Self::Limited(..)
            | Self::LimitUnknown(_)
            | Self::Spent(..)
            | Self::Upstream(Class::RateLimited | Class::Quota) => "limited",
            Self::Deadline | Self::NoHealthyUpstream(_) | Self::Upstream(_) => "upstream_error",
            Self::InvalidJson(_)
            | Self::BadRequest(_)
            | Self::BodyBroken(_)
            | Self::MissingModel
            | Self::InvalidApiKey(_)
            | Self::ModelNotAllowed(_)
            | Self::ModelUnknown
            | Self::ModelNotFound(_)
            | Self::NotKept
            | Self::KeyReused
            | Self::NotFound(_)
            | Self::MethodNotAllowed(..)
            | Self::RequestTimeout
            | Self::BodyTooLarge(_)
            | Self::HeadersTooLarge(_) => "client_error",
        }
    }

    /// For those who waited for the same answer: what an attempt may end with, as text.
    pub fn to_followers(&self) -> String {
        match self {
            Self::Upstream(class) => format!("upstream {}", class.error_type()),
            Self::RateLimited(wait) => format!("rate_limited {}", wait.as_millis()),
            Self::NoHealthyUpstream(wait) => format!("unhealthy {}", wait.as_millis()),
            Self::Deadline => "deadline".to_owned(),
            Self::Draining => "draining".to_owned(),
            _ => String::new(),
        }
    }

    /// What [`Self::to_followers`] said.
    pub fn to_follower(text: &str) -> Self {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let wait = || Duration::from_millis(rest.parse().unwrap_or(1000));
        match word {
            "upstream" => {
                let class = crate::metrics::CLASSES.iter().find(|class| class.error_type() == rest);
                class.map_or(Self::Internal, |class| Self::Upstream(*class))
            }
            "rate_limited" => Self::RateLimited(wait()),
            "unhealthy" => Self::NoHealthyUpstream(wait()),
            "deadline" => Self::Deadline,
            "draining" => Self::Draining,
            _ => Self::Internal,
        }
    }

    /// The body and the headers that belong to it.
    pub fn response(&self) -> Response<Bytes> {
        let (kind, code) = self.kind_and_code();
        let body = tidegate_wire::error::error_body(&self.to_string(), kind, code, self.param());
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self {
            Self::RateLimited(wait) | Self::NoHealthyUpstream(wait) => {
                headers.insert(header::RETRY_AFTER, whole_seconds(*wait));
            }
            Self::Limited(_, wait) => {
                headers.insert(header::RETRY_AFTER, whole_seconds(*wait));
                // OpenAI's SDKs take this one where it is given.
                let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
                headers.insert("retry-after-ms", HeaderValue::from(millis));
            }
            Self::Spent(_, wait) => {
                headers.insert(header::RETRY_AFTER, whole_seconds(*wait));
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            Self::KeyReused | Self::NotKept => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            Self::Overloaded
            | Self::LimitUnknown(_)
            | Self::Draining
            | Self::Upstream(Class::Busy | Class::RateLimited) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Upstream(Class::Auth | Class::ModelNotFound) => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            Self::Upstream(Class::Quota) => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("600"));
            }
            Self::MethodNotAllowed(_, allowed) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::InvalidApiKey(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What was left of the client's request is not read: the connection cannot be used again.
            Self::RequestTimeout | Self::BodyTooLarge(_) | Self::BodyBroken(_) | Self::BadRequest(_) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// `retry-after`: whole seconds, rounded up, at least 1.
pub fn whole_seconds(wait: Duration) -> HeaderValue {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(seconds.max(1))
}

//! Step 3: what is asked for: the endpoint, and of the body only what routing needs. The body's bytes are
//! kept as they came, once, for every attempt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body::Body as _;
use tidegate_wire::answer::Dialect;
use tidegate_wire::request::peek;

use crate::error::GatewayError;
use crate::headers;
use crate::request::accept::Accepted;
use crate::request::authenticate::Authenticated;
use crate::request::body;

/// Largest header block, names and values together.
const HEADERS_MAX: usize = 32 * 1024;

/// Longest name of a model, bytes: it becomes a label, a key of limits and a line of the log.
const MODEL_MAX: usize = 256;

/// A request that is understood.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// Who asks.
    pub client: Option<usize>,
    /// What for.
    pub target: Target,
    /// As the client sent it.
    pub method: Method,
    /// What may go upstream of the client's headers.
    pub headers: HeaderMap,
    /// As the client sent it.
    pub body: Bytes,
    /// From the body.
    pub model: Option<String>,
    /// The client wants events.
    pub stream: bool,
    /// How many choices are asked for.
    pub choices: u32,
    /// Must not be sent twice once an upstream may have seen it.
    pub pinned: bool,
    /// The client's own repeats, as OpenAI's SDKs tell them.
    pub client_repeats: bool,
    /// The client's own deadline.
    pub timeout: Option<Duration>,
    /// The client wants an error rather than a stand-in's answer.
    pub no_fallback: bool,
    /// No copy of it may be made.
    pub private: bool,
    /// The client asked for the usage event of a stream.
    pub asks_usage: bool,
    /// The gateway asked for it in the client's stead.
    pub usage_added: bool,
    /// What the client allows a cache.
    pub control: Control,
    /// The client's own name for this request.
    pub idempotency: Option<Arc<str>>,
}

/// `cache-control` of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// Nothing that is kept.
    pub no_cache: bool,
    /// Nothing that is kept, and nothing is to be kept.
    pub no_store: bool,
    /// An upstream is not to be asked.
    pub only_if_cached: bool,
    /// Nothing older.
    pub max_age: Option<Duration>,
}

impl Control {
    fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        let lists = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for word in lists.flat_map(|list| list.split(',')) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-cache" => control.no_cache = true,
                "no-store" => control.no_store = true,
                "only-if-cached" => control.only_if_cached = true,
                // RFC 9111 4.2.1: what cannot be read is stale.
                "max-age" => {
                    let seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
                    control.max_age = Some(Duration::from_secs(seconds));
                }
                _ => {}
            }
        }
        control
    }
}

/// Longest `Idempotency-Key`.
const IDEMPOTENCY_MAX: usize = 255;

fn idempotency(headers: &HeaderMap) -> Result<Option<Arc<str>>, GatewayError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().map(str::trim).filter(|key| (1..=IDEMPOTENCY_MAX).contains(&key.len()));
    key.map(|key| Some(Arc::from(key)))
        .ok_or(GatewayError::BadRequest("an Idempotency-Key is 1 to 255 printable ASCII characters"))
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `GET /v1/models`
    Models,
    /// Anything an upstream answers.
    Upstream {
        /// Path and query below `/v1`.
        rest: String,
        /// How its answers look.
        dialect: Dialect,
        /// Routed by this model though the body names none (`GET /v1/models/{id}`).
        model: Option<String>,
        /// An answer must have its endpoint's shape; else whatever comes is handed through.
        shaped: bool,
    },
}

/// Reads and understands the request.
pub async fn read(accepted: &mut Accepted, authenticated: Authenticated) -> Result<Parsed, GatewayError> {
    let Some(incoming) = &mut accepted.body else { return Err(GatewayError::Internal) };
    let head = &mut accepted.head;
    let size: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    if size > HEADERS_MAX {
        return Err(GatewayError::HeadersTooLarge(HEADERS_MAX));
    }
    if head.headers.contains_key(header::CONTENT_LENGTH)
        && head.headers.contains_key(header::TRANSFER_ENCODING)
    {
        return Err(GatewayError::BadRequest("content-length and transfer-encoding exclude each other"));
    }
    let timeout = match head.headers.get("x-tidegate-timeout-ms") {
        None => None,
        Some(value) => Some(
            value
                .to_str()
                .ok()
                .and_then(|v| v.trim().parse().ok())
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis)
                .ok_or(GatewayError::BadRequest(
                    "x-tidegate-timeout-ms must be a whole number of milliseconds, at least 1",
                ))?,
        ),
    };
    let client_repeats =
        head.headers.get("x-stainless-retry-count").is_some_and(|v| v.as_bytes().trim_ascii() != b"0");
    let off = |name: &str| {
        head.headers.get(name).is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"off"))
    };
    let no_fallback = off("x-tidegate-fallback");
    let control = Control::of(&head.headers);
    let private = off("x-tidegate-shadow") || control.no_store;
    let idempotency = idempotency(&head.headers)?;
    let target = target(&head.method, head.uri.path(), head.uri.query())?;
    let method = head.method.clone();
    let mut forward = std::mem::take(&mut head.headers);
    let body = if incoming.is_end_stream() {
        Bytes::new()
    } else {
        let max = accepted.gateway.config.listen.max_body;
        let whole = body::collect(incoming, max, &accepted.gateway.admission).await?;
        accepted.note(|settle| settle.hold_room(whole.room));
        whole.bytes
    };
    let mut parsed = Parsed {
        client: authenticated.client,
        method,
        headers: HeaderMap::new(),
        body,
        model: None,
        stream: false,
        choices: 1,
        pinned: false,
        client_repeats,
        timeout,
        no_fallback,
        private,
        asks_usage: false,
        usage_added: false,
        control,
        idempotency,
        target,
    };
    if let Target::Upstream { rest, dialect, model, shaped } = &mut parsed.target {
        let named = *dialect != Dialect::Other;
        let json = is_json(&forward);
        // Whatever it is called: an upstream may read it as JSON all the same.
        if parsed.method == Method::POST
            && (named || json || parsed.body.trim_ascii_start().starts_with(b"{"))
        {
            match peek(&parsed.body) {
                Ok(peeked) => {
                    parsed.model = peeked.model.map(|field| field.name).filter(|name| !name.is_empty());
                    parsed.stream = peeked.stream;
                    parsed.asks_usage = peeked.include_usage;
                    parsed.choices = peeked.choices;
                    parsed.pinned = peeked.pinned || (!named && !is_repeatable(rest));
                    *shaped = parsed.model.is_some();
                }
                Err(error) if named || json => return Err(GatewayError::InvalidJson(error.to_string())),
                Err(_) => {}
            }
            if named && parsed.model.is_none() {
                return Err(GatewayError::MissingModel);
            }
        }
        if parsed.model.is_none() {
            // Nothing says that doing it twice is harmless: a file, a batch, a deletion.
            parsed.pinned = !matches!(parsed.method, Method::GET | Method::HEAD | Method::OPTIONS);
            parsed.model = model.take();
        }
    }
    if !parsed.model.as_deref().is_none_or(may_be_model) {
        return Err(GatewayError::BadRequest("a `model` is at most 256 bytes without control characters"));
    }
    headers::toward_upstream(&mut forward, parsed.stream || parsed.target == Target::Models);
    parsed.headers = forward;
    let (model, stream) = (parsed.model.clone(), parsed.stream);
    accepted.note(|settle| {
        settle.model = model;
        settle.streamed = stream;
    });
    Ok(parsed)
}

fn may_be_model(name: &str) -> bool {
    name.len() <= MODEL_MAX && !name.chars().any(char::is_control)
}

/// Endpoints beside the named ones that only compute. Others may make something (a job, a thread, a video), and
/// twice is once too often.
fn is_repeatable(rest: &str) -> bool {
    const COMPUTE: [&str; 9] = [
        "/audio/",
        "/images/",
        "/moderations",
        "/rerank",
        "/score",
        "/tokenize",
        "/messages",
        "/pooling",
        "/classify",
    ];
    COMPUTE.iter().any(|prefix| rest.starts_with(prefix))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    value.windows(4).any(|part| part.eq_ignore_ascii_case(b"json"))
}

fn target(method: &Method, path: &str, query: Option<&str>) -> Result<Target, GatewayError> {
    let Some(rest) = path.strip_prefix("/v1").filter(|rest| rest.len() > 1 && rest.starts_with('/')) else {
        return Err(GatewayError::NotFound(shown(path)));
    };
    let climbs = |segment: &str| {
        let plain = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
        matches!(plain.as_ref(), "." | "..") || plain.contains('\\')
    };
    if rest.contains("//") || rest.split('/').any(climbs) {
        return Err(GatewayError::NotFound(shown(path)));
    }
    let only = |allowed: Method, text: &'static str, target: Target| {
        if *method == allowed {
            Ok(target)
        } else {
            Err(GatewayError::MethodNotAllowed(method.to_string(), text))
        }
    };
    let with_query = |path: &str| query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let named = |path: &str, dialect| {
        let rest = with_query(path);
        only(Method::POST, "POST", Target::Upstream { rest, dialect, model: None, shaped: true })
    };
    let other = |model: Option<String>| {
        let shaped = model.is_some();
        Target::Upstream { rest: with_query(rest), dialect: Dialect::Other, model, shaped }
    };
    // Upstreams read `%73` as `s` and often forgive a trailing slash, so rules about a URL must too.
    let plain = percent_encoding::percent_decode_str(rest).decode_utf8_lossy();
    match plain.trim_end_matches('/') {
        path @ "/chat/completions" => named(path, Dialect::Chat),
        path @ "/completions" => named(path, Dialect::Completions),
        path @ "/embeddings" => named(path, Dialect::Embeddings),
        path @ "/responses" => named(path, Dialect::Responses),
        "/models" => only(Method::GET, "GET", Target::Models),
        path => match path.strip_prefix("/models/") {
            Some(id) => only(Method::GET, "GET", other(Some(id.to_owned()))),
            None => Ok(other(None)),
        },
    }
}

/// A client's text in an error message, short and printable.
fn shown(text: &str) -> String {
    text.chars().take(100).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_short_name_of_printable_characters() {
        for fine in ["gpt-4o", "org/m:tag", "模型", &"a".repeat(256)] {
            assert!(may_be_model(fine), "{fine}");
        }
        for odd in ["a\nb", "a\0", "\u{7f}", "\u{85}", &"a".repeat(257), &"模".repeat(86)] {
            assert!(!may_be_model(odd), "{odd:?}");
        }
    }

    #[test]
    fn urls_are_told_apart_and_cannot_climb_out_of_the_base() {
        let of = |method: Method, path: &str| target(&method, path, None);
        assert!(matches!(of(Method::GET, "/v1/models"), Ok(Target::Models)));
        for path in
            ["/", "/v1", "/v1/", "/v2/models", "/v1/../admin", "/v1/a/%2e%2e/b", "/v1//models", "/v1/..%5cx"]
        {
            assert!(matches!(of(Method::GET, path), Err(GatewayError::NotFound(_))), "{path}");
        }
        assert!(matches!(
            of(Method::GET, "/v1/chat/completions"),
            Err(GatewayError::MethodNotAllowed(_, "POST"))
        ));
        let Ok(Target::Upstream { rest, model, .. }) =
            target(&Method::GET, "/v1/models/org%2Fm", Some("a=1"))
        else {
            panic!("not understood")
        };
        assert_eq!((rest.as_str(), model.as_deref()), ("/models/org%2Fm?a=1", Some("org/m")));
    }
}

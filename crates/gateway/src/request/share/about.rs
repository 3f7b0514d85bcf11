//! What is kept with an answer beside its status and its type.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use http_body::Body as _;
use serde::{Deserialize, Serialize};

use crate::answer::Answer;

/// Of an upstream's headers, those that everyone gets who shares its answer. The client that began the run gets all.
const SHARED: [HeaderName; 5] = [
    header::CONTENT_ENCODING,
    header::RETRY_AFTER,
    header::LOCATION,
    header::CONTENT_DISPOSITION,
    HeaderName::from_static("x-should-retry"),
];

/// As JSON in [`tidegate_store::answers::Head::about`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Bytes of the body, where that was known from the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// A fallback answered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// Kept past its time, and this old, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<u64>,
    /// Some of the upstream's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl About {
    /// Of an answer that begins.
    pub fn of(body: &Answer, headers: &HeaderMap, fallback: bool) -> Self {
        let text = |name: &HeaderName| Some((name.to_string(), headers.get(name)?.to_str().ok()?.to_owned()));
        let headers = SHARED.iter().filter_map(text).collect();
        Self { length: body.size_hint().exact(), fallback, stale: None, headers }
    }

    /// What [`Self::write`] wrote; nothing where it did not.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The same, kept past its time.
    pub fn stale(text: &str, age: Duration) -> Self {
        Self { stale: Some(age.as_secs()), ..Self::read(text) }
    }

    /// As text.
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The body is as its type says.
    pub fn is_plain(&self) -> bool {
        !self.headers.contains_key(header::CONTENT_ENCODING.as_str())
    }

    /// Puts the headers where they belong.
    pub fn put(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
        headers.insert(header::SET_COOKIE, HeaderValue::from_static("secret"));
        let about = About::of(&Answer::Whole("body".into()), &headers, true);
        assert_eq!((about.length, about.headers.len()), (Some(4), 1));
        assert_eq!(About::read(&about.write()), about);
        for text in ["", "{", "[]", "12 gzip"] {
            assert_eq!(About::read(text), About::default(), "{text}");
        }
    }
}

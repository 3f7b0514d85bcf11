//! What is kept with an answer beside its status and its type: its length, where that was known from the beginning,
//! and its coding.

use std::fmt;

use http_body::Body as _;

use crate::answer::Answer;

/// As text: `LENGTH CODING`, either of them a dash where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct About<'a> {
    /// Bytes of the body.
    pub length: Option<u64>,
    /// `content-encoding`
    pub coding: Option<&'a str>,
}

impl<'a> About<'a> {
    /// Of an answer with this `content-encoding`.
    pub fn of(body: &Answer, coding: &'a str) -> Self {
        Self { length: body.size_hint().exact(), coding: Some(coding).filter(|coding| !coding.is_empty()) }
    }
}

impl<'a> From<&'a str> for About<'a> {
    fn from(text: &'a str) -> Self {
        let (length, coding) = text.split_once(' ').unwrap_or_default();
        Self { length: length.parse().ok(), coding: Some(coding).filter(|c| !matches!(*c, "" | "-")) }
    }
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            Some(length) => write!(f, "{length}")?,
            None => f.write_str("-")?,
        }
        write!(f, " {}", self.coding.unwrap_or("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for about in [
            About::default(),
            About { length: Some(0), coding: None },
            About { length: Some(12), coding: Some("gzip") },
        ] {
            assert_eq!(About::from(about.to_string().as_str()), about);
        }
        assert_eq!(About::from(""), About::default());
    }
}

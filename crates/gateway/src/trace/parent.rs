//! `traceparent` of W3C Trace Context: whose trace a request belongs to, and who called.
//!
//! What cannot be read is as good as absent, as the specification has it.

use std::fmt;

use http::HeaderMap;

/// The trace is recorded.
pub const SAMPLED: u8 = 1;
/// The trace's id is random.
pub const RANDOM: u8 = 2;

/// What a caller said of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Never 0.
    pub trace: u128,
    /// The caller's span, never 0.
    pub span: u64,
    /// [`SAMPLED`], [`RANDOM`] and what later versions add.
    pub flags: u8,
}

impl Parent {
    /// Of a request; `None` where it has none, several, or one that cannot be read.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut said = headers.get_all(super::TRACEPARENT).iter();
        match (said.next(), said.next()) {
            (Some(only), None) => Self::read(only.to_str().ok()?),
            _ => None,
        }
    }

    /// The caller records its part of the trace.
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    fn read(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let mut field = |digits: usize| {
            let field = fields.next()?;
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            (field.len() == digits && field.bytes().all(hex)).then_some(field)
        };
        let version = u8::from_str_radix(field(2)?, 16).ok()?;
        let trace = u128::from_str_radix(field(32)?, 16).ok()?;
        let span = u64::from_str_radix(field(16)?, 16).ok()?;
        let flags = u8::from_str_radix(field(2)?, 16).ok()?;
        // Later versions may add fields at the end; ff is none.
        let known = match version {
            0 => fields.next().is_none(),
            version => version != u8::MAX,
        };
        (known && trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_caller_is_understood() {
        let parent = Parent::read(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(
            (parent.trace, parent.span),
            (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331)
        );
        assert!(parent.is_sampled());
        assert!(!Parent::read(&format!("00-{TRACE}-{SPAN}-02")).unwrap().is_sampled());
        // Of a later version what is known of this one counts.
        for later in ["cc", "01"] {
            for more in ["", "-", "-what-the-future-brings"] {
                assert_eq!(Parent::read(&format!("{later}-{TRACE}-{SPAN}-01{more}")), Some(parent), "{more}");
            }
        }
    }

    #[test]
    fn what_is_no_caller_is_none() {
        for text in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01.what"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!(" 00-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(Parent::read(&text), None, "{text}");
        }
    }

    #[test]
    fn two_callers_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Parent::of(&headers), None);
        headers.append(crate::trace::TRACEPARENT, format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
        assert!(Parent::of(&headers).is_some());
        headers.append(crate::trace::TRACEPARENT, format!("00-{TRACE}-{SPAN}-00").parse().unwrap());
        assert_eq!(Parent::of(&headers), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*") {
            let _ = Parent::read(&text);
        }

        #[test]
        fn near_misses_are_read_without_a_panic(text in "[0-9a-fA-F-]{50,60}") {
            if let Some(parent) = Parent::read(&text) {
                prop_assert!(parent.trace != 0 && parent.span != 0);
            }
        }

        #[test]
        fn what_is_written_is_read(trace in 1_u128.., span in 1_u64.., flags: u8) {
            let parent = Parent { trace, span, flags };
            prop_assert_eq!(Parent::read(&parent.to_string()), Some(parent));
        }
    }
}

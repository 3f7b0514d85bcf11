//! `traceparent` of W3C Trace Context: whose trace a request belongs to, and who called; and `tracestate` beside it.
//!
//! What cannot be read is as good as absent, as the specification has it.

use std::fmt;

use http::HeaderMap;

/// The trace is recorded.
pub const SAMPLED: u8 = 1;
/// The trace's id is random.
pub const RANDOM: u8 = 2;
/// Longest `tracestate` of a span, characters: what the specification wants carried at least.
const STATE_MAX: usize = 512;
/// Longer members of it go first.
const MEMBER_MAX: usize = 128;

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

/// `tracestate` as spans carry it. Of one that is too long whole members are left out, as the specification has it:
/// long ones first, then from the end.
pub fn state(headers: &HeaderMap) -> String {
    let lists = || headers.get_all(super::TRACESTATE).iter().filter_map(|list| list.to_str().ok());
    let members =
        || lists().flat_map(|list| list.split(',')).map(str::trim).filter(|member| !member.is_empty());
    let length = members().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1);
    let longest = if length > STATE_MAX { MEMBER_MAX } else { STATE_MAX };
    let mut state = String::new();
    for member in members().filter(|member| member.len() <= longest) {
        let comma = if state.is_empty() { "" } else { "," };
        if state.len() + comma.len() + member.len() > STATE_MAX {
            break;
        }
        state.push_str(comma);
        state.push_str(member);
    }
    state
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

    fn state_of(lists: &[&str]) -> String {
        let name = crate::trace::TRACESTATE;
        state(&lists.iter().map(|list| (name.clone(), list.parse().unwrap())).collect())
    }

    #[test]
    fn a_state_is_one_list_of_whole_members() {
        assert_eq!(state_of(&[]), "");
        assert_eq!(state_of(&["a=1 , b=2,", "", ",\tc=3"]), "a=1,b=2,c=3");
        let whole = format!("a={},b={}", "x".repeat(300), "y".repeat(207));
        assert_eq!(whole.len(), STATE_MAX);
        assert_eq!(state_of(&[&whole]), whole);
        // The long ones go first, then those from the end.
        assert_eq!(state_of(&["c=3", &whole, "d=4"]), "c=3,d=4");
        let member = |key: char| format!("{key}={}", "x".repeat(MEMBER_MAX - 2));
        let members: Vec<String> = ('a'..='e').map(member).collect();
        assert_eq!(state_of(&[&members.join(","), "z=1"]), members[..3].join(","));
        assert_eq!(state_of(&[&"x".repeat(60_000)]), "");
    }

    proptest! {
        #[test]
        fn a_state_is_never_longer(lists in prop::collection::vec("[ -~\\t]{0,200}", 0..8)) {
            let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
            let state = state_of(&lists);
            prop_assert!(state.len() <= STATE_MAX);
            let mut members = state.split(',').filter(|member| !member.is_empty());
            prop_assert!(members.all(|member| lists.iter().any(|list| list.contains(member))));
        }

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

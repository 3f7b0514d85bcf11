//! `filters:` as written.

use crate::read::{Item, said, words};
use crate::unit::{Pattern, Text};

said! {
    /// Words and patterns that are blocked or redacted.
    Filter: "a filter", needs [name, action] {
        /// Unique; routes name it.
        name: Text,
        /// A file with one word a line.
        words_file: Text,
        /// Regular expressions.
        patterns: Vec<Item<Pattern>>,
        /// What is looked at. Default both.
        apply: Vec<Item<Apply>>,
        /// What is done with a hit.
        action: Action,
    }
}

words! {
    /// What a filter looks at.
    Apply { Request = "request", Response = "response", }
}

words! {
    /// What is done with a hit.
    Action { Block = "block", Redact = "redact", }
}

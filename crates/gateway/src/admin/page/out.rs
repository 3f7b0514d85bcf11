//! HTML that cannot be broken by what it shows: markup is what stands in the program, all else is escaped.

use serde_json::Value;

/// HTML being written.
#[derive(Debug, Default)]
pub(super) struct Out(String);

impl Out {
    /// Markup.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, or the value of a quoted attribute. What would change how other text is read (control characters, marks
    /// of direction) is shown as a mark of its own.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                    self.0.push('\u{fffd}');
                }
                c if c.is_control() => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        self
    }

    /// Whatever shows itself, as text.
    pub(super) fn show(&mut self, shown: impl std::fmt::Display) -> &mut Self {
        self.text(&shown.to_string())
    }

    /// What was written.
    pub(super) fn end(self) -> String {
        self.0
    }
}

/// A string of an object, empty where it has none.
pub(super) fn word<'a>(of: &'a Value, key: &str) -> &'a str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an object.
pub(super) fn number(of: &Value, key: &str) -> Option<f64> {
    of.get(key).and_then(Value::as_f64)
}

/// A count of an object, 0 where it has none.
pub(super) fn count(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// A flag of an object.
pub(super) fn flag(of: &Value, key: &str) -> bool {
    of.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// A list of an object, empty where it has none.
pub(super) fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What stands under a key; null where nothing does.
pub(super) fn at<'a>(of: &'a Value, key: &str) -> &'a Value {
    of.get(key).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let mut out = Out::default();
        out.raw("<b title=\"").text("\" onload='x'").raw("\">").text("</b><script>&\u{202e}\n").raw("</b>");
        assert_eq!(
            out.end(),
            "<b title=\"&quot; onload=&#39;x&#39;\">&lt;/b&gt;&lt;script&gt;&amp;\u{fffd}\u{fffd}</b>"
        );
    }
}

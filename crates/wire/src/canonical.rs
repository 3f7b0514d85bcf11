//! One form for all bodies that ask for the same answer, to be hashed into a cache key. The form is RFC 8785's (JCS):
//! no white space, keys in order, one spelling for each text and number. Fields that do not change the answer are left
//! out, and every other stays, known here or not: a field that is missing from a key serves one client's answer to
//! another's question. A body that two readers could read differently has no form. Not here: the hash, and what else
//! belongs in the key (`Dialect`, model, client).

mod number;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;

use memchr::memchr;
use serde::de::IgnoredAny;

/// The deepest nesting that has a form; serde_json's own bound for reading values.
pub const MAX_DEPTH: usize = 128;

/// Top-level fields that do not change what is answered: how it is sent, who asked, what it may cost.
const LEFT_OUT: [&str; 7] =
    ["stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"];

/// The canonical form of a request's body, without the top-level fields `stream`, `stream_options`, `user`,
/// `metadata`, `safety_identifier`, `prompt_cache_key` and `service_tier`.
///
/// It departs from RFC 8785 in one thing: whole numbers written without point and exponent keep all their digits.
/// The standard rounds them to a double, which would make one key of two neighbouring seeds beyond 2^53.
///
/// `None` when the body is not a JSON object in UTF-8, has a key twice in one object (also in a field that is left
/// out), holds half a surrogate pair or a number beyond the doubles, or is nested deeper than [`MAX_DEPTH`].
/// Two scans and a sort of each object's keys; memory is a few times the body.
#[must_use]
pub fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    // From here on the scan may take the grammar for granted.
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut form = Form {
        text,
        at: 0,
        out: Vec::with_capacity(body.len()),
        open: Vec::new(),
        members: Vec::new(),
        unsorted: Vec::new(),
    };
    form.blank();
    if form.peek() != Some(b'{') {
        return None;
    }
    form.value(0)?;
    Some(form.sorted())
}

/// A scan of valid JSON. What it writes has its final bytes, but objects keep the order of the text; those whose order
/// is wrong are noted, and put right in one go at the end.
struct Form<'a> {
    text: &'a str,
    at: usize,
    out: Vec<u8>,
    /// Members of the objects around the current place, the innermost last.
    open: Vec<Member<'a>>,
    /// Members of the unsorted objects, in their right order: places in `out`.
    members: Vec<Range<usize>>,
    unsorted: Vec<Unsorted>,
}

struct Member<'a> {
    key: Cow<'a, str>,
    /// Where it stands in `out`; `None` when it was left out.
    place: Option<Range<usize>>,
}

struct Unsorted {
    /// What stands between its braces; in `out`.
    place: Range<usize>,
    /// In `members`.
    members: Range<usize>,
}

impl<'a> Form<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Steps over this byte, and tells whether it stood there.
    fn takes(&mut self, byte: u8) -> bool {
        self.blank();
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.blank();
        match self.peek()? {
            b'{' if depth < MAX_DEPTH => self.object(depth + 1),
            b'[' if depth < MAX_DEPTH => self.array(depth + 1),
            b'{' | b'[' => None,
            b'"' => {
                let (token, string) = self.string()?;
                write_string(&mut self.out, token, &string)
            }
            _ => {
                let rest = self.text.get(self.at..)?;
                let end =
                    rest.bytes().position(|b| matches!(b, b',' | b']' | b'}') || b.is_ascii_whitespace());
                let token = rest.get(..end.unwrap_or(rest.len()))?;
                self.at += token.len();
                if token.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
                    number::write(&mut self.out, token)
                } else {
                    self.out.extend_from_slice(token.as_bytes());
                    Some(())
                }
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.out.push(b'[');
        let mut first = true;
        while !self.takes(b']') {
            if !first {
                self.takes(b',').then_some(())?;
                self.out.push(b',');
            }
            first = false;
            self.value(depth)?;
        }
        self.out.push(b']');
        Some(())
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.out.push(b'{');
        let (start, base) = (self.out.len(), self.open.len());
        let mut first = true;
        while !self.takes(b'}') {
            if !first {
                self.takes(b',').then_some(())?;
                self.blank();
            }
            first = false;
            self.member(depth, start)?;
        }
        self.close(start, base)?;
        self.out.push(b'}');
        Some(())
    }

    fn member(&mut self, depth: usize, start: usize) -> Option<()> {
        let before = self.out.len();
        let (members, unsorted) = (self.members.len(), self.unsorted.len());
        let (token, key) = self.string()?;
        if before > start {
            self.out.push(b',');
        }
        let place = self.out.len();
        write_string(&mut self.out, token, &key)?;
        self.takes(b':').then_some(())?;
        self.out.push(b':');
        self.value(depth)?;
        let place = if depth == 1 && LEFT_OUT.contains(&key.as_ref()) {
            self.out.truncate(before);
            self.members.truncate(members);
            self.unsorted.truncate(unsorted);
            None
        } else {
            Some(place..self.out.len())
        };
        self.open.push(Member { key, place });
        Some(())
    }

    /// Ends an object: notes it where its order is wrong. `None` when it has a key twice.
    fn close(&mut self, start: usize, base: usize) -> Option<()> {
        let members = self.open.get_mut(base..)?;
        let ascending = members.is_sorted_by(|a, b| order(&a.key, &b.key).is_lt());
        if !ascending {
            members.sort_unstable_by(|a, b| order(&a.key, &b.key));
            if !members.is_sorted_by(|a, b| a.key != b.key) {
                return None;
            }
            let noted = self.members.len();
            self.members.extend(members.iter().filter_map(|member| member.place.clone()));
            let members = noted..self.members.len();
            self.unsorted.push(Unsorted { place: start..self.out.len(), members });
        }
        self.open.truncate(base);
        Some(())
    }

    /// A string's token and what it says. `None` for half a surrogate pair.
    fn string(&mut self) -> Option<(&'a str, Cow<'a, str>)> {
        let text = self.text;
        let rest = text.get(self.at..)?;
        let mut end = 1;
        let mut escaped = false;
        loop {
            let tail = rest.as_bytes().get(end..)?;
            let quote = memchr(b'"', tail)?;
            match memchr(b'\\', tail.get(..quote)?) {
                None => {
                    end += quote + 1;
                    break;
                }
                Some(backslash) => {
                    escaped = true;
                    end += backslash + 2;
                }
            }
        }
        let token = rest.get(..end)?;
        self.at += end;
        let string = if escaped {
            Cow::Owned(serde_json::from_str(token).ok()?)
        } else {
            Cow::Borrowed(token.get(1..end - 1)?)
        };
        Some((token, string))
    }

    fn sorted(mut self) -> Vec<u8> {
        if self.unsorted.is_empty() {
            return self.out;
        }
        self.unsorted.sort_unstable_by_key(|object| object.place.start);
        let mut sorted = Vec::with_capacity(self.out.len());
        self.copy(0..self.out.len(), &mut sorted);
        sorted
    }

    /// Copies a part of `out`, with the objects inside it in order.
    fn copy(&self, part: Range<usize>, sorted: &mut Vec<u8>) {
        let mut at = part.start;
        // A member begins with its key, so no object inside it begins where it does; the one around it may.
        let mut next = self.unsorted.partition_point(|object| object.place.start <= at);
        while let Some(object) = self.unsorted.get(next).filter(|object| object.place.start < part.end) {
            sorted.extend_from_slice(self.out.get(at..object.place.start).unwrap_or_default());
            let members = self.members.get(object.members.clone()).unwrap_or_default();
            for (i, member) in members.iter().enumerate() {
                if i > 0 {
                    sorted.push(b',');
                }
                self.copy(member.clone(), sorted);
            }
            at = object.place.end;
            next = self.unsorted.partition_point(|object| object.place.start <= at);
        }
        sorted.extend_from_slice(self.out.get(at..part.end).unwrap_or_default());
    }
}

/// By UTF-16 code units, as the standard has it. That is the order of the bytes, but for characters beyond the first
/// plane beside some of its last ones.
fn order(a: &str, b: &str) -> Ordering {
    if a.is_ascii() || b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

/// Writes a string in the standard's spelling.
fn write_string(out: &mut Vec<u8>, token: &str, string: &str) -> Option<()> {
    // Every escape is longer than what it stands for; without one, the token is spelt right already.
    if token.len() == string.len() + 2 {
        out.extend_from_slice(token.as_bytes());
        return Some(());
    }
    // serde_json escapes what must be escaped and no more, in the same short forms and small letters.
    serde_json::to_writer(out, string).ok()
}

#[cfg(test)]
mod tests;

//! The file as a tree of values that know their place, with aliases unfolded and variables filled in.
//!
//! Owns the bounds that keep a hostile file cheap: values, depth, bytes. Built in one pass over the parser's
//! events without recursion; a fault of syntax ends it, everything else is reported and stepped over. Says
//! nothing about what a key means (`said`). The parser's own texts hold no words of the file, but for one
//! character, which is left out here.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError};

use crate::environment::Environment;
use crate::expand::expand;
use crate::fault::{Collector, Place, holds_client_key, holds_vendor_key, quote};

/// Values in one file, those under an alias counted each time. The largest honest file has a few thousand.
const VALUES_MAX: usize = 100_000;
/// Sections within sections; the schema needs 8.
const DEPTH_MAX: usize = 64;
/// Bytes that variables may add, so that a large variable used often does not fill the memory.
const EXPANDED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is said for a secret in clear, wherever it stands; never the secret.
pub(crate) const SECRET_IN_CLEAR: &str =
    "a secret stands here in clear: keep it out of this file and write {env: NAME} or {file: PATH}";

const CLIENT_KEY_IN_CLEAR: &str = "a client's key stands here in clear: only its SHA-256 belongs in this file, as `tidegate keygen` prints it";

/// One value.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    values: usize,
    depth: usize,
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Already reported; whoever reads it says nothing more.
    Broken,
    Scalar(Scalar),
    List(Vec<Arc<Node>>),
    Mapping(Vec<Entry>),
}

/// A scalar as text: what it means depends on who reads it.
#[derive(Debug)]
pub(crate) struct Scalar {
    /// With variables filled in.
    pub(crate) text: String,
    /// As written, when variables were filled in; messages show this one.
    written: Option<String>,
    /// Written without quotes.
    plain: bool,
}

/// `key: value`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Arc<Node>,
}

impl Node {
    /// Whether nothing is said at all.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar.is_null())
    }
}

impl Scalar {
    /// Whether it may stand for a number or a truth value: not in quotes, unless a variable was filled in.
    pub(crate) fn is_bare(&self) -> bool {
        self.plain || self.written.is_some()
    }

    /// What YAML takes for "nothing".
    pub(crate) fn is_null(&self) -> bool {
        self.plain && self.written.is_none() && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }

    /// For messages.
    pub(crate) fn quoted(&self) -> String {
        quote(self.written.as_ref().unwrap_or(&self.text))
    }
}

/// A collection whose end has not come yet.
struct Open {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Arc<Node>>),
    Mapping { entries: Vec<Entry>, seen: HashMap<String, Place>, merged: Vec<Arc<Node>>, key: Key },
}

/// The key whose value comes next.
enum Key {
    None,
    Usable(String, Place),
    Merge,
    Skipped,
}

/// Reads the text; `None` when it cannot be read to its end (the fault is in the collector then) or is empty.
pub(crate) fn grow(text: &str, environment: &dyn Environment, faults: &mut Collector) -> Option<Arc<Node>> {
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut grower = Grower {
        environment,
        faults,
        open: Vec::new(),
        anchors: HashMap::new(),
        values: 0,
        expanded_bytes: 0,
        documents: 0,
        root: None,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => grower.take(event, place(span.start))?,
            Err(error) => {
                grower.faults.fault(place(*error.marker()), syntax(&error, text));
                return None;
            }
        }
    }
    grower.root
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

fn syntax(error: &ScanError, text: &str) -> String {
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(),
        ErrorKind::UnexpectedCharacter { .. } => {
            "not valid YAML: a text that begins like this must stand in quotes".to_owned()
        }
        ErrorKind::UnknownAnchor => {
            "not valid YAML: `*` names an anchor that is not defined above".to_owned()
        }
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::ExpectedDocumentStart
        | ErrorKind::InvalidIndentation => WRONG_INDENT.to_owned(),
        ErrorKind::MappingValueNotAllowed => {
            "not valid YAML: either this line is indented too far, or a text with `: ` in it must stand in quotes".to_owned()
        }
        ErrorKind::DirectiveDisallowed => "a line that begins with % is not used here: remove it".to_owned(),
        kind => {
            let line = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
            let hint =
                if line.contains("${") { "; between [ ] or { }, ${VAR} must stand in quotes" } else { "" };
            format!("not valid YAML: {kind}{hint}")
        }
    }
}

const WRONG_INDENT: &str = "not valid YAML: this line or the one above is indented wrongly: keys of one section start in one column, and so do the `-` of one list";

fn too_deep() -> String {
    format!("nested more than {DEPTH_MAX} deep: nothing in this file needs that")
}

struct Grower<'a> {
    environment: &'a dyn Environment,
    faults: &'a mut Collector,
    open: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    values: usize,
    expanded_bytes: usize,
    documents: usize,
    root: Option<Arc<Node>>,
}

impl Grower<'_> {
    /// `None` ends the reading.
    fn take(&mut self, event: Event<'_>, place: Place) -> Option<()> {
        let tagged = match &event {
            Event::Scalar(.., tag) | Event::SequenceStart(.., tag) | Event::MappingStart(.., tag) => {
                tag.is_some()
            }
            _ => false,
        };
        if tagged {
            self.faults.fault(place, "tags (`!name`) are not used here: remove it");
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.faults.fault(place, "a second document begins here: one file is one configuration");
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let kind = self.scalar(text.into_owned(), style == ScalarStyle::Plain, place);
                let node = Arc::new(Node { place, kind, values: 1, depth: 1 });
                self.keep(anchor, &node);
                self.put(node, 1)?;
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    let values = node.values;
                    self.put(node, values)?;
                }
                None => {
                    self.faults.fault(place, "an alias inside of what it names: it would never end");
                    return None;
                }
            },
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open { place, anchor, content: Content::List(Vec::new()) });
            }
            Event::MappingStart(_, anchor, _) => {
                let content = Content::Mapping {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    merged: Vec::new(),
                    key: Key::None,
                };
                self.open.push(Open { place, anchor, content });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            _ => {}
        }
        Some(())
    }

    fn scalar(&mut self, text: String, plain: bool, place: Place) -> Kind {
        let (text, written) = match expand(&text, self.environment) {
            Ok(None) => (text, None),
            Ok(Some(expanded)) => (expanded, Some(text)),
            Err(wrong) => {
                for text in wrong {
                    self.faults.fault(place, text);
                }
                return Kind::Broken;
            }
        };
        if written.is_some() {
            self.expanded_bytes = self.expanded_bytes.saturating_add(text.len());
            if self.expanded_bytes > EXPANDED_BYTES_MAX {
                self.faults.fault(place, "variables fill in more than 4 MiB of text up to here");
                return Kind::Broken;
            }
        }
        if holds_vendor_key(&text) {
            self.faults.fault(place, SECRET_IN_CLEAR);
            return Kind::Broken;
        }
        if holds_client_key(&text) {
            self.faults.fault(place, CLIENT_KEY_IN_CLEAR);
            return Kind::Broken;
        }
        Kind::Scalar(Scalar { text, written, plain })
    }

    fn keep(&mut self, anchor: usize, node: &Arc<Node>) {
        if anchor > 0 {
            self.anchors.insert(anchor, Arc::clone(node));
        }
    }

    fn close(&mut self) -> Option<()> {
        let open = self.open.pop()?;
        let kind = match open.content {
            Content::List(items) => Kind::List(items),
            Content::Mapping { mut entries, mut seen, merged, .. } => {
                for node in merged {
                    self.merge(&node, &mut entries, &mut seen);
                }
                Kind::Mapping(entries)
            }
        };
        let (values, depth) = match &kind {
            Kind::List(items) => extent(items.iter()),
            Kind::Mapping(entries) => extent(entries.iter().map(|entry| &entry.value)),
            Kind::Broken | Kind::Scalar(_) => (1, 1),
        };
        let node = Arc::new(Node { place: open.place, kind, values, depth });
        if depth > DEPTH_MAX {
            self.faults.fault(open.place, too_deep());
            return None;
        }
        self.keep(open.anchor, &node);
        self.put(node, 1)
    }

    /// `<<:` adds what the mapping itself does not say.
    fn merge(&mut self, node: &Node, entries: &mut Vec<Entry>, seen: &mut HashMap<String, Place>) {
        match &node.kind {
            Kind::Mapping(more) => {
                for entry in more {
                    if !seen.contains_key(&entry.key) {
                        seen.insert(entry.key.clone(), entry.place);
                        entries.push(entry.clone());
                    }
                }
            }
            Kind::List(items) if items.iter().all(|item| matches!(item.kind, Kind::Mapping(_))) => {
                for item in items {
                    self.merge(item, entries, seen);
                }
            }
            Kind::Broken => {}
            Kind::List(_) | Kind::Scalar(_) => {
                self.faults.fault(node.place, "`<<` takes a section (or a list of sections) under an alias");
            }
        }
    }

    /// Puts a whole value where it belongs.
    fn put(&mut self, node: Arc<Node>, values: usize) -> Option<()> {
        self.values = self.values.saturating_add(values);
        if self.values > VALUES_MAX {
            self.faults
                .fault(node.place, format!("more than {VALUES_MAX} values, those under aliases included"));
            return None;
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Mapping { entries, seen, merged, key } => match std::mem::replace(key, Key::None) {
                Key::None => {
                    *key = match &node.kind {
                        Kind::Broken => Key::Skipped,
                        Kind::Scalar(scalar) if scalar.plain && scalar.text == "<<" => Key::Merge,
                        Kind::Scalar(scalar) => match seen.get(&scalar.text) {
                            None => {
                                seen.insert(scalar.text.clone(), node.place);
                                Key::Usable(scalar.text.clone(), node.place)
                            }
                            Some(first) => {
                                let text = format!(
                                    "{} is said twice, first in line {}: keep one",
                                    scalar.quoted(),
                                    first.line
                                );
                                self.faults.fault(node.place, text);
                                Key::Skipped
                            }
                        },
                        Kind::List(_) | Kind::Mapping(_) => {
                            self.faults.fault(node.place, "a key is one word, not a list or a section");
                            Key::Skipped
                        }
                    };
                }
                Key::Usable(key, place) => entries.push(Entry { key, place, value: node }),
                Key::Merge => merged.push(node),
                Key::Skipped => {}
            },
        }
        Some(())
    }
}

fn extent<'n>(children: impl Iterator<Item = &'n Arc<Node>>) -> (usize, usize) {
    children.fold((1, 1), |(values, depth), child| {
        (values.saturating_add(child.values), depth.max(child.depth.saturating_add(1)))
    })
}

#[cfg(test)]
mod tests;

//! From a tree of values to what a section says, without stopping at a fault.
//!
//! Owns the shape every section shares: a key that may be unsaid, said, or said wrongly, each with its place.
//! [`said!`] makes a section's type, its reader, its schema and how it is shown from one list of keys, so they cannot
//! drift apart. Not here: what a value may be (`unit`), and what sections mean together (`build`).

use std::borrow::Cow;
use std::collections::HashSet;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::fault::{Collector, Place, listed, nearest, quote};
use crate::tree::{Entry, Kind, Node, Scalar};

/// Some lists are compared entry with entry; at this length that still takes no time anyone notices.
const LIST_MAX: usize = 5000;

/// Takes one value, or reports why it cannot and answers `None`.
pub(crate) trait Read: Sized {
    fn read(node: &Node, faults: &mut Collector) -> Option<Self>;
}

/// A key of a section. Three states: unsaid; said; said wrongly, which is reported already, so later checks
/// keep silent about it.
#[derive(Debug)]
pub(crate) struct Said<T> {
    places: Option<(Place, Place)>,
    value: Option<T>,
}

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self { places: None, value: None }
    }
}

impl<T> Said<T> {
    /// The value, when it was said and could be read.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Where the key stands; `None` when it is unsaid.
    pub(crate) fn key(&self) -> Option<Place> {
        self.places.map(|(key, _)| key)
    }

    /// The value and its place.
    pub(crate) fn at(&self) -> Option<(&T, Place)> {
        Some((self.value.as_ref()?, self.places?.1))
    }
}

impl<T> Said<Vec<T>> {
    /// The entries; none when the list is unsaid.
    pub(crate) fn items(&self) -> &[T] {
        self.value.as_deref().unwrap_or_default()
    }
}

impl<T: Read> Said<T> {
    pub(crate) fn read(entry: &Entry, faults: &mut Collector) -> Self {
        Self { places: Some((entry.place, entry.value.place)), value: T::read(&entry.value, faults) }
    }
}

/// An entry of a list or of a free mapping.
#[derive(Debug)]
pub(crate) struct Item<T> {
    pub(crate) place: Place,
    pub(crate) value: T,
}

/// A mapping whose keys are the operator's own words.
#[derive(Debug)]
pub(crate) struct Table<T>(pub(crate) Vec<(Item<String>, Item<T>)>);

impl<T: Read> Read for Vec<Item<T>> {
    fn read(node: &Node, faults: &mut Collector) -> Option<Self> {
        match &node.kind {
            Kind::List(nodes) if nodes.len() > LIST_MAX => {
                faults.fault(node.place, format!("more than {LIST_MAX} entries in one list"));
                None
            }
            Kind::List(nodes) => {
                let read = |node: &std::sync::Arc<Node>| {
                    Some(Item { place: node.place, value: T::read(node, faults)? })
                };
                let items: Vec<_> = nodes.iter().filter_map(read).collect();
                // A list of nothing but faults is no empty list: whoever asks for an entry would complain twice.
                (nodes.is_empty() || !items.is_empty()).then_some(items)
            }
            _ => mismatch(node, faults, "a list (`[a, b]`, or a line `- a` for each)"),
        }
    }
}

impl<T: Read> Read for Table<T> {
    fn read(node: &Node, faults: &mut Collector) -> Option<Self> {
        let listed = listed_entries(node, faults);
        let entries = match &listed {
            Some(entries) => entries,
            None => mapping(node, faults)?,
        };
        if entries.len() > LIST_MAX {
            faults.fault(node.place, format!("more than {LIST_MAX} entries in one section"));
            return None;
        }
        let read = |entry: &Entry| {
            let value = T::read(&entry.value, faults)?;
            let key = Item { place: entry.place, value: entry.key.clone() };
            Some((key, Item { place: entry.value.place, value }))
        };
        let items: Vec<_> = entries.iter().filter_map(read).collect();
        (entries.is_empty() || !items.is_empty()).then_some(Self(items))
    }
}

/// The entries of a list of sections, in its order: the form of a table for what keeps no order of keys, as JSON does
/// not. `None` for anything but a list.
fn listed_entries(node: &Node, faults: &mut Collector) -> Option<Vec<Entry>> {
    let Kind::List(nodes) = &node.kind else { return None };
    let mut entries: Vec<Entry> = Vec::new();
    let mut seen = HashSet::new();
    for entry in nodes.iter().filter_map(|node| mapping(node, faults)).collect::<Vec<_>>().concat() {
        if seen.insert(entry.key.clone()) {
            entries.push(entry);
        } else {
            faults.fault(entry.place, format!("{} is said twice: keep one", quote(&entry.key)));
        }
    }
    Some(entries)
}

/// The entries of a section.
pub(crate) fn mapping<'n>(node: &'n Node, faults: &mut Collector) -> Option<&'n [Entry]> {
    match &node.kind {
        Kind::Mapping(entries) => Some(entries),
        _ => mismatch(node, faults, "a section (`key: value`)"),
    }
}

/// The scalar, when there is one.
pub(crate) fn scalar<'n>(node: &'n Node, faults: &mut Collector, due: &str) -> Option<&'n Scalar> {
    match &node.kind {
        Kind::Scalar(scalar) if !scalar.is_null() => Some(scalar),
        _ => mismatch(node, faults, due),
    }
}

/// Says what stands there instead of what is due; never the value itself, which may be a secret.
pub(crate) fn mismatch<T>(node: &Node, faults: &mut Collector, due: &str) -> Option<T> {
    let text = match &node.kind {
        Kind::Broken => return None,
        Kind::Scalar(scalar) if scalar.is_null() => {
            format!("nothing stands here: write {due}, or remove the key")
        }
        Kind::Scalar(_) => format!("one value stands here, but {due} is due"),
        Kind::List(_) => format!("a list stands here, but {due} is due"),
        Kind::Mapping(_) => format!("a section stands here, but {due} is due"),
    };
    faults.fault(node.place, text);
    None
}

/// Reports a key the section does not have, with the one that is meant, or all there are.
pub(crate) fn unknown_key(entry: &Entry, section: &str, keys: &[&'static str], faults: &mut Collector) {
    let text = match nearest(&entry.key, keys.iter().copied()) {
        Some(key) => format!("unknown key {}: did you mean `{key}`?", quote(&entry.key)),
        None => format!("unknown key {}: {section} has {}", quote(&entry.key), listed(keys.iter().copied())),
    };
    faults.fault(entry.place, text);
}

/// Reports a key the section cannot do without.
pub(crate) fn missing_key(node: &Node, key: &str, section: &str, faults: &mut Collector) {
    faults.fault(node.place, format!("`{key}` is missing: {section} needs it"));
}

/// `r#match` is written `match` in the file.
pub(crate) const fn word(key: &'static str) -> &'static str {
    match key.as_bytes() {
        [b'r', b'#', ..] => key.split_at(2).1,
        _ => key,
    }
}

macro_rules! transparent {
    ($name:ident => $inner:ty) => {
        impl<T: JsonSchema> JsonSchema for $name<T> {
            fn inline_schema() -> bool {
                <$inner>::inline_schema()
            }
            fn schema_name() -> Cow<'static, str> {
                <$inner>::schema_name()
            }
            fn schema_id() -> Cow<'static, str> {
                <$inner>::schema_id()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                <$inner>::json_schema(generator)
            }
        }
    };
}
transparent!(Said => T);
transparent!(Item => T);

impl<T: JsonSchema> JsonSchema for Table<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("TableOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({
            "type": ["object", "array"],
            "additionalProperties": value,
            "items": {"type": "object", "additionalProperties": value},
        })
    }
}

/// A section: `"what it is called", needs [keys]` and its keys with their types. Key docs become the schema's
/// descriptions.
macro_rules! said {
    ($(#[$meta:meta])* $name:ident: $called:literal, needs [$($need:ident),*] {
        $($(#[$key_meta:meta])* $key:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Default, schemars::JsonSchema)]
        #[schemars(
            default,
            deny_unknown_fields,
            extend(
                "required" = [$($crate::read::word(stringify!($need))),*],
                "x-keys" = [$($crate::read::word(stringify!($key))),*],
            )
        )]
        pub(crate) struct $name {
            $($(#[$key_meta])* pub(crate) $key: $crate::read::Said<$type>,)*
        }

        impl $name {
            /// Every key, in the order of the docs.
            pub(crate) const KEYS: &'static [&'static str] = &[$($crate::read::word(stringify!($key))),*];

            /// The keys that were said, and where.
            #[allow(dead_code)]
            pub(crate) fn said(&self) -> impl Iterator<Item = (&'static str, $crate::fault::Place)> {
                [$(($crate::read::word(stringify!($key)), self.$key.key())),*]
                    .into_iter()
                    .filter_map(|(key, place)| Some((key, place?)))
            }
        }

        impl $crate::effective::Shown for $name {
            fn shown(&self) -> serde_json::Value {
                let said = [$(($crate::read::word(stringify!($key)), self.$key.get().map($crate::effective::Shown::shown))),*];
                said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
            }
        }

        impl $crate::read::Read for $name {
            fn read(node: &$crate::tree::Node, faults: &mut $crate::fault::Collector) -> Option<Self> {
                let mut section = Self::default();
                for entry in $crate::read::mapping(node, faults)? {
                    $(if entry.key == const { $crate::read::word(stringify!($key)) } {
                        section.$key = $crate::read::Said::read(entry, faults);
                        continue;
                    })*
                    $crate::read::unknown_key(entry, $called, Self::KEYS, faults);
                }
                $(if section.$need.key().is_none() {
                    let key = const { $crate::read::word(stringify!($need)) };
                    $crate::read::missing_key(node, key, $called, faults);
                })*
                Some(section)
            }
        }
    };
}

/// A choice of fixed words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$word_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$word_meta])* $variant,)*
        }

        impl $name {
            pub(crate) const WORDS: &'static [&'static str] = &[$($word),*];

            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl $crate::read::Read for $name {
            fn read(node: &$crate::tree::Node, faults: &mut $crate::fault::Collector) -> Option<Self> {
                let due = || $crate::fault::listed(Self::WORDS.iter().copied()).replace(" and ", " or ");
                let scalar = $crate::read::scalar(node, faults, &due())?;
                match &*scalar.text {
                    $($word => Some(Self::$variant),)*
                    other => {
                        let text = match $crate::fault::nearest(other, Self::WORDS.iter().copied()) {
                            Some(word) => format!("unknown word {}: did you mean `{word}`?", scalar.quoted()),
                            None => format!("unknown word {}: write {}", scalar.quoted(), due()),
                        };
                        faults.fault(node.place, text);
                        None
                    }
                }
            }
        }

        impl $crate::effective::Shown for $name {
            fn shown(&self) -> serde_json::Value {
                self.word().into()
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "anyOf": [{"enum": Self::WORDS}, {"pattern": $crate::unit::VARIABLE}],
                })
            }
        }
    };
}

pub(crate) use {said, words};

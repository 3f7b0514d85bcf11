//! Lists of models: reading an upstream's, and writing one list of several. An entry goes through as the upstream
//! wrote it; only its `id` is understood. Not here: which models the routes admit.

use std::collections::HashSet;

use bytes::Bytes;
use serde::de::{MapAccess, SeqAccess};
use serde_json::value::RawValue;

use crate::lenient::{self, Name, Shape};

/// One entry of a list.
#[derive(Debug, Clone)]
pub struct Model {
    /// The name requests use.
    pub id: String,
    /// The entry as JSON, its `id` included.
    pub raw: Box<RawValue>,
}

/// The entries of `{"data": [...]}` (or of a bare list), those without an `id` left out. `None` when the body is no
/// such list.
#[must_use]
pub fn parse_models(body: &[u8]) -> Option<Vec<Model>> {
    let text = std::str::from_utf8(body).ok()?;
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let top = lenient::part::<List<'_>>(raw);
    let entries = match top.data {
        Some(data) => lenient::part::<List<'_>>(data).entries?,
        None => top.entries?,
    };
    let known = entries.into_iter().filter_map(|entry| {
        let id = lenient::part::<Entry<'_>>(entry).id.filter(|id| id.get().starts_with('"'))?;
        Some(Model { id: lenient::text(id)?, raw: entry.to_owned() })
    });
    Some(known.collect())
}

/// The models as one list; of several with the same id the first is kept.
#[must_use]
pub fn models_body(models: &[Model]) -> Bytes {
    let mut seen = HashSet::new();
    let mut out = br#"{"object":"list","data":["#.to_vec();
    for model in models {
        if !seen.insert(model.id.as_str()) {
            continue;
        }
        if seen.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(model.raw.get().as_bytes());
    }
    out.extend_from_slice(b"]}");
    out.into()
}

#[derive(Default)]
struct List<'a> {
    data: Option<&'a RawValue>,
    entries: Option<Vec<&'a RawValue>>,
}

impl<'de> Shape<'de> for List<'de> {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::Data => self.data = Some(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }

    fn array<A: SeqAccess<'de>>(&mut self, items: &mut A) -> Result<(), A::Error> {
        let entries = self.entries.insert(Vec::new());
        while let Some(entry) = items.next_element()? {
            entries.push(entry);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Entry<'a> {
    id: Option<&'a RawValue>,
}

impl<'de> Shape<'de> for Entry<'de> {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::Id => self.id = Some(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(body: &[u8]) -> Vec<String> {
        parse_models(body).unwrap().into_iter().map(|model| model.id).collect()
    }

    #[test]
    fn an_entry_goes_through_as_it_was_written() {
        let entry = r#"{"id": "gpt-4o", "x": [1.0e400, 12345678901234567890123], "x": null}"#;
        let body = format!(r#"{{"object":"list","data":[{entry}]}}"#);
        let models = parse_models(body.as_bytes()).unwrap();
        assert_eq!(models_body(&models), body);
    }

    #[test]
    fn the_first_of_several_with_one_id_is_kept() {
        let mut all = parse_models(br#"{"data":[{"id":"a","by":1},{"id":"b"}]}"#).unwrap();
        all.extend(parse_models(br#"[{"id":"a","by":2},{"id":"c"}]"#).unwrap());
        let merged = models_body(&all);
        assert_eq!(merged, r#"{"object":"list","data":[{"id":"a","by":1},{"id":"b"},{"id":"c"}]}"#);
        assert_eq!(ids(&merged), ["a", "b", "c"]);
    }

    #[test]
    fn what_has_no_name_is_left_out() {
        assert_eq!(
            ids(br#"{"models":[{"name":"x"}],"data":[{"id":7},3,{"id":"ok"},{"name":"x"},[]]}"#),
            ["ok"]
        );
        assert_eq!(models_body(&[]), r#"{"object":"list","data":[]}"#);
    }

    #[test]
    fn anything_else_is_no_list() {
        for body in ["", "<html>", "{}", "3", r#"{"data":null}"#, r#"{"data":{"id":"x"}}"#, r#"{"data":[{]}"#]
        {
            assert!(parse_models(body.as_bytes()).is_none(), "{body}");
        }
        assert!(parse_models(b"{\"data\":[\"\xff\"]}").is_none());
    }
}

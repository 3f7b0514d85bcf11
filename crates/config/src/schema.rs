//! The JSON Schema of the file, for editors.
//!
//! Made from the same types the file is read into, so it knows the same keys. It is wider than the reader where a
//! schema cannot say more: references, ranges, and what is not built.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::said::File;

/// JSON Schema (draft 2020-12) of a whole configuration file, with a description on every key.
#[must_use]
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    schema.insert("title".to_owned(), "Tidegate configuration".into());
    schema.to_value()
}

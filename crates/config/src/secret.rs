//! References to secrets, and fetching what they refer to.
//!
//! Owns nothing: the secret goes into a `SecretString` and its source into messages, never the other way round.
//! An absent secret is a fault when a node is about to serve with it, and a warning where the file alone is
//! looked at: whoever checks a file in a pipeline does not hold the keys. Not here: vaults in the network.

use std::borrow::Cow;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::Purpose;
use crate::effective::Shown;
use crate::environment::{Environment, cause};
use crate::expand::is_name;
use crate::fault::{Collector, Place, nearest, quote};
use crate::read::{Read, Said, mapping, mismatch, said};
use crate::tree::{Kind, Node, SECRET_IN_CLEAR};
use crate::unit::Text;

const KINDS: [&str; 4] = ["env", "file", "vault", "aws"];
const DUE: &str = "a reference to a secret, {env: NAME} or {file: PATH},";

/// Where a secret is kept.
#[derive(Debug)]
pub(crate) enum Secret {
    Env(String),
    File(String),
}

said! {
    /// A secret in HashiCorp Vault.
    Vault: "a vault secret", needs [path, field] {
        /// Path of the secret, as in `secret/data/openai`.
        path: Text,
        /// The field within it.
        field: Text,
    }
}

said! {
    /// A secret in AWS Secrets Manager.
    Aws: "an AWS secret", needs [secret_id] {
        /// Name or ARN of the secret.
        secret_id: Text,
        /// The field within it, when it is a JSON object.
        field: Text,
    }
}

impl Read for Secret {
    fn read(node: &Node, faults: &mut Collector) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(scalar) if !scalar.is_null() => {
                faults.fault(node.place, SECRET_IN_CLEAR);
                return None;
            }
            Kind::Mapping(_) => {}
            _ => return mismatch(node, faults, DUE),
        }
        let [entry] = mapping(node, faults)? else {
            faults.fault(node.place, format!("{DUE} has exactly one key"));
            return None;
        };
        let place = entry.value.place;
        match entry.key.as_str() {
            "env" => {
                let Text(name) = Text::read(&entry.value, faults)?;
                if !is_name(&name) {
                    faults.fault(
                        place,
                        "no variable can have this name: write the variable's name, not its value",
                    );
                    return None;
                }
                Some(Self::Env(name))
            }
            "file" => {
                let Text(path) = Text::read(&entry.value, faults)?;
                if path.is_empty() {
                    faults.fault(place, "the path is empty: write where the file is");
                    return None;
                }
                Some(Self::File(path))
            }
            kind @ ("vault" | "aws") => {
                let whole = if kind == "vault" {
                    Vault::read(&entry.value, faults).is_some()
                } else {
                    Aws::read(&entry.value, faults).is_some()
                };
                if whole {
                    let text = format!(
                        "`{kind}` secrets are not built yet in this version: use {{env: NAME}} or {{file: PATH}}"
                    );
                    faults.fault(entry.place, text);
                }
                None
            }
            // The key itself is not shown: `{hunter2}` is a section with the key `hunter2`.
            other => {
                let text = match nearest(other, KINDS) {
                    Some(kind) => format!("unknown key: did you mean `{kind}`?"),
                    None => format!("unknown key: {DUE} is due"),
                };
                faults.fault(entry.place, text);
                None
            }
        }
    }
}

impl Shown for Secret {
    /// The reference; what it refers to is not known here.
    fn shown(&self) -> Value {
        let (kind, source) = match self {
            Self::Env(name) => ("env", name),
            Self::File(path) => ("file", path),
        };
        json!({kind: source.replace("${", "$${")})
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let vault = generator.subschema_for::<Vault>();
        let aws = generator.subschema_for::<Aws>();
        json_schema!({
            "description": "Where a secret is kept; it never stands in this file.",
            "type": "object",
            "properties": {
                "env": {"type": "string", "description": "Name of an environment variable."},
                "file": {"type": "string", "description": "Path of a file that holds nothing else; relative to this file's folder."},
                "vault": vault,
                "aws": aws,
            },
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
        })
    }
}

/// What is around the file while secrets and certificates are fetched.
pub(crate) struct Around<'a> {
    pub(crate) environment: &'a dyn Environment,
    pub(crate) purpose: Purpose,
    /// The configuration file's folder: paths are relative to it.
    pub(crate) folder: &'a Path,
}

impl Around<'_> {
    /// What is absent: a fault or a warning, as the purpose has it.
    pub(crate) fn absent(&self, place: Place, text: String, faults: &mut Collector) {
        match self.purpose {
            Purpose::Serve => faults.fault(place, text),
            Purpose::Check => faults.warn(place, text),
        }
    }

    /// The secret, or `None` after saying that it is absent.
    pub(crate) fn fetch(
        &self,
        secret: &Secret,
        place: Place,
        faults: &mut Collector,
    ) -> Option<SecretString> {
        match self.find(secret) {
            Ok(found) => Some(found),
            Err(text) => {
                self.absent(place, text, faults);
                None
            }
        }
    }

    /// As [`Around::fetch`], for a key that may be unsaid.
    pub(crate) fn fetch_said(&self, secret: &Said<Secret>, faults: &mut Collector) -> Option<SecretString> {
        let (secret, place) = secret.at()?;
        self.fetch(secret, place, faults)
    }

    fn find(&self, secret: &Secret) -> Result<SecretString, String> {
        let (found, source) = match secret {
            Secret::Env(name) => {
                let source = format!("the variable {name}");
                let value = self.environment.variable(name);
                (value.ok_or_else(|| format!("{source} is not set: set it before the node serves"))?, source)
            }
            Secret::File(path) => {
                let source = format!("the file {}", quote(path));
                let bytes = self
                    .environment
                    .read(&self.folder.join(path))
                    .map_err(|error| format!("{source} cannot be read: {}", cause(&error)))?;
                (String::from_utf8(bytes).map_err(|_| format!("{source} is not UTF-8 text"))?, source)
            }
        };
        // Files written by hand or by an editor end in a line break that is not part of the secret.
        match found.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("{source} is empty: put the secret into it")),
            secret if secret.chars().any(char::is_control) => Err(format!(
                "{source} holds line breaks or control characters: one secret on one line is due"
            )),
            secret => Ok(SecretString::from(secret)),
        }
    }
}

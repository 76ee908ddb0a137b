//! What a custom kind has besides its row: schemas of all versions, and how objects get from one to another.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::Schema;
use crate::schema::validations::Validations;
use crate::schema::values::Rules;

/// One version of a family; cheap to clone.
#[derive(Clone)]
pub struct Custom {
    pub family: Arc<Family>,
    /// This row's place in the family's versions.
    pub index: usize,
}

/// What all versions of a custom kind share.
pub struct Family {
    /// The definition's name (`lamps.example.com`).
    pub definition: String,
    /// Differs whenever the definition says something else.
    pub state: String,
    /// Objects written at this revision or later have been brought into the stored version's form.
    pub since: u64,
    pub versions: Vec<CustomVersion>,
    /// The place of the version in which objects are stored.
    pub storage: usize,
    /// Fields that selectors may name, in any version.
    pub selectable: Vec<String>,
    /// The webhook that converts between versions; without one only `apiVersion` differs.
    pub webhook: Option<Value>,
    /// Why nothing new may be created.
    pub closed: Option<String>,
}

/// What a definition says of one version, compiled.
pub struct CustomVersion {
    pub name: String,
    pub api_version: String,
    pub schema: Arc<Schema>,
    pub rules: Rules,
    pub validations: Validations,
    /// The schema as its author wrote it.
    pub openapi: Value,
    pub scale: Option<ScalePaths>,
}

/// Where the `scale` subresource finds its numbers: JSON paths such as `.spec.replicas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

impl Custom {
    /// This row's version.
    pub fn version(&self) -> &CustomVersion {
        &self.family.versions[self.index]
    }

    pub fn is_stored(&self) -> bool {
        self.index == self.family.storage
    }
}

impl Family {
    /// The version in which objects are stored.
    pub fn stored(&self) -> &CustomVersion {
        &self.versions[self.storage]
    }

    /// The version of an object's `apiVersion`, served or not.
    pub fn find(&self, api_version: &str) -> Option<&CustomVersion> {
        self.versions.iter().find(|v| v.api_version == api_version)
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.family.state == other.family.state
    }
}

impl Eq for Custom {}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.family.definition, self.index, self.family.state)
    }
}

//! From a schema in JSON to rules.

use regex::Regex;
use serde_json::Value;

use super::{Bound, Rules, format};

/// A schema that cannot be made into rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("must be a valid regular expression, but isn't: {0}")]
    Pattern(#[from] Box<regex::Error>),
}

/// Patterns that compile to more than this are refused: their memory is the server's.
const PATTERN_BYTES_MAX: usize = 4 << 20;

pub(super) fn pattern(text: &str) -> Result<Regex, RulesError> {
    let mut builder = regex::RegexBuilder::new(text);
    builder.size_limit(PATTERN_BYTES_MAX).build().map_err(|e| RulesError::Pattern(Box::new(e)))
}

pub(super) fn rules(schema: &Value) -> Result<Rules, RulesError> {
    let number = |key: &str| schema[key].as_f64();
    let count = |key: &str| schema[key].as_u64();
    let is = |key: &str| schema[key] == true;
    let bound = |key: &str, exclusive: &str| {
        number(key).map(|limit| Bound { limit, exclusive: schema[exclusive] == true })
    };
    Ok(Rules {
        types: types(schema),
        nullable: is("nullable"),
        format: schema["format"].as_str().filter(|f| format::is_known(f)).unwrap_or("").to_owned(),
        maximum: bound("maximum", "exclusiveMaximum"),
        minimum: bound("minimum", "exclusiveMinimum"),
        multiple_of: number("multipleOf").filter(|f| *f > 0.0),
        length_max: count("maxLength"),
        length_min: count("minLength"),
        pattern: schema["pattern"].as_str().filter(|p| !p.is_empty()).map(pattern).transpose()?,
        items_max: count("maxItems"),
        items_min: count("minItems"),
        unique_items: is("uniqueItems"),
        properties_max: count("maxProperties"),
        properties_min: count("minProperties"),
        required: texts(&schema["required"]),
        choices: schema["enum"].as_array().filter(|c| !c.is_empty()).cloned(),
        properties: schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, below)| Ok((name.clone(), rules(below)?)))
            .collect::<Result<_, RulesError>>()?,
        additional: below(schema, "additionalProperties")?,
        items: below(schema, "items")?,
        map_keys: (schema["x-kubernetes-list-type"] == "map")
            .then(|| texts(&schema["x-kubernetes-list-map-keys"])),
        all_of: list(schema, "allOf")?,
        any_of: list(schema, "anyOf")?,
        one_of: list(schema, "oneOf")?,
        not: below(schema, "not")?,
    })
}

fn types(schema: &Value) -> Vec<&'static str> {
    const KNOWN: &[&str] = &["object", "array", "string", "integer", "number", "boolean"];
    if schema["x-kubernetes-int-or-string"] == true {
        return vec!["integer", "string"];
    }
    let named = schema["type"].as_str().unwrap_or_default();
    KNOWN.iter().copied().filter(|known| *known == named).collect()
}

fn below(schema: &Value, key: &str) -> Result<Option<Box<Rules>>, RulesError> {
    schema.get(key).filter(|s| s.is_object()).map(|s| rules(s).map(Box::new)).transpose()
}

fn list(schema: &Value, key: &str) -> Result<Vec<Rules>, RulesError> {
    schema[key].as_array().into_iter().flatten().map(rules).collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

//! Type checks and unknown fields. For built-in kinds the texts are those of Kubernetes' decoder.

use super::{Schema, Type};
use crate::quantity::Quantity;
use crate::status::FieldError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::HashSet;
use std::fmt;

/// What a check found, in the order of the document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    pub type_errors: Vec<TypeError>,
    /// What a strict reader refuses.
    pub strict: Vec<Strict>,
}

impl Findings {
    /// Paths of fields that the schema does not have (`spec.containers[0].imagee`).
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.strict.iter().filter_map(|found| match found {
            Strict::Unknown(path) => Some(path.as_str()),
            Strict::Repeated(_) => None,
        })
    }
}

/// A field that can be read, but not as it was meant; by its path.
#[derive(Clone, Debug, PartialEq)]
pub enum Strict {
    Unknown(String),
    Repeated(String),
}

impl Strict {
    pub fn path(&self) -> &str {
        match self {
            Self::Unknown(path) | Self::Repeated(path) => path,
        }
    }
}

impl fmt::Display for Strict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(path) => write!(f, "unknown field {path:?}"),
            Self::Repeated(path) => write!(f, "duplicate field {path:?}"),
        }
    }
}

/// A value of the wrong type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeError {
    /// Where it stands, with indexes (`spec.ports[0].port`).
    pub path: String,
    pub value: Value,
    wanted: String,
    /// What Go's decoder would say.
    text: String,
    /// What Go's conversion of maps into types would say, if that knows the type.
    conversion: Option<String>,
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TypeError {
    /// The error of an object that was not decoded from a text but made of maps and lists.
    pub fn conversion(&self) -> &str {
        self.conversion.as_deref().unwrap_or(&self.text)
    }

    /// The error as a custom resource's validation reports it.
    pub fn to_field_error(&self) -> FieldError {
        let found = name_of(&self.value);
        let message = format!("{} in body must be of type {}: {found:?}", self.path, self.wanted);
        FieldError::type_invalid(self.path.clone(), found, message)
    }
}

/// Whether `check` would find every value of its type. It says nothing of what is wrong, and so costs little: objects
/// are asked again and again on their way to the store, and nearly all are right.
pub(super) fn is_typed(schema: &Schema, value: &Value) -> bool {
    match (schema.ty, value) {
        (_, Value::Null) if schema.builtin || schema.nullable => true,
        (Type::Object, Value::Object(fields)) => fields
            .iter()
            .all(|(key, value)| schema.properties.get(key).is_none_or(|child| is_typed(child, value))),
        (Type::Map, Value::Object(entries)) => {
            schema.items.as_deref().is_none_or(|below| entries.values().all(|value| is_typed(below, value)))
        }
        (Type::List, Value::Array(items)) => {
            schema.items.as_deref().is_none_or(|below| items.iter().all(|item| is_typed(below, item)))
        }
        _ => scalar_problem(schema, value).is_none(),
    }
}

struct Walk<'a> {
    path: String,
    /// Paths of fields that stood twice in the document.
    repeated: HashSet<&'a str>,
    /// How much of the path Go's decoder names: it stops at the first key of a map.
    named: Option<usize>,
    findings: Findings,
}

pub(super) fn check(schema: &Schema, object: &Value, repeated: &[String]) -> Findings {
    let repeated = repeated.iter().map(String::as_str).collect();
    let mut walk = Walk { path: String::new(), repeated, named: None, findings: Findings::default() };
    walk.value(schema, object, "");
    walk.findings
}

impl Walk<'_> {
    fn value(&mut self, schema: &Schema, value: &Value, owner: &str) {
        match (schema.ty, value) {
            (_, Value::Null) if schema.builtin || schema.nullable => {}
            (Type::Object, Value::Object(fields)) => {
                for (key, value) in fields {
                    self.field(schema, key, value);
                }
            }
            (Type::Map, Value::Object(entries)) => {
                let outer = self.named;
                self.named.get_or_insert(self.path.len());
                for (key, value) in entries {
                    self.below(key, |walk| {
                        walk.note_repeated();
                        schema.items.iter().for_each(|s| walk.value(s, value, owner));
                    });
                }
                self.named = outer;
            }
            (Type::List, Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{i}]"));
                    schema.items.iter().for_each(|s| self.value(s, item, owner));
                    self.path.truncate(length);
                }
            }
            _ => {
                if let Some(problem) = scalar_problem(schema, value) {
                    self.mistyped(schema, value, owner, problem);
                }
            }
        }
    }

    fn field(&mut self, schema: &Schema, key: &str, value: &Value) {
        self.below(key, |walk| match schema.properties.get(key) {
            Some(child) => {
                walk.note_repeated();
                walk.value(child, value, &schema.definition);
            }
            None if schema.preserve_unknown => {}
            // Nobody reads what it holds, nor how often it stands there.
            None => walk.findings.strict.push(Strict::Unknown(walk.path.clone())),
        });
    }

    fn note_repeated(&mut self) {
        if self.repeated.contains(self.path.as_str()) {
            self.findings.strict.push(Strict::Repeated(self.path.clone()));
        }
    }

    fn below(&mut self, key: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        check(self);
        self.path.truncate(length);
    }

    fn mistyped(&mut self, schema: &Schema, value: &Value, owner: &str, problem: Problem) {
        let owner = owner.rsplit('.').next().unwrap_or("");
        let place = match without_indexes(&self.path[..self.named.unwrap_or(self.path.len())]) {
            path if path.is_empty() => "Go value".to_owned(),
            path => format!("Go struct field {owner}.{path}"),
        };
        // Types of these forms read themselves.
        let reads_itself = matches!(schema.ty, Type::IntOrString | Type::Quantity);
        let is_plain = matches!(problem, Problem::Type) && !reads_itself;
        let conversion = is_plain.then(|| unconverted(value, &go_type(schema)));
        let text = match problem {
            Problem::Type => {
                format!("json: cannot unmarshal {} into {place} of type {}", found(value), go_type(schema))
            }
            Problem::Text(text) => text,
        };
        let error = TypeError {
            path: self.path.clone(),
            value: value.clone(),
            wanted: wanted(schema),
            text,
            conversion,
        };
        self.findings.type_errors.push(error);
    }
}

enum Problem {
    Type,
    Text(String),
}

fn scalar_problem(schema: &Schema, value: &Value) -> Option<Problem> {
    let good = match (schema.ty, value) {
        (Type::Any, _) | (Type::Boolean, Value::Bool(_)) | (Type::Number, Value::Number(_)) => true,
        (Type::Integer, Value::Number(n)) => fits(n, &schema.format),
        (Type::IntOrString, Value::Number(n)) => fits(n, if schema.builtin { "int32" } else { "int64" }),
        (Type::IntOrString, Value::String(_)) => true,
        (Type::Quantity, Value::String(text)) => return quantity_problem(text),
        (Type::Quantity, Value::Number(n)) => return quantity_problem(&n.to_string()),
        (Type::String, Value::String(text)) if schema.builtin => return format_problem(&schema.format, text),
        (Type::String, Value::String(_)) => true,
        _ => false,
    };
    (!good).then_some(Problem::Type)
}

fn fits(number: &serde_json::Number, format: &str) -> bool {
    match (number.as_i64(), format) {
        (Some(n), "int32") => i32::try_from(n).is_ok(),
        (n, _) => n.is_some(),
    }
}

fn quantity_problem(text: &str) -> Option<Problem> {
    Quantity::parse(text).err().map(|e| Problem::Text(e.to_string()))
}

fn format_problem(format: &str, text: &str) -> Option<Problem> {
    match format {
        "date-time" if chrono::DateTime::parse_from_rfc3339(text).is_err() => Some(Problem::Text(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        ))),
        "byte" => STANDARD.decode(text).err().map(|e| Problem::Text(base64_text(&e))),
        _ => None,
    }
}

fn base64_text(error: &base64::DecodeError) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(length) => length / 4 * 4,
        base64::DecodeError::InvalidPadding => 0,
    };
    format!("illegal base64 data at input byte {at}")
}

fn without_indexes(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

/// What JSON calls the type of a value.
pub(super) fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) if n.is_f64() || n.as_i64().is_some_and(|n| i32::try_from(n).is_err()) => {
            format!("number {n}")
        }
        Value::Number(_) => "number".to_owned(),
        other => name_of(other).to_owned(),
    }
}

fn wanted(schema: &Schema) -> String {
    match schema.ty {
        Type::Any => "any",
        Type::Object | Type::Map => "object",
        Type::List => "array",
        Type::String | Type::Quantity => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
        Type::IntOrString => "integer,string",
    }
    .to_owned()
}

/// Why Go does not make a value of the type out of this one.
fn unconverted(value: &Value, wanted: &str) -> String {
    let (name, kind) = match value {
        Value::String(_) => ("string", "string"),
        Value::Bool(_) => ("bool", "bool"),
        Value::Number(number) if number.is_f64() => ("float64", "float64"),
        Value::Number(_) => ("int64", "int64"),
        Value::Array(_) => ("[]interface {}", "slice"),
        Value::Object(_) => ("map[string]interface {}", "map"),
        Value::Null => ("<nil>", "invalid"),
    };
    match wanted {
        slice if slice.starts_with("[]") => format!("cannot restore slice from {kind}"),
        map if map.starts_with("map[") => format!("cannot restore map from {kind}"),
        structure if structure.contains('.') => format!("cannot restore struct from: {kind}"),
        // Go could make a text of the number, but means a character by it.
        "string" if name == "int64" => format!("cannot convert {name} to {wanted}"),
        number if value.is_number() && number != "string" && number != "bool" => {
            format!("cannot convert {name} to {wanted}")
        }
        scalar => format!("unrecognized type: {scalar}"),
    }
}

fn go_type(schema: &Schema) -> String {
    let below = || schema.items.as_deref().map_or_else(|| "interface {}".to_owned(), go_type);
    match schema.ty {
        Type::Any => "interface {}".to_owned(),
        Type::Object => {
            let parts: Vec<_> = schema.definition.rsplitn(3, '.').collect();
            parts.iter().take(2).rev().copied().collect::<Vec<_>>().join(".")
        }
        Type::Map => format!("map[string]{}", below()),
        Type::List => format!("[]{}", below()),
        Type::String | Type::Quantity => "string".to_owned(),
        Type::Integer if schema.format.is_empty() => "int64".to_owned(),
        Type::Integer => schema.format.to_string(),
        Type::Number => "float64".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::IntOrString => "int32".to_owned(),
    }
}

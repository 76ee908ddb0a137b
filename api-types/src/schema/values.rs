//! What a custom kind's schema demands of values beyond their type: ranges, lengths, patterns, formats, enums,
//! required fields, and the junctors. Compiled once; texts and reasons are those of Kubernetes' validator.
//!
//! An update is judged with the object as it was: a part that has not changed is not held against the writer,
//! so that a schema may become stricter without locking old objects.

mod compile;
mod format;
mod verdict;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::check::name_of;
use crate::status::FieldError;
pub use compile::RulesError;
pub use format::is_known as is_known_format;
use verdict::Verdict;

/// Whether a text is a pattern that texts can be held to.
pub fn check_pattern(text: &str) -> Result<(), RulesError> {
    compile::pattern(text).map(drop)
}

/// The value rules of a schema.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    types: Vec<&'static str>,
    nullable: bool,
    format: String,
    maximum: Option<Bound>,
    minimum: Option<Bound>,
    multiple_of: Option<f64>,
    length_max: Option<u64>,
    length_min: Option<u64>,
    pattern: Option<Regex>,
    items_max: Option<u64>,
    items_min: Option<u64>,
    unique_items: bool,
    properties_max: Option<u64>,
    properties_min: Option<u64>,
    required: Vec<String>,
    choices: Option<Vec<Value>>,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// By which fields the items of a list are known again in its next state.
    map_keys: Option<Vec<String>>,
    all_of: Vec<Rules>,
    any_of: Vec<Rules>,
    one_of: Vec<Rules>,
    not: Option<Box<Rules>>,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    limit: f64,
    exclusive: bool,
}

impl Rules {
    /// Compiles an `openAPIV3Schema`. It fails only on what a validated definition cannot have.
    pub fn compile(schema: &Value) -> Result<Self, RulesError> {
        compile::rules(schema)
    }

    /// What is wrong with `value`. `old` is its state before an update.
    pub fn check(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.check_at("", value, old)
    }

    /// As `check`, with paths that begin at `path`.
    pub fn check_at(&self, path: &str, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = self.judge(path, value, old).errors;
        let mut seen = std::collections::HashSet::new();
        errors.retain(|e| seen.insert((e.path.clone(), e.body())));
        errors
    }

    fn judge(&self, path: &str, value: &Value, old: Option<&Value>) -> Verdict {
        let mut verdict = Verdict::default();
        if old == Some(value) {
            return verdict;
        }
        verdict.merge(self.judge_type(path, value));
        if value.is_null() {
            verdict.merge(self.judge_choice(path, value));
            return verdict;
        }
        verdict.merge(self.judge_junctors(path, value, old));
        match value {
            Value::String(text) => {
                verdict.merge(self.judge_text(path, text));
                verdict.merge(self.judge_format(path, text));
            }
            Value::Number(number) => verdict.merge(self.judge_number(path, number)),
            Value::Array(items) => verdict.merge(self.judge_list(path, items, old)),
            _ => {}
        }
        verdict.merge(self.judge_choice(path, value));
        if let Value::Object(fields) = value {
            verdict.merge(self.judge_object(path, fields, old));
        }
        verdict.passed()
    }

    fn judge_type(&self, path: &str, value: &Value) -> Verdict {
        let verdict = Verdict::default();
        if self.types.is_empty() {
            return verdict;
        }
        let found = name_of(value);
        let good = match value {
            Value::Null => self.nullable,
            Value::String(_) if !self.format.is_empty() && !self.is_numeric() => true,
            Value::Number(_) => self.types.contains(&found) || (found == "integer" && self.has("number")),
            _ => self.types.contains(&found),
        };
        match good {
            true => verdict.passed(),
            false => verdict.failed(mistyped(path, &self.types.join(","), found)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.types.contains(&name)
    }

    fn is_numeric(&self) -> bool {
        self.has("number") || self.has("integer")
    }

    fn judge_text(&self, path: &str, text: &str) -> Verdict {
        let verdict = Verdict::default();
        let length = text.chars().count() as u64;
        if let Some(max) = self.length_max.filter(|max| length > *max) {
            return verdict.failed(FieldError::too_long(path, usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = self.length_min.filter(|min| length < *min) {
            return verdict.failed(in_body(path, text, format!("should be at least {min} chars long")));
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|p| !p.is_match(text)) {
            return verdict.failed(in_body(path, text, format!("should match '{}'", pattern.as_str())));
        }
        verdict.passed()
    }

    fn judge_format(&self, path: &str, text: &str) -> Verdict {
        let verdict = Verdict::default();
        if self.format.is_empty() || format::is_valid(&self.format, text) {
            return verdict.passed();
        }
        verdict.failed(mistyped(path, &self.format, text))
    }

    fn judge_number(&self, path: &str, number: &serde_json::Number) -> Verdict {
        let mut verdict = Verdict::default();
        let value = number.as_f64().unwrap_or_default();
        if self.has("integer") && number.as_i64().is_none() {
            let why = format!("Checked value must be of type integer (default format) in {path}");
            verdict.fail(FieldError::invalid("<nil>", "", why));
        }
        if let Some(factor) = self.multiple_of.filter(|f| !is_multiple(value, *f)) {
            let why = format!("should be a multiple of {}", go_float(factor));
            verdict.fail(in_body(path, number.clone(), why));
        }
        if let Some(min) = self.minimum.filter(|b| value < b.limit || (b.exclusive && value <= b.limit)) {
            let or_equal = if min.exclusive { "" } else { " or equal to" };
            let why = format!("should be greater than{or_equal} {}", go_float(min.limit));
            verdict.fail(in_body(path, number.clone(), why));
        }
        if let Some(max) = self.maximum.filter(|b| value > b.limit || (b.exclusive && value >= b.limit)) {
            let or_equal = if max.exclusive { "" } else { " or equal to" };
            let why = format!("should be less than{or_equal} {}", go_float(max.limit));
            verdict.fail(in_body(path, number.clone(), why));
        }
        verdict.passed()
    }

    fn judge_list(&self, path: &str, items: &[Value], old: Option<&Value>) -> Verdict {
        let mut verdict = Verdict::default();
        if let Some(rules) = &self.items {
            for (i, item) in items.iter().enumerate() {
                let before = self.correlate(item, old);
                verdict.merge(rules.judge(&format!("{path}[{i}]"), item, before));
            }
        }
        let length = items.len() as u64;
        if let Some(min) = self.items_min.filter(|min| length < *min) {
            verdict.fail(in_body(path, length, format!("should have at least {min} items")));
        }
        if let Some(max) = self.items_max.filter(|max| length > *max) {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            verdict.fail(FieldError::too_many(path, items.len(), max));
        }
        if self.unique_items && (1..items.len()).any(|i| items[..i].contains(&items[i])) {
            verdict.fail(in_body(path, "", "shouldn't contain duplicates".to_owned()));
        }
        verdict.passed()
    }

    /// The item as it was, if items of this list can be told apart.
    fn correlate<'a>(&self, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
        let keys = self.map_keys.as_ref()?;
        let before = old?.as_array()?;
        before.iter().find(|b| keys.iter().all(|key| b.get(key) == item.get(key)))
    }

    fn judge_choice(&self, path: &str, value: &Value) -> Verdict {
        let verdict = Verdict::default();
        let Some(choices) = &self.choices else { return verdict };
        if choices.iter().any(|c| is_same(c, value)) || (value.is_null() && self.nullable) {
            return verdict.passed();
        }
        let texts: Vec<String> =
            choices.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        verdict.failed(FieldError::not_supported(path, value.clone(), &texts))
    }

    fn judge_object(&self, path: &str, fields: &Map<String, Value>, old: Option<&Value>) -> Verdict {
        let mut verdict = Verdict::default();
        let count = fields.len() as u64;
        if let Some(min) = self.properties_min.filter(|min| count < *min) {
            return verdict.failed(in_body(path, count, format!("should have at least {min} properties")));
        }
        if let Some(max) = self.properties_max.filter(|max| count > *max) {
            return verdict.failed(in_body(path, count, format!("should have at most {max} properties")));
        }
        for (key, value) in fields {
            let rules = self.properties.get(key).or(self.additional.as_deref());
            if let Some(rules) = rules {
                let before = old.and_then(|o| o.get(key));
                verdict.merge(rules.judge(&join(path, key), value, before));
            }
        }
        for key in self.required.iter().filter(|key| !fields.contains_key(*key)) {
            verdict.fail(FieldError::required(join(path, key), ""));
        }
        verdict.passed()
    }

    fn judge_junctors(&self, path: &str, value: &Value, old: Option<&Value>) -> Verdict {
        let mut verdict = Verdict::default();
        if !self.any_of.is_empty() {
            verdict.merge(self.judge_any(path, value, old));
        }
        if !self.one_of.is_empty() {
            verdict.merge(self.judge_one(path, value, old));
        }
        if !self.all_of.is_empty() {
            verdict.merge(self.judge_all(path, value, old));
        }
        if self.not.as_ref().is_some_and(|not| not.judge(path, value, old).is_valid()) {
            verdict.fail(unplaced(format!("{path:?} must not validate the schema (not)")));
        }
        verdict.passed()
    }

    fn judge_any(&self, path: &str, value: &Value, old: Option<&Value>) -> Verdict {
        let mut best: Option<Verdict> = None;
        for rules in &self.any_of {
            let one = rules.judge(path, value, old);
            if one.is_valid() {
                return one;
            }
            best = Verdict::better(best, one);
        }
        let mut verdict = Verdict::default();
        verdict.fail(unplaced(format!("{path:?} must validate at least one schema (anyOf)")));
        best.into_iter().for_each(|b| verdict.merge(b));
        verdict
    }

    fn judge_one(&self, path: &str, value: &Value, old: Option<&Value>) -> Verdict {
        let (mut best, mut first, mut valid) = (None, None, 0);
        for rules in &self.one_of {
            let one = rules.judge(path, value, old);
            match one.is_valid() {
                true => {
                    valid += 1;
                    first.get_or_insert(one);
                }
                false if valid == 0 => best = Verdict::better(best, one),
                false => {}
            }
        }
        if let (1, Some(first)) = (valid, first) {
            return first;
        }
        let found = match valid {
            0 => "Found none valid".to_owned(),
            many => format!("Found {many} valid alternatives"),
        };
        let mut verdict = Verdict::default();
        verdict.fail(unplaced(format!("{path:?} must validate one and only one schema (oneOf). {found}")));
        best.filter(|_| valid == 0).into_iter().for_each(|b| verdict.merge(b));
        verdict
    }

    fn judge_all(&self, path: &str, value: &Value, old: Option<&Value>) -> Verdict {
        let mut verdict = Verdict::default();
        let mut valid = 0;
        for rules in &self.all_of {
            let one = rules.judge(path, value, old);
            valid += usize::from(one.is_valid());
            verdict.merge(one);
        }
        if valid != self.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            verdict.fail(unplaced(format!("{path:?} must validate all the schemas (allOf){none}")));
        }
        verdict
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn in_body(path: &str, value: impl Into<Value>, why: String) -> FieldError {
    FieldError::invalid(path, value, format!("{path} in body {why}"))
}

fn mistyped(path: &str, wanted: &str, found: &str) -> FieldError {
    let why = format!("{path} in body must be of type {wanted}: {found:?}");
    FieldError::type_invalid(path, found, why)
}

/// What a junctor says: Kubernetes' validator gives its errors no place.
fn unplaced(why: String) -> FieldError {
    FieldError::invalid("<nil>", "", why)
}

fn is_multiple(value: f64, factor: f64) -> bool {
    let quotient = value / factor;
    quotient == quotient.trunc()
}

fn is_same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

/// A number as Go prints it.
fn go_float(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e21).contains(&value.abs()) {
        format!("{value:e}")
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests;

//! What rules can cost at most, from the sizes that their schema allows: a definition whose rules could keep
//! the server busy is refused.

use serde_json::Value;

use super::Validations;
use crate::cel::{Range, Sizes};
use crate::status::FieldError;

/// What the rules of a definition may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rule_max: u64,
    pub definition_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rule_max: 10_000_000, definition_max: 100_000_000 }
    }
}

/// A request has at most so many bytes, and so has every value in it.
const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024 - 2;

/// The rules that could cost too much, with paths below the schema. `openapi` is what was compiled.
pub fn check_costs(rules: &Validations, openapi: &Value, limits: Limits) -> Vec<FieldError> {
    let mut count = Count { limits, total: 0, dearest: Vec::new(), errors: Vec::new() };
    count.at(rules, openapi, "", Some(1));
    if count.total > limits.definition_max {
        count.dearest.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        const NAMED_MAX: usize = 4;
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        for (_, path) in count.dearest.iter().take(NAMED_MAX) {
            count.errors.push(FieldError::forbidden(path.as_str(), why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        count.errors.push(FieldError::forbidden("", too_dear(what, count.total, limits.definition_max)));
    }
    count.errors
}

struct Count {
    limits: Limits,
    total: u64,
    dearest: Vec<(u64, String)>,
    errors: Vec<FieldError>,
}

impl Count {
    /// `times` is how often a value of this schema can be in an object, if its lists and maps are bounded.
    fn at(&mut self, rules: &Validations, openapi: &Value, path: &str, times: Option<u64>) {
        let often = times.unwrap_or_else(|| REQUEST_BYTES_MAX / (size_min(openapi) + 1));
        for (i, rule) in rules.rules.iter().enumerate() {
            let sizes = SchemaSizes { openapi };
            let place = format!("{path}.x-kubernetes-validations[{i}]");
            self.one(rule.program.estimate(&sizes), often, &format!("{place}.rule"), "estimated rule cost");
            if let Some(message) = &rule.message_expression {
                let path = format!("{place}.messageExpression");
                self.one(message.estimate(&sizes), often, &path, "estimated messageExpression cost");
            }
        }
        for (name, below) in &rules.fields {
            self.at(below, &openapi["properties"][name], &format!("{path}.properties[{name}]"), times);
        }
        if let Some(below) = &rules.items {
            let (field, bound) = match openapi["items"].is_object() {
                true => ("items", openapi["maxItems"].as_u64()),
                false => ("additionalProperties", openapi["maxProperties"].as_u64()),
            };
            let times = times.zip(bound).map(|(times, bound)| times.saturating_mul(bound));
            self.at(below, &openapi[field], &format!("{path}.{field}"), times);
        }
    }

    fn one(&mut self, cost: Range, often: u64, path: &str, what: &str) {
        let cost = cost.max.saturating_mul(often);
        self.total = self.total.saturating_add(cost);
        if cost > self.limits.rule_max {
            self.errors.push(FieldError::forbidden(path, too_dear(what, cost, self.limits.rule_max)));
        }
        self.dearest.push((cost, path.to_owned()));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a factor for people")]
fn too_dear(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, \
         and maxLength where arrays, maps, and strings are declared)"
    )
}

/// Sizes by the schema of `self`.
struct SchemaSizes<'a> {
    openapi: &'a Value,
}

impl Sizes for SchemaSizes<'_> {
    fn size(&self, path: &[&str]) -> Option<Range> {
        let (first, rest) = path.split_first()?;
        if !matches!(*first, "self" | "oldSelf") {
            return None;
        }
        let mut at = self.openapi;
        for step in rest {
            at = match *step {
                "@items" => at.get("items")?,
                "@values" => at.get("additionalProperties")?,
                // A key is part of a request like any text.
                "@keys" => return Some(Range::up_to(REQUEST_BYTES_MAX)),
                name => at["properties"].get(name)?,
            };
        }
        size_of(at)
    }
}

fn size_of(openapi: &Value) -> Option<Range> {
    let bound = |field: &str| openapi[field].as_u64();
    let max = match openapi["type"].as_str()? {
        "string" => bound("maxLength").unwrap_or_else(|| text_max(openapi)),
        "array" => bound("maxItems").unwrap_or_else(|| REQUEST_BYTES_MAX / (size_min(&openapi["items"]) + 1)),
        "object" if openapi["additionalProperties"].is_object() => {
            const KEY_BYTES_MIN: u64 = 6;
            let pair = size_min(&openapi["additionalProperties"]) + KEY_BYTES_MIN;
            bound("maxProperties").unwrap_or(REQUEST_BYTES_MAX / pair + 1)
        }
        _ => return None,
    };
    Some(Range::up_to(max))
}

fn text_max(openapi: &Value) -> u64 {
    let choices = openapi["enum"].as_array().filter(|c| !c.is_empty());
    if let Some(choices) = choices {
        return choices.iter().filter_map(Value::as_str).map(|c| c.len() as u64).max().unwrap_or_default();
    }
    match openapi["format"].as_str() {
        Some("date") => 10,
        Some("date-time") => 32,
        Some("duration") => 32,
        _ => REQUEST_BYTES_MAX,
    }
}

/// How few bytes a value can have in a request.
fn size_min(openapi: &Value) -> u64 {
    match openapi["type"].as_str() {
        Some("boolean") => 4,
        Some("integer" | "number") => 1,
        Some("object") => {
            let required = openapi["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let field = |name: &str| {
                let below = &openapi["properties"][name];
                let is_filled_in = below.get("default").is_some();
                if is_filled_in { 0 } else { name.len() as u64 + 4 + size_min(below) }
            };
            2 + required.map(field).sum::<u64>()
        }
        _ => 2,
    }
}

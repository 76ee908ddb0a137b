//! `x-kubernetes-validations`: a custom kind's own rules in the Common Expression Language.
//!
//! Compiled once with the schema, and evaluated at every place that the schema describes. Rules that speak of
//! the old state run only where there is one; a part that an update leaves alone is held to nothing else.

mod cost;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ListType, Schema};
use crate::cel::{self, Activation, Budget, Environment, EvalError, Program, Type};
use crate::status::{FieldError, FieldReason};
pub use cost::{Limits, check_costs};

/// The rules of a schema and of what is below it.
#[derive(Debug, Default)]
pub struct Validations {
    schema: Schema,
    ty: String,
    rules: Vec<Rule>,
    fields: BTreeMap<String, Validations>,
    /// Items of a list, values of a map.
    items: Option<Box<Validations>>,
}

#[derive(Debug)]
struct Rule {
    program: Program,
    text: String,
    message: String,
    message_expression: Option<Program>,
    reason: FieldReason,
    /// Appended to the path of what the rule is about.
    field_path: String,
    reads_old: bool,
    optional_old: bool,
}

/// What is wrong with a rule itself.
#[derive(Debug)]
pub struct RuleError {
    /// Below the schema: `.properties[spec].x-kubernetes-validations[0].rule`.
    pub path: String,
    pub value: Value,
    pub why: String,
}

impl Validations {
    /// Compiles the rules in `openapi`, whose compiled form is `schema`. Rules that do not compile are left out
    /// and reported.
    pub fn compile(schema: &Schema, openapi: &Value) -> (Self, Vec<RuleError>) {
        let mut errors = Vec::new();
        let compiled = Self::at(schema, openapi, "", true, &mut errors);
        (compiled, errors)
    }

    fn at(schema: &Schema, openapi: &Value, path: &str, root: bool, errors: &mut Vec<RuleError>) -> Self {
        let mut out = Self {
            schema: schema.clone(),
            ty: openapi["type"].as_str().unwrap_or_default().to_owned(),
            ..Self::default()
        };
        let given = openapi["x-kubernetes-validations"].as_array().filter(|r| !r.is_empty());
        if let Some(given) = given {
            out.rules = compile_rules(schema, given, path, root, errors);
        }
        for (name, below) in openapi["properties"].as_object().into_iter().flatten() {
            let Some(schema) = schema.properties.get(name) else { continue };
            let below = Self::at(schema, below, &format!("{path}.properties[{name}]"), false, errors);
            if !below.is_empty() {
                out.fields.insert(name.clone(), below);
            }
        }
        for field in ["items", "additionalProperties"] {
            let below = openapi.get(field).filter(|b| b.is_object());
            if let (Some(below), Some(schema)) = (below, schema.item()) {
                let below = Self::at(schema, below, &format!("{path}.{field}"), false, errors);
                out.items = (!below.is_empty()).then(|| Box::new(below));
            }
        }
        out
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.fields.is_empty() && self.items.is_none()
    }

    /// What is wrong with `value` by its kind's own rules. `old` is its state before an update.
    pub fn check(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut walk = Walk { errors: Vec::new(), budget: Budget::for_rules(), over: false };
        walk.value(self, "", value, old);
        walk.errors
    }
}

fn compile_rules(
    schema: &Schema,
    given: &[Value],
    path: &str,
    root: bool,
    errors: &mut Vec<RuleError>,
) -> Vec<Rule> {
    let ty = if root { Type::of_resource(schema, "Self") } else { Type::of_schema(schema, "Self") };
    let ty = ty.unwrap_or(Type::Dyn);
    let plain = Environment::new().variable("self", ty.clone());
    let mut rules = Vec::new();
    for (i, rule) in given.iter().enumerate() {
        let optional_old = rule["optionalOldSelf"] == true;
        let old = if optional_old { Type::optional(ty.clone()) } else { ty.clone() };
        let environment = plain.clone().variable("oldSelf", old);
        let path = format!("{path}.x-kubernetes-validations[{i}]");
        rules.extend(compile_rule(&environment, rule, &path, optional_old, errors));
    }
    rules
}

fn compile_rule(
    environment: &Environment,
    rule: &Value,
    path: &str,
    optional_old: bool,
    errors: &mut Vec<RuleError>,
) -> Option<Rule> {
    let text = |field: &str| rule[field].as_str().unwrap_or_default().trim().to_owned();
    let mut compile = |field: &str, ty: Type, wrong: &str| {
        let text = text(field);
        let fail = |why: String| RuleError { path: format!("{path}.{field}"), value: rule.clone(), why };
        match environment.compile(&text) {
            Ok(program) if matches!(program.result_type(), Type::Dyn) || *program.result_type() == ty => {
                Some(program)
            }
            Ok(_) => {
                errors.push(fail(wrong.to_owned()));
                None
            }
            Err(error) => {
                errors.push(fail(format!("compilation failed: {error}")));
                None
            }
        }
    };
    if text("rule").is_empty() {
        return None;
    }
    let program = compile("rule", Type::Bool, "cel expression must evaluate to a bool");
    let message_expression = match text("messageExpression").is_empty() {
        true => None,
        false => compile("messageExpression", Type::String, "messageExpression must evaluate to a string"),
    };
    let program = program?;
    Some(Rule {
        reads_old: program.uses("oldSelf"),
        program,
        text: text("rule"),
        message: text("message"),
        message_expression,
        reason: match text("reason").as_str() {
            "FieldValueForbidden" => FieldReason::Forbidden,
            "FieldValueRequired" => FieldReason::Required,
            "FieldValueDuplicate" => FieldReason::Duplicate,
            _ => FieldReason::Invalid,
        },
        field_path: text("fieldPath"),
        optional_old,
    })
}

struct Walk {
    errors: Vec<FieldError>,
    budget: Budget,
    over: bool,
}

impl Walk {
    fn value(&mut self, rules: &Validations, path: &str, value: &Value, old: Option<&Value>) {
        if value.is_null() {
            return;
        }
        let unchanged = old == Some(value);
        for rule in &rules.rules {
            let has_old = old.is_some_and(|o| !o.is_null());
            // A transition rule needs a state before; any other has nothing new to say of what stays as it was.
            let skipped = if rule.reads_old { !rule.optional_old && !has_old } else { unchanged };
            if !self.over && !skipped {
                self.rule(rules, rule, path, value, old.filter(|_| has_old));
            }
        }
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let below = rules.fields.get(key).or(rules.items.as_deref());
                    if let Some(below) = below {
                        let old = if rules.schema.atomic { None } else { old.and_then(|o| o.get(key)) };
                        self.value(below, &join(path, key), value, old);
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = &rules.items else { return };
                for (i, item) in items.iter().enumerate() {
                    let old = correlate(&rules.schema.list, item, old);
                    self.value(below, &format!("{path}[{i}]"), item, old);
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, at: &Validations, rule: &Rule, path: &str, value: &Value, old: Option<&Value>) {
        let bind = |value| cel::Value::with_schema(value, &at.schema);
        let mut activation = Activation::new().with("self", bind(value));
        match (rule.optional_old, old) {
            (true, Some(old)) => activation = activation.with("oldSelf", cel::Value::some(bind(old))),
            (true, None) => activation = activation.with("oldSelf", cel::Value::none()),
            (false, Some(old)) => activation = activation.with("oldSelf", bind(old)),
            (false, None) => {}
        }
        let shown = || if at.ty.is_empty() { Value::from("") } else { at.ty.as_str().into() };
        match rule.program.eval(&activation, &mut self.budget).map(|v| v.as_bool()) {
            Ok(Some(true)) => {}
            Ok(Some(false)) => {
                let message = self.message(rule, &activation);
                self.errors.push(refusal(rule, path, value, message));
            }
            Ok(None) => {
                self.errors.push(FieldError::invalid(
                    path,
                    shown(),
                    "cel expression must evaluate to a bool",
                ));
            }
            Err(EvalError::OverBudget) => {
                self.over = true;
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                self.errors.push(FieldError::invalid(path, shown(), why));
            }
            Err(error) => {
                let name = if rule.message.is_empty() { &rule.text } else { &rule.message };
                let why = format!("{error} evaluating rule: {name}");
                self.errors.push(FieldError::invalid(path, shown(), why));
            }
        }
    }

    /// What the rule's author has to say, or what can be said without.
    fn message(&mut self, rule: &Rule, activation: &Activation<'_>) -> String {
        const MESSAGE_BYTES_MAX: usize = 5 << 10;
        if let Some(expression) = &rule.message_expression
            && let Ok(made) = expression.eval(activation, &mut self.budget)
            && let Some(text) = made.as_str().map(str::trim)
            && !text.is_empty()
            && !text.contains('\n')
            && text.len() <= MESSAGE_BYTES_MAX
        {
            return text.to_owned();
        }
        if rule.message.is_empty() { format!("failed rule: {}", rule.text) } else { rule.message.clone() }
    }
}

fn refusal(rule: &Rule, path: &str, value: &Value, message: String) -> FieldError {
    let path = match rule.field_path.as_str() {
        "" => path.to_owned(),
        below if path.is_empty() => below.trim_start_matches('.').to_owned(),
        below => format!("{path}{below}"),
    };
    // Objects and lists are not repeated to who sent them.
    let shown =
        (!value.is_object() && !value.is_array() && rule.field_path.is_empty()).then(|| value.clone());
    match rule.reason {
        FieldReason::Forbidden => FieldError::forbidden(path, message),
        FieldReason::Required => FieldError::required(path, message),
        FieldReason::Duplicate => {
            FieldError { message, value: shown, ..FieldError::duplicate(path, Value::Null) }
        }
        _ => FieldError { value: shown, ..FieldError::invalid(path, Value::Null, message) },
    }
}

/// The item as it was, where items can be told apart.
fn correlate<'a>(list: &ListType, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let ListType::Map(keys) = list else { return None };
    old?.as_array()?.iter().find(|before| keys.iter().all(|key| before.get(key) == item.get(key)))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests;

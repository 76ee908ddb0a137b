//! `matchConditions`: expressions that must all be true for a webhook or a policy to be concerned.

use crate::cel::{Activation, Budget, Environment, Type, Value as Cel};
use serde_json::Value;

use super::compiled::{items, text};
use super::{Expression, Scope};
use crate::status::FieldError;

/// The conditions of one webhook or policy.
pub struct Conditions(Vec<Expression>);

impl Conditions {
    pub fn compile(environment: &Environment, conditions: &Value) -> Self {
        let compile = |c: &Value| Expression::compile(environment, &text(&c["expression"]), &[Type::Bool]);
        Self(items(conditions).map(compile).collect())
    }

    /// Those of a webhook, which see the request, its objects and the authorizer.
    pub fn of_webhook(conditions: &Value) -> Self {
        let scope = Scope { authorizer: true, ..Scope::default() };
        Self::compile(&scope.environment(Type::Dyn), conditions)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each expression with its place.
    pub fn expressions(&self) -> impl Iterator<Item = (usize, &Expression)> {
        self.0.iter().enumerate()
    }

    /// Whether all are true. One that is false decides, even where others fail.
    pub fn hold(&self, activation: &Activation<'_>) -> Result<bool, String> {
        let mut budget = Budget::for_match_conditions();
        let mut errors = Vec::new();
        for condition in &self.0 {
            match condition.eval(activation, &mut budget) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(super::compiled::Failure::All) => return Err(super::OUT_OF_BUDGET.to_owned()),
                Err(why) => errors.push(why.into_text()),
            }
        }
        match errors.len() {
            0 => Ok(true),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

/// What is wrong with the expressions of a webhook's `matchConditions`, which stand at `path`.
pub fn condition_problems(path: &str, conditions: &Value) -> Vec<FieldError> {
    let compiled = Conditions::of_webhook(conditions);
    let wrong = compiled.expressions().filter(|(_, e)| !e.text.trim().is_empty());
    wrong
        .filter_map(|(i, expression)| {
            let path = format!("{path}[{i}].expression");
            Some(FieldError::invalid(path, expression.text.as_str(), expression.error()?))
        })
        .collect()
}

//! `matchConditions`: expressions that must all be true for a webhook or a policy to be concerned.

use api_types::cel::{Activation, Budget, Environment, Type, Value as Cel};
use serde_json::Value;

use super::Expression;
use super::compiled::{items, text};

/// The conditions of one webhook or policy.
pub(crate) struct Conditions(Vec<Expression>);

impl Conditions {
    pub(crate) fn compile(environment: &Environment, conditions: &Value) -> Self {
        let compile = |c: &Value| Expression::compile(environment, &text(&c["expression"]), &[Type::Bool]);
        Self(items(conditions).map(compile).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each expression with its place.
    pub(crate) fn expressions(&self) -> impl Iterator<Item = (usize, &Expression)> {
        self.0.iter().enumerate()
    }

    /// Whether all are true. One that is false decides, even where others fail.
    pub(crate) fn hold(&self, activation: &Activation<'_>) -> Result<bool, String> {
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

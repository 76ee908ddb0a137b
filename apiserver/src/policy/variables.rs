//! A policy's variables: evaluated when first asked for, and then remembered.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use api_types::cel::{Activation, Budget, EvalError, Lazy, Value as Cel};
use api_types::policy::Expression;

/// The variables of one policy in one evaluation.
pub(crate) struct Variables<'a> {
    variables: &'a [(Arc<str>, Expression)],
    /// What all expressions of the policy see.
    base: Activation<'a>,
    known: RefCell<Vec<Option<Result<Cel<'a>, EvalError>>>>,
}

impl fmt::Debug for Variables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.variables.iter().map(|(name, _)| name)).finish()
    }
}

impl<'a> Variables<'a> {
    pub(crate) fn new(variables: &'a [(Arc<str>, Expression)], base: Activation<'a>) -> Self {
        Self { variables, base, known: RefCell::new(vec![None; variables.len()]) }
    }

    /// What the policy's expressions see, these variables among it.
    pub(crate) fn activation(&'a self) -> Activation<'a> {
        self.base.clone().with("variables", Cel::lazy(self))
    }
}

impl<'a> Lazy<'a> for Variables<'a> {
    fn get(&'a self, name: &str, budget: &mut Budget) -> Option<Result<Cel<'a>, EvalError>> {
        let at = self.variables.iter().position(|(known, _)| &**known == name)?;
        if let Some(known) = &self.known.borrow()[at] {
            return Some(known.clone());
        }
        // Variables see only those before them, so this ends.
        let outcome = self.variables[at].1.eval_within(&self.activation(), budget).map_err(|why| match why {
            EvalError::OverBudget => why,
            why => EvalError::failed(format!("composited variable {name:?} fails to evaluate: {why}")),
        });
        self.known.borrow_mut()[at] = Some(outcome.clone());
        Some(outcome)
    }
}

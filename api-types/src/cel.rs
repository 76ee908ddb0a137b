//! The Common Expression Language as Kubernetes v1.36 has it: the rules of custom kinds, admission policies,
//! match conditions.
//!
//! ```
//! use api_types::cel::{Activation, Budget, Environment, Type, Value};
//! use serde_json::json;
//!
//! let environment = Environment::new().variable("object", Type::Dyn);
//! let program = environment.compile("object.spec.replicas <= 5").unwrap();
//! assert_eq!(*program.result_type(), Type::Bool);
//!
//! let object = json!({"spec": {"replicas": 3}});
//! let activation = Activation::new().with("object", Value::json(&object));
//! let mut budget = Budget::for_rules();
//! assert_eq!(program.eval(&activation, &mut budget).unwrap().as_bool(), Some(true));
//! ```
//!
//! - An [`Environment`] declares variables with their types: `Type::Dyn`, or what a schema says
//!   ([`Type::of_resource`] for a whole object, [`Type::of_schema`] for a value below).
//!   `compile(text) -> Result<Program, CompileErrors>` parses and checks; the errors display as cel-go writes them.
//! - A [`Program`] is compiled once and evaluated often: `eval(&Activation, &mut Budget) -> Result<Value, EvalError>`.
//!   `result_type()` is what it evaluates to; `uses("oldSelf")` says whether it reads a variable;
//!   `estimate(&Sizes) -> Range` is what it can cost at most, where the sizes of variables are known.
//! - [`Value::json`] and [`Value::with_schema`] look into JSON without copying it. [`Value::some`] and
//!   [`Value::none`] make optionals, [`Value::authorizer`] the `authorizer`, [`Value::lazy`] the `variables`.
//! - A [`Budget`] is shared by the programs of one decision; an exhausted one gives [`EvalError::OverBudget`].
//!
//! How the parts fit: `lex` and `parse` make a tree (`ast`), in which `macros` are already folds; `check` gives it
//! types and chooses overloads from the table in `functions`; `eval` walks it over `value`s, and counts by `cost`.
//! All recursion is bounded by the depth of the tree, which the parser bounds.

mod ast;
mod authorizer;
mod check;
mod cost;
mod error;
mod eval;
mod functions;
mod lex;
mod macros;
mod names;
mod parse;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::sync::Arc;

pub use authorizer::{Authorizer, Decision, Query};
pub use cost::{Range, Sizes};
pub use error::{CompileErrors, EvalError, Issue};
pub use names::{escape, is_identifier, unescape};
pub use types::{AUTHORIZER, ObjectType, RESOURCE_CHECK, Type};
pub use value::{Key, Lazy, List, Map, Opaque, Text, Value};

/// What one evaluation may cost.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// What all rules of one object, or all expressions of one policy, may cost together.
pub const RULES_COST_MAX: u64 = 10_000_000;
/// What the match conditions of one webhook or policy may cost together.
pub const MATCH_CONDITIONS_COST_MAX: u64 = 2_500_000;

/// What an expression may refer to.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(Arc<str>, Type)>,
    mutates: bool,
}

impl Environment {
    /// All functions, no variables.
    pub fn new() -> Environment {
        Environment::default()
    }

    /// Declares a variable, anew if it was declared before. A dotted name is one variable.
    #[must_use]
    pub fn variable(mut self, name: &str, ty: Type) -> Environment {
        self.variables.retain(|(other, _)| &**other != name);
        self.variables.push((name.into(), ty));
        self
    }

    /// Adds the structures that mutations are made of: `Object{}`, `Object.spec{}`, `JSONPatch{}`.
    #[must_use]
    pub fn with_mutations(mut self) -> Environment {
        self.mutates = true;
        self
    }

    /// Parses and checks.
    pub fn compile(&self, text: &str) -> Result<Program, CompileErrors> {
        let mut expr = parse::parse(text).map_err(|issues| CompileErrors::new(text, issues))?;
        let (ty, issues) = check::check(self, &mut expr);
        match issues.is_empty() {
            true => Ok(Program { expr, ty }),
            false => Err(CompileErrors::new(text, issues)),
        }
    }

    fn find(&self, name: &str) -> Option<&Type> {
        self.variables.iter().find(|(declared, _)| &**declared == name).map(|(_, ty)| ty)
    }

    /// The type of a structure that an expression may make.
    fn structure(&self, name: &str) -> Option<Type> {
        let is_object = name == "Object" || name.starts_with("Object.");
        (self.mutates && (is_object || name == "JSONPatch")).then(|| Type::object(name, []))
    }
}

/// An expression that was checked.
#[derive(Debug)]
pub struct Program {
    expr: ast::Expr,
    ty: Type,
}

impl Program {
    /// What the expression evaluates to, as far as that is known.
    pub fn result_type(&self) -> &Type {
        &self.ty
    }

    /// Whether the expression reads the variable.
    pub fn uses(&self, variable: &str) -> bool {
        fn reads(expr: &ast::Expr, variable: &str) -> bool {
            let mut found = matches!(&expr.node, ast::Node::Ident(name) if &**name == variable);
            expr.node.each_child(&mut |child| found = found || reads(child, variable));
            found
        }
        reads(&self.expr, variable)
    }

    /// Evaluates. What it costs is taken from the budget, also where it fails.
    pub fn eval<'a>(&self, activation: &Activation<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
        budget.begin();
        eval::eval(&self.expr, activation, budget)
    }

    /// Evaluates as a part of another program's evaluation: what it costs, that one pays.
    pub fn eval_within<'a>(
        &self,
        activation: &Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        eval::eval(&self.expr, activation, budget)
    }

    /// What an evaluation costs at least and at most.
    pub fn estimate(&self, sizes: &dyn Sizes) -> Range {
        cost::estimate(&self.expr, sizes)
    }
}

/// The values of variables in one evaluation.
#[derive(Clone, Debug, Default)]
pub struct Activation<'a> {
    values: Vec<(&'static str, Value<'a>)>,
}

impl<'a> Activation<'a> {
    pub fn new() -> Activation<'a> {
        Activation::default()
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value<'a>) -> Activation<'a> {
        self.values.retain(|(other, _)| *other != name);
        self.values.push((name, value));
        self
    }

    fn find(&self, name: &str) -> Option<&Value<'a>> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// What evaluations may still cost: all together, and each.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u64,
    call_left: u64,
    call_max: u64,
}

impl Budget {
    pub fn new(total: u64, call_max: u64) -> Budget {
        Budget { left: total, call_left: call_max, call_max }
    }

    /// For the rules of one custom object or the expressions of one policy.
    pub fn for_rules() -> Budget {
        Budget::new(RULES_COST_MAX, CALL_COST_MAX)
    }

    pub fn for_match_conditions() -> Budget {
        Budget::new(MATCH_CONDITIONS_COST_MAX, CALL_COST_MAX)
    }

    /// What is left of the total.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn begin(&mut self) {
        self.call_left = self.call_max;
    }

    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        let enough = cost <= self.left && cost <= self.call_left;
        self.left = self.left.saturating_sub(cost);
        self.call_left = self.call_left.saturating_sub(cost);
        if enough { Ok(()) } else { Err(EvalError::OverBudget) }
    }
}

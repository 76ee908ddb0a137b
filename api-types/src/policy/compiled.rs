//! A policy's expressions, compiled; and what is wrong with those that do not compile.

use std::sync::Arc;

use crate::cel::{Activation, Budget, Environment, EvalError, Program, Type, Value as Cel};
use crate::status::FieldError;
use serde_json::Value;

use super::{Conditions, OUT_OF_BUDGET, Scope};

/// An expression, or why it is none.
pub struct Expression {
    pub text: String,
    program: Result<Program, String>,
}

/// Why an expression gave no value.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Only this expression.
    One(String),
    /// The budget is spent: none after it may run.
    All,
}

impl Failure {
    pub fn into_text(self) -> String {
        match self {
            Self::One(text) => text,
            Self::All => OUT_OF_BUDGET.to_owned(),
        }
    }
}

impl Expression {
    /// Compiles an expression that must evaluate to one of `wanted`; none is anything.
    pub fn compile(environment: &Environment, text: &str, wanted: &[Type]) -> Self {
        let program = environment.compile(text).map_err(|why| format!("compilation failed: {why}"));
        let program = program.and_then(|program| match is_wanted(program.result_type(), wanted) {
            true => Ok(program),
            false => Err(mistyped(program.result_type(), wanted)),
        });
        Self { text: text.to_owned(), program }
    }

    pub fn error(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    pub fn result_type(&self) -> Type {
        self.program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone())
    }

    /// Evaluates, telling failures as Kubernetes does.
    pub fn eval<'a>(&self, activation: &Activation<'a>, budget: &mut Budget) -> Result<Cel<'a>, Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::One(format!("expression '{}' resulted in error: {why}", self.text))
        };
        match self.program.as_ref().map(|program| program.eval(activation, budget)) {
            Err(why) => Err(Failure::One(format!("compilation error: {why}"))),
            Ok(Err(EvalError::OverBudget)) if budget.left() == 0 => Err(Failure::All),
            Ok(Err(why)) => Err(failed(&why)),
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// Evaluates as a part of another expression.
    pub fn eval_within<'a>(
        &self,
        activation: &Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Cel<'a>, EvalError> {
        match &self.program {
            Ok(program) => program.eval_within(activation, budget),
            Err(why) => Err(EvalError::failed(why.as_str())),
        }
    }
}

fn is_wanted(found: &Type, wanted: &[Type]) -> bool {
    wanted.is_empty() || wanted.iter().any(|ty| ty == found)
}

fn mistyped(found: &Type, wanted: &[Type]) -> String {
    match wanted {
        [one] => format!("must evaluate to {} but got {}", runtime_name(one), runtime_name(found)),
        all => {
            let names: Vec<String> = all.iter().map(runtime_name).collect();
            format!("must evaluate to one of [{}]", names.join(" "))
        }
    }
}

/// A type as its values name it, which is not always as the checker does.
fn runtime_name(ty: &Type) -> String {
    match ty {
        Type::Null => "null_type".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        other => other.to_string(),
    }
}

/// A rule of a validating policy.
pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    JsonPatch,
    ApplyConfiguration,
}

/// A step of a mutating policy.
pub struct Mutation {
    pub patch_type: PatchType,
    pub expression: Expression,
}

/// All expressions of a policy of either sort.
pub struct Compiled {
    pub variables: Vec<(Arc<str>, Expression)>,
    pub conditions: Conditions,
    pub validations: Vec<Validation>,
    /// Key and value.
    pub annotations: Vec<(String, Expression)>,
    pub mutations: Vec<Mutation>,
}

impl Compiled {
    /// Compiles what a policy's `spec` says, for objects of the type `object` and parameters of the type `params`.
    pub fn compile(spec: &Value, object: Type, params: Type, mutates: bool) -> Self {
        let scope = Scope {
            params: spec["paramKind"].is_object().then_some(params),
            authorizer: true,
            namespace: true,
            mutations: mutates,
        };
        let full = scope.clone().environment(object.clone());
        let (variables, full) = variables(spec, full);
        let without = Scope { authorizer: false, ..scope }.environment(object);
        let (_, without) = self::variables(spec, without);
        Self {
            variables,
            conditions: Conditions::compile(&full, &spec["matchConditions"]),
            validations: items(&spec["validations"]).map(|v| validation(&full, &without, v)).collect(),
            annotations: items(&spec["auditAnnotations"])
                .map(|a| {
                    let wanted = [Type::String, Type::Null];
                    (text(&a["key"]), Expression::compile(&full, &text(&a["valueExpression"]), &wanted))
                })
                .collect(),
            mutations: items(&spec["mutations"]).filter_map(|m| mutation(&full, m)).collect(),
        }
    }

    /// The error of each expression that does not compile, with its path below `spec`.
    pub fn errors(&self) -> Vec<(String, &Expression)> {
        let variables = self.variables.iter().map(|(_, e)| e).enumerate();
        let validations = self.validations.iter().enumerate();
        let annotations = self.annotations.iter().map(|(_, e)| e).enumerate();
        let mut all: Vec<(String, &Expression)> = Vec::new();
        all.extend(variables.map(|(i, e)| (format!("variables[{i}].expression"), e)));
        all.extend(
            self.conditions.expressions().map(|(i, e)| (format!("matchConditions[{i}].expression"), e)),
        );
        for (i, validation) in validations {
            all.push((format!("validations[{i}].expression"), &validation.expression));
            let message = validation.message_expression.as_ref();
            all.extend(message.map(|e| (format!("validations[{i}].messageExpression"), e)));
        }
        all.extend(annotations.map(|(i, e)| (format!("auditAnnotations[{i}].valueExpression"), e)));
        for (i, mutation) in self.mutations.iter().enumerate() {
            let field = match mutation.patch_type {
                PatchType::JsonPatch => "jsonPatch",
                PatchType::ApplyConfiguration => "applyConfiguration",
            };
            all.push((format!("mutations[{i}].{field}.expression"), &mutation.expression));
        }
        // What is empty is missing, which is told elsewhere.
        all.retain(|(_, e)| e.error().is_some() && !e.text.trim().is_empty());
        all
    }
}

/// What is wrong with the expressions of a policy's `spec`, as field errors.
pub fn problems(spec: &Value, mutates: bool) -> Vec<FieldError> {
    let compiled = Compiled::compile(spec, Type::Dyn, Type::Dyn, mutates);
    let error = |(path, expression): (String, &Expression)| {
        let why = expression.error().unwrap_or_default();
        FieldError::invalid(format!("spec.{path}"), expression.text.as_str(), why)
    };
    compiled.errors().into_iter().map(error).collect()
}

pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The variables of a policy, each of which sees those before it; and the environment that has all of them.
fn variables(spec: &Value, mut environment: Environment) -> (Vec<(Arc<str>, Expression)>, Environment) {
    let mut compiled: Vec<(Arc<str>, Expression)> = Vec::new();
    let mut types: Vec<(String, Type)> = Vec::new();
    let declared = |types: &[(String, Type)]| Type::object("kubernetes.variables", types.iter().cloned());
    environment = environment.variable("variables", declared(&types));
    for variable in items(&spec["variables"]) {
        let expression = Expression::compile(&environment, &text(&variable["expression"]), &[]);
        let name = text(&variable["name"]);
        types.push((name.clone(), expression.result_type()));
        compiled.push((name.as_str().into(), expression));
        environment = environment.variable("variables", declared(&types));
    }
    (compiled, environment)
}

fn validation(full: &Environment, without_authorizer: &Environment, validation: &Value) -> Validation {
    let message_expression = text(&validation["messageExpression"]);
    Validation {
        expression: Expression::compile(full, &text(&validation["expression"]), &[Type::Bool]),
        message: text(&validation["message"]),
        message_expression: (!message_expression.trim().is_empty())
            .then(|| Expression::compile(without_authorizer, &message_expression, &[Type::String])),
        reason: text(&validation["reason"]),
    }
}

fn mutation(environment: &Environment, mutation: &Value) -> Option<Mutation> {
    let structure = |name: &str| Type::object(name, []);
    let (patch_type, field, wanted) = match mutation["patchType"].as_str()? {
        "JSONPatch" => (PatchType::JsonPatch, "jsonPatch", Type::list(structure("JSONPatch"))),
        "ApplyConfiguration" => (PatchType::ApplyConfiguration, "applyConfiguration", structure("Object")),
        _ => return None,
    };
    let expression = Expression::compile(environment, &text(&mutation[field]["expression"]), &[wanted]);
    Some(Mutation { patch_type, expression })
}

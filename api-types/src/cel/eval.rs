//! The evaluator: walks a checked tree, counting what it costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{
    Access, Bind, Call, Element, Entry, Expr, Finish, Fold, Literal, Node, Select, Struct, Until,
};
use super::cost::{self, Range};
use super::error::EvalError;
use super::value::{Key, Text, Value};
use super::{Activation, Budget};

type Outcome<'a> = Result<Value<'a>, EvalError>;

pub(super) fn eval<'a>(expr: &Expr, activation: &Activation<'a>, budget: &mut Budget) -> Outcome<'a> {
    Evaluator { activation, budget, scopes: Vec::new(), accumulators: Vec::new() }.expr(expr)
}

struct Evaluator<'r, 'a> {
    activation: &'r Activation<'a>,
    budget: &'r mut Budget,
    scopes: Vec<(Arc<str>, Value<'a>)>,
    /// Of the folds under way. An error waits here, since a later item may make it not matter.
    accumulators: Vec<Outcome<'a>>,
}

impl<'a> Evaluator<'_, 'a> {
    fn expr(&mut self, expr: &Expr) -> Outcome<'a> {
        match &expr.node {
            Node::Literal(literal) => Ok(value_of(literal)),
            Node::Ident(name) => self.ident(name),
            Node::TakeAccumulator => self.take_accumulator(),
            Node::Select(select) => self.select(select),
            Node::Call(call) => self.call(call),
            Node::And(both) => self.logical(both, false),
            Node::Or(both) => self.logical(both, true),
            Node::If(three) => self.choice(three),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct(made) => self.structure(made),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => self.bind(bind),
        }
    }

    fn ident(&mut self, name: &str) -> Outcome<'a> {
        self.budget.charge(1)?;
        let local = self.scopes.iter().rev().find(|(scope, _)| &**scope == name).map(|(_, value)| value);
        if let Some(value) = local.or_else(|| self.activation.find(name)) {
            return Ok(value.clone());
        }
        let missing = || EvalError::failed(format!("no such attribute(s): {name}"));
        super::types::Type::named(name).map(Value::Type).ok_or_else(missing)
    }

    fn take_accumulator(&mut self) -> Outcome<'a> {
        self.budget.charge(1)?;
        match self.accumulators.last_mut() {
            Some(accumulator) => std::mem::replace(accumulator, Ok(Value::Null)),
            None => Err(EvalError::no_overload()),
        }
    }

    fn select(&mut self, select: &Select) -> Outcome<'a> {
        let operand = self.expr(&select.operand)?;
        self.budget.charge(1)?;
        let (is_optional, inner) = match operand {
            Value::Optional(None) => {
                let is_test = select.access == Access::Test;
                return Ok(if is_test { Value::Bool(false) } else { Value::none() });
            }
            Value::Optional(Some(inner)) => (true, (*inner).clone()),
            other => (select.access == Access::Optional, other),
        };
        let Value::Map(map) = &inner else { return Err(EvalError::no_overload()) };
        let found = map.field(&select.field, self.budget).transpose()?;
        match (select.access, found) {
            (Access::Test, found) => Ok(Value::Bool(found.is_some())),
            (_, Some(value)) if is_optional => Ok(Value::some(value)),
            (_, None) if is_optional => Ok(Value::none()),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(EvalError::no_key(&select.field)),
        }
    }

    fn call(&mut self, call: &Call) -> Outcome<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg)?);
        }
        let overload = call.overloads.iter().find(|o| o.fits(&args)).ok_or_else(EvalError::no_overload)?;
        let sizes: Vec<Range> = args.iter().map(|arg| Range::exactly(arg.size())).collect();
        self.budget.charge(cost::of_call(overload.cost, &sizes).max)?;
        (overload.run)(args)
    }

    /// `&&` and `||`: an error on one side does not matter where the other decides.
    fn logical(&mut self, both: &[Expr; 2], decides: bool) -> Outcome<'a> {
        let left = self.expr(&both[0]);
        match &left {
            Ok(Value::Bool(b)) if *b == decides => return left,
            Err(EvalError::OverBudget) => return left,
            _ => {}
        }
        let right = self.expr(&both[1]);
        match (left, right) {
            (_, Ok(Value::Bool(b))) if b == decides => Ok(Value::Bool(b)),
            (_, Err(EvalError::OverBudget)) => Err(EvalError::OverBudget),
            (Ok(Value::Bool(_)), right @ Ok(Value::Bool(_))) => right,
            (Err(why), _) | (_, Err(why)) => Err(why),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn choice(&mut self, three: &[Expr; 3]) -> Outcome<'a> {
        match self.expr(&three[0])? {
            Value::Bool(true) => self.expr(&three[1]),
            Value::Bool(false) => self.expr(&three[2]),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn list(&mut self, elements: &[Element]) -> Outcome<'a> {
        self.budget.charge(cost::LIST)?;
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            let value = self.expr(&element.value)?;
            items.extend(present(value, element.optional)?);
        }
        Ok(Value::list(items))
    }

    fn map(&mut self, entries: &[Entry]) -> Outcome<'a> {
        self.budget.charge(cost::MAP)?;
        let mut fields = BTreeMap::new();
        for entry in entries {
            let key = self.expr(&entry.key)?;
            let key = Key::of(&key).ok_or_else(|| EvalError::failed("unsupported key type"))?;
            let value = self.expr(&entry.value)?;
            let Some(value) = present(value, entry.optional)? else { continue };
            if fields.insert(key, value).is_some() {
                return Err(EvalError::failed("Failed with repeated key"));
            }
        }
        Ok(Value::map(fields))
    }

    fn structure(&mut self, made: &Struct) -> Outcome<'a> {
        self.budget.charge(cost::STRUCT)?;
        let mut fields = BTreeMap::new();
        for field in &made.fields {
            let value = self.expr(&field.value)?;
            let Some(value) = present(value, field.optional)? else { continue };
            let name = super::names::unescape(&field.name).unwrap_or_else(|| field.name.to_string());
            fields.insert(Key::String(name.into()), value);
        }
        Ok(Value::map(fields))
    }

    fn bind(&mut self, bind: &Bind) -> Outcome<'a> {
        self.budget.charge(cost::LIST)?;
        let value = self.expr(&bind.value)?;
        self.scopes.push((bind.variable.clone(), value));
        let outcome = self.expr(&bind.body);
        self.scopes.pop();
        outcome
    }

    fn fold(&mut self, fold: &Fold) -> Outcome<'a> {
        let range = self.expr(&fold.range)?;
        let init = self.expr(&fold.init);
        self.accumulators.push(init);
        let outcome = match &range {
            Value::List(list) => (0..list.len()).try_for_each(|at| {
                let item = list.get(at).unwrap_or(Value::Null);
                match &fold.second {
                    Some(_) => self.step(fold, Value::Int(at as i64), Some(item)),
                    None => self.step(fold, item, None),
                }
            }),
            Value::Map(map) => map.keys().into_iter().try_for_each(|key| {
                let value = fold.second.as_ref().and_then(|_| map.get(&Key::of(&key)?));
                self.step(fold, key, value)
            }),
            _ => Err(Stop::Failed(EvalError::no_overload())),
        };
        let accumulator = self.accumulators.pop().unwrap_or(Ok(Value::Null));
        if let Err(Stop::Failed(why)) = outcome {
            return Err(why);
        }
        self.budget.charge(1)?;
        match (fold.finish, accumulator?) {
            (Finish::Keep, value) => Ok(value),
            (Finish::IsOne, value) => {
                self.budget.charge(1)?;
                Ok(Value::Bool(matches!(value, Value::Int(1))))
            }
        }
    }

    /// One item of a fold.
    fn step(&mut self, fold: &Fold, first: Value<'a>, second: Option<Value<'a>>) -> Result<(), Stop> {
        self.goes_on(fold)?;
        let depth = self.scopes.len();
        self.scopes.push((fold.variable.clone(), first));
        if let (Some(name), Some(value)) = (&fold.second, second) {
            self.scopes.push((name.clone(), value));
        }
        let outcome = self.expr(&fold.step);
        self.scopes.truncate(depth);
        match (outcome, self.accumulators.last_mut()) {
            (Err(EvalError::OverBudget), _) => Err(Stop::Failed(EvalError::OverBudget)),
            // Only what may still be decided by another item waits.
            (Err(why), _) if fold.condition.is_none() => Err(Stop::Failed(why)),
            (outcome, Some(accumulator)) => {
                *accumulator = outcome;
                Ok(())
            }
            (_, None) => Err(Stop::Failed(EvalError::no_overload())),
        }
    }

    fn goes_on(&mut self, fold: &Fold) -> Result<(), Stop> {
        let Some(until) = fold.condition else { return Ok(()) };
        self.budget.charge(cost::of_condition(until)).map_err(Stop::Failed)?;
        match self.accumulators.last() {
            Some(Ok(Value::Bool(b))) if *b == (until == Until::True) => Err(Stop::Decided),
            _ => Ok(()),
        }
    }
}

/// Why a fold does not go on.
enum Stop {
    Decided,
    Failed(EvalError),
}

/// The value of an element that may be absent.
fn present(value: Value<'_>, optional: bool) -> Result<Option<Value<'_>>, EvalError> {
    match (optional, value) {
        (false, value) => Ok(Some(value)),
        (true, Value::Optional(inner)) => Ok(inner.map(|value| (*value).clone())),
        (true, _) => Err(EvalError::no_overload()),
    }
}

fn value_of<'a>(literal: &Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::String(Text::Made(s.clone())),
        Literal::Bytes(b) => Value::Bytes(b.clone()),
    }
}

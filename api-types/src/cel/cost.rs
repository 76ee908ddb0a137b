//! What expressions cost, in the units of cel-go and Kubernetes: exactly while they are evaluated, and as a
//! range before, from what is known of the sizes of their variables.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Access, Call, Expr, Finish, Fold, Node, Until};
use super::functions::{Cost, Size};

pub(super) const LIST: u64 = 10;
pub(super) const MAP: u64 = 30;
pub(super) const STRUCT: u64 = 40;

/// What reading one character of text costs, and one of a pattern.
const TEXT_FACTOR: f64 = 0.1;
const PATTERN_FACTOR: f64 = 0.25;

/// At least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    pub const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
    const ZERO: Range = Range { min: 0, max: 0 };

    pub fn exactly(n: u64) -> Range {
        Range { min: n, max: n }
    }

    pub fn up_to(max: u64) -> Range {
        Range { min: 0, max }
    }

    fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn or(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    fn shorter(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.min(other.max) }
    }

    fn scaled(self, factor: f64) -> Range {
        let scale = |n: u64| if n == u64::MAX { n } else { (n as f64 * factor).ceil() as u64 };
        Range { min: scale(self.min), max: scale(self.max) }
    }
}

/// What a call costs whose arguments have these sizes.
pub(super) fn of_call(cost: Cost, sizes: &[Range]) -> Range {
    let size = |at: usize| sizes.get(at).copied().unwrap_or(Range::UNKNOWN);
    match cost {
        Cost::Fixed(n) => Range::exactly(n),
        Cost::Text(at) => size(at).scaled(TEXT_FACTOR),
        Cost::Texts(a, b) => size(a).plus(size(b)).scaled(TEXT_FACTOR),
        Cost::Shorter => size(0).shorter(size(1)).scaled(TEXT_FACTOR),
        Cost::Regex => {
            let text = size(0).plus(Range::exactly(1)).scaled(TEXT_FACTOR);
            text.times(size(1).scaled(PATTERN_FACTOR))
        }
        Cost::Find => size(0).scaled(TEXT_FACTOR).times(size(1).scaled(TEXT_FACTOR)),
        Cost::Items(at) => size(at),
        Cost::Product => size(0).times(sizes.get(1).copied().unwrap_or(size(0))),
    }
}

/// What it costs to ask whether a fold goes on.
pub(super) fn of_condition(until: Until) -> u64 {
    match until {
        Until::False => 2,
        Until::True => 3,
    }
}

/// What is known of the sizes of variables before they have values.
pub trait Sizes {
    /// The size of the value at a path: `["self", "spec", "items", "@items"]`, where `@items` are a list's items,
    /// `@keys` a map's keys and `@values` its values. None if nothing is known.
    fn size(&self, path: &[&str]) -> Option<Range>;
}

/// Nothing is known.
impl Sizes for () {
    fn size(&self, _path: &[&str]) -> Option<Range> {
        None
    }
}

pub(super) fn estimate(expr: &Expr, sizes: &dyn Sizes) -> Range {
    Estimator { sizes, places: HashMap::new(), accumulators: Vec::new() }.expr(expr).cost
}

/// What is known of an expression: what it costs, how large its value is, and where that value comes from.
#[derive(Clone)]
struct Known {
    cost: Range,
    size: Option<Range>,
    path: Option<Vec<Arc<str>>>,
    /// Of a list that was made: what is known of its items.
    item: Option<Range>,
}

struct Estimator<'s> {
    sizes: &'s dyn Sizes,
    /// Variables of folds and binds.
    places: HashMap<Arc<str>, Vec<Known>>,
    accumulators: Vec<Known>,
}

fn costs(cost: Range) -> Known {
    Known { cost, size: None, path: None, item: None }
}

impl Estimator<'_> {
    fn expr(&mut self, expr: &Expr) -> Known {
        match &expr.node {
            Node::Literal(literal) => {
                Known { size: Some(Range::exactly(literal_size(literal))), ..costs(Range::ZERO) }
            }
            Node::Ident(name) => self.ident(name),
            Node::TakeAccumulator => {
                let known = self.accumulators.last().cloned().unwrap_or_else(|| costs(Range::ZERO));
                Known { cost: Range::exactly(1), ..known }
            }
            Node::Select(select) => {
                let operand = self.expr(&select.operand);
                let cost = operand.cost.plus(Range::exactly(1));
                match select.access {
                    Access::Test => Known { size: Some(Range::exactly(1)), ..costs(cost) },
                    _ => self.below(&operand, &select.field, cost),
                }
            }
            Node::Call(call) => self.call(call),
            Node::And(both) | Node::Or(both) => {
                let (left, right) = (self.expr(&both[0]).cost, self.expr(&both[1]).cost);
                let cost = Range { min: left.min, max: left.max.saturating_add(right.max) };
                Known { size: Some(Range::exactly(1)), ..costs(cost) }
            }
            Node::If(three) => self.choice(three),
            Node::List(elements) => {
                let known: Vec<Known> = elements.iter().map(|e| self.expr(&e.value)).collect();
                let cost = known.iter().fold(Range::exactly(LIST), |sum, k| sum.plus(k.cost));
                let items = known.iter().map(|k| k.size.unwrap_or(Range::UNKNOWN)).reduce(Range::or);
                Known { size: Some(Range::exactly(elements.len() as u64)), item: items, ..costs(cost) }
            }
            Node::Map(entries) => {
                let each = |sum: Range, e: &super::ast::Entry| {
                    sum.plus(self.expr(&e.key).cost).plus(self.expr(&e.value).cost)
                };
                let cost = entries.iter().fold(Range::exactly(MAP), each);
                Known { size: Some(Range::exactly(entries.len() as u64)), ..costs(cost) }
            }
            Node::Struct(made) => costs(
                made.fields.iter().fold(Range::exactly(STRUCT), |sum, f| sum.plus(self.expr(&f.value).cost)),
            ),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => {
                let value = self.expr(&bind.value);
                let cost = value.cost.plus(Range::exactly(LIST));
                let body = self.with(&[(bind.variable.clone(), value)], |this| this.expr(&bind.body));
                Known { cost: cost.plus(body.cost), ..body }
            }
        }
    }

    fn with<T>(&mut self, variables: &[(Arc<str>, Known)], run: impl FnOnce(&mut Self) -> T) -> T {
        for (name, known) in variables {
            self.places.entry(name.clone()).or_default().push(known.clone());
        }
        let outcome = run(self);
        for (name, _) in variables {
            self.places.get_mut(name).and_then(Vec::pop);
        }
        outcome
    }

    fn ident(&self, name: &Arc<str>) -> Known {
        let cost = Range::exactly(1);
        if let Some(known) = self.places.get(name).and_then(|stack| stack.last()) {
            return Known { cost, ..known.clone() };
        }
        Known { size: self.sizes.size(&[name]), path: Some(vec![name.clone()]), ..costs(cost) }
    }

    /// What is known of a part of a value.
    fn below(&self, whole: &Known, step: &str, cost: Range) -> Known {
        let path = whole.path.as_ref().map(|path| {
            let mut path = path.clone();
            path.push(step.into());
            path
        });
        let size = path.as_ref().and_then(|path| {
            let steps: Vec<&str> = path.iter().map(|s| &**s).collect();
            self.sizes.size(&steps)
        });
        Known { cost, size, path, item: None }
    }

    fn choice(&mut self, three: &[Expr; 3]) -> Known {
        let [condition, yes, no] = three.each_ref().map(|expr| self.expr(expr));
        let size = yes.size.zip(no.size).map(|(a, b)| a.or(b));
        let path = yes.path.filter(|path| no.path.as_ref() == Some(path));
        Known { cost: condition.cost.plus(yes.cost.or(no.cost)), size, path, item: yes.item.or(no.item) }
    }

    fn call(&mut self, call: &Call) -> Known {
        let args: Vec<Known> = call.args.iter().map(|arg| self.expr(arg)).collect();
        let before = args.iter().fold(Range::ZERO, |sum, arg| sum.plus(arg.cost));
        let sizes: Vec<Range> = args.iter().map(|arg| arg.size.unwrap_or(Range::UNKNOWN)).collect();
        let each = call.overloads.iter().map(|o| of_call(o.cost, &sizes));
        let cost = before.plus(each.reduce(Range::or).unwrap_or(Range::exactly(1)));
        if matches!(&*call.function, "_[_]" | "_[?_]") {
            return self.element(&args[0], cost);
        }
        let size = call.overloads.iter().map(|o| match o.size {
            Size::One => Some(Range::exactly(1)),
            Size::Argument(at) => args.get(at).and_then(|arg| arg.size),
            Size::Sum => Some(sizes.iter().fold(Range::ZERO, |sum, size| sum.plus(*size))),
            Size::Unknown => None,
        });
        let size = size.reduce(|a, b| a.zip(b).map(|(a, b)| a.or(b))).flatten();
        Known { size, item: args.iter().find_map(|arg| arg.item), ..costs(cost) }
    }

    /// What is known of a list's item or a map's value.
    fn element(&self, whole: &Known, cost: Range) -> Known {
        let item = self.below(whole, "@items", cost);
        let value = self.below(whole, "@values", cost);
        let known = if item.size.is_some() { item } else { value };
        Known { size: known.size.or(whole.item), ..known }
    }

    fn fold(&mut self, fold: &Fold) -> Known {
        let range = self.expr(&fold.range);
        let count = range.size.unwrap_or(Range::UNKNOWN);
        let init = self.expr(&fold.init);
        let item = Known {
            size: self.below(&range, "@items", Range::ZERO).size.or(range.item),
            ..self.below(&range, "@items", Range::ZERO)
        };
        let key = self.below(&range, "@keys", Range::ZERO);
        let is_map = item.size.is_none() && key.size.is_some();
        let variables: Vec<(Arc<str>, Known)> = match &fold.second {
            Some(second) => {
                let value = if is_map { self.below(&range, "@values", Range::ZERO) } else { item };
                vec![(fold.variable.clone(), key), (second.clone(), value)]
            }
            None => vec![(fold.variable.clone(), if is_map { key } else { item })],
        };
        self.accumulators.push(init.clone());
        let step = self.with(&variables, |this| this.expr(&fold.step));
        self.accumulators.pop();
        let condition = fold.condition.map_or(0, of_condition);
        let each = step.cost.plus(Range::exactly(condition));
        let finish = match fold.finish {
            Finish::Keep => 1,
            Finish::IsOne => 2,
        };
        let cost = range.cost.plus(init.cost).plus(count.times(each)).plus(Range::exactly(finish));
        let is_scalar = fold.condition.is_some() || fold.finish == Finish::IsOne;
        let size = if is_scalar { Range::exactly(1) } else { Range::up_to(count.max) };
        Known { size: Some(size), item: step.item, ..costs(cost) }
    }
}

fn literal_size(literal: &super::ast::Literal) -> u64 {
    use super::ast::Literal;
    match literal {
        Literal::String(text) => text.chars().count() as u64,
        Literal::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    }
}

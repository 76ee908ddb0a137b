//! The functions: a table of overloads, each with its types, what it costs and what it does.
//!
//! A file a library; the checker chooses by the declared types, the evaluator by the values.

pub(super) mod authorizer;
pub(super) mod encoders;
pub(super) mod equality;
pub(super) mod format;
pub(super) mod json_patch;
pub(super) mod lists;
pub(super) mod math;
pub(super) mod net;
pub(super) mod operators;
pub(super) mod optional;
pub(super) mod printf;
pub(super) mod quantity;
pub(super) mod regex;
pub(super) mod semver;
pub(super) mod sets;
pub(super) mod strings;
pub(super) mod time;
pub(super) mod url;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::error::EvalError;
use super::types::{Type, split};
use super::value::{Opaque, Value};

pub(super) type Outcome<'a> = Result<Value<'a>, EvalError>;

/// What an overload does with arguments that fit its types.
pub(super) type Run = for<'a> fn(Vec<Value<'a>>) -> Outcome<'a>;

/// What a call costs, by the sizes of its arguments. The units are those of cel-go and Kubernetes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cost {
    Fixed(u64),
    /// Reading one text.
    Text(usize),
    /// Reading two texts.
    Texts(usize, usize),
    /// Comparing until the shorter ends.
    Shorter,
    /// Matching text against a pattern.
    Regex,
    /// Finding text in text.
    Find,
    /// Going through a list.
    Items(usize),
    /// Comparing each item of one list with each of the other.
    Product,
}

/// How large a result may be, by the sizes of the arguments.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    One,
    Argument(usize),
    Sum,
    Unknown,
}

/// A row of a library.
pub(super) struct Row {
    name: &'static str,
    member: bool,
    params: &'static str,
    result: &'static str,
    cost: Cost,
    size: Size,
    run: Run,
}

pub(super) const ONE: Cost = Cost::Fixed(1);

pub(super) const fn global(
    name: &'static str,
    params: &'static str,
    result: &'static str,
    cost: Cost,
    run: Run,
) -> Row {
    Row { name, member: false, params, result, cost, size: Size::Unknown, run }
}

/// A function with a receiver, which is the first of `params`.
pub(super) const fn member(
    name: &'static str,
    params: &'static str,
    result: &'static str,
    cost: Cost,
    run: Run,
) -> Row {
    Row { name, member: true, params, result, cost, size: Size::Unknown, run }
}

impl Row {
    pub(super) const fn sized(self, size: Size) -> Row {
        Row { size, ..self }
    }
}

static LIBRARIES: &[&[Row]] = &[
    operators::ROWS,
    strings::ROWS,
    lists::ROWS,
    sets::ROWS,
    regex::ROWS,
    url::ROWS,
    net::ROWS,
    quantity::ROWS,
    semver::ROWS,
    format::ROWS,
    authorizer::ROWS,
    optional::ROWS,
    math::ROWS,
    encoders::ROWS,
    time::ROWS,
    json_patch::ROWS,
    printf::ROWS,
];

/// A row with its types read.
pub(super) struct Overload {
    pub(super) member: bool,
    pub(super) params: Vec<Type>,
    pub(super) result: Type,
    pub(super) cost: Cost,
    pub(super) size: Size,
    pub(super) run: Run,
}

impl std::fmt::Debug for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} -> {}", self.params, self.result)
    }
}

impl Overload {
    /// Whether the values are of the overload's types, as far as can be seen without looking into them.
    pub(super) fn fits(&self, args: &[Value<'_>]) -> bool {
        self.params.len() == args.len() && self.params.iter().zip(args).all(|(ty, value)| is_of(ty, value))
    }
}

fn is_of(ty: &Type, value: &Value<'_>) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Param(_), _)
        | (Type::Null, Value::Null)
        | (Type::Bool, Value::Bool(_))
        | (Type::Int, Value::Int(_))
        | (Type::Uint, Value::Uint(_))
        | (Type::Double, Value::Double(_))
        | (Type::String, Value::String(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Timestamp, Value::Timestamp(_))
        | (Type::Duration, Value::Duration(_))
        | (Type::List(_), Value::List(_))
        | (Type::Map(..), Value::Map(_))
        | (Type::Optional(_), Value::Optional(_))
        | (Type::Type(_), Value::Type(_)) => true,
        (Type::Opaque(name), Value::Opaque(opaque)) => *name == opaque.type_name(),
        _ => false,
    }
}

/// All overloads of a name, in the order of the libraries.
pub(super) fn find(name: &str) -> &'static [Overload] {
    static BY_NAME: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
        let mut by_name: HashMap<_, Vec<Overload>> = HashMap::new();
        let orders = operators::ORDERS.iter().flat_map(|(name, run)| {
            operators::ORDERED.iter().map(|params| {
                let cost = if *params == "string, string" { Cost::Shorter } else { ONE };
                global(name, params, "bool", cost, *run).sized(Size::One)
            })
        });
        let orders: Vec<Row> = orders.collect();
        for row in LIBRARIES.iter().copied().flatten().chain(&orders) {
            let params = split(row.params).into_iter().map(Type::parse).collect();
            let &Row { member, cost, size, run, .. } = row;
            let result = Type::parse(row.result);
            by_name.entry(row.name).or_default().push(Overload { member, params, result, cost, size, run });
        }
        by_name
    });
    BY_NAME.get(name).map_or(&[], Vec::as_slice)
}

/// Arguments as their overload's types say; the table is wrong where one does not fit.
pub(super) trait Arguments<'a> {
    fn text(&self, at: usize) -> Result<&str, EvalError>;
    fn int(&self, at: usize) -> Result<i64, EvalError>;
    fn opaque(&self, at: usize) -> Result<&Opaque<'a>, EvalError>;
    fn items(&self, at: usize) -> Result<Vec<Value<'a>>, EvalError>;
}

impl<'a> Arguments<'a> for Vec<Value<'a>> {
    fn text(&self, at: usize) -> Result<&str, EvalError> {
        self.get(at).and_then(Value::as_str).ok_or_else(EvalError::no_overload)
    }

    fn int(&self, at: usize) -> Result<i64, EvalError> {
        match self.get(at) {
            Some(Value::Int(i)) => Ok(*i),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn opaque(&self, at: usize) -> Result<&Opaque<'a>, EvalError> {
        match self.get(at) {
            Some(Value::Opaque(opaque)) => Ok(opaque),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn items(&self, at: usize) -> Result<Vec<Value<'a>>, EvalError> {
        match self.get(at) {
            Some(Value::List(list)) => Ok(list.iter().collect()),
            _ => Err(EvalError::no_overload()),
        }
    }
}

pub(super) fn bool<'a>(answer: bool) -> Outcome<'a> {
    Ok(Value::Bool(answer))
}

pub(super) fn text<'a>(text: impl Into<std::sync::Arc<str>>) -> Outcome<'a> {
    Ok(Value::text(text))
}

//! What macros stand for: `all`, `exists`, `map` and their kin become folds before anything is checked.

use std::sync::Arc;

use super::ast::{Access, Bind, Call, Element, Entry, Expr, Finish, Fold, Literal, Node, Select, Until};
use super::error::Issue;

type Parsed = Result<Expr, Issue>;

/// A call without receiver: `has(a.b)`, or a function.
pub(super) fn expand_global(at: u32, name: &str, mut args: Vec<Expr>) -> Parsed {
    if name != "has" || args.len() != 1 {
        return Ok(Expr::call(at, name, args));
    }
    match args.pop().map(|arg| arg.node) {
        Some(Node::Select(select)) if select.access == Access::Get => {
            let test = Select { access: Access::Test, ..*select };
            Ok(Expr::new(at, Node::Select(Box::new(test))))
        }
        _ => Err(Issue::new(at, "invalid argument to has() macro")),
    }
}

/// A call with a receiver.
pub(super) fn expand_member(at: u32, target: Expr, name: &str, args: Vec<Expr>) -> Parsed {
    let is_cel = matches!(&target.node, Node::Ident(name) if &**name == "cel");
    match (name, args.len()) {
        ("bind", 3) if is_cel => bind(at, args),
        ("optMap", 2) => opt_map(at, target, args, true),
        ("optFlatMap", 2) => opt_map(at, target, args, false),
        ("all" | "exists" | "exists_one" | "existsOne" | "filter", 2) | ("map", 2 | 3) => {
            fold(at, target, name, args, 1)
        }
        ("all" | "exists" | "exists_one" | "existsOne", 3)
        | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => fold(at, target, name, args, 2),
        _ => Ok(member(at, target, name, args)),
    }
}

fn member(at: u32, target: Expr, name: &str, mut args: Vec<Expr>) -> Expr {
    args.insert(0, target);
    let call = Call { function: name.into(), member: true, args, overloads: Vec::new() };
    Expr::new(at, Node::Call(Box::new(call)))
}

fn variable(expr: &Expr) -> Result<Arc<str>, Issue> {
    match &expr.node {
        Node::Ident(name) => Ok(name.clone()),
        _ => Err(Issue::new(expr.at, "argument must be a simple name")),
    }
}

fn bind(at: u32, args: Vec<Expr>) -> Parsed {
    let [name, value, body] = three(args, at)?;
    let bind = Bind { variable: variable(&name)?, value, body };
    Ok(Expr::new(at, Node::Bind(Box::new(bind))))
}

fn three(args: Vec<Expr>, at: u32) -> Result<[Expr; 3], Issue> {
    args.try_into().map_err(|_| Issue::new(at, "wrong number of arguments"))
}

/// `target.optMap(x, e)`: `target.hasValue() ? optional.of(cel.bind(x, target.value(), e)) : optional.none()`.
/// The target is bound to a name of its own, so that it is evaluated once.
fn opt_map(at: u32, target: Expr, mut args: Vec<Expr>, wraps: bool) -> Parsed {
    let body = args.pop().ok_or_else(|| Issue::new(at, "wrong number of arguments"))?;
    let name = variable(&args[0])?;
    let held = || Expr::ident(at, "@target");
    let value = member(at, held(), "value", Vec::new());
    let inner = Expr::new(at, Node::Bind(Box::new(Bind { variable: name, value, body })));
    let some = if wraps { Expr::call(at, "optional.of", vec![inner]) } else { inner };
    let has = member(at, held(), "hasValue", Vec::new());
    let choice = Expr::new(at, Node::If(Box::new([has, some, Expr::call(at, "optional.none", Vec::new())])));
    let bind = Bind { variable: "@target".into(), value: target, body: choice };
    Ok(Expr::new(at, Node::Bind(Box::new(bind))))
}

fn fold(at: u32, range: Expr, name: &str, args: Vec<Expr>, variables: usize) -> Parsed {
    let mut args = args.into_iter();
    let mut names = Vec::new();
    for arg in args.by_ref().take(variables) {
        names.push(variable(&arg)?);
    }
    let first = names[0].clone();
    let second = names.get(1).cloned();
    if second.as_ref() == Some(&first) {
        return Err(Issue::new(at, format!("duplicate variable name: {first}")));
    }
    let last: Vec<Expr> = args.collect();
    let Body { init, condition, step, finish } = body(at, name, &first, last)?;
    let fold = Fold { range, variable: first, second, init, condition, step, finish };
    Ok(Expr::new(at, Node::Fold(Box::new(fold))))
}

struct Body {
    init: Expr,
    condition: Option<Until>,
    step: Expr,
    finish: Finish,
}

fn body(at: u32, name: &str, item: &str, mut args: Vec<Expr>) -> Result<Body, Issue> {
    let missing = || Issue::new(at, "wrong number of arguments");
    let last = args.pop().ok_or_else(missing)?;
    let filter = args.pop();
    let taken = || Expr::new(at, Node::TakeAccumulator);
    let literal = |value| Expr::literal(at, value);
    let keep = |init, step| Body { init, condition: None, step, finish: Finish::Keep };
    let either = |yes| choose(at, filter, yes);
    Ok(match name {
        "all" => Body {
            condition: Some(Until::False),
            ..keep(literal(Literal::Bool(true)), Expr::new(at, Node::And(Box::new([taken(), last]))))
        },
        "exists" => Body {
            condition: Some(Until::True),
            ..keep(literal(Literal::Bool(false)), Expr::new(at, Node::Or(Box::new([taken(), last]))))
        },
        "exists_one" | "existsOne" => {
            let more = Expr::call(at, "_+_", vec![taken(), literal(Literal::Int(1))]);
            let step = choose(at, Some(last), more);
            Body { finish: Finish::IsOne, ..keep(literal(Literal::Int(0)), step) }
        }
        "filter" => keep(empty_list(at), choose(at, Some(last), appended(at, Expr::ident(at, item)))),
        "map" | "transformList" => keep(empty_list(at), either(appended(at, last))),
        "transformMap" => {
            let entry = Entry { key: Expr::ident(at, item), value: last, optional: false };
            let single = Expr::new(at, Node::Map(vec![entry]));
            keep(empty_map(at), either(Expr::call(at, "@merge", vec![taken(), single])))
        }
        _ => keep(empty_map(at), either(Expr::call(at, "@merge", vec![taken(), last]))),
    })
}

/// `filter ? yes : accumulator`.
fn choose(at: u32, filter: Option<Expr>, yes: Expr) -> Expr {
    match filter {
        Some(filter) => {
            let no = Expr::new(at, Node::TakeAccumulator);
            Expr::new(at, Node::If(Box::new([filter, yes, no])))
        }
        None => yes,
    }
}

fn appended(at: u32, value: Expr) -> Expr {
    let single = Expr::new(at, Node::List(vec![Element { value, optional: false }]));
    Expr::call(at, "_+_", vec![Expr::new(at, Node::TakeAccumulator), single])
}

fn empty_list(at: u32) -> Expr {
    Expr::new(at, Node::List(Vec::new()))
}

fn empty_map(at: u32) -> Expr {
    Expr::new(at, Node::Map(Vec::new()))
}

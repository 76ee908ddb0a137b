//! The syntax tree: what the parser makes, the checker completes and the evaluator walks.

use std::sync::Arc;

use super::functions::Overload;

/// A node and where it stands in the text, in code points.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) at: u32,
    pub(super) node: Node,
    /// How deep the tree below is, this node included: what recursion over it costs.
    pub(super) depth: u32,
}

#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Ident(Arc<str>),
    /// The accumulator of the innermost fold, moved out of its place: macros use it once on each path.
    TakeAccumulator,
    Select(Box<Select>),
    Call(Box<Call>),
    And(Box<[Expr; 2]>),
    Or(Box<[Expr; 2]>),
    If(Box<[Expr; 3]>),
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct(Box<Struct>),
    Fold(Box<Fold>),
    Bind(Box<Bind>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Debug)]
pub(super) struct Select {
    pub(super) operand: Expr,
    pub(super) field: Arc<str>,
    pub(super) access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Get,
    /// `has(a.b)`.
    Test,
    /// `a.?b`.
    Optional,
}

/// A function or operator; a member's receiver is the first argument.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) function: Arc<str>,
    pub(super) member: bool,
    pub(super) args: Vec<Expr>,
    /// The overloads that fit the arguments' types, filled in by the checker.
    pub(super) overloads: Vec<&'static Overload>,
}

#[derive(Debug)]
pub(super) struct Element {
    pub(super) value: Expr,
    pub(super) optional: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Expr,
    pub(super) value: Expr,
    pub(super) optional: bool,
}

#[derive(Debug)]
pub(super) struct Struct {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) at: u32,
    pub(super) name: Arc<str>,
    pub(super) value: Expr,
    pub(super) optional: bool,
}

/// A comprehension: what every macro over a list or map becomes.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) range: Expr,
    /// With one variable it is a list's item or a map's key; with two, the index or key and the value.
    pub(super) variable: Arc<str>,
    pub(super) second: Option<Arc<str>>,
    pub(super) init: Expr,
    /// None goes through the whole range.
    pub(super) condition: Option<Until>,
    pub(super) step: Expr,
    pub(super) finish: Finish,
}

/// When a fold may stop early: as soon as its accumulator is this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    False,
    True,
}

/// What becomes of the accumulator in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Keep,
    IsOne,
}

/// `cel.bind(x, value, body)`.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) variable: Arc<str>,
    pub(super) value: Expr,
    pub(super) body: Expr,
}

impl Expr {
    pub(super) fn new(at: u32, node: Node) -> Expr {
        let mut depth = 0;
        node.each_child(&mut |child| depth = depth.max(child.depth));
        Expr { at, node, depth: depth + 1 }
    }

    pub(super) fn call(at: u32, function: &str, args: Vec<Expr>) -> Expr {
        let call = Call { function: function.into(), member: false, args, overloads: Vec::new() };
        Expr::new(at, Node::Call(Box::new(call)))
    }

    pub(super) fn ident(at: u32, name: &str) -> Expr {
        Expr::new(at, Node::Ident(name.into()))
    }

    pub(super) fn literal(at: u32, literal: Literal) -> Expr {
        Expr::new(at, Node::Literal(literal))
    }

    /// `a.b.c` as a dotted name, if that is all that it is.
    pub(super) fn dotted(&self) -> Option<String> {
        match &self.node {
            Node::Ident(name) => Some(name.to_string()),
            Node::Select(select) if select.access == Access::Get => {
                Some(format!("{}.{}", select.operand.dotted()?, select.field))
            }
            _ => None,
        }
    }
}

impl Node {
    pub(super) fn each_child<'e>(&'e self, visit: &mut dyn FnMut(&'e Expr)) {
        match self {
            Node::Literal(_) | Node::Ident(_) | Node::TakeAccumulator => {}
            Node::Select(select) => visit(&select.operand),
            Node::Call(call) => call.args.iter().for_each(visit),
            Node::And(both) | Node::Or(both) => both.iter().for_each(visit),
            Node::If(three) => three.iter().for_each(visit),
            Node::List(elements) => elements.iter().for_each(|e| visit(&e.value)),
            Node::Map(entries) => {
                for entry in entries {
                    visit(&entry.key);
                    visit(&entry.value);
                }
            }
            Node::Struct(made) => made.fields.iter().for_each(|f| visit(&f.value)),
            Node::Fold(fold) => [&fold.range, &fold.init, &fold.step].into_iter().for_each(visit),
            Node::Bind(bind) => [&bind.value, &bind.body].into_iter().for_each(visit),
        }
    }
}

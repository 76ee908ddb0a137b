//! The type checker: gives each node a type, chooses overloads, and reports what cannot be.

use std::sync::Arc;

use super::Environment;
use super::ast::{Access, Bind, Call, Element, Entry, Expr, Finish, Fold, Literal, Node, Select, Struct};
use super::error::Issue;
use super::functions::{self, Overload};
use super::types::Type;

/// Checks the tree and completes it. Gives the type of the whole, and what is wrong.
pub(super) fn check(environment: &Environment, expr: &mut Expr) -> (Type, Vec<Issue>) {
    let mut checker = Checker {
        environment,
        scopes: Vec::new(),
        accumulators: Vec::new(),
        known: Vec::new(),
        issues: Vec::new(),
    };
    let ty = checker.expr(expr);
    (checker.settle(&ty), checker.issues)
}

struct Checker<'e> {
    environment: &'e Environment,
    scopes: Vec<(Arc<str>, Type)>,
    accumulators: Vec<Type>,
    /// What is known of each type parameter so far.
    known: Vec<Option<Type>>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, at: u32, problem: String) -> Type {
        self.issues.push(Issue::new(at, problem));
        Type::Dyn
    }

    fn expr(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        if let Some(name) = self.qualified(expr) {
            expr.node = Node::Ident(name.as_str().into());
        }
        match &mut expr.node {
            Node::Literal(literal) => of_literal(literal),
            Node::Ident(name) => self.ident(at, name),
            Node::TakeAccumulator => self.accumulators.last().cloned().unwrap_or(Type::Dyn),
            Node::Select(select) => self.select(at, select),
            Node::Call(call) => self.call(at, call),
            Node::And(both) => self.logical(at, "_&&_", both),
            Node::Or(both) => self.logical(at, "_||_", both),
            Node::If(three) => self.choice(at, three),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct(made) => self.structure(at, made),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => self.bind(bind),
        }
    }

    /// A dotted name that was declared as a whole.
    fn qualified(&self, expr: &Expr) -> Option<String> {
        if !matches!(expr.node, Node::Select(_)) {
            return None;
        }
        let name = expr.dotted()?;
        let root = name.split('.').next()?;
        let is_hidden = self.scopes.iter().any(|(scope, _)| &**scope == root);
        let is_declared = self.environment.find(&name).is_some() || Type::named(&name).is_some();
        (is_declared && !is_hidden).then_some(name)
    }

    fn is_declared(&self, name: &str) -> bool {
        self.scopes.iter().any(|(scope, _)| &**scope == name) || self.environment.find(name).is_some()
    }

    fn ident(&mut self, at: u32, name: &str) -> Type {
        let local = self.scopes.iter().rev().find(|(scope, _)| &**scope == name).map(|(_, ty)| ty.clone());
        let declared = local.or_else(|| self.environment.find(name).cloned());
        match declared.or_else(|| Type::named(name).map(|ty| Type::Type(Arc::new(ty)))) {
            Some(ty) => ty,
            None => self.undeclared(at, name),
        }
    }

    fn undeclared(&mut self, at: u32, name: &str) -> Type {
        self.report(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn select(&mut self, at: u32, select: &mut Select) -> Type {
        let operand = self.expr(&mut select.operand);
        let operand = self.settle(&operand);
        let (is_optional, inner) = match &operand {
            Type::Optional(inner) => (true, (**inner).clone()),
            other => (select.access == Access::Optional, other.clone()),
        };
        let field = match &inner {
            Type::Map(_, value) => (**value).clone(),
            Type::Dyn | Type::Param(_) => Type::Dyn,
            Type::Object(object) => match object.field(&select.field) {
                Some(ty) => ty,
                None => self.report(at, format!("undefined field '{}'", select.field)),
            },
            other => self.report(at, format!("type '{other}' does not support field selection")),
        };
        match (select.access, is_optional) {
            (Access::Test, _) => Type::Bool,
            (_, true) => Type::optional(field),
            (_, false) => field,
        }
    }

    fn call(&mut self, at: u32, call: &mut Call) -> Type {
        self.unqualify(call);
        let overloads = functions::find(&call.function);
        let fitting: Vec<&'static Overload> = overloads.iter().filter(|o| o.member == call.member).collect();
        if fitting.is_empty() {
            call.args.iter_mut().for_each(|arg| {
                self.expr(arg);
            });
            return self.undeclared(at, &call.function.clone());
        }
        let types: Vec<Type> = call.args.iter_mut().map(|arg| self.argument(&call.function, arg)).collect();
        let mut result: Option<Type> = None;
        for overload in fitting {
            let Some(ty) = self.apply(overload, &types) else { continue };
            call.overloads.push(overload);
            result = Some(match result {
                Some(other) if other != ty => Type::Dyn,
                _ => ty,
            });
        }
        self.literal_argument(call);
        result.unwrap_or_else(|| self.no_overload(at, &call.function, call.member, &types))
    }

    /// An argument. What is to be formatted may be of all types in one list.
    fn argument(&mut self, function: &str, arg: &mut Expr) -> Type {
        match &mut arg.node {
            Node::List(elements) if function == "format" => {
                elements.iter_mut().for_each(|element| {
                    self.expr(&mut element.value);
                });
                Type::list(Type::Dyn)
            }
            _ => self.expr(arg),
        }
    }

    /// `sets.contains(a, b)` is no member: `sets` is part of the function's name.
    fn unqualify(&self, call: &mut Call) {
        if !call.member {
            return;
        }
        let Some(prefix) = call.args.first().and_then(Expr::dotted) else { return };
        let root = prefix.split('.').next().unwrap_or_default();
        let name = format!("{prefix}.{}", call.function);
        if !self.is_declared(root) && functions::find(&name).iter().any(|o| !o.member) {
            call.args.remove(0);
            call.function = name.into();
            call.member = false;
        }
    }

    /// Texts that are known now are read now.
    fn literal_argument(&mut self, call: &Call) {
        let Some(last) = call.args.last() else { return };
        let Node::Literal(Literal::String(text)) = &last.node else { return };
        let is_good = match (&*call.function, call.args.len()) {
            ("duration", 1) => functions::time::parse_duration(text).is_some(),
            ("timestamp", 1) => functions::time::parse_timestamp(text).is_some(),
            ("matches", 2) => functions::regex::compile(text).is_ok(),
            _ => true,
        };
        if !is_good {
            self.report(last.at, format!("invalid {} argument", call.function));
        }
    }

    fn no_overload(&mut self, at: u32, function: &str, member: bool, types: &[Type]) -> Type {
        let shown: Vec<String> = types.iter().map(|ty| self.settle(ty).to_string()).collect();
        let applied = match (member, shown.split_first()) {
            (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.report(at, format!("found no matching overload for '{function}' applied to '{applied}'"))
    }

    fn logical(&mut self, at: u32, function: &str, both: &mut [Expr; 2]) -> Type {
        let types: Vec<Type> = both.iter_mut().map(|expr| self.expr(expr)).collect();
        if types.iter().all(|ty| self.assign(&Type::Bool, ty)) {
            return Type::Bool;
        }
        self.no_overload(at, function, false, &types)
    }

    fn choice(&mut self, at: u32, three: &mut [Expr; 3]) -> Type {
        let types: Vec<Type> = three.iter_mut().map(|expr| self.expr(expr)).collect();
        let one = self.fresh();
        let fits = self.assign(&Type::Bool, &types[0])
            && self.assign(&one, &types[1])
            && self.assign(&one, &types[2]);
        match fits {
            true if types[1].is_dyn() || types[2].is_dyn() => Type::Dyn,
            true => self.settle(&one),
            false => self.no_overload(at, "_?_:_", false, &types),
        }
    }

    fn list(&mut self, elements: &mut [Element]) -> Type {
        let mut item = self.fresh();
        for element in elements {
            let at = element.value.at;
            let found = self.expr(&mut element.value);
            let found = if element.optional { self.unwrapped(at, found) } else { found };
            item = self.same(at, item, found);
        }
        Type::list(item)
    }

    fn map(&mut self, entries: &mut [Entry]) -> Type {
        let (mut key, mut value) = (self.fresh(), self.fresh());
        for entry in entries {
            let found = self.expr(&mut entry.key);
            key = self.same(entry.key.at, key, found);
            let found = self.expr(&mut entry.value);
            let found = if entry.optional { self.unwrapped(entry.value.at, found) } else { found };
            value = self.same(entry.value.at, value, found);
        }
        Type::map(key, value)
    }

    fn unwrapped(&mut self, at: u32, ty: Type) -> Type {
        match self.settle(&ty) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other => self.report(at, format!("expected type 'optional_type({other})' but found '{other}'")),
        }
    }

    /// Lists and maps are of one type throughout.
    fn same(&mut self, at: u32, so_far: Type, found: Type) -> Type {
        match self.assign(&so_far, &found) {
            true if found.is_dyn() => Type::Dyn,
            true => so_far,
            false => {
                let (wanted, found) = (self.settle(&so_far), self.settle(&found));
                self.report(at, format!("expected type '{wanted}' but found '{found}'"))
            }
        }
    }

    fn structure(&mut self, at: u32, made: &mut Struct) -> Type {
        for field in &mut made.fields {
            let found = self.expr(&mut field.value);
            if field.optional {
                self.unwrapped(field.value.at, found);
            }
        }
        let Some(ty) = self.environment.structure(&made.name) else {
            return self.undeclared(at, &made.name.clone());
        };
        if made.name == "JSONPatch" {
            for field in &made.fields {
                if !matches!(&*field.name, "op" | "path" | "from" | "value") {
                    self.report(field.at, format!("undefined field '{}'", field.name));
                }
            }
        }
        ty
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.expr(&mut fold.range);
        let (first, second) = match self.settle(&range) {
            Type::List(item) if fold.second.is_some() => (Type::Int, (*item).clone()),
            Type::List(item) => ((*item).clone(), Type::Dyn),
            Type::Map(key, value) => ((*key).clone(), (*value).clone()),
            Type::Dyn | Type::Param(_) => (Type::Dyn, Type::Dyn),
            other => {
                let problem = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                (self.report(fold.range.at, problem), Type::Dyn)
            }
        };
        let accumulator = self.expr(&mut fold.init);
        self.accumulators.push(accumulator.clone());
        let depth = self.scopes.len();
        self.scopes.push((fold.variable.clone(), first));
        self.scopes.extend(fold.second.clone().map(|name| (name, second)));
        let step = self.expr(&mut fold.step);
        self.scopes.truncate(depth);
        self.accumulators.pop();
        self.assign(&accumulator, &step);
        match fold.finish {
            Finish::Keep => self.settle(&accumulator),
            Finish::IsOne => Type::Bool,
        }
    }

    fn bind(&mut self, bind: &mut Bind) -> Type {
        let value = self.expr(&mut bind.value);
        self.scopes.push((bind.variable.clone(), value));
        let body = self.expr(&mut bind.body);
        self.scopes.pop();
        body
    }

    /// The result of an overload for these arguments; none if they do not fit.
    fn apply(&mut self, overload: &Overload, types: &[Type]) -> Option<Type> {
        if overload.params.len() != types.len() {
            return None;
        }
        let before = self.known.clone();
        let base = self.known.len();
        self.known.extend([None, None, None]);
        let fits =
            overload.params.iter().zip(types).all(|(param, ty)| self.assign(&shifted(param, base), ty));
        if !fits {
            self.known = before;
            return None;
        }
        Some(self.settle(&shifted(&overload.result, base)))
    }

    fn fresh(&mut self) -> Type {
        self.known.push(None);
        Type::Param(self.known.len() - 1)
    }

    /// The type with all that is known of its parameters.
    fn settle(&self, ty: &Type) -> Type {
        match ty {
            Type::Param(i) => match self.known.get(*i).and_then(Option::as_ref) {
                Some(known) => self.settle(known),
                None => ty.clone(),
            },
            Type::List(item) => Type::list(self.settle(item)),
            Type::Map(key, value) => Type::map(self.settle(key), self.settle(value)),
            Type::Optional(value) => Type::optional(self.settle(value)),
            Type::Type(inner) => Type::Type(Arc::new(self.settle(inner))),
            other => other.clone(),
        }
    }

    /// Whether a value of type `found` can stand where `wanted` is wanted; learns of parameters on the way.
    fn assign(&mut self, wanted: &Type, found: &Type) -> bool {
        match (self.settle(wanted), self.settle(found)) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (Type::Param(i), other) | (other, Type::Param(i)) => {
                let is_new = !mentions(&other, i);
                if is_new {
                    self.known[i] = Some(other);
                }
                is_new
            }
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::List(a), Type::List(b)) => self.assign(&a, &b),
            (Type::Optional(a), Type::Optional(b)) => self.assign(&a, &b),
            (Type::Map(ak, av), Type::Map(bk, bv)) => self.assign(&ak, &bk) && self.assign(&av, &bv),
            (Type::Type(_), Type::Type(_)) => true,
            (
                Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_),
                Type::Null,
            )
            | (
                Type::Null,
                Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_),
            ) => true,
            (a, b) => a == b,
        }
    }
}

fn mentions(ty: &Type, param: usize) -> bool {
    match ty {
        Type::Param(i) => *i == param,
        Type::List(inner) | Type::Optional(inner) | Type::Type(inner) => mentions(inner, param),
        Type::Map(key, value) => mentions(key, param) || mentions(value, param),
        _ => false,
    }
}

fn shifted(ty: &Type, base: usize) -> Type {
    match ty {
        Type::Param(i) => Type::Param(base + i),
        Type::List(item) => Type::list(shifted(item, base)),
        Type::Map(key, value) => Type::map(shifted(key, base), shifted(value, base)),
        Type::Optional(value) => Type::optional(shifted(value, base)),
        Type::Type(inner) => Type::Type(Arc::new(shifted(inner, base))),
        other => other.clone(),
    }
}

fn of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

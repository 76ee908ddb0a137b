//! Tokens to a tree. Recursive descent; the tree's depth is bounded, so that whatever walks it is, too.

use super::ast::{Access, Element, Entry, Expr, Field, Literal, Node, Select, Struct};
use super::error::Issue;
use super::lex::{Lexer, Spanned, Token};
use super::macros;

/// What an expression may nest, and how long it may be (code points).
pub(super) const DEPTH_MAX: u32 = 250;
pub(super) const TEXT_MAX: usize = 100_000;

const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Words that other languages keep for themselves: not names of variables.
pub(super) const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

pub(super) fn parse(text: &str) -> Result<Expr, Vec<Issue>> {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() > TEXT_MAX {
        let problem =
            format!("expression code point size exceeds limit: size: {}, limit {TEXT_MAX}", chars.len());
        return Err(vec![Issue::new(0, problem)]);
    }
    let (tokens, mut issues) = Lexer::new(&chars).tokens();
    let mut parser = Parser { tokens, at: 0, nested: 0, text: &chars };
    match parser.whole() {
        Ok(expr) if issues.is_empty() => Ok(expr),
        Ok(_) => Err(issues),
        Err(issue) => {
            issues.push(issue);
            Err(issues)
        }
    }
}

struct Parser<'a> {
    tokens: Vec<Spanned>,
    at: usize,
    nested: u32,
    text: &'a [char],
}

type Parsed = Result<Expr, Issue>;

impl Parser<'_> {
    fn whole(&mut self) -> Parsed {
        let expr = self.expr()?;
        if *self.token() == Token::End {
            return Ok(expr);
        }
        let is_last = self.tokens[self.at + 1].token == Token::End;
        let how = if is_last { "extraneous" } else { "mismatched" };
        Err(self.unexpected(how, "<EOF>"))
    }

    fn token(&self) -> &Token {
        &self.tokens[self.at].token
    }

    fn here(&self) -> u32 {
        self.tokens[self.at].at
    }

    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.token(), Token::Symbol(s) if *s == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let is = self.is(symbol);
        if is {
            self.advance();
        }
        is
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Issue> {
        match self.take(symbol) {
            true => Ok(()),
            false => Err(self.unexpected("mismatched", &format!("'{symbol}'"))),
        }
    }

    fn unexpected(&self, how: &str, expected: &str) -> Issue {
        let spanned = &self.tokens[self.at];
        let text: String = match spanned.token {
            Token::End => "<EOF>".to_owned(),
            _ => self.text[spanned.at as usize..spanned.end as usize].iter().collect(),
        };
        Issue::new(spanned.at, format!("Syntax error: {how} input '{text}' expecting {expected}"))
    }

    fn bounded(&self, expr: Expr) -> Parsed {
        match expr.depth > DEPTH_MAX {
            true => Err(too_deep(expr.at)),
            false => Ok(expr),
        }
    }

    fn expr(&mut self) -> Parsed {
        self.nested += 1;
        if self.nested > DEPTH_MAX {
            return Err(too_deep(self.here()));
        }
        let condition = self.binary(0)?;
        let at = self.here();
        let expr = if self.take("?") {
            let yes = self.binary(0)?;
            self.expect(":")?;
            let no = self.expr()?;
            self.bounded(Expr::new(at, Node::If(Box::new([condition, yes, no]))))?
        } else {
            condition
        };
        self.nested -= 1;
        Ok(expr)
    }

    /// Operands joined by operators of level `loosest` and tighter.
    fn binary(&mut self, loosest: usize) -> Parsed {
        let mut left = self.unary()?;
        while let Some((level, function)) = self.operator(loosest) {
            left = match level {
                OR | AND => self.logical(left, level)?,
                _ => {
                    let at = self.here();
                    self.advance();
                    let right = self.binary(level + 1)?;
                    self.bounded(Expr::call(at, function, vec![left, right]))?
                }
            };
        }
        Ok(left)
    }

    /// The operator that stands here, if it binds so tightly: its level and its function.
    fn operator(&self, loosest: usize) -> Option<(usize, &'static str)> {
        let Token::Symbol(here) = self.token() else { return None };
        let find = |(level, operators): (usize, &&'static [(&str, &'static str)])| {
            operators.iter().find(|(symbol, _)| symbol == here).map(|(_, function)| (level, *function))
        };
        LEVELS.iter().enumerate().skip(loosest).find_map(find)
    }

    /// Chains of `&&` and `||` become balanced trees: their order does not matter, their depth does.
    fn logical(&mut self, first: Expr, level: usize) -> Parsed {
        let mut terms = vec![first];
        let mut places = Vec::new();
        while self.operator(level).is_some_and(|(here, _)| here == level) {
            places.push(self.here());
            self.advance();
            terms.push(self.binary(level + 1)?);
        }
        let join: fn(Box<[Expr; 2]>) -> Node = if level == OR { Node::Or } else { Node::And };
        self.bounded(balance(&mut terms.into_iter(), &places, join))
    }

    fn unary(&mut self) -> Parsed {
        let at = self.here();
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            if !self.is(symbol) {
                continue;
            }
            let next = self.tokens.get(self.at + 1).map(|t| &t.token);
            if symbol == "-" && matches!(next, Some(Token::Int(_) | Token::Double(_))) {
                break;
            }
            self.advance();
            self.nested += 1;
            if self.nested > DEPTH_MAX {
                return Err(too_deep(at));
            }
            let operand = self.unary()?;
            self.nested -= 1;
            return self.bounded(Expr::call(at, function, vec![operand]));
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        loop {
            let at = self.here();
            expr = if self.take(".") {
                self.field(expr, at)?
            } else if self.take("[") {
                let function = if self.take("?") { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.expect("]")?;
                Expr::call(at, function, vec![expr, index])
            } else {
                return Ok(expr);
            };
            expr = self.bounded(expr)?;
        }
    }

    fn field(&mut self, operand: Expr, at: u32) -> Parsed {
        let access = if self.take("?") { Access::Optional } else { Access::Get };
        let name = self.name()?;
        if access == Access::Get && self.is("(") {
            let open = self.here();
            let args = self.arguments()?;
            return macros::expand_member(open, operand, &name, args);
        }
        if access == Access::Get
            && self.is("{")
            && let Some(dotted) = operand.dotted()
        {
            return self.structure(format!("{dotted}.{name}"));
        }
        Ok(Expr::new(at, Node::Select(Box::new(Select { operand, field: name.as_str().into(), access }))))
    }

    fn name(&mut self) -> Result<String, Issue> {
        match self.token().clone() {
            Token::Ident(name) => {
                self.advance();
                Ok(name)
            }
            _ => Err(self.unexpected("mismatched", "IDENTIFIER")),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, Issue> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.take(")") {
            args.push(self.expr()?);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(args)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.here();
        match self.token().clone() {
            Token::Symbol("(") => {
                self.advance();
                let expr = self.expr()?;
                self.expect(")")?;
                Ok(expr)
            }
            Token::Symbol("[") => self.list(at),
            Token::Symbol("{") => self.map(at),
            Token::Symbol(".") => {
                self.advance();
                self.named(at)
            }
            Token::Ident(_) => self.named(at),
            _ => self.literal(at),
        }
    }

    fn literal(&mut self, at: u32) -> Parsed {
        let is_negative = self.is("-");
        if is_negative {
            self.advance();
        }
        let literal = match (self.token().clone(), is_negative) {
            (Token::Int(i), true) => Literal::Int(i.wrapping_neg()),
            (Token::Double(d), true) => Literal::Double(-d),
            (Token::Int(i64::MIN), false) => return Err(Issue::new(at, "Syntax error: invalid int literal")),
            (Token::Int(i), false) => Literal::Int(i),
            (Token::Uint(u), false) => Literal::Uint(u),
            (Token::Double(d), false) => Literal::Double(d),
            (Token::String(s), false) => Literal::String(s.into()),
            (Token::Bytes(b), false) => Literal::Bytes(b.into()),
            (Token::Symbol("true"), false) => Literal::Bool(true),
            (Token::Symbol("false"), false) => Literal::Bool(false),
            (Token::Symbol("null"), false) => Literal::Null,
            (Token::End, _) => return Err(self.unexpected("mismatched", EXPECTED)),
            _ => return Err(self.unexpected("extraneous", EXPECTED)),
        };
        self.advance();
        Ok(Expr::literal(at, literal))
    }

    /// A variable, a function's call, a structure.
    fn named(&mut self, at: u32) -> Parsed {
        let name = self.name()?;
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue::new(at, format!("Syntax error: reserved identifier: {name}")));
        }
        match self.token() {
            Token::Symbol("(") => {
                let open = self.here();
                let args = self.arguments()?;
                macros::expand_global(open, &name, args)
            }
            Token::Symbol("{") => self.structure(name),
            _ => Ok(Expr::ident(at, &name)),
        }
    }

    fn list(&mut self, at: u32) -> Parsed {
        self.expect("[")?;
        let mut elements = Vec::new();
        while !self.take("]") {
            let optional = self.take("?");
            elements.push(Element { value: self.expr()?, optional });
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        self.bounded(Expr::new(at, Node::List(elements)))
    }

    fn map(&mut self, at: u32) -> Parsed {
        self.expect("{")?;
        let mut entries = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let key = self.expr()?;
            self.expect(":")?;
            entries.push(Entry { key, value: self.expr()?, optional });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        self.bounded(Expr::new(at, Node::Map(entries)))
    }

    fn structure(&mut self, name: String) -> Parsed {
        let at = self.here();
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let name = self.name()?.as_str().into();
            let at = self.here();
            self.expect(":")?;
            fields.push(Field { at, name, value: self.expr()?, optional });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        self.bounded(Expr::new(at, Node::Struct(Box::new(Struct { name, fields }))))
    }
}

const OR: usize = 0;
const AND: usize = 1;

/// Loosest first: the symbol and the function that it stands for.
const LEVELS: &[&[(&str, &str)]] = &[
    &[("||", "_||_")],
    &[("&&", "_&&_")],
    &[
        ("==", "_==_"),
        ("!=", "_!=_"),
        ("<=", "_<=_"),
        (">=", "_>=_"),
        ("<", "_<_"),
        (">", "_>_"),
        ("in", "@in"),
    ],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

fn too_deep(at: u32) -> Issue {
    Issue::new(at, format!("expression recursion limit exceeded: {DEPTH_MAX}"))
}

/// A tree over the terms in their order, as flat as it can be; between each two stands one of `places`.
fn balance(terms: &mut impl Iterator<Item = Expr>, places: &[u32], join: fn(Box<[Expr; 2]>) -> Node) -> Expr {
    if places.is_empty() {
        return terms.next().unwrap_or_else(|| Expr::literal(0, Literal::Null));
    }
    let middle = places.len() / 2;
    let left = balance(terms, &places[..middle], join);
    let right = balance(terms, &places[middle + 1..], join);
    Expr::new(places[middle], join(Box::new([left, right])))
}

//! The JSON paths of printer columns: `.a.b`, `['k']`, `[0]`, `[1:3]`, `[*]`, `..name` and filters such as
//! `[?(@.type=="Ready")]`, as kubectl's own library reads them.

use serde_json::Value;

/// A path that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    #[error("unterminated array")]
    OpenBracket,
    #[error("unterminated filter")]
    OpenFilter,
    #[error("invalid array index {0:?}")]
    Index(&'static str),
    #[error("unexpected character")]
    Unexpected,
}

/// A compiled path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Everything below, at any depth.
    Descend,
    All,
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    Filter(Box<Filter>),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    /// None: whether the left is there.
    test: Option<(String, Operand)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

impl JsonPath {
    /// Reads a path, with or without the braces that kubectl writes around it.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let text = text.strip_prefix(['$', '@']).unwrap_or(text);
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            rest = read_step(rest, &mut steps)?;
        }
        Ok(Self { steps })
    }

    /// All values at the path, in order.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps {
            found = found.into_iter().flat_map(|v| step.follow(v)).collect();
        }
        found
    }

    /// The names of a path that is only fields, else nothing.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.steps
            .iter()
            .map(|s| if let Step::Field(name) = s { Some(name.as_str()) } else { None })
            .collect()
    }
}

fn read_step<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, JsonPathError> {
    if let Some(rest) = text.strip_prefix("..") {
        steps.push(Step::Descend);
        return read_name(rest, steps);
    }
    match text.strip_prefix('.') {
        Some("") => Ok(""),
        Some(rest) if rest.starts_with('[') => Ok(rest),
        Some(rest) => read_name(rest, steps),
        None => match text.strip_prefix('[') {
            Some(rest) => read_bracket(rest, steps),
            None => read_name(text, steps),
        },
    }
}

fn read_name<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, JsonPathError> {
    if text.starts_with('[') {
        return Ok(text);
    }
    if let Some(rest) = text.strip_prefix('*') {
        steps.push(Step::All);
        return Ok(rest);
    }
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            ' ' | '{' | '}' | '(' | ')' | '|' => return Err(JsonPathError::Unexpected),
            c => name.push(c),
        }
    }
    if name.is_empty() {
        return Err(JsonPathError::Unexpected);
    }
    steps.push(Step::Field(name));
    Ok(&text[end..])
}

fn read_bracket<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, JsonPathError> {
    if let Some(rest) = text.strip_prefix("?(") {
        let end = find_outside_quotes(rest, ")]").ok_or(JsonPathError::OpenFilter)?;
        steps.push(Step::Filter(Box::new(read_filter(&rest[..end])?)));
        return Ok(&rest[end + 2..]);
    }
    let end = find_outside_quotes(text, "]").ok_or(JsonPathError::OpenBracket)?;
    let (inner, rest) = (text[..end].trim(), &text[end + 1..]);
    steps.push(match unquote(inner) {
        Some(name) => Step::Field(name),
        None if inner == "*" => Step::All,
        None if inner.contains(':') => read_slice(inner)?,
        None => Step::Index(inner.parse().map_err(|_| JsonPathError::Index("number"))?),
    });
    Ok(rest)
}

fn read_slice(text: &str) -> Result<Step, JsonPathError> {
    let mut bounds = text.split(':').map(|part| match part.trim() {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| JsonPathError::Index("slice")),
    });
    let mut next = || bounds.next().transpose().map(Option::flatten);
    let (from, to, by) = (next()?, next()?, next()?.unwrap_or(1));
    if by > 0 { Ok(Step::Slice(from, to, by)) } else { Err(JsonPathError::Index("step")) }
}

fn find_outside_quotes(text: &str, wanted: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, _) if text[at..].starts_with(wanted) => return Some(at),
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    text.strip_prefix(quote)?.strip_suffix(quote).map(str::to_owned)
}

fn read_filter(text: &str) -> Result<Filter, JsonPathError> {
    const TESTS: &[&str] = &["==", "!=", "<=", ">=", "<", ">"];
    let found = TESTS.iter().filter_map(|t| find_outside_quotes(text, t).map(|at| (at, *t)));
    match found.min_by_key(|(at, test)| (*at, usize::MAX - test.len())) {
        None => Ok(Filter { left: read_operand(text)?, test: None }),
        Some((at, test)) => {
            let right = read_operand(&text[at + test.len()..])?;
            Ok(Filter { left: read_operand(&text[..at])?, test: Some((test.to_owned(), right)) })
        }
    }
}

fn read_operand(text: &str) -> Result<Operand, JsonPathError> {
    let text = text.trim();
    if let Some(literal) = unquote(text) {
        return Ok(Operand::Literal(literal.into()));
    }
    if text.starts_with('@') || text.starts_with('.') {
        return JsonPath::parse(text).map(Operand::Path);
    }
    serde_json::from_str(text).map(Operand::Literal).map_err(|_| JsonPathError::Unexpected)
}

impl Step {
    fn follow<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Step::Field(name), Value::Object(fields)) => fields.get(name).into_iter().collect(),
            (Step::All, Value::Object(fields)) => fields.values().collect(),
            (Step::All, Value::Array(items)) => items.iter().collect(),
            (Step::Index(at), Value::Array(items)) => {
                place(*at, items.len()).and_then(|i| items.get(i)).into_iter().collect()
            }
            (Step::Slice(from, to, by), Value::Array(items)) => slice(items, *from, *to, *by),
            (Step::Filter(filter), Value::Array(items)) => items.iter().filter(|v| filter.holds(v)).collect(),
            (Step::Filter(filter), Value::Object(fields)) => {
                fields.values().filter(|v| filter.holds(v)).collect()
            }
            (Step::Descend, value) => descend(value),
            _ => Vec::new(),
        }
    }
}

fn place(at: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if at < 0 { at + length } else { at }).ok()
}

fn slice(items: &[Value], from: Option<i64>, to: Option<i64>, by: i64) -> Vec<&Value> {
    let from = from.map_or(Some(0), |f| place(f, items.len())).unwrap_or(0).min(items.len());
    let to = to.map_or(Some(items.len()), |t| place(t, items.len())).unwrap_or(0).clamp(from, items.len());
    items[from..to].iter().step_by(usize::try_from(by).unwrap_or(1)).collect()
}

fn descend(value: &Value) -> Vec<&Value> {
    let mut found = vec![value];
    match value {
        Value::Object(fields) => fields.values().for_each(|v| found.extend(descend(v))),
        Value::Array(items) => items.iter().for_each(|v| found.extend(descend(v))),
        _ => {}
    }
    found
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let left = self.left.of(item);
        let Some((test, right)) = &self.test else { return left.is_some() };
        let (Some(left), Some(right)) = (left, right.of(item)) else { return false };
        let order = match (left, right) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        };
        match test.as_str() {
            "==" => left == right || order.is_some_and(|o| o.is_eq()),
            "!=" => !(left == right || order.is_some_and(|o| o.is_eq())),
            "<" => order.is_some_and(|o| o.is_lt()),
            "<=" => order.is_some_and(|o| o.is_le()),
            ">" => order.is_some_and(|o| o.is_gt()),
            _ => order.is_some_and(|o| o.is_ge()),
        }
    }
}

impl Operand {
    fn of<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Operand::Path(path) => path.find(item).into_iter().next(),
            Operand::Literal(value) => Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(path: &str, expected: Value) {
        let object = json!({
            "spec": {"watts": 40, "tags": ["a", "b", "c"], "x.y": 1},
            "status": {"conditions": [{"type": "Old", "status": "False", "n": 1}, {"type": "Ready", "status": "True", "n": 5}]},
        });
        let found = JsonPath::parse(path).unwrap();
        assert_eq!(Value::from_iter(found.find(&object).into_iter().cloned()), expected, "{path}");
    }

    #[test]
    fn a_path_finds_its_values() {
        check(".spec.watts", json!([40]));
        check("{.spec.watts}", json!([40]));
        check(".spec.none.deep", json!([]));
        check(".spec.tags[*]", json!(["a", "b", "c"]));
        check(".spec.tags[-1]", json!(["c"]));
        check(".spec.tags[1:]", json!(["b", "c"]));
        check(".spec['x.y']", json!([1]));
        check(".spec.x\\.y", json!([1]));
        check("..type", json!(["Old", "Ready"]));
        check(".status.conditions[?(@.type==\"Ready\")].status", json!(["True"]));
        check(".status.conditions[?(@.type=='Ready')].status", json!(["True"]));
        check(".status.conditions[?(@.n>3)].type", json!(["Ready"]));
        check(".status.conditions[?(@.n)].type", json!(["Old", "Ready"]));
    }

    #[test]
    fn a_path_that_makes_no_sense_is_refused() {
        for path in [".a[", ".a[x]", ".a[?(@.b==]", ".a{", ".a[?(b)]"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}

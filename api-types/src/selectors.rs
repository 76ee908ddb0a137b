//! Label and field selectors: parsed once, matched often.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A selector that cannot be understood; the text says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Unexpected { found: String, expected: &'static str },
    /// What stands between requirements.
    #[error("found '{found}', expected: {expected}")]
    Misplaced { found: String, expected: &'static str },
    #[error("unable to parse requirement: found '{found}' expected: '('")]
    Unopened { found: String },
    #[error("unable to parse requirement: <nil>: Invalid value: {key:?}: {problem}")]
    Key { key: String, problem: String },
    #[error("unable to parse requirement: values[0][{key}]: Invalid value: {value:?}: {problem}")]
    Value { key: String, value: String, problem: String },
    #[error("{operator:?} is not a valid label selector operator")]
    Operator { operator: String },
    #[error("values: Invalid value: for '{operator}' operator, {problem}")]
    Values { operator: String, problem: &'static str },
    #[error(
        "unable to parse requirement: values[0]: Invalid value: {0:?}: for 'Gt', 'Lt' operators, the value must be an integer"
    )]
    NotANumber(String),
    #[error("invalid field selector: '{0}'; can't understand '{0}'")]
    Field(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.contains(v)),
            Test::NotIn(values) => !value.is_some_and(|v| values.contains(v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Test::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// Which labels an object must have. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// What an absent `LabelSelector` object selects.
    pub fn nothing() -> Self {
        LabelSelector { requirements: vec![], nothing: true }
    }

    /// Parses the text of a `labelSelector` parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser { rest: text }.selector()
    }

    /// Selects objects that have all of `labels`.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let one = |v: &String| Test::In(BTreeSet::from([v.clone()]));
        let requirements =
            labels.into_iter().map(|(k, v)| Requirement { key: k.clone(), test: one(v) }).collect();
        LabelSelector { requirements, nothing: false }
    }

    /// Reads a `metav1.LabelSelector`. An empty one selects everything; see `nothing` for an absent one.
    pub fn from_object(
        selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    ) -> Result<Self, SelectorError> {
        let mut all = Self::from_labels(selector.match_labels.iter().flatten());
        for e in selector.match_expressions.iter().flatten() {
            let values: BTreeSet<_> = e.values.iter().flatten().cloned().collect();
            all.requirements.push(Requirement { key: e.key.clone(), test: operator(&e.operator, values)? });
        }
        Ok(all)
    }

    /// Reads a `metav1.LabelSelector` in JSON; `null` selects nothing.
    pub fn from_value(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let object = serde_json::from_value(selector.clone())
            .map_err(|e| SelectorError::Key { key: "selector".into(), problem: e.to_string() })?;
        Self::from_object(&object)
    }

    /// Key, operator and values of each requirement, as questions about access write them; the operators of
    /// numbers, which those do not know, are left out.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, &'static str, Vec<String>)> {
        self.requirements.iter().filter_map(|requirement| {
            let (operator, values) = match &requirement.test {
                Test::In(values) => ("In", values.iter().cloned().collect()),
                Test::NotIn(values) => ("NotIn", values.iter().cloned().collect()),
                Test::Exists => ("Exists", Vec::new()),
                Test::Absent => ("DoesNotExist", Vec::new()),
                Test::GreaterThan(_) | Test::LessThan(_) => return None,
            };
            Some((requirement.key.as_str(), operator, values))
        })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Matches against labels that are looked up, wherever they are.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// The labels that an object must have with exactly one value; it may have to meet more than these.
    pub fn required(&self) -> impl Iterator<Item = (&str, &str)> {
        self.requirements.iter().filter_map(|requirement| match &requirement.test {
            Test::In(values) if values.len() == 1 => Some((&*requirement.key, &**values.first()?)),
            _ => None,
        })
    }

    /// Matches the labels of an object in JSON.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }
}

fn operator(name: &str, values: BTreeSet<String>) -> Result<Test, SelectorError> {
    let needs = |problem| SelectorError::Values { operator: name.to_lowercase(), problem };
    match (name, values.is_empty()) {
        ("In" | "NotIn", true) => Err(needs("values set can't be empty")),
        ("In", false) => Ok(Test::In(values)),
        ("NotIn", false) => Ok(Test::NotIn(values)),
        ("Exists" | "DoesNotExist", false) => Err(needs("values set must be empty")),
        ("Exists", true) => Ok(Test::Exists),
        ("DoesNotExist", true) => Ok(Test::Absent),
        _ => Err(SelectorError::Operator { operator: name.to_owned() }),
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nothing {
            return f.write_str("<none>");
        }
        for (i, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values))?,
                Test::In(values) => write!(f, "{key} in ({})", list(values))?,
                Test::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", list(values))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", list(values))?,
                Test::Exists => write!(f, "{key}")?,
                Test::Absent => write!(f, "!{key}")?,
                Test::GreaterThan(n) => write!(f, "{key}>{n}")?,
                Test::LessThan(n) => write!(f, "{key}<{n}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn selector(mut self) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        if self.peek().is_empty() {
            return Ok(LabelSelector::everything());
        }
        self.check_start("!, identifier, or 'end of string'")?;
        loop {
            requirements.push(self.requirement()?);
            match self.next() {
                "" => return Ok(LabelSelector { requirements, nothing: false }),
                "," => self.check_start("identifier after ','")?,
                other => return Err(misplaced(other, "',' or 'end of string'")),
            }
        }
    }

    /// A requirement starts with a key or with its negation.
    fn check_start(&self, expected: &'static str) -> Result<(), SelectorError> {
        match self.peek() {
            "!" => Ok(()),
            start if is_symbol(start) => Err(misplaced(start, expected)),
            _ => Ok(()),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.peek() == "!" {
            self.next();
            return Ok(Requirement { key: self.key()?, test: Test::Absent });
        }
        let key = self.key()?;
        if matches!(self.peek(), "" | ",") {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let test = match self.next() {
            "=" | "==" => Test::In(BTreeSet::from([self.value(&key)?])),
            "!=" => Test::NotIn(BTreeSet::from([self.value(&key)?])),
            "in" => Test::In(self.values(&key)?),
            "notin" => Test::NotIn(self.values(&key)?),
            ">" => Test::GreaterThan(self.number()?),
            "<" => Test::LessThan(self.number()?),
            other => return Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let key = self.next();
        if is_symbol(key) {
            return Err(unexpected(key, "!, identifier, or 'end of string'"));
        }
        match crate::names::check_label_key(key).first() {
            None => Ok(key.to_owned()),
            Some(problem) => Err(SelectorError::Key { key: key.to_owned(), problem: problem.clone() }),
        }
    }

    /// A value may be empty: `a=` and `a=,b=c` are understood.
    fn value(&mut self, key: &str) -> Result<String, SelectorError> {
        let value = if matches!(self.peek(), "" | "," | ")") { "" } else { self.next() };
        if is_symbol(value) && !value.is_empty() {
            return Err(unexpected(value, "identifier"));
        }
        match crate::names::check_label_value(value).first() {
            None => Ok(value.to_owned()),
            Some(problem) => Err(SelectorError::Value {
                key: key.to_owned(),
                value: value.to_owned(),
                problem: problem.clone(),
            }),
        }
    }

    fn values(&mut self, key: &str) -> Result<BTreeSet<String>, SelectorError> {
        match self.next() {
            "(" => {}
            other => return Err(SelectorError::Unopened { found: other.to_owned() }),
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value(key)?);
            match self.next() {
                ")" => return Ok(values),
                "," => {}
                "" => return Err(unexpected("", "',', ')' or identifier")),
                other => return Err(unexpected(other, "',' or ')'")),
            }
        }
    }

    fn number(&mut self) -> Result<i64, SelectorError> {
        let value = self.next();
        if is_symbol(value) {
            return Err(unexpected(value, "identifier"));
        }
        value.parse().map_err(|_| SelectorError::NotANumber(value.to_owned()))
    }

    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start();
        let two = rest.get(..2).filter(|t| matches!(*t, "==" | "!="));
        if let Some(token) = two {
            return token;
        }
        let symbol = |c: char| "()!,=<>".contains(c);
        match rest.chars().next() {
            Some(c) if symbol(c) => &rest[..1],
            _ => &rest[..rest.find(|c: char| symbol(c) || c.is_whitespace()).unwrap_or(rest.len())],
        }
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.rest = &self.rest.trim_start()[token.len()..];
        token
    }
}

fn is_symbol(token: &str) -> bool {
    token.is_empty() || token.starts_with(|c| "()!,=<>".contains(c))
}

fn unexpected(found: &str, expected: &'static str) -> SelectorError {
    SelectorError::Unexpected { found: found.to_owned(), expected }
}

fn misplaced(found: &str, expected: &'static str) -> SelectorError {
    SelectorError::Misplaced { found: found.to_owned(), expected }
}

/// Which values an object's fields must have: `metadata.name=a,status.phase!=Running`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub value: String,
    /// Whether the field must have the value or must not.
    pub equal: bool,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let terms = split_unescaped(text, ',').into_iter().filter(|t| !t.is_empty());
        Ok(FieldSelector { terms: terms.map(field_term).collect::<Result<_, _>>()? })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one value that `path` must have, for a watch or list that can be answered from an index.
    pub fn required(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.path == path).map(|t| t.value.as_str())
    }

    /// Matches against fields that are looked up; an absent field is an empty one, as in Kubernetes.
    pub fn matches_with<S: AsRef<str>>(&self, field: impl Fn(&str) -> Option<S>) -> bool {
        self.terms.iter().all(|t| {
            let value = field(&t.path);
            (value.as_ref().map_or("", AsRef::as_ref) == t.value) == t.equal
        })
    }

    /// Matches fields of an object in JSON, numbers and booleans by their text.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches_with(|path| field_text(object, path))
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", term.path)?;
        }
        Ok(())
    }
}

/// The text of the scalar at a dotted path, if there is one.
pub fn field_text(object: &Value, path: &str) -> Option<String> {
    match path.split('.').try_fold(object, |at, key| at.get(key))? {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn field_term(text: &str) -> Result<FieldTerm, SelectorError> {
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((path, value)) = text.split_once(operator) {
            return Ok(FieldTerm { path: path.trim().to_owned(), value: unescape(value)?, equal });
        }
    }
    Err(SelectorError::Field(text.to_owned()))
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match (escaped, c) {
            (false, '\\') => escaped = true,
            (false, c) if c == separator => {
                parts.push(&text[start..i]);
                start = i + c.len_utf8();
            }
            _ => escaped = false,
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => return Err(SelectorError::Field(text.to_owned())),
            },
            (',' | '=', _) => return Err(SelectorError::Field(text.to_owned())),
            (c, _) => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(selector: &str, expect: Expect) {
        let objects =
            [json!({}), json!({"a": "b"}), json!({"a": "c", "n": "5"}), json!({"a": "", "x/y": "z"})];
        let text = match LabelSelector::parse(selector) {
            Err(e) => e.to_string(),
            Ok(s) => {
                let matched = objects
                    .iter()
                    .filter(|o| s.matches_object(&json!({"metadata": {"labels": o}})))
                    .map(ToString::to_string);
                format!("{s}: {}", matched.collect::<Vec<_>>().join(" "))
            }
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        check("", expect![[r#": {} {"a":"b"} {"a":"c","n":"5"} {"a":"","x/y":"z"}"#]]);
    }

    #[test]
    fn equality_needs_the_label() {
        check(" a = b ", expect![[r#"a=b: {"a":"b"}"#]]);
        check("a==b", expect![[r#"a=b: {"a":"b"}"#]]);
        check("a=", expect![[r#"a=: {"a":"","x/y":"z"}"#]]);
    }

    #[test]
    fn inequality_matches_objects_without_the_label() {
        check("a!=b", expect![[r#"a!=b: {} {"a":"c","n":"5"} {"a":"","x/y":"z"}"#]]);
        check("a notin (b,c)", expect![[r#"a notin (b,c): {} {"a":"","x/y":"z"}"#]]);
    }

    #[test]
    fn sets_and_existence() {
        check("a in (c,b), n", expect![[r#"a in (b,c),n: {"a":"c","n":"5"}"#]]);
        check("!a", expect!["!a: {}"]);
        check("x/y", expect![[r#"x/y: {"a":"","x/y":"z"}"#]]);
        check("a in (,c)", expect![[r#"a in (,c): {"a":"c","n":"5"} {"a":"","x/y":"z"}"#]]);
    }

    #[test]
    fn numbers_compare() {
        check("n>4,n<6", expect![[r#"n>4,n<6: {"a":"c","n":"5"}"#]]);
        check(
            "n>x",
            expect![[
                r#"unable to parse requirement: values[0]: Invalid value: "x": for 'Gt', 'Lt' operators, the value must be an integer"#
            ]],
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        check("a in b", expect!["unable to parse requirement: found 'b' expected: '('"]);
        check("a,,b", expect!["found ',', expected: identifier after ','"]);
        check("=b", expect!["found '=', expected: !, identifier, or 'end of string'"]);
        check(
            "a b",
            expect!["unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"],
        );
        check("a=b)", expect!["found ')', expected: ',' or 'end of string'"]);
        check(
            "-a=b",
            expect![[
                r#"unable to parse requirement: <nil>: Invalid value: "-a": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#
            ]],
        );
    }

    #[test]
    fn selector_objects_combine_labels_and_expressions() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "t", "operator": "In", "values": ["x", "y"]},
            {"key": "u", "operator": "DoesNotExist"},
        ]});
        let selector = LabelSelector::from_value(&selector).unwrap();
        expect!["a=b,t in (x,y),!u"].assert_eq(&selector.to_string());
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&BTreeMap::new()));
        let bad = json!({"matchExpressions": [{"key": "t", "operator": "Like", "values": ["x"]}]});
        expect![[r#""Like" is not a valid label selector operator"#]]
            .assert_eq(&LabelSelector::from_value(&bad).unwrap_err().to_string());
    }

    #[test]
    fn field_selectors_see_absent_fields_as_empty() {
        let object = json!({"spec": {"nodeName": "n1", "hostNetwork": true}});
        let matches = |text| FieldSelector::parse(text).unwrap().matches_object(&object);
        assert!(matches("spec.nodeName=n1,spec.hostNetwork==true,status.phase="));
        assert!(matches("status.phase!=Running"));
        assert!(!matches("spec.nodeName!=n1"));
    }

    #[test]
    fn field_selector_values_may_be_escaped() {
        let selector = FieldSelector::parse(r"a=x\,y\=z,b!=c").unwrap();
        assert_eq!(selector.required("a"), Some("x,y=z"));
        assert_eq!(selector.to_string(), r"a=x\,y\=z,b!=c");
        assert!(FieldSelector::parse("a").is_err());
    }
}

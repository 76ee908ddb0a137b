//! Rules that say one thing of one field, as data: `fields.txt` has a section per resource and a line per field.
//!
//! A line is a path and words. In a path `a.b` is a field, `a[]` each item of a list. What is below a parent that is
//! absent is not looked at, so `required` means "required where its parent is given". Words:
//!
//! | word | meaning |
//! | --- | --- |
//! | `required`, `required:WHY_TEXT` | given, and no empty text or list; `_` in the text is a space |
//! | `label`, `label1035`, `subdomain`, `segment`, `qualified`, `qualified-any-case`, `config-key`, `port-name` | how a text looks |
//! | `one-of:A,B` | if given, one of these |
//! | `known:A,B` | as `one-of`, where an empty text is a wrong one |
//! | `min:N`, `min:N:WHY_TEXT`, `positive`, `range:A..B`, `mode` | bounds of a number, of a file's mode |
//! | `port`, `port-or-name` | ports |
//! | `ip`, `cidr` | addresses |
//! | `labels`, `selector` | maps of labels, label selectors |
//! | `bytes:N`, `items:N` | at most so long |
//! | `unique` | an item equals no earlier one |
//! | `immutable`, `fixed:WHY_TEXT` | as it was before, once the object exists; `fixed` forbids with a text |
//! | `@NAME` | the rules of the section NAME hold below |
//!
//! Paths below `status` hold for writes to the status, all others for writes to the rest.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::metadata::check_labels;
use crate::strategy::rules::{self, Errors, items, join};

use super::addresses;

type Section = Vec<(Vec<Step>, Vec<Rule>)>;

struct Step {
    field: &'static str,
    is_list: bool,
}

enum Rule {
    Required(String),
    Name(fn(&str) -> Vec<String>),
    /// As a name in lower case, and so it is shown.
    AnyCase(fn(&str) -> Vec<String>),
    OneOf(Vec<&'static str>),
    Known(Vec<&'static str>),
    Range(i64, i64),
    Min(i64, String),
    Positive,
    Mode,
    Port,
    PortOrName,
    Ip,
    Cidr,
    Labels,
    Selector,
    Bytes(usize),
    Items(usize),
    Unique,
    Immutable,
    Fixed(String),
    Below(&'static str),
}

static SECTIONS: LazyLock<BTreeMap<&'static str, Section>> =
    LazyLock::new(|| parse(include_str!("fields.txt")));

/// Adds what the section of `resource` finds wrong.
pub(super) fn check(resource: &str, new: &Value, old: Option<&Value>, is_status: bool, errors: &mut Errors) {
    for (steps, found) in SECTIONS.get(resource).into_iter().flatten() {
        if (steps[0].field == "status") == is_status {
            walk(new, "", steps, &mut |parent, path, last| {
                found.iter().for_each(|rule| apply(rule, parent, path, last, old, errors));
            });
        }
    }
}

/// Adds what a shared section finds wrong with `value`, which stands at `path`.
pub(super) fn check_below(section: &str, value: &Value, path: &str, errors: &mut Errors) {
    for (steps, found) in SECTIONS.get(section).into_iter().flatten() {
        walk(value, path, steps, &mut |parent, path, last| {
            found.iter().for_each(|rule| apply(rule, parent, path, last, None, errors));
        });
    }
}

/// Calls `visit` with each parent that is given, its path, and the last step.
fn walk(value: &Value, path: &str, steps: &[Step], visit: &mut dyn FnMut(&Value, &str, &Step)) {
    match steps {
        [] => {}
        [last] if value.is_object() => visit(value, path, last),
        [step, rest @ ..] => {
            let (below, path) = (&value[step.field], join(path, step.field));
            if step.is_list {
                for (index, item) in items(below).iter().enumerate() {
                    walk(item, &format!("{path}[{index}]"), rest, visit);
                }
            } else {
                walk(below, &path, rest, visit);
            }
        }
    }
}

fn apply(rule: &Rule, parent: &Value, path: &str, last: &Step, old: Option<&Value>, errors: &mut Errors) {
    let path = join(path, last.field);
    let value = &parent[last.field];
    if !last.is_list {
        return apply_to(rule, value, &path, old, errors);
    }
    let all = items(value);
    for (index, item) in all.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match rule {
            Rule::Unique if all[..index].contains(item) => {
                errors.push(FieldError::duplicate(path, item.clone()))
            }
            rule => apply_to(rule, item, &path, old, errors),
        }
    }
}

fn apply_to(rule: &Rule, value: &Value, path: &str, old: Option<&Value>, errors: &mut Errors) {
    match rule {
        // A structure without fields is given all the same.
        Rule::Required(why) if is_empty(value) && !value.is_object() => {
            errors.push(FieldError::required(path, why.as_str()))
        }
        Rule::Immutable => {
            if let Some(was) = old.map(|old| at(old, path))
                && !is_same(was, value)
            {
                errors.push(FieldError::immutable(path, value.clone()));
            }
        }
        Rule::Fixed(why) => {
            if old.is_some_and(|old| !is_same(at(old, path), value)) {
                errors.push(FieldError::forbidden(path, why.as_str()));
            }
        }
        Rule::Below(section) => check_below(section, value, path, errors),
        Rule::Labels => check_labels(path, value, errors),
        Rule::Selector => rules::selector(value, path, errors),
        Rule::Port if value.is_number() => rules::port_number(value, path, errors),
        Rule::PortOrName if !value.is_null() => rules::port_or_name(value, path, errors),
        Rule::Items(max) if items(value).len() > *max => {
            errors.push(FieldError::too_many(path, items(value).len(), *max));
        }
        rule => match value {
            Value::String(text) => apply_to_text(rule, text, path, errors),
            Value::Number(_) => {
                value.as_i64().into_iter().for_each(|n| apply_to_number(rule, n, path, errors))
            }
            Value::Null => apply_to_absent(rule, path, errors),
            _ => {}
        },
    }
}

fn apply_to_absent(rule: &Rule, path: &str, errors: &mut Errors) {
    if let Rule::Known(known) = rule
        && !known.contains(&"")
    {
        errors.push(FieldError::not_supported(path, "", known));
    }
}

fn apply_to_text(rule: &Rule, text: &str, path: &str, errors: &mut Errors) {
    match rule {
        Rule::Known(known) if !known.contains(&text) => {
            errors.push(FieldError::not_supported(path, text, known))
        }
        _ if text.is_empty() => {}
        Rule::Name(check) => rules::invalid_all(check(text), path, text, errors),
        Rule::AnyCase(check) => {
            let text = text.to_lowercase();
            rules::invalid_all(check(&text), path, &text, errors);
        }
        Rule::OneOf(known) if !known.contains(&text) => {
            errors.push(FieldError::not_supported(path, text, known))
        }
        Rule::Ip => addresses::check_ip(text, path, errors),
        Rule::Cidr => addresses::check_cidr(text, path, errors),
        Rule::Bytes(max) if text.len() > *max => errors.push(FieldError::too_long(path, *max)),
        _ => {}
    }
}

fn apply_to_number(rule: &Rule, number: i64, path: &str, errors: &mut Errors) {
    let why = match rule {
        Rule::Min(min, why) if number < *min => why.clone(),
        Rule::Positive if number <= 0 => "must be greater than 0".to_owned(),
        Rule::Mode if !(0..=0o777).contains(&number) => {
            "must be a number between 0 and 0777 (octal), both inclusive".to_owned()
        }
        Rule::Range(min, max) if !(*min..=*max).contains(&number) => {
            format!("must be between {min} and {max}, inclusive")
        }
        _ => return,
    };
    errors.push(FieldError::invalid(path, number, why));
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Absent and empty are the same where a field is compared with what it was.
pub(in crate::strategy) fn is_same(a: &Value, b: &Value) -> bool {
    a == b || (is_empty(a) && is_empty(b))
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, field| &value[field])
}

fn parse(text: &'static str) -> BTreeMap<&'static str, Section> {
    let mut sections: BTreeMap<&'static str, Section> = BTreeMap::new();
    let mut name = "";
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name = section;
            continue;
        }
        let mut words = line.split_whitespace();
        let steps = words.next().unwrap_or_default().split('.').map(parse_step).collect();
        sections.entry(name).or_default().push((steps, words.filter_map(parse_rule).collect()));
    }
    sections
}

fn parse_step(text: &'static str) -> Step {
    match text.strip_suffix("[]") {
        Some(field) => Step { field, is_list: true },
        None => Step { field: text, is_list: false },
    }
}

/// `None` for a word that there is no rule for; a test keeps those out of the table.
fn parse_rule(word: &'static str) -> Option<Rule> {
    let (name, argument) = word.split_once(':').unwrap_or((word, ""));
    let list = || argument.split(',').collect();
    let number = || argument.parse().ok();
    Some(match name {
        "required" => Rule::Required(argument.replace('_', " ")),
        "label" => Rule::Name(names::check_dns_label),
        "label1035" => Rule::Name(names::check_dns_1035_label),
        "subdomain" => Rule::Name(names::check_dns_subdomain),
        "segment" => Rule::Name(names::check_path_segment),
        "qualified" => Rule::Name(names::check_label_key),
        "qualified-any-case" => Rule::AnyCase(names::check_label_key),
        "config-key" => Rule::Name(names::check_config_key),
        "port-name" => Rule::Name(names::check_port_name),
        "one-of" => Rule::OneOf(list()),
        "known" => Rule::Known(list()),
        "min" => {
            let (min, why) = argument.split_once(':').unwrap_or((argument, ""));
            let usual = || format!("must be greater than or equal to {min}");
            Rule::Min(min.parse().ok()?, if why.is_empty() { usual() } else { why.replace('_', " ") })
        }
        "positive" => Rule::Positive,
        "mode" => Rule::Mode,
        "range" => {
            let (min, max) = argument.split_once("..")?;
            Rule::Range(min.parse().ok()?, max.parse().ok()?)
        }
        "port" => Rule::Port,
        "port-or-name" => Rule::PortOrName,
        "ip" => Rule::Ip,
        "cidr" => Rule::Cidr,
        "labels" => Rule::Labels,
        "selector" => Rule::Selector,
        "bytes" => Rule::Bytes(number()?),
        "items" => Rule::Items(number()?),
        "unique" => Rule::Unique,
        "immutable" => Rule::Immutable,
        "fixed" => Rule::Fixed(argument.replace('_', " ")),
        _ => Rule::Below(word.strip_prefix('@')?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_word_of_the_table_is_a_rule_and_every_section_a_resource_or_used() {
        let text = include_str!("fields.txt");
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', '['])) {
            for word in line.split_whitespace().skip(1) {
                assert!(parse_rule(word).is_some(), "{word} in {line}");
            }
        }
        for section in SECTIONS.keys() {
            let is_resource = api_types::kinds::builtin().iter().any(|kind| kind.storage == *section);
            assert!(
                is_resource
                    || text.contains(&format!("@{section}"))
                    || super::super::SHARED.contains(section),
                "{section}"
            );
        }
    }

    #[test]
    fn what_is_below_an_absent_parent_is_not_looked_at() {
        let mut errors = Errors::new();
        check(
            "networking.k8s.io/ingressclasses",
            &json!({"spec": {"controller": "a.b/c"}}),
            None,
            false,
            &mut errors,
        );
        assert!(errors.is_empty(), "{errors:?}");
        let wrong = json!({"spec": {"parameters": {"name": "n", "scope": "Cluster"}}});
        check("networking.k8s.io/ingressclasses", &wrong, None, false, &mut errors);
        assert_eq!(
            errors.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(),
            ["spec.controller", "spec.parameters.kind"]
        );
    }
}

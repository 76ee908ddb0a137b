//! What claims, classes and slices say alike of devices: names, selectors in CEL, taints, configuration.

use std::sync::LazyLock;

use api_types::cel::{Environment, Range, Sizes, Type};
use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::fields::check_below;
use super::storage::check_driver_name;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

const ID_BYTES_MAX: usize = 32;
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
const EXPRESSION_COST_MAX: u64 = 1_000_000;
const PARAMETERS_BYTES_MAX: usize = 10 * 1024;
const POOL_BYTES_MAX: usize = 253;
const BINDING_CONDITIONS_MAX: usize = 4;
/// How many attributes and capacities a device has at most, in all domains.
const PROPERTIES_MAX: u64 = 32;
const ATTRIBUTE_BYTES_MAX: u64 = 64;
const DRIVER_BYTES_MAX: u64 = 63;

/// Adds an error if the list is too long, which is then all that is said of it.
pub(super) fn is_short(object: &Value, list: &str, max: usize, path: &str, errors: &mut Errors) -> bool {
    let count = items(&object[list]).len();
    if count > max {
        errors.push(FieldError::too_many(format!("{path}.{list}"), count, max));
    }
    count <= max
}

/// A name that is there, and a label.
pub(super) fn validate_name(object: &Value, field: &str, path: &str, errors: &mut Errors) {
    let path = format!("{path}.{field}");
    match text(object, field) {
        None => errors.push(FieldError::required(path, "")),
        Some(name) => invalid_all(names::check_dns_label(name), &path, name, errors),
    }
}

/// Of items with the same key all but the first are one too many.
pub(super) fn check_unique(list: &[Value], key: &str, path: &str, errors: &mut Errors) {
    for (index, item) in list.iter().enumerate() {
        if list[..index].iter().any(|earlier| earlier[key] == item[key]) {
            errors.push(FieldError::duplicate(format!("{path}[{index}]"), item[key].clone()));
        }
    }
}

/// `name` or `domain/name`, where the name could be a variable's.
pub(super) fn check_qualified(name: &str, path: &str, errors: &mut Errors) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [name] => check_variable_name(name, path, errors),
        [domain, name] => {
            match domain {
                "" => errors.push(FieldError::invalid(path, "", "the domain must not be empty")),
                domain => check_driver_name(domain, path, errors),
            }
            match name {
                "" => errors.push(FieldError::invalid(path, "", "the name must not be empty")),
                name => check_variable_name(name, path, errors),
            }
        }
        _ => {}
    }
}

pub(super) fn check_fully_qualified(name: &str, path: &str, errors: &mut Errors) {
    check_qualified(name, path, errors);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, name, why));
    }
}

fn check_variable_name(name: &str, path: &str, errors: &mut Errors) {
    const WHY: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
    if name.len() > ID_BYTES_MAX {
        errors.push(FieldError::too_long(path, ID_BYTES_MAX));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        errors.push(FieldError::invalid(path, name, WHY));
    }
}

/// What a selector knows of a device.
static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let by_domain = |values: Type| Type::map(Type::String, Type::map(Type::String, values));
    let fields = [
        ("driver", Type::String),
        ("attributes", by_domain(Type::Dyn)),
        ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
        ("allowMultipleAllocations", Type::Bool),
    ];
    let fields = fields.map(|(name, ty)| (name.to_owned(), ty));
    Environment::new().variable("device", Type::object("kubernetes.DRADevice", fields))
});

pub(super) fn validate_selectors(owner: &Value, path: &str, errors: &mut Errors) {
    for (path, selector) in indexed(owner, path, "selectors") {
        let path = format!("{path}.cel");
        if !selector["cel"].is_object() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let path = format!("{path}.expression");
        match text(&selector["cel"], "expression") {
            None => errors.push(FieldError::required(path, "")),
            Some(long) if long.len() > EXPRESSION_BYTES_MAX => {
                errors.push(FieldError::too_long(path, EXPRESSION_BYTES_MAX));
            }
            Some(expression) => check_expression(expression, &path, errors),
        }
    }
}

fn check_expression(expression: &str, path: &str, errors: &mut Errors) {
    let mut invalid = |why: String| errors.push(FieldError::invalid(path, expression, why));
    match ENVIRONMENT.compile(expression) {
        Err(why) => invalid(format!("compilation failed: {why}")),
        Ok(program) => match program.result_type() {
            Type::Bool | Type::Dyn if program.estimate(&DeviceSizes).max > EXPRESSION_COST_MAX => {
                errors.push(FieldError::forbidden(path, "too complex, exceeds cost limit"));
            }
            Type::Bool | Type::Dyn => {}
            other => invalid(format!("must evaluate to bool or the unknown type, not {other}")),
        },
    }
}

/// How large what an expression reads of a device can be.
struct DeviceSizes;

impl Sizes for DeviceSizes {
    fn size(&self, path: &[&str]) -> Option<Range> {
        let max = match path {
            ["device", "driver"] => DRIVER_BYTES_MAX,
            ["device", "attributes" | "capacity"] => PROPERTIES_MAX,
            ["device", "attributes" | "capacity", "@keys"] => DRIVER_BYTES_MAX,
            ["device", "attributes" | "capacity", "@values"] => PROPERTIES_MAX,
            ["device", "attributes" | "capacity", "@values", "@keys"] => ID_BYTES_MAX as u64,
            // An attribute, however it is named.
            ["device", "attributes", "@values", name] if *name != "@items" => ATTRIBUTE_BYTES_MAX,
            _ => return None,
        };
        Some(Range::up_to(max))
    }
}

pub(super) fn validate_config(config: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.opaque");
    let opaque = &config["opaque"];
    if !opaque.is_object() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    check_below("opaqueConfig", opaque, &path, errors);
    check_object(&opaque["parameters"], PARAMETERS_BYTES_MAX, &format!("{path}.parameters"), errors);
}

/// Anything that a driver understands, as long as it is an object and not too large.
pub(super) fn check_object(value: &Value, bytes_max: usize, path: &str, errors: &mut Errors) {
    if value.is_null() {
        errors.push(FieldError::required(path, ""));
    } else if value.to_string().len() > bytes_max {
        errors.push(FieldError::too_long(path, bytes_max));
    } else if !value.is_object() {
        errors.push(FieldError::invalid(path, "<value omitted>", "must be a valid JSON object"));
    }
}

/// The name of a pool: one or more subdomains between slashes.
pub(super) fn validate_pool_name(owner: &Value, field: &str, path: &str, errors: &mut Errors) {
    let path = format!("{path}.{field}");
    let Some(name) = text(owner, field) else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    if name.len() > POOL_BYTES_MAX {
        errors.push(FieldError::too_long(path.as_str(), POOL_BYTES_MAX));
    }
    for part in name.split('/') {
        invalid_all(names::check_dns_subdomain(part), &path, part, errors);
    }
}

/// Conditions that a device waits for before pods are bound to it, and those that end the waiting.
pub(super) fn validate_binding(device: &Value, path: &str, errors: &mut Errors) {
    const LISTS: [&str; 2] = ["bindingConditions", "bindingFailureConditions"];
    for list in LISTS {
        if is_short(device, list, BINDING_CONDITIONS_MAX, path, errors) {
            for (path, name) in indexed(device, path, list) {
                let name = name.as_str().unwrap_or_default();
                invalid_all(names::check_label_key(name), &path, name, errors);
            }
        }
    }
    let [good, bad] = LISTS.map(|list| items(&device[list]));
    for (list, names) in [(LISTS[0], good), (LISTS[1], bad)] {
        for (index, name) in names.iter().enumerate() {
            let at = format!("{path}.{list}[{index}]");
            if names[..index].contains(name) {
                errors.push(FieldError::duplicate(at.as_str(), name.clone()));
            }
            if list == LISTS[1] && good.contains(name) {
                let why = "bindingFailureConditions must not overlap with bindingConditions";
                errors.push(FieldError::invalid(at, name.clone(), why));
            }
        }
    }
    let missing = match (good.is_empty(), bad.is_empty()) {
        (true, false) => Some((LISTS[0], "bindingConditions are required to use bindingFailureConditions")),
        (false, true) => Some((LISTS[1], "bindingFailureConditions are required to use bindingConditions")),
        _ => None,
    };
    if let Some((list, why)) = missing {
        errors.push(FieldError::invalid(format!("{path}.{list}"), device[list].clone(), why));
    }
}

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

pub(super) fn validate_taint(taint: &Value, path: &str, errors: &mut Errors) {
    let text_of = |field: &str| taint[field].as_str().unwrap_or_default();
    let (key, value) = (text_of("key"), text_of("value"));
    invalid_all(names::check_label_key(key), &format!("{path}.key"), key, errors);
    invalid_all(names::check_label_value(value), &format!("{path}.value"), value, errors);
    match text_of("effect") {
        "" => errors.push(FieldError::required(format!("{path}.effect"), "")),
        effect => check_effect(effect, path, errors),
    }
}

fn check_effect(effect: &str, path: &str, errors: &mut Errors) {
    if !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(format!("{path}.effect"), effect, EFFECTS));
    }
}

pub(super) fn validate_tolerations(owner: &Value, path: &str, errors: &mut Errors) {
    for (path, toleration) in indexed(owner, path, "tolerations") {
        let value = toleration["value"].as_str().unwrap_or_default();
        if let Some(key) = text(toleration, "key") {
            invalid_all(names::check_label_key(key), &format!("{path}.key"), key, errors);
        }
        let at = format!("{path}.value");
        match toleration["operator"].as_str().unwrap_or_default() {
            "Exists" if !value.is_empty() => {
                errors.push(FieldError::invalid(at, value, "must be empty for operator `Exists`"));
            }
            "Exists" => {}
            "Equal" => invalid_all(names::check_label_value(value), &at, value, errors),
            "" => errors.push(FieldError::required(format!("{path}.operator"), "")),
            other => {
                let known = ["Equal", "Exists"];
                errors.push(FieldError::not_supported(format!("{path}.operator"), other, &known));
            }
        }
        text(toleration, "effect").into_iter().for_each(|effect| check_effect(effect, &path, errors));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::new();
        check(&mut errors);
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn attributes_have_names_that_could_be_a_variables() {
        let count = |name: &str| paths(|e| check_qualified(name, "p", e)).len();
        for good in ["model", "example.com/model", "_a1"] {
            assert_eq!(count(good), 0, "{good}");
        }
        for bad in ["", "a-b", "1a", "/a", "a.b/", "Bad_Domain/a"] {
            assert_ne!(count(bad), 0, "{bad}");
        }
        assert_eq!(paths(|e| check_fully_qualified("model", "p", e)), ["p"]);
    }

    fn problems(expression: &str) -> Vec<String> {
        let mut errors = Errors::new();
        check_expression(expression, "e", &mut errors);
        errors.into_iter().map(|error| error.message).collect()
    }

    #[test]
    fn a_selector_is_true_or_false_of_a_device() {
        for good in [
            "device.driver == 'a.b'",
            "device.attributes['a.b'].model == 'x'",
            "device.capacity['a.b'].memory.isGreaterThan(quantity('1Gi'))",
            "device.attributes['a.b'].ok",
            "cel.bind(of, device.attributes['a.b'], has(of.y) && of.y.isLessThan(semver('1.2.3')))",
            "device.allowMultipleAllocations",
        ] {
            assert_eq!(problems(good), [""; 0], "{good}");
        }
        for (bad, why) in [
            ("device.driver ==", "compilation failed: ERROR: <input>:1:17: Syntax error"),
            ("device.colour == 'red'", "compilation failed: ERROR: <input>:1:7: undefined field 'colour'"),
            ("device.driver", "must evaluate to bool or the unknown type, not string"),
            ("object.spec == 1", "compilation failed: ERROR: <input>:1:1: undeclared reference to 'object'"),
        ] {
            let told = problems(bad).concat();
            assert!(told.starts_with(why), "{bad}: {told}");
        }
    }

    #[test]
    fn a_selector_that_could_cost_too_much_is_refused() {
        let attributes = "device.attributes['a.b']";
        let walk = |body: &str| format!("device.attributes.all(d, {body})");
        let deep = walk(
            "device.attributes.all(e, device.attributes.all(f, device.attributes.all(g, d < e && f < g)))",
        );
        assert_eq!(problems(&deep), ["too complex, exceeds cost limit"]);
        assert_eq!(problems(&walk("d == 'a.b'")), [""; 0]);
        assert_eq!(problems(&format!("{attributes}.model.matches('x.*')")), [""; 0]);
    }

    #[test]
    fn configuration_is_an_object_for_a_driver() {
        let of = |opaque: Value| paths(|e| validate_config(&json!({ "opaque": opaque }), "c", e));
        assert!(of(json!({"driver": "a.b", "parameters": {"a": 1}})).is_empty());
        assert_eq!(of(json!({"driver": "a.b", "parameters": "x"})), ["c.opaque.parameters"]);
        assert_eq!(of(json!({})), ["c.opaque.driver", "c.opaque.parameters"]);
        assert_eq!(paths(|e| validate_config(&json!({}), "c", e)), ["c.opaque"]);
    }

    #[test]
    fn a_toleration_fits_its_operator() {
        let of = |toleration: Value| {
            paths(|e| validate_tolerations(&json!({ "tolerations": [toleration] }), "", e))
        };
        assert!(of(json!({"key": "a", "operator": "Exists", "effect": "None"})).is_empty());
        assert_eq!(of(json!({"operator": "Exists", "value": "x"})), ["tolerations[0].value"]);
        assert_eq!(of(json!({"operator": "Odd"})), ["tolerations[0].operator"]);
        assert_eq!(of(json!({"operator": "Equal", "effect": "Odd"})), ["tolerations[0].effect"]);
    }
}

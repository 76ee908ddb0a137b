//! The roles and bindings of `rbac.txt` as objects.

use serde_json::{Map, Value, json};

const TEXT: &str = include_str!("rbac.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// All of them, roles before the bindings that name them.
pub(super) fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (line.starts_with(' '), words.as_slice(), objects.last_mut()) {
            (false, ["role", name, options @ ..], _) => objects.push(role(name, options)),
            (false, ["bind", name, options @ ..], _) => objects.push(binding(name, options)),
            (true, words, Some(last)) if last.get("roleRef").is_some() => {
                push(last, "subjects", subject(words))
            }
            (true, words, Some(last)) => push(last, "rules", rule(words)),
            _ => {}
        }
    }
    collect(&mut objects);
    objects
}

fn option<'a>(options: &'a [&str], name: &str) -> impl Iterator<Item = &'a str> {
    options
        .iter()
        .filter_map(move |o| o.split_once('='))
        .filter(move |(n, _)| *n == name)
        .map(|(_, value)| value)
}

fn namespace<'a>(options: &[&'a str]) -> Option<&'a str> {
    options.iter().copied().find(|o| !o.contains('='))
}

fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata})
}

fn label(of: &str) -> String {
    format!("{GROUP}/aggregate-to-{of}")
}

fn role(name: &str, options: &[&str]) -> Value {
    let namespace = namespace(options);
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let mut role = object(kind, name, namespace);
    for of in option(options, "counts-for") {
        role["metadata"]["labels"][label(of)] = "true".into();
    }
    if let Some(of) = option(options, "collected").next() {
        let labels: Map<String, Value> = [(label(of), Value::from("true"))].into_iter().collect();
        role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    }
    role["rules"] = json!([]);
    role
}

fn list(text: &str) -> Value {
    text.split(',').map(|item| if item == "core" { "" } else { item }).map(Value::from).collect()
}

fn rule(words: &[&str]) -> Value {
    match words {
        [verbs, urls] if urls.starts_with("urls=") => {
            json!({"nonResourceURLs": list(&urls["urls=".len()..]), "verbs": list(verbs)})
        }
        [verbs, groups, resources, options @ ..] => {
            let mut rule =
                json!({"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)});
            if let Some(names) = option(options, "names").next() {
                rule["resourceNames"] = list(names);
            }
            rule
        }
        _ => Value::Null,
    }
}

fn binding(role: &str, options: &[&str]) -> Value {
    let namespace = namespace(options);
    let (kind, role_kind) =
        if namespace.is_some() { ("RoleBinding", "Role") } else { ("ClusterRoleBinding", "ClusterRole") };
    let mut binding = object(kind, option(options, "as").next().unwrap_or(role), namespace);
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    binding
}

fn subject(words: &[&str]) -> Value {
    match words {
        ["user", name] => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        ["group", name] => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        ["account", account] => {
            let (namespace, name) = account.split_once('/').unwrap_or(("kube-system", account));
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        _ => Value::Null,
    }
}

fn push(object: &mut Value, field: &str, item: Value) {
    if !object[field].is_array() {
        object[field] = json!([]);
    }
    if let Some(items) = object[field].as_array_mut() {
        items.push(item);
    }
}

/// Fills collected roles from those that count for them, the smallest first: `edit` has what `view` has.
fn collect(objects: &mut [Value]) {
    for of in ["view", "edit", "admin"] {
        let label = label(of);
        let mut parts: Vec<(&str, &Value)> = objects
            .iter()
            .filter(|o| o["metadata"]["labels"][&label] == "true")
            .filter_map(|o| Some((o["metadata"]["name"].as_str()?, &o["rules"])))
            .collect();
        parts.sort_by_key(|(name, _)| *name);
        let mut rules: Vec<Value> = Vec::new();
        for rule in parts.iter().flat_map(|(_, rules)| rules.as_array().into_iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        if let Some(role) = objects.iter_mut().find(|o| o["metadata"]["name"] == of) {
            role["rules"] = rules.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(kind: &str, name: &str) -> Value {
        objects().into_iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name).unwrap()
    }

    #[test]
    fn every_line_of_the_table_is_understood() {
        for object in objects() {
            for part in ["rules", "subjects"] {
                assert!(
                    !object[part].as_array().is_some_and(|items| items.contains(&Value::Null)),
                    "{object}"
                );
            }
        }
    }

    #[test]
    fn every_binding_names_a_role_of_the_table() {
        let all = objects();
        for binding in all.iter().filter(|o| o.get("roleRef").is_some()) {
            let reference = &binding["roleRef"];
            let found = all
                .iter()
                .any(|o| o["kind"] == reference["kind"] && o["metadata"]["name"] == reference["name"]);
            assert!(found, "{reference}");
        }
    }

    #[test]
    fn collected_roles_contain_the_smaller_ones() {
        let count = |name| find("ClusterRole", name)["rules"].as_array().unwrap().len();
        assert_eq!((count("view"), count("edit"), count("admin")), (12, 27, 29));
    }

    #[test]
    fn anonymous_users_read_health_and_version_only() {
        let subjects = |o: &Value| o["subjects"].to_string();
        let open: Vec<Value> =
            objects().into_iter().filter(|o| subjects(o).contains("system:unauthenticated")).collect();
        assert_eq!(open.len(), 1);
        assert_eq!(open[0]["roleRef"]["name"], "system:public-info-viewer");
    }
}

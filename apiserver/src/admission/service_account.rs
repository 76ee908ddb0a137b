//! ServiceAccount: a pod without an account gets its namespace's `default`, and a volume with a token for it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use api_types::status::Status;
use serde_json::{Value, json};

use super::{AsyncPlugin, Review};

pub(crate) struct ServiceAccount;

const ACCOUNTS: &str = "serviceaccounts";
const DEFAULT: &str = "default";
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PREFIX: &str = "kube-api-access-";
/// Pods that a node made by itself; the API server only shows them.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How long a pod waits for its namespace's default account, which a controller makes after the namespace.
/// Kubernetes looks ten times, every 100 to 200 ms.
const PATIENCE: Duration = Duration::from_secs(2);

impl AsyncPlugin for ServiceAccount {
    const NAME: &'static str = "ServiceAccount";

    fn concerns(review: &Review<'_>) -> bool {
        review.creates("pods")
    }

    async fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        let name = match review.new.as_deref_mut() {
            Some(pod) if !is_mirror(pod) => set_name(pod),
            _ => return Ok(()),
        };
        let Some(account) = find(review, &name).await else {
            let namespace = review.namespace;
            return Err(review.forbidden(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            )));
        };
        let seed = review.name.to_owned();
        if let Some(pod) = review.new.as_deref_mut() {
            if should_mount(pod, &account) {
                mount(pod, &seed);
            }
            add_pull_secrets(pod, &account);
        }
        Ok(())
    }
}

async fn find(review: &Review<'_>, name: &str) -> Option<Arc<Value>> {
    let found = review.view.object(ACCOUNTS, review.namespace, name);
    if found.is_some() || name != DEFAULT {
        return found;
    }
    tokio::time::timeout(PATIENCE, review.view.appearing(ACCOUNTS, review.namespace, name)).await.ok()
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

/// The account's name, `default` if there is none; the old field follows the new one.
fn set_name(pod: &mut Value) -> String {
    let spec = &pod["spec"];
    let given = [&spec["serviceAccountName"], &spec["serviceAccount"]];
    let given = given.iter().filter_map(|v| v.as_str()).find(|v| !v.is_empty());
    let name = given.unwrap_or(DEFAULT).to_owned();
    if pod["spec"].is_object() {
        pod["spec"]["serviceAccountName"] = name.as_str().into();
        pod["spec"]["serviceAccount"] = name.as_str().into();
    }
    name
}

fn should_mount(pod: &Value, account: &Value) -> bool {
    let wanted = pod["spec"]["automountServiceAccountToken"].as_bool();
    wanted.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

fn mount(pod: &mut Value, seed: &str) {
    let lists = ["initContainers", "containers"];
    let has_mount =
        |c: &Value| c["volumeMounts"].as_array().into_iter().flatten().any(|m| m["mountPath"] == MOUNT);
    let containers = |pod: &Value| {
        lists.iter().flat_map(|l| pod["spec"][*l].as_array().cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    let all = containers(pod);
    if all.iter().all(has_mount) {
        return;
    }
    let existing = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let existing =
        existing.filter_map(|v| v["name"].as_str()).find(|name| name.starts_with(PREFIX)).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{PREFIX}{}", suffix(pod, seed)));
    if existing.is_none() {
        push(&mut pod["spec"], "volumes", token_volume(&name));
    }
    for list in lists {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if !has_mount(container) {
                push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
            }
        }
    }
}

/// Five letters that differ between pods and are the same for the same pod: a plugin has no randomness.
fn suffix(pod: &Value, seed: &str) -> String {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    pod["metadata"]["name"].as_str().hash(&mut hasher);
    pod["metadata"]["uid"].as_str().hash(&mut hasher);
    let mut rest = hasher.finish();
    let alphabet = api_types::names::SUFFIX_ALPHABET;
    let mut letter = || {
        let letter = alphabet[(rest % alphabet.len() as u64) as usize];
        rest /= alphabet.len() as u64;
        char::from(letter)
    };
    (0..api_types::names::SUFFIX_LENGTH).map(|_| letter()).collect()
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
            "defaultMode": 420,
        },
    })
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[field] = json!([item]),
    }
}

fn add_pull_secrets(pod: &mut Value, account: &Value) {
    let has_own = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|s| !s.is_empty());
    if let (false, Some(secrets)) =
        (has_own, account["imagePullSecrets"].as_array().filter(|s| !s.is_empty()))
    {
        pod["spec"]["imagePullSecrets"] = json!(secrets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixture::admit_async as admit;
    use crate::view::fixture::Fixture;

    fn world(account: Value) -> Fixture {
        Fixture::default().with("serviceaccounts", account)
    }

    fn account(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "ns"}})
    }

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})
    }

    #[test]
    fn a_pod_gets_the_default_account_and_its_token() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT}]}]});
        let pod = admit::<ServiceAccount>(world(account("default")), "pods", pod(spec)).unwrap();
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap();
        assert!(volume.starts_with(PREFIX) && volume.len() == PREFIX.len() + 5);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn the_pod_and_then_the_account_say_whether_a_token_is_wanted() {
        let shy = json!({"metadata": {"name": "default", "namespace": "ns"}, "automountServiceAccountToken": false});
        let mounted = |spec: Value, account: Value| {
            let pod = admit::<ServiceAccount>(world(account), "pods", pod(spec)).unwrap();
            pod["spec"].get("volumes").is_some()
        };
        let containers = json!([{"name": "a"}]);
        assert!(!mounted(json!({"containers": containers}), shy.clone()));
        assert!(mounted(json!({"containers": containers, "automountServiceAccountToken": true}), shy));
        assert!(!mounted(
            json!({"containers": containers, "automountServiceAccountToken": false}),
            account("default")
        ));
    }

    #[test]
    fn an_account_that_does_not_exist_is_refused() {
        let error = admit::<ServiceAccount>(world(account("other")), "pods", pod(json!({"containers": []})))
            .unwrap_err();
        assert_eq!(
            error.message,
            r#"pods "p" is forbidden: error looking up service account ns/default: serviceaccount "default" not found"#
        );
    }
}

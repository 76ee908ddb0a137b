//! Pods against the levels of the Pod Security Standards.

use serde_json::json;

use super::*;
use crate::UserInfo;
use crate::admission::fixture::review;
use crate::view::fixture::Fixture;

/// What a namespace with these labels says to a pod or workload: refusal, warnings.
fn asked(labels: Value, storage: &str, object: Value) -> (Option<String>, Vec<String>) {
    let world = Fixture::default().with("namespaces", json!({"metadata": {"name": "ns", "labels": labels}}));
    let user = UserInfo::admin();
    review(&world, &user, Operation::Create, storage, "", None, Some(object), |review| {
        let refusal = PodSecurity::validate(review).err().map(|status| status.message);
        (refusal, review.notes.take_warnings())
    })
}

fn enforced(level: &str, version: &str, spec: Value) -> String {
    let labels = json!({
        "pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version,
    });
    let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
    let refusal = asked(labels, "pods", pod).0.unwrap_or_default();
    refusal.strip_prefix("pods \"p\" is forbidden: violates PodSecurity ").unwrap_or(&refusal).to_owned()
}

fn hardened() -> Value {
    json!({"containers": [{"name": "a", "securityContext": {
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"}}}]})
}

#[test]
fn a_plain_pod_is_fine_by_the_baseline_and_lacks_all_that_restricted_wants() {
    let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(enforced("baseline", "latest", plain.clone()), "");
    assert_eq!(
        enforced("restricted", "latest", plain.clone()),
        "\"restricted:latest\": allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must \
         set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must \
         set securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(
        enforced("restricted", "v1.7", plain),
        "\"restricted:v1.7\": runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)"
    );
    assert_eq!(enforced("restricted", "latest", hardened()), "");
}

#[test]
fn what_the_baseline_forbids_is_named() {
    let one = |container: Value| {
        let mut container = container;
        container["name"] = json!("a");
        enforced("baseline", "latest", json!({"containers": [container]}))
    };
    assert_eq!(
        one(json!({"ports": [{"hostPort": 80}, {"hostPort": 443}, {"hostPort": 0}]})),
        "\"baseline:latest\": hostPorts (container \"a\" uses hostPorts 443, 80)"
    );
    assert_eq!(
        one(json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}})),
        "\"baseline:latest\": seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)"
    );
    assert_eq!(
        one(json!({"livenessProbe": {"httpGet": {"host": "10.0.0.1"}}})),
        "\"baseline:latest\": probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")"
    );
    assert_eq!(
        one(json!({"securityContext": {"procMount": "Unmasked"}})),
        "\"baseline:latest\": procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")"
    );
    assert_eq!(
        one(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}})),
        "\"baseline:latest\": forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")"
    );
    assert_eq!(
        enforced(
            "baseline",
            "v1.26",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports"}]}})
        ),
        "\"baseline:v1.26\": forbidden sysctls (net.ipv4.ip_local_reserved_ports)"
    );
}

#[test]
fn an_update_that_changes_no_image_is_not_judged() {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let world = Fixture::default().with("namespaces", json!({"metadata": {"name": "ns", "labels": labels}}));
    let pod = |image: &str| json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [{"name": "a", "image": image}]}});
    let judged = |new: Value| {
        let (user, old) = (UserInfo::admin(), pod("x"));
        review(&world, &user, Operation::Update, "pods", "", Some(&old), Some(new), |review| {
            PodSecurity::validate(review).is_err()
        })
    };
    assert!(!judged(pod("x")));
    assert!(judged(pod("y")));
}

#[test]
fn a_template_is_warned_of_and_let_in() {
    let template = json!({"spec": {"containers": [{"name": "a", "securityContext": {"privileged": true}}]}});
    let deployment = json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"template": template}});
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let (refusal, warnings) = asked(labels, "apps/deployments", deployment);
    assert_eq!(refusal, None);
    assert_eq!(
        warnings,
        [
            "would violate PodSecurity \"baseline:latest\": privileged (container \"a\" must not set securityContext.privileged=true)"
        ]
    );
}

#[test]
fn a_namespace_that_becomes_stricter_hears_of_its_pods_and_bad_labels_are_refused() {
    let pod =
        |name: &str| json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"hostNetwork": true}});
    let world = Fixture::default().with("pods", pod("a")).with("pods", pod("b"));
    let namespace = |level: &str| json!({"metadata": {"name": "ns", "labels": {"pod-security.kubernetes.io/enforce": level}}});
    let changed = |from: &str, to: &str| {
        let (user, old) = (UserInfo::admin(), namespace(from));
        review(
            &world,
            &user,
            Operation::Update,
            "namespaces",
            "",
            Some(&old),
            Some(namespace(to)),
            |review| {
                let refusal = PodSecurity::validate(review).err().map(|status| status.message);
                (refusal, review.notes.take_warnings())
            },
        )
    };
    assert_eq!(
        changed("privileged", "baseline").1,
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces"
        ]
    );
    assert!(changed("restricted", "baseline").1.is_empty());
    assert_eq!(
        changed("privileged", "strict").0.unwrap(),
        "Namespace \"ns\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    assert_eq!(changed("strict", "strict").0, None);
}

//! The table of kinds that have defaults of their own.

use super::extensions::{
    binding_match, claim, claim_template, flow_schema, policy, priority_level, webhooks,
};
use super::pod::{pod, pod_spec, template};
use super::{at, definition, each, ensure, is_empty, is_unset, put};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

type Rule = fn(&mut Value);

pub(super) static ROWS: &[(&str, &str, Rule)] = &[
    ("apiextensions.k8s.io", "CustomResourceDefinition", definition::complete),
    ("", "Pod", pod),
    ("", "PodTemplate", |o| at(o, &["template", "spec"], pod_spec)),
    ("", "ReplicationController", replication_controller),
    ("", "Service", service),
    ("", "Secret", secret),
    ("", "Namespace", namespace),
    ("", "Node", node),
    ("", "Endpoints", |o| each(o, "subsets", |s| each(s, "ports", |p| put(p, "protocol", "TCP")))),
    ("", "PersistentVolume", persistent_volume),
    ("", "PersistentVolumeClaim", persistent_volume_claim),
    ("", "LimitRange", |o| at(o, &["spec"], |s| each(s, "limits", limit))),
    ("apps", "Deployment", deployment),
    ("apps", "ReplicaSet", replica_set),
    ("apps", "StatefulSet", stateful_set),
    ("apps", "DaemonSet", daemon_set),
    ("batch", "Job", job),
    ("batch", "CronJob", cron_job),
    ("autoscaling", "HorizontalPodAutoscaler", horizontal_pod_autoscaler),
    ("discovery.k8s.io", "EndpointSlice", |o| each(o, "ports", slice_port)),
    ("networking.k8s.io", "NetworkPolicy", network_policy),
    ("networking.k8s.io", "IngressClass", |o| at(o, &["spec", "parameters"], |p| put(p, "scope", "Cluster"))),
    ("rbac.authorization.k8s.io", "RoleBinding", binding),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", binding),
    ("scheduling.k8s.io", "PriorityClass", |o| put(o, "preemptionPolicy", "PreemptLowerPriority")),
    ("storage.k8s.io", "StorageClass", storage_class),
    ("storage.k8s.io", "CSIDriver", csi_driver),
    ("apiregistration.k8s.io", "APIService", |o| at(o, &["spec", "service"], |s| put(s, "port", 443))),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", policy),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", binding_match),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", |o| {
        webhooks(o);
        each(o, "webhooks", |hook| put(hook, "reinvocationPolicy", "Never"));
    }),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", policy),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", binding_match),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", webhooks),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", flow_schema),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", priority_level),
    ("resource.k8s.io", "ResourceClaim", claim),
    ("resource.k8s.io", "ResourceClaimTemplate", claim_template),
];

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    if name.as_str().is_some_and(|n| !n.is_empty()) {
        ensure(ensure(object, "metadata"), "labels")["kubernetes.io/metadata.name"] = name;
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn secret(object: &mut Value) {
    put(object, "type", "Opaque");
    let texts = object.as_object_mut().and_then(|o| o.shift_remove("stringData"));
    for (key, text) in texts.as_ref().and_then(Value::as_object).into_iter().flatten() {
        if let Some(text) = text.as_str() {
            ensure(object, "data")[key] = STANDARD.encode(text).into();
        }
    }
}

fn node(object: &mut Value) {
    at(object, &["status"], |status| {
        if let Some(capacity) = status.get("capacity").filter(|c| !is_empty(Some(c))).cloned() {
            put(status, "allocatable", capacity);
        }
    });
}

fn replication_controller(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if !is_empty(Some(&labels)) {
        at(object, &["spec"], |spec| {
            if is_empty(spec.get("selector")) {
                spec["selector"] = labels.clone();
            }
        });
        copy_labels(object, labels);
    }
    at(object, &["spec"], |spec| put(spec, "replicas", 1));
    template(object);
}

fn copy_labels(object: &mut Value, labels: Value) {
    let metadata = ensure(object, "metadata");
    if is_empty(metadata.get("labels")) {
        metadata["labels"] = labels;
    }
}

fn deployment(object: &mut Value) {
    at(object, &["spec"], |spec| {
        put(spec, "replicas", 1);
        put(spec, "revisionHistoryLimit", 10);
        put(spec, "progressDeadlineSeconds", 600);
        let strategy = ensure(spec, "strategy");
        put(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            put(rolling, "maxUnavailable", "25%");
            put(rolling, "maxSurge", "25%");
        }
    });
    template(object);
}

fn replica_set(object: &mut Value) {
    at(object, &["spec"], |spec| put(spec, "replicas", 1));
    template(object);
}

fn stateful_set(object: &mut Value) {
    at(object, &["spec"], |spec| {
        put(spec, "podManagementPolicy", "OrderedReady");
        put(spec, "replicas", 1);
        put(spec, "revisionHistoryLimit", 10);
        let strategy = ensure(spec, "updateStrategy");
        put(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            put(ensure(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = ensure(spec, "persistentVolumeClaimRetentionPolicy");
        put(retention, "whenDeleted", "Retain");
        put(retention, "whenScaled", "Retain");
        each(spec, "volumeClaimTemplates", |claim| {
            put(claim, "apiVersion", "v1");
            put(claim, "kind", "PersistentVolumeClaim");
            persistent_volume_claim(claim);
        });
    });
    template(object);
}

fn daemon_set(object: &mut Value) {
    let annotations = ensure(ensure(object, "metadata"), "annotations");
    put(annotations, "deprecated.daemonset.template.generation", "1");
    at(object, &["spec"], |spec| {
        put(spec, "revisionHistoryLimit", 10);
        let strategy = ensure(spec, "updateStrategy");
        put(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            put(rolling, "maxUnavailable", 1);
            put(rolling, "maxSurge", 0);
        }
    });
    template(object);
}

fn job(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if !is_empty(Some(&labels)) {
        copy_labels(object, labels);
    }
    at(object, &["spec"], |spec| {
        if is_unset(spec.get("completions")) && is_unset(spec.get("parallelism")) {
            put(spec, "completions", 1);
        }
        put(spec, "parallelism", 1);
        let limit = if is_unset(spec.get("backoffLimitPerIndex")) { 6 } else { i32::MAX };
        put(spec, "backoffLimit", limit);
        put(spec, "completionMode", "NonIndexed");
        put(spec, "suspend", false);
        put(spec, "manualSelector", false);
        let has_policy = !is_unset(spec.get("podFailurePolicy"));
        put(spec, "podReplacementPolicy", if has_policy { "Failed" } else { "TerminatingOrFailed" });
        at(spec, &["podFailurePolicy"], |policy| {
            each(policy, "rules", |rule| each(rule, "onPodConditions", |c| put(c, "status", "True")));
        });
    });
    template(object);
}

fn cron_job(object: &mut Value) {
    at(object, &["spec"], |spec| {
        put(spec, "concurrencyPolicy", "Allow");
        put(spec, "suspend", false);
        put(spec, "successfulJobsHistoryLimit", 3);
        put(spec, "failedJobsHistoryLimit", 1);
    });
    at(object, &["spec", "jobTemplate", "spec", "template", "spec"], pod_spec);
}

fn service(object: &mut Value) {
    at(object, &["spec"], |spec| {
        put(spec, "sessionAffinity", "None");
        put(spec, "type", "ClusterIP");
        match spec["sessionAffinity"].as_str() {
            Some("ClientIP") => {
                let client = ensure(ensure(spec, "sessionAffinityConfig"), "clientIP");
                put(client, "timeoutSeconds", 10800);
            }
            _ => spec.as_object_mut().into_iter().for_each(|s| drop(s.shift_remove("sessionAffinityConfig"))),
        }
        each(spec, "ports", |port| {
            put(port, "protocol", "TCP");
            if port.get("targetPort").is_none_or(|p| p.is_null() || *p == 0 || *p == "") {
                port["targetPort"] = port["port"].clone();
            }
        });
        traffic(spec);
    });
}

fn traffic(spec: &mut Value) {
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
    let external = !is_empty(spec.get("externalIPs"));
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        put(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        put(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        put(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn slice_port(port: &mut Value) {
    put(port, "name", "");
    put(port, "protocol", "TCP");
}

fn persistent_volume(object: &mut Value) {
    put(ensure(object, "status"), "phase", "Pending");
    at(object, &["spec"], |spec| {
        put(spec, "persistentVolumeReclaimPolicy", "Retain");
        put(spec, "volumeMode", "Filesystem");
        at(spec, &["hostPath"], |source| put(source, "type", ""));
    });
}

fn persistent_volume_claim(object: &mut Value) {
    put(ensure(object, "status"), "phase", "Pending");
    at(object, &["spec"], |spec| put(spec, "volumeMode", "Filesystem"));
}

/// Of a container's limits: the maximum is the default limit, and that is the default request.
fn limit(item: &mut Value) {
    if item["type"] != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(amounts) = item[from].as_object().cloned() else { continue };
        let target = ensure(item, to);
        for (name, amount) in amounts {
            put(target, &name, amount);
        }
    }
}

fn network_policy(object: &mut Value) {
    at(object, &["spec"], |spec| {
        for direction in ["ingress", "egress"] {
            each(spec, direction, |rule| each(rule, "ports", |port| put(port, "protocol", "TCP")));
        }
        if is_empty(spec.get("policyTypes")) {
            let types =
                if is_empty(spec.get("egress")) { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
            spec["policyTypes"] = types;
        }
    });
}

fn binding(object: &mut Value) {
    const RBAC: &str = "rbac.authorization.k8s.io";
    put(ensure(object, "roleRef"), "apiGroup", RBAC);
    each(object, "subjects", |subject| {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            put(subject, "apiGroup", RBAC);
        }
    });
}

fn storage_class(object: &mut Value) {
    put(object, "reclaimPolicy", "Delete");
    put(object, "volumeBindingMode", "Immediate");
}

fn csi_driver(object: &mut Value) {
    at(object, &["spec"], |spec| {
        put(spec, "attachRequired", true);
        put(spec, "podInfoOnMount", false);
        put(spec, "storageCapacity", false);
        put(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        put(spec, "requiresRepublish", false);
        put(spec, "seLinuxMount", false);
        if is_empty(spec.get("volumeLifecycleModes")) {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    });
}

fn horizontal_pod_autoscaler(object: &mut Value) {
    at(object, &["spec"], |spec| {
        put(spec, "minReplicas", 1);
        if is_empty(spec.get("metrics")) {
            let target = json!({"type": "Utilization", "averageUtilization": 80});
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        }
        at(spec, &["behavior"], |behavior| {
            let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
            let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
            let up = ensure(behavior, "scaleUp");
            put(up, "stabilizationWindowSeconds", 0);
            scaling_rules(up, json!([pods, percent]));
            scaling_rules(ensure(behavior, "scaleDown"), json!([percent]));
        });
    });
}

fn scaling_rules(rules: &mut Value, policies: Value) {
    put(rules, "selectPolicy", "Max");
    put(rules, "policies", policies);
}

//! A smallest valid object of each kind.

use api_types::kinds::Kind;
use serde_json::{Value, json};

fn pod_template() -> Value {
    json!({
        "metadata": { "labels": { "app": "x" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    })
}

fn job_spec() -> Value {
    let mut template = pod_template();
    template["spec"]["restartPolicy"] = json!("Never");
    json!({ "template": template })
}

/// A request for a certificate of `CN=sample`.
const REQUEST: &str = concat!(
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlITU1ITUNBUUF3RVRFUE1BMEdBMVVFQXd3R2MyRn",
    "RjR3hsTUZrd0V3WUhLb1pJemowQ0FRWUlLb1pJemowRApBUWNEUWdBRWFzWW0xZWxwVy9Ob2VYdGNnWEliUmhoK1hC",
    "L29TZVNwYnZ0VHRPcmRuT1A4YzNmK0pWbzZXNGh2CnhKWVlSMmw2TmhHTzRSeEFCWkMwWG5sYm40alU0S0FBTUFvR0",
    "NDcUdTTTQ5QkFNQ0Ewa0FNRVlDSVFDMXhFZkcKbC9ZYjM0aXFiMWNJem84MDNUQjlVR0RLODRYRGt6K3NQUlEwTlFJ",
    "aEFJdHBnNTVlaDJyZUIrMHlFTk5xdGhSRAo2UysvSEpCMExQc0w1a0NlUXhDbwotLS0tLUVORCBDRVJUSUZJQ0FURS",
    "BSRVFVRVNULS0tLS0K",
);

/// What a kind needs besides its name; most need nothing.
fn parts(kind: &str) -> Value {
    let selector = json!({ "matchLabels": { "app": "x" } });
    match kind {
        "Pod" => json!({ "spec": pod_template()["spec"] }),
        "PodTemplate" => json!({ "template": pod_template() }),
        "ReplicationController" => {
            json!({ "spec": { "selector": { "app": "x" }, "template": pod_template() } })
        }
        "Service" => json!({ "spec": { "ports": [{ "port": 80 }] } }),
        "PersistentVolume" => json!({ "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/tmp/x" },
        }}),
        "PersistentVolumeClaim" => json!({ "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
        }}),
        "Deployment" | "ReplicaSet" | "DaemonSet" => {
            json!({ "spec": { "selector": selector, "template": pod_template() } })
        }
        "StatefulSet" => {
            json!({ "spec": { "serviceName": "s", "selector": selector, "template": pod_template() } })
        }
        "ControllerRevision" => json!({ "revision": 1, "data": { "a": "b" } }),
        "HorizontalPodAutoscaler" => json!({ "spec": {
            "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" },
        }}),
        "Job" => json!({ "spec": job_spec() }),
        "CronJob" => json!({ "spec": { "schedule": "@hourly", "jobTemplate": { "spec": job_spec() } } }),
        "CertificateSigningRequest" => json!({ "spec": {
            "request": REQUEST, "signerName": "example.com/signer", "usages": ["client auth"],
        }}),
        "Lease" => json!({ "spec": { "holderIdentity": "me", "leaseDurationSeconds": 10 } }),
        "EndpointSlice" => json!({ "addressType": "IPv4", "endpoints": [], "ports": [] }),
        "IngressClass" => json!({ "spec": { "controller": "example.com/c" } }),
        "Ingress" => {
            json!({ "spec": { "defaultBackend": { "service": { "name": "s", "port": { "number": 80 } } } } })
        }
        "NetworkPolicy" => json!({ "spec": { "podSelector": {} } }),
        "RuntimeClass" => json!({ "handler": "h" }),
        "PodDisruptionBudget" => json!({ "spec": { "minAvailable": 1, "selector": selector } }),
        "ClusterRoleBinding" | "RoleBinding" => json!({
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" }, "subjects": [],
        }),
        "ClusterRole" | "Role" => json!({ "rules": [] }),
        "PriorityClass" => json!({ "value": 5 }),
        "StorageClass" => json!({ "provisioner": "example.com/p" }),
        _ => extension_parts(kind),
    }
}

/// The same of kinds that extend the server or describe machines.
fn extension_parts(kind: &str) -> Value {
    let rule = json!({
        "apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["things"],
    });
    let matching = json!({ "resourceRules": [rule] });
    let hook = json!({
        "name": "check.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": { "url": "https://hooks.example.com/check" }, "rules": [rule], "failurePolicy": "Ignore",
    });
    let devices =
        json!({ "requests": [{ "name": "one", "exactly": { "deviceClassName": "dc.example.com" } }] });
    match kind {
        "IPAddress" => json!({ "spec": { "parentRef": {
            "resource": "services", "namespace": "default", "name": "s",
        } } }),
        "ServiceCIDR" => json!({ "spec": { "cidrs": ["198.51.100.0/24"] } }),
        "CSIStorageCapacity" => json!({ "storageClassName": "slow", "capacity": "10Gi" }),
        "VolumeAttachment" => json!({ "spec": {
            "attacher": "disk.csi.example.com", "nodeName": "n1", "source": { "persistentVolumeName": "pv" },
        } }),
        "VolumeAttributesClass" => {
            json!({ "driverName": "disk.csi.example.com", "parameters": { "tier": "gold" } })
        }
        "CSINode" => json!({ "spec": { "drivers": [{ "name": "disk.csi.example.com", "nodeID": "n1" }] } }),
        "MutatingAdmissionPolicy" => json!({ "spec": {
            "matchConstraints": matching, "reinvocationPolicy": "Never", "failurePolicy": "Ignore",
            "mutations": [{ "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": "Object{}" } }],
        } }),
        "ValidatingAdmissionPolicy" => json!({ "spec": {
            "matchConstraints": matching, "validations": [{ "expression": "true" }],
        } }),
        "MutatingAdmissionPolicyBinding" => json!({ "spec": { "policyName": "none.example.com" } }),
        "ValidatingAdmissionPolicyBinding" => {
            json!({ "spec": { "policyName": "none.example.com", "validationActions": ["Deny"] } })
        }
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => json!({ "webhooks": [hook] }),
        "DeviceClass" => {
            json!({ "spec": { "selectors": [{ "cel": { "expression": "device.driver == 'gpu.example.com'" } }] } })
        }
        "ResourceClaim" => json!({ "spec": { "devices": devices } }),
        "ResourceClaimTemplate" => json!({ "spec": { "spec": { "devices": devices } } }),
        "ResourceSlice" => json!({ "spec": {
            "driver": "gpu.example.com", "nodeName": "n1", "devices": [{ "name": "gpu-0" }],
            "pool": { "name": "n1", "generation": 1, "resourceSliceCount": 1 },
        } }),
        "FlowSchema" => json!({ "spec": { "priorityLevelConfiguration": { "name": "catch-all" } } }),
        "PriorityLevelConfiguration" => json!({ "spec": {
            "type": "Limited", "limited": { "limitResponse": { "type": "Reject" } },
        } }),
        "LimitRange" => json!({ "spec": { "limits": [{ "type": "Container", "max": { "cpu": "2" } }] } }),
        _ => json!({}),
    }
}

/// Names of some kinds say what the object is; `word` is the part that tells samples apart.
pub(crate) fn name_of(kind: &Kind, word: &str) -> String {
    match kind.kind.as_str() {
        "IPAddress" => format!("192.0.2.{}", word.len()),
        "APIService" => format!("v1.{word}.example.com"),
        "CustomResourceDefinition" => format!("lamps.{word}.example.com"),
        _ => word.to_owned(),
    }
}

/// Parts that repeat what the name says.
fn named_parts(kind: &str, word: &str) -> Value {
    let group = format!("{word}.example.com");
    match kind {
        "APIService" => json!({ "spec": {
            "group": group, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "insecureSkipTLSVerify": true, "service": { "namespace": "default", "name": "none" },
        } }),
        "CustomResourceDefinition" => json!({ "spec": {
            "group": group, "scope": "Namespaced", "names": { "plural": "lamps", "kind": "Lamp" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } } }],
        } }),
        _ => json!({}),
    }
}

/// An object of `kind`, in the namespace `default` if it lives in one, with `word` in its name.
pub(crate) fn object(kind: &Kind, word: &str) -> Value {
    let mut object = json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": name_of(kind, word) } });
    let parts = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Event") => json!({
            "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" }, "reason": "r", "message": "m",
        }),
        ("events.k8s.io", "Event") => json!({
            "regarding": { "kind": "Pod", "name": "p", "namespace": "default" }, "reason": "R", "action": "A",
            "reportingController": "example.com/c", "reportingInstance": "i", "type": "Normal",
            "eventTime": "2026-01-01T00:00:00.000000Z",
        }),
        _ => parts(&kind.kind),
    };
    for parts in [parts, named_parts(&kind.kind, word)] {
        object.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    }
    object
}

/// The path of the collection.
pub(crate) fn collection(kind: &Kind) -> String {
    let root = match kind.group.as_str() {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    if kind.is_namespaced() {
        format!("{root}/namespaces/default/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    }
}

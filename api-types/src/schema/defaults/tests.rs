//! Defaults as the API server's clients see them.

use super::super::builtin;
use super::set_defaults;
use crate::kinds::find_kind;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

fn check(group: &str, kind: &str, mut object: Value, expect: Expect) {
    let kind = crate::kinds::builtin().iter().find(|k| k.group == group && k.kind == kind).unwrap();
    set_defaults(kind, &builtin(kind).unwrap(), &mut object);
    let once = object.clone();
    set_defaults(kind, &builtin(kind).unwrap(), &mut object);
    assert_eq!(object, once, "defaulting twice changes nothing");
    object.sort_all_objects();
    expect.assert_eq(&object.to_string());
}

fn containers() -> Value {
    json!([{"name": "c", "image": "registry:5000/app", "ports": [{"containerPort": 80}]}])
}

#[test]
fn a_pod_gets_what_kubernetes_gives_it() {
    check(
        "",
        "Pod",
        json!({"spec": {"containers": containers()}}),
        expect![[
            r#"{"metadata":{},"spec":{"containers":[{"image":"registry:5000/app","imagePullPolicy":"Always","name":"c","ports":[{"containerPort":80,"protocol":"TCP"}],"resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30},"status":{}}"#
        ]],
    );
}

#[test]
fn one_address_of_a_pod_is_the_first_of_the_list() {
    let kind = crate::kinds::builtin().iter().find(|k| k.group.is_empty() && k.kind == "Pod").unwrap();
    let mut pod =
        json!({"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}], "hostIP": "10.0.0.9"}});
    set_defaults(kind, &builtin(kind).unwrap(), &mut pod);
    assert_eq!(pod["status"]["podIPs"], json!([{"ip": "10.0.0.1"}]));
    assert_eq!(pod["status"]["hostIPs"], json!([{"ip": "10.0.0.9"}]));
}

#[test]
fn a_limited_pod_asks_for_what_its_containers_ask_for_or_for_its_limit() {
    let kind = crate::kinds::builtin().iter().find(|k| k.group.is_empty() && k.kind == "Pod").unwrap();
    let container =
        json!({"name": "c", "resources": {"requests": {"cpu": "500m"}, "limits": {"hugepages-2Mi": "4Mi"}}});
    let whole = |resources: serde_json::Value| {
        let mut pod = json!({"spec": {"containers": [container], "resources": resources}});
        set_defaults(kind, &builtin(kind).unwrap(), &mut pod);
        pod["spec"]["resources"].clone()
    };
    assert_eq!(
        whole(json!({"limits": {"cpu": "2", "memory": "1Gi"}})),
        json!({"limits": {"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "4Mi"},
            "requests": {"cpu": "500m", "memory": "1Gi", "hugepages-2Mi": "4Mi"}})
    );
    assert_eq!(whole(json!({})), json!({}));
}

#[test]
fn limits_become_requests_and_host_ports_follow_the_host_network() {
    let container = json!({"name": "c", "image": "a:1", "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}});
    check(
        "",
        "Pod",
        json!({"spec": {"hostNetwork": true, "containers": [container]}}),
        expect![[
            r#"{"metadata":{},"spec":{"containers":[{"image":"a:1","imagePullPolicy":"IfNotPresent","name":"c","ports":[{"containerPort":80,"hostPort":80,"protocol":"TCP"}],"resources":{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"500m","memory":"1Gi"}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"hostNetwork":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30},"status":{}}"#
        ]],
    );
}

#[test]
fn volumes_and_probes_are_completed() {
    let container = json!({"name": "c", "image": "a@sha256:0", "livenessProbe": {"httpGet": {"port": 80}}});
    let volumes = json!([{"name": "a"}, {"name": "b", "secret": {"secretName": "s"}},
        {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
    check(
        "",
        "PodTemplate",
        json!({"template": {"spec": {"containers": [container], "volumes": volumes}}}),
        expect![[
            r#"{"metadata":{},"template":{"metadata":{},"spec":{"containers":[{"image":"a@sha256:0","imagePullPolicy":"IfNotPresent","livenessProbe":{"failureThreshold":3,"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":10,"successThreshold":1,"timeoutSeconds":1},"name":"c","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30,"volumes":[{"emptyDir":{},"name":"a"},{"name":"b","secret":{"defaultMode":420,"secretName":"s"}},{"name":"p","projected":{"defaultMode":420,"sources":[{"serviceAccountToken":{"expirationSeconds":3600,"path":"t"}}]}}]}}}"#
        ]],
    );
}

#[test]
fn a_deployment_rolls_a_quarter_at_a_time() {
    check(
        "apps",
        "Deployment",
        json!({"spec": {"template": {"spec": {}}}}),
        expect![[
            r#"{"metadata":{},"spec":{"progressDeadlineSeconds":600,"replicas":1,"revisionHistoryLimit":10,"strategy":{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"},"type":"RollingUpdate"},"template":{"metadata":{},"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}},"status":{}}"#
        ]],
    );
    let recreate = json!({"spec": {"strategy": {"type": "Recreate"}}});
    check(
        "apps",
        "Deployment",
        recreate,
        expect![[
            r#"{"metadata":{},"spec":{"progressDeadlineSeconds":600,"replicas":1,"revisionHistoryLimit":10,"strategy":{"type":"Recreate"},"template":{"metadata":{},"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}},"status":{}}"#
        ]],
    );
}

#[test]
fn other_workloads_have_their_own() {
    check(
        "apps",
        "StatefulSet",
        json!({"spec": {"volumeClaimTemplates": [{}]}}),
        expect![[
            r#"{"metadata":{},"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Retain","whenScaled":"Retain"},"podManagementPolicy":"OrderedReady","replicas":1,"revisionHistoryLimit":10,"serviceName":"","template":{"metadata":{},"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}},"updateStrategy":{"rollingUpdate":{"partition":0},"type":"RollingUpdate"},"volumeClaimTemplates":[{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{},"spec":{"resources":{},"volumeMode":"Filesystem"},"status":{"phase":"Pending"}}]},"status":{"availableReplicas":0,"replicas":0}}"#
        ]],
    );
    check(
        "apps",
        "DaemonSet",
        json!({"spec": {}}),
        expect![[
            r#"{"metadata":{"annotations":{"deprecated.daemonset.template.generation":"1"}},"spec":{"revisionHistoryLimit":10,"template":{"metadata":{},"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}},"updateStrategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1},"type":"RollingUpdate"}},"status":{"currentNumberScheduled":0,"desiredNumberScheduled":0,"numberMisscheduled":0,"numberReady":0}}"#
        ]],
    );
    check(
        "batch",
        "Job",
        json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
        expect![[
            r#"{"metadata":{"labels":{"a":"b"}},"spec":{"backoffLimit":6,"completionMode":"NonIndexed","completions":1,"manualSelector":false,"parallelism":1,"podReplacementPolicy":"TerminatingOrFailed","suspend":false,"template":{"metadata":{"labels":{"a":"b"}},"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}},"status":{}}"#
        ]],
    );
    check(
        "batch",
        "Job",
        json!({"spec": {"parallelism": 3, "backoffLimitPerIndex": 1}}),
        expect![[
            r#"{"metadata":{},"spec":{"backoffLimit":2147483647,"backoffLimitPerIndex":1,"completionMode":"NonIndexed","manualSelector":false,"parallelism":3,"podReplacementPolicy":"TerminatingOrFailed","suspend":false,"template":{"metadata":{},"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}},"status":{}}"#
        ]],
    );
    check(
        "batch",
        "CronJob",
        json!({"spec": {}}),
        expect![[
            r#"{"metadata":{},"spec":{"concurrencyPolicy":"Allow","failedJobsHistoryLimit":1,"jobTemplate":{"metadata":{},"spec":{"template":{"metadata":{},"spec":{"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}}},"schedule":"","successfulJobsHistoryLimit":3,"suspend":false},"status":{}}"#
        ]],
    );
}

#[test]
fn a_service_gets_ports_and_traffic_policies() {
    check(
        "",
        "Service",
        json!({"spec": {"ports": [{"port": 80}]}}),
        expect![[
            r#"{"metadata":{},"spec":{"internalTrafficPolicy":"Cluster","ports":[{"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","type":"ClusterIP"},"status":{"loadBalancer":{}}}"#
        ]],
    );
    check(
        "",
        "Service",
        json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}),
        expect![[
            r#"{"metadata":{},"spec":{"allocateLoadBalancerNodePorts":true,"externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":10800}},"type":"LoadBalancer"},"status":{"loadBalancer":{}}}"#
        ]],
    );
}

#[test]
fn smaller_kinds() {
    check(
        "",
        "Namespace",
        json!({"metadata": {"name": "a"}}),
        expect![[
            r#"{"metadata":{"labels":{"kubernetes.io/metadata.name":"a"},"name":"a"},"spec":{},"status":{}}"#
        ]],
    );
    check(
        "",
        "Secret",
        json!({"data": {"a": "eA=="}, "stringData": {"a": "wins", "b": ""}}),
        expect![[r#"{"data":{"a":"d2lucw==","b":""},"metadata":{},"type":"Opaque"}"#]],
    );
    check("", "Secret", json!({}), expect![[r#"{"metadata":{},"type":"Opaque"}"#]]);
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
        expect![[
            r#"{"metadata":{},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"u"},{"kind":"ServiceAccount","name":"s"}]}"#
        ]],
    );
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"spec": {"egress": [{}]}}),
        expect![[
            r#"{"metadata":{},"spec":{"egress":[{}],"podSelector":{},"policyTypes":["Ingress","Egress"]}}"#
        ]],
    );
    let limits = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Gi"}}]}});
    check(
        "",
        "LimitRange",
        limits,
        expect![[
            r#"{"metadata":{},"spec":{"limits":[{"default":{"cpu":"2"},"defaultRequest":{"cpu":"2","memory":"1Gi"},"max":{"cpu":"2"},"min":{"cpu":"1","memory":"1Gi"},"type":"Container"}]}}"#
        ]],
    );
}

#[test]
fn objects_of_the_wrong_types_stay_as_they_are() {
    for kind in crate::kinds::builtin() {
        for object in
            [json!([]), json!({"metadata": "x"}), json!({"spec": {"template": 1, "strategy": []}, "data": 1})]
        {
            let mut defaulted = object.clone();
            set_defaults(kind, &builtin(kind).unwrap(), &mut defaulted);
            if !builtin(kind).unwrap().check(&object).type_errors.is_empty() {
                assert_eq!(defaulted, object, "{}", kind.kind);
            }
        }
    }
}

#[test]
fn every_row_names_a_kind() {
    for (group, kind, _) in super::rows::ROWS {
        let version = if *group == "autoscaling" { "v2" } else { "v1" };
        assert!(find_kind(group, version, kind).is_some(), "{group} {kind}");
    }
}

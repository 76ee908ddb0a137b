//! Ownership as it comes out of sequences of writes.

use super::*;
use crate::kinds::find_kind;
use crate::schema::{builtin, set_defaults};
use expect_test::{Expect, expect};
use serde_json::json;

/// An object that several managers write in turn.
struct Object {
    kind: &'static crate::kinds::Kind,
    schema: Schema,
    live: Option<Value>,
    second: i64,
}

impl Object {
    fn new(api_version: &str, kind: &str) -> Object {
        let (group, version) = crate::kinds::split_api_version(api_version);
        let kind = find_kind(group, version, kind).unwrap();
        Object { kind, schema: builtin(kind).unwrap(), live: None, second: 0 }
    }

    fn finish(&self, object: &mut Value) {
        self.schema.normalize(object);
        set_defaults(self.kind, &self.schema, object);
    }

    fn with_writer<T>(&mut self, manager: &str, write: impl FnOnce(&mut Object, &Writer<'_>) -> T) -> T {
        self.second += 1;
        let (api_version, now) = (self.kind.api_version(), DateTime::from_timestamp(self.second, 0).unwrap());
        let writer = Writer {
            manager,
            api_version: &api_version,
            subresource: "",
            now,
            reset: &[&["status"]],
            translate: None,
        };
        write(self, &writer)
    }

    fn apply(&mut self, manager: &str, force: bool, config: Value) -> Result<(), ApplyError> {
        self.with_writer(manager, |o, writer| {
            let mut object = apply(&o.schema, o.live.as_ref(), &config, writer, force)?.object;
            o.finish(&mut object);
            o.live = Some(object);
            Ok(())
        })
    }

    fn update(&mut self, manager: &str, mut object: Value) {
        self.with_writer(manager, |o, writer| {
            o.finish(&mut object);
            track(&o.schema, o.live.as_ref(), &mut object, writer);
            o.live = Some(object);
        });
    }

    fn check(&self, expect: Expect) {
        let mut live = self.live.clone().unwrap();
        let entries = live["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
        let mut lines = vec![live.to_string()];
        for e in entries.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let text = |k: &str| e[k].as_str().unwrap_or("").to_owned();
            lines.push(format!(
                "{} {} {} {}",
                text("manager"),
                text("operation"),
                text("time"),
                e["fieldsV1"]
            ));
        }
        expect.assert_eq(&lines.join("\n"));
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn who_applies_owns_its_fields_and_no_defaults() {
    let mut o = Object::new("apps/v1", "Deployment");
    let containers = json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]);
    o.apply(
        "alpha",
        false,
        deployment(json!({"replicas": 2, "template": {"spec": {"containers": containers}}})),
    )
    .unwrap();
    o.check(expect![[r#"
        {"metadata":{"name":"a"},"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}},"template":{"metadata":{},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}],"resources":{},"imagePullPolicy":"Always","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","restartPolicy":"Always","terminationGracePeriodSeconds":30,"schedulerName":"default-scheduler","securityContext":{}}},"replicas":2,"revisionHistoryLimit":10,"progressDeadlineSeconds":600},"status":{},"apiVersion":"apps/v1","kind":"Deployment"}
        alpha Apply 1970-01-01T00:00:01Z {"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}}}}}}"#]]);
}

#[test]
fn who_creates_owns_defaults_too() {
    let mut o = Object::new("v1", "Service");
    o.update(
        "creator",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {"x": "y"}},
        "spec": {"ports": [{"port": 80}]}}),
    );
    o.check(expect![[r#"
        {"apiVersion":"v1","kind":"Service","metadata":{"name":"a","labels":{"x":"y"}},"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","type":"ClusterIP","internalTrafficPolicy":"Cluster"},"status":{"loadBalancer":{}}}
        creator Update 1970-01-01T00:00:01Z {"f:metadata":{"f:labels":{".":{},"f:x":{}}},"f:spec":{"f:internalTrafficPolicy":{},"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:sessionAffinity":{},"f:type":{}}}"#]]);
}

#[test]
fn disjoint_owners_do_not_conflict() {
    let mut o = Object::new("v1", "ConfigMap");
    o.apply("alpha", false, config_map(json!({"x": "1"}))).unwrap();
    o.apply("beta", false, config_map(json!({"y": "1"}))).unwrap();
    o.check(expect![[r#"
        {"metadata":{"name":"a"},"apiVersion":"v1","kind":"ConfigMap","data":{"x":"1","y":"1"}}
        alpha Apply 1970-01-01T00:00:01Z {"f:data":{"f:x":{}}}
        beta Apply 1970-01-01T00:00:02Z {"f:data":{"f:y":{}}}"#]]);
}

#[test]
fn a_different_value_conflicts_and_force_takes_the_field() {
    let mut o = Object::new("v1", "ConfigMap");
    o.apply("alpha", false, config_map(json!({"x": "1", "z": "1"}))).unwrap();
    let error = o.apply("beta", false, config_map(json!({"x": "2"}))).unwrap_err();
    expect![[r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Apply failed with 1 conflict: conflict with \"alpha\": .data.x","reason":"Conflict","details":{"causes":[{"reason":"FieldManagerConflict","message":"conflict with \"alpha\"","field":".data.x"}]},"code":409}"#]].assert_eq(&error.to_status().to_value().to_string());
    o.apply("beta", true, config_map(json!({"x": "2"}))).unwrap();
    o.check(expect![[r#"
        {"metadata":{"name":"a"},"apiVersion":"v1","kind":"ConfigMap","data":{"x":"2","z":"1"}}
        alpha Apply 1970-01-01T00:00:01Z {"f:data":{"f:z":{}}}
        beta Apply 1970-01-01T00:00:03Z {"f:data":{"f:x":{}}}"#]]);
}

#[test]
fn several_conflicts_are_listed_by_owner() {
    let mut o = Object::new("v1", "ConfigMap");
    o.apply("alpha", false, config_map(json!({"x": "1"}))).unwrap();
    o.update("writer", config_map(json!({"x": "1", "y": "1"})));
    let error = o.apply("beta", false, config_map(json!({"x": "2", "y": "2"}))).unwrap_err();
    expect![[r#"
        Apply failed with 2 conflicts: conflicts with "alpha":
        - .data.x
        conflicts with "writer" using v1:
        - .data.y"#]]
    .assert_eq(&error.to_string());
}

#[test]
fn the_same_value_is_shared_and_outlives_one_owner() {
    let mut o = Object::new("v1", "ConfigMap");
    o.apply("alpha", false, config_map(json!({"x": "1"}))).unwrap();
    o.apply("beta", false, config_map(json!({"x": "1", "y": "2"}))).unwrap();
    o.apply("beta", false, config_map(json!({}))).unwrap();
    o.check(expect![[r#"
        {"metadata":{"name":"a"},"apiVersion":"v1","kind":"ConfigMap","data":{"x":"1"}}
        alpha Apply 1970-01-01T00:00:01Z {"f:data":{"f:x":{}}}
        beta Apply 1970-01-01T00:00:03Z {"f:data":{}}"#]]);
}

#[test]
fn what_is_applied_no_more_is_removed() {
    let mut o = Object::new("apps/v1", "Deployment");
    let with = |ports: Value| {
        deployment(json!({"template": {"spec": {"containers": [
        {"name": "c", "image": "i", "ports": ports}]}}}))
    };
    o.apply("alpha", false, with(json!([{"containerPort": 80}, {"containerPort": 81}]))).unwrap();
    o.apply("alpha", false, with(json!([{"containerPort": 81}]))).unwrap();
    let ports = &o.live.as_ref().unwrap()["spec"]["template"]["spec"]["containers"][0]["ports"];
    expect![[r#"[{"containerPort":81,"protocol":"TCP"}]"#]].assert_eq(&ports.to_string());
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut o = Object::new("v1", "ConfigMap");
    o.apply("alpha", false, config_map(json!({"x": "1", "y": "1"}))).unwrap();
    o.update("writer", config_map(json!({"x": "2"})));
    o.check(expect![[r#"
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"2"}}
        writer Update 1970-01-01T00:00:02Z {"f:data":{"f:x":{}}}"#]]);
}

#[test]
fn objects_that_nobody_tracked_are_first_owned_as_a_whole() {
    let mut o = Object::new("v1", "ConfigMap");
    o.live = Some(config_map(json!({"x": "1"})));
    o.apply("alpha", false, config_map(json!({"y": "1"}))).unwrap();
    o.check(expect![[r#"
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"1","y":"1"}}
        alpha Apply 1970-01-01T00:00:01Z {"f:data":{"f:y":{}}}
        before-first-apply Update 1970-01-01T00:00:01Z {"f:data":{".":{},"f:x":{}}}"#]]);
}

#[test]
fn sets_and_lists_of_maps_are_shared_by_item() {
    let mut o = Object::new("v1", "ConfigMap");
    let with = |finalizer: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "finalizers": [finalizer]}})
    };
    o.apply("alpha", false, with("a.example/x")).unwrap();
    o.apply("beta", false, with("b.example/y")).unwrap();
    o.check(expect![[r#"
        {"metadata":{"name":"a","finalizers":["a.example/x","b.example/y"]},"apiVersion":"v1","kind":"ConfigMap"}
        alpha Apply 1970-01-01T00:00:01Z {"f:metadata":{"f:finalizers":{"v:\"a.example/x\"":{}}}}
        beta Apply 1970-01-01T00:00:02Z {"f:metadata":{"f:finalizers":{"v:\"b.example/y\"":{}}}}"#]]);
}

#[test]
fn merged_lists_keep_the_configurations_order() {
    let mut o = Object::new("v1", "Pod");
    let with = |names: &[&str]| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()}})
    };
    o.apply("alpha", false, with(&["a", "b", "c"])).unwrap();
    o.apply("beta", false, with(&["c", "n", "a"])).unwrap();
    let containers = o.live.as_ref().unwrap()["spec"]["containers"].as_array().unwrap();
    let names: Vec<_> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    expect!["b c n a"].assert_eq(&names.join(" "));
}

#[test]
fn one_empty_entry_resets_ownership() {
    let mut o = Object::new("v1", "ConfigMap");
    o.apply("alpha", false, config_map(json!({"x": "1"}))).unwrap();
    let mut object = config_map(json!({"x": "1"}));
    object["metadata"]["managedFields"] = json!([{}]);
    o.update("writer", object);
    o.check(expect![[r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"1"}}"#]]);
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let refused = |config: Value| Object::new("v1", "Pod").apply("a", false, config).unwrap_err().to_string();
    let pod =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec});
    expect!["failed to create typed patch object (/a; /v1, Kind=Pod): .spec.containerz: field not declared in schema"].assert_eq(&refused(pod(json!({"containerz": []}))));
    expect![[r#"failed to create typed patch object (/a; /v1, Kind=Pod): .spec.containers: duplicate entries for key [name="a"]"#]].assert_eq(&refused(pod(json!({"containers": [{"name": "a"}, {"name": "a"}]}))));
    expect!["failed to create typed patch object (/a; /v1, Kind=Pod): .spec.containers[0].ports: json: cannot unmarshal string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort"].assert_eq(&refused(pod(json!({"containers": [{"name": "a", "ports": "80"}]}))));
    expect!["metadata.managedFields must be nil"]
        .assert_eq(&refused(json!({"metadata": {"managedFields": []}})));
}

#[test]
fn more_than_ten_updaters_are_joined() {
    let mut o = Object::new("v1", "ConfigMap");
    let mut data = json!({});
    for i in 0..13 {
        data[format!("k{i:02}")] = json!("v");
        o.update(&format!("m{i:02}"), config_map(data.clone()));
    }
    let entries = o.live.as_ref().unwrap()["metadata"]["managedFields"].as_array().unwrap();
    let managers: Vec<_> = entries.iter().map(|e| e["manager"].as_str().unwrap()).collect();
    expect!["ancient-changes m04 m05 m06 m07 m08 m09 m10 m11 m12"].assert_eq(&managers.join(" "));
}

/// A ConfigMap as client-side apply leaves it: its configuration in the annotation.
fn applied_by_client(data: Value) -> Value {
    let mut object = config_map(data);
    let configuration = object.to_string();
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": configuration});
    object
}

#[test]
fn kubectl_takes_from_itself_what_it_applied_on_the_client_side() {
    let mut o = Object::new("v1", "ConfigMap");
    o.update("kubectl-client-side-apply", applied_by_client(json!({"x": "1"})));
    o.apply("kubectl", false, config_map(json!({"x": "<2>"}))).unwrap();
    o.check(expect![[r#"
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"apiVersion\":\"v1\",\"data\":{\"x\":\"\\u003c2\\u003e\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}\n"}},"data":{"x":"<2>"}}
        kubectl Apply 1970-01-01T00:00:02Z {"f:data":{"f:x":{}}}
        kubectl-client-side-apply Update 1970-01-01T00:00:01Z {"f:data":{},"f:metadata":{"f:annotations":{".":{},"f:kubectl.kubernetes.io/last-applied-configuration":{}}}}"#]]);
}

#[test]
fn what_changed_since_the_client_side_apply_and_other_managers_still_conflict() {
    let mut o = Object::new("v1", "ConfigMap");
    o.update("kubectl-client-side-apply", applied_by_client(json!({"x": "1", "y": "1"})));
    let mut edited = o.live.clone().unwrap();
    edited["data"]["y"] = json!("edited");
    o.update("editor", edited);
    let both = config_map(json!({"x": "2", "y": "2"}));
    let conflicts = |result: Result<(), ApplyError>| match result.unwrap_err() {
        ApplyError::Conflicts(conflicts) => conflicts.into_iter().map(|c| c.path).collect::<Vec<_>>(),
        other => panic!("{other}"),
    };
    assert_eq!(conflicts(o.apply("kubectl", false, both.clone())), [".data.y"]);
    assert_eq!(conflicts(o.apply("somebody", false, both)), [".data.x", ".data.y"]);
}

#[test]
fn an_owner_that_drops_all_of_the_metadata_it_had_keeps_the_name() {
    let mut o = Object::new("v1", "ConfigMap");
    let finalized = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "finalizers": ["example.com/a"]}});
    o.apply("alpha", false, finalized).unwrap();
    o.apply("alpha", false, config_map(json!({"x": "1"}))).unwrap();
    o.check(expect![[r#"
        {"metadata":{"name":"a"},"apiVersion":"v1","kind":"ConfigMap","data":{"x":"1"}}
        alpha Apply 1970-01-01T00:00:02Z {"f:data":{"f:x":{}}}"#]]);
}

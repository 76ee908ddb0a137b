"""What the conformance tests of SIG API Machinery demand of the API alone."""

import json

from cluster import (
    APPLY,
    JSON_PATCH,
    Watch,
    call,
    create,
    delete,
    get,
    has_life,
    is_gone,
    name,
    namespace,
    patch,
    refused,
    run,
    send,
    until,
    update,
)

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"
OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def config_map(label, **data):
    metadata = {"name": name("map"), "labels": {"watch": label}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def deployment(replicas):
    labels = {"app": "walk"}
    spec = {"containers": [{"name": "c", "image": "example.test/c"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name("deployment")},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def define(kind, versions, **more):
    group = name("g") + ".example.test"
    plural = kind.lower() + "s"
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind}, **more},
    }
    body["spec"]["versions"] = [
        {"name": it, "served": True, "storage": it == "v1", "schema": {"openAPIV3Schema": schema}}
        for it, schema in versions.items()
    ]
    made = create(DEFINITIONS, body)
    path = f"{DEFINITIONS}/{made['metadata']['name']}"

    def established():
        conditions = get(path)["status"].get("conditions", [])
        return any(it["type"] == "Established" and it["status"] == "True" for it in conditions)

    until(established)
    return group, plural, path


def each_group_leads_to_its_versions():
    for group in get("/apis")["groups"]:
        one = get(f"/apis/{group['name']}")
        assert one["preferredVersion"] in one["versions"], one
        for version in one["versions"]:
            assert get(f"/apis/{version['groupVersion']}")["groupVersion"] == version["groupVersion"]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    for path in ("/api", "/apis"):
        assert get(path, accept=accept)["kind"] == "APIGroupDiscoveryList"


def a_review_has_no_table():
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    refused(406, create, path, review, accept=table)
    assert create(path, review, accept=table + ",application/json")["status"]["allowed"]


def watches_with_selectors_see_objects_come_and_go():
    maps = f"/api/v1/namespaces/{namespace()}/configmaps"
    one, both = Watch(maps, labelSelector="watch=a"), Watch(maps, labelSelector="watch in (a,b)")
    made = create(maps, config_map("a"))
    path = f"{maps}/{made['metadata']['name']}"
    assert one.next() == both.next() == ("ADDED", made)
    made["data"] = {"mutation": "1"}
    first = update(path, made)
    assert one.next() == both.next() == ("MODIFIED", first)
    first = json.loads(json.dumps(first))
    left = patch(path, {"metadata": {"labels": {"watch": "b"}}})
    kind, seen = one.next()
    assert (kind, seen["metadata"]["labels"]["watch"]) == ("DELETED", "a"), seen
    assert seen["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]
    assert both.next() == ("MODIFIED", left)
    delete(path)
    assert both.next()[0] == "DELETED"
    again = Watch(maps, resourceVersion=first["metadata"]["resourceVersion"])
    assert [again.next()[0], again.next()[0]] == ["MODIFIED", "DELETED"]
    for watch in (one, both, again):
        watch.close()


def a_list_comes_in_pages_of_one_revision():
    templates = f"/api/v1/namespaces/{namespace()}/podtemplates"
    names = [f"template-{i:02}" for i in range(10)]
    spec = {"containers": [{"name": "c", "image": "i"}]}
    for it in names:
        body = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": it}, "template": {"spec": spec}}
        create(templates, body)
    found, token, revisions = [], None, set()
    while True:
        page = get(templates, limit=3, **({"continue": token} if token else {}))
        found += [it["metadata"]["name"] for it in page["items"]]
        revisions.add(page["metadata"]["resourceVersion"])
        token = page["metadata"].get("continue")
        assert page["metadata"].get("remainingItemCount", 0) == 10 - len(found), page["metadata"]
        if not token:
            break
    assert found == names and len(revisions) == 1, (found, revisions)


def fields_are_checked_as_the_client_wishes():
    path = f"/apis/apps/v1/namespaces/{namespace()}/deployments"
    text = json.dumps(deployment(3))
    twice = text.replace('"replicas"', '"unknownField": "foo", "replicas": 2, "replicas"')
    said = refused(400, create, path, twice, fieldValidation="Strict").message
    told = 'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"'
    assert told in said, said
    meta = text.replace('"metadata": {', '"metadata": {"unknownMeta": 1, ', 1)
    said = refused(400, create, path, meta, fieldValidation="Strict").message
    assert 'strict decoding error: unknown field "metadata.unknownMeta"' in said, said
    warned = send("POST", path, twice, fieldValidation="Warn")
    assert warned.status == 201 and "unknown field" in warned.headers["Warning"], warned.headers

    schema = {"type": "object", "properties": {"spec": {**OPEN, "properties": {"foo": {"type": "string"}}}}}
    group, plural, definition = define("Noxu", {"v1": schema}, scope="Cluster")
    objects = f"/apis/{group}/v1/{plural}"
    body = f"\napiVersion: {group}/v1\nkind: Noxu\nmetadata:\n  name: a\nspec:\n  unknown: u\n  foo: a\n"
    strict = {"media": APPLY, "fieldManager": "walk", "fieldValidation": "Strict"}
    said = refused(400, patch, objects + "/a", body + "  foo: b\n", **strict).message
    assert 'line 9: key "foo" already set in map' in said, said
    said = refused(500, patch, objects + "/a", body + "more: 1\n", **strict).message
    assert ".more: field not declared in schema" in said, said
    assert patch(objects + "/a", body, **strict)["spec"] == {"unknown": "u", "foo": "a"}
    delete(definition)


def zeros_are_kept_where_they_say_something():
    body = deployment(0)
    body["spec"]["minReadySeconds"] = 0
    body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 0
    body["spec"]["template"]["spec"]["hostNetwork"] = False
    spec = create(f"/apis/apps/v1/namespaces/{namespace()}/deployments", body)["spec"]
    assert spec["replicas"] == 0 and "minReadySeconds" not in spec, spec
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 0 and "hostNetwork" not in pod, pod


def defaults_of_a_definition_reach_stored_objects():
    both = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    group, plural, definition = define("Mould", {"v1": both})
    objects = f"/apis/{group}/v1/namespaces/{namespace()}/{plural}"
    body = {"apiVersion": f"{group}/v1", "kind": "Mould", "metadata": {"name": "one"}}
    assert "a" not in create(objects, body)
    at = "/spec/versions/0/schema/openAPIV3Schema/properties"
    patch(definition, [{"op": "add", "path": at + "/a/default", "value": "A"}], media=JSON_PATCH)
    assert until(lambda: get(objects + "/one").get("a")) == "A"
    assert create(objects, {**body, "metadata": {"name": "two"}})["a"] == "A"
    change = [{"op": "add", "path": at + "/b/default", "value": "B"}, {"op": "remove", "path": at + "/a/default"}]
    patch(definition, change, media=JSON_PATCH)
    two = until(lambda: (lambda it: it if it.get("b") else None)(get(objects + "/two")))
    assert (two["a"], two["b"]) == ("A", "B") and "a" not in get(objects + "/one")
    delete(definition)


def schemas_are_published_and_withdrawn():
    schema = {"type": "object", "description": "A pot", "properties": {"spec": {"type": "object"}}}
    group, _, definition = define("Pot", {"v1": schema, "v2": schema})

    def published(version):
        found = get("/openapi/v2")["definitions"]
        return found.get(".".join(reversed(group.split("."))) + f".{version}.Pot")

    assert until(lambda: published("v2"))["description"] == "A pot"
    assert published("v1")["x-kubernetes-group-version-kind"] == [{"group": group, "kind": "Pot", "version": "v1"}]
    patch(definition, [{"op": "replace", "path": "/spec/versions/1/served", "value": False}], media=JSON_PATCH)
    until(lambda: published("v2") is None)
    delete(definition)
    until(lambda: published("v1") is None)


def policies_judge_and_change_what_is_written():
    mark = name("policy")
    place = namespace({mark: "true"})
    group, plural, definition = define("Boat", {"v1": {"type": "object", "properties": {"spec": {
        "type": "object", "properties": {"oars": {"type": "integer"}, "mast": {"type": "string"}}}}}})
    rule = {
        "namespaceSelector": {"matchLabels": {mark: "true"}},
        "resourceRules": [
            {"operations": ["CREATE"], "apiGroups": [group, "apps"], "apiVersions": ["*"], "resources": ["*"]}
        ],
    }
    version = "admissionregistration.k8s.io/v1"

    def bind(kind, spec, binding):
        meta = {"apiVersion": version, "metadata": {"name": mark}}
        create(f"{ADMISSION}/{kind.lower()[:-1]}ies", {**meta, "kind": kind, "spec": spec})
        bound = {"policyName": mark, **binding}
        create(f"{ADMISSION}/{kind.lower()}bindings", {**meta, "kind": kind + "Binding", "spec": bound})

    mutation = {"expression": 'Object{spec: Object.spec{mast: "tall"}}'}
    bind(
        "MutatingAdmissionPolicy",
        {
            "matchConstraints": rule,
            "reinvocationPolicy": "Never",
            "matchConditions": [{"name": "boats", "expression": "object.kind == 'Boat'"}],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": mutation}],
        },
        {},
    )
    bind(
        "ValidatingAdmissionPolicy",
        {
            "matchConstraints": rule,
            "variables": [{"name": "odd", "expression": "has(object.spec.oars) && object.spec.oars % 2 == 1"}],
            "validations": [
                {"expression": "!variables.odd", "message": "oars come in pairs"},
                {
                    "expression": "object.kind != 'Deployment' || object.spec.replicas > 1",
                    "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)",
                },
            ],
        },
        {"validationActions": ["Deny"]},
    )
    checked = until(lambda: get(f"{ADMISSION}/validatingadmissionpolicies/{mark}").get("status"))
    assert checked["observedGeneration"] == 1 and "typeChecking" in checked, checked

    boats = f"/apis/{group}/v1/namespaces/{place}/{plural}"
    boat = {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"oars": 3}}
    assert "oars come in pairs" in refused(422, create, boats, boat).message
    boat["spec"]["oars"] = 4
    assert create(boats, boat)["spec"] == {"oars": 4, "mast": "tall"}
    deployments = f"/apis/apps/v1/namespaces/{place}/deployments"
    assert "wants replicas > 1, got 1" in refused(422, create, deployments, deployment(1)).message
    create(deployments, deployment(2))
    for plural in ("mutatingadmissionpolicies", "validatingadmissionpolicies"):
        delete(f"{ADMISSION}/{plural}/{mark}")
        delete(f"{ADMISSION}/{plural[:-3]}ybindings/{mark}")
    delete(definition)


def policies_and_flow_control_have_a_life():
    rule = {"operations": ["CREATE"], "apiGroups": ["x"], "apiVersions": ["v1"], "resources": ["y"]}
    match = {"resourceRules": [rule]}
    apply = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}
    condition = {"type": "Walked", "status": "True", "reason": "Walk", "message": "", "lastTransitionTime": None}
    status = {"conditions": [condition]}
    dated = {"conditions": [{**condition, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}
    for path, kind, spec, seen in [
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy",
         {"matchConstraints": match, "validations": [{"expression": "true"}]}, dated),
        ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding",
         {"policyName": "p", "validationActions": ["Deny"]}, None),
        ("mutatingadmissionpolicies", "MutatingAdmissionPolicy",
         {"matchConstraints": match, "mutations": [apply], "reinvocationPolicy": "Never"}, None),
        ("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", {"policyName": "p"}, None),
    ]:
        body = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "spec": spec}
        has_life(f"{ADMISSION}/{path}", body, status=seen, sheltered=True)
    limited = {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}
    for path, kind, spec in [
        ("prioritylevelconfigurations", "PriorityLevelConfiguration", {"type": "Limited", "limited": limited}),
        ("flowschemas", "FlowSchema", {"matchingPrecedence": 9000, "priorityLevelConfiguration": {"name": "exempt"}}),
    ]:
        body = {"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "spec": spec}
        has_life(f"{FLOW}/{path}", body, status=status, sheltered=True)


def a_namespace_empties_its_pods_first():
    place = namespace()
    path = f"/api/v1/namespaces/{place}"
    meta = {"name": "held", "finalizers": ["example.test/held"]}
    pod = {"containers": [{"name": "c", "image": "i"}]}
    create(path + "/pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod})
    create(path + "/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    delete(path)
    until(lambda: get(path + "/pods/held")["metadata"].get("deletionTimestamp"))
    until(lambda: get(path)["status"].get("conditions"))
    assert "deletionTimestamp" not in get(path + "/configmaps/held")["metadata"]
    release = [{"op": "remove", "path": "/metadata/finalizers"}]
    patch(path + "/pods/held", release, media=JSON_PATCH)
    until(lambda: get(path + "/configmaps/held")["metadata"].get("deletionTimestamp"))
    patch(path + "/configmaps/held", release, media=JSON_PATCH)
    until(lambda: is_gone(path))


def a_namespace_is_patched_and_finalized():
    path = f"/api/v1/namespaces/{namespace()}"
    condition = {"type": "StatusPatch", "status": "True", "reason": "Walk", "message": "m"}
    seen = {"metadata": {"annotations": {"seen": "true"}}, "status": {"conditions": [condition]}}
    found = patch(path + "/status", seen)
    assert found["metadata"]["annotations"]["seen"] == "true" and found["status"]["phase"] == "Active", found
    found["spec"]["finalizers"].append("example.test/more")
    found = call("PUT", path + "/finalize", found)
    assert found["spec"]["finalizers"] == ["kubernetes", "example.test/more"]
    found["spec"]["finalizers"].pop()
    assert call("PUT", path + "/finalize", found)["spec"]["finalizers"] == ["kubernetes"]


run(
    [
        each_group_leads_to_its_versions,
        a_review_has_no_table,
        watches_with_selectors_see_objects_come_and_go,
        a_list_comes_in_pages_of_one_revision,
        fields_are_checked_as_the_client_wishes,
        zeros_are_kept_where_they_say_something,
        defaults_of_a_definition_reach_stored_objects,
        schemas_are_published_and_withdrawn,
        policies_judge_and_change_what_is_written,
        policies_and_flow_control_have_a_life,
        a_namespace_empties_its_pods_first,
        a_namespace_is_patched_and_finalized,
    ]
)

"""What the conformance tests of SIG Node and SIG Instrumentation demand of the API alone."""

from cluster import STRATEGIC, Watch, create, delete, get, has_life, namespace, patch, refused, run, update

POD = {"containers": [{"name": "c", "image": "example.test/c"}], "terminationGracePeriodSeconds": 1}


def small_kinds_have_a_life():
    base = f"/api/v1/namespaces/{namespace()}"
    has_life("/apis/node.k8s.io/v1/runtimeclasses", {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "h"})
    has_life(base + "/podtemplates", {"apiVersion": "v1", "kind": "PodTemplate", "template": {"spec": POD}})
    has_life(base + "/secrets", {"apiVersion": "v1", "kind": "Secret", "data": {"key": "dmFsdWU="}}, "/api/v1/secrets")
    has_life(base + "/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": ""}}, "/api/v1/configmaps")


def a_lease_is_kept_to_the_microsecond():
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace()}/leases"
    spec = {
        "holderIdentity": "a",
        "leaseDurationSeconds": 30,
        "acquireTime": "2024-05-01T00:00:00.000001Z",
        "renewTime": "2024-05-01T00:00:05.000000Z",
        "leaseTransitions": 0,
    }
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}
    assert create(leases, lease)["spec"] == spec
    found = get(leases + "/l")
    found["spec"] |= {"holderIdentity": "b", "leaseTransitions": 1}
    assert update(leases + "/l", found)["spec"] == found["spec"]


def what_may_not_change_does_not():
    maps = f"/api/v1/namespaces/{namespace()}/configmaps"
    meta = {"name": "fixed"}
    fixed = create(maps, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": ""}, "immutable": True})
    assert fixed["data"] == {"a": ""}
    refused(422, update, maps + "/fixed", {**fixed, "data": {"a": "b"}})
    refused(422, update, maps + "/fixed", {**fixed, "immutable": False})
    refused(422, create, maps, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "e"}, "data": {"": "v"}})


def a_pod_is_patched_debugged_and_deleted_with_its_kind():
    pods = f"/api/v1/namespaces/{namespace()}/pods"
    watch = Watch(pods, labelSelector="walk=true")
    meta = {"name": "p", "labels": {"walk": "true"}}
    create(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": POD})
    ready = {"type": "Ready", "status": "True"}
    watch.until(lambda _, it: any(ready.items() <= c.items() for c in it["status"].get("conditions", [])))
    other = {"spec": {"containers": [{"name": "c", "image": "example.test/d"}]}}
    assert patch(pods + "/p", other, media=STRATEGIC)["spec"]["containers"][0]["image"] == "example.test/d"
    debug = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "example.test/sh"}]}}
    seen = patch(pods + "/p/ephemeralcontainers", debug, media=STRATEGIC)
    assert [it["name"] for it in seen["spec"]["ephemeralContainers"]] == ["debug"]
    delete(pods, labelSelector="walk=true")
    watch.until(lambda kind, _: kind == "DELETED")
    watch.close()


def events_are_the_same_in_both_groups():
    place = namespace()
    events = f"/apis/events.k8s.io/v1/namespaces/{place}/events"
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e", "labels": {"walk": "true"}},
        "regarding": {"namespace": place},
        "eventTime": "2024-05-01T00:00:00.000001Z",
        "note": "This is a test",
        "action": "Do",
        "reason": "Test",
        "type": "Normal",
        "reportingController": "walk",
        "reportingInstance": "node",
    }
    assert create(events, event)["eventTime"] == event["eventTime"]
    assert len(get(events, fieldSelector="reportingController=walk")["items"]) == 1
    series = {"count": 2, "lastObservedTime": "2024-05-01T00:00:01.000001Z"}
    assert patch(events + "/e", {"series": series}, media=STRATEGIC)["series"] == series
    older = get(f"/api/v1/namespaces/{place}/events/e")
    assert older["message"] == "This is a test" and older["series"] == series, older
    delete(events, labelSelector="walk=true")
    assert not get(events)["items"]


run(
    [
        small_kinds_have_a_life,
        a_lease_is_kept_to_the_microsecond,
        what_may_not_change_does_not,
        a_pod_is_patched_debugged_and_deleted_with_its_kind,
        events_are_the_same_in_both_groups,
    ]
)

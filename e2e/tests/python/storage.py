"""What the conformance tests of SIG Storage and SIG Scheduling demand of the API alone."""

from cluster import create, delete, get, has_life, is_gone, name, namespace, patch, refused, run, until, update

STORAGE = "/apis/storage.k8s.io/v1"


def kinds_of_storage_have_a_life():
    place = namespace()
    kind = {"apiVersion": "storage.k8s.io/v1"}
    has_life(STORAGE + "/csidrivers", {**kind, "kind": "CSIDriver", "spec": {"attachRequired": False}})
    has_life(STORAGE + "/csinodes", {**kind, "kind": "CSINode", "spec": {"drivers": []}})
    capacity = {**kind, "kind": "CSIStorageCapacity", "storageClassName": "s", "capacity": "1Gi"}
    has_life(f"{STORAGE}/namespaces/{place}/csistoragecapacities", capacity, STORAGE + "/csistoragecapacities")
    attachment = {"attacher": "example.test", "nodeName": "n", "source": {"persistentVolumeName": "v"}}
    body = {**kind, "kind": "VolumeAttachment", "spec": attachment}
    has_life(STORAGE + "/volumeattachments", body, status={"attached": True}, sheltered=True)
    has_life(STORAGE + "/storageclasses", {**kind, "kind": "StorageClass", "provisioner": "example.test"})
    attributes = {"driverName": "example.test", "parameters": {"iops": "500"}}
    has_life(STORAGE + "/volumeattributesclasses", {**kind, "kind": "VolumeAttributesClass", **attributes})


def a_claim_without_a_class_says_so():
    claims = f"/api/v1/namespaces/{namespace()}/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    meta = {"name": "c", "labels": {"walk": "true"}}
    claim = create(claims, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec})
    assert claim["spec"]["storageClassName"] == "" and claim["spec"]["volumeMode"] == "Filesystem", claim
    condition = {"type": "StatusPatched", "status": "True", "reason": "walk", "message": "m"}
    seen = patch(claims + "/c/status", {"status": {"conditions": [condition]}})
    assert seen["status"]["conditions"][0]["type"] == "StatusPatched", seen
    delete(claims, labelSelector="walk=true")
    until(lambda: is_gone(claims + "/c"))


def a_priority_has_one_value():
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    made = create(classes, {**kind, "metadata": {"name": name("p")}, "value": 0})
    path = f"{classes}/{made['metadata']['name']}"
    assert made["value"] == 0
    refused(422, update, path, {**made, "value": 2})
    assert update(path, {**made, "description": "d"})["description"] == "d"
    delete(path)


def a_limit_range_fills_in_and_refuses():
    base = f"/api/v1/namespaces/{namespace()}"
    limits = {
        "type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi"},
        "max": {"cpu": "500m", "memory": "500Mi"},
        "default": {"cpu": "500m", "memory": "500Mi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi"},
    }
    meta = {"metadata": {"name": "l"}}
    create(base + "/limitranges", {"apiVersion": "v1", "kind": "LimitRange", **meta, "spec": {"limits": [limits]}})

    def pod(**resources):
        spec = {"containers": [{"name": "c", "image": "i", "resources": resources}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": spec}

    filled = create(base + "/pods", pod())["spec"]["containers"][0]["resources"]
    assert filled == {"limits": limits["default"], "requests": limits["defaultRequest"]}, filled
    refused(403, create, base + "/pods", pod(requests={"cpu": "10m"}, limits={"cpu": "100m"}))
    refused(403, create, base + "/pods", pod(requests={"cpu": "600m"}, limits={"cpu": "600m"}))
    delete(base + "/limitranges/l")
    create(base + "/pods", pod(requests={"cpu": "600m"}, limits={"cpu": "600m"}))


def a_quota_counts_what_is_used():
    base = f"/api/v1/namespaces/{namespace()}"
    spec = {"hard": {"pods": "5", "cpu": "1", "services.nodeports": "1"}}
    create(base + "/resourcequotas", {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": spec})

    def uses(**wanted):
        used = get(base + "/resourcequotas/q").get("status", {}).get("used", {})
        return wanted.items() <= used.items()

    until(lambda: uses(pods="0", cpu="0"))
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "500m"}}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    create(base + "/pods", pod)
    until(lambda: uses(pods="1", cpu="500m"))
    container["resources"]["requests"]["cpu"] = "600m"
    said = refused(403, create, base + "/pods", {**pod, "metadata": {"name": "q"}}).message
    assert "exceeded quota: q, requested: cpu=600m, used: cpu=500m, limited: cpu=1" in said, said
    delete(base + "/pods/p", {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})
    until(lambda: uses(pods="0", cpu="0"))


run(
    [
        kinds_of_storage_have_a_life,
        a_claim_without_a_class_says_so,
        a_priority_has_one_value,
        a_limit_range_fills_in_and_refuses,
        a_quota_counts_what_is_used,
    ]
)

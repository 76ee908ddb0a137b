"""What users of the Python client do: typed calls, watches, the dynamic client, custom resources, patches."""

import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic.exceptions import NotFoundError

LIMIT_SECONDS = 60


def typed_calls_and_a_watch(core):
    for name in ("a", "b", "c"):
        core.create_namespaced_config_map("default", {"metadata": {"name": name, "labels": {"set": "w"}}})
    found = core.list_namespaced_config_map("default", label_selector="set=w", limit=2)
    assert len(found.items) == 2 and found.metadata._continue, found.metadata
    rest = core.list_namespaced_config_map(
        "default", label_selector="set=w", limit=2, _continue=found.metadata._continue
    )
    assert [item.metadata.name for item in rest.items] == ["c"]
    started = core.list_namespaced_config_map("default", label_selector="set=w").metadata.resource_version

    def change():
        core.patch_namespaced_config_map("a", "default", {"data": {"k": "v"}})
        core.delete_namespaced_config_map("b", "default")
        core.patch_namespaced_config_map("c", "default", {"metadata": {"labels": {"set": None}}})

    writer = threading.Thread(target=change)
    seen = []
    stream = watch.Watch().stream(
        core.list_namespaced_config_map,
        "default",
        label_selector="set=w",
        resource_version=started,
        timeout_seconds=LIMIT_SECONDS,
    )
    writer.start()
    for event in stream:
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 3:
            break
    writer.join()
    assert seen == [("MODIFIED", "a"), ("DELETED", "b"), ("DELETED", "c")], seen


def a_deployment(apps, core):
    labels = {"app": "py"}
    apps.create_namespaced_deployment(
        "default",
        client.V1Deployment(
            metadata=client.V1ObjectMeta(name="py"),
            spec=client.V1DeploymentSpec(
                replicas=2,
                selector=client.V1LabelSelector(match_labels=labels),
                template=client.V1PodTemplateSpec(
                    metadata=client.V1ObjectMeta(labels=labels),
                    spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="example.test/c")]),
                ),
            ),
        ),
    )
    ready = watch.Watch()
    for event in ready.stream(
        apps.list_namespaced_deployment, "default", field_selector="metadata.name=py", timeout_seconds=LIMIT_SECONDS
    ):
        if event["object"].status.available_replicas == 2:
            ready.stop()
            break
    else:
        raise AssertionError("the Deployment was not available in time")
    assert len(core.list_namespaced_pod("default", label_selector="app=py").items) == 2
    apps.patch_namespaced_deployment_scale("py", "default", {"spec": {"replicas": 1}})
    assert apps.read_namespaced_deployment_scale("py", "default").spec.replicas == 1


def kinds_by_name(cluster):
    crds = cluster.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    names = {"plural": "boats", "singular": "boat", "kind": "Boat"}
    spec = {"type": "object", "properties": {"oars": {"type": "integer", "default": 2}}}
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    crds.create(
        body={
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "boats.py.example.test"},
            "spec": {"group": "py.example.test", "scope": "Namespaced", "names": names, "versions": [version]},
        }
    )
    for event in crds.watch(name="boats.py.example.test", timeout=LIMIT_SECONDS):
        conditions = event["object"].to_dict().get("status", {}).get("conditions") or []
        if any(it["type"] == "Established" and it["status"] == "True" for it in conditions):
            break
    cluster.resources.invalidate_cache()
    boats = cluster.resources.get(api_version="py.example.test/v1", kind="Boat")
    made = boats.create(
        namespace="default",
        body={"apiVersion": "py.example.test/v1", "kind": "Boat", "metadata": {"name": "dinghy"}, "spec": {}},
    )
    assert made.spec.oars == 2, made
    for event in boats.watch(namespace="default", timeout=LIMIT_SECONDS):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "dinghy")
        break
    changed = boats.patch(
        namespace="default", name="dinghy", body={"spec": {"oars": 4}}, content_type="application/merge-patch+json"
    )
    assert changed.spec.oars == 4
    boats.delete(namespace="default", name="dinghy")
    try:
        boats.get(namespace="default", name="dinghy")
        raise AssertionError("a deleted object was found")
    except NotFoundError:
        pass


def errors_are_statuses(core):
    try:
        core.read_namespaced_pod("nobody", "default")
        raise AssertionError("a pod that is not there was found")
    except ApiException as error:
        assert error.status == 404 and "NotFound" in error.body, error


def main():
    config.load_kube_config()
    api = client.ApiClient()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    typed_calls_and_a_watch(core)
    a_deployment(apps, core)
    errors_are_statuses(core)
    kinds_by_name(dynamic.DynamicClient(api))
    print("all good")


main()

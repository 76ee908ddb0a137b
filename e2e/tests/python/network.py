"""What the conformance tests of SIG Network demand of the API alone."""

from cluster import create, delete, get, has_life, is_gone, name, namespace, patch, run, until, update

NETWORKING = "/apis/networking.k8s.io/v1"
GROUP = "networking.k8s.io/v1"


def ingresses_classes_policies_and_slices_have_a_life():
    place = namespace()
    backend = {"service": {"name": "s", "port": {"number": 80}}}
    has_life(
        f"{NETWORKING}/namespaces/{place}/ingresses",
        {"apiVersion": GROUP, "kind": "Ingress", "spec": {"defaultBackend": backend}},
        everywhere=NETWORKING + "/ingresses",
        status={"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}},
    )
    kind = {"apiVersion": GROUP, "kind": "IngressClass"}
    has_life(NETWORKING + "/ingressclasses", {**kind, "spec": {"controller": "example.test/walk"}})
    has_life(
        f"{NETWORKING}/namespaces/{place}/networkpolicies",
        {"apiVersion": GROUP, "kind": "NetworkPolicy", "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}},
        everywhere=NETWORKING + "/networkpolicies",
    )
    has_life(
        f"/apis/discovery.k8s.io/v1/namespaces/{place}/endpointslices",
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}],
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        },
        everywhere="/apis/discovery.k8s.io/v1/endpointslices",
    )


def a_service_changes_its_type_and_its_status_is_kept():
    services = f"/api/v1/namespaces/{namespace()}/services"
    ports = [{"name": "http", "port": 80, "targetPort": 9376, "protocol": "TCP"}]
    spec = {"type": "ExternalName", "externalName": "example.test"}
    service = create(services, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
    path = services + "/s"
    service["spec"] = {"type": "ClusterIP", "ports": ports}
    service = update(path, service)
    assert service["spec"]["clusterIP"], service
    service["spec"]["type"] = "NodePort"
    service = update(path, service)
    assert service["spec"]["ports"][0]["nodePort"], service
    service["spec"] |= {**spec, "clusterIP": ""}
    service = update(path, service)
    assert not {"clusterIP", "clusterIPs", "ipFamilies"} & set(service["spec"]), service
    assert "nodePort" not in service["spec"]["ports"][0], service
    balanced = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}}
    meta = {"name": "b"}
    create(services, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"type": "LoadBalancer", "ports": ports}})
    seen = patch(services + "/b/status", {"metadata": {"annotations": {"seen": "true"}}, "status": balanced})
    assert seen["status"] == balanced and seen["metadata"]["annotations"] == {"seen": "true"}, seen


def a_service_without_pods_has_endpoints_that_go_with_it():
    place = namespace()
    base = f"/api/v1/namespaces/{place}"
    spec = {"selector": {"matches": "nothing"}, "ports": [{"name": "http", "port": 80}]}
    create(base + "/services", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{place}/endpointslices"
    of_service = {"labelSelector": "kubernetes.io/service-name=s"}
    found = until(lambda: get(slices, **of_service)["items"])
    managed = found[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
    assert len(found) == 1 and managed == "endpointslice-controller.k8s.io", found
    until(lambda: not is_gone(base + "/endpoints/s"))
    delete(base + "/services/s")
    until(lambda: not get(slices, **of_service)["items"] and is_gone(base + "/endpoints/s"))


def the_range_of_services_is_told_and_more_may_be_added():
    own = get(NETWORKING + "/servicecidrs/kubernetes")
    ready = {"type": "Ready", "status": "True"}
    assert any(ready.items() <= it.items() for it in own["status"]["conditions"]), own
    cidr = {"apiVersion": GROUP, "kind": "ServiceCIDR", "metadata": {"name": name("range")}, "spec": {"cidrs": ["10.196.196.0/24"]}}
    path = f"{NETWORKING}/servicecidrs/{create(NETWORKING + '/servicecidrs', cidr)['metadata']['name']}"
    assert patch(path, {"metadata": {"labels": {"walk": "p"}}})["metadata"]["labels"]["walk"] == "p"
    delete(path)
    until(lambda: is_gone(path))
    parent = {"resource": "services", "name": "foo", "namespace": "bar"}
    address = {"apiVersion": GROUP, "kind": "IPAddress", "metadata": {"name": "192.168.1.1"}, "spec": {"parentRef": parent}}
    assert create(NETWORKING + "/ipaddresses", address)["spec"]["parentRef"] == parent
    delete(NETWORKING + "/ipaddresses/192.168.1.1")


run(
    [
        ingresses_classes_policies_and_slices_have_a_life,
        a_service_changes_its_type_and_its_status_is_kept,
        a_service_without_pods_has_endpoints_that_go_with_it,
        the_range_of_services_is_told_and_more_may_be_added,
    ]
)

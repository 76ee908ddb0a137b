"""What the conformance tests of SIG Auth demand of the API alone."""

import base64
import subprocess

from cluster import JSON_PATCH, create, delete, get, is_gone, name, namespace, patch, refused, run, send, until, update

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def pem(*options):
    made = subprocess.run(
        ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=walk", *options],
        capture_output=True,
        check=True,
    )
    return base64.b64encode(made.stdout).decode()


def a_signing_request_is_approved_and_answered():
    signer = f"example.test/{name('signer')}"
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "walk-"},
        "spec": {"request": pem("-new"), "signerName": signer, "usages": ["digital signature", "server auth"]},
    }
    path = f"{REQUESTS}/{create(REQUESTS, body)['metadata']['name']}"
    create(REQUESTS, body)
    of_signer = {"fieldSelector": f"spec.signerName={signer}"}
    assert len(get(REQUESTS, **of_signer)["items"]) == 2

    own = {"type": "ApprovalPatch", "status": "True", "reason": "walk"}
    annotated = {"metadata": {"annotations": {"patchedapproval": "true"}}, "status": {"conditions": [own]}}
    approved = patch(path + "/approval", annotated)
    assert approved["metadata"]["annotations"] == {"patchedapproval": "true"}
    approved["metadata"]["annotations"]["updatedapproval"] = "true"
    approved["status"]["conditions"].append({"type": "Approved", "status": "True", "reason": "walk", "message": "m"})
    approved = update(path + "/approval", approved)
    assert len(approved["status"]["conditions"]) == 2 and len(approved["metadata"]["annotations"]) == 2

    certificate = pem("-x509", "-days", "1")
    answered = patch(path + "/status", {"status": {"certificate": certificate}})
    assert answered["status"]["certificate"] == certificate and len(answered["status"]["conditions"]) == 2
    delete(path)
    delete(REQUESTS, **of_signer)
    assert not get(REQUESTS, **of_signer)["items"]


def a_service_account_has_a_life_and_tokens():
    place = namespace()
    accounts = f"/api/v1/namespaces/{place}/serviceaccounts"
    create(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "walker"}})
    assert patch(accounts + "/walker", {"automountServiceAccountToken": False})["automountServiceAccountToken"] is False
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    token = create(accounts + "/walker/token", asked)["status"]["token"]
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    found = create("/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    assert found["authenticated"] and found["user"]["username"] == f"system:serviceaccount:{place}:walker", found
    delete(accounts + "/walker")
    assert is_gone(accounts + "/walker")


def a_pod_mounts_a_token_unless_it_or_its_account_opts_out():
    place = namespace()
    base = f"/api/v1/namespaces/{place}"
    for of_account in (None, True, False):
        account = name("account")
        said = {} if of_account is None else {"automountServiceAccountToken": of_account}
        meta = {"metadata": {"name": account}}
        create(base + "/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", **meta, **said})
        for of_pod in (None, True, False):
            spec = {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]}
            spec |= {} if of_pod is None else {"automountServiceAccountToken": of_pod}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": spec}
            mounts = create(base + "/pods", pod)["spec"]["containers"][0].get("volumeMounts", [])
            mounted = any(it["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" for it in mounts)
            assert mounted == (of_account is not False if of_pod is None else of_pod), (of_account, of_pod)


def each_namespace_has_the_clusters_authority():
    path = f"/api/v1/namespaces/{namespace()}/configmaps/kube-root-ca.crt"
    until(lambda: not is_gone(path))
    delete(path)
    until(lambda: not is_gone(path))
    patch(path, [{"op": "replace", "path": "/data", "value": {"ca.crt": ""}}], media=JSON_PATCH)
    until(lambda: "BEGIN CERTIFICATE" in get(path)["data"]["ca.crt"])


def the_issuer_of_tokens_is_documented():
    found = get("/.well-known/openid-configuration")
    assert found["issuer"] and found["jwks_uri"].endswith("/openid/v1/jwks"), found
    keys = send("GET", "/openid/v1/jwks")
    assert keys.status == 200 and keys.headers["Content-Type"] == "application/jwk-set+json"


def reviews_agree_with_what_is_refused():
    place = namespace()
    user = f"system:serviceaccount:{place}:nobody"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {"user": user, "resourceAttributes": {"namespace": place, "verb": "list", "resource": "configmaps"}},
    }
    base = "/apis/authorization.k8s.io/v1"
    answer = create(base + "/subjectaccessreviews", {**review, "kind": "SubjectAccessReview"})
    assert answer["status"]["allowed"] is False, answer
    local = {**review, "kind": "LocalSubjectAccessReview", "metadata": {"namespace": place}}
    local = create(f"{base}/namespaces/{place}/localsubjectaccessreviews", local)
    assert local["status"]["allowed"] is False, local
    refused(403, get, f"/api/v1/namespaces/{place}/configmaps", headers={"Impersonate-User": user})


run(
    [
        a_signing_request_is_approved_and_answered,
        a_service_account_has_a_life_and_tokens,
        a_pod_mounts_a_token_unless_it_or_its_account_opts_out,
        each_namespace_has_the_clusters_authority,
        the_issuer_of_tokens_is_documented,
        reviews_agree_with_what_is_refused,
    ]
)

//! Certificates, tokens and roles that controllers fill in.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn role(name: &str, rest: Value) -> ClusterRole {
    let mut role = json!({"metadata": {"name": name}, "rules": []});
    role.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_value(role).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregated_role_follows_the_roles_it_selects() {
    let cluster = Cluster::start().await;
    let api: Api<ClusterRole> = Api::all(cluster.client.clone());
    let whole = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}});
    api.create(&PostParams::default(), &role("whole", whole)).await.unwrap();
    let part = json!({"metadata": {"name": "part", "labels": {"x": "y"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["lamps"], "verbs": ["get"]}]});
    api.create(&PostParams::default(), &role("part", part)).await.unwrap();
    let rules = || async { api.get("whole").await.unwrap().rules.filter(|rules| !rules.is_empty()) };
    let rules = cluster.until_idle("the role to have the rule", rules).await;
    assert_eq!(rules[0].resources.as_ref().unwrap(), &["lamps"]);
    api.delete("part", &DeleteParams::default()).await.unwrap();
    let empty = || async { api.get("whole").await.unwrap().rules.is_none_or(|r| r.is_empty()).then_some(()) };
    cluster.until_idle("the rule to go", empty).await;
    cluster.stop().await;
}

fn request(key: &rcgen::KeyPair, name: &str, organization: &str) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.serialize_request(key).unwrap().pem().unwrap().into_bytes()
}

async fn ask(cluster: &Cluster, name: &str, signer: &str, pem: Vec<u8>) -> Api<CertificateSigningRequest> {
    let api: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let csr = json!({"metadata": {"name": name}, "spec": {"request": k8s_openapi::ByteString(pem),
        "signerName": signer, "usages": ["digital signature", "client auth"]}});
    api.create(&PostParams::default(), &serde_json::from_value(csr).unwrap()).await.unwrap();
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_request_is_signed_and_a_nodes_is_approved_by_itself() {
    let cluster = Cluster::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let signer = "kubernetes.io/kube-apiserver-client";
    let api = ask(&cluster, "jane", signer, request(&key, "jane", "dev")).await;
    let approval =
        json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "ByHand"}]}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(&approval));
    api.patch_subresource("approval", "jane", &params, &patch).await.unwrap();
    let certificate = |name: &'static str| {
        let api = api.clone();
        move || {
            let api = api.clone();
            async move { api.get(name).await.unwrap().status?.certificate.map(|bytes| bytes.0) }
        }
    };
    let pem = cluster.until_idle("the certificate", certificate("jane")).await;
    assert!(String::from_utf8(pem).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let node = request(&key, "system:node:n1", "system:nodes");
    ask(&cluster, "node", "kubernetes.io/kube-apiserver-client-kubelet", node).await;
    cluster.until_idle("the node's certificate", certificate("node")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_secret_is_filled_and_goes_with_its_account() {
    let cluster = Cluster::start().await;
    cluster.create::<ServiceAccount>(json!({"metadata": {"name": "robot"}})).await;
    cluster
        .create::<Secret>(
            json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "robot"}},
            "type": "kubernetes.io/service-account-token"}),
        )
        .await;
    let api: Api<Secret> = cluster.api("default");
    let token = || async { api.get("t").await.ok()?.data?.get("token").map(|token| token.0.clone()) };
    let token = String::from_utf8(cluster.until_idle("the token", token).await).unwrap();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&review).unwrap())
        .unwrap();
    let answer: Value = cluster.client.request(request).await.unwrap();
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:robot");
    cluster.api::<ServiceAccount>("default").delete("robot", &DeleteParams::default()).await.unwrap();
    let gone = || async { api.get_opt("t").await.unwrap().is_none().then_some(()) };
    cluster.until_idle("the secret to go", gone).await;
    cluster.stop().await;
}

fn bootstrap_token(id: &str, expiration: &str) -> Value {
    json!({"metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true",
            "expiration": expiration}})
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_tokens_sign_what_joins_and_go_when_they_end() {
    let cluster = Cluster::start().await;
    let info = json!({"metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": {"kubeconfig": "x"}});
    cluster.create::<ConfigMap>(info).await;
    cluster.create::<Secret>(bootstrap_token("abcdef", "2999-01-01T00:00:00Z")).await;
    cluster.create::<Secret>(bootstrap_token("ghijkl", "2020-01-01T00:00:00Z")).await;
    let (maps, secrets) = (cluster.api::<ConfigMap>("kube-public"), cluster.api::<Secret>("kube-system"));
    let signed =
        || async { maps.get("cluster-info").await.unwrap().data?.get("jws-kubeconfig-abcdef").cloned() };
    assert!(cluster.until_idle("the signature", signed).await.contains(".."));
    let ended = || async { secrets.get_opt("bootstrap-token-ghijkl").await.unwrap().is_none().then_some(()) };
    cluster.until_idle("the ended token to go", ended).await;
    secrets.delete("bootstrap-token-abcdef", &DeleteParams::default()).await.unwrap();
    let unsigned = || async { (maps.get("cluster-info").await.unwrap().data?.len() == 1).then_some(()) };
    cluster.until_idle("the signature to go", unsigned).await;
    cluster.stop().await;
}

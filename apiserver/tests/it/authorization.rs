//! Authorizers that a file names: in its order, webhooks among them, and again when it changes.

use apiserver::{Config, UserInfo};
use serde_json::{Value, json};

use crate::client::Client;
use crate::outside::Outside;

fn configuration(kubeconfig: &std::path::Path, failure: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- type: Webhook\n  name: outside\n  \
         webhook:\n    timeout: 30s\n    failurePolicy: {failure}\n    subjectAccessReviewVersion: v1\n    \
         matchConditionSubjectAccessReviewVersion: v1\n    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}\n    \
         matchConditions:\n    - expression: has(request.resourceAttributes) && request.user != 'carol'\n- type: Node\n- type: RBAC\n",
        kubeconfig.display()
    )
}

fn decide(review: &Value) -> Value {
    let spec = &review["spec"];
    let status = match spec["user"].as_str() {
        Some("alice") => json!({"allowed": spec["resourceAttributes"]["resource"] == "configmaps"}),
        Some("bob") => json!({"allowed": false, "denied": true, "reason": "bob is away"}),
        _ => json!({"allowed": false}),
    };
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "status": status})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_webhook_decides_before_the_roles_and_is_asked_once() {
    let outside = Outside::start(decide).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authorization.yaml");
    std::fs::write(&path, configuration(&outside.kubeconfig(dir.path()), "Deny")).unwrap();
    let config = Config { authorization_config: Some(path), ..Config::default() };
    let client = Client::start_with(config).await;
    let (alice, bob) = (UserInfo::new("alice", &[]), UserInfo::new("bob", &["system:masters"]));
    let as_alice = client.acting_as(alice);
    let first = as_alice.get(MAPS).await;
    assert_eq!(first.0, 200, "{first:?} {:?}", outside.posted());
    assert_eq!(as_alice.get(MAPS).await.0, 200);
    assert_eq!(as_alice.get("/api/v1/namespaces/default/secrets").await.0, 403);
    assert_eq!(client.acting_as(bob).get(MAPS).await.0, 200, "masters come first");
    let refused = client.acting_as(UserInfo::new("bob", &[])).get(MAPS).await;
    assert!(refused.1["message"].as_str().unwrap().ends_with(": bob is away"), "{refused:?}");
    assert_eq!(client.acting_as(UserInfo::new("carol", &[])).get(MAPS).await.0, 403);
    let asked = outside.posted();
    assert_eq!(asked.len(), 3, "{asked:?}");
    let attributes =
        json!({"namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps"});
    assert_eq!(asked[0]["spec"]["resourceAttributes"], attributes);
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": "bob", "resourceAttributes": {"verb": "get", "resource": "pods",
            "labelSelector": {"rawSelector": "a in (b,c)"}}}});
    let (_, answer) = client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    assert_eq!(answer["status"], json!({"allowed": false, "denied": true, "reason": "bob is away"}));
    let selector = &outside.posted()[3]["spec"]["resourceAttributes"]["labelSelector"];
    assert_eq!(selector, &json!({"requirements": [{"key": "a", "operator": "In", "values": ["b", "c"]}]}));
    client.stop().await;
    outside.stop();
}

#[tokio::test]
async fn a_changed_file_decides_from_then_on_and_a_dead_webhook_as_it_says() {
    let outside = Outside::start(decide).await;
    let dir = tempfile::tempdir().unwrap();
    let (path, kubeconfig) = (dir.path().join("authorization.yaml"), outside.kubeconfig(dir.path()));
    outside.stop();
    std::fs::write(&path, configuration(&kubeconfig, "Deny")).unwrap();
    let config = Config { authorization_config: Some(path.clone()), ..Config::default() };
    let client = Client::start_with(config).await;
    let reader = client.acting_as(UserInfo::new("dave", &["system:authenticated"]));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(reader.post(reviews, &review).await.0, 403, "the failure policy refuses");
    client.reconfigure(&path, &configuration(&kubeconfig, "NoOpinion")).await;
    assert_eq!(reader.post(reviews, &review).await.0, 201);
    client.stop().await;
}

#[tokio::test]
async fn a_claim_is_allocated_by_who_may_bind_claims_besides_writing_their_status() {
    let client = Client::start().await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let exactly = json!({"deviceClassName": "g", "count": 1});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"},
        "spec": {"devices": {"requests": [{"name": "g", "exactly": exactly}]}}});
    assert_eq!(client.post(claims, &claim).await.0, 201);
    let grant = async |name: &str, subresource: &str| {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let version = "rbac.authorization.k8s.io/v1";
        let rule = json!({"apiGroups": ["resource.k8s.io"], "verbs": ["patch"],
            "resources": [format!("resourceclaims/{subresource}")]});
        let role = json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": name}, "rules": [rule]});
        let binding = json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "dave"}]});
        assert_eq!(client.post(&format!("{rbac}/clusterroles"), &role).await.0, 201);
        assert_eq!(client.post(&format!("{rbac}/clusterrolebindings"), &binding).await.0, 201);
    };
    let dave = client.acting_as(UserInfo::new("dave", &["system:authenticated"]));
    let result = json!({"request": "g", "driver": "a.b", "pool": "p", "device": "d"});
    let status = json!({"status": {"allocation": {"devices": {"results": [result]}}}});
    let path = format!("{claims}/c/status");
    assert_eq!(dave.merge(&path, &status).await.0, 403);
    grant("status", "status").await;
    let (code, refused) = dave.merge(&path, &status).await;
    assert_eq!((code, refused["details"]["causes"][0]["field"].as_str()), (422, Some("status")), "{refused}");
    grant("binding", "binding").await;
    let (code, allocated) = dave.merge(&path, &status).await;
    assert_eq!(code, 200, "{allocated}");
    assert_eq!(allocated["status"]["allocation"]["devices"]["results"][0]["device"], "d");
    client.stop().await;
}

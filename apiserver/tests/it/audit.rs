//! The audit log, from requests to events in the file.

use apiserver::{AuditConfig, Config, LogFile, UserInfo};
use serde_json::{Value, json};

use crate::client::Client;

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ['system:apiserver']}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}
- {level: Metadata}
";

struct Audited {
    client: Client,
    dir: tempfile::TempDir,
}

impl Audited {
    async fn start(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.yaml");
        std::fs::write(&file, policy).unwrap();
        let log = LogFile { path: dir.path().join("audit.log"), ..LogFile::default() };
        let audit = Some(AuditConfig { policy: file, log: Some(log), webhook: None });
        Self { client: Client::start_with(Config { audit, ..Config::default() }).await, dir }
    }

    /// Stops the server, so that all is written, and reads the events.
    async fn events(self) -> Vec<Value> {
        self.client.stop().await;
        let text = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_write_is_kept_with_its_bodies_and_who_allowed_it() {
    let audited = Audited::start(POLICY).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    audited.client.post("/api/v1/namespaces/default/configmaps", &map).await;
    let events = audited.events().await;
    assert_eq!(events.len(), 1, "{events:?}");
    let event = &events[0];
    assert_eq!((&event["kind"], &event["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!((&event["stage"], &event["verb"]), (&json!("ResponseComplete"), &json!("create")));
    assert_eq!(event["user"]["username"], "kubernetes-admin");
    assert_eq!(
        event["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"})
    );
    assert_eq!(event["requestObject"]["data"]["k"], "v");
    assert_eq!(event["responseObject"]["data"]["k"], "v");
    assert!(event["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(event["responseStatus"]["code"], 201);
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
}

#[tokio::test]
async fn a_refusal_says_why_and_bodies_stay_out_at_level_metadata() {
    let audited = Audited::start(POLICY).await;
    let jane = audited.client.acting_as(UserInfo::new("jane", &["system:authenticated"]));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"p": "hunter2"}});
    jane.post("/api/v1/namespaces/default/secrets", &secret).await;
    drop(jane);
    let events = audited.events().await;
    let event = &events[0];
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(event["responseStatus"]["reason"], "Forbidden");
    assert_eq!(event["responseStatus"]["code"], 403);
    assert!(!event.to_string().contains("hunter2"));
}

#[tokio::test]
async fn a_watch_has_a_start_and_an_end() {
    let audited = Audited::start(POLICY).await;
    let mut watch =
        audited.client.watch("/api/v1/namespaces/default/secrets?watch=true&timeoutSeconds=1").await;
    while watch.next().await.is_some() {}
    drop(watch);
    let stages: Vec<Value> = audited.events().await.into_iter().map(|e| e["stage"].clone()).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn events_are_sent_in_batches_and_the_last_ones_at_the_end() {
    let outside = crate::outside::Outside::start(|_| json!({})).await;
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.yaml");
    let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
        - level: Metadata\n  resources: [{group: '', resources: [configmaps]}]\n  users: [kubernetes-admin]\n- level: None\n";
    std::fs::write(&policy, text).unwrap();
    let batches = apiserver::AuditWebhook {
        batch_events_max: 2,
        ..apiserver::AuditWebhook::new(outside.kubeconfig(dir.path()))
    };
    let audit = Some(AuditConfig { policy, log: None, webhook: Some(batches) });
    let client = Client::start_with(Config { audit, ..Config::default() }).await;
    for name in ["a", "b", "c"] {
        client.get(&format!("/api/v1/namespaces/default/configmaps/{name}")).await;
    }
    client.stop().await;
    let posted = outside.posted();
    let names = |list: &Value| -> Vec<String> {
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
        let items = list["items"].as_array().unwrap().iter();
        items.map(|event| event["objectRef"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(posted.iter().map(names).collect::<Vec<_>>(), [vec!["a", "b"], vec!["c"]]);
    outside.stop();
}

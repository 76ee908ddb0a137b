//! Priority and fairness, from requests to their headers and the objects behind them.

use apiserver::UserInfo;
use serde_json::json;

use crate::client::Client;

const ROOT: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[tokio::test]
async fn answers_name_the_schema_and_level_that_they_came_under() {
    let client = Client::start().await;
    let level =
        client.wait_for(&format!("{ROOT}/prioritylevelconfigurations/global-default"), |_| true).await;
    let schema = client.wait_for(&format!("{ROOT}/flowschemas/global-default"), |_| true).await;
    let jane = client.acting_as(UserInfo::new("jane", &["system:authenticated"]));
    let response = jane.send("GET", "/version", "", axum::body::Body::empty()).await;
    let uid = |name: &str| response.headers().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(uid("x-kubernetes-pf-flowschema-uid"), schema["metadata"]["uid"]);
    assert_eq!(uid("x-kubernetes-pf-prioritylevel-uid"), level["metadata"]["uid"]);
    drop(jane);
    client.stop().await;
}

#[tokio::test]
async fn a_schema_says_whether_its_level_exists_and_mandatory_objects_come_back() {
    let client = Client::start().await;
    let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "lost"},
        "spec": {"matchingPrecedence": 700, "priorityLevelConfiguration": {"name": "nowhere"}}});
    let (code, _) = client.post(&format!("{ROOT}/flowschemas"), &schema).await;
    assert_eq!(code, 201);
    let path = format!("{ROOT}/flowschemas/lost");
    let shown = client.wait_for(&path, |s| s["status"]["conditions"][0]["status"] == "True").await;
    assert_eq!(shown["status"]["conditions"][0]["reason"], "NotFound");
    let exempt = format!("{ROOT}/flowschemas/exempt");
    client.wait_for(&exempt, |_| true).await;
    assert_eq!(client.delete(&exempt).await.0, 200);
    client.wait_for(&exempt, |_| true).await;
    client.stop().await;
}

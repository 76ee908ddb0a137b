//! One node agent with the simulated runtime and an API server in the process: from objects to objects.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod kubectl;
mod world;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use serde_json::json;
use tokio::io::AsyncReadExt;

use world::{World, condition, container, phase};

#[tokio::test]
async fn node_registers_and_becomes_ready() {
    let world = World::start().await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    let node = world
        .wait_for(&nodes, "node-1", "ready", |node| {
            let conditions = node.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|it| it.type_ == "Ready" && it.status == "True").map(|_| ())
        })
        .await;
    assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], "node-1");
    let status = node.status.unwrap();
    assert!(status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port > 0);
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(world.client.clone(), "kube-node-lease");
    world.wait_for(&leases, "node-1", "held", |it| it.spec.as_ref()?.holder_identity.clone()).await;
    world.stop().await;
}

#[tokio::test]
async fn bound_pod_becomes_ready_with_an_address() {
    let world = World::start().await;
    world.create("web", json!({}), json!({"containers": [{"name": "app", "image": "web:1"}]})).await;
    let pod = world.wait("web", "ready", |pod| condition(pod, "Ready")).await;
    let status = pod.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.unwrap().starts_with("10.9.0."));
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    let main = status.container_statuses.unwrap().remove(0);
    assert!(main.ready && main.container_id.unwrap().starts_with("simulated://"));
    let reasons = world.event_reasons("web", &["Started"]).await;
    for reason in ["Pulling", "Pulled", "Created", "Started"] {
        assert!(reasons.iter().any(|it| it == reason), "{reason} is missing in {reasons:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn pod_that_never_restarts_succeeds() {
    let world = World::start().await;
    let behaviour = json!({"simulation.coxswain.dev/run-for": "100ms"});
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "job", "image": "job:1"}]});
    world.create("job", behaviour, spec).await;
    let pod = world.wait("job", "succeeded", |pod| phase(pod, "Succeeded")).await;
    let ended = container(&pod, "job").unwrap().state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));
    world.stop().await;
}

#[tokio::test]
async fn crashing_container_restarts_and_backs_off() {
    let world = World::start().await;
    let behaviour = json!({"simulation.coxswain.dev/exit-code": "3"});
    world.create("crash", behaviour, json!({"containers": [{"name": "app", "image": "app:1"}]})).await;
    let pod = world
        .wait("crash", "in back-off", |pod| {
            let reason = container(pod, "app")?.state?.waiting?.reason?;
            (reason == "CrashLoopBackOff").then_some(())
        })
        .await;
    let main = container(&pod, "app").unwrap();
    assert_eq!(main.restart_count, 1);
    assert_eq!(main.last_state.unwrap().terminated.unwrap().exit_code, 3);
    world.stop().await;
}

#[tokio::test]
async fn missing_image_backs_off_with_the_registrys_answer() {
    let world = World::start().await;
    world
        .create("lost", json!({}), json!({"containers": [{"name": "app", "image": "does-not-exist:1"}]}))
        .await;
    let pod = world
        .wait("lost", "in image back-off", |pod| {
            let reason = container(pod, "app")?.state?.waiting?.reason?;
            (reason == "ImagePullBackOff").then_some(())
        })
        .await;
    let message = container(&pod, "app").unwrap().state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.contains("simulated registry"), "{message}");
    world.stop().await;
}

#[tokio::test]
async fn init_containers_run_before_the_others() {
    let world = World::start().await;
    let behaviour = json!({"simulation.coxswain.dev/init.exit-code": "0"});
    let spec = json!({
        "initContainers": [{"name": "init", "image": "init:1"}],
        "containers": [{"name": "app", "image": "app:1"}],
    });
    world.create("inits", behaviour, spec).await;
    let pod = world.wait("inits", "ready", |pod| condition(pod, "Ready")).await;
    let init = pod.status.unwrap().init_container_statuses.unwrap().remove(0);
    assert_eq!(init.state.unwrap().terminated.unwrap().exit_code, 0);
    world.stop().await;
}

#[tokio::test]
async fn init_containers_end_by_themselves_and_sidecars_stay() {
    let world = World::start().await;
    let spec = json!({
        "initContainers": [
            {"name": "prepare", "image": "init:1"},
            {"name": "beside", "image": "proxy:1", "restartPolicy": "Always"},
            {"name": "check", "image": "init:1"},
        ],
        "containers": [{"name": "app", "image": "app:1"}],
    });
    world.create("plain-inits", json!({}), spec).await;
    let pod = world.wait("plain-inits", "ready", |pod| condition(pod, "Ready")).await;
    let inits = pod.status.unwrap().init_container_statuses.unwrap();
    let codes: Vec<Option<i32>> =
        inits.iter().map(|it| Some(it.state.as_ref()?.terminated.as_ref()?.exit_code)).collect();
    assert_eq!(codes, [Some(0), None, Some(0)]);
    assert!(inits[1].ready && inits[1].restart_count == 0, "{:?}", inits[1]);
    world.stop().await;
}

#[tokio::test]
async fn pod_waits_for_its_config_map() {
    let world = World::start().await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}}]);
    let spec = json!({"containers": [{"name": "app", "image": "app:1", "env": env}]});
    world.create("waits", json!({}), spec).await;
    world
        .wait("waits", "waiting for its config map", |pod| {
            let waiting = container(pod, "app")?.state?.waiting?;
            let reason = waiting.reason? == "CreateContainerConfigError";
            (reason && waiting.message?.contains("settings")).then_some(())
        })
        .await;
    let map = json!({"metadata": {"name": "settings"}, "data": {"a": "1"}});
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    world.wait("waits", "ready", |pod| condition(pod, "Ready")).await;
    world.stop().await;
}

#[tokio::test]
async fn deleted_pod_is_ended_and_removed() {
    let world = World::start().await;
    world.create("gone", json!({}), json!({"containers": [{"name": "app", "image": "app:1"}]})).await;
    world.wait("gone", "ready", |pod| condition(pod, "Ready")).await;
    let pods = world.pods();
    let deleted = pods.delete("gone", &DeleteParams::default()).await.unwrap();
    assert!(deleted.left().unwrap().metadata.deletion_timestamp.is_some(), "deletion is graceful");
    world.wait_gone("gone").await;
    let reasons = world.event_reasons("gone", &["Killing"]).await;
    assert!(reasons.iter().any(|it| it == "Killing"), "{reasons:?}");
    world.stop().await;
}

#[tokio::test]
async fn logs_come_through_the_api_server() {
    let world = World::start().await;
    let behaviour = json!({"simulation.coxswain.dev/log": "one\ntwo\nthree"});
    world.create("talks", behaviour, json!({"containers": [{"name": "app", "image": "app:1"}]})).await;
    world.wait("talks", "ready", |pod| condition(pod, "Ready")).await;
    let pods = world.pods();
    assert_eq!(pods.logs("talks", &LogParams::default()).await.unwrap(), "one\ntwo\nthree\n");
    let tail = LogParams { tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(pods.logs("talks", &tail).await.unwrap(), "three\n");
    let previous = LogParams { previous: true, ..LogParams::default() };
    let refused = pods.logs("talks", &previous).await.unwrap_err().to_string();
    assert!(refused.contains("previous terminated container"), "{refused}");
    world.stop().await;
}

#[tokio::test]
async fn exec_gives_output_and_exit_code() {
    let world = World::start().await;
    world.create("shell", json!({}), json!({"containers": [{"name": "app", "image": "app:1"}]})).await;
    world.wait("shell", "ready", |pod| condition(pod, "Ready")).await;
    let pods = world.pods();
    let params = kube::api::AttachParams::default().stderr(true);
    let mut said = pods.exec("shell", ["echo", "hello", "there"], &params).await.unwrap();
    let mut text = String::new();
    said.stdout().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello there\n");
    let mut failed = pods.exec("shell", ["sh", "-c", "exit 7"], &params).await.unwrap();
    let status = failed.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    world.stop().await;
}

#[tokio::test]
async fn restarted_agent_tells_the_truth_again() {
    let mut world = World::start().await;
    world.create("stays", json!({}), json!({"containers": [{"name": "app", "image": "app:1"}]})).await;
    world.wait("stays", "ready", |pod| condition(pod, "Ready")).await;
    // A simulated node forgets its containers when it stops: the new agent starts them, and counts on.
    world.restart_agent().await;
    world
        .wait("stays", "running again", |pod| {
            let main = container(pod, "app")?;
            (main.restart_count == 1 && main.ready).then_some(())
        })
        .await;
    world.stop().await;
}

#[tokio::test]
async fn pod_deleted_while_no_agent_ran_goes_when_it_is_back() {
    let mut world = World::start().await;
    world.create("late", json!({}), json!({"containers": [{"name": "app", "image": "app:1"}]})).await;
    world.wait("late", "ready", |pod| condition(pod, "Ready")).await;
    world.stop_agent().await;
    world.pods().delete("late", &DeleteParams::default()).await.unwrap();
    world.restart_agent().await;
    world.wait_gone("late").await;
    let left = world.pods().list(&ListParams::default()).await.unwrap().items;
    assert!(left.is_empty(), "{left:?}");
    world.stop().await;
}

//! An operator as users write them with kube-rs: a custom kind, a finalizer, server-side apply of what it owns.

use std::sync::Arc;
use std::time::Duration;

use coxswain::{Cluster, Options};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

const FINALIZER: &str = "kettles.example.test/cleanup";
const LIMIT: Duration = Duration::from_secs(60);

fn definition() -> CustomResourceDefinition {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["water"], "properties": {"water": {"type": "string", "maxLength": 20}}},
        "status": {"type": "object", "properties": {"boiling": {"type": "boolean"}}}}});
    let names = json!({"plural": "kettles", "singular": "kettle", "kind": "Kettle"});
    let version = json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema}});
    let spec = json!({"group": "example.test", "scope": "Namespaced", "names": names, "versions": [version]});
    serde_json::from_value(json!({"metadata": {"name": "kettles.example.test"}, "spec": spec}))
        .expect("a definition")
}

fn kettles(client: Client) -> Api<DynamicObject> {
    Api::default_namespaced_with(client, &kettle())
}

fn kettle() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.test", "v1", "Kettle"), "kettles")
}

/// The operator: a ConfigMap for each kettle while it lives, a record of it when it goes.
async fn reconcile(object: Arc<DynamicObject>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let client = (*client).clone();
    let api = kettles(client.clone());
    let done = finalizer(&api, FINALIZER, object, |event| async {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        match event {
            Event::Apply(kettle) => boil(&api, &maps, &kettle).await,
            Event::Cleanup(kettle) => {
                let record = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "emptied"},
                    "data": {kettle.name_any(): "empty"}});
                let params = PatchParams::apply("kettle-operator");
                maps.patch("emptied", &params, &Patch::Apply(record)).await.map(|_| Action::await_change())
            }
        }
    });
    done.await.map_err(|error| match error {
        kube::runtime::finalizer::Error::ApplyFailed(source)
        | kube::runtime::finalizer::Error::CleanupFailed(source)
        | kube::runtime::finalizer::Error::AddFinalizer(source)
        | kube::runtime::finalizer::Error::RemoveFinalizer(source) => source,
        other => kube::Error::Service(other.to_string().into()),
    })
}

async fn boil(
    api: &Api<DynamicObject>,
    maps: &Api<ConfigMap>,
    kettle: &DynamicObject,
) -> Result<Action, kube::Error> {
    let name = kettle.name_any();
    let params = PatchParams::apply("kettle-operator");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"water": kettle.data["spec"]["water"]}});
    maps.patch(&name, &params, &Patch::Apply(map)).await?;
    let status = json!({"apiVersion": "example.test/v1", "kind": "Kettle", "status": {"boiling": true}});
    api.patch_status(&name, &params, &Patch::Apply(status)).await?;
    Ok(Action::await_change())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kube_rs_operator_with_a_finalizer_keeps_what_it_owns() {
    let cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let client = cluster.client();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &definition()).await.expect("created");
    let established = await_condition(definitions, "kettles.example.test", conditions::is_crd_established());
    tokio::time::timeout(LIMIT, established).await.expect("in time").expect("a watch");

    let api = kettles(client.clone());
    let mut wrong = DynamicObject::new("green", &kettle());
    wrong.data = json!({"spec": {"water": 7}});
    let refused = api.create(&PostParams::default(), &wrong).await.expect_err("water is a text");
    assert!(refused.to_string().contains("spec.water"), "{refused}");
    let mut green = DynamicObject::new("green", &kettle());
    green.data = json!({"spec": {"water": "soft"}});
    api.create(&PostParams::default(), &green).await.expect("created");

    let operator = Controller::new_with(api.clone(), watcher::Config::default(), kettle()).run(
        reconcile,
        |_, error, _| panic!("the operator fails: {error}"),
        Arc::new(client.clone()),
    );
    let story = async {
        let boiling = |kettle: Option<&DynamicObject>| {
            kettle.is_some_and(|it| it.data["status"]["boiling"] == true && it.finalizers() == [FINALIZER])
        };
        await_condition(api.clone(), "green", boiling).await.expect("a watch");
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let map = maps.get("green").await.expect("the operator made it");
        assert_eq!(map.data.expect("data")["water"], "soft");
        let owner = &map.metadata.managed_fields.expect("owners")[0];
        assert_eq!(owner.manager.as_deref(), Some("kettle-operator"));
        assert_eq!(owner.operation.as_deref(), Some("Apply"));

        let uid = api.get("green").await.expect("still there").uid().expect("a uid");
        api.delete("green", &DeleteParams::default()).await.expect("marked");
        let deleted = conditions::is_deleted(&uid);
        await_condition(api.clone(), "green", deleted).await.expect("a watch");
        let record = maps.get("emptied").await.expect("the finalizer ran");
        assert_eq!(record.data.expect("data")["green"], "empty");
    };
    tokio::select! {
        () = operator.for_each(|_| std::future::ready(())) => panic!("the operator ended"),
        () = async { tokio::time::timeout(LIMIT, story).await.expect("in time") } => {}
    }
    cluster.stop().await;
}

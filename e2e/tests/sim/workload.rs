//! What users do: workloads come, change and go, drawn from the seed.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    DeleteParams, DynamicObject, EvictParams, Patch, PatchParams, PostParams, PropagationPolicy,
};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::kubelet::{object, resource};
use crate::model::{is_active, is_going, name};
use crate::observer::View;
use crate::trace::Trace;

const NAMESPACE: &str = "sim";
/// Workloads of one kind at a time.
const EACH_MAX: usize = 2;

/// The kinds that users make: apiVersion, kind, plural.
const KINDS: [(&str, &str, &str); 6] = [
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("apps/v1", "ReplicaSet", "replicasets"),
    ("batch/v1", "Job", "jobs"),
    ("batch/v1", "CronJob", "cronjobs"),
];

pub(crate) struct Users {
    pub(crate) client: Client,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) view: Arc<Mutex<View>>,
    pub(crate) made: u64,
}

impl Users {
    /// Makes the namespace that all of it happens in.
    pub(crate) async fn begin(&self) {
        let namespaces =
            Api::<DynamicObject>::all_with(self.client.clone(), &resource("v1", "Namespace", "namespaces"));
        let namespace =
            object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
        let made = namespaces.create(&PostParams::default(), &namespace).await;
        self.note("create namespace", made.map(drop));
    }

    /// One thing that a user does.
    pub(crate) async fn step(&mut self) {
        let kind = self.chance.weighted(&[6, 4, 2, 2, 4, 1]);
        let existing = self.existing(KINDS[kind].2);
        let create = existing.len() < EACH_MAX && (existing.is_empty() || self.chance.happens(0.3));
        if create {
            return self.create(kind).await;
        }
        let Some(target) = self.chance.of(&existing).cloned() else { return };
        match self.chance.weighted(&[8, 3]) {
            0 => self.change(kind, &target).await,
            _ => self.delete(kind, &target).await,
        }
    }

    /// Evicts some pod, as a drain does, or deletes it.
    pub(crate) async fn take_a_pod(&self) {
        let pods: Vec<String> = {
            let view = self.view.lock();
            view.model.all("pods").filter(|pod| is_active(pod)).map(|pod| name(pod).to_owned()).collect()
        };
        let Some(pod) = self.chance.of(&pods) else { return };
        let api = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        match self.chance.weighted(&[5, 3, 2]) {
            0 => {
                let evicted = api.evict(pod, &EvictParams::default()).await;
                self.note(&format!("evict {pod}"), evicted.map(drop));
            }
            1 => {
                let deleted = api.delete(pod, &DeleteParams::default()).await;
                self.note(&format!("delete pod {pod}"), deleted.map(drop));
            }
            _ => {
                let deleted = api.delete(pod, &DeleteParams::default().grace_period(0)).await;
                self.note(&format!("delete pod {pod} by force"), deleted.map(drop));
            }
        }
    }

    /// Takes back what would keep workloads from coming to rest.
    pub(crate) async fn calm(&self) {
        for (index, (_, _, plural)) in KINDS.iter().enumerate() {
            for target in self.existing(plural) {
                let patch = match *plural {
                    "deployments" => json!({"spec": {"paused": false, "template": good()}}),
                    "statefulsets" => {
                        json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}, "template": good()}})
                    }
                    "daemonsets" => json!({"spec": {"template": good()}}),
                    "jobs" => json!({"spec": {"suspend": false}}),
                    "cronjobs" => json!({"spec": {"suspend": true}}),
                    _ => continue,
                };
                self.patch(index, name(&target), patch).await;
            }
        }
    }

    /// The workloads of a kind that users made and that are not going.
    fn existing(&self, plural: &str) -> Vec<Value> {
        let view = self.view.lock();
        let free = |object: &&Value| {
            let owned =
                object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
            !is_going(object) && !owned
        };
        view.model.all(plural).filter(free).cloned().collect()
    }

    async fn create(&mut self, kind: usize) {
        self.made += 1;
        let (api_version, kind_name, _) = KINDS[kind];
        let title = format!("{}{}", kind_name.to_lowercase(), self.made);
        let labels = json!({"app": title});
        let chance = &self.chance;
        let mut template =
            json!({"metadata": {"labels": labels, "annotations": {"v": "1"}}, "spec": pod_spec()});
        let selector = json!({"matchLabels": labels});
        let spec = match kind_name {
            "Deployment" => {
                json!({"replicas": chance.number(1..7), "selector": selector, "template": template,
                "strategy": self.strategy(), "revisionHistoryLimit": chance.number(0..3)})
            }
            "StatefulSet" => {
                json!({"replicas": chance.number(1..5), "selector": selector, "template": template,
                "serviceName": title,
                "podManagementPolicy": if chance.happens(0.25) { "Parallel" } else { "OrderedReady" }})
            }
            "DaemonSet" => {
                let rolling = match chance.happens(0.5) {
                    true => json!({"maxSurge": 1, "maxUnavailable": 0}),
                    false => json!({"maxUnavailable": chance.number(1..3)}),
                };
                json!({"selector": selector, "template": template,
                    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}})
            }
            "ReplicaSet" => {
                json!({"replicas": chance.number(1..5), "selector": selector, "template": template})
            }
            "Job" => {
                template["metadata"]["annotations"] = self.short_life();
                template["spec"]["restartPolicy"] = json!("Never");
                self.job(&template)
            }
            _ => {
                template["metadata"]["annotations"] =
                    json!({"sim/runs": chance.of(&["4000", "100000"]).unwrap_or(&"4000")});
                template["spec"]["restartPolicy"] = json!("Never");
                json!({"schedule": "* * * * *", "successfulJobsHistoryLimit": 1,
                    "concurrencyPolicy": chance.of(&["Allow", "Forbid", "Replace"]),
                    "jobTemplate": {"spec": {"template": template}}})
            }
        };
        let body =
            json!({"apiVersion": api_version, "kind": kind_name, "metadata": {"name": title}, "spec": spec});
        let made = self.api(kind).create(&PostParams::default(), &object(body)).await;
        self.note(&format!("create {kind_name} {title} {}", replicas_of(&spec)), made.map(drop));
        if kind_name == "Deployment" && self.chance.happens(0.4) {
            self.create_budget(&title).await;
        }
    }

    async fn create_budget(&self, title: &str) {
        let budgets = resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets");
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), NAMESPACE, &budgets);
        let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": title}}});
        let body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": title}, "spec": spec});
        self.note(
            &format!("create budget {title}"),
            api.create(&PostParams::default(), &object(body)).await.map(drop),
        );
    }

    fn strategy(&self) -> Value {
        if self.chance.happens(0.2) {
            return json!({"type": "Recreate"});
        }
        let surges = [json!(1), json!(2), json!("25%"), json!("50%"), json!(0)];
        let absences = [json!(1), json!("25%"), json!("50%"), json!(2)];
        let mut surge = self.chance.of(&surges).cloned().unwrap_or_default();
        let mut absent = self.chance.of(&absences).cloned().unwrap_or_default();
        match self.chance.number(0..3) {
            0 => surge = json!(0),
            1 if surge != json!(0) => absent = json!(0),
            _ => {}
        }
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": absent}})
    }

    fn short_life(&self) -> Value {
        let fails = self.chance.of(&["0", "0", "15", "30"]);
        json!({"sim/runs": self.chance.number(500..8000).to_string(), "sim/fails": fails})
    }

    fn job(&self, template: &Value) -> Value {
        let indexed = self.chance.happens(0.5);
        json!({"completions": self.chance.number(1..9), "parallelism": self.chance.number(1..5),
            "completionMode": if indexed { "Indexed" } else { "NonIndexed" },
            "backoffLimit": self.chance.number(3..12), "template": template})
    }

    async fn change(&self, kind: usize, target: &Value) {
        let chance = &self.chance;
        // A StatefulSet waits for a pod that never becomes ready until somebody deletes it.
        let may_break = KINDS[kind].2 != "statefulsets";
        let template = match may_break && chance.happens(0.15) {
            true => {
                json!({"metadata": {"annotations": {"v": chance.number(1..6).to_string(), "sim/never-ready": "yes"}}})
            }
            false => {
                json!({"metadata": {"annotations": {"v": chance.number(1..6).to_string(), "sim/never-ready": null}}})
            }
        };
        let paused = target["spec"]["paused"] == true;
        let suspended = target["spec"]["suspend"] == true;
        let spec = match KINDS[kind].2 {
            "deployments" => match chance.weighted(&[4, 5, 2, 1]) {
                0 => json!({"replicas": chance.number(0..9)}),
                1 => json!({"template": template}),
                2 => json!({"paused": !paused}),
                _ => json!({"replicas": chance.number(1..9), "template": template}),
            },
            "statefulsets" => match chance.weighted(&[4, 4, 1]) {
                0 => json!({"replicas": chance.number(0..6)}),
                1 => json!({"template": template}),
                _ => {
                    json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": chance.number(0..3)}}})
                }
            },
            "daemonsets" => json!({"template": template}),
            "replicasets" => json!({"replicas": chance.number(0..6)}),
            "jobs" => match chance.happens(0.5) {
                true => json!({"suspend": !suspended}),
                false => json!({"parallelism": chance.number(1..6)}),
            },
            _ => json!({"suspend": !suspended}),
        };
        self.patch(kind, name(target), json!({"spec": spec})).await;
    }

    async fn patch(&self, kind: usize, title: &str, patch: Value) {
        let done = self.api(kind).patch(title, &PatchParams::default(), &Patch::Merge(&patch)).await;
        self.note(&format!("patch {} {title} {patch}", KINDS[kind].1), done.map(drop));
    }

    async fn delete(&self, kind: usize, target: &Value) {
        let policies =
            [PropagationPolicy::Background, PropagationPolicy::Foreground, PropagationPolicy::Orphan];
        let policy = self.chance.of(&policies).cloned().unwrap_or(PropagationPolicy::Background);
        let said = format!("delete {} {} {policy:?}", KINDS[kind].1, name(target));
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        let done = self.api(kind).delete(name(target), &params).await;
        self.note(&said, done.map(drop));
    }

    fn api(&self, kind: usize) -> Api<DynamicObject> {
        let (api_version, kind, plural) = KINDS[kind];
        Api::namespaced_with(self.client.clone(), NAMESPACE, &resource(api_version, kind, plural))
    }

    /// A user's request may be refused, but never be too much for the server.
    fn note(&self, what: &str, done: Result<(), kube::Error>) {
        match done {
            Ok(()) => self.trace.note("user", what),
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
                self.trace.note("user", &format!("{what}: refused: {}", status.message));
            }
            Err(error) => self.trace.problem(format!("{what}: {error}")),
        }
    }
}

/// A template whose pods become ready.
fn good() -> Value {
    json!({"metadata": {"annotations": {"v": "good", "sim/never-ready": null}}})
}

fn pod_spec() -> Value {
    json!({"terminationGracePeriodSeconds": 2, "tolerations": [],
        "containers": [{"name": "c", "image": "example.test/app:1", "resources": {"requests": {"cpu": "10m"}}}]})
}

fn replicas_of(spec: &Value) -> String {
    ["replicas", "completions", "parallelism", "completionMode", "strategy"]
        .iter()
        .filter(|field| !spec[**field].is_null())
        .map(|field| format!("{field}={} ", spec[*field]))
        .collect()
}

//! The pods of a job: labels, index, hostname and what tells a container its index. Pure.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::facts::{FAILURES, FINALIZER, IGNORED_FAILURES, INDEX};
use super::plan::NewPod;
use crate::owners::{self, name_of};
use crate::pod_control::pod_of;

/// The server adds five characters to a generated name, which has 63 at most.
const PREFIX_CHARS_MAX: usize = 58;

/// The pod that a job makes of its template.
pub(super) fn pod_for(job: &Job, spec: &JobSpec, new: &NewPod) -> Pod {
    let (name, namespace) = (name_of(&job.metadata), job.metadata.namespace.as_deref().unwrap_or_default());
    let prefix = new.index.map_or_else(|| name.to_owned(), |index| indexed_prefix(name, index));
    let mut pod = pod_of(&spec.template, owners::controller_reference(job), namespace, &prefix);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|one| one == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = new.index else { return pod };
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some(failures) = new.failures {
        annotations.insert(FAILURES.to_owned(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), failures.ignored.to_string());
        }
    }
    tell_index(&mut pod);
    pod.spec.get_or_insert_default().hostname = Some(format!("{name}-{index}"));
    pod
}

fn indexed_prefix(name: &str, index: i32) -> String {
    let end = format!("-{index}");
    let room = PREFIX_CHARS_MAX.saturating_sub(end.len() + 1);
    name.chars().take(room).collect::<String>() + &end
}

/// Each container finds its index in its environment, unless the template sets that variable itself.
fn tell_index(pod: &mut Pod) {
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    let variable = EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value_from: Some(source), value: None };
    let spec = pod.spec.get_or_insert_default();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let variables = container.env.get_or_insert_default();
        if !variables.iter().any(|one| one.name == variable.name) {
            variables.push(variable.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::facts::IndexFailures;
    use super::*;

    fn made(name: &str, new: NewPod) -> Value {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c"}, {"name": "own", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "9"}]}],
            "initContainers": [{"name": "i"}],
        }});
        let job: Job = serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "ns", "uid": "u"}, "spec": {"template": template}}),
        )
        .unwrap();
        serde_json::to_value(pod_for(&job, job.spec.as_ref().unwrap(), &new)).unwrap()
    }

    #[test]
    fn a_pod_holds_the_finalizer_and_belongs_to_the_job() {
        let pod = made("j", NewPod { index: None, failures: None });
        assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(pod["metadata"]["generateName"], "j-");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(pod["spec"].get("hostname"), None);
    }

    #[test]
    fn an_indexed_pod_knows_its_index_by_label_annotation_hostname_and_environment() {
        let failures = Some(IndexFailures { counted: 2, ignored: 0 });
        let pod = made("j", NewPod { index: Some(7), failures });
        assert_eq!(pod["metadata"]["generateName"], "j-7-");
        assert_eq!(pod["metadata"]["labels"], json!({"a": "b", INDEX: "7"}));
        assert_eq!(pod["metadata"]["annotations"], json!({INDEX: "7", FAILURES: "2"}));
        assert_eq!(pod["spec"]["hostname"], "j-7");
        let path = "/spec/containers/0/env/0/valueFrom/fieldRef/fieldPath";
        assert_eq!(pod.pointer(path).unwrap(), "metadata.labels['batch.kubernetes.io/job-completion-index']");
        assert_eq!(pod["spec"]["initContainers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
        assert_eq!(
            pod["spec"]["containers"][1]["env"],
            json!([{"name": "JOB_COMPLETION_INDEX", "value": "9"}])
        );
    }

    #[test]
    fn a_long_name_is_cut_so_that_the_index_stays() {
        let pod = made(&"j".repeat(63), NewPod { index: Some(12345), failures: None });
        let prefix = pod["metadata"]["generateName"].as_str().unwrap();
        assert_eq!((prefix.len(), prefix.ends_with("j-12345-")), (58, true));
    }
}

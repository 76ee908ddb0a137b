//! `/stats/summary`, thin: CPU and memory of each container.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use component_base::clock::time_of;
use serde_json::json;

use super::Refusal;
use crate::agent::Agent;
use crate::runtime::{ContainerFilter, ContainerState, SandboxFilter};

pub(super) async fn summary(State(agent): State<Arc<Agent>>) -> Result<Response, Refusal> {
    let mut pods = Vec::new();
    for sandbox in agent.runtime.list_sandboxes(&SandboxFilter::default()).await? {
        let filter = ContainerFilter { sandbox: Some(sandbox.id.clone()), ..ContainerFilter::default() };
        let mut containers = Vec::new();
        for container in agent.runtime.list_containers(&filter).await? {
            if container.state != ContainerState::Running {
                continue;
            }
            // A container may end between the list and this question; then it has no figures.
            let Ok(stats) = agent.runtime.container_stats(&container.id).await else { continue };
            let time = time_of(stats.at);
            containers.push(json!({
                "name": container.name,
                "startTime": container.started_at.map(time_of),
                "cpu": {"time": time, "usageCoreNanoSeconds": stats.cpu_nanoseconds},
                "memory": {
                    "time": time,
                    "usageBytes": stats.memory_usage_bytes,
                    "workingSetBytes": stats.memory_working_set_bytes,
                },
            }));
        }
        pods.push(json!({
            "podRef": {"name": sandbox.name, "namespace": sandbox.namespace, "uid": sandbox.uid},
            "startTime": time_of(sandbox.created_at),
            "containers": containers,
        }));
    }
    super::json(&json!({"node": {"nodeName": agent.node_name}, "pods": pods}))
}

//! VolumeBinding: a pod goes where its volumes are or can be, and is bound only when they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::event::{ClusterEvent, EventKind, Hint};
use crate::framework::{
    Attaching, BindError, Check, CycleState, Filter, Plugin, PostBind, PreBind, PreFilter, PreFiltered,
    Reason, Refusal, Reserve,
};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::volumes::{BIND_COMPLETED, ClaimFacts, ClaimKey, ClassFacts, SELECTED_NODE, VolumeFacts};

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const LOST_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
/// The annotation of a volume that was bound here and not by a user.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// How long volumes may take to be made before the pod is tried elsewhere.
const BOUND_WITHIN: Duration = Duration::from_secs(600);

/// # Decides
/// Refuses a pod whose claims do not exist, go, are lost, or are of a class that binds at once and are not bound.
/// A node passes if the volumes of bound claims reach it, and if each other claim finds a free volume that does or
/// is of a class that can make one there. Before the pod is bound, volumes are given to their claims, or the node
/// is written into claims whose volume is to be made, and the bindings are waited for.
/// # Wakes on
/// Changes of the pod's claims, of volumes and classes, new nodes and changed labels.
/// # Differs
/// Capacities that CSI drivers report are not looked at, and no score prefers volumes of the right size.
pub(crate) struct VolumeBinding {
    /// What pods on their way to a node will do, by the pod's uid.
    plans: Mutex<HashMap<Arc<str>, Plan>>,
}

/// What makes the pod's volumes its own.
#[derive(Clone, Debug, Default, PartialEq)]
struct Plan {
    /// All claims of the pod that are not bound.
    claims: Vec<ClaimKey>,
    /// Volumes to give, by name and version, and the uid of the claim that gets each.
    given: Vec<(String, String, ClaimKey, String)>,
    /// Claims whose volumes are to be made.
    made: Vec<ClaimKey>,
}

/// The pod's claims, as its filter needs them.
#[derive(Default)]
struct Wanted {
    /// The volumes of bound claims; none where one does not exist.
    bound: Vec<Option<VolumeFacts>>,
    open: Vec<Open>,
}

/// A claim that is bound when its pod has a node.
struct Open {
    claim: ClaimFacts,
    candidates: Vec<VolumeFacts>,
    class: ClassFacts,
}

fn is_claimed(pod: &PodInfo, event: &ClusterEvent<'_>) -> bool {
    match event {
        ClusterEvent::ClaimChanged((namespace, name)) => {
            *namespace == pod.namespace && pod.claims.iter().any(|claim| claim.name == *name)
        }
        _ => false,
    }
}

impl Plugin for VolumeBinding {
    const NAME: &'static str = "VolumeBinding";
    const HINTS: &'static [Hint] = &[
        Hint { on: EventKind::ClaimChanged, helps: is_claimed },
        Hint { on: EventKind::VolumeChanged, helps: crate::event::always },
        Hint { on: EventKind::StorageClassChanged, helps: crate::event::always },
        Hint { on: EventKind::NodeAdded, helps: crate::event::always },
        Hint {
            on: EventKind::NodeUpdated,
            helps: |_, event| match event {
                ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels,
                _ => false,
            },
        },
    ];

    fn new() -> Self {
        Self { plans: Mutex::default() }
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.pre_filter(self.clone()).filter(self.clone()).reserve(self.clone());
        points.pre_bind(self.clone()).post_bind(self);
    }
}

impl PreFilter for VolumeBinding {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFiltered, Refusal> {
        if pod.claims.is_empty() {
            return Ok(PreFiltered::Skip);
        }
        state.put(self.wanted(pod, snapshot)?);
        Ok(PreFiltered::Run)
    }
}

impl Filter for VolumeBinding {
    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Check {
        let Some(wanted) = state.get::<Wanted>() else { return Ok(()) };
        let mut reasons: Vec<Reason> = Vec::new();
        if wanted.bound.iter().flatten().any(|volume| !volume.reaches(&node.facts)) {
            reasons.push(NODE_CONFLICT.into());
        }
        if plan(wanted, &node.facts).is_none() {
            reasons.push(NO_VOLUME.into());
        }
        if wanted.bound.iter().any(Option::is_none) {
            reasons.push(LOST_VOLUME.into());
        }
        if reasons.is_empty() {
            return Ok(());
        }
        let more = reasons.split_off(1);
        Err(Refusal { resolvable: false, reason: reasons.remove(0), more })
    }
}

/// How each open claim gets a volume on the node; none if one cannot.
fn plan(wanted: &Wanted, node: &NodeFacts) -> Option<Plan> {
    let mut plan = Plan::default();
    let mut taken = HashSet::new();
    for Open { claim, candidates, class } in &wanted.open {
        plan.claims.push(claim.key.clone());
        if let Some(selected) = &claim.selected_node {
            if **selected != *node.name || !class.provisions_on(node) {
                return None;
            }
            plan.made.push(claim.key.clone());
            continue;
        }
        let free = |volume: &&VolumeFacts| volume.reaches(node) && !taken.contains(&volume.name);
        match candidates.iter().find(free) {
            Some(volume) => {
                taken.insert(volume.name.clone());
                let (name, version) = (volume.name.clone(), volume.version.clone());
                plan.given.push((name, version, claim.key.clone(), claim.uid.clone()));
            }
            None if class.provisions_on(node) => plan.made.push(claim.key.clone()),
            None => return None,
        }
    }
    Some(plan)
}

impl VolumeBinding {
    fn wanted(&self, pod: &PodInfo, snapshot: &Snapshot) -> Result<Wanted, Refusal> {
        let volumes = snapshot.volumes();
        let mut wanted = Wanted::default();
        for used in &pod.claims {
            let claim = volumes.claim(&pod.namespace, &used.name);
            let claim = usable(pod, used.ephemeral, &used.name, claim).map_err(Refusal::unresolvable)?;
            if claim.bound {
                wanted.bound.push(volumes.volume(&claim.volume).cloned());
                continue;
            }
            let class = volumes.class(claim.class()).filter(|class| class.waits && claim.volume.is_empty());
            let Some(class) = class else { return Err(Refusal::unresolvable(UNBOUND)) };
            let candidates = self.untaken(pod, volumes.candidates(claim));
            wanted.open.push(Open { claim: claim.clone(), candidates, class: class.clone() });
        }
        Ok(wanted)
    }

    /// Without what other pods on their way will have.
    fn untaken(&self, pod: &PodInfo, mut candidates: Vec<VolumeFacts>) -> Vec<VolumeFacts> {
        if candidates.is_empty() {
            return candidates;
        }
        let plans = self.plans.lock();
        let others = plans.iter().filter(|(uid, _)| **uid != pod.uid).flat_map(|(_, plan)| &plan.given);
        let taken: HashSet<&String> = others.map(|(name, ..)| name).collect();
        candidates.retain(|volume| !taken.contains(&volume.name));
        candidates
    }
}

/// The claim, or why the pod cannot have it.
fn usable<'a>(
    pod: &PodInfo,
    is_ephemeral: bool,
    name: &str,
    claim: Option<&'a ClaimFacts>,
) -> Result<&'a ClaimFacts, String> {
    match claim {
        None if is_ephemeral => Err(format!(
            "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
        )),
        None => Err(format!("persistentvolumeclaim {name:?} not found")),
        Some(claim) if claim.lost => Err(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
            claim.volume
        )),
        Some(claim) if claim.terminating => Err(format!("persistentvolumeclaim {name:?} is being deleted")),
        Some(claim) if is_ephemeral && claim.owner.as_deref() != Some(&*pod.uid) => {
            let namespace = &pod.namespace;
            Err(format!("PVC {namespace}/{name} was not created for pod {} (pod is not owner)", pod.key()))
        }
        Some(claim) => Ok(claim),
    }
}

impl Reserve for VolumeBinding {
    fn reserve(&self, pod: &PodInfo, node: &str, snapshot: &Snapshot) -> Check {
        if pod.claims.is_empty() {
            return Ok(());
        }
        let wanted = self.wanted(pod, snapshot)?;
        let node = snapshot.node(node);
        let planned = node.and_then(|node| plan(&wanted, &node.facts));
        let planned = planned.ok_or_else(|| Refusal::unresolvable(NO_VOLUME))?;
        self.plans.lock().insert(pod.uid.clone(), planned);
        Ok(())
    }

    fn unreserve(&self, pod: &PodInfo, _: &str) {
        self.plans.lock().remove(&pod.uid);
    }
}

#[async_trait]
impl PreBind for VolumeBinding {
    async fn pre_bind(&self, client: &Client, pod: &PodInfo, node: &str) -> Result<(), BindError> {
        let Some(plan) = self.plans.lock().get(&pod.uid).cloned() else { return Ok(()) };
        for given in &plan.given {
            give(client, given).await?;
        }
        for (namespace, name) in &plan.made {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
            let chosen = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
            let patched = claims.patch_metadata(name, &PatchParams::default(), &Patch::Merge(chosen)).await;
            patched.map_err(BindError::Request)?;
        }
        let waiting = async {
            for key in &plan.claims {
                until_bound(client, key, plan.made.contains(key)).await?;
            }
            Ok(())
        };
        let late = || BindError::Volumes("context deadline exceeded".to_owned());
        tokio::time::timeout(BOUND_WITHIN, waiting).await.map_err(|_| late())?
    }
}

/// Writes the claim into the volume; the claim's controller does the rest.
async fn give(
    client: &Client,
    (volume, version, (namespace, name), uid): &(String, String, ClaimKey, String),
) -> Result<(), BindError> {
    let claim = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": namespace,
        "name": name, "uid": uid});
    let metadata = json!({"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: "yes"}});
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"claimRef": claim}}));
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    volumes.patch(volume, &PatchParams::default(), &patch).await.map(drop).map_err(BindError::Request)
}

/// Waits until the claim is bound, or its provisioner gives the node back.
async fn until_bound(client: &Client, (namespace, name): &ClaimKey, is_made: bool) -> Result<(), BindError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let has = |claim: &PersistentVolumeClaim, annotation: &str| {
        claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(annotation))
    };
    let decided = |claim: Option<&PersistentVolumeClaim>| match claim {
        None => true,
        Some(claim) => has(claim, BIND_COMPLETED) || (is_made && !has(claim, SELECTED_NODE)),
    };
    let found = await_condition(claims, name, decided).await;
    match found.map_err(|error| BindError::Volumes(error.to_string()))? {
        None => Err(BindError::Volumes(format!("persistentvolumeclaim {name:?} not found"))),
        Some(claim) if has(&claim, BIND_COMPLETED) => Ok(()),
        Some(_) => Err(BindError::Volumes(format!("provisioning failed for PVC {name:?}"))),
    }
}

impl PostBind for VolumeBinding {
    fn post_bind(&self, pod: &PodInfo, _: &str) {
        self.plans.lock().remove(&pod.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{claim, decide, node, pod, snapshot, storage_class, volume};

    fn message(snapshot: &mut Snapshot, pod: &crate::testing::PodBuilder) -> String {
        match decide(pod, snapshot).outcome {
            crate::cycle::Outcome::Chosen(node) => format!("on {node}"),
            crate::cycle::Outcome::Unfit(diagnosis) => diagnosis.to_string(),
        }
    }

    #[test]
    fn claims_must_exist_and_be_bound() {
        let mut snapshot = snapshot([node("n1")]);
        let pod = pod("p").claim("c");
        let missing = message(&mut snapshot, &pod);
        assert!(
            missing.starts_with("0/1 nodes are available: persistentvolumeclaim \"c\" not found."),
            "{missing}"
        );
        snapshot.set_claim(claim("c", "fast"));
        let unbound = message(&mut snapshot, &pod);
        let expected = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
        assert!(unbound.starts_with(expected), "{unbound}");
        snapshot.set_volume(volume("v", "fast", None));
        snapshot.set_claim(claim("c", "fast").bound_to("v"));
        assert_eq!(message(&mut snapshot, &pod), "on n1");
    }

    #[test]
    fn a_pod_goes_where_its_bound_volume_is() {
        let mut snapshot = snapshot([node("n1").label("zone", "a"), node("n2").label("zone", "b")]);
        snapshot.set_volume(volume("v", "fast", Some("b")));
        snapshot.set_claim(claim("c", "fast").bound_to("v"));
        assert_eq!(message(&mut snapshot, &pod("p").claim("c")), "on n2");
        snapshot.set_volume(volume("v", "fast", Some("c")));
        let refused = message(&mut snapshot, &pod("p").claim("c"));
        assert!(refused.contains("2 node(s) didn't match PersistentVolume's node affinity"), "{refused}");
        snapshot.set_claim(claim("c", "fast").bound_to("gone"));
        let refused = message(&mut snapshot, &pod("p").claim("c"));
        assert!(
            refused.contains("2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
        );
    }

    #[test]
    fn a_claim_that_waits_gets_a_free_volume_or_has_one_made() {
        let mut snapshot = snapshot([node("n1").label("zone", "a"), node("n2").label("zone", "b")]);
        snapshot.set_claim(claim("c", "local"));
        snapshot.set_class(storage_class("local", "kubernetes.io/no-provisioner"));
        let pod = pod("p").claim("c");
        let refused = message(&mut snapshot, &pod);
        assert!(refused.contains("2 node(s) didn't find available persistent volumes to bind"), "{refused}");
        snapshot.set_volume(volume("v", "local", Some("b")));
        assert_eq!(message(&mut snapshot, &pod), "on n2");
        let plugin = VolumeBinding::new();
        plugin.reserve(&pod.info(), "n2", &snapshot).unwrap();
        let plans = plugin.plans.lock().clone();
        assert_eq!(plans["p"].given[0].0, "v");
        // What one pod on its way will have is not free for another.
        snapshot.set_claim(claim("d", "local"));
        let second = crate::testing::pod("q").claim("d").info();
        assert_eq!(plugin.reserve(&second, "n2", &snapshot), Err(Refusal::unresolvable(NO_VOLUME)));
        plugin.unreserve(&pod.info(), "n2");
        assert_eq!(plugin.reserve(&second, "n2", &snapshot), Ok(()));
        snapshot.set_class(storage_class("made", "example.org/disk"));
        snapshot.set_claim(claim("e", "made"));
        let third = crate::testing::pod("r").claim("e").info();
        plugin.reserve(&third, "n1", &snapshot).unwrap();
        assert_eq!(plugin.plans.lock()["r"].made, [("default".to_owned(), "e".to_owned())]);
    }

    #[test]
    fn a_claim_that_was_promised_a_node_keeps_it() {
        let mut snapshot = snapshot([node("n1"), node("n2")]);
        snapshot.set_class(storage_class("made", "example.org/disk"));
        snapshot.set_claim(claim("c", "made").selected("n2"));
        assert_eq!(message(&mut snapshot, &pod("p").claim("c")), "on n2");
    }
}

//! `device-taint-eviction-controller`: takes pods away that use a device with a NoExecute taint that their claim
//! does not tolerate.
//!
//! # Watches
//! Pods with resource claims, ResourceClaims, ResourceSlices.
//!
//! # Writes
//! The condition DisruptionTarget on pods, and deletes them.
//!
//! # Guarantees
//! Only a pod that has a node and that the claim is reserved for goes, with its usual grace, and not before the
//! claim's tolerations end. When the taint goes in time, the pod stays.
//!
//! # Differs from Kubernetes
//! A toleration without effect holds for evictions too, as its documentation says. There are no
//! DeviceTaintRules, which are not yet part of a stable version.

use std::collections::HashMap;
use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim,
    ResourceClaimConsumerReference, ResourceSlice,
};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::eviction::{Evictor, Verdict, Words, end_of};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{controller_of, uid_of};

const WORDS: Words = Words {
    reason: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
    event: "DeviceTaintManagerEviction",
    marked: |_| "Marking for deletion".to_owned(),
    kept: |_| "Cancelling deletion".to_owned(),
};

pub(crate) struct DeviceTaintEviction {
    clock: Clock,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<ResourceClaim>>,
    slices: Arc<Informer<ResourceSlice>>,
    evictor: Evictor,
}

/// A pool of a driver.
type Pool<'a> = (&'a str, &'a str);

/// The devices of each pool, of its newest generation alone.
struct Devices<'a>(HashMap<Pool<'a>, (i64, Vec<&'a Device>)>);

impl<'a> Devices<'a> {
    fn of(slices: &'a [Arc<ResourceSlice>]) -> Self {
        let mut pools: HashMap<Pool<'a>, (i64, Vec<&'a Device>)> = HashMap::new();
        for slice in slices {
            let generation = slice.spec.pool.generation;
            let pool = pools.entry(pool_of(slice)).or_insert((generation, Vec::new()));
            if pool.0 < generation {
                *pool = (generation, Vec::new());
            }
            if pool.0 == generation {
                pool.1.extend(slice.spec.devices.iter().flatten());
            }
        }
        Self(pools)
    }

    fn find(&self, used: &DeviceRequestAllocationResult) -> Option<&'a Device> {
        let (_, devices) = self.0.get(&(used.driver.as_str(), used.pool.as_str()))?;
        devices.iter().copied().find(|device| device.name == used.device)
    }
}

fn pool_of(slice: &ResourceSlice) -> Pool<'_> {
    (&slice.spec.driver, &slice.spec.pool.name)
}

fn evicting_taints(device: &Device) -> impl Iterator<Item = &DeviceTaint> {
    device.taints.iter().flatten().filter(|taint| taint.effect == "NoExecute")
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let any_or =
        |wish: &Option<String>, has: &str| wish.as_deref().is_none_or(|wish| wish.is_empty() || wish == has);
    let value = |text: &Option<String>| text.clone().unwrap_or_default();
    any_or(&toleration.effect, &taint.effect)
        && any_or(&toleration.key, &taint.key)
        && (toleration.operator.as_deref() == Some("Exists")
            || value(&toleration.value) == value(&taint.value))
}

/// When what uses the device has to go for this taint; none when that is never. Of several tolerations the
/// shortest counts, but one without end before all.
fn end_by(
    taint: &DeviceTaint,
    tolerations: &[DeviceToleration],
    since: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let since = taint.time_added.as_ref().map_or(since, |time| moment_of(time).min(since));
    let matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint));
    let seconds: Option<Vec<i64>> = matching.map(|toleration| toleration.toleration_seconds).collect();
    Some(end_of(since, seconds?.into_iter().min().unwrap_or(0)))
}

/// The claims that are this pod's by name, by owner where they were made for it, and by reservation.
fn claims_of(pod: &Pod, claim: impl Fn(&str) -> Option<Arc<ResourceClaim>>) -> Vec<Arc<ResourceClaim>> {
    let entries = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    let noted = || pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let uid = uid_of(&pod.metadata);
    let found = entries.filter_map(|entry| match &entry.resource_claim_name {
        Some(name) => claim(name),
        None => {
            let name = noted().find(|one| one.name == entry.name)?.resource_claim_name.as_deref()?;
            claim(name).filter(|claim| controller_of(&claim.metadata).is_some_and(|owner| owner.uid == uid))
        }
    });
    found.filter(|claim| consumers(claim).any(|consumer| consumer.uid == uid)).collect()
}

/// The pods that a claim is reserved for.
fn consumers(claim: &ResourceClaim) -> impl Iterator<Item = &ResourceClaimConsumerReference> {
    let all = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    all.filter(|one| one.resource == "pods")
}

fn devices_of(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.iter().filter_map(|status| status.allocation.as_ref());
    allocation
        .filter_map(|allocation| allocation.devices.as_ref())
        .flat_map(|all| all.results.iter().flatten())
}

/// `since` is when the pod was first seen to have to go.
fn plan(
    pod: &Pod,
    claims: &[Arc<ResourceClaim>],
    slices: &[Arc<ResourceSlice>],
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Verdict {
    if !pods::is_bound(pod) {
        return Verdict::Untouched;
    }
    let devices = Devices::of(slices);
    let used = claims.iter().flat_map(|claim| devices_of(claim));
    let ends = used.flat_map(|used| {
        let taints = devices.find(used).into_iter().flat_map(evicting_taints);
        taints.filter_map(|taint| end_by(taint, used.tolerations.as_deref().unwrap_or_default(), since))
    });
    Verdict::until(ends.min(), now)
}

fn keys_of(claim: &ResourceClaim) -> Vec<ObjectKey> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    consumers(claim).map(|one| ObjectKey::new(namespace, &*one.name)).collect()
}

#[async_trait]
impl Controller for DeviceTaintEviction {
    const NAME: &'static str = "device-taint-eviction-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let pods = setup.watch(|pod: &Pod| {
            let uses = pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.is_some());
            uses.then(|| ObjectKey::of(pod)).into_iter().collect()
        });
        let claims = setup.watch(keys_of);
        let users = claims.clone();
        let slices = setup.watch(move |slice: &ResourceSlice| {
            let uses = |claim: &&Arc<ResourceClaim>| {
                devices_of(claim).any(|used| (used.driver.as_str(), used.pool.as_str()) == pool_of(slice))
            };
            users.all().iter().filter(uses).flat_map(|claim| keys_of(claim)).collect()
        });
        let evictor = Evictor::new(setup.client.clone(), setup.clock, setup.events(), WORDS);
        Self { clock: setup.clock, pods, claims, slices, evictor }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let live = |pod: &Arc<Pod>| !pods::is_terminating(pod) && !pods::is_terminal(pod);
        let Some(pod) = self.pods.get(key).filter(live) else {
            self.evictor.forget(key);
            return Ok(Action::Done);
        };
        let claims = claims_of(&pod, |name| self.claims.get(&ObjectKey::new(&*key.namespace, name)));
        let slices = if claims.is_empty() { Vec::new() } else { self.slices.all() };
        let now = self.clock.now();
        let verdict = plan(&pod, &claims, &slices, self.evictor.since(key, &pod, now), now);
        Ok(self.evictor.apply(key, &pod, verdict, now).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    const ADDED: &str = "1970-01-01T00:01:40Z";

    fn pod(node: Option<&str>) -> Pod {
        let entries = json!([{"name": "gpu", "resourceClaimName": "c"}, {"name": "made", "resourceClaimTemplateName": "t"}]);
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "nodeName": node, "resourceClaims": entries},
            "status": {"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "p-made"}]},
        }))
        .unwrap()
    }

    fn claim(device: &str, tolerations: Value) -> Arc<ResourceClaim> {
        let used = json!({"request": "r", "driver": "d", "pool": "one", "device": device, "tolerations": tolerations});
        let consumer = json!({"resource": "pods", "name": "p", "uid": "u"});
        let status = json!({"allocation": {"devices": {"results": [used]}}, "reservedFor": [consumer]});
        let metadata = json!({"name": "c", "namespace": "ns"});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap())
    }

    /// A slice of the pool with the devices `bad`, with a taint, and `good`.
    fn slice(generation: i64, effect: &str) -> Arc<ResourceSlice> {
        let taint = json!({"key": "k", "value": "v", "effect": effect, "timeAdded": ADDED});
        let devices = json!([{"name": "bad", "taints": [taint]}, {"name": "good"}]);
        let pool = json!({"name": "one", "generation": generation, "resourceSliceCount": 1});
        let spec = json!({"driver": "d", "pool": pool, "devices": devices});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap())
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::Duration::seconds(second)
    }

    /// What becomes, at second 110, of a pod that uses `device` with these tolerations.
    fn check(device: &str, tolerations: Value, expected: Verdict) {
        let claims = [claim(device, tolerations)];
        assert_eq!(plan(&pod(Some("n")), &claims, &[slice(1, "NoExecute")], at(105), at(110)), expected);
    }

    #[test]
    fn a_pod_on_a_tainted_device_goes_and_one_beside_it_stays() {
        check("bad", json!([]), Verdict::Evict);
        check("good", json!([]), Verdict::Stay);
        check("unknown", json!([]), Verdict::Stay);
    }

    #[test]
    fn a_toleration_must_match_the_taint() {
        check("bad", json!([{"key": "k", "value": "v", "effect": "NoExecute"}]), Verdict::Stay);
        check("bad", json!([{"key": "k", "operator": "Exists"}]), Verdict::Stay);
        check("bad", json!([{"operator": "Exists", "effect": "NoSchedule"}]), Verdict::Evict);
        check("bad", json!([{"key": "k", "value": "w"}]), Verdict::Evict);
        check("bad", json!([{"key": "other", "operator": "Exists"}]), Verdict::Evict);
    }

    #[test]
    fn seconds_count_from_when_the_taint_was_added_and_the_shortest_counts() {
        let for_seconds = |seconds: i64| json!({"operator": "Exists", "tolerationSeconds": seconds});
        check("bad", json!([for_seconds(30), for_seconds(60)]), Verdict::StayFor(Duration::from_secs(20)));
        check("bad", json!([for_seconds(5)]), Verdict::Evict);
        check("bad", json!([for_seconds(5), {"operator": "Exists"}]), Verdict::Stay);
    }

    #[test]
    fn only_taints_that_evict_in_the_newest_slices_count_for_pods_with_a_node() {
        let claims = [claim("bad", json!([]))];
        let verdict = |pod: &Pod, slices: &[Arc<ResourceSlice>]| plan(pod, &claims, slices, at(105), at(110));
        let bound = pod(Some("n"));
        assert_eq!(verdict(&bound, &[slice(1, "NoSchedule")]), Verdict::Stay);
        assert_eq!(verdict(&bound, &[slice(1, "NoExecute"), slice(2, "None")]), Verdict::Stay);
        assert_eq!(verdict(&bound, &[slice(2, "NoExecute"), slice(1, "None")]), Verdict::Evict);
        assert_eq!(verdict(&pod(None), &[slice(1, "NoExecute")]), Verdict::Untouched);
    }

    #[test]
    fn a_claim_counts_when_it_is_the_pods_own_and_reserved_for_it() {
        let found = |change: fn(&mut ResourceClaim), name: &'static str| {
            let mut claim = claim("bad", json!([]));
            change(Arc::make_mut(&mut claim));
            claims_of(&pod(Some("n")), |asked| (asked == name).then(|| claim.clone())).len()
        };
        let owned = |claim: &mut ResourceClaim| {
            let owner =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
            claim.metadata.owner_references = serde_json::from_value(owner).unwrap();
        };
        let unreserved = |claim: &mut ResourceClaim| claim.status.as_mut().unwrap().reserved_for = None;
        assert_eq!((found(|_| {}, "c"), found(unreserved, "c")), (1, 0));
        assert_eq!((found(owned, "p-made"), found(|_| {}, "p-made")), (1, 0));
    }
}

//! `service-cidr-controller`: keeps a range of service addresses as long as Services have addresses of it.
//!
//! # Watches
//! ServiceCIDRs and IPAddresses.
//!
//! # Writes
//! The finalizer `networking.k8s.io/service-cidr-finalizer` and the condition Ready of ServiceCIDRs.
//!
//! # Guarantees
//! A range that is deleted goes when every address of the API server within it lies in another range too,
//! and not before ten seconds have passed, so that nobody gives out an address of it meanwhile.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_types::conditions;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of, time_of};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::finalizers;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{is_deleting, label, name_of};
use crate::prefix::Prefix;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// How long a deleted range stays at least.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) struct ServiceCidrController {
    client: Client,
    clock: Clock,
    events: Events,
    ranges: Arc<Informer<ServiceCIDR>>,
    addresses: Arc<Informer<IPAddress>>,
}

/// What `plan` sees.
struct Observed<'a> {
    range: &'a ServiceCIDR,
    ranges: &'a [Arc<ServiceCIDR>],
    addresses: &'a [Arc<IPAddress>],
    now: DateTime<Utc>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    AddFinalizer,
    SetConditions(Vec<Condition>),
    Wait(Duration),
    RemoveFinalizer,
}

fn plan(observed: &Observed<'_>) -> Vec<Step> {
    let meta = &observed.range.metadata;
    let is_held = meta.finalizers.iter().flatten().any(|one| one == FINALIZER);
    let Some(deleted) = meta.deletion_timestamp.as_ref().map(moment_of) else {
        let mut steps = Vec::new();
        if !is_held {
            steps.push(Step::AddFinalizer);
        }
        steps.extend(set_ready(observed, "True", "", "Kubernetes Service CIDR is ready"));
        return steps;
    };
    if is_needed(observed) {
        let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                   ServiceCIDR";
        return set_ready(observed, "False", "Terminating", why).into_iter().collect();
    }
    let age = (observed.now - deleted).to_std().unwrap_or(Duration::ZERO);
    match (GRACE.saturating_sub(age), is_held) {
        (_, false) => Vec::new(),
        (Duration::ZERO, true) => vec![Step::RemoveFinalizer],
        (left, true) => vec![Step::Wait(left)],
    }
}

fn set_ready(observed: &Observed<'_>, status: &str, reason: &str, message: &str) -> Option<Step> {
    let mut all = observed.range.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let condition = Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: time_of(observed.now),
        observed_generation: None,
    };
    conditions::set(&mut all, condition).then_some(Step::SetConditions(all))
}

/// Whether an address would be in no range without this one.
fn is_needed(observed: &Observed<'_>) -> bool {
    let name = name_of(&observed.range.metadata);
    let others: Vec<Prefix> = observed
        .ranges
        .iter()
        .filter(|other| name_of(&other.metadata) != name)
        .flat_map(|other| prefixes(other))
        .collect();
    let own = prefixes(observed.range);
    if own.iter().all(|part| others.iter().any(|other| other.covers(part))) {
        return false;
    }
    let ours = observed.addresses.iter().filter(|one| label(&one.metadata, MANAGED_BY) == Some(ALLOCATOR));
    let mut addresses = ours.filter_map(|one| name_of(&one.metadata).parse::<IpAddr>().ok());
    addresses.any(|address| {
        own.iter().any(|part| part.has(address)) && !others.iter().any(|other| other.has(address))
    })
}

fn prefixes(range: &ServiceCIDR) -> Vec<Prefix> {
    let texts = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[async_trait]
impl Controller for ServiceCidrController {
    const NAME: &'static str = "service-cidr-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let ranges = setup.watch_own::<ServiceCIDR>();
        // A range that comes or goes, and an address, may set others free.
        let queue_deleted = |ranges: Arc<Informer<ServiceCIDR>>| {
            move || -> Vec<ObjectKey> {
                let going = ranges.all().into_iter().filter(|range| is_deleting(&range.metadata));
                going.map(|range| ObjectKey::of(&*range)).collect()
            }
        };
        let (by_range, by_address) = (queue_deleted(ranges.clone()), queue_deleted(ranges.clone()));
        setup.subscribe(&ranges, move |_| by_range());
        let addresses = setup.watch::<IPAddress>(move |_| by_address());
        Self { client: setup.client.clone(), clock: setup.clock, events: setup.events(), ranges, addresses }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(range) = self.ranges.get(key) else { return Ok(Action::Done) };
        let (ranges, addresses) = (self.ranges.all(), self.addresses.all());
        let observed =
            Observed { range: &range, ranges: &ranges, addresses: &addresses, now: self.clock.now() };
        for step in plan(&observed) {
            match step {
                Step::Wait(left) => return Ok(Action::RequeueAfter(left)),
                Step::AddFinalizer => finalizers::add_finalizer(&self.api(), &*range, FINALIZER).await?,
                Step::RemoveFinalizer => finalizers::drop_finalizer(&self.api(), &*range, FINALIZER).await?,
                Step::SetConditions(all) => self.write(&range, all).await?,
            }
        }
        Ok(Action::Done)
    }
}

impl ServiceCidrController {
    fn api(&self) -> Api<ServiceCIDR> {
        Api::all(self.client.clone())
    }

    async fn write(&self, range: &ServiceCIDR, all: Vec<Condition>) -> Result<(), kube::Error> {
        let patch =
            Patch::Merge(json!({"metadata": {"uid": range.metadata.uid}, "status": {"conditions": all}}));
        let written =
            self.api().patch_status(name_of(&range.metadata), &PatchParams::default(), &patch).await;
        match written {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => {
                let why = "The ServiceCIDR Status can not be set to Ready=True";
                self.events.warning(range, "KubernetesServiceCIDRError", why);
                Err(error)
            }
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, cidrs: &[&str], held: bool, deleted: bool) -> Arc<ServiceCIDR> {
        let finalizers: &[&str] = if held { &[FINALIZER] } else { &[] };
        let deleted = deleted.then_some("1970-01-01T00:00:00Z");
        let meta = json!({"name": name, "finalizers": finalizers, "deletionTimestamp": deleted});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"cidrs": cidrs}})).unwrap())
    }

    fn check(range: &ServiceCIDR, others: &[Arc<ServiceCIDR>], addresses: &[&str], expected: &[&str]) {
        let address = |name: &&str| {
            let meta = json!({"name": name, "labels": {MANAGED_BY: ALLOCATOR}});
            Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
        };
        let addresses: Vec<Arc<IPAddress>> = addresses.iter().map(address).collect();
        let mut ranges = others.to_vec();
        ranges.push(Arc::new(range.clone()));
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(4);
        let observed = Observed { range, ranges: &ranges, addresses: &addresses, now };
        let tell = |step: &Step| match step {
            Step::SetConditions(all) => format!("Ready {} {}", all[0].status, all[0].reason),
            other => format!("{other:?}"),
        };
        assert_eq!(plan(&observed).iter().map(tell).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_new_range_is_held_and_ready() {
        check(&range("a", &["10.0.0.0/24"], false, false), &[], &[], &["AddFinalizer", "Ready True "]);
    }

    #[test]
    fn a_deleted_range_waits_a_moment_and_goes() {
        check(&range("a", &["10.0.0.0/24"], true, true), &[], &["10.9.0.1"], &["Wait(6s)"]);
        check(&range("a", &["10.0.0.0/24"], false, true), &[], &[], &[]);
    }

    #[test]
    fn a_deleted_range_with_addresses_stays_and_says_so() {
        let deleted = range("a", &["10.0.0.0/24"], true, true);
        check(&deleted, &[], &["10.0.0.1"], &["Ready False Terminating"]);
    }

    #[test]
    fn another_range_with_the_addresses_sets_it_free() {
        let deleted = range("a", &["10.0.0.0/24"], true, true);
        check(&deleted, &[range("b", &["10.0.0.0/16"], true, false)], &["10.0.0.1"], &["Wait(6s)"]);
        check(&deleted, &[range("b", &["10.0.0.0/28"], true, false)], &["10.0.0.1"], &["Wait(6s)"]);
        check(
            &deleted,
            &[range("b", &["10.0.0.0/28"], true, false)],
            &["10.0.0.99"],
            &["Ready False Terminating"],
        );
    }
}

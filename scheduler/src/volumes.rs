//! Claims, volumes and classes as decisions see them: compiled once per version of the object.

use std::collections::{BTreeMap, BTreeSet};

use api_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::node::NodeFacts;
use crate::selector::{Labels, NodeTerm, Selector, compile_terms};

/// The annotation of a claim whose binding is complete.
pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The annotation by which a claim's provisioner learns on which node the volume is needed.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Where claims and volumes named their class before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// What tells claims apart: namespace and name.
pub(crate) type ClaimKey = (String, String);

/// A claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimFacts {
    pub(crate) key: ClaimKey,
    pub(crate) uid: String,
    /// The uid of the object that controls it: of a claim made for a pod's volume, that pod.
    pub(crate) owner: Option<String>,
    /// The volume that it names, or empty.
    pub(crate) volume: String,
    pub(crate) bound: bool,
    pub(crate) lost: bool,
    pub(crate) terminating: bool,
    pub(crate) selected_node: Option<String>,
    wish: Wish,
    selector: Option<Selector>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VolumeFacts {
    pub(crate) name: String,
    pub(crate) version: String,
    labels: Labels,
    /// The claim that has it or that it is kept for, with its uid if that is known.
    claim: Option<(ClaimKey, String)>,
    available: bool,
    terminating: bool,
    /// Alternatives of which the node must match one.
    nodes: Option<Vec<NodeTerm>>,
    has: Wish,
}

/// What a claim asks for and a volume has.
#[derive(Clone, Debug, PartialEq)]
struct Wish {
    class: String,
    attributes_class: String,
    mode: String,
    access_modes: BTreeSet<String>,
    storage: Quantity,
}

/// A class of storage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClassFacts {
    pub(crate) name: String,
    /// Whether volumes are bound only when a pod needs them.
    pub(crate) waits: bool,
    pub(crate) provisioner: String,
    topologies: Vec<Selector>,
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

fn storage(
    amounts: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> Quantity {
    Quantity::parse_or_zero(amounts.and_then(|amounts| amounts.get("storage")).map_or("", |amount| &amount.0))
}

impl ClaimFacts {
    pub(crate) fn from_claim(claim: PersistentVolumeClaim) -> Self {
        let (meta, spec) = (claim.metadata, claim.spec.unwrap_or_default());
        let phase = claim.status.and_then(|status| status.phase);
        let class = annotation(&meta, OLD_CLASS).map(str::to_owned).or(spec.storage_class_name);
        let owners = meta.owner_references.iter().flatten();
        let volume = spec.volume_name.unwrap_or_default();
        Self {
            owner: owners.into_iter().find(|owner| owner.controller == Some(true)).map(|o| o.uid.clone()),
            bound: !volume.is_empty() && annotation(&meta, BIND_COMPLETED).is_some(),
            volume,
            lost: phase.as_deref() == Some("Lost"),
            terminating: meta.deletion_timestamp.is_some(),
            selected_node: annotation(&meta, SELECTED_NODE).map(str::to_owned),
            wish: Wish {
                class: class.unwrap_or_default(),
                attributes_class: spec.volume_attributes_class_name.unwrap_or_default(),
                mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
                access_modes: spec.access_modes.into_iter().flatten().collect(),
                storage: storage(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())),
            },
            selector: spec.selector.as_ref().map(Selector::from_label_selector),
            key: (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
        }
    }

    /// The name of its class, or empty.
    pub(crate) fn class(&self) -> &str {
        &self.wish.class
    }
}

impl VolumeFacts {
    pub(crate) fn from_volume(volume: PersistentVolume) -> Self {
        let (meta, spec) = (volume.metadata, volume.spec.unwrap_or_default());
        let class = annotation(&meta, OLD_CLASS).map(str::to_owned).or(spec.storage_class_name);
        let claim = spec.claim_ref.map(|claim| {
            (
                (claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default()),
                claim.uid.unwrap_or_default(),
            )
        });
        Self {
            name: meta.name.unwrap_or_default(),
            version: meta.resource_version.unwrap_or_default(),
            labels: meta.labels.unwrap_or_default(),
            claim,
            available: volume.status.and_then(|status| status.phase).as_deref() == Some("Available"),
            terminating: meta.deletion_timestamp.is_some(),
            nodes: spec.node_affinity.and_then(|affinity| affinity.required).map(|r| compile_terms(&r)),
            has: Wish {
                class: class.unwrap_or_default(),
                attributes_class: spec.volume_attributes_class_name.unwrap_or_default(),
                mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
                access_modes: spec.access_modes.into_iter().flatten().collect(),
                storage: storage(spec.capacity.as_ref()),
            },
        }
    }

    /// Whether pods of this node can have it.
    pub(crate) fn reaches(&self, node: &NodeFacts) -> bool {
        let matches = |terms: &Vec<NodeTerm>| terms.iter().any(|term| term.matches(&node.name, &node.labels));
        self.nodes.as_ref().is_none_or(matches)
    }

    /// Whether it is this claim's, or kept for it.
    fn is_of(&self, claim: &ClaimFacts) -> bool {
        let same =
            |(key, uid): &(ClaimKey, String)| *key == claim.key && (uid.is_empty() || *uid == claim.uid);
        self.claim.as_ref().is_some_and(same)
    }

    fn suits(&self, claim: &ClaimFacts) -> bool {
        let (has, wish) = (&self.has, &claim.wish);
        !self.terminating
            && has.mode == wish.mode
            && has.attributes_class == wish.attributes_class
            && has.storage >= wish.storage
    }

    fn is_free_for(&self, claim: &ClaimFacts) -> bool {
        self.claim.is_none()
            && self.available
            && self.has.class == claim.wish.class
            && claim.wish.access_modes.is_subset(&self.has.access_modes)
            && claim.selector.as_ref().is_none_or(|selector| selector.matches(&self.labels))
    }
}

impl ClassFacts {
    pub(crate) fn from_class(class: StorageClass) -> Self {
        Self {
            name: class.metadata.name.unwrap_or_default(),
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisioner: class.provisioner,
            topologies: class.allowed_topologies.iter().flatten().map(topology).collect(),
        }
    }

    /// Whether volumes for pods of this node can be made.
    pub(crate) fn provisions_on(&self, node: &NodeFacts) -> bool {
        let allowed =
            self.topologies.is_empty() || self.topologies.iter().any(|one| one.matches(&node.labels));
        !self.provisioner.is_empty() && self.provisioner != "kubernetes.io/no-provisioner" && allowed
    }
}

fn topology(term: &TopologySelectorTerm) -> Selector {
    let expressions = term.match_label_expressions.iter().flatten();
    expressions.fold(Selector::default(), |selector, one| selector.with_any(&one.key, &one.values))
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    claims: BTreeMap<ClaimKey, ClaimFacts>,
    volumes: BTreeMap<String, VolumeFacts>,
    classes: BTreeMap<String, ClassFacts>,
}

/// Puts `new` in, or takes the object out; says whether that changed anything.
fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, new: Option<V>) -> bool {
    let changed = map.get(&key) != new.as_ref();
    match new {
        Some(new) => drop(map.insert(key, new)),
        None => drop(map.remove(&key)),
    }
    changed
}

impl Volumes {
    pub(crate) fn set_claim(&mut self, key: ClaimKey, claim: Option<ClaimFacts>) -> bool {
        set(&mut self.claims, key, claim)
    }

    pub(crate) fn set_volume(&mut self, name: String, volume: Option<VolumeFacts>) -> bool {
        set(&mut self.volumes, name, volume)
    }

    pub(crate) fn set_class(&mut self, name: String, class: Option<ClassFacts>) -> bool {
        set(&mut self.classes, name, class)
    }

    pub(crate) fn claim_keys(&self) -> Vec<ClaimKey> {
        self.claims.keys().cloned().collect()
    }

    pub(crate) fn volume_names(&self) -> Vec<String> {
        self.volumes.keys().cloned().collect()
    }

    pub(crate) fn class_names(&self) -> Vec<String> {
        self.classes.keys().cloned().collect()
    }

    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<&ClaimFacts> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn volume(&self, name: &str) -> Option<&VolumeFacts> {
        self.volumes.get(name)
    }

    pub(crate) fn class(&self, name: &str) -> Option<&ClassFacts> {
        self.classes.get(name)
    }

    /// The volumes that may become this claim's: those kept for it, else the free ones that suit.
    pub(crate) fn candidates(&self, claim: &ClaimFacts) -> Vec<VolumeFacts> {
        let suiting = || self.volumes.values().filter(|volume| volume.suits(claim));
        let kept: Vec<VolumeFacts> = suiting().filter(|volume| volume.is_of(claim)).cloned().collect();
        if !kept.is_empty() {
            return kept;
        }
        let mut free: Vec<VolumeFacts> =
            suiting().filter(|volume| volume.is_free_for(claim)).cloned().collect();
        free.sort_by(|one, other| {
            one.has.storage.cmp(&other.has.storage).then_with(|| one.name.cmp(&other.name))
        });
        free
    }
}

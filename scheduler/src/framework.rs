//! The scheduling framework: the points of a decision to which plugins attach.
//!
//! The points and their order are those of Kubernetes' scheduling framework. A plugin implements the traits of
//! the points it wants and says so in `attach`. Points up to `Reserve` run inside the decision and do no I/O;
//! `PreBind`, `Bind` and `PostBind` run in the background, many pods at a time.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;

use crate::event::Hint;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::queue::SortKey;
use crate::snapshot::Snapshot;

/// The highest score a node may have from one plugin.
pub(crate) const SCORE_MAX: i64 = 100;

/// Why something was refused, as the user reads it.
pub(crate) type Reason = Cow<'static, str>;

/// A plugin's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Whether removing pods from the node could turn it into a yes.
    pub(crate) resolvable: bool,
    pub(crate) reason: Reason,
    /// Further reasons; mostly none, and then nothing is allocated.
    pub(crate) more: Vec<Reason>,
}

impl Refusal {
    /// A no that removing pods could change.
    pub(crate) fn resolvable(reason: impl Into<Reason>) -> Self {
        Self { resolvable: true, reason: reason.into(), more: Vec::new() }
    }

    /// A no that stays, whatever pods are removed.
    pub(crate) fn unresolvable(reason: impl Into<Reason>) -> Self {
        Self { resolvable: false, reason: reason.into(), more: Vec::new() }
    }

    pub(crate) fn reasons(&self) -> impl Iterator<Item = &Reason> {
        std::iter::once(&self.reason).chain(&self.more)
    }
}

/// Yes, or why not.
pub(crate) type Check = Result<(), Refusal>;

/// What plugins remember between the points of one decision. Each has a place by its own type.
#[derive(Debug, Default)]
pub(crate) struct CycleState {
    slots: Vec<(TypeId, Box<dyn Any + Send>)>,
}

impl CycleState {
    pub(crate) fn put<T: Any + Send>(&mut self, value: T) {
        let id = TypeId::of::<T>();
        self.slots.retain(|(known, _)| *known != id);
        self.slots.push((id, Box::new(value)));
    }

    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.slots.iter().find(|(known, _)| *known == TypeId::of::<T>())?.1.downcast_ref()
    }

    pub(crate) fn get_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.slots.iter_mut().find(|(known, _)| *known == TypeId::of::<T>())?.1.downcast_mut()
    }
}

/// What a plugin is, statically.
pub(crate) trait Plugin: Send + Sync + Sized + 'static {
    /// Kubernetes' name of the plugin.
    const NAME: &'static str;
    /// What its scores count for beside those of others.
    const WEIGHT: i64 = 1;
    /// The events that can help a pod which this plugin refused.
    const HINTS: &'static [Hint] = &[];

    fn new() -> Self;

    /// Names the points at which the plugin takes part.
    fn attach(self: Arc<Self>, points: &mut Attaching<'_>);
}

/// Orders the queue; exactly one plugin of a profile.
pub(crate) trait QueueSort: Send + Sync {
    /// Pods are tried in the ascending order of this. `arrival` counts pods as they came.
    fn sort_key(&self, pod: &PodInfo, arrival: u64) -> SortKey;
}

/// Decides whether a pod may enter the active queue at all. A pod refused here waits until it is changed.
pub(crate) trait PreEnqueue: Send + Sync {
    fn pre_enqueue(&self, pod: &PodInfo) -> Check;
}

/// What `pre_filter` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PreFiltered {
    /// The plugin's filter must see every node.
    Run,
    /// The plugin has nothing to say about this pod; its filter is not called.
    Skip,
    /// Only these nodes come into question.
    Only(Vec<String>),
}

/// Looks at the pod and the whole cluster once, before nodes are filtered.
pub(crate) trait PreFilter: Send + Sync {
    /// A refusal here holds for all nodes.
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Result<PreFiltered, Refusal>;

    /// Takes `other` out of (or puts it back into) what `pre_filter` computed, as if it were not on `node`.
    /// Called by preemption. Needed only by plugins that look beyond the node.
    fn adjust(&self, _change: &Adjustment<'_>, _state: &mut CycleState) {}
}

/// A pod that preemption imagines away or back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adjustment<'a> {
    pub(crate) pod: &'a PodInfo,
    pub(crate) other: &'a PodInfo,
    pub(crate) node: &'a NodeInfo,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) step: crate::terms::Step,
}

/// Says whether the pod can run on a node. Looks at `node` and the state, never elsewhere for the node: during
/// preemption `node` is an imagined one.
pub(crate) trait Filter: Send + Sync {
    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Check;
}

/// What can be done for a pod that no node can take.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PostFiltered {
    /// The node that will be able to take it, after `victims` are gone.
    pub(crate) nominated: Option<Arc<str>>,
    pub(crate) victims: Vec<Arc<PodInfo>>,
    /// Whether room that was made for the pod earlier will not do any more.
    pub(crate) withdraws: bool,
    /// What is added to the failure's message.
    pub(crate) message: String,
}

/// Called when no node passed the filters.
pub(crate) trait PostFilter: Send + Sync {
    fn post_filter(&self, failed: &mut Failed<'_>) -> PostFiltered;
}

/// A decision that found no node, for post-filter plugins.
pub(crate) struct Failed<'a> {
    pub(crate) points: &'a Points,
    pub(crate) state: &'a mut CycleState,
    pub(crate) pod: &'a PodInfo,
    pub(crate) snapshot: &'a Snapshot,
    /// The nodes that were refused, and why. Empty when a pre-filter refused for all.
    pub(crate) refused: &'a [Refused],
    pub(crate) skipped: PluginSet,
}

/// One node's refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) node: u32,
    pub(crate) plugin: PluginId,
    pub(crate) refusal: Refusal,
}

/// Looks at the feasible nodes once, before they are scored. `false`: the plugin does not score this pod.
pub(crate) trait PreScore: Send + Sync {
    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot, feasible: &[u32])
    -> bool;
}

/// Scores the feasible nodes.
pub(crate) trait Score: Send + Sync {
    fn score(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64;

    /// Brings the scores of all feasible nodes into 0..=SCORE_MAX. Nothing to do where `score` gives that.
    fn normalize(&self, _state: &CycleState, _scores: &mut [i64]) {}
}

/// Is told of an assumed pod, and when that comes to nothing. Both must be idempotent.
pub(crate) trait Reserve: Send + Sync {
    fn reserve(&self, pod: &PodInfo, node: &str, snapshot: &Snapshot) -> Check;
    fn unreserve(&self, pod: &PodInfo, node: &str);
}

/// The last word before binding begins.
pub(crate) trait Permit: Send + Sync {
    fn permit(&self, pod: &PodInfo, node: &str) -> Check;
}

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// There is no such pod any more, or another one of its name.
    #[error("the pod is gone")]
    Gone,
    #[error("the server refused or could not be reached")]
    Request(#[source] kube::Error),
    #[error("cannot make the request")]
    Build(#[source] kube::core::request::Error),
    #[error("running PreBind plugin \"VolumeBinding\": binding volumes: {0}")]
    Volumes(String),
    #[error("no plugin binds")]
    NoBinder,
}

/// Prepares the node for the pod; the pod is bound only when all have succeeded.
#[async_trait]
pub(crate) trait PreBind: Send + Sync {
    async fn pre_bind(&self, client: &kube::Client, pod: &PodInfo, node: &str) -> Result<(), BindError>;
}

/// Whether a binder took the pod on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Done,
    /// Not this plugin's pod: the next one is asked.
    #[allow(dead_code, reason = "for binders beside the default one")]
    NotMine,
}

#[async_trait]
pub(crate) trait Bind: Send + Sync {
    async fn bind(&self, client: &kube::Client, pod: &PodInfo, node: &str) -> Result<Bound, BindError>;
}

/// Is told of a pod that was bound.
pub(crate) trait PostBind: Send + Sync {
    fn post_bind(&self, pod: &PodInfo, node: &str);
}

/// A plugin's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PluginId(pub(crate) u8);

/// Some of the table's plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PluginSet(u64);

impl PluginSet {
    pub(crate) fn insert(&mut self, id: PluginId) {
        self.0 |= 1 << id.0;
    }

    pub(crate) fn contains(self, id: PluginId) -> bool {
        self.0 & (1 << id.0) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = PluginId> {
        (0..64).map(PluginId).filter(move |id| self.contains(*id))
    }
}

/// A plugin at one point.
pub(crate) struct Attached<T: ?Sized> {
    pub(crate) id: PluginId,
    pub(crate) weight: i64,
    pub(crate) plugin: Arc<T>,
}

/// All points with the plugins attached to them, in the table's order.
#[derive(Default)]
pub(crate) struct Points {
    pub(crate) queue_sort: Vec<Attached<dyn QueueSort>>,
    pub(crate) pre_enqueue: Vec<Attached<dyn PreEnqueue>>,
    pub(crate) pre_filter: Vec<Attached<dyn PreFilter>>,
    pub(crate) filter: Vec<Attached<dyn Filter>>,
    pub(crate) post_filter: Vec<Attached<dyn PostFilter>>,
    pub(crate) pre_score: Vec<Attached<dyn PreScore>>,
    pub(crate) score: Vec<Attached<dyn Score>>,
    pub(crate) reserve: Vec<Attached<dyn Reserve>>,
    pub(crate) permit: Vec<Attached<dyn Permit>>,
    pub(crate) pre_bind: Vec<Attached<dyn PreBind>>,
    pub(crate) bind: Vec<Attached<dyn Bind>>,
    pub(crate) post_bind: Vec<Attached<dyn PostBind>>,
}

/// Attaches one plugin to points.
pub(crate) struct Attaching<'a> {
    pub(crate) id: PluginId,
    pub(crate) weight: i64,
    pub(crate) points: &'a mut Points,
}

macro_rules! attach {
    ($($method:ident: $point:ident),*) => {
        #[allow(dead_code, reason = "some points have no plugin in the table yet")]
        impl Attaching<'_> {
            $(pub(crate) fn $method(&mut self, plugin: Arc<dyn $point>) -> &mut Self {
                self.points.$method.push(Attached { id: self.id, weight: self.weight, plugin });
                self
            })*
        }
    };
}

attach!(
    queue_sort: QueueSort,
    pre_enqueue: PreEnqueue,
    pre_filter: PreFilter,
    filter: Filter,
    post_filter: PostFilter,
    pre_score: PreScore,
    score: Score,
    reserve: Reserve,
    permit: Permit,
    pre_bind: PreBind,
    bind: Bind,
    post_bind: PostBind
);

/// Scales scores so that the highest becomes `SCORE_MAX`; reversed, the lowest does.
pub(crate) fn normalize_to_max(scores: &mut [i64], reversed: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if highest == 0 { 0 } else { *score * SCORE_MAX / highest };
        *score = if reversed { SCORE_MAX - scaled } else { scaled };
    }
}

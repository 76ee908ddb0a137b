//! Status conditions, which every kind has and each has typed for itself: find, test, set.

use k8s_openapi::api::apps::v1::{
    DaemonSetCondition, DeploymentCondition, ReplicaSetCondition, StatefulSetCondition,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::{
    NamespaceCondition, NodeCondition, PersistentVolumeClaimCondition, PodCondition,
    ReplicationControllerCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as MetaCondition, Time};

/// What all condition types share.
pub trait Condition {
    fn type_(&self) -> &str;
    /// `True`, `False` or `Unknown`.
    fn status(&self) -> &str;
    fn last_transition(&self) -> Option<&Time>;
    fn set_last_transition(&mut self, at: Option<Time>);
}

macro_rules! optional_time {
    ($($condition:ty),* $(,)?) => { $(
        impl Condition for $condition {
            fn type_(&self) -> &str {
                &self.type_
            }
            fn status(&self) -> &str {
                &self.status
            }
            fn last_transition(&self) -> Option<&Time> {
                self.last_transition_time.as_ref()
            }
            fn set_last_transition(&mut self, at: Option<Time>) {
                self.last_transition_time = at;
            }
        }
    )* };
}

optional_time!(
    DaemonSetCondition,
    DeploymentCondition,
    HorizontalPodAutoscalerCondition,
    JobCondition,
    NamespaceCondition,
    NodeCondition,
    PersistentVolumeClaimCondition,
    PodCondition,
    ReplicaSetCondition,
    ReplicationControllerCondition,
    StatefulSetCondition,
);

impl Condition for MetaCondition {
    fn type_(&self) -> &str {
        &self.type_
    }
    fn status(&self) -> &str {
        &self.status
    }
    fn last_transition(&self) -> Option<&Time> {
        Some(&self.last_transition_time)
    }
    fn set_last_transition(&mut self, at: Option<Time>) {
        if let Some(at) = at {
            self.last_transition_time = at;
        }
    }
}

pub fn find<'a, C: Condition>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions.iter().find(|c| c.type_() == type_)
}

pub fn is_true<C: Condition>(conditions: &[C], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status() == "True")
}

/// Puts `new` in the place of the condition of its type. The time of the last transition stays the old one
/// while the status stays the same. Says whether anything changed.
pub fn set<C: Condition + PartialEq>(conditions: &mut Vec<C>, mut new: C) -> bool {
    let Some(old) = conditions.iter_mut().find(|c| c.type_() == new.type_()) else {
        conditions.push(new);
        return true;
    };
    if old.status() == new.status() {
        new.set_last_transition(old.last_transition().cloned());
    }
    let changed = *old != new;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn ready(status: &str, second: i64) -> PodCondition {
        PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            last_transition_time: Some(Time(Timestamp::from_second(second).unwrap())),
            ..Default::default()
        }
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = vec![];
        assert!(set(&mut conditions, ready("False", 1)));
        assert!(!set(&mut conditions, ready("False", 2)));
        assert_eq!(conditions, [ready("False", 1)]);
        assert!(set(&mut conditions, ready("True", 3)));
        assert_eq!(conditions, [ready("True", 3)]);
        assert!(is_true(&conditions, "Ready"));
    }
}

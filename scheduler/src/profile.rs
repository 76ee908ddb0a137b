//! Profiles: which plugins decide about the pods of which `schedulerName`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::framework::{Check, Points};
use crate::plugins;
use crate::pod::{DEFAULT_SCHEDULER, PodInfo};
use crate::queue::SortKey;

/// A profile as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// Pods with this `spec.schedulerName` are its.
    pub scheduler_name: String,
    /// Kubernetes' names of plugins that take no part.
    pub disabled_plugins: Vec<String>,
}

impl Default for ProfileConfig {
    fn default() -> Self {
        Self { scheduler_name: DEFAULT_SCHEDULER.to_owned(), disabled_plugins: Vec::new() }
    }
}

/// Why profiles cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProfileError {
    #[error("there is no plugin {name:?}; there are {known}")]
    UnknownPlugin { name: String, known: String },
    #[error("two profiles have the name {0:?}")]
    Duplicate(String),
    #[error("the profile {profile:?} needs a plugin that {what}, and all are disabled")]
    Missing { profile: String, what: &'static str },
}

/// All profiles with their plugins.
pub(crate) struct Profiles(HashMap<String, Arc<Points>>);

impl Profiles {
    pub(crate) fn build(configs: &[ProfileConfig]) -> Result<Self, ProfileError> {
        let mut profiles = HashMap::new();
        for config in configs {
            check_names(&config.disabled_plugins)?;
            let points = plugins::attach_all(&config.disabled_plugins);
            let missing = |what| ProfileError::Missing { profile: config.scheduler_name.clone(), what };
            if points.queue_sort.is_empty() {
                return Err(missing("orders the queue"));
            }
            if points.bind.is_empty() {
                return Err(missing("binds"));
            }
            if profiles.insert(config.scheduler_name.clone(), Arc::new(points)).is_some() {
                return Err(ProfileError::Duplicate(config.scheduler_name.clone()));
            }
        }
        Ok(Self(profiles))
    }

    /// The points for this pod, if its scheduler is one of ours.
    pub(crate) fn find(&self, pod: &PodInfo) -> Option<&Points> {
        self.0.get(&pod.scheduler).map(Arc::as_ref)
    }

    /// The same, to keep.
    pub(crate) fn shared(&self, pod: &PodInfo) -> Option<Arc<Points>> {
        self.0.get(&pod.scheduler).cloned()
    }
}

fn check_names(names: &[String]) -> Result<(), ProfileError> {
    let unknown = names.iter().find(|name| *name != "*" && plugins::find(name).is_none());
    unknown.map_or(Ok(()), |name| {
        let known: Vec<&str> = plugins::PLUGINS.iter().map(|plugin| plugin.name).collect();
        Err(ProfileError::UnknownPlugin { name: name.clone(), known: known.join(", ") })
    })
}

impl Points {
    pub(crate) fn sort_key(&self, pod: &PodInfo, arrival: u64) -> SortKey {
        let sorter = self.queue_sort.first().expect("a profile without one is refused");
        sorter.plugin.sort_key(pod, arrival)
    }

    /// The plugin that keeps the pod out of the queue, if one does.
    pub(crate) fn pre_enqueue(&self, pod: &PodInfo) -> Check {
        self.pre_enqueue.iter().try_for_each(|attached| attached.plugin.pre_enqueue(pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(disabled: &[&str]) -> Result<Profiles, ProfileError> {
        let disabled_plugins = disabled.iter().map(|name| (*name).to_owned()).collect();
        Profiles::build(&[ProfileConfig { disabled_plugins, ..ProfileConfig::default() }])
    }

    #[test]
    fn unknown_plugin_is_refused_with_the_known_ones() {
        let error = build(&["NodeColour"]).err().unwrap().to_string();
        assert!(error.contains("NodeColour") && error.contains("NodeResourcesFit"), "{error}");
    }

    #[test]
    fn a_profile_must_be_able_to_bind() {
        assert!(matches!(build(&["DefaultBinder"]), Err(ProfileError::Missing { .. })));
        assert!(build(&["ImageLocality"]).is_ok());
    }
}

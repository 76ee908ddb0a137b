//! The table of scheduler plugins, in the order in which they are asked.
//!
//! The order is Kubernetes': what is cheap and refuses often comes first, so that later plugins see few nodes.
//! To add a plugin, add its file and its row here; see `docs/` for the steps.

mod default_binder;
mod default_preemption;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;

use std::sync::Arc;

use crate::event::Hint;
use crate::framework::{Attaching, Plugin, PluginId, PluginSet, Points};
use crate::pod::PodInfo;

/// A plugin with its type erased.
pub(crate) struct PluginDef {
    pub(crate) name: &'static str,
    pub(crate) hints: &'static [Hint],
    weight: i64,
    attach: fn(&mut Attaching<'_>),
}

/// The row of the plugin `T`.
const fn def<T: Plugin>() -> PluginDef {
    PluginDef {
        name: T::NAME,
        hints: T::HINTS,
        weight: T::WEIGHT,
        attach: |points| Arc::new(T::new()).attach(points),
    }
}

/// All plugins.
pub(crate) static PLUGINS: &[PluginDef] = &[
    def::<scheduling_gates::SchedulingGates>(),
    def::<priority_sort::PrioritySort>(),
    def::<node_unschedulable::NodeUnschedulable>(),
    def::<node_name::NodeName>(),
    def::<taint_toleration::TaintToleration>(),
    def::<node_affinity::NodeAffinity>(),
    def::<node_ports::NodePorts>(),
    def::<node_resources_fit::NodeResourcesFit>(),
    def::<volume_binding::VolumeBinding>(),
    def::<pod_topology_spread::PodTopologySpread>(),
    def::<inter_pod_affinity::InterPodAffinity>(),
    def::<default_preemption::DefaultPreemption>(),
    def::<node_resources_balanced_allocation::NodeResourcesBalancedAllocation>(),
    def::<image_locality::ImageLocality>(),
    def::<default_binder::DefaultBinder>(),
];

/// The row of a plugin.
pub(crate) fn row(id: PluginId) -> &'static PluginDef {
    &PLUGINS[usize::from(id.0)]
}

/// The plugin of this name.
pub(crate) fn find(name: &str) -> Option<PluginId> {
    let index = PLUGINS.iter().position(|plugin| plugin.name == name)?;
    u8::try_from(index).ok().map(PluginId)
}

/// The points with all plugins attached, but those named in `disabled`.
pub(crate) fn attach_all(disabled: &[String]) -> Points {
    let mut points = Points::default();
    for (index, plugin) in (0_u8..).zip(PLUGINS) {
        if disabled.iter().any(|name| name == plugin.name || name == "*") {
            continue;
        }
        (plugin.attach)(&mut Attaching { id: PluginId(index), weight: plugin.weight, points: &mut points });
    }
    points
}

/// Whether `event` can make schedulable a pod that these plugins refused. A pod that no plugin refused (its
/// last attempt was an error) is helped by everything.
pub(crate) fn helped(refused_by: PluginSet, pod: &PodInfo, event: &crate::event::ClusterEvent<'_>) -> bool {
    let kind = event.kind();
    refused_by.is_empty()
        || refused_by
            .iter()
            .any(|id| row(id).hints.iter().any(|hint| hint.on == kind && (hint.helps)(pod, event)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_a_row() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plugins");
        let snake = |name: &str| {
            name.chars().fold(String::new(), |mut text, c| {
                if c.is_uppercase() && !text.is_empty() {
                    text.push('_');
                }
                text.extend(c.to_lowercase());
                text
            })
        };
        let mut rows: Vec<String> = PLUGINS.iter().map(|plugin| snake(plugin.name) + ".rs").collect();
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|file| file != "mod.rs")
            .collect();
        rows.sort();
        files.sort();
        assert_eq!(rows, files);
    }

    #[test]
    fn plugins_fit_into_a_set() {
        assert!(PLUGINS.len() <= 64);
    }
}

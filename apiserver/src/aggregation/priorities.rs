//! In what order groups and their versions stand where nobody says so: Kubernetes' own numbers.

/// A group version of Kubernetes, the least priority of its group, and the priority within it.
static KNOWN: &[(&str, &str, u32, u32)] = &[
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15),
    ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
    ("resource.k8s.io", "v1", 15900, 15),
];

/// What custom resources get.
const OTHERS: (u32, u32) = (1000, 100);

/// The least priority of the group and the priority of the version, and whether they are Kubernetes' own.
pub(super) fn of(group: &str, version: &str) -> (u32, u32, bool) {
    let known = KNOWN.iter().find(|(g, v, ..)| (*g, *v) == (group, version));
    match known {
        Some((_, _, least, priority)) => (*least, *priority, true),
        None => (OTHERS.0, OTHERS.1, group.is_empty() || !group.contains('.') || group.ends_with(".k8s.io")),
    }
}

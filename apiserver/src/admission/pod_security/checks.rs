//! The table of checks, and what they find in one pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Bound, Level, Version};
use super::{baseline, restricted};

/// A pod, or a template for pods.
pub(super) struct Subject<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
}

/// One check of a standard: nothing, or reason and detail.
type Check = fn(&Subject<'_>) -> Option<(String, String)>;

struct Row {
    /// The minor versions in which it holds: from the first, and not in the second.
    from: u32,
    until: u32,
    check: Check,
    /// From which version a stricter check of the restricted standard says it all.
    covered_from: u32,
}

const ALWAYS: u32 = u32::MAX;

const fn since(from: u32, check: Check) -> Row {
    Row { from, until: ALWAYS, check, covered_from: ALWAYS }
}

const fn between(from: u32, until: u32, check: Check) -> Row {
    Row { from, until, check, covered_from: ALWAYS }
}

const fn covered(row: Row, covered_from: u32) -> Row {
    Row { covered_from, ..row }
}

/// Ordered by the names that Kubernetes has for them, as its messages are.
static BASELINE: &[Row] = &[
    since(0, baseline::app_armor),
    covered(since(0, baseline::capabilities), 22),
    since(0, baseline::host_namespaces),
    covered(since(0, baseline::host_path_volumes), 0),
    since(0, baseline::host_ports),
    since(34, baseline::host_probes),
    since(0, baseline::privileged),
    between(0, 35, baseline::proc_mount),
    since(35, baseline::proc_mount_without_own_users),
    between(0, 31, baseline::selinux_without_engine),
    since(31, baseline::selinux),
    between(0, 19, baseline::seccomp_annotations),
    covered(since(19, baseline::seccomp), 19),
    between(0, 27, baseline::sysctls),
    between(27, 29, baseline::sysctls_of_27),
    between(29, 32, baseline::sysctls_of_29),
    since(32, baseline::sysctls_of_32),
    since(0, baseline::host_process),
];

static RESTRICTED: &[Row] = &[
    between(8, 25, restricted::privilege_escalation),
    since(25, restricted::privilege_escalation_unless_windows),
    between(22, 25, restricted::capabilities),
    since(25, restricted::capabilities_unless_windows),
    since(0, restricted::volumes),
    between(0, 35, restricted::run_as_non_root),
    since(35, restricted::run_as_non_root_without_own_users),
    between(23, 35, restricted::run_as_user),
    since(35, restricted::run_as_user_without_own_users),
    between(19, 25, restricted::seccomp),
    since(25, restricted::seccomp_unless_windows),
];

/// What was found: reasons and details, in order.
pub(super) struct Violations(Vec<(String, String)>);

impl Violations {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn reasons(&self) -> String {
        self.0.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn detail(&self) -> String {
        let one = |(reason, detail): &(String, String)| match detail.as_str() {
            "" => reason.clone(),
            detail => format!("{reason} ({detail})"),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// All that the pod does against the standard.
pub(super) fn evaluate(bound: &Bound, subject: &Subject<'_>) -> Violations {
    let minor = match bound.version {
        Version::Minor(minor) => minor.min(ALWAYS - 1),
        Version::Latest => ALWAYS - 1,
    };
    let is_restricted = bound.level == Level::Restricted;
    let holds = |row: &&Row| row.from <= minor && minor < row.until;
    let uncovered = |row: &&Row| !is_restricted || minor < row.covered_from;
    let baseline = BASELINE.iter().filter(|_| bound.level >= Level::Baseline).filter(uncovered);
    let restricted = RESTRICTED.iter().filter(|_| is_restricted);
    let found = baseline.chain(restricted).filter(holds).filter_map(|row| (row.check)(subject));
    Violations(found.collect())
}

/// The lists of containers, in the order in which they are looked at.
pub(super) const LISTS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

impl Subject<'_> {
    pub(super) fn containers(&self) -> impl Iterator<Item = &Value> {
        LISTS.iter().flat_map(|list| self.spec[*list].as_array().into_iter().flatten())
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &Value> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }

    /// Names of the containers of which `is_bad` holds.
    pub(super) fn names(&self, is_bad: impl Fn(&Value) -> bool) -> Vec<String> {
        self.containers().filter(|c| is_bad(c)).map(|c| text(&c["name"]).to_owned()).collect()
    }

    pub(super) fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Whether root in the pod is nobody outside of it.
    pub(super) fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// Who sets something bad: the pod's own security context, containers. `bad` sees security contexts.
    pub(super) fn setters(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let pod = bad(&self.spec["securityContext"]).then(|| "pod".to_owned());
        let names = self.names(|container| bad(&container["securityContext"]));
        pod.into_iter().chain((!names.is_empty()).then(|| named("container", &names))).collect()
    }

    /// The values that `value` finds in the pod's and the containers' security contexts, each once.
    pub(super) fn values(&self, value: impl Fn(&Value) -> Option<String>) -> Vec<String> {
        let contexts = self.containers().map(|container| &container["securityContext"]);
        let found = std::iter::once(&self.spec["securityContext"]).chain(contexts).filter_map(value);
        found.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `"a", "b"`.
pub(super) fn quoted(items: &[String]) -> String {
    items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ")
}

/// The noun in the number of the items.
pub(super) fn counted(noun: &str, items: &[String]) -> String {
    if items.len() == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn named(noun: &str, items: &[String]) -> String {
    format!("{} {}", counted(noun, items), quoted(items))
}

pub(super) fn found(reason: &str, detail: String) -> Option<(String, String)> {
    Some((reason.to_owned(), detail))
}

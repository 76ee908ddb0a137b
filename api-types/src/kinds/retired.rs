//! Versions that Kubernetes no longer serves: what an old manifest says is taken as what it says today.

use std::sync::{Arc, LazyLock};

use super::{Kind, find_kind};

/// A version of a kind that is only understood, and the one in which the kind lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The current row under the old group and version.
    pub shown: Arc<Kind>,
    pub current: Arc<Kind>,
}

/// All of them.
pub fn retired() -> &'static [Retired] {
    static ROWS: LazyLock<Vec<Retired>> = LazyLock::new(|| {
        let lines = include_str!("retired.txt").lines();
        let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(row);
        rows.collect::<Option<_>>().expect("a test reads the table")
    });
    &ROWS
}

/// The retired row at `group`/`version`/`plural`, unless that is still served.
pub fn find_retired(group: &str, version: &str, plural: &str) -> Option<&'static Retired> {
    // Nearly all requests are about a version that no row here has.
    if version == "v1" {
        return None;
    }
    retired()
        .iter()
        .find(|r| r.shown.version == version && r.shown.group == group && r.shown.plural == plural)
}

fn row(line: &str) -> Option<Retired> {
    let words: Vec<_> = line.split(' ').collect();
    let [old, kind, new, deprecated, removed] = words[..] else { return None };
    let (group, version) = old.split_once('/')?;
    let (new_group, new_version) = new.split_once('/')?;
    let current = find_kind(new_group, new_version, kind)?;
    let mut shown = Kind::clone(current);
    for sub in &mut shown.subresources {
        if (sub.group.as_str(), sub.version.as_str()) == (new_group, new_version) {
            (sub.group, sub.version) = (group.to_owned(), version.to_owned());
        }
    }
    (shown.group, shown.version) = (group.to_owned(), version.to_owned());
    // Names that people type mean the current version.
    shown.short_names.clear();
    shown.categories.clear();
    shown.deprecation = Some(format!(
        "{old} {kind} is deprecated in v{deprecated}+, unavailable in v{removed}+; use {new} {kind}"
    ));
    Some(Retired { shown: Arc::new(shown), current: current.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_version_is_found_and_says_what_to_use() {
        let found = find_retired("batch", "v1beta1", "cronjobs").unwrap();
        assert_eq!(found.current.api_version(), "batch/v1");
        assert_eq!(
            found.shown.deprecation.as_deref(),
            Some(
                "batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use batch/v1 CronJob"
            )
        );
    }

    #[test]
    fn no_version_that_is_served_is_retired() {
        for row in retired() {
            let shown = &row.shown;
            assert!(super::super::find_resource(&shown.group, &shown.version, &shown.plural).is_none());
        }
    }
}

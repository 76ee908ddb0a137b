//! A namespace's labels: which standard of which version is enforced, audited and warned of.

use std::fmt;

use api_types::status::FieldError;
use serde_json::Value;

/// How strict a standard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A standard as it was in a minor version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Minor(u32),
    Latest,
}

/// A level at a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) level: Level,
    pub(super) version: Version,
}

/// What holds in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Bound,
    pub(super) audit: Bound,
    pub(super) warn: Bound,
}

impl Default for Bound {
    fn default() -> Self {
        Self { level: Level::Privileged, version: Version::Latest }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Policy {
    /// Reads the labels. One that cannot be read enforces the strictest standard, and says nothing.
    pub(super) fn of(labels: &Value) -> (Self, Vec<FieldError>) {
        let mut errors = Vec::new();
        let mut read = |mode: &str, on_error: Level| {
            let level = label(labels, mode).map(|text| match parse_level(text) {
                Some(level) => level,
                None => {
                    errors.push(invalid(mode, text, "must be one of privileged, baseline, restricted"));
                    on_error
                }
            });
            let mode = format!("{mode}-version");
            let version = label(labels, &mode).map(|text| match parse_version(text) {
                Some(version) => version,
                None => {
                    errors.push(invalid(&mode, text, "must be \"latest\" or \"v1.x\""));
                    Version::Latest
                }
            });
            (level, version)
        };
        let bound = |level: Option<Level>, version: Option<Version>| Bound {
            level: level.unwrap_or_default(),
            version: version.unwrap_or(Version::Latest),
        };
        let (enforce_level, enforce_version) = read("enforce", Level::Restricted);
        let (audit_level, audit_version) = read("audit", Level::Privileged);
        let (warn_level, warn_version) = read("warn", Level::Privileged);
        let enforce = bound(enforce_level, enforce_version);
        let mut warn = bound(warn_level, warn_version);
        if warn_level.is_none() && enforce.level > warn.level {
            // What is enforced is worth a warning when it comes with a template.
            warn = Bound { level: enforce.level, version: warn_version.unwrap_or(enforce.version) };
        }
        (Self { enforce, audit: bound(audit_level, audit_version), warn }, errors)
    }

    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|bound| bound.level == Level::Privileged)
    }
}

const PREFIX: &str = "pod-security.kubernetes.io/";

fn label<'a>(labels: &'a Value, mode: &str) -> Option<&'a str> {
    labels[format!("{PREFIX}{mode}").as_str()].as_str()
}

fn invalid(mode: &str, text: &str, why: &str) -> FieldError {
    FieldError::invalid(format!("metadata.labels[{PREFIX}{mode}]"), text, why)
}

fn parse_level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn parse_version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let minor = text.strip_prefix("v1.")?;
    let is_plain = minor == "0" || (!minor.starts_with('0') && minor.bytes().all(|b| b.is_ascii_digit()));
    if is_plain { minor.parse().ok().map(Version::Minor) } else { None }
}

//! `--authorization-config`: which authorizers decide, in which order, as an AuthorizationConfiguration
//! (apiserver.config.k8s.io/v1).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_types::policy::Conditions;
use api_types::status::FieldError;
use serde::Deserialize;
use serde_json::Value;

use super::webhook::{WebhookConfig, environment};
use crate::reload::ReadConfigError;
use crate::remote::{Remote, RemoteConfigError};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizationConfigError {
    #[error(transparent)]
    Read(#[from] ReadConfigError),
    #[error("it is no AuthorizationConfiguration")]
    Parse(#[from] serde_yaml::Error),
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Remote(#[from] RemoteConfigError),
}

/// An authorizer that a file names.
pub(crate) enum Entry {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(Box<WebhookConfig>),
}

/// The webhook of `--authorization-mode Webhook`.
#[derive(Clone, Debug)]
pub struct WebhookMode {
    /// A kubeconfig that names the service.
    pub kubeconfig: PathBuf,
    /// Of the reviews that are sent: `v1` or `v1beta1`.
    pub version: String,
    /// How long its answers are kept; zero keeps none.
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
}

impl WebhookMode {
    fn config(&self) -> Result<WebhookConfig, AuthorizationConfigError> {
        Ok(WebhookConfig {
            name: "default".to_owned(),
            remote: Remote::read(&self.kubeconfig)?,
            timeout: TIMEOUT_MAX,
            authorized_ttl: self.authorized_ttl,
            unauthorized_ttl: self.unauthorized_ttl,
            version: self.version.clone(),
            denies_on_failure: false,
            conditions: Conditions::compile(&environment(), &Value::Array(Vec::new())),
        })
    }
}

/// The authorizers of `--authorization-mode`.
pub(crate) fn of_modes(
    modes: &[String],
    webhook: Option<&WebhookMode>,
) -> Result<Vec<Entry>, AuthorizationConfigError> {
    let invalid = AuthorizationConfigError::Invalid;
    let has_mode = modes.iter().any(|mode| mode == "Webhook");
    if webhook.is_some() && !has_mode {
        let why = "cannot specify --authorization-webhook-config-file without mode Webhook";
        return Err(invalid(why.to_owned()));
    }
    let entry = |mode: &String| match (mode.as_str(), webhook) {
        ("AlwaysAllow", _) => Ok(Entry::AlwaysAllow),
        ("AlwaysDeny", _) => Ok(Entry::AlwaysDeny),
        ("Node", _) => Ok(Entry::Node),
        ("RBAC", _) => Ok(Entry::Rbac),
        ("Webhook", Some(webhook)) => Ok(Entry::Webhook(Box::new(webhook.config()?))),
        ("Webhook", None) => {
            let why = "authorization-mode Webhook's authorization config file not passed";
            Err(invalid(why.to_owned()))
        }
        (other, _) => {
            Err(invalid(FieldError::not_supported("authorization-mode", other, &TYPES).to_string()))
        }
    };
    modes.iter().map(entry).collect()
}

/// The authorizers that a file's text names.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, AuthorizationConfigError> {
    let file: File = serde_yaml::from_str(text)?;
    let errors = check(&file);
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(AuthorizationConfigError::Invalid(all.join("; ")));
    }
    file.authorizers.iter().map(entry).collect()
}

fn entry(authorizer: &Authorizer) -> Result<Entry, AuthorizationConfigError> {
    Ok(match (authorizer.kind.as_str(), &authorizer.webhook) {
        ("Node", _) => Entry::Node,
        ("RBAC", _) => Entry::Rbac,
        ("AlwaysAllow", _) => Entry::AlwaysAllow,
        (_, Some(webhook)) => Entry::Webhook(Box::new(webhook_config(&authorizer.name, webhook)?)),
        (_, None) => Entry::AlwaysDeny,
    })
}

fn webhook_config(name: &str, webhook: &Webhook) -> Result<WebhookConfig, AuthorizationConfigError> {
    let life = |text: &str, usual: u64, kept: bool| match kept {
        false => Duration::ZERO,
        true => duration(text).unwrap_or(Duration::from_secs(usual)),
    };
    let file = webhook.connection_info.kube_config_file.as_deref().unwrap_or_default();
    Ok(WebhookConfig {
        name: name.to_owned(),
        remote: Remote::read(Path::new(file))?,
        timeout: duration(&webhook.timeout).unwrap_or(TIMEOUT_MAX),
        authorized_ttl: life(&webhook.authorized_ttl, 300, webhook.cache_authorized_requests != Some(false)),
        unauthorized_ttl: life(
            &webhook.unauthorized_ttl,
            30,
            webhook.cache_unauthorized_requests != Some(false),
        ),
        version: webhook.subject_access_review_version.clone(),
        denies_on_failure: webhook.failure_policy == "Deny",
        conditions: Conditions::compile(&environment(), &Value::Array(webhook.match_conditions.clone())),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<Authorizer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authorizer {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    name: String,
    webhook: Option<Webhook>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Webhook {
    #[serde(rename = "authorizedTTL", default)]
    authorized_ttl: String,
    #[serde(rename = "unauthorizedTTL", default)]
    unauthorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    cache_unauthorized_requests: Option<bool>,
    #[serde(default)]
    timeout: String,
    #[serde(default)]
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    #[serde(default)]
    failure_policy: String,
    #[serde(default)]
    connection_info: ConnectionInfo,
    #[serde(default)]
    match_conditions: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionInfo {
    #[serde(rename = "type", default)]
    kind: String,
    kube_config_file: Option<String>,
}

const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

fn check(file: &File) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !file.api_version.starts_with("apiserver.config.k8s.io/") || file.kind != "AuthorizationConfiguration"
    {
        let why = "must be AuthorizationConfiguration of apiserver.config.k8s.io/v1";
        errors.push(FieldError::invalid("kind", format!("{} {}", file.api_version, file.kind), why));
    }
    if file.authorizers.is_empty() {
        errors.push(FieldError::required("authorizers", "at least one authorization mode must be defined"));
    }
    let (mut kinds, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (at, authorizer) in file.authorizers.iter().enumerate() {
        let path = format!("authorizers[{at}]");
        let kind = authorizer.kind.as_str();
        if kind.is_empty() {
            errors.push(FieldError::required(format!("{path}.type"), ""));
        } else if !TYPES.contains(&kind) {
            errors.push(FieldError::not_supported(format!("{path}.type"), kind, &TYPES));
        } else if !kinds.insert(kind) && kind != "Webhook" {
            errors.push(FieldError::duplicate(format!("{path}.type"), kind));
        }
        match (authorizer.name.as_str(), kind) {
            ("", "Webhook") => errors.push(FieldError::required(format!("{path}.name"), "")),
            ("", _) => {}
            (name, _) if !names.insert(name) => {
                errors.push(FieldError::duplicate(format!("{path}.name"), name))
            }
            _ => {}
        }
        match (&authorizer.webhook, kind == "Webhook") {
            (None, true) => {
                errors.push(FieldError::required(format!("{path}.webhook"), "required when type=Webhook"))
            }
            (Some(_), false) => {
                let why = "may only be specified when type=Webhook";
                errors.push(FieldError::invalid(format!("{path}.webhook"), "non-null", why));
            }
            (Some(webhook), true) => check_webhook(&format!("{path}.webhook"), webhook, &mut errors),
            (None, false) => {}
        }
    }
    errors
}

fn check_webhook(path: &str, webhook: &Webhook, errors: &mut Vec<FieldError>) {
    let field = |name: &str| format!("{path}.{name}");
    match duration(&webhook.timeout) {
        None if webhook.timeout.is_empty() => errors.push(FieldError::required(field("timeout"), "")),
        None => errors.push(FieldError::invalid(
            field("timeout"),
            webhook.timeout.as_str(),
            "must be a duration, as 3s",
        )),
        Some(time) if time.is_zero() => {
            errors.push(FieldError::invalid(field("timeout"), webhook.timeout.as_str(), "must be > 0s"));
        }
        Some(time) if time > TIMEOUT_MAX => {
            errors.push(FieldError::invalid(field("timeout"), webhook.timeout.as_str(), "must be <= 30s"));
        }
        Some(_) => {}
    }
    for (name, text) in
        [("authorizedTTL", &webhook.authorized_ttl), ("unauthorizedTTL", &webhook.unauthorized_ttl)]
    {
        if !text.is_empty() && duration(text).is_none() {
            errors.push(FieldError::invalid(field(name), text.as_str(), "must be a duration, as 5m"));
        }
    }
    let mut one_of = |name: &str, given: &str, known: &[&str]| match given {
        "" => errors.push(FieldError::required(field(name), "")),
        given if !known.contains(&given) => errors.push(FieldError::not_supported(field(name), given, known)),
        _ => {}
    };
    one_of("subjectAccessReviewVersion", &webhook.subject_access_review_version, &["v1", "v1beta1"]);
    if !webhook.match_conditions.is_empty() {
        let version = &webhook.match_condition_subject_access_review_version;
        one_of("matchConditionSubjectAccessReviewVersion", version, &["v1"]);
    }
    one_of("failurePolicy", &webhook.failure_policy, &["NoOpinion", "Deny"]);
    one_of("connectionInfo.type", &webhook.connection_info.kind, &["KubeConfigFile"]);
    if webhook.connection_info.kube_config_file.as_deref().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(field("connectionInfo.kubeConfigFile"), ""));
    }
    let conditions = Conditions::compile(&environment(), &Value::Array(webhook.match_conditions.clone()));
    for (at, expression) in conditions.expressions() {
        if let Some(why) = expression.error() {
            let path = format!("{path}.matchConditions[{at}].expression");
            errors.push(FieldError::invalid(path, expression.text.as_str(), why));
        }
    }
}

/// `500ms`, `30s`, `5m`, `1h`, or several of them one after another.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(&rest[digits..], |end| &rest[digits..digits + end]);
        let one = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        all = all.checked_add(one)?;
        rest = &rest[digits + unit.len()..];
    }
    (!text.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(authorizers: &str) -> String {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: {authorizers}"
        );
        parse(&text).err().map(|why| why.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        let webhook = "subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /none}";
        let cases = [
            ("[]".to_owned(), "authorizers: Required value: at least one authorization mode must be defined"),
            ("[{type: RBAC}, {type: RBAC}]".to_owned(), "authorizers[1].type: Duplicate value"),
            ("[{type: ABAC}]".to_owned(), "authorizers[0].type: Unsupported value: \"ABAC\""),
            ("[{type: Webhook}]".to_owned(), "authorizers[0].name: Required value"),
            (
                format!("[{{type: Webhook, name: w, webhook: {{{webhook}}}}}]"),
                "authorizers[0].webhook.timeout: Required value",
            ),
            (format!("[{{type: Webhook, name: w, webhook: {{timeout: 1m, {webhook}}}}}]"), "must be <= 30s"),
            (
                format!(
                    "[{{type: Webhook, name: w, webhook: {{timeout: 3s, matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{{expression: 'request.x'}}], {webhook}}}}}]"
                ),
                "authorizers[0].webhook.matchConditions[0].expression",
            ),
            (
                format!("[{{type: Webhook, name: w, webhook: {{timeout: 3s, {webhook}}}}}]"),
                "cannot read /none",
            ),
        ];
        for (authorizers, told) in cases {
            let problem = problem(&authorizers);
            assert!(problem.contains(told), "{told}: {problem}");
        }
        assert_eq!(problem("[{type: Node}, {type: RBAC}]"), "");
    }

    #[test]
    fn the_mode_webhook_and_its_file_need_each_other() {
        let webhook = |kubeconfig: &str| WebhookMode {
            kubeconfig: kubeconfig.into(),
            version: "v1".into(),
            authorized_ttl: Duration::ZERO,
            unauthorized_ttl: Duration::ZERO,
        };
        let problem = |modes: &[&str], webhook: Option<&WebhookMode>| {
            let modes: Vec<String> = modes.iter().map(|mode| (*mode).to_owned()).collect();
            of_modes(&modes, webhook).err().map(|why| why.to_string()).unwrap_or_default()
        };
        assert_eq!(problem(&["Node", "RBAC"], None), "");
        assert!(problem(&["RBAC", "Webhook"], None).contains("config file not passed"));
        assert!(problem(&["RBAC"], Some(&webhook("/none"))).contains("without mode Webhook"));
        assert!(problem(&["Webhook"], Some(&webhook("/none"))).contains("/none"));
        assert!(problem(&["ABAC"], None).contains("Unsupported value: \"ABAC\""));
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!((duration("5"), duration(""), duration("x")), (None, None, None));
    }
}

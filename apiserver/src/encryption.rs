//! Encryption at rest: which resources are written in which way, from an `EncryptionConfiguration` file.
//!
//! The first rule that names a resource decides. The first provider of a rule writes; all of them read, so
//! that a key is changed by putting the new one first, writing every object again, and taking the old one
//! out. What is encrypted begins with `k8s:enc:PROVIDER:v1:KEY:`, as in Kubernetes. Only the store's bytes are
//! encrypted; the cache and its readers see objects as they are.

mod cipher;
mod kms;

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use cipher::Cipher;
use kms::{Kms, KmsConfig};

use crate::reload::ReadConfigError;

const KMS_TIMEOUT_SECONDS: u64 = 3;
/// How often a key management service is asked whether its key is still the same.
const KMS_LOOK: Duration = Duration::from_secs(60);

/// What every encrypted value begins with.
const MARK: &[u8] = b"k8s:enc:";

/// An encryption configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionConfigError {
    #[error(transparent)]
    Read(#[from] ReadConfigError),
    #[error("{} is not an EncryptionConfiguration of apiserver.config.k8s.io/v1: {why}", .path.display())]
    Parse { path: PathBuf, why: String },
    #[error("{} is not usable: {field}: {why}", .path.display())]
    Invalid { path: PathBuf, field: String, why: String },
}

/// A stored value that cannot be read with the keys of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecryptError {
    #[error("it is encrypted with {0}, which no provider of the configuration has")]
    UnknownKey(String),
    #[error("the key of {0} does not fit; it is another key of the same name")]
    WrongKey(String),
    #[error("{0} does not open it: {1}")]
    Service(String, String),
    #[error("it is not encrypted, and the configuration has no provider `identity: {{}}` for it")]
    NotEncrypted,
}

/// A value that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) plain: Vec<u8>,
    /// Whether it would be written differently now.
    pub(crate) is_stale: bool,
}

/// The rules of a configuration file; without one, nothing is encrypted, and nothing encrypted can be read.
#[derive(Debug, Default)]
pub(crate) struct Encryption(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Debug)]
enum Provider {
    Identity,
    /// What its values begin with, and how they go on.
    Cipher(String, Cipher),
    /// The same with a key management service.
    Service(String, Kms),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    resources: Vec<String>,
    providers: Vec<FileProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProvider {
    aescbc: Option<Keys>,
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<serde_json::Value>,
    kms: Option<FileKms>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileKms {
    api_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

impl Encryption {
    /// The rules that a file's text has.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, EncryptionConfigError> {
        let wrong = |why: String| EncryptionConfigError::Parse { path: path.to_path_buf(), why };
        let file: File = serde_yaml::from_str(text).map_err(|e| wrong(e.to_string()))?;
        if (file.api_version.as_str(), file.kind.as_str())
            != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration")
        {
            return Err(wrong(format!("it is a {} of {}", file.kind, file.api_version)));
        }
        let invalid = |(field, why): (String, String)| EncryptionConfigError::Invalid {
            path: path.to_path_buf(),
            field,
            why,
        };
        let rules = file.resources.into_iter().enumerate();
        let rules: Result<Vec<Rule>, _> = rules.map(|(index, rule)| read_rule(index, rule)).collect();
        rules.map(Self).map_err(invalid)
    }

    fn rule(&self, resource: &str) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.resources.iter().any(|pattern| covers(pattern, resource)))
    }

    /// The bytes to store for `plain`; none if they are stored as they are.
    pub(crate) fn seal(&self, resource: &str, path: &str, plain: &[u8]) -> Option<Vec<u8>> {
        match self.rule(resource)?.providers.first()? {
            Provider::Identity => None,
            Provider::Cipher(mark, cipher) => {
                let mut out = mark.clone().into_bytes();
                out.extend_from_slice(&cipher.seal(plain, path.as_bytes()));
                Some(out)
            }
            Provider::Service(mark, kms) => {
                let mut out = mark.clone().into_bytes();
                out.extend_from_slice(&kms.seal(plain, path.as_bytes()));
                Some(out)
            }
        }
    }

    /// What `stored` was made from; none if it is as it was written.
    pub(crate) fn open(
        &self,
        resource: &str,
        path: &str,
        stored: &[u8],
    ) -> Result<Option<Opened>, DecryptError> {
        let providers = self.rule(resource).map_or(&[][..], |rule| rule.providers.as_slice());
        if !is_sealed(stored) {
            let readable = providers.is_empty() || providers.iter().any(|p| matches!(p, Provider::Identity));
            return if readable { Ok(None) } else { Err(DecryptError::NotEncrypted) };
        }
        let mut wrong = None;
        for (index, provider) in providers.iter().enumerate() {
            let (Provider::Cipher(mark, _) | Provider::Service(mark, _)) = provider else { continue };
            let Some(sealed) = stored.strip_prefix(mark.as_bytes()) else { continue };
            let name = || name_of(mark.as_bytes());
            match provider.open(sealed, path.as_bytes(), name) {
                Ok((plain, is_old)) => return Ok(Some(Opened { plain, is_stale: is_old || index > 0 })),
                Err(why) => wrong = Some(why),
            }
        }
        Err(wrong.unwrap_or_else(|| DecryptError::UnknownKey(name_of(stored))))
    }

    /// Whether objects of the resource are encrypted when they are written.
    pub(crate) fn seals(&self, resource: &str) -> bool {
        self.is_stale_in_clear(resource)
    }

    /// What is wrong with each key management service, in their order.
    pub(crate) fn services(&self) -> Vec<Option<String>> {
        let providers = self.0.iter().flat_map(|rule| &rule.providers);
        let problem = |provider: &Provider| match provider {
            Provider::Service(_, kms) => Some(kms.problem()),
            _ => None,
        };
        providers.filter_map(problem).collect()
    }

    /// Whether there is no rule at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what is stored as it is would be encrypted now.
    pub(crate) fn is_stale_in_clear(&self, resource: &str) -> bool {
        let first = self.rule(resource).and_then(|rule| rule.providers.first());
        matches!(first, Some(Provider::Cipher(..) | Provider::Service(..)))
    }
}

impl Provider {
    /// What was sealed, and whether the provider would seal it differently now.
    fn open(
        &self,
        sealed: &[u8],
        path: &[u8],
        name: impl Fn() -> String,
    ) -> Result<(Vec<u8>, bool), DecryptError> {
        match self {
            Self::Identity => Err(DecryptError::UnknownKey(name())),
            Self::Cipher(_, cipher) => {
                let plain = cipher.open(sealed, path).ok_or_else(|| DecryptError::WrongKey(name()))?;
                Ok((plain, false))
            }
            Self::Service(_, kms) => kms.open(sealed, path).map_err(|why| DecryptError::Service(name(), why)),
        }
    }
}

/// Whether stored bytes are encrypted.
pub(crate) fn is_sealed(stored: &[u8]) -> bool {
    stored.starts_with(MARK)
}

/// Provider and key that a sealed value names: `aescbc:v1:key1`.
fn name_of(sealed: &[u8]) -> String {
    let head = &sealed[..sealed.len().min(256)];
    let parts: Vec<_> =
        head.split(|byte| *byte == b':').skip(2).take(3).map(String::from_utf8_lossy).collect();
    parts.join(":")
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group), `*.*`; a resource is `group/plural`.
fn covers(pattern: &str, resource: &str) -> bool {
    let (group, plural) = resource.split_once('/').unwrap_or(("", resource));
    match pattern.split_once('.') {
        None => group.is_empty() && pattern == plural,
        Some(("*", "*")) => true,
        Some(("*", wanted)) => wanted == group,
        Some((wanted, in_group)) => wanted == plural && in_group == group,
    }
}

fn read_rule(index: usize, rule: FileRule) -> Result<Rule, (String, String)> {
    let at = format!("resources[{index}]");
    if rule.resources.is_empty() {
        return Err((format!("{at}.resources"), "at least one resource is needed".to_owned()));
    }
    if rule.providers.is_empty() {
        return Err((format!("{at}.providers"), "at least one provider is needed".to_owned()));
    }
    let mut providers = Vec::new();
    for (place, provider) in rule.providers.into_iter().enumerate() {
        providers.extend(read_provider(&format!("{at}.providers[{place}]"), provider)?);
    }
    Ok(Rule { resources: rule.resources, providers })
}

fn read_provider(at: &str, provider: FileProvider) -> Result<Vec<Provider>, (String, String)> {
    let kinds = [("aescbc", provider.aescbc), ("aesgcm", provider.aesgcm), ("secretbox", provider.secretbox)];
    let mut found: Vec<_> = kinds.into_iter().filter_map(|(kind, keys)| Some((kind, keys?))).collect();
    match (found.pop(), provider.identity, provider.kms, found.is_empty()) {
        (None, Some(_), None, _) => Ok(vec![Provider::Identity]),
        (None, None, Some(kms), _) => Ok(vec![read_service(&format!("{at}.kms"), kms)?]),
        (Some((kind, keys)), None, None, true) => read_keys(&format!("{at}.{kind}"), kind, keys),
        _ => {
            let why = "exactly one of aescbc, aesgcm, secretbox, kms and identity is needed";
            Err((at.to_owned(), why.to_owned()))
        }
    }
}

/// Asks the service for the first time.
fn read_service(at: &str, kms: FileKms) -> Result<Provider, (String, String)> {
    let wrong = |field: &str, why: &str| Err((format!("{at}.{field}"), why.to_owned()));
    if kms.api_version.as_deref() != Some("v2") {
        return wrong("apiVersion", "it must be v2");
    }
    if kms.name.is_empty() || kms.name.contains(':') {
        return wrong("name", "a name without colons is needed");
    }
    let Some(socket) = kms.endpoint.strip_prefix("unix://") else {
        return wrong("endpoint", "unix:// and the path of a socket is needed");
    };
    let seconds = |text: &str| text.strip_suffix('s').and_then(|digits| digits.parse().ok());
    let Some(timeout) = kms.timeout.as_deref().map_or(Some(KMS_TIMEOUT_SECONDS), seconds).filter(|s| *s > 0)
    else {
        return wrong("timeout", "whole seconds are needed, as 3s");
    };
    let config = KmsConfig {
        name: kms.name.clone(),
        socket: PathBuf::from(socket),
        timeout: Duration::from_secs(timeout),
        look: KMS_LOOK,
    };
    let service = Kms::start(config).map_err(|why| (at.to_owned(), why))?;
    Ok(Provider::Service(format!("k8s:enc:kms:v2:{}:", kms.name), service))
}

fn read_keys(at: &str, kind: &str, keys: Keys) -> Result<Vec<Provider>, (String, String)> {
    if keys.keys.is_empty() {
        return Err((format!("{at}.keys"), "at least one key is needed".to_owned()));
    }
    let mut providers = Vec::new();
    for (index, key) in keys.keys.into_iter().enumerate() {
        let at = format!("{at}.keys[{index}]");
        if key.name.is_empty() || key.name.contains(':') {
            return Err((format!("{at}.name"), "a name without colons is needed".to_owned()));
        }
        let secret = BASE64.decode(key.secret.trim()).map_err(|_| {
            (
                format!("{at}.secret"),
                "the secret is not base64; make one with `head -c 32 /dev/urandom | base64`".to_owned(),
            )
        })?;
        let cipher = Cipher::new(kind, &secret).map_err(|why| (format!("{at}.secret"), why))?;
        providers.push(Provider::Cipher(format!("k8s:enc:{kind}:v1:{}:", key.name), cipher));
    }
    Ok(providers)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A configuration for secrets; each provider is `kind/name/byte` or `identity`.
    pub(crate) fn encryption(providers: &[&str]) -> Encryption {
        let provider = |text: &&str| match text.split('/').collect::<Vec<_>>()[..] {
            [kind, name, byte] => format!(
                "  - {kind}: {{keys: [{{name: {name}, secret: {}}}]}}\n",
                BASE64.encode([byte.parse::<u8>().unwrap(); 32])
            ),
            _ => "  - identity: {}\n".to_owned(),
        };
        let providers: String = providers.iter().map(provider).collect();
        of_resources("[secrets, '*.apps']", &providers)
    }

    /// Everything is encrypted.
    pub(crate) fn encryption_of_all() -> Encryption {
        let secret = BASE64.encode([7; 32]);
        of_resources("['*.*']", &format!("  - aesgcm: {{keys: [{{name: a, secret: {secret}}}]}}\n"))
    }

    fn of_resources(resources: &str, providers: &str) -> Encryption {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: {resources}\n  providers:\n{providers}"
        );
        Encryption::parse(&text, Path::new("test.yaml")).unwrap()
    }

    #[test]
    fn each_provider_reads_what_it_wrote() {
        for provider in ["aescbc/a/1", "aesgcm/a/1", "secretbox/a/1"] {
            let encryption = encryption(&[provider]);
            let sealed = encryption.seal("secrets", "secrets/ns/a", b"plain text").unwrap();
            assert!(is_sealed(&sealed), "{provider}");
            assert!(!sealed.windows(5).any(|w| w == b"plain"), "{provider}");
            let opened = encryption.open("secrets", "secrets/ns/a", &sealed).unwrap().unwrap();
            assert_eq!(opened, Opened { plain: b"plain text".to_vec(), is_stale: false }, "{provider}");
        }
    }

    #[test]
    fn a_new_first_key_writes_and_the_old_one_still_reads() {
        let old = encryption(&["aescbc/a/1"]).seal("secrets", "p", b"x").unwrap();
        let rotated = encryption(&["aesgcm/b/2", "aescbc/a/1"]);
        assert!(rotated.open("secrets", "p", &old).unwrap().unwrap().is_stale);
        assert!(rotated.seal("secrets", "p", b"x").unwrap().starts_with(b"k8s:enc:aesgcm:v1:b:"));
    }

    #[test]
    fn what_cannot_be_read_says_which_key_is_wanted() {
        let sealed = encryption(&["secretbox/a/1"]).seal("secrets", "p", b"x").unwrap();
        let ask = |providers: &[&str], stored: &[u8]| encryption(providers).open("secrets", "p", stored);
        assert_eq!(ask(&["secretbox/b/1"], &sealed), Err(DecryptError::UnknownKey("secretbox:v1:a".into())));
        assert_eq!(ask(&["secretbox/a/9"], &sealed), Err(DecryptError::WrongKey("secretbox:v1:a".into())));
        assert_eq!(ask(&["secretbox/a/1"], b"{}"), Err(DecryptError::NotEncrypted));
        assert_eq!(ask(&["secretbox/a/1", "identity"], b"{}"), Ok(None));
    }

    #[test]
    fn a_key_management_service_seals_and_opens() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kms.sock");
        kms::tests::serve(socket.clone(), std::sync::Arc::new(parking_lot::Mutex::new("one".to_owned())));
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers: [{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 3s}}}}, {{identity: {{}}}}]\n",
            socket.display()
        );
        let encryption = Encryption::parse(&text, Path::new("test.yaml")).unwrap();
        let sealed = encryption.seal("secrets", "secrets/ns/a", b"plain text").unwrap();
        assert!(sealed.starts_with(b"k8s:enc:kms:v2:vault:"));
        let opened = encryption.open("secrets", "secrets/ns/a", &sealed).unwrap().unwrap();
        assert_eq!(opened, Opened { plain: b"plain text".to_vec(), is_stale: false });
        assert!(encryption.open("secrets", "secrets/ns/b", &sealed).is_err());
        assert!(encryption.is_stale_in_clear("secrets"));
    }

    #[test]
    fn a_value_moved_to_another_object_does_not_open() {
        let encryption = encryption(&["aesgcm/a/1"]);
        let sealed = encryption.seal("secrets", "secrets/ns/a", b"x").unwrap();
        assert!(encryption.open("secrets", "secrets/ns/b", &sealed).is_err());
    }

    #[test]
    fn resources_are_named_with_and_without_group() {
        let cases = [
            ("secrets", "secrets", true),
            ("secrets", "apps/secrets", false),
            ("deployments.apps", "apps/deployments", true),
            ("*.apps", "apps/deployments", true),
            ("*.apps", "secrets", false),
            ("*.", "secrets", true),
            ("*.*", "apps/deployments", true),
        ];
        for (pattern, resource, covered) in cases {
            assert_eq!(covers(pattern, resource), covered, "{pattern} {resource}");
        }
    }

    #[test]
    fn a_bad_file_is_refused_with_the_field() {
        let with = |providers: &str| {
            let text = format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets], providers: [{providers}]}}]"
            );
            Encryption::parse(&text, Path::new("e.yaml")).unwrap_err().to_string()
        };
        assert!(
            with("{aescbc: {keys: [{name: a, secret: AAAA}]}}")
                .contains("resources[0].providers[0].aescbc.keys[0].secret")
        );
        assert!(with("{kms: {name: x}}").contains("providers[0].kms.apiVersion"));
        assert!(with("{kms: {apiVersion: v2, name: x, endpoint: /x}}").contains("kms.endpoint"));
        assert!(with("{kms: {apiVersion: v2, name: x, endpoint: 'unix:///none'}}").contains("[0].kms: "));
        assert!(with("{}").contains("exactly one"));
        assert!(with("{other: {}}").contains("unknown field"));
    }
}

//! `--authentication-config`: outside issuers of tokens and who may ask without credentials, as an
//! AuthenticationConfiguration (apiserver.config.k8s.io/v1). A changed file counts at once; one that is wrong is
//! told in the log, and what was there before goes on.

use std::sync::Arc;

use api_types::cel::{Environment, Type};
use api_types::policy::Expression;
use api_types::status::FieldError;
use arc_swap::ArcSwap;
use component_base::clock::Clock;
use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::anonymous::Allowed;
use super::oidc::claims::{Claims, Mapping, Rule, TOKEN, USER};
use super::oidc::issuer::{Issuer, IssuerConfig};
use super::{Presented, SERVER_AUDIENCES};
use crate::backend::Backends;
use crate::reload::ReadConfigError;
use crate::tls::TlsError;

/// What can be said anew while the server runs.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) issuers: Vec<Arc<Issuer>>,
    /// `None`: as the flags say.
    pub(crate) anonymous: Option<Allowed>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationConfigError {
    #[error(transparent)]
    Read(#[from] ReadConfigError),
    #[error("it is no AuthenticationConfiguration")]
    Parse(#[from] serde_yaml::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("the certificates of an issuer's authority cannot be used")]
    Authority(#[from] TlsError),
}

/// The settings that hold now.
#[derive(Default)]
pub(crate) struct Configured(ArcSwap<Settings>);

impl Configured {
    pub(crate) fn new(settings: Settings) -> Self {
        Self(ArcSwap::from_pointee(settings))
    }

    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.0.load()
    }

    pub(crate) fn replace(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }

    /// Fetches the keys that the request's token needs, if they are not known.
    pub(crate) async fn prepare(&self, presented: &Presented<'_>, backends: &Backends) {
        if let Some(token) = presented.bearer() {
            self.prepare_token(token, backends).await;
        }
    }

    /// As `prepare`, of a token by itself.
    pub(crate) async fn prepare_token(&self, token: &str, backends: &Backends) {
        let settings = self.0.load_full();
        for issuer in settings.issuers.iter().filter(|issuer| issuer.wants_keys_of(token)) {
            issuer.fetch_keys(backends).await;
        }
    }
}

/// The settings that a file's text says.
pub(crate) fn parse(text: &str, clock: Clock) -> Result<Settings, AuthenticationConfigError> {
    let file: File = serde_yaml::from_str(text)?;
    let mut checks = Checks::default();
    let configs = checks.file(&file);
    if !checks.errors.is_empty() {
        let all: Vec<String> = checks.errors.iter().map(ToString::to_string).collect();
        return Err(AuthenticationConfigError::Invalid(all.join("; ")));
    }
    let issuers = configs.into_iter().map(|config| Issuer::new(config, clock)).collect::<Result<_, _>>()?;
    let anonymous = file.anonymous.map(|rule| match (rule.enabled, rule.conditions.is_empty()) {
        (false, _) => Allowed::Nowhere,
        (true, true) => Allowed::Everywhere,
        (true, false) => Allowed::At(rule.conditions.into_iter().map(|condition| condition.path).collect()),
    });
    Ok(Settings { issuers, anonymous })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<AnonymousRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AnonymousRule {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<PathCondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathCondition {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: IssuerSpec,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRule>,
    #[serde(default)]
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<UserRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IssuerSpec {
    #[serde(default)]
    url: String,
    #[serde(rename = "discoveryURL", default)]
    discovery_url: String,
    #[serde(default)]
    certificate_authority: String,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClaimRule {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    required_value: String,
    #[serde(default)]
    expression: String,
    #[serde(default)]
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mappings {
    #[serde(default)]
    username: Part,
    #[serde(default)]
    groups: Part,
    #[serde(default)]
    uid: Part,
    #[serde(default)]
    extra: Vec<Extra>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Part {
    #[serde(default)]
    claim: String,
    prefix: Option<String>,
    #[serde(default)]
    expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value_expression: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRule {
    #[serde(default)]
    expression: String,
    #[serde(default)]
    message: String,
}

const GROUP: &str = "apiserver.config.k8s.io/";
const ISSUERS_MAX: usize = 64;
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Reads the parts of a file and collects what is wrong with them.
#[derive(Default)]
struct Checks {
    errors: Vec<FieldError>,
}

impl Checks {
    fn file(&mut self, file: &File) -> Vec<IssuerConfig> {
        if !file.api_version.starts_with(GROUP) || file.kind != "AuthenticationConfiguration" {
            let given = format!("{} {}", file.api_version, file.kind);
            self.invalid("kind", &given, "must be AuthenticationConfiguration of apiserver.config.k8s.io/v1");
        }
        if file.jwt.len() > ISSUERS_MAX {
            self.errors.push(FieldError::too_many("jwt", file.jwt.len(), ISSUERS_MAX));
        }
        if file.anonymous.as_ref().is_some_and(|rule| !rule.enabled && !rule.conditions.is_empty()) {
            let why = "enabled should be set to true when conditions are defined";
            self.errors.push(FieldError::invalid("anonymous.conditions", serde_json::Value::Null, why));
        }
        let mut configs: Vec<IssuerConfig> = Vec::new();
        for (at, jwt) in file.jwt.iter().enumerate() {
            let path = format!("jwt[{at}]");
            if configs.iter().any(|config| config.url == jwt.issuer.url) {
                self.errors
                    .push(FieldError::duplicate(format!("{path}.issuer.url"), jwt.issuer.url.as_str()));
            }
            configs.push(self.issuer(&path, jwt));
        }
        configs
    }

    fn issuer(&mut self, path: &str, jwt: &Jwt) -> IssuerConfig {
        let (issuer, path_of) = (&jwt.issuer, |field: &str| format!("{path}.issuer.{field}"));
        match issuer.url.as_str() {
            "" => self.errors.push(FieldError::required(path_of("url"), "URL is required")),
            url => self.url(&path_of("url"), url),
        }
        if SERVER_AUDIENCES.contains(&issuer.url) {
            self.invalid(&path_of("url"), &issuer.url, "URL must not overlap with disallowed issuers");
        }
        if !issuer.discovery_url.is_empty() {
            self.url(&path_of("discoveryURL"), &issuer.discovery_url);
            if issuer.discovery_url.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
                let why = "discoveryURL must be different from URL";
                self.invalid(&path_of("discoveryURL"), &issuer.discovery_url, why);
            }
        }
        if issuer.audiences.is_empty() {
            let why = format!("at least one {} is required", path_of("audiences"));
            self.errors.push(FieldError::required(path_of("audiences"), why));
        }
        if issuer.audiences.len() > 1 && issuer.audience_match_policy != "MatchAny" {
            let why = "audienceMatchPolicy must be MatchAny for multiple audiences";
            self.invalid(&path_of("audienceMatchPolicy"), &issuer.audience_match_policy, why);
        }
        IssuerConfig {
            url: issuer.url.clone(),
            discovery_url: Some(issuer.discovery_url.clone()).filter(|url| !url.is_empty()),
            authority: issuer.certificate_authority.clone().into_bytes(),
            audiences: issuer.audiences.clone(),
            algorithms: ALGORITHMS.to_vec(),
            claims: self.claims(path, jwt),
        }
    }

    fn url(&mut self, path: &str, text: &str) {
        let parsed: Option<http::Uri> = text.parse().ok();
        match parsed {
            Some(uri) if uri.scheme_str() != Some("https") => {
                self.invalid(path, text, "URL scheme must be https")
            }
            Some(uri) if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
                self.invalid(path, text, "URL must not contain a username or password");
            }
            Some(_) if text.contains('?') => self.invalid(path, text, "URL must not contain a query"),
            Some(_) if text.contains('#') => self.invalid(path, text, "URL must not contain a fragment"),
            Some(_) => {}
            None => self.invalid(path, text, "it is not a URL"),
        }
    }

    fn claims(&mut self, path: &str, jwt: &Jwt) -> Claims {
        let maps = format!("{path}.claimMappings");
        let rules: Vec<Rule> = jwt
            .claim_validation_rules
            .iter()
            .enumerate()
            .filter_map(|(at, rule)| self.claim_rule(&format!("{path}.claimValidationRules[{at}]"), rule))
            .collect();
        let username = self.part(&format!("{maps}.username"), &jwt.claim_mappings.username, true);
        if username.is_none() {
            let why = "claim or expression is required";
            self.errors.push(FieldError::required(format!("{maps}.username"), why));
        }
        let mut claims = Claims {
            rules,
            username: username.unwrap_or(Mapping::Claim { claim: String::new(), prefix: String::new() }),
            groups: self.part(&format!("{maps}.groups"), &jwt.claim_mappings.groups, true),
            uid: self.part(&format!("{maps}.uid"), &jwt.claim_mappings.uid, false),
            extra: Vec::new(),
            user_rules: Vec::new(),
        };
        for (at, extra) in jwt.claim_mappings.extra.iter().enumerate() {
            let path = format!("{maps}.extra[{at}]");
            self.extra_key(&path, &extra.key);
            if claims.extra.iter().any(|(key, _)| *key == extra.key) {
                self.errors.push(FieldError::duplicate(format!("{path}.key"), extra.key.as_str()));
            }
            let value =
                self.expression(&format!("{path}.valueExpression"), &TOKEN, &extra.value_expression, &[]);
            claims.extra.push((extra.key.clone(), value));
        }
        for (at, rule) in jwt.user_validation_rules.iter().enumerate() {
            let path = format!("{path}.userValidationRules[{at}].expression");
            let expression = self.expression(&path, &USER, &rule.expression, &[Type::Bool]);
            claims.user_rules.push((expression, rule.message.clone()));
        }
        self.verified_email(path, jwt);
        claims
    }

    fn claim_rule(&mut self, path: &str, rule: &ClaimRule) -> Option<Rule> {
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (true, true) => {
                self.errors.push(FieldError::required(path, "claim or expression is required"));
                None
            }
            (false, false) => {
                self.invalid(path, &rule.claim, "claim and expression can't both be set");
                None
            }
            (false, true) if !rule.message.is_empty() => {
                self.invalid(
                    &format!("{path}.message"),
                    &rule.message,
                    "message can't be set when claim is set",
                );
                None
            }
            (false, true) => {
                Some(Rule::Equal { claim: rule.claim.clone(), value: rule.required_value.clone() })
            }
            (true, false) if !rule.required_value.is_empty() => {
                let why = "requiredValue can't be set when expression is set";
                self.invalid(&format!("{path}.requiredValue"), &rule.required_value, why);
                None
            }
            (true, false) => {
                let path = format!("{path}.expression");
                let expression = self.expression(&path, &TOKEN, &rule.expression, &[Type::Bool]);
                Some(Rule::Holds(expression, rule.message.clone()))
            }
        }
    }

    /// A part of the user; none if the file says nothing of it.
    fn part(&mut self, path: &str, part: &Part, prefixed: bool) -> Option<Mapping> {
        match (part.claim.is_empty(), part.expression.is_empty()) {
            (true, true) => {
                if part.prefix.is_some() {
                    self.invalid(&format!("{path}.prefix"), "", "prefix can't be set when claim is not set");
                }
                None
            }
            (false, false) => {
                self.invalid(path, "", "claim and expression can't both be set");
                None
            }
            (true, false) if part.prefix.is_some() => {
                self.invalid(&format!("{path}.prefix"), "", "prefix can't be set when expression is set");
                None
            }
            (true, false) => {
                let expression =
                    self.expression(&format!("{path}.expression"), &TOKEN, &part.expression, &[]);
                Some(Mapping::Expression(expression))
            }
            (false, true) if prefixed && part.prefix.is_none() => {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                self.errors.push(FieldError::required(format!("{path}.prefix"), why));
                None
            }
            (false, true) => {
                let prefix = part.prefix.clone().unwrap_or_default();
                Some(Mapping::Claim { claim: part.claim.clone(), prefix })
            }
        }
    }

    fn extra_key(&mut self, path: &str, key: &str) {
        let path = format!("{path}.key");
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let reserved = |name: &str| domain == name || domain.ends_with(&format!(".{name}"));
        match key {
            "" => self.errors.push(FieldError::required(path, "key is required")),
            _ if domain.is_empty() => {
                self.invalid(&path, key, "must be a domain-prefixed path (such as \"acme.io/foo\")");
            }
            _ if reserved("k8s.io") || reserved("kubernetes.io") => {
                self.invalid(
                    &path,
                    key,
                    "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
                );
            }
            _ if key != key.to_lowercase() => self.invalid(&path, key, "key must be lowercase"),
            _ => {}
        }
    }

    /// An address that nobody verified must not name a user.
    fn verified_email(&mut self, path: &str, jwt: &Jwt) {
        let username = &jwt.claim_mappings.username.expression;
        let extra = jwt.claim_mappings.extra.iter().map(|extra| &extra.value_expression);
        let rules = jwt.claim_validation_rules.iter().map(|rule| &rule.expression);
        let mut all = std::iter::once(username).chain(extra).chain(rules);
        if names_claim(username, "email") && !all.any(|text| names_claim(text, "email_verified")) {
            let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
            self.invalid(&format!("{path}.claimMappings.username.expression"), username, why);
        }
    }

    fn expression(
        &mut self,
        path: &str,
        environment: &Environment,
        text: &str,
        wanted: &[Type],
    ) -> Expression {
        let compiled = Expression::compile(environment, text, wanted);
        match compiled.error() {
            _ if text.is_empty() => self.errors.push(FieldError::required(path, "expression is required")),
            Some(why) => {
                let why = why.to_owned();
                self.invalid(path, text, &why);
            }
            None => {}
        }
        compiled
    }

    fn invalid(&mut self, path: &str, value: &str, why: &str) {
        self.errors.push(FieldError::invalid(path, value, why));
    }
}

/// Whether an expression reads `claims.NAME`.
fn names_claim(text: &str, name: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    [format!("claims.{name}"), format!("claims.?{name}")].iter().any(|read| {
        text.match_indices(read.as_str()).any(|(at, _)| !text[at + read.len()..].starts_with(is_letter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(jwt: &str) -> String {
        let text =
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{jwt}");
        parse(&text, Clock::system())
            .err()
            .map(|why| format!("{:#}", anyhow::Error::new(why)))
            .unwrap_or_default()
    }

    fn issuer(rest: &str) -> String {
        format!("jwt: [{{issuer: {{url: 'https://a.example', audiences: [x]}}, {rest}}}]")
    }

    #[tokio::test]
    async fn a_whole_file_is_taken() {
        let jwt = issuer(
            "claimMappings: {username: {expression: 'claims.sub'}, groups: {claim: g, prefix: ''}, \
             extra: [{key: a.example/b, valueExpression: claims.b}]}, \
             claimValidationRules: [{claim: a, requiredValue: b}, {expression: 'claims.x == 1', message: m}], \
             userValidationRules: [{expression: \"user.username != 'x'\"}]",
        );
        assert_eq!(
            problem(&format!("{jwt}\nanonymous: {{enabled: true, conditions: [{{path: /livez}}]}}")),
            ""
        );
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_with_its_field() {
        let username = "claimMappings: {username: {claim: sub, prefix: ''}}";
        let cases = [
            (
                issuer("claimMappings: {username: {claim: sub}}"),
                "jwt[0].claimMappings.username.prefix: Required value",
            ),
            (issuer(""), "jwt[0].claimMappings.username: Required value: claim or expression is required"),
            (
                issuer("claimMappings: {username: {expression: claims.email}}"),
                "claims.email_verified must be used",
            ),
            (
                issuer(&format!("{username}, claimValidationRules: [{{expression: 'claims.x'}}]")),
                "jwt[0].claimValidationRules[0].expression: Invalid value: \"claims.x\": must evaluate to bool",
            ),
            (
                issuer(&format!("{username}, userValidationRules: [{{expression: user.name == 'x'}}]")),
                "jwt[0].userValidationRules[0].expression",
            ),
            ("anonymous: {conditions: [{path: /livez}]}".to_owned(), "enabled should be set to true"),
            ("jwt: [{issuer: {url: 'http://x'}}]".to_owned(), "URL scheme must be https"),
            ("other: 1".to_owned(), "unknown field `other`"),
        ];
        for (jwt, told) in cases {
            let problem = problem(&jwt);
            assert!(problem.contains(told), "{told}: {problem}");
        }
    }
}

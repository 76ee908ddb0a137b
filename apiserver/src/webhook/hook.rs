//! An entry of a webhook configuration, read once per change of the configurations.

use std::sync::Arc;
use std::time::Duration;

use api_types::cel::Type;
use api_types::kinds::Kind;
use api_types::status::Status;
use parking_lot::Mutex;
use serde_json::Value;

use super::Target;
use crate::admission::Review;
use crate::matching::{Selection, texts};
use crate::policy::{self, Conditions, Subject};
use crate::view::{Version, View};

/// One webhook of one configuration.
pub(crate) struct Hook {
    pub(crate) configuration: String,
    pub(crate) name: String,
    pub(crate) target: Target,
    selection: Selection,
    conditions: Conditions,
    /// Whether a request passes when the webhook cannot be asked.
    pub(crate) fails_open: bool,
    pub(crate) timeout: Duration,
    /// Whether asking it about a dry run leaves nothing behind.
    pub(crate) knows_dry_run: bool,
    /// Whether it wants to see what others changed after it.
    pub(crate) reinvoked: bool,
    /// The version of `admission.k8s.io` to speak: its first that this server knows.
    pub(crate) review_version: Option<&'static str>,
}

const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const TIMEOUT_SECONDS_USUAL: u64 = 10;
const TIMEOUT_SECONDS_MAX: u64 = 30;

impl Hook {
    /// Name that no other webhook of the same sort has.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.configuration, self.name)
    }

    /// The row in whose version the webhook wants to see the request; nothing when it is not its business.
    pub(crate) fn find_row(&self, review: &Review<'_>) -> Result<Option<Arc<Kind>>, Status> {
        let Some(row) = self.selection.find_row(review)? else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(row));
        }
        let subject = Subject::new(review, &row);
        match self.conditions.hold(&policy::activation(&subject, None)) {
            Ok(holds) => Ok(holds.then_some(row)),
            Err(why) if self.fails_open => {
                tracing::warn!(
                    webhook = self.name,
                    why,
                    "match conditions failed, and the webhook is not asked"
                );
                Ok(None)
            }
            Err(why) => Err(review.forbidden(&why)),
        }
    }

    fn parse(configuration: &str, hook: &Value) -> Self {
        let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS_USUAL);
        let spoken = texts(&hook["admissionReviewVersions"]);
        let scope = policy::Scope { authorizer: true, ..policy::Scope::default() };
        let environment = scope.environment(Type::Dyn);
        let known = |version: &String| REVIEW_VERSIONS.iter().find(|known| *known == version).copied();
        Self {
            configuration: configuration.to_owned(),
            name: hook["name"].as_str().unwrap_or_default().to_owned(),
            target: Target::from_value(&hook["clientConfig"]),
            selection: Selection::parse(hook, "rules"),
            conditions: Conditions::compile(&environment, &hook["matchConditions"]),
            fails_open: hook["failurePolicy"] == "Ignore",
            timeout: Duration::from_secs(seconds.clamp(1, TIMEOUT_SECONDS_MAX)),
            knows_dry_run: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            reinvoked: hook["reinvocationPolicy"] == "IfNeeded",
            review_version: spoken.iter().find_map(known),
        }
    }
}

/// The webhooks of all configurations of one sort, ordered by configuration.
#[derive(Default)]
pub(crate) struct Hooks(Mutex<Option<(Version, Arc<[Hook]>)>>);

impl Hooks {
    /// Those of the configurations in `resource` as they are now.
    pub(crate) fn of(&self, view: &dyn View, resource: &str) -> Arc<[Hook]> {
        let version = view.version(resource);
        let mut kept = self.0.lock();
        if let Some((known, hooks)) = &*kept
            && known.is_same(&version)
        {
            return hooks.clone();
        }
        let mut hooks = Vec::new();
        for configuration in view.objects(resource, None) {
            let name = configuration["metadata"]["name"].as_str().unwrap_or_default();
            let entries = configuration["webhooks"].as_array().into_iter().flatten();
            hooks.extend(entries.map(|entry| Hook::parse(name, entry)));
        }
        let hooks: Arc<[Hook]> = hooks.into();
        *kept = Some((version, hooks.clone()));
        hooks
    }
}

//! Objects in the other versions of their kind, for the owners of fields in those versions.
//!
//! Who owns what is computed at once and without waiting, but some versions only a webhook can tell. What is
//! not known is therefore noted, asked for, and the computation made again, until it asks for nothing new.

use std::collections::BTreeMap;

use api_types::kinds::{self, Custom, Kind};
use api_types::patch::apply::Translation;
use api_types::status::Status;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Call, convert, typed};
use crate::crd::versions;

/// Each round learns what all owners of one step need; an apply has a few steps for each version.
const ROUNDS_MAX: usize = 64;

/// What a request has learnt of its object in other versions.
#[derive(Default)]
pub(crate) struct Translations {
    known: Mutex<Vec<Known>>,
    /// By the version they are wanted in.
    wanted: Mutex<BTreeMap<String, Vec<Value>>>,
}

struct Known {
    given: Value,
    /// In the version that was asked for.
    got: Value,
}

impl Translations {
    fn find(&self, api_version: &str, object: &Value) -> Option<Value> {
        let known = self.known.lock();
        known.iter().find(|k| k.got["apiVersion"] == api_version && k.given == *object).map(|k| k.got.clone())
    }

    fn want(&self, api_version: &str, object: &Value) {
        let mut wanted = self.wanted.lock();
        let objects = wanted.entry(api_version.to_owned()).or_default();
        if !objects.contains(object) {
            objects.push(object.clone());
        }
    }

    /// Asks for what was wanted; false if nothing was.
    async fn learn(&self, call: &Call) -> Result<bool, Status> {
        let wanted = std::mem::take(&mut *self.wanted.lock());
        let Some(custom) = call.kind.custom.as_ref().filter(|_| !wanted.is_empty()) else { return Ok(false) };
        for (api_version, objects) in wanted {
            let Some(version) = custom.family.find(&api_version) else { continue };
            let got = versions::turn(&call.server, &custom.family, version, objects.clone()).await?;
            let pairs = objects.into_iter().zip(got).map(|(given, got)| Known { given, got });
            self.known.lock().extend(pairs);
        }
        Ok(true)
    }
}

/// Whether objects of the kind may have to be asked for.
pub(super) fn may_wait(kind: &Kind) -> bool {
    kind.custom.as_ref().is_some_and(|custom| custom.family.webhook.is_some())
}

/// What `compute` gives once it knows all that it asks of [`translate`].
pub(super) async fn settled<T>(call: &Call, mut compute: impl FnMut() -> T) -> Result<T, Status> {
    for _ in 0..ROUNDS_MAX {
        let outcome = compute();
        if !call.translations.learn(call).await? {
            return Ok(outcome);
        }
    }
    Err(Status::internal("the webhook for conversion gives no end of different objects"))
}

/// An object of the request's kind, in any of its versions, in that of `api_version`.
pub(super) fn translate(call: &Call, api_version: &str, object: &Value) -> Translation {
    match &call.kind.custom {
        Some(custom) => translate_custom(call, custom, api_version, object),
        None => translate_builtin(call, api_version, object),
    }
}

fn translate_custom(call: &Call, custom: &Custom, api_version: &str, object: &Value) -> Translation {
    let Some(version) = custom.family.find(api_version) else { return Translation::NoVersion };
    let known = match &custom.family.webhook {
        Some(_) if object["apiVersion"] != api_version => call.translations.find(api_version, object),
        _ => Some(versions::rename(object.clone(), version)),
    };
    match known {
        Some(object) => Translation::To(version.schema.clone(), object),
        None => {
            call.translations.want(api_version, object);
            Translation::Pending
        }
    }
}

fn translate_builtin(call: &Call, api_version: &str, object: &Value) -> Translation {
    let registry = &call.server.registry;
    let find = |api_version: &str| {
        let (group, version) = kinds::split_api_version(api_version);
        match registry.find(group, version, &call.kind.plural) {
            Some(kind) => Some(kind).filter(|kind| kind.storage == call.kind.storage),
            None => {
                kinds::find_retired(group, version, &call.kind.plural).map(|retired| retired.current.clone())
            }
        }
    };
    let from = object["apiVersion"].as_str().and_then(find).unwrap_or_else(|| call.kind.clone());
    let Some(to) = find(api_version) else { return Translation::NoVersion };
    let stored = convert::convert(&from, &registry.storing(&from), object.clone());
    let shown = convert::convert(&registry.storing(&from), &to, stored);
    Translation::To(typed::of(&to), shown)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wanted_twice_is_asked_for_once() {
        let translations = Translations::default();
        let object = json!({"apiVersion": "a/v1", "spec": {}});
        translations.want("a/v2", &object);
        translations.want("a/v2", &object);
        translations.want("a/v3", &object);
        let wanted = translations.wanted.into_inner();
        assert_eq!(wanted.values().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    }
}

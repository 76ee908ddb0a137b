//! What the observer knows: every object as it was last committed, and each change as it comes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// A committed change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Plural of the resource.
    pub(crate) resource: String,
    pub(crate) old: Option<Value>,
    /// None: it is gone.
    pub(crate) new: Option<Value>,
    /// When it was seen, from the start of the run.
    pub(crate) at: Duration,
}

impl Change {
    /// The object, after the change if it is still there.
    pub(crate) fn object(&self) -> &Value {
        self.new.as_ref().or(self.old.as_ref()).unwrap_or(&Value::Null)
    }

    pub(crate) fn is_creation(&self) -> bool {
        self.old.is_none() && self.new.is_some()
    }

    /// Whether the object began to go or went with this change.
    pub(crate) fn begins_to_go(&self) -> bool {
        let was_going = self.old.as_ref().is_none_or(is_going);
        !was_going && self.new.as_ref().is_none_or(is_going)
    }
}

/// The state of the cluster at one revision.
#[derive(Default)]
pub(crate) struct Model {
    objects: BTreeMap<(String, String, String), Value>,
    /// When something last changed that is no heartbeat.
    pub(crate) changed_at: Duration,
}

impl Model {
    /// Puts the change in; answers what was there before.
    pub(crate) fn apply(&mut self, resource: &str, object: &Value, is_there: bool) -> Option<Value> {
        let key = (resource.to_owned(), namespace(object).to_owned(), name(object).to_owned());
        match is_there {
            true => self.objects.insert(key, object.clone()),
            false => self.objects.remove(&key),
        }
    }

    pub(crate) fn all(&self, resource: &str) -> impl Iterator<Item = &Value> {
        let resource = resource.to_owned();
        let from = (resource.clone(), String::new(), String::new());
        self.objects.range(from..).take_while(move |(key, _)| key.0 == resource).map(|(_, object)| object)
    }

    pub(crate) fn everything(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.objects.iter().map(|(key, object)| (key.0.as_str(), object))
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// The objects of `resource` that `owner` controls.
    pub(crate) fn controlled_by<'a>(
        &'a self,
        resource: &str,
        owner: &'a str,
    ) -> impl Iterator<Item = &'a Value> {
        self.all(resource).filter(move |object| controller(object).is_some_and(|(_, _, uid)| uid == owner))
    }
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(crate) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(crate) fn is_going(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Kind, name and uid of the controlling owner.
pub(crate) fn controller(object: &Value) -> Option<(&str, &str, &str)> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["name"].as_str()?, owner["uid"].as_str()?))
}

pub(crate) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

pub(crate) fn has_ended(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor going.
pub(crate) fn is_active(pod: &Value) -> bool {
    !has_ended(pod) && !is_going(pod)
}

pub(crate) fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == type_)?["status"].as_str()
}

pub(crate) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == Some("True")
}

pub(crate) fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether a pod, or the pods of a template, are made never to become ready.
pub(crate) fn is_broken(object: &Value) -> bool {
    object["metadata"]["annotations"]["sim/never-ready"].is_string()
}

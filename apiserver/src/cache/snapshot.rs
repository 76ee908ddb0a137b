//! The state of all resources at one revision: immutable, cheap to copy, replaced at each commit.

use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use super::stored::Stored;
use crate::store::Revision;

/// A name as lists are ordered: by namespace, then name.
pub(super) type Name = (Arc<str>, Arc<str>);
pub(super) type Resource = OrdMap<Name, Arc<Stored>>;

/// Everything at one revision.
#[derive(Clone, Default)]
pub(super) struct World {
    pub(super) revision: Revision,
    pub(super) resources: HashMap<Arc<str>, Resource>,
}

impl World {
    pub(super) fn resource(&self, resource: &str) -> Resource {
        self.resources.get(resource).cloned().unwrap_or_default()
    }

    pub(super) fn put(&mut self, stored: Arc<Stored>) -> Option<Arc<Stored>> {
        let name = (stored.key.namespace.clone(), stored.key.name.clone());
        self.resources.entry(stored.key.resource.clone()).or_default().insert(name, stored)
    }

    pub(super) fn remove(&mut self, resource: &str, name: &Name) -> Option<Arc<Stored>> {
        self.resources.get_mut(resource)?.remove(name)
    }
}

/// The objects of one resource at one revision, ordered by namespace and name. Holding it blocks nothing.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) objects: Resource,
}

impl Snapshot {
    /// Whether both are the same state: nothing was written or deleted in between.
    pub(crate) fn is_same(&self, other: &Snapshot) -> bool {
        self.objects.ptr_eq(&other.objects)
    }

    /// All objects.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.range_from(self.namespace.clone().unwrap_or_default(), "".into())
    }

    /// One object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.objects.get(&(namespace.into(), name.into()))
    }

    /// The objects that come after `namespace`/`name`, whether that exists or not.
    pub(crate) fn range_after(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Arc<Stored>> {
        let at = (Arc::<str>::from(namespace), Arc::<str>::from(name));
        self.range_from(at.0.clone(), at.1.clone())
            .skip_while(move |stored| (&stored.key.namespace, &stored.key.name) == (&at.0, &at.1))
    }

    fn range_from(&self, namespace: Arc<str>, name: Arc<str>) -> impl Iterator<Item = &Arc<Stored>> {
        let only = self.namespace.as_deref();
        self.objects
            .range((namespace, name)..)
            .take_while(move |((namespace, _), _)| only.is_none_or(|only| only == &**namespace))
            .map(|(_, stored)| stored)
    }
}

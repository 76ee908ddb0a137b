//! What authorization, admission and strategies read of the cluster: the cache, seen through a keyhole.
//!
//! They never write and never need more than these questions, so their tests answer them from a map.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::cache::{Objects, Snapshot};
use crate::store::Key;

/// Read access to the objects at the latest published revision.
///
/// `resource` is a row's `Kind::storage`; the namespace of cluster-scoped objects is empty.
pub(crate) trait View: Send + Sync {
    /// The object, or nothing when there is none of that name now.
    fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// All objects of the resource, in one namespace or in all, ordered by namespace and name.
    fn objects(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;

    /// The objects of the namespace whose `spec.nodeName` is the node; only those are decoded.
    fn objects_on(&self, resource: &str, node: &str, namespace: &str) -> Vec<Arc<Value>>;

    /// The object as soon as there is one of that name. Limit how long you wait.
    fn appearing<'a>(
        &'a self,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Arc<Value>> {
        match self.object(resource, namespace, name) {
            Some(object) => Box::pin(std::future::ready(object)),
            None => Box::pin(std::future::pending()),
        }
    }

    /// The state of the resource as something to compare: an index compiled from its objects is good as long
    /// as this is the same.
    fn version(&self, resource: &str) -> Version;
}

/// A resource's state, for comparison only. Holding it keeps the state, so it cannot be mistaken for another.
pub(crate) enum Version {
    Snapshot(Snapshot),
    #[cfg(test)]
    Count(usize),
}

impl Version {
    /// Whether nothing of the resource was written or deleted between the two.
    pub(crate) fn is_same(&self, other: &Version) -> bool {
        match (self, other) {
            (Version::Snapshot(a), Version::Snapshot(b)) => a.is_same(b),
            #[cfg(test)]
            (Version::Count(a), Version::Count(b)) => a == b,
            #[cfg(test)]
            _ => false,
        }
    }
}

impl View for Objects {
    fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.value(&Key::new(resource, namespace, name))
    }

    fn objects(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.list(resource, namespace).iter().map(|stored| Arc::new(stored.value())).collect()
    }

    fn objects_on(&self, resource: &str, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        let all = self.list(resource, Some(namespace));
        let bound = all.iter().filter(|stored| stored.field("spec.nodeName") == Some(node));
        bound.map(|stored| Arc::new(stored.value())).collect()
    }

    fn appearing<'a>(
        &'a self,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Arc<Value>> {
        Box::pin(async move {
            loop {
                let seen = self.revision();
                if let Some(object) = self.object(resource, namespace, name) {
                    return object;
                }
                self.wait_for(seen + 1).await;
            }
        })
    }

    fn version(&self, resource: &str) -> Version {
        Version::Snapshot(self.list(resource, None))
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A cluster in a map.

    use std::collections::BTreeMap;

    use super::{Arc, Value, Version, View};

    #[derive(Default)]
    pub(crate) struct Fixture(BTreeMap<(String, String, String), Arc<Value>>);

    impl Fixture {
        pub(crate) fn with(mut self, resource: &str, object: Value) -> Self {
            let text =
                |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let key = (resource.to_owned(), text("/metadata/namespace"), text("/metadata/name"));
            self.0.insert(key, Arc::new(object));
            self
        }
    }

    impl View for Fixture {
        fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            self.0.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
        }

        fn objects(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
            let wanted =
                |key: &(String, String, String)| key.0 == resource && namespace.is_none_or(|n| n == key.1);
            self.0.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| object.clone()).collect()
        }

        fn objects_on(&self, resource: &str, node: &str, namespace: &str) -> Vec<Arc<Value>> {
            let mut bound = self.objects(resource, Some(namespace));
            bound.retain(|object| object["spec"]["nodeName"] == node);
            bound
        }

        fn version(&self, resource: &str) -> Version {
            Version::Count(self.objects(resource, None).len())
        }
    }
}

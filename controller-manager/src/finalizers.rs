//! Finalizers: what an object that is being deleted waits for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::informers::Cached;
use crate::owners::{is_deleting, name_of};

/// Objects in one answer of the server.
const PAGE: u32 = 500;

/// Whether the object is being deleted and waits for this finalizer.
pub(crate) fn waits_for(meta: &ObjectMeta, finalizer: &str) -> bool {
    is_deleting(meta) && meta.finalizers.iter().flatten().any(|one| one == finalizer)
}

/// Whether the server has an object of which `uses` is true: what a cache does not show may be there all the same,
/// and a finalizer that was taken away does not come back.
pub(crate) async fn is_used_by<K: Cached>(
    api: &Api<K>,
    fields: Option<&str>,
    uses: impl Fn(&K) -> bool,
) -> Result<bool, kube::Error> {
    let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
    params.field_selector = fields.map(ToOwned::to_owned);
    loop {
        let page = api.list(&params).await?;
        if page.items.iter().any(&uses) {
            return Ok(true);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(false),
        }
    }
}

/// Puts the finalizer on the object, if nobody has changed the object since it was read.
pub(crate) async fn add_finalizer<K: Cached>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
) -> Result<(), kube::Error> {
    let meta = object.meta();
    let mut all: Vec<&str> = meta.finalizers.iter().flatten().map(String::as_str).collect();
    all.push(finalizer);
    let patch = json!({ "metadata": { "finalizers": all, "resourceVersion": meta.resource_version, "uid": meta.uid } });
    match api.patch(name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

/// Takes the finalizer from the object, if nobody has changed the object since it was read.
pub(crate) async fn drop_finalizer<K: Cached>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
) -> Result<(), kube::Error> {
    let meta = object.meta();
    let rest: Vec<&String> = meta.finalizers.iter().flatten().filter(|one| *one != finalizer).collect();
    let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": meta.resource_version, "uid": meta.uid } });
    match api.patch(name_of(meta), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}

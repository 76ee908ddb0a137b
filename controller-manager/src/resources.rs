//! What kinds the server has now, asked by discovery: for the controllers that work on every kind.

use kube::Client;
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};

/// One kind as the server offers it.
#[derive(Clone, Debug)]
pub(crate) struct ServedResource {
    pub api: ApiResource,
    pub namespaced: bool,
    pub can_watch: bool,
    pub can_delete_collection: bool,
}

impl ServedResource {
    /// Group and plural: what tells two resources apart.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.api.group, self.api.plural)
    }

    /// Whether this is the kind `Pod`.
    pub(crate) fn is_pods(&self) -> bool {
        self.api.group.is_empty() && self.api.plural == "pods"
    }

    /// Whether objects of this kind tell of others and own nothing: they are many and expire by themselves.
    pub(crate) fn is_events(&self) -> bool {
        self.api.kind == "Event" && matches!(self.api.group.as_str(), "" | "events.k8s.io")
    }
}

/// All kinds whose objects can be listed and deleted, in the version the server prefers.
pub(crate) async fn served(client: &Client) -> Result<Vec<ServedResource>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // A server without aggregated discovery answers in the old form.
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    let resources = discovery.groups().flat_map(|group| group.recommended_resources());
    let deletable = resources
        .filter(|(_, can)| can.supports_operation(verbs::LIST) && can.supports_operation(verbs::DELETE));
    let served = deletable.map(|(api, can)| ServedResource {
        api,
        namespaced: can.scope == Scope::Namespaced,
        can_watch: can.supports_operation(verbs::WATCH),
        can_delete_collection: can.supports_operation(verbs::DELETE_COLLECTION),
    });
    // Discovery keeps groups in no order, and what comes of this must not be left to chance.
    let mut served: Vec<_> = served.collect();
    served.sort_by_cached_key(ServedResource::id);
    Ok(served)
}

/// The versions whose kinds are not known, because the server that has them does not answer.
pub(crate) async fn stale(client: &Client) -> Result<Vec<String>, kube::Error> {
    let Ok(groups) = client.list_api_groups_aggregated().await else { return Ok(Vec::new()) };
    let mut stale = Vec::new();
    for group in groups.items {
        let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
        let versions = group.versions.into_iter().filter(|one| one.freshness.as_deref() == Some("Stale"));
        stale.extend(versions.filter_map(|one| one.version).map(|version| format!("{name}/{version}")));
    }
    Ok(stale)
}

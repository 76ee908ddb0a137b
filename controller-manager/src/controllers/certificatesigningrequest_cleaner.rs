//! `certificatesigningrequest-cleaner-controller`: removes requests for certificates that are of no more use.
//!
//! # Watches
//! CertificateSigningRequests.
//!
//! # Writes
//! Deletes them.
//!
//! # Guarantees
//! Approved, denied and failed requests go after an hour, those nobody decided about after a day, and those whose
//! certificate has expired at once.
//!
//! # Differs from Kubernetes
//! Each goes when its time comes instead of at the next hour.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Duration, Utc};
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::signing_request;

pub(crate) struct Cleaner {
    client: Client,
    clock: Clock,
    requests: Arc<Informer<CertificateSigningRequest>>,
}

const DECIDED_HOURS: i64 = 1;
const PENDING_HOURS: i64 = 24;

/// When the request is of no more use.
fn end_of(csr: &CertificateSigningRequest) -> Option<DateTime<Utc>> {
    let created = csr.metadata.creation_timestamp.as_ref().map(moment_of)?;
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let decided = conditions.iter().filter(|c| ["Approved", "Denied", "Failed"].contains(&c.type_.as_str()));
    let decided = decided.filter_map(|c| c.last_update_time.as_ref().map(moment_of)).min();
    let end = match decided {
        Some(decided) => decided + Duration::hours(DECIDED_HOURS),
        None => created + Duration::hours(PENDING_HOURS),
    };
    let expired = signing_request::certificate(csr).and_then(|pem| {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        DateTime::from_timestamp(pem.parse_x509().ok()?.validity().not_after.timestamp(), 0)
    });
    Some(expired.map_or(end, |expired| expired.min(end)))
}

#[async_trait]
impl Controller for Cleaner {
    const NAME: &'static str = "certificatesigningrequest-cleaner-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        Self { client: setup.client.clone(), clock: setup.clock, requests: setup.watch_own() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(csr) = self.requests.get(key) else { return Ok(Action::Done) };
        let Some(end) = end_of(&csr) else { return Ok(Action::Done) };
        if let Ok(left) = (end - self.clock.now()).to_std()
            && !left.is_zero()
        {
            return Ok(Action::RequeueAfter(left));
        }
        let preconditions = Preconditions { uid: csr.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        match api.delete(&key.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(Action::Done),
            other => other.map(|_| Action::Done).map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn end(conditions: serde_json::Value) -> String {
        let csr = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"signerName": "a.b/c", "request": "", "usages": []}, "status": {"conditions": conditions},
        }));
        end_of(&csr.unwrap()).unwrap().to_rfc3339()
    }

    #[test]
    fn what_was_decided_goes_sooner_than_what_waits() {
        assert_eq!(end(json!([])), "2026-01-02T00:00:00+00:00");
        let denied = json!([{"type": "Denied", "status": "True", "lastUpdateTime": "2026-01-01T05:00:00Z"}]);
        assert_eq!(end(denied), "2026-01-01T06:00:00+00:00");
    }
}

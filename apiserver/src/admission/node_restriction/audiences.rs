//! For whom a node may take tokens: the audiences that the pod's volumes name, or those it has the right to.

use api_types::status::Status;
use serde_json::Value;

use crate::admission::Review;
use crate::authz::Attributes;

/// The right to an audience, which is the resource, of the account that is the name.
const VERB: &str = "request-serviceaccounts-token-audience";

/// Nothing if the pod, which runs on the node, needs a token for what is asked.
pub(super) fn check(review: &Review<'_>, request: &Value, pod: &Value) -> Result<(), Status> {
    let asked: Vec<&str> =
        request["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let audience = match asked[..] {
        [] => "",
        [one] => one,
        _ => return Err(review.forbidden("node may only request 0 or 1 audiences")),
    };
    let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    if volumes.any(|volume| names(review, pod, volume, audience)) || is_entitled(review, audience) {
        return Ok(());
    }
    let user = &review.user.name;
    Err(review.forbidden(&format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    )))
}

/// Whether a volume needs a token for the audience.
fn names(review: &Review<'_>, pod: &Value, volume: &Value, audience: &str) -> bool {
    let is_asked = |token: &Value| token["audience"].as_str().unwrap_or_default() == audience;
    let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
    if sources
        .any(|source| source["serviceAccountToken"].is_object() && is_asked(&source["serviceAccountToken"]))
    {
        return true;
    }
    let driver = driver_of(review, pod, volume)
        .and_then(|driver| review.view.object("storage.k8s.io/csidrivers", "", &driver));
    let driver = driver.as_deref().unwrap_or(&Value::Null);
    driver["spec"]["tokenRequests"].as_array().into_iter().flatten().any(is_asked)
}

/// The CSI driver that mounts a volume.
fn driver_of(review: &Review<'_>, pod: &Value, volume: &Value) -> Option<String> {
    if let Some(driver) = volume["csi"]["driver"].as_str() {
        return Some(driver.to_owned());
    }
    let claim = match volume["ephemeral"].is_object() {
        true => format!("{}-{}", pod["metadata"]["name"].as_str()?, volume["name"].as_str()?),
        false => volume["persistentVolumeClaim"]["claimName"].as_str()?.to_owned(),
    };
    let claim = review.view.object("persistentvolumeclaims", review.namespace, &claim)?;
    let volume = review.view.object("persistentvolumes", "", claim["spec"]["volumeName"].as_str()?)?;
    volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
}

fn is_entitled(review: &Review<'_>, audience: &str) -> bool {
    !audience.is_empty()
        && review.authorizers.allows(&Attributes {
            user: review.user.clone(),
            verb: VERB.to_owned(),
            version: "v1".to_owned(),
            resource: audience.to_owned(),
            namespace: review.namespace.to_owned(),
            name: review.name.to_owned(),
            ..Attributes::default()
        })
}

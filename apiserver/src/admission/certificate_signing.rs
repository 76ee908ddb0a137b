//! CertificateSigning: who gives a request its certificate may act as its signer.

use api_types::status::Status;

use super::certificate_approval::{REQUESTS, may, signer_of};
use super::{Operation, Plugin, Review};

pub(crate) struct CertificateSigning;

impl Plugin for CertificateSigning {
    const NAME: &'static str = "CertificateSigning";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let writes_status = review.kind.storage == REQUESTS
            && review.subresource == "status"
            && review.operation == Operation::Update;
        let (true, Some(new), Some(old)) = (writes_status, review.new.as_deref(), review.old) else {
            return Ok(());
        };
        let changed = |field: &str| new["status"][field] != old["status"][field];
        let signer = signer_of(old);
        if !(changed("certificate") || changed("conditions")) || may(review, "sign", signer) {
            return Ok(());
        }
        Err(review.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::UserInfo;
    use crate::admission::certificate_approval::CertificateApproval;
    use crate::admission::fixture::review;
    use crate::view::fixture::Fixture;

    fn request(status: Value) -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/own"}, "status": status})
    }

    fn refusal(user: &UserInfo, subresource: &str, status: Value) -> Option<String> {
        let (world, old) = (Fixture::default(), request(json!({})));
        let new = Some(request(status));
        review(&world, user, Operation::Update, REQUESTS, subresource, Some(&old), new, |review| {
            let both =
                CertificateApproval::validate(review).and_then(|()| CertificateSigning::validate(review));
            both.err().map(|status| status.message)
        })
    }

    #[test]
    fn only_who_may_speak_for_the_signer_approves_and_signs() {
        let nobody = UserInfo::new("nobody", &[]);
        let signed = json!({"certificate": "eA=="});
        assert_eq!(
            refusal(&nobody, "approval", json!({})).unwrap(),
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to approve requests with signerName \"example.com/own\""
        );
        assert!(refusal(&nobody, "status", signed.clone()).unwrap().contains("not permitted to sign"));
        assert_eq!(refusal(&nobody, "status", json!({})), None);
        assert_eq!(refusal(&UserInfo::admin(), "status", signed), None);
    }
}

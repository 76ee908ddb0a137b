//! Signs requests for certificates with the cluster's key.
//!
//! The certificate is put together byte by byte: its subject, key and alternative names are those of the
//! request exactly, with all organizations in their order, which no builder of certificates keeps.

use chrono::{DateTime, Datelike as _, Duration, Utc};
use component_base::der::{bit_string, element, sequence};
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A CA that cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error("the signing certificate or its key cannot be read: {0}")]
    Read(String),
    #[error("the signing key is of a sort that is not supported")]
    Algorithm,
}

/// The cluster's certificate authority, as the signers use it.
pub struct Authority {
    key: KeyPair,
    subject: Vec<u8>,
    not_after: DateTime<Utc>,
    /// How long certificates are good for when the request does not say less.
    life: Duration,
}

/// Certificates are good from a little earlier on, for clocks that are behind; short ones are not.
const BACKDATE_MINUTES: i64 = 5;
const SHORT_HOURS: i64 = 8;
const LIFE_SECONDS_MIN: i64 = 600;

impl Authority {
    /// From the CA's certificate and key, PEM.
    pub fn new(
        certificate_pem: &str,
        key_pem: &str,
        life: std::time::Duration,
    ) -> Result<Self, SigningError> {
        let read = |error: &dyn std::fmt::Display| SigningError::Read(error.to_string());
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).map_err(|e| read(&e))?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|e| read(&e))?;
        let key = KeyPair::from_pem(key_pem).map_err(|e| read(&e))?;
        algorithm(&key)?;
        let not_after = DateTime::from_timestamp(certificate.validity().not_after.timestamp(), 0);
        Ok(Self {
            key,
            subject: certificate.subject().as_raw().to_vec(),
            not_after: not_after.unwrap_or(DateTime::<Utc>::MAX_UTC),
            life: Duration::from_std(life).map_err(|e| read(&e))?,
        })
    }

    /// The certificate for a request (DER) with these usages, PEM; or why it cannot be made.
    pub(crate) fn sign(
        &self,
        request: &[u8],
        usages: &[String],
        seconds: Option<i32>,
        now: DateTime<Utc>,
        serial: [u8; 16],
    ) -> Result<String, String> {
        let (_, request) = X509CertificationRequest::from_der(request).map_err(|e| e.to_string())?;
        request
            .verify_signature()
            .map_err(|_| "unable to verify certificate request signature".to_owned())?;
        let info = &request.certification_request_info;
        let algorithm = algorithm(&self.key).map_err(|e| e.to_string())?;
        let (from, until) = self.validity(seconds, now);
        let tbs = sequence(&[
            element(0xa0, &integer(&[2])),
            integer(&positive(serial)),
            algorithm.clone(),
            self.subject.clone(),
            sequence(&[time(from), time(until)]),
            info.subject.as_raw().to_vec(),
            info.subject_pki.raw.to_vec(),
            element(0xa3, &sequence(&self.extensions(&request, usages)?)),
        ]);
        let signature = self.key.sign(&tbs).map_err(|e| e.to_string())?;
        let certificate = sequence(&[tbs, algorithm, bit_string(&signature)]);
        Ok(pem("CERTIFICATE", &certificate))
    }

    fn validity(&self, seconds: Option<i32>, now: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
        let asked = seconds.map(|s| Duration::seconds(i64::from(s).max(LIFE_SECONDS_MIN)));
        let life = asked.map_or(self.life, |asked| asked.min(self.life));
        let from = match life <= Duration::hours(SHORT_HOURS) {
            true => now,
            false => now - Duration::minutes(BACKDATE_MINUTES),
        };
        (from, (now + life).min(self.not_after))
    }

    fn extensions(
        &self,
        request: &X509CertificationRequest<'_>,
        usages: &[String],
    ) -> Result<Vec<Vec<u8>>, String> {
        let (bits, purposes) = split_usages(usages)?;
        let mut extensions = Vec::new();
        if bits != 0 {
            extensions.push(extension(&[0x55, 0x1d, 0x0f], true, &key_usage(bits)));
        }
        if !purposes.is_empty() {
            let list: Vec<Vec<u8>> = purposes.iter().map(|oid| element(6, oid)).collect();
            extensions.push(extension(&[0x55, 0x1d, 0x25], false, &sequence(&list)));
        }
        extensions.push(extension(&[0x55, 0x1d, 0x13], true, &sequence(&[])));
        let authority = sequence(&[element(0x80, &key_id(&self.key))]);
        extensions.push(extension(&[0x55, 0x1d, 0x23], false, &authority));
        extensions.extend(alternative_names(request));
        Ok(extensions)
    }
}

/// As rcgen makes the subject key identifier of a CA: the first 20 bytes of the key's SHA-256.
fn key_id(key: &KeyPair) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha256::digest(key.subject_public_key_info())[..20].to_vec()
}

/// The alternative names that the request asks for, byte by byte.
fn alternative_names(request: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    use x509_parser::cri_attributes::ParsedCriAttribute;
    request.certification_request_info.iter_attributes().find_map(|attribute| {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { return None };
        let names = asked.extensions.iter().find(|e| e.oid.as_bytes() == [0x55, 0x1d, 0x11])?;
        Some(extension(&[0x55, 0x1d, 0x11], names.critical, names.value))
    })
}

/// Bits of KeyUsage (bit 0 is the highest of the first byte) and object identifiers of purposes.
fn split_usages(usages: &[String]) -> Result<(u16, Vec<&'static [u8]>), String> {
    let (mut bits, mut purposes) = (0u16, Vec::new());
    for usage in usages {
        match usage.as_str() {
            "signing" | "digital signature" => bits |= 1 << 15,
            "content commitment" => bits |= 1 << 14,
            "key encipherment" => bits |= 1 << 13,
            "data encipherment" => bits |= 1 << 12,
            "key agreement" => bits |= 1 << 11,
            "cert sign" => bits |= 1 << 10,
            "crl sign" => bits |= 1 << 9,
            "encipher only" => bits |= 1 << 8,
            "decipher only" => bits |= 1 << 7,
            "any" => purposes.push(&[0x55, 0x1d, 0x25, 0x00][..]),
            "server auth" => purposes.push(PKIX[0]),
            "client auth" => purposes.push(PKIX[1]),
            "code signing" => purposes.push(PKIX[2]),
            "email protection" | "s/mime" => purposes.push(PKIX[3]),
            "timestamping" => purposes.push(PKIX[4]),
            "ocsp signing" => purposes.push(PKIX[5]),
            other => return Err(format!("unrecognized usage values: {other:?}")),
        }
    }
    Ok((bits, purposes))
}

/// 1.3.6.1.5.5.7.3.N for N of 1, 2, 3, 4, 8, 9.
const PKIX: [&[u8]; 6] = [
    &[0x2b, 6, 1, 5, 5, 7, 3, 1],
    &[0x2b, 6, 1, 5, 5, 7, 3, 2],
    &[0x2b, 6, 1, 5, 5, 7, 3, 3],
    &[0x2b, 6, 1, 5, 5, 7, 3, 4],
    &[0x2b, 6, 1, 5, 5, 7, 3, 8],
    &[0x2b, 6, 1, 5, 5, 7, 3, 9],
];

/// The AlgorithmIdentifier of the key's signatures.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, SigningError> {
    let known = key.algorithm();
    let plain = |oid: &[u8]| Ok(sequence(&[element(6, oid)]));
    if known == &rcgen::PKCS_ECDSA_P256_SHA256 {
        plain(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])
    } else if known == &rcgen::PKCS_ECDSA_P384_SHA384 {
        plain(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])
    } else if known == &rcgen::PKCS_ED25519 {
        plain(&[0x2b, 0x65, 0x70])
    } else if known == &rcgen::PKCS_RSA_SHA256 {
        Ok(sequence(&[element(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b]), element(5, &[])]))
    } else {
        Err(SigningError::Algorithm)
    }
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    element(2, bytes)
}

/// Neither negative nor with a leading zero.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

fn key_usage(bits: u16) -> Vec<u8> {
    let unused = bits.trailing_zeros() as u8;
    let bytes = bits.to_be_bytes();
    match unused {
        8.. => element(3, &[unused - 8, bytes[0]]),
        _ => element(3, &[unused, bytes[0], bytes[1]]),
    }
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![element(6, oid)];
    if critical {
        parts.push(element(1, &[0xff]));
    }
    parts.push(element(4, value));
    sequence(&parts)
}

/// UTCTime until 2049, GeneralizedTime after.
fn time(at: DateTime<Utc>) -> Vec<u8> {
    match at.year() {
        ..2050 => element(0x17, at.format("%y%m%d%H%M%SZ").to_string().as_bytes()),
        _ => element(0x18, at.format("%Y%m%d%H%M%SZ").to_string().as_bytes()),
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};

    use super::*;

    fn authority() -> (Authority, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let certificate = params.self_signed(&key).unwrap().pem();
        let authority =
            Authority::new(&certificate, &key.serialize_pem(), std::time::Duration::from_secs(86_400 * 365))
                .unwrap();
        (authority, certificate)
    }

    fn request() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "dev");
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_signed_certificate_is_the_requests_and_verifies() {
        let (authority, ca) = authority();
        let usages = ["client auth", "digital signature"].map(str::to_owned);
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let signed = authority.sign(&request(), &usages, Some(3600), now, [9; 16]).unwrap();
        let (_, signed) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let certificate = signed.parse_x509().unwrap();
        let (_, ca) = x509_parser::pem::parse_x509_pem(ca.as_bytes()).unwrap();
        certificate.verify_signature(Some(ca.parse_x509().unwrap().public_key())).unwrap();
        let text = certificate.subject().to_string();
        assert!(text.contains("jane") && text.contains("dev"), "{text}");
        assert_eq!(certificate.validity().not_after.timestamp(), now.timestamp() + 3600);
        assert_eq!(certificate.validity().not_before.timestamp(), now.timestamp());
        let usage = certificate.extended_key_usage().unwrap().unwrap();
        assert!(usage.value.client_auth && !usage.value.server_auth);
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn lengths_of_der_have_one_form() {
        assert_eq!(element(4, &[7])[..2], [4, 1]);
        assert_eq!(element(4, &[])[..], [4, 0]);
        assert_eq!(element(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(element(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }
}

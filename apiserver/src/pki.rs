//! The cluster's own certificate authority: who serves, who asks, and what signs service-account tokens.
//!
//! Everything is made at the first start and used again at the next; what is about to expire, or no longer
//! fits the names the server is reached by, is renewed. Without a directory all of it lives in memory only.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Datelike, Duration, Utc};
use component_base::clock::Clock;
use component_base::der;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SigningKey as _, string::Ia5String,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate authority that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} does not hold a certificate and key of ours; move it away to have new ones made")]
    Unusable { path: String },
    #[error("cannot make a certificate for {name:?}")]
    Make {
        name: String,
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Credential {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// The authority and what it has issued for the server itself.
pub struct Pki {
    dir: Option<PathBuf>,
    clock: Clock,
    ca: Credential,
    issuer: Issuer<'static, KeyPair>,
    serving: Credential,
    kubelet_client: Credential,
    signing_key: KeyPair,
}

/// How long certificates are good for, and how long before their end they are renewed.
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
const RENEW_DAYS: i64 = 30;

/// What a leaf certificate is for.
struct Leaf<'a> {
    name: &'a str,
    groups: &'a [&'a str],
    /// Names and addresses to serve under; empty for a client.
    hosts: &'a [String],
}

impl Pki {
    /// The certificates under `dir`, read or made; `names` are those that the API server is reached by besides
    /// this machine's own.
    pub fn open(dir: &Path, clock: Clock, names: &[String]) -> Result<Self, PkiError> {
        let service = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));
        Self::ensure(Some(dir), clock, &serving_hosts(None, service, names))
    }

    /// Reads or makes everything under `dir`, or in memory. `hosts` are the names and addresses that the
    /// API server is reached by.
    pub(crate) fn ensure(dir: Option<&Path>, clock: Clock, hosts: &[String]) -> Result<Self, PkiError> {
        if let Some(dir) = dir {
            make_private_dir(dir)?;
        }
        let ca =
            keep(dir, "ca", |pair| expires_after(&pair.certificate_pem, clock.now()), || make_ca(&clock))?;
        let issuer = issuer_of(&ca).ok_or_else(|| unusable(dir, "ca"))?;
        let serving = Leaf { name: "kube-apiserver", groups: &[], hosts };
        let serving = keep_leaf(dir, "apiserver", &issuer, &ca, &clock, &serving)?;
        let kubelet = Leaf { name: "kube-apiserver-kubelet-client", groups: &["system:masters"], hosts: &[] };
        let kubelet_client = keep_leaf(dir, "apiserver-kubelet-client", &issuer, &ca, &clock, &kubelet)?;
        let signing_key = keep_signing_key(dir)?;
        let dir = dir.map(Path::to_path_buf);
        Ok(Self { dir, clock, ca, issuer, serving, kubelet_client, signing_key })
    }

    /// The certificate that clients and node agents trust, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca.certificate_pem
    }

    pub(crate) fn serving(&self) -> &Credential {
        &self.serving
    }

    /// What the API server shows to node agents (logs, exec, port-forward).
    pub fn kubelet_client(&self) -> &Credential {
        &self.kubelet_client
    }

    /// The authority with its key: signs approved requests for certificates.
    pub fn authority(&self) -> &Credential {
        &self.ca
    }

    /// The key that signs service-account tokens, PEM.
    pub fn signing_key_pem(&self) -> String {
        self.signing_key.serialize_pem()
    }

    /// The key that signs service-account tokens.
    pub(crate) fn signing_key(&self) -> &KeyPair {
        &self.signing_key
    }

    /// A new client certificate for a user in these groups.
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<Credential, PkiError> {
        issue(&self.issuer, &self.clock, &Leaf { name: user, groups, hosts: &[] })
    }

    /// A new serving certificate, such as a node agent's.
    pub fn issue_serving(
        &self,
        name: &str,
        groups: &[&str],
        hosts: &[String],
    ) -> Result<Credential, PkiError> {
        issue(&self.issuer, &self.clock, &Leaf { name, groups, hosts })
    }

    /// A kubeconfig for a user, with the certificate inside. With a directory the certificate is kept as
    /// `FILE.crt` and used again at the next start.
    pub fn kubeconfig(
        &self,
        file: &str,
        server: &str,
        user: &str,
        groups: &[&str],
    ) -> Result<String, PkiError> {
        let leaf = Leaf { name: user, groups, hosts: &[] };
        let credential = keep_leaf(self.dir.as_deref(), file, &self.issuer, &self.ca, &self.clock, &leaf)?;
        Ok(kubeconfig(server, self.ca_pem(), user, &credential))
    }

    /// Writes the administrator's kubeconfig beside the certificates' directory as `admin.kubeconfig`,
    /// readable by its owner only; none without a directory.
    pub fn write_admin_kubeconfig(&self, server: &str) -> Result<Option<PathBuf>, PkiError> {
        let Some(path) = self.admin_kubeconfig_path() else { return Ok(None) };
        let text = self.kubeconfig("admin", server, "kubernetes-admin", &["system:masters"])?;
        write_private(&path, &text)?;
        Ok(Some(path))
    }

    /// Where the administrator's kubeconfig is.
    pub fn admin_kubeconfig_path(&self) -> Option<PathBuf> {
        let dir = self.dir.as_ref()?;
        Some(dir.parent().unwrap_or(dir).join("admin.kubeconfig"))
    }

    /// Writes a kubeconfig to `path`, readable by its owner only.
    pub fn write_kubeconfig(
        &self,
        path: &Path,
        server: &str,
        user: &str,
        groups: &[&str],
    ) -> Result<(), PkiError> {
        let file = path.file_stem().and_then(|f| f.to_str()).unwrap_or(user).replace([':', '/'], "-");
        write_private(path, &self.kubeconfig(&file, server, user, groups)?)
    }
}

/// The names and addresses the serving certificate is good for, besides what the administrator adds.
pub(crate) fn serving_hosts(host: Option<IpAddr>, service: IpAddr, extra: &[String]) -> Vec<String> {
    let mut hosts: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
    ]
    .map(str::to_owned)
    .to_vec();
    hosts.push(service.to_string());
    hosts.extend(host.filter(|h| !h.is_unspecified()).map(|h| h.to_string()));
    hosts
        .extend(std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()));
    hosts.extend(extra.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    hosts.retain(|host| !host.is_empty() && seen.insert(host.clone()));
    hosts
}

/// The text of a kubeconfig with everything inside.
fn kubeconfig(server: &str, ca_pem: &str, user: &str, credential: &Credential) -> String {
    let (ca, certificate, key) = (
        BASE64.encode(ca_pem),
        BASE64.encode(&credential.certificate_pem),
        BASE64.encode(&credential.key_pem),
    );
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: coxswain\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user:?}\n  user:\n    client-certificate-data: {certificate}\n    \
         client-key-data: {key}\ncontexts:\n- name: coxswain\n  context:\n    cluster: coxswain\n    user: {user:?}\n\
         current-context: coxswain\n"
    )
}

fn make_ca(clock: &Clock) -> Result<Credential, PkiError> {
    let failed = |source| PkiError::Make { name: "coxswain-ca".to_owned(), source };
    let mut params = named("coxswain-ca", &[], clock.now(), CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Credential { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

fn issuer_of(ca: &Credential) -> Option<Issuer<'static, KeyPair>> {
    let key = KeyPair::from_pem(&ca.key_pem).ok()?;
    Issuer::from_ca_cert_pem(&ca.certificate_pem, key).ok()
}

fn issue(issuer: &Issuer<'static, KeyPair>, clock: &Clock, leaf: &Leaf<'_>) -> Result<Credential, PkiError> {
    let failed = |source| PkiError::Make { name: leaf.name.to_owned(), source };
    let mut params = named(leaf.name, leaf.groups, clock.now(), LEAF_DAYS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    // A node serves its logs and streams with the certificate by which it asks.
    if !leaf.hosts.is_empty() || leaf.groups.contains(&"system:nodes") {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.subject_alt_names = leaf.hosts.iter().filter_map(|host| san(host)).collect();
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    let certificate_pem = match leaf.groups.len() {
        0 | 1 => certificate.pem(),
        _ => with_groups(certificate.der(), leaf, issuer)?,
    };
    Ok(Credential { certificate_pem, key_pem: key.serialize_pem() })
}

/// The certificate signed again with every group in its subject: the builder keeps one value of a sort only.
fn with_groups(der: &[u8], leaf: &Leaf<'_>, issuer: &Issuer<'static, KeyPair>) -> Result<String, PkiError> {
    let failed = |source| PkiError::Make { name: leaf.name.to_owned(), source };
    let renamed = renamed(der, &der::name(leaf.groups, leaf.name));
    let (body, algorithm) = renamed.ok_or_else(|| failed(rcgen::Error::CouldNotParseCertificate))?;
    let signature = issuer.key().sign(&body).map_err(failed)?;
    Ok(pem_of(&der::sequence(&[body, algorithm, der::bit_string(&signature)])))
}

/// The signed part of a certificate with another subject, and the name of the signature's algorithm.
fn renamed(der: &[u8], name: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (body, rest) = der::split(der::content(der)?)?;
    let (algorithm, _) = der::split(rest)?;
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let (fields, subject) = (der::content(body)?, certificate.subject().as_raw());
    let at = fields.windows(subject.len()).position(|part| part == subject)?;
    let (before, after) = (&fields[..at], &fields[at + subject.len()..]);
    Some((der::element(0x30, &[before, name, after].concat()), algorithm.to_vec()))
}

fn pem_of(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// A name that cannot stand in a certificate is left out: the server is then not reached by it, but runs.
fn san(host: &str) -> Option<SanType> {
    match host.parse::<IpAddr>() {
        Ok(address) => Some(SanType::IpAddress(address)),
        Err(_) => Ia5String::try_from(host).ok().map(SanType::DnsName),
    }
}

fn named(name: &str, groups: &[&str], now: DateTime<Utc>, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    let date = |at: DateTime<Utc>| rcgen::date_time_ymd(at.year(), at.month() as u8, at.day() as u8);
    params.not_before = date(now - Duration::days(1));
    params.not_after = date(now + Duration::days(days));
    params
}

/// The pair stored as `NAME.crt` and `NAME.key` if it is still `good`, else a new one, stored.
fn keep(
    dir: Option<&Path>,
    name: &str,
    good: impl Fn(&Credential) -> bool,
    make: impl FnOnce() -> Result<Credential, PkiError>,
) -> Result<Credential, PkiError> {
    let Some(dir) = dir else { return make() };
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(certificate_pem), Some(key_pem)) = (read(&certificate)?, read(&key)?) {
        let stored = Credential { certificate_pem, key_pem };
        if good(&stored) {
            return Ok(stored);
        }
    }
    let made = make()?;
    write_private(&key, &made.key_pem)?;
    write_private(&certificate, &made.certificate_pem)?;
    Ok(made)
}

fn keep_leaf(
    dir: Option<&Path>,
    file: &str,
    issuer: &Issuer<'static, KeyPair>,
    ca: &Credential,
    clock: &Clock,
    leaf: &Leaf<'_>,
) -> Result<Credential, PkiError> {
    let good = |stored: &Credential| {
        expires_after(&stored.certificate_pem, clock.now())
            && is_signed_by(&stored.certificate_pem, &ca.certificate_pem)
            && fits(&stored.certificate_pem, leaf)
    };
    keep(dir, file, good, || issue(issuer, clock, leaf))
}

fn keep_signing_key(dir: Option<&Path>) -> Result<KeyPair, PkiError> {
    let make = || {
        KeyPair::generate().map_err(|source| PkiError::Make { name: "service accounts".to_owned(), source })
    };
    let Some(dir) = dir else { return make() };
    let path = dir.join("sa.key");
    if let Some(pem) = read(&path)? {
        return KeyPair::from_pem(&pem).map_err(|_| unusable(Some(dir), "sa"));
    }
    let key = make()?;
    write_private(&path, &key.serialize_pem())?;
    Ok(key)
}

fn parsed<T>(pem: &str, ask: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(ask(&certificate))
}

fn expires_after(pem: &str, now: DateTime<Utc>) -> bool {
    let limit = (now + Duration::days(RENEW_DAYS)).timestamp();
    parsed(pem, |certificate| certificate.validity().not_after.timestamp() > limit).unwrap_or(false)
}

fn is_signed_by(pem: &str, ca_pem: &str) -> bool {
    let key_id = |pem: &str| parsed(pem, |c| c.public_key().raw.to_vec());
    let Some(ca_key) = key_id(ca_pem) else { return false };
    parsed(pem, |certificate| {
        let issuer = x509_parser::x509::SubjectPublicKeyInfo::from_der(&ca_key).ok().map(|(_, key)| key);
        issuer.is_some_and(|_| certificate.issuer().iter_common_name().next().is_some())
    })
    .unwrap_or(false)
        && authority_matches(pem, ca_pem)
}

/// Whether the leaf names the authority's key: an authority that was replaced makes all leaves useless.
fn authority_matches(pem: &str, ca_pem: &str) -> bool {
    use x509_parser::extensions::ParsedExtension;
    let subject = parsed(ca_pem, |ca| {
        ca.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    });
    let authority = parsed(pem, |leaf| {
        leaf.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0.to_vec()),
            _ => None,
        })
    });
    matches!((subject.flatten(), authority.flatten()), (Some(a), Some(b)) if a == b)
}

fn fits(pem: &str, leaf: &Leaf<'_>) -> bool {
    parsed(pem, |certificate| {
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|n| n.as_str().ok());
        let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        let names = certificate.subject_alternative_name().ok().flatten();
        let names: Vec<String> =
            names.iter().flat_map(|n| &n.value.general_names).filter_map(host_of).collect();
        name == Some(leaf.name) && groups == leaf.groups && leaf.hosts.iter().all(|host| names.contains(host))
    })
    .unwrap_or(false)
}

fn host_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn unusable(dir: Option<&Path>, name: &str) -> PkiError {
    PkiError::Unusable { path: dir.map_or_else(|| name.to_owned(), |d| d.join(name).display().to_string()) }
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.display().to_string(), source }),
    }
}

fn make_private_dir(dir: &Path) -> Result<(), PkiError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| PkiError::Write { path: dir.display().to_string(), source })
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| PkiError::Write { path: path.display().to_string(), source };
    let partial = path.with_extension("partial");
    let options =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    let mut file = options.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&partial, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Vec<String> {
        vec!["localhost".to_owned(), "10.96.0.1".to_owned()]
    }

    #[tokio::test]
    async fn a_second_start_uses_the_certificates_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::ensure(Some(dir.path()), Clock::system(), &hosts()).unwrap();
        let again = Pki::ensure(Some(dir.path()), Clock::system(), &hosts()).unwrap();
        assert_eq!(first.ca_pem(), again.ca_pem());
        assert_eq!(first.serving().certificate_pem, again.serving().certificate_pem);
        assert_eq!(first.signing_key().public_key_pem(), again.signing_key().public_key_pem());
    }

    #[tokio::test]
    async fn a_new_name_or_a_near_end_renews_the_serving_certificate_but_not_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::ensure(Some(dir.path()), Clock::system(), &hosts()).unwrap();
        let mut more = hosts();
        more.push("cluster.example".to_owned());
        let renamed = Pki::ensure(Some(dir.path()), Clock::system(), &more).unwrap();
        assert_ne!(first.serving().certificate_pem, renamed.serving().certificate_pem);
        let later = Clock::starting_at(Clock::system().now() + Duration::days(LEAF_DAYS - 10));
        let renewed = Pki::ensure(Some(dir.path()), later, &more).unwrap();
        assert_ne!(renewed.serving().certificate_pem, renamed.serving().certificate_pem);
        assert_eq!(first.ca_pem(), renewed.ca_pem());
    }

    #[tokio::test]
    async fn private_files_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(Some(&dir.path().join("pki")), Clock::system(), &hosts()).unwrap();
        let path = pki.write_admin_kubeconfig("https://127.0.0.1:6443").unwrap().unwrap();
        assert_eq!(path, dir.path().join("admin.kubeconfig"));
        for path in [path, dir.path().join("pki/ca.key"), dir.path().join("pki/sa.key")] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn a_client_of_several_groups_has_them_all_and_openssl_trusts_it() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(Some(dir.path()), Clock::system(), &hosts()).unwrap();
        let path = dir.path().join("jane.crt");
        let made = pki.issue_client("jane", &["dev", "ops", "system:masters"]).unwrap().certificate_pem;
        std::fs::write(&path, &made).unwrap();
        let leaf = Leaf { name: "jane", groups: &["dev", "ops", "system:masters"], hosts: &[] };
        assert!(fits(&made, &leaf) && authority_matches(&made, pki.ca_pem()));
        let openssl = |args: &[&str]| {
            let run = std::process::Command::new("openssl").args(args).arg(&path).output().expect("openssl");
            String::from_utf8_lossy(&run.stdout).into_owned()
        };
        let authority = dir.path().join("ca.crt");
        let verified = openssl(&["verify", "-purpose", "sslclient", "-CAfile", authority.to_str().unwrap()]);
        assert!(verified.contains("jane.crt: OK"), "{verified}");
        let shown = openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in"]);
        assert_eq!(shown.trim(), "subject=CN=jane,O=system:masters,O=ops,O=dev");
    }
}

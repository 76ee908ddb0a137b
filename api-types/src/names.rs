//! What names, labels and paths may look like. Each check returns Kubernetes' own texts, none if all is well.

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD_TEXT: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME_TEXT: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const PORT_NAME_TEXT: &str = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";

/// A DNS label: namespaces, containers, hostnames.
pub fn check_dns_label(name: &str) -> Vec<String> {
    let is_dotted = name.contains('.') && name.split('.').all(is_dns_label);
    bounded(name, 63, is_dns_label(name), if is_dotted { "must not contain dots" } else { LABEL_TEXT })
}

/// A DNS subdomain: the names of most objects.
pub fn check_dns_subdomain(name: &str) -> Vec<String> {
    bounded(name, 253, name.split('.').all(is_dns_label), SUBDOMAIN_TEXT)
}

/// A DNS subdomain below a `*`.
pub fn check_wildcard_subdomain(name: &str) -> Vec<String> {
    let good = name.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_dns_label));
    bounded(name, 253, good, WILDCARD_TEXT)
}

/// A DNS subdomain, a slash and a path.
pub fn check_domain_path(text: &str) -> Vec<(&str, String)> {
    let Some((domain, path)) =
        text.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        return vec![(text, "must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned())];
    };
    let mut problems: Vec<_> = check_dns_subdomain(domain).into_iter().map(|why| (domain, why)).collect();
    if !path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c)) {
        let why = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
        problems.push((path, why.to_owned()));
    }
    problems
}

/// A DNS label that starts with a letter: Services.
pub fn check_dns_1035_label(name: &str) -> Vec<String> {
    let good = is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
    bounded(name, 63, good, LABEL_1035_TEXT)
}

/// What a path segment cannot be: RBAC names and other loose ones.
pub fn check_path_segment(name: &str) -> Vec<String> {
    match name {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        _ => ['/', '%']
            .iter()
            .filter(|c| name.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// A label or annotation key: an optional DNS subdomain, a slash, and a name of at most 63 characters.
pub fn check_label_key(key: &str) -> Vec<String> {
    let (prefix, name) = match key.split_once('/') {
        None => (None, key),
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!("a valid label key {}", qualified_hint())];
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    let mut problems = Vec::new();
    match prefix {
        Some("") => problems.push("prefix part must be non-empty".to_owned()),
        Some(p) => {
            problems.extend(check_dns_subdomain(p).iter().map(|t| format!("prefix part {t}")));
            in_bytes(&mut problems);
        }
        None => {}
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_qualified(name) {
        problems.push(QUALIFIED_TEXT.to_owned());
    }
    problems
}

fn qualified_hint() -> String {
    let rule = QUALIFIED_TEXT.trim_start_matches("name part ");
    format!("{rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")
}

pub fn check_label_value(value: &str) -> Vec<String> {
    let mut problems = bounded(value, 63, value.is_empty() || is_qualified(value), VALUE_TEXT);
    in_bytes(&mut problems);
    problems
}

/// A key of a ConfigMap or Secret.
pub fn check_config_key(key: &str) -> Vec<String> {
    let good = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let mut problems = bounded(key, 253, good, CONFIG_KEY_TEXT);
    if key == "." || key == ".." {
        problems.push(format!("must not be '{key}'"));
    } else if key.starts_with("..") {
        problems.push("must not start with '..'".to_owned());
    }
    problems
}

/// The name of an environment variable.
pub fn check_env_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let good = name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    if good { vec![] } else { vec![ENV_NAME_TEXT.to_owned()] }
}

/// An IANA service name, as ports have: at most 15 characters, one letter at least.
pub fn check_port_name(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > 15 {
        problems.push("must be no more than 15 characters".to_owned());
    }
    if !name.chars().all(allowed) {
        problems.push(PORT_NAME_TEXT.to_owned());
    }
    if !name.contains(|c: char| c.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// Labels are the ones whose lengths Kubernetes counts in bytes.
fn in_bytes(problems: &mut [String]) {
    for problem in problems.iter_mut().filter(|p| p.contains("must be no more than")) {
        *problem = problem.replace(" characters", " bytes");
    }
}

fn bounded(text: &str, bytes_max: usize, good: bool, rule: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > bytes_max {
        problems.push(format!("must be no more than {bytes_max} characters"));
    }
    if !good {
        problems.push(rule.to_owned());
    }
    problems
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_qualified(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The length that a name made from `generateName` has at most, its random suffix included.
const GENERATED_BYTES_MAX: usize = 63;

/// How many characters `generate` takes from its alphabet.
pub const SUFFIX_LENGTH: usize = 5;

/// The alphabet of generated suffixes: no vowels, so that no words come out, and nothing easily misread.
pub const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name from a `generateName` prefix and random numbers, which the caller draws.
pub fn generate(prefix: &str, random: [u32; SUFFIX_LENGTH]) -> String {
    let kept: String = prefix.chars().take(GENERATED_BYTES_MAX - SUFFIX_LENGTH).collect();
    let suffix = random.iter().map(|r| SUFFIX_ALPHABET[*r as usize % SUFFIX_ALPHABET.len()] as char);
    kept.chars().chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_are_lower_case_and_end_in_letters_or_digits() {
        for good in ["a", "a-b", "1a"] {
            assert!(check_dns_label(good).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", "a_b"] {
            assert_eq!(check_dns_label(bad), [LABEL_TEXT], "{bad}");
        }
        assert_eq!(check_dns_label("a.b"), ["must not contain dots"]);
        assert!(check_dns_subdomain("a.b-c.d").is_empty());
        assert_eq!(check_dns_subdomain("a..b"), [SUBDOMAIN_TEXT]);
        assert_eq!(check_dns_1035_label("1a"), [LABEL_1035_TEXT]);
        assert_eq!(check_dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
    }

    #[test]
    fn label_keys_may_have_a_domain() {
        for good in ["app", "app.kubernetes.io/name", "A_b.c"] {
            assert!(check_label_key(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "a b", "UPPER/x"] {
            assert!(!check_label_key(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn generated_names_fit_where_a_label_must() {
        let name = generate(&"x".repeat(80), [0, 1, 2, 3, 26]);
        assert_eq!(name, format!("{}bcdf9", "x".repeat(58)));
    }
}

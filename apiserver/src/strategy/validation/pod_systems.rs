//! Operating systems of pods: which there are, what does not go with which, and what only Windows knows.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::{Errors, indexed, invalid_all};

const NOT_ON_WINDOWS: &[&str] = &["hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"];

/// Of these the value that says no is as good as none.
const SWITCHES: &[&str] = &["hostPID", "hostIPC"];

const CONTEXT_NOT_ON_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

const CONTAINER_NOT_ON_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// What a pod's system does not have is not said of the pod.
pub(super) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    validate_name(spec, path, errors);
    validate_host_processes(spec, path, errors);
    let mut forbid = |context: &Value, path: &str, fields: &[&str], why: &str| {
        let is_given = |field: &&&str| {
            let value = &context[**field];
            let is_off = SWITCHES.contains(*field) && *value == false;
            !value.is_null() && !is_off && *value != serde_json::json!([])
        };
        for field in fields.iter().filter(is_given) {
            errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
        }
    };
    let (pod, container, why): (&[&str], &[&str], &str) = match spec["os"]["name"].as_str() {
        Some("windows") => {
            let why = "cannot be set for a windows pod";
            forbid(spec, path, NOT_ON_WINDOWS, why);
            (CONTEXT_NOT_ON_WINDOWS, CONTAINER_NOT_ON_WINDOWS, why)
        }
        Some("linux") => {
            (&["windowsOptions"], &["windowsOptions"], "windows options cannot be set for a linux pod")
        }
        _ => return,
    };
    forbid(&spec["securityContext"], &format!("{path}.securityContext"), pod, why);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (path, each) in indexed(spec, path, list) {
            forbid(&each["securityContext"], &format!("{path}.securityContext"), container, why);
        }
    }
}

fn validate_name(spec: &Value, path: &str, errors: &mut Errors) {
    match spec["os"]["name"].as_str().unwrap_or_default() {
        _ if !spec["os"].is_object() => {}
        "linux" | "windows" => {}
        "" => errors.push(FieldError::required(format!("{path}.os.name"), "cannot be empty")),
        other => errors.push(FieldError::not_supported(format!("{path}.os"), other, &["linux", "windows"])),
    }
}

/// All containers of a pod run as processes of the host, and in its network, or none.
fn validate_host_processes(spec: &Value, path: &str, errors: &mut Errors) {
    let of = |owner: &Value| owner["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = of(spec);
    let (mut count, mut host_processes) = (0, 0);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (path, container) in indexed(spec, path, list) {
            count += 1;
            let own = of(container);
            if let (Some(of_pod), Some(own)) = (of_pod, own)
                && of_pod != own
            {
                let at = format!("{path}.securityContext.windowsOptions.hostProcess");
                let why =
                    format!("pod hostProcess value must be identical if both are specified, was {of_pod}");
                errors.push(FieldError::invalid(at, own, why));
            }
            host_processes += usize::from(own.or(of_pod) == Some(true));
        }
    }
    if host_processes == 0 {
        return;
    }
    if host_processes != count {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", why));
    }
    if spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(format!("{path}.hostNetwork"), false, why));
    }
}

const CREDENTIALS_BYTES_MAX: usize = 64 * 1024;

/// What a security context says of accounts on Windows.
pub(super) fn validate_windows_options(context: &Value, path: &str, errors: &mut Errors) {
    let (options, path) = (&context["windowsOptions"], format!("{path}.windowsOptions"));
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        let at = format!("{path}.gmsaCredentialSpecName");
        invalid_all(names::check_dns_subdomain(name), &at, name, errors);
    }
    let at = format!("{path}.gmsaCredentialSpec");
    match options["gmsaCredentialSpec"].as_str() {
        Some("") => {
            errors.push(FieldError::invalid(at, "", "gmsaCredentialSpec cannot be an empty string"));
        }
        Some(spec) if spec.len() > CREDENTIALS_BYTES_MAX => {
            errors.push(FieldError::invalid(at, spec, "gmsaCredentialSpec size must be under 64 KiB"));
        }
        _ => {}
    }
    if let Some(account) = options["runAsUserName"].as_str() {
        for why in check_account(account) {
            errors.push(FieldError::invalid(format!("{path}.runAsUserName"), account, why));
        }
    }
}

const DOMAIN_BYTES_MAX: usize = 255;
const USER_BYTES_MAX: usize = 104;

/// A user, or a domain, a backslash and a user.
fn check_account(account: &str) -> Vec<&'static str> {
    let parts: Vec<&str> = account.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        _ if account.is_empty() => return vec!["runAsUserName cannot be an empty string"],
        _ if account.contains(|c: char| c.is_ascii_control()) => {
            return vec!["runAsUserName cannot contain control characters"];
        }
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let is_long = domain.is_some_and(|domain| domain.len() > DOMAIN_BYTES_MAX);
    let is_odd = domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns_name(domain));
    let wrong = [
        (is_long, "runAsUserName's Domain length must be under 256 characters"),
        (is_odd, "runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
        (user.is_empty(), "runAsUserName's User cannot be empty"),
        (user.len() > USER_BYTES_MAX, "runAsUserName's User length must not be longer than 104 characters"),
        (
            !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')),
            "runAsUserName's User cannot contain only periods or spaces",
        ),
        (
            user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)),
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        ),
    ];
    wrong.into_iter().filter_map(|(is_wrong, why)| is_wrong.then_some(why)).collect()
}

fn is_net_bios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count) && !domain.starts_with('.') && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

/// As the name of a domain, in capital letters too.
fn is_dns_name(domain: &str) -> bool {
    domain.split('.').all(|label| names::check_dns_label(&label.to_ascii_lowercase()).is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(&spec, "spec", &mut errors);
        errors.into_iter().map(|e| e.path.trim_start_matches("spec.").to_owned()).collect()
    }

    #[test]
    fn what_one_system_lacks_is_forbidden_there() {
        assert_eq!(
            pod(json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"runAsUser": 1}})),
            ["hostPID", "securityContext.runAsUser"]
        );
        assert_eq!(
            pod(
                json!({"os": {"name": "linux"}, "containers": [{"securityContext": {"windowsOptions": {}}}]})
            ),
            ["containers[0].securityContext.windowsOptions"]
        );
    }

    #[test]
    fn what_says_no_is_still_said() {
        let container = json!({"securityContext": {"privileged": false}});
        assert_eq!(
            pod(
                json!({"os": {"name": "windows"}, "hostPID": false, "hostUsers": false, "containers": [container]})
            ),
            ["hostUsers", "containers[0].securityContext.privileged"]
        );
        assert_eq!(pod(json!({"os": {"name": ""}})), ["os.name"]);
    }

    #[test]
    fn host_processes_are_all_of_a_pod_and_in_the_hosts_network() {
        let run = |is: bool| json!({"securityContext": {"windowsOptions": {"hostProcess": is}}});
        let spec =
            |network: bool, containers: Value| json!({"hostNetwork": network, "containers": containers});
        assert!(pod(spec(true, json!([run(true), run(true)]))).is_empty());
        assert_eq!(pod(spec(false, json!([run(true)]))), ["hostNetwork"]);
        assert_eq!(pod(spec(true, json!([run(true), run(false)]))), ["spec"]);
    }

    #[test]
    fn accounts_are_users_of_domains() {
        for (account, wrong) in [
            ("user", 0),
            ("DOMAIN\\user", 0),
            ("a.example\\user", 0),
            ("", 1),
            ("a\\b\\c", 1),
            ("a:b\\user", 1),
            ("a\\", 1),
            ("...", 1),
            ("a@b", 1),
            ("a\u{7}", 1),
        ] {
            assert_eq!(check_account(account).len(), wrong, "{account}");
        }
    }
}

//! Traffic of pods that leaves the machine gets the machine's address: one nftables table a node.
//!
//! `nft` does it, `iptables` where only that is installed. With neither, pods reach each other and the node
//! but not what lies beyond; that is said once and is no failure.
//!
//! What came in by the node's own bridge is marked, and only that is masqueraded: where a machine's rules see
//! bridged frames too (`br_netfilter`), the pods of a cluster in containers beside this one may have the same
//! addresses, and theirs must stay.

use std::io::Write;
use std::process::{Command, Stdio};

/// Links of all nodes begin so; what goes from one to another keeps its address.
pub(super) const LINK_PREFIX: &str = "cxs";

/// The bit that Kubernetes uses for the same purpose.
const MARK: &str = "0x4000";

/// Puts the rules in place. The message says why they are not.
pub(super) fn ensure(bridge: &str, pods: &str, cluster: Option<&str>) -> Result<(), String> {
    match nft(&ruleset(bridge, pods, cluster)) {
        Ok(()) => Ok(()),
        Err(nft) => ensure_iptables(bridge, pods)
            .map_err(|iptables| format!("pods cannot reach beyond this machine: {nft}; {iptables}")),
    }
}

pub(super) fn remove(bridge: &str, pods: &str) {
    // Either may not be there, or its program may not.
    if nft(&format!("delete table ip {}\n", table(bridge))).is_err() {
        for rule in iptables_rules(bridge, pods) {
            drop(iptables("-D", &rule));
        }
    }
}

fn table(bridge: &str) -> String {
    format!("coxswain-{bridge}")
}

fn ruleset(bridge: &str, pods: &str, cluster: Option<&str>) -> String {
    let table = table(bridge);
    let inside = cluster.map_or(String::new(), |cluster| format!("ip daddr != {cluster} "));
    format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain prerouting {{\n    \
         type filter hook prerouting priority mangle; policy accept;\n    \
         iifname \"{bridge}\" ip saddr {pods} meta mark set meta mark or {MARK}\n  }}\n  \
         chain postrouting {{\n    \
         type nat hook postrouting priority srcnat; policy accept;\n    \
         meta mark and {MARK} != 0 ip saddr {pods} {inside}oifname != \"{LINK_PREFIX}*\" masquerade\n  }}\n}}\n"
    )
}

fn nft(script: &str) -> Result<(), String> {
    run(Command::new("nft").args(["-f", "-"]), script)
}

fn ensure_iptables(bridge: &str, pods: &str) -> Result<(), String> {
    iptables_rules(bridge, pods)
        .iter()
        .try_for_each(|rule| iptables("-C", rule).or_else(|_| iptables("-A", rule)))
}

/// Table, chain and rule of what `nft` would have got.
fn iptables_rules(bridge: &str, pods: &str) -> [String; 2] {
    let mark = format!("{MARK}/{MARK}");
    [
        format!("mangle PREROUTING -i {bridge} -s {pods} -j MARK --set-xmark {mark}"),
        format!("nat POSTROUTING -s {pods} -m mark --mark {mark} ! -o {LINK_PREFIX}+ -j MASQUERADE"),
    ]
}

fn iptables(action: &str, rule: &str) -> Result<(), String> {
    let (table, rule) = rule.split_once(' ').unwrap_or((rule, ""));
    run(Command::new("iptables").args(["-t", table, action]).args(rule.split(' ')), "")
}

fn run(command: &mut Command, input: &str) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |error: std::io::Error| format!("{program}: {error}");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(fail)?;
    }
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.lines().next().unwrap_or("failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_between_nodes_of_one_machine_keeps_its_address() {
        let rules = ruleset("cxs1", "10.1.0.0/24", Some("10.0.0.0/8"));
        let rule = "ip saddr 10.1.0.0/24 ip daddr != 10.0.0.0/8 oifname != \"cxs*\" masquerade";
        assert!(rules.contains(rule), "{rules}");
    }

    #[test]
    fn only_what_came_by_the_nodes_bridge_gets_another_address() {
        let rules = ruleset("cxs1", "10.1.0.0/24", None);
        assert!(
            rules.contains("iifname \"cxs1\" ip saddr 10.1.0.0/24 meta mark set meta mark or 0x4000"),
            "{rules}"
        );
        assert!(rules.contains("meta mark and 0x4000 != 0 ip saddr 10.1.0.0/24 oifname"), "{rules}");
    }
}

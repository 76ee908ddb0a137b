//! Traffic of pods that leaves the machine gets the machine's address: one nftables table a node.
//!
//! `nft` does it, `iptables` where only that is installed. With neither, pods reach each other and the node
//! but not what lies beyond; that is said once and is no failure.

use std::io::Write;
use std::process::{Command, Stdio};

/// Links of all nodes begin so; what goes from one to another keeps its address.
pub(super) const LINK_PREFIX: &str = "cxs";

/// Puts the rules in place. The message says why they are not.
pub(super) fn ensure(bridge: &str, pods: &str, cluster: Option<&str>) -> Result<(), String> {
    match nft(&ruleset(bridge, pods, cluster)) {
        Ok(()) => Ok(()),
        Err(nft) => iptables("-C", pods)
            .or_else(|_| iptables("-A", pods))
            .map_err(|iptables| format!("pods cannot reach beyond this machine: {nft}; {iptables}")),
    }
}

pub(super) fn remove(bridge: &str, pods: &str) {
    // Either may not be there, or its program may not.
    if nft(&format!("delete table ip {}\n", table(bridge))).is_err() {
        drop(iptables("-D", pods));
    }
}

fn table(bridge: &str) -> String {
    format!("coxswain-{bridge}")
}

fn ruleset(bridge: &str, pods: &str, cluster: Option<&str>) -> String {
    let table = table(bridge);
    let inside = cluster.map_or(String::new(), |cluster| format!("ip daddr != {cluster} "));
    format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority srcnat; policy accept;\n    \
         ip saddr {pods} {inside}oifname != \"{LINK_PREFIX}*\" masquerade\n  }}\n}}\n"
    )
}

fn nft(script: &str) -> Result<(), String> {
    run(Command::new("nft").args(["-f", "-"]), script)
}

fn iptables(action: &str, pods: &str) -> Result<(), String> {
    let links = format!("{LINK_PREFIX}+");
    let rule = ["-t", "nat", action, "POSTROUTING", "-s", pods, "!", "-o", &links, "-j", "MASQUERADE"];
    run(Command::new("iptables").args(rule), "")
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
}

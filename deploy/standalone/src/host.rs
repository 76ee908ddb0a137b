//! What this machine allows: root, Linux, where a user's data live.

use std::path::PathBuf;

/// Why containers cannot be real here, or nothing when they can.
pub(crate) fn why_not_containers() -> Option<&'static str> {
    if !cfg!(target_os = "linux") {
        Some("this is not Linux")
    } else if !nix::unistd::geteuid().is_root() {
        Some("not running as root")
    } else {
        None
    }
}

/// `$XDG_DATA_HOME/coxswain`, or `~/.local/share/coxswain`.
pub(crate) fn default_data_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| home().join(".local/share"))
        .join("coxswain")
}

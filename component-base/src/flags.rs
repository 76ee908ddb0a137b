//! The command line flags that every daemon has, and the config file that may stand in for them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::client::ClientSource;
use crate::logs;

/// Flags of every daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct LogFlags {
    /// How much to log: error, warn, info, debug, trace, or a number as in Kubernetes. RUST_LOG wins.
    #[arg(short = 'v', long = "log-level", alias = "v", value_name = "LEVEL", default_value = "info")]
    pub level: logs::Level,
    /// How log lines are written.
    #[arg(long = "log-format", alias = "logging-format", value_enum, default_value = "text")]
    pub format: logs::Format,
}

impl LogFlags {
    /// Starts logging as the flags say.
    pub fn init(&self) {
        logs::init(&self.level, self.format);
    }
}

impl std::fmt::Display for logs::Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Flags of a daemon that is a client of the API server.
#[derive(Clone, Debug, clap::Args)]
pub struct DaemonFlags {
    /// The kubeconfig file that says where the API server is and who this daemon is.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Serve /livez, /readyz and /metrics here (plain HTTP; keep it on the loopback). Nothing is served without it.
    #[arg(long = "healthz-bind-address", value_name = "ADDRESS:PORT")]
    pub health: Option<SocketAddr>,
    /// A YAML file of flags: each key is a flag's name without the dashes. The command line wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogFlags,
}

impl DaemonFlags {
    /// The client source that the kubeconfig names.
    pub fn client(&self) -> ClientSource {
        ClientSource::Kubeconfig(self.kubeconfig.clone())
    }
}

/// Why a config file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read the config file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the config file {path} is not a YAML map of flags")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_yaml::Error,
    },
    #[error("the config file {path}: {key} must be a text, a number, a boolean or a list of these")]
    Value { path: PathBuf, key: String },
}

/// Puts what `--config FILE` says into the arguments, before those of the command line, so that the
/// parser sees one list and an unknown key is reported as an unknown flag.
pub fn with_config_file(args: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, ConfigFileError> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let Some(path) = config_path(&args) else { return Ok(args) };
    let text = std::fs::read_to_string(&path)
        .map_err(|source| ConfigFileError::Read { path: path.clone(), source })?;
    let from_file = flags_of(&text, &path)?;
    let given: Vec<String> = args.iter().filter_map(|arg| flag_name(arg.as_os_str())).collect();
    let missing = from_file.into_iter().filter(|(name, _)| !given.contains(name));
    args.extend(missing.map(|(name, value)| OsString::from(format!("--{name}={value}"))));
    Ok(args)
}

fn config_path(args: &[OsString]) -> Option<PathBuf> {
    let texts: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    texts.iter().enumerate().find_map(|(index, text)| match text.strip_prefix("--config") {
        Some("") => texts.get(index + 1).map(PathBuf::from),
        Some(rest) => rest.strip_prefix('=').map(PathBuf::from),
        None => None,
    })
}

fn flag_name(arg: &std::ffi::OsStr) -> Option<String> {
    let name = arg.to_str()?.strip_prefix("--")?;
    Some(name.split('=').next().unwrap_or(name).to_owned())
}

fn flags_of(text: &str, path: &std::path::Path) -> Result<Vec<(String, String)>, ConfigFileError> {
    let map: std::collections::BTreeMap<String, serde_json::Value> = serde_yaml::from_str(text)
        .map_err(|source| ConfigFileError::Parse { path: path.to_owned(), source })?;
    map.into_iter()
        .map(|(key, value)| match scalar(&value) {
            Some(text) => Ok((key, text)),
            None => Err(ConfigFileError::Value { path: path.to_owned(), key }),
        })
        .collect()
}

fn scalar(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(flag) => Some(flag.to_string()),
        serde_json::Value::Array(items) => {
            items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|all| all.join(","))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(args: &[OsString]) -> Vec<String> {
        args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    fn merged(file: &str, rest: &[&str]) -> Result<Vec<String>, ConfigFileError> {
        let path = std::env::temp_dir().join(format!("flags-{}.yaml", uuid::Uuid::new_v4()));
        std::fs::write(&path, file).unwrap();
        let mut args = vec![OsString::from("d"), OsString::from("--config"), path.clone().into()];
        args.extend(rest.iter().map(OsString::from));
        let merged = with_config_file(args).map(|all| strings(&all)[3..].to_vec());
        std::fs::remove_file(&path).unwrap();
        merged
    }

    #[test]
    fn config_file_adds_flags() {
        let args = merged("log-level: debug\ncontrollers: [a, b]\n", &[]).unwrap();
        assert_eq!(args, ["--controllers=a,b", "--log-level=debug"]);
    }

    #[test]
    fn command_line_wins_over_config_file() {
        let args = merged("log-level: debug\n", &["--log-level", "warn"]).unwrap();
        assert_eq!(args, ["--log-level", "warn"]);
    }

    #[test]
    fn nested_value_is_refused_with_its_key() {
        let error = merged("log-level: {a: b}\n", &[]).unwrap_err();
        assert!(error.to_string().contains("log-level"));
    }
}

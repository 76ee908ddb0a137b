//! Structured logs on standard error, as text or JSON.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// How much is logged: a level's name, or a number as Kubernetes' `-v` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level(String);

impl Default for Level {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

/// A text that is no level.
#[derive(Debug, thiserror::Error)]
#[error("not a log level: {0:?}; use error, warn, info, debug, trace or a number from 0 to 10")]
pub struct ParseLevelError(String);

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(number) = text.parse::<u8>() {
            let name = match number {
                0..=3 => "info",
                4..=5 => "debug",
                _ => "trace",
            };
            return Ok(Self(name.to_owned()));
        }
        match text {
            "error" | "warn" | "info" | "debug" | "trace" | "off" => Ok(Self(text.to_owned())),
            other => Err(ParseLevelError(other.to_owned())),
        }
    }
}

/// Starts logging for this process. The environment's `RUST_LOG` wins over `level`; a second call changes nothing.
pub fn init(level: &Level, format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| quiet_libraries(level));
    let base = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // An error only says that logging has been started already.
    drop(match format {
        Format::Text => base.with_target(false).try_init(),
        Format::Json => base.json().flatten_event(true).try_init(),
    });
}

fn quiet_libraries(level: &Level) -> EnvFilter {
    let quiet = "hyper=warn,h2=warn,rustls=warn,tower=warn,kube_client=off,kube_runtime=error,sled=warn";
    EnvFilter::new(format!("{},{quiet}", level.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_as_kubernetes_takes_it() {
        assert_eq!("4".parse::<Level>().unwrap(), Level("debug".to_owned()));
    }

    #[test]
    fn an_unknown_level_says_what_is_known() {
        assert!("loud".parse::<Level>().unwrap_err().to_string().contains("debug"));
    }
}

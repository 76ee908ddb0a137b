//! What can go wrong, and how it is said.

use std::path::PathBuf;

use component_base::client::ConnectError;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the cluster")]
    Connect(#[source] ConnectError),
    #[error("cannot find a kubeconfig")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    #[error("the kubeconfig does not describe a usable cluster")]
    Client(#[source] kube::Error),
    #[error("the server refused")]
    Request(#[source] Box<kube::Error>),
    #[error("cannot build the request")]
    BuildRequest(#[source] http::Error),
    #[error("cannot write the output")]
    Write(#[from] std::io::Error),
    #[error("cannot read {}", path.display())]
    ReadFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A manifest that is no YAML: the message has line and column.
    #[error("{file}: {message}")]
    Syntax { file: String, message: String },
    #[error("{0}")]
    Usage(String),
    #[error("the server doesn't have a resource type \"{0}\"{1}")]
    UnknownResource(String, String),
    #[error("timed out waiting for the condition on {0}")]
    TimedOut(String),
    #[error("the answer is not what was expected: {0}")]
    Answer(String),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Request(Box::new(error))
    }
}

impl Error {
    /// The server's Status, when that is what ended the command.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|status| status.code == 404)
    }

    /// One line as kubectl says it: the Status' reason and message, or the chain of causes.
    pub fn for_humans(&self) -> String {
        if let Some(status) = self.status() {
            return match status.reason.as_str() {
                "" => format!("Error from server: {}", status.message),
                "Invalid" => format!("The {}", status.message),
                reason => format!("Error from server ({reason}): {}", status.message),
            };
        }
        let mut line = format!("error: {self}");
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            source = cause.source();
        }
        line
    }
}

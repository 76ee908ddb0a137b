//! The address of this machine that the API server can reach, if none is given.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use kube::config::{Kubeconfig, KubeconfigError};

/// Why this machine's address is not known. `--node-ip` helps in all cases.
#[derive(Debug, thiserror::Error)]
pub enum FindAddressError {
    #[error("cannot read the kubeconfig {path}")]
    ReadKubeconfig {
        path: PathBuf,
        #[source]
        source: KubeconfigError,
    },
    #[error("the kubeconfig {path} names no API server")]
    NoServer { path: PathBuf },
    #[error("cannot find this machine's address towards {server}; give one with --node-ip")]
    FindRoute {
        server: String,
        #[source]
        source: std::io::Error,
    },
}

/// The address from which the kernel would talk to the API server of a kubeconfig. Sends nothing, but asks
/// the name service if the server is given by name.
pub(crate) fn towards_server(kubeconfig: &Path) -> Result<IpAddr, FindAddressError> {
    let path = || kubeconfig.to_owned();
    let read = Kubeconfig::read_from(kubeconfig)
        .map_err(|source| FindAddressError::ReadKubeconfig { path: path(), source })?;
    let context = read.contexts.iter().find(|it| Some(&it.name) == read.current_context.as_ref());
    let name = context.and_then(|it| it.context.as_ref()).map(|it| it.cluster.as_str());
    let cluster = read.clusters.iter().find(|it| Some(it.name.as_str()) == name);
    let server = cluster.and_then(|it| it.cluster.as_ref()?.server.clone());
    let server = server.ok_or_else(|| FindAddressError::NoServer { path: path() })?;
    let uri: http::Uri = server.parse().map_err(|_| FindAddressError::NoServer { path: path() })?;
    let host = uri.host().ok_or_else(|| FindAddressError::NoServer { path: path() })?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    source_towards(host, uri.port_u16().unwrap_or(443))
        .map_err(|source| FindAddressError::FindRoute { server: server.clone(), source })
}

fn source_towards(host: &str, port: u16) -> std::io::Result<IpAddr> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, format!("{host} has no address"));
    for server in (host, port).to_socket_addrs()? {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        match UdpSocket::bind(any).and_then(|socket| socket.connect(server).and(socket.local_addr())) {
            Ok(own) => return Ok(own.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_this_machine_is_reached_from_the_loopback() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let text = "{apiVersion: v1, kind: Config, current-context: c, \
            clusters: [{name: a, cluster: {server: 'https://127.0.0.1:6443'}}], \
            contexts: [{name: c, context: {cluster: a, user: u}}]}";
        std::fs::write(&path, text).unwrap();
        assert_eq!(towards_server(&path).unwrap(), IpAddr::from([127, 0, 0, 1]));
    }

    #[test]
    fn a_kubeconfig_without_a_server_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, "{apiVersion: v1, kind: Config}").unwrap();
        assert!(towards_server(&path).unwrap_err().to_string().contains("names no API server"));
    }
}

//! `version`: of this program and of the server.

use clap::{ArgMatches, Command};

use super::Verb;
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;

/// # Does
/// Says the versions of this program and of the server.
/// # Differs from kubectl
/// Two lines, no skew warning.
pub(super) struct Version;

#[async_trait::async_trait]
impl Verb for Version {
    const NAME: &'static str = "version";

    fn command(base: Command) -> Command {
        base.about("Show the versions of this program and of the server")
    }

    async fn run(cluster: &Cluster, _matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        writeln!(io.out, "Client Version: v{}", env!("CARGO_PKG_VERSION"))?;
        let version = cluster.get("/version", "application/json").await?;
        writeln!(io.out, "Server Version: {}", version["gitVersion"].as_str().unwrap_or("unknown"))?;
        Ok(0)
    }
}

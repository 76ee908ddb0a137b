//! `scale`: how many replicas.

use clap::{Arg, ArgMatches, Command};
use http::Method;
use serde_json::json;

use super::Verb;
use super::target;
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;

/// # Does
/// Sets the replicas of whatever has a `scale` subresource.
/// # Differs from kubectl
/// No `--current-replicas` or `--resource-version` preconditions.
pub(super) struct Scale;

#[async_trait::async_trait]
impl Verb for Scale {
    const NAME: &'static str = "scale";

    fn command(base: Command) -> Command {
        base.about("Set how many replicas there are")
            .arg(target::objects_arg())
            .arg(Arg::new("replicas").long("replicas").required(true).value_parser(clap::value_parser!(u32)))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let patch = json!({"spec": {"replicas": matches.get_one::<u32>("replicas")}});
        for target in target::targets(cluster, &resources, matches)? {
            if target.name.is_none() {
                return Err(Error::Usage("name what to scale: TYPE/NAME".to_owned()));
            }
            let path = format!("{}/scale", target.path());
            cluster.write(Method::PATCH, &path, "application/merge-patch+json", &patch).await?;
            writeln!(io.out, "{} scaled", target.named())?;
        }
        Ok(0)
    }
}

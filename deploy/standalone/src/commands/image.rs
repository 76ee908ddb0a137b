//! `coxswain image load FILE`: images for sites without a registry.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgMatches, Command};
use nodeagent::image::ImageStore;

use super::Subcommand;
use crate::host::default_data_dir;
use crate::terminal::say;

/// # Does
/// Copies an OCI or docker archive into the data directory's `images/` folder, from which every node's
/// runtime loads it, also one that runs already.
pub(super) struct Image;

#[async_trait::async_trait]
impl Subcommand for Image {
    const NAME: &'static str = "image";

    fn command(base: Command) -> Command {
        base.about("Images for sites without a registry").subcommand_required(true).subcommand(
            Command::new("load")
                .about("Put an OCI or docker archive where nodes find it")
                .arg(Arg::new("data-dir").long("data-dir").value_name("DIR").help("As given to `up`"))
                .arg(Arg::new("file").required(true).value_name("FILE")),
        )
    }

    async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
        let Some(("load", sub)) = matches.subcommand() else { bail!("say what: load FILE") };
        let file = PathBuf::from(sub.get_one::<String>("file").context("FILE is required")?);
        let data_dir = sub.get_one::<String>("data-dir").map_or_else(default_data_dir, PathBuf::from);
        let folder = data_dir.join("images");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let names = names_in(&file, &data_dir)?;
        let target = folder.join(archive_name(&file).context("FILE has no name")?);
        // Under another name first, so that a node never reads half an archive.
        let partial = target.with_extension("partial");
        std::fs::copy(&file, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
        std::fs::rename(&partial, &target).with_context(|| format!("cannot write {}", target.display()))?;
        for name in names {
            say(format_args!("Loaded image: {name}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads the whole archive as a node would, so that a broken one is refused here and not at the first pod.
fn names_in(file: &Path, data_dir: &Path) -> anyhow::Result<Vec<String>> {
    let scratch = tempfile::tempdir_in(data_dir).context("cannot make a scratch folder")?;
    let store = ImageStore::open(scratch.path(), scratch.path(), false)?;
    let names = store.load(file).with_context(|| format!("{} cannot be loaded", file.display()))?;
    if names.is_empty() {
        bail!("{} holds no image with a name", file.display());
    }
    Ok(names)
}

/// The archive's name in the folder; nodes look only at names that end as archives do.
fn archive_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let known = [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| name.ends_with(end));
    Some(if known { name.to_owned() } else { format!("{name}.tar") })
}

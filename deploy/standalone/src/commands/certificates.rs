//! `coxswain certificates`: what daemons on several machines need to trust each other.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use component_base::clock::Clock;

use super::Subcommand;
use crate::terminal::say;

/// # Does
/// Makes the cluster's certificate authority and certificates in a directory, or reads those that are there,
/// and writes a kubeconfig for the administrator, the controller manager, the scheduler and each node. The
/// API server is started with the same directory as `--cert-dir`.
pub(super) struct Certificates;

#[async_trait::async_trait]
impl Subcommand for Certificates {
    const NAME: &'static str = "certificates";

    fn command(base: Command) -> Command {
        let value = |name: &'static str, placeholder: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(placeholder).help(help)
        };
        base.about("Make certificates and kubeconfigs for daemons on several machines")
            .arg(value("dir", "DIR", "Where they are kept").required(true))
            .arg(value("server", "URL", "Where daemons reach the API server").required(true))
            .arg(value("admin-server", "URL", "Where the administrator reaches it, if elsewhere"))
            .arg(
                value("name", "NAME", "A name or address of the API server's certificate")
                    .action(ArgAction::Append),
            )
            .arg(value("node", "NAME", "A node to make a kubeconfig for").action(ArgAction::Append))
            .arg(
                value("user", "NAME=GROUP,…", "A further user to make a kubeconfig for, in these groups")
                    .action(ArgAction::Append),
            )
    }

    async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
        let text = |name: &str| matches.get_one::<String>(name);
        let dir = PathBuf::from(text("dir").context("--dir is required")?);
        let server = text("server").context("--server is required")?;
        let hosts: Vec<String> = matches.get_many::<String>("name").into_iter().flatten().cloned().collect();
        let pki = apiserver::Pki::open(&dir, Clock::system(), &hosts)
            .with_context(|| format!("cannot make certificates in {}", dir.display()))?;
        let nodes: Vec<&String> = matches.get_many("node").into_iter().flatten().collect();
        let admin_server = text("admin-server").unwrap_or(server);
        let components = [
            User::new("admin", admin_server, "kubernetes-admin", "system:masters"),
            User::new("controller-manager", server, "system:kube-controller-manager", ""),
            User::new("scheduler", server, "system:kube-scheduler", ""),
        ];
        let nodes =
            nodes.iter().map(|name| User::new(name, server, &format!("system:node:{name}"), "system:nodes"));
        let others = matches.get_many::<String>("user").into_iter().flatten().map(|user| {
            let (name, groups) = user.split_once('=').unwrap_or((user, ""));
            User::new(name, admin_server, name, groups)
        });
        for user in components.into_iter().chain(nodes).chain(others) {
            let path = dir.join(format!("{}.kubeconfig", user.file));
            let groups: Vec<&str> = user.groups.iter().map(String::as_str).collect();
            pki.write_kubeconfig(&path, &user.server, &user.name, &groups)
                .with_context(|| format!("cannot write {}", path.display()))?;
            say(format_args!("{}", path.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Who gets a kubeconfig.
struct User {
    file: String,
    server: String,
    name: String,
    groups: Vec<String>,
}

impl User {
    fn new(file: &str, server: &str, name: &str, groups: &str) -> Self {
        let groups = groups.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect();
        // A name may have letters that a file's name may not.
        let file = file.replace(['/', ':'], "-");
        Self { file, server: server.to_owned(), name: name.to_owned(), groups }
    }
}

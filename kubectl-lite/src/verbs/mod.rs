//! The verbs: a file and a row each.

mod api_resources;
mod apply;
mod create;
mod delete;
mod describe;
mod exec;
mod get;
mod history;
mod logs;
mod rollout;
mod run;
mod scale;
mod target;
mod undo;
mod version;
mod wait;
mod why;

use clap::{ArgMatches, Command};
use futures::future::BoxFuture;

use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;

/// One verb of the command line.
#[async_trait::async_trait]
trait Verb {
    /// The word on the command line.
    const NAME: &'static str;

    /// Its flags and help; [`def`] gives it its name.
    fn command(base: Command) -> Command;

    /// Does it. Answers the exit code; an error is printed by the caller and ends with 1.
    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error>;
}

type Run = for<'a> fn(&'a Cluster, &'a ArgMatches, &'a mut Io) -> BoxFuture<'a, Result<u8, Error>>;

/// A verb with its type erased.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) command: fn() -> Command,
    pub(crate) run: Run,
}

const fn def<V: Verb>() -> Row {
    Row { name: V::NAME, command: || V::command(Command::new(V::NAME)), run: |c, m, io| V::run(c, m, io) }
}

/// All verbs, in the order in which help shows them.
pub(crate) static VERBS: &[Row] = &[
    def::<get::Get>(),
    def::<describe::Describe>(),
    def::<apply::Apply>(),
    def::<create::Create>(),
    def::<run::Run>(),
    def::<delete::Delete>(),
    def::<scale::Scale>(),
    def::<rollout::Rollout>(),
    def::<why::Why>(),
    def::<history::History>(),
    def::<undo::Undo>(),
    def::<logs::Logs>(),
    def::<exec::Exec>(),
    def::<wait::Wait>(),
    def::<api_resources::ApiResources>(),
    def::<version::Version>(),
];

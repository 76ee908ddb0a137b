//! `/statusz` and `/flagz`: what a component is and how it was started, for people who look after it.

use std::ffi::OsString;

use chrono::{DateTime, Utc};
use clap::{ArgMatches, Command, Parser};

use crate::clock::Clock;
use crate::health::Health;

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";
/// The version of Kubernetes whose behaviour the components have.
const EMULATED: &str = "1.36";

/// What a component tells of itself.
#[derive(Clone, Debug)]
pub struct Zpages {
    component: &'static str,
    clock: Clock,
    started: DateTime<Utc>,
    flags: Vec<(String, String)>,
}

impl Zpages {
    /// Of a component that starts now.
    pub fn new(component: &'static str, clock: Clock, flags: Vec<(String, String)>) -> Self {
        Self { component, clock, started: clock.now(), flags }
    }

    /// The text of `/statusz`; `paths` are what else is served.
    pub fn statusz(&self, paths: &[&str]) -> String {
        let up = self.clock.now().signed_duration_since(self.started).num_seconds().max(0);
        let started = self.started.format("%a %b %e %H:%M:%S UTC %Y");
        format!(
            "\n{} statusz\n{WARNING}\n\nStarted: {started}\nUp: {} hr {:02} min {:02} sec\nBinary version: {}\n\
             Emulation version: {EMULATED}\n\nPaths: {}\n",
            self.component,
            up / 3600,
            up / 60 % 60,
            up % 60,
            env!("CARGO_PKG_VERSION"),
            paths.join(" "),
        )
    }

    /// The text of `/flagz`.
    pub fn flagz(&self) -> String {
        let mut flags: Vec<_> = self.flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        flags.sort();
        format!("\n{} flags\n{WARNING}\n\n{}", self.component, flags.concat())
    }

    /// Serves both pages beside the others of `health`.
    pub fn serve(self, health: &Health) {
        let flags = self.clone();
        health.text_page("/flagz", move |_| flags.flagz());
        let paths = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz"];
        health.text_page("/statusz", move |_| self.statusz(&paths));
    }
}

/// The parsed command line, and each flag with its value, also where that is a default.
pub fn parse<P: Parser>(args: Vec<OsString>) -> (P, Vec<(String, String)>) {
    let mut command = P::command();
    let matches = command.clone().get_matches_from(args);
    let flags = flags_of(&command, &matches);
    let parsed = P::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    (parsed, flags)
}

fn flags_of(command: &Command, matches: &ArgMatches) -> Vec<(String, String)> {
    let value = |id: &str| {
        let raw = matches.try_get_raw(id).ok().flatten()?;
        Some(raw.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(","))
    };
    let named = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_id().as_str())));
    named
        .filter(|(name, _)| !matches!(*name, "help" | "version"))
        .map(|(name, id)| (name.to_owned(), value(id).unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[arg(long, default_value = "a,b", value_delimiter = ',')]
        modes: Vec<String>,
        #[arg(long)]
        quiet: bool,
        #[arg(long)]
        file: Option<String>,
    }

    #[test]
    fn every_flag_is_shown_with_what_it_comes_to() {
        let args = ["program", "--file", "x"].map(OsString::from).to_vec();
        let (program, flags): (Program, _) = parse(args);
        assert_eq!((program.modes.len(), program.quiet, program.file.as_deref()), (2, false, Some("x")));
        let shown = Zpages::new("kube-scheduler", Clock::system(), flags).flagz();
        assert!(shown.starts_with("\nkube-scheduler flags\nWarning: "), "{shown}");
        assert!(shown.ends_with("\n\nfile=x\nmodes=a,b\nquiet=false\n"), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_status_says_since_when() {
        let clock = Clock::starting_at(DateTime::UNIX_EPOCH);
        let zpages = Zpages::new("kube-scheduler", clock, Vec::new());
        tokio::time::advance(Duration::from_secs(3 * 3600 + 62)).await;
        let shown = zpages.statusz(&["/livez"]);
        assert!(
            shown.contains("\nStarted: Thu Jan  1 00:00:00 UTC 1970\nUp: 3 hr 01 min 02 sec\n"),
            "{shown}"
        );
        assert!(shown.ends_with("\nPaths: /livez\n"), "{shown}");
    }
}

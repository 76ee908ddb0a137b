//! More processes in a running container, and its main process's streams.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::stream::{Input, Output, converse};
use super::{OciRuntime, process, record};
use crate::runtime::{ContainerState, ExecOutput, ExecRequest, Result, RuntimeError, Streams};
use crate::shim::{ATTACH_SOCKET, ContainerPlan, ExecPlan, PLAN_FILE, write_json_atomically};

impl OciRuntime {
    pub(super) async fn run_exec(&self, id: &str, request: &ExecRequest, streams: Streams) -> Result<i32> {
        let Streams { stdin, stdout, stderr, resize } = streams;
        let has_stdin = stdin.is_some();
        let output = Output::Streams { stdout, stderr };
        self.talk(id, &request.command, request.tty, has_stdin, Input { stdin, resize }, output).await
    }

    pub(super) async fn collect_exec(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput> {
        let mut collected = ExecOutput::default();
        let output = Output::Collect(&mut collected);
        let talk = self.talk(id, command, false, false, Input::default(), output);
        // Dropping the conversation closes the helper's pipes, and it kills the process.
        let code = tokio::time::timeout(limit, talk).await.map_err(|_| RuntimeError::TimedOut {
            doing: format!("command {:?}", command.join(" ")),
            limit,
        })??;
        collected.exit_code = code;
        Ok(collected)
    }

    async fn talk(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        stdin: bool,
        input: Input,
        output: Output<'_>,
    ) -> Result<i32> {
        let plan = self.exec_plan(id, command, tty, stdin)?;
        let folder = self.container_folder(id);
        let shim = process::spawn(&self.program, "exec", plan.as_os_str(), &folder)?;
        let code = converse(shim.stdout, shim.stdin, input, output).await?;
        code.ok_or_else(|| RuntimeError::Failed {
            doing: "exec".into(),
            message: "its helper ended without an exit code".into(),
        })
    }

    /// Writes what the helper needs: the container's own process with another command.
    fn exec_plan(&self, id: &str, command: &[String], tty: bool, stdin: bool) -> Result<PathBuf> {
        self.must_run(id)?;
        let folder = self.container_folder(id);
        let config: Option<serde_json::Value> = record::read(&folder.join("config.json"));
        let Some(mut description) =
            config.and_then(|mut config| config.get_mut("process").map(|it| it.take()))
        else {
            return Err(RuntimeError::Failed {
                doing: "exec".into(),
                message: "the container's configuration cannot be read".into(),
            });
        };
        if command.is_empty() {
            return Err(RuntimeError::InvalidConfig { field: "command", reason: "it is empty".into() });
        }
        description["args"] = serde_json::json!(command);
        description["terminal"] = serde_json::json!(tty);
        let names_terminal = |it: &serde_json::Value| it.as_str().is_some_and(|it| it.starts_with("TERM="));
        let variables = description["env"].as_array_mut().filter(|_| tty);
        if let Some(variables) = variables.filter(|variables| !variables.iter().any(names_terminal)) {
            variables.push("TERM=xterm".into());
        }
        let name = super::new_id();
        let process = folder.join(format!("exec-{name}.process"));
        let path = folder.join(format!("exec-{name}.plan"));
        let plan = ExecPlan {
            id: id.to_owned(),
            state_root: self.root.join("states"),
            process: process.clone(),
            tty,
            stdin,
        };
        write_json_atomically(&process, &description)
            .and_then(|()| write_json_atomically(&path, &plan))
            .map_err(RuntimeError::io("writing the plan of an exec"))?;
        Ok(path)
    }

    pub(super) async fn join_streams(self: &Arc<Self>, id: &str, streams: Streams) -> Result<()> {
        self.must_run(id)?;
        let doing = format!("attaching to container {id}");
        let folder = self.container_folder(id);
        let plan: Option<ContainerPlan> = record::read(&folder.join(PLAN_FILE));
        let opened = std::fs::File::open(&folder).map_err(RuntimeError::io(&doing))?;
        // The name of a socket has at most 108 bytes; an open folder makes it short.
        let short = format!("/proc/self/fd/{}/{ATTACH_SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&opened));
        let socket = tokio::net::UnixStream::connect(short).await.map_err(RuntimeError::io(&doing))?;
        let (read, write) = socket.into_split();
        let Streams { stdin, stdout, stderr, resize } = streams;
        let stdin = stdin.filter(|_| plan.is_some_and(|plan| plan.stdin));
        let output = Output::Streams { stdout, stderr };
        converse(read, write, Input { stdin, resize }, output).await.map(drop)
    }

    fn must_run(&self, id: &str) -> Result<()> {
        match self.entry(id, super::record::Entry::state)? {
            ContainerState::Running => Ok(()),
            state => {
                let state = format!("{state:?}").to_lowercase();
                Err(RuntimeError::WrongState { what: "container", id: id.to_owned(), state })
            }
        }
    }
}

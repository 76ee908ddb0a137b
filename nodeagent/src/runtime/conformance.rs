//! The suite that every runtime passes: what the agent above relies on.
//!
//! It returns the first broken promise as an error instead of panicking, so that a runtime which needs root
//! or a daemon can be driven from a test binary of its own. It removes what it made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::simulated::ANNOTATION_PREFIX;
use super::{
    Container, ContainerConfig, ContainerFilter, ContainerState, ExecRequest, NetworkMode, Runtime,
    RuntimeError, SandboxConfig, SandboxFilter, SandboxState, Streams, labels,
};

/// How long anything in the suite may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What the suite needs to know of the place it runs in.
pub struct Suite {
    /// An image with `/bin/sh`, `sleep`, `cat`, `echo`, `true` and `false`.
    pub image: String,
    /// A reference that no registry has.
    pub missing_image: String,
    pub log_dir: PathBuf,
    /// Commands are annotations, and logs are in memory.
    pub simulated: bool,
    /// The end of stdin reaches a command; containerd 1's streams cannot say it.
    pub stdin_ends: bool,
    /// What sandboxes are made with: a runtime that leaves networks to CNI may have none here.
    pub network: NetworkMode,
}

impl Suite {
    /// Runs all of it, one after the other, each in a sandbox of its own.
    pub async fn run(&self, runtime: &dyn Runtime) -> Result<()> {
        self.unknown_things_are_not_found(runtime).await.context("unknown things are not found")?;
        self.missing_image_carries_the_answer(runtime).await.context("missing image carries the answer")?;
        let image = match runtime.image_status(&self.image).await? {
            Some(image) => image,
            None => runtime.pull_image(&self.image, None).await.context("pull")?,
        };
        ensure!(runtime.image_status(&self.image).await?.is_some(), "a pulled image is present");
        ensure!(runtime.list_images().await?.iter().any(|it| it.id == image.id), "a pulled image is listed");
        self.sandbox_lives_and_goes(runtime).await.context("a sandbox lives and goes")?;
        self.exit_code_is_kept(runtime).await.context("an exit code is kept")?;
        self.stop_ends_a_running_container(runtime).await.context("stop ends a running container")?;
        self.exec_answers(runtime).await.context("exec answers")?;
        self.stopping_twice_succeeds(runtime).await.context("stopping twice succeeds")
    }

    async fn unknown_things_are_not_found(&self, runtime: &dyn Runtime) -> Result<()> {
        ensure!(matches!(runtime.container_status("nope").await, Err(error) if error.is_not_found()));
        ensure!(matches!(runtime.sandbox_status("nope").await, Err(error) if error.is_not_found()));
        runtime.remove_container("nope").await?;
        runtime.remove_sandbox("nope").await?;
        Ok(())
    }

    async fn missing_image_carries_the_answer(&self, runtime: &dyn Runtime) -> Result<()> {
        match runtime.pull_image(&self.missing_image, None).await {
            Err(RuntimeError::PullImage { answer, .. }) => ensure!(!answer.is_empty(), "the answer is empty"),
            other => bail!("expected a failed pull, got {other:?}"),
        }
        ensure!(runtime.image_status(&self.missing_image).await?.is_none());
        Ok(())
    }

    async fn sandbox_lives_and_goes(&self, runtime: &dyn Runtime) -> Result<()> {
        let config = self.sandbox("lives", &[]);
        let id = runtime.run_sandbox(&config).await?;
        let filter = SandboxFilter { pod_uid: Some(config.uid.clone()), ..Default::default() };
        let listed = runtime.list_sandboxes(&filter).await?;
        ensure!(listed.len() == 1 && listed[0].id == id, "listed by pod uid: {listed:?}");
        ensure!(listed[0].labels == config.labels, "labels are kept");
        ensure!(listed[0].state == SandboxState::Ready, "it is ready");
        runtime.stop_sandbox(&id).await?;
        ensure!(runtime.sandbox_status(&id).await?.state == SandboxState::NotReady, "stopped is not ready");
        runtime.remove_sandbox(&id).await?;
        ensure!(runtime.list_sandboxes(&filter).await?.is_empty(), "removed is gone");
        Ok(())
    }

    async fn exit_code_is_kept(&self, runtime: &dyn Runtime) -> Result<()> {
        let config = self.sandbox("exits", &[("log", "hello"), ("exit-code", "3")]);
        let sandbox = runtime.run_sandbox(&config).await?;
        let id = self.start(runtime, &sandbox, &config, "echo hello; exit 3").await?;
        let ended = wait(runtime, &id, ContainerState::Exited).await?;
        ensure!(ended.exit_code == Some(3), "exit code {:?}", ended.exit_code);
        ensure!(ended.started_at.is_some() && ended.finished_at.is_some(), "times are kept");
        ensure!(ended.reason == "Error", "reason {:?}", ended.reason);
        let log = self.log(runtime, &ended)?;
        ensure!(log.contains("hello"), "log has the output: {log:?}");
        runtime.remove_sandbox(&sandbox).await?;
        let filter = ContainerFilter { sandbox: Some(sandbox), ..Default::default() };
        ensure!(runtime.list_containers(&filter).await?.is_empty(), "containers go with their sandbox");
        Ok(())
    }

    async fn stop_ends_a_running_container(&self, runtime: &dyn Runtime) -> Result<()> {
        let config = self.sandbox("stops", &[]);
        let sandbox = runtime.run_sandbox(&config).await?;
        let id = self.start(runtime, &sandbox, &config, "trap 'exit 0' TERM; sleep 1000 & wait").await?;
        wait(runtime, &id, ContainerState::Running).await?;
        runtime.stop_container(&id, Duration::from_secs(5)).await?;
        let ended = runtime.container_status(&id).await?;
        ensure!(ended.state == ContainerState::Exited, "stop returns after the exit: {:?}", ended.state);
        runtime.remove_container(&id).await?;
        ensure!(runtime.container_status(&id).await.is_err(), "removed is gone");
        runtime.remove_sandbox(&sandbox).await?;
        Ok(())
    }

    async fn exec_answers(&self, runtime: &dyn Runtime) -> Result<()> {
        let config = self.sandbox("exec", &[]);
        let sandbox = runtime.run_sandbox(&config).await?;
        let id = self.start(runtime, &sandbox, &config, "sleep 1000").await?;
        wait(runtime, &id, ContainerState::Running).await?;
        let output = runtime.exec_sync(&id, &words(&["echo", "a", "b"]), LIMIT).await?;
        ensure!(output.stdout == b"a b\n" && output.exit_code == 0, "exec_sync gives {output:?}");
        let failed = runtime.exec_sync(&id, &words(&["sh", "-c", "exit 7"]), LIMIT).await?;
        ensure!(failed.exit_code == 7, "exec_sync passes the exit code on: {}", failed.exit_code);
        self.exec_copies_stdin(runtime, &id).await?;
        runtime.remove_sandbox(&sandbox).await?;
        Ok(())
    }

    async fn exec_copies_stdin(&self, runtime: &dyn Runtime, id: &str) -> Result<()> {
        let (mut typed, stdin) = tokio::io::duplex(1024);
        let (stdout, mut shown) = tokio::io::duplex(1024);
        let streams =
            Streams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), ..Streams::default() };
        let until_line = ["sh", "-c", "read line; echo $line"];
        let command = if self.stdin_ends { words(&["cat"]) } else { words(&until_line) };
        let request = ExecRequest { command, tty: false };
        let talk = async {
            typed.write_all(b"through\n").await?;
            typed.shutdown().await?;
            drop(typed);
            let mut text = String::new();
            shown.read_to_string(&mut text).await?;
            anyhow::Ok(text)
        };
        let both = async { tokio::join!(runtime.exec(id, &request, streams), talk) };
        let (code, text) = tokio::time::timeout(LIMIT, both).await.context("exec of cat does not end")?;
        ensure!(code? == 0, "cat succeeds");
        let text = text?;
        ensure!(text == "through\n", "cat gives stdin back: {text:?}");
        Ok(())
    }

    async fn stopping_twice_succeeds(&self, runtime: &dyn Runtime) -> Result<()> {
        let config = self.sandbox("twice", &[]);
        let sandbox = runtime.run_sandbox(&config).await?;
        let id = self.start(runtime, &sandbox, &config, "sleep 1000").await?;
        runtime.stop_container(&id, Duration::ZERO).await?;
        runtime.stop_container(&id, Duration::ZERO).await?;
        let ended = runtime.container_status(&id).await?;
        ensure!(ended.exit_code.is_some_and(|code| code != 0), "killed is not success: {ended:?}");
        runtime.stop_sandbox(&sandbox).await?;
        runtime.stop_sandbox(&sandbox).await?;
        runtime.remove_sandbox(&sandbox).await?;
        runtime.remove_sandbox(&sandbox).await?;
        Ok(())
    }

    fn sandbox(&self, name: &str, behaviour: &[(&str, &str)]) -> SandboxConfig {
        let uid = format!("conformance-{name}");
        let pairs =
            [(labels::POD_NAME, name), (labels::POD_NAMESPACE, "conformance"), (labels::POD_UID, &uid)];
        SandboxConfig {
            namespace: "conformance".to_owned(),
            name: name.to_owned(),
            uid: uid.clone(),
            hostname: if self.network == NetworkMode::Host { String::new() } else { name.to_owned() },
            network: self.network.clone(),
            labels: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            annotations: behaviour
                .iter()
                .map(|(key, value)| (format!("{ANNOTATION_PREFIX}{key}"), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            log_dir: self.log_dir.join(&uid),
            cgroup_parent: format!("/kubepods/pod{uid}"),
            ..SandboxConfig::default()
        }
    }

    async fn start(
        &self,
        runtime: &dyn Runtime,
        sandbox: &str,
        of: &SandboxConfig,
        script: &str,
    ) -> Result<String> {
        let mut labels = of.labels.clone();
        labels.insert(labels::CONTAINER_NAME.to_owned(), "app".to_owned());
        let config = ContainerConfig {
            name: "app".to_owned(),
            image: self.image.clone(),
            command: words(&["/bin/sh", "-c", script]),
            log_path: PathBuf::from("app/0.log"),
            labels,
            ..ContainerConfig::default()
        };
        let id = runtime.create_container(sandbox, &config).await.context("create")?;
        ensure!(
            runtime.container_status(&id).await?.state == ContainerState::Created,
            "created, not started"
        );
        runtime.start_container(&id).await.context("start")?;
        Ok(id)
    }

    fn log(&self, runtime: &dyn Runtime, container: &Container) -> Result<String> {
        if let Some(log) = runtime.memory_log(&container.id) {
            let lines = log.lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned());
            return Ok(lines.collect::<Vec<_>>().join("\n"));
        }
        let path = container.log_path.as_ref().context("a container has a log path")?;
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Looks again and again until the container is in `state`.
async fn wait(runtime: &dyn Runtime, id: &str, state: ContainerState) -> Result<Container> {
    let poll = async {
        loop {
            let found = runtime.container_status(id).await?;
            if found.state == state {
                return anyhow::Ok(found);
            }
            ensure!(found.state != ContainerState::Exited, "it has exited: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, poll).await.with_context(|| format!("{id} is not {state:?} in time"))?
}

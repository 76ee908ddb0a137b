//! The task that asks one container's probes for as long as it runs, and keeps the verdicts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use component_base::events::EventType;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{ProbeKind, Streak, Verdict, ask};
use crate::agent::Agent;
use crate::pod::observed::Probed;

/// Verdicts by container id, shared between a pod's worker and its probers.
pub(crate) type Verdicts = Arc<Mutex<BTreeMap<String, Probed>>>;

/// One run of one container that has probes.
pub(crate) struct Prober {
    pub(crate) agent: Arc<Agent>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) spec: Container,
    pub(crate) container_id: String,
    pub(crate) sandbox_id: String,
    pub(crate) verdicts: Verdicts,
    /// Wakes the pod's worker.
    pub(crate) wake: Arc<Notify>,
}

pub(crate) fn has_probes(spec: &Container) -> bool {
    spec.startup_probe.is_some() || spec.liveness_probe.is_some() || spec.readiness_probe.is_some()
}

impl Prober {
    /// Asks until it is dropped or the container must be killed.
    pub(crate) async fn run(self) {
        if let Some(probe) = &self.spec.startup_probe {
            self.repeat(ProbeKind::Startup, probe).await;
        }
        self.set(|probed| probed.started = true);
        let liveness = async {
            if let Some(probe) = &self.spec.liveness_probe {
                self.repeat(ProbeKind::Liveness, probe).await;
            }
        };
        let readiness = async {
            if let Some(probe) = &self.spec.readiness_probe {
                self.repeat(ProbeKind::Readiness, probe).await;
            }
        };
        tokio::join!(liveness, readiness);
    }

    fn set(&self, change: impl FnOnce(&mut Probed)) {
        let changed = {
            let mut all = self.verdicts.lock();
            let probed = all.entry(self.container_id.clone()).or_default();
            let before = probed.clone();
            change(probed);
            *probed != before
        };
        if changed {
            self.wake.notify_one();
        }
    }

    async fn repeat(&self, kind: ProbeKind, probe: &Probe) {
        let seconds = |it: Option<i32>, default: u64| {
            Duration::from_secs(it.and_then(|it| u64::try_from(it).ok()).unwrap_or(default))
        };
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let mut streak = Streak::of(probe);
        loop {
            let answer = self.ask(probe).await;
            if let Err(text) = &answer {
                let message = format!("{} probe failed: {text}", kind.name());
                self.agent.event(&self.pod, Some(&self.spec.name), EventType::Warning, "Unhealthy", &message);
            }
            if self.judge(kind, streak.add(answer.is_ok())) {
                return;
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        let runtime = self.agent.runtime.as_ref();
        let found = runtime.sandbox_status(&self.sandbox_id).await.map_err(|error| error.to_string())?;
        let ip = found.ips.first().copied().or_else(|| self.agent.host_ip());
        let target = ask::Target { runtime, container_id: &self.container_id, spec: &self.spec, ip };
        ask::probe(&target, probe).await
    }

    /// Notes the verdict; true if there is nothing more to ask.
    fn judge(&self, kind: ProbeKind, verdict: Verdict) -> bool {
        match (kind, verdict) {
            (_, Verdict::Unchanged) | (ProbeKind::Liveness, Verdict::Passed) => false,
            (ProbeKind::Startup, Verdict::Passed) => true,
            (ProbeKind::Readiness, verdict) => {
                self.set(|probed| probed.ready = verdict == Verdict::Passed);
                false
            }
            (ProbeKind::Startup | ProbeKind::Liveness, Verdict::Failed) => {
                let name = kind.name().to_lowercase();
                let why = format!("Container {} failed {name} probe, will be restarted", self.spec.name);
                self.set(|probed| probed.failed = Some(why));
                true
            }
        }
    }
}

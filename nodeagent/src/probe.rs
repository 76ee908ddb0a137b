//! Probes of running containers: the verdict is a pure state machine, asking is a task per probe.

pub(crate) mod ask;
pub(crate) mod prober;

use k8s_openapi::api::core::v1::Probe;

/// Which probe of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Thresholds passed in a row, in one direction or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Streak {
    success_threshold: u32,
    failure_threshold: u32,
    successes: u32,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not enough answers in a row: it stays as it was.
    Unchanged,
    Passed,
    Failed,
}

impl Streak {
    pub(crate) fn of(probe: &Probe) -> Self {
        let number =
            |it: Option<i32>, default| it.and_then(|it| u32::try_from(it).ok()).unwrap_or(default).max(1);
        Self {
            success_threshold: number(probe.success_threshold, 1),
            failure_threshold: number(probe.failure_threshold, 3),
            successes: 0,
            failures: 0,
        }
    }

    /// Counts one answer.
    pub(crate) fn add(&mut self, success: bool) -> Verdict {
        if success {
            (self.successes, self.failures) = (self.successes + 1, 0);
        } else {
            (self.successes, self.failures) = (0, self.failures + 1);
        }
        match (self.successes >= self.success_threshold, self.failures >= self.failure_threshold) {
            (true, _) => Verdict::Passed,
            (_, true) => Verdict::Failed,
            _ => Verdict::Unchanged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(probe: Probe, answers: &[bool]) -> Vec<Verdict> {
        let mut streak = Streak::of(&probe);
        answers.iter().map(|answer| streak.add(*answer)).collect()
    }

    #[test]
    fn three_failures_in_a_row_fail_by_default() {
        use Verdict::{Failed, Passed, Unchanged};
        let seen = verdicts(Probe::default(), &[false, false, true, false, false, false]);
        assert_eq!(seen, [Unchanged, Unchanged, Passed, Unchanged, Unchanged, Failed]);
    }

    #[test]
    fn success_threshold_counts_in_a_row() {
        use Verdict::{Passed, Unchanged};
        let probe = Probe { success_threshold: Some(2), ..Probe::default() };
        assert_eq!(verdicts(probe, &[true, false, true, true]), [Unchanged, Unchanged, Unchanged, Passed]);
    }
}

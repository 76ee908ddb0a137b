//! What a rule finds. It counts what held, because of several alternatives that all fail the one that fits
//! best is reported.

use crate::status::FieldError;

#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) errors: Vec<FieldError>,
    held: usize,
}

impl Verdict {
    pub(super) fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn fail(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    pub(super) fn failed(mut self, error: FieldError) -> Self {
        self.fail(error);
        self
    }

    pub(super) fn passed(mut self) -> Self {
        self.held += 1;
        self
    }

    pub(super) fn merge(&mut self, other: Verdict) {
        self.errors.extend(other.errors);
        self.held += other.held;
    }

    /// The one with more that held; the first of equals.
    pub(super) fn better(best: Option<Verdict>, other: Verdict) -> Option<Verdict> {
        match best {
            Some(best) if best.held >= other.held => Some(best),
            _ => Some(other),
        }
    }
}

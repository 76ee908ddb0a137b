//! The source of chance: a parameter like the clock, so that a whole cluster can run again from one seed.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use uuid::Uuid;

/// Where numbers come from. Clones draw from the same sequence.
#[derive(Clone, Debug, Default)]
pub struct Random(Option<Arc<Mutex<StdRng>>>);

impl Random {
    /// The system's randomness.
    pub fn system() -> Self {
        Self(None)
    }

    /// Always the same sequence for the same seed, for simulations and tests.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        self.with(|random| random.next_u64())
    }

    /// Any small number, for one letter of a generated name.
    pub fn letter(&self) -> u32 {
        self.with(|random| random.next_u32())
    }

    /// Any number from 0 up to but not 1.
    pub fn fraction(&self) -> f64 {
        self.with(|random| random.random())
    }

    /// A random (version 4) UUID.
    pub fn uuid(&self) -> Uuid {
        let (high, low) = (u128::from(self.number()), u128::from(self.number()));
        uuid::Builder::from_random_bytes(((high << 64) | low).to_be_bytes()).into_uuid()
    }

    fn with<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.0 {
            Some(seeded) => draw(&mut *seeded.lock()),
            None => draw(&mut rand::rng()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let random = Random::seeded(seed);
            (random.number(), random.uuid(), random.clone().number())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn the_system_does_not_repeat_itself() {
        assert_ne!(Random::system().uuid(), Random::system().uuid());
        assert_eq!(Random::system().uuid().get_version_num(), 4);
    }
}

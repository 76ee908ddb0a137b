//! What black-box tests share: the built programs, running them, the real kubectl, waiting with a limit.

mod kubectl;
mod processes;

pub use kubectl::{Kubectl, Said};
pub use processes::{Daemon, binary, needs};

use std::time::Duration;

/// Tries `attempt` until it answers, for at most `limit`; then fails with what the last attempt said.
///
/// # Panics
/// When the limit has run out.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let clock = component_base::clock::Clock::system();
    let started = clock.now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(state) => {
                let waited = clock.now().signed_duration_since(started).to_std().unwrap_or_default();
                assert!(waited < limit, "{what}: not after {limit:?}; last seen:\n{state}");
                // Between two looks at the outside world, which cannot be watched from here.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

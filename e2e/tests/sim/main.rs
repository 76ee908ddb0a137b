//! A whole cluster in one thread, from one seed, under a paused clock, with faults; and what must hold all the while.
//!
//! `docs/simulation.md` says how to run it, how to replay a seed, and how to add to it.

mod chance;
mod faults;
mod invariants;
mod kubelet;
mod leadership;
mod machine;
mod model;
mod observer;
mod server;
mod trace;
mod workload;
mod world;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Runtime;

use machine::Machine;
use trace::Trace;
use world::Plan;

// A third of a run's time is memory that is asked for and given back.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds of an ordinary test run; CI asks for more.
const SEEDS: u64 = 6;
/// The last lines of a failed run that are shown; a replay shows all.
const LINES_SHOWN: usize = 60;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A runtime of its own under a clock that stands still until nobody has anything to do.
fn paused() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime")
}

fn machine() -> Machine {
    paused().block_on(Machine::set_up())
}

/// Runs one seed.
fn run(seed: u64, plan: Option<Plan>, machine: &Machine) -> Trace {
    // The back-off of watches draws from here.
    fastrand::seed(seed);
    paused().block_on(world::run(seed, plan, machine))
}

fn failure(seed: u64, trace: &Trace) -> String {
    let lines = trace.lines();
    let shown = lines.len().saturating_sub(LINES_SHOWN);
    format!(
        "seed {seed} failed:\n  {}\nthe end of what happened:\n{}\nreplay with all that happened:\n  \
         SIM_SEED={seed} cargo test --profile sim -p e2e --test sim seeds -- --nocapture\n",
        trace.problems().join("\n  "),
        lines[shown..].join("\n"),
    )
}

#[test]
fn a_cluster_without_faults_does_what_it_is_asked() {
    let trace = run(1, Some(Plan::without_faults()), &machine());
    assert!(!trace.has_failed(), "{}", failure(1, &trace));
}

#[test]
fn one_seed_replays_exactly() {
    let machine = machine();
    let (first, second) = (run(6, None, &machine), run(6, None, &machine));
    let differs = first.lines().into_iter().zip(second.lines()).find(|(a, b)| a != b);
    assert_eq!(differs, None, "the first line that differs");
    assert_eq!(first.hash(), second.hash());
}

#[test]
fn seeds_hold_the_invariants() {
    if let Some(seed) = number("SIM_SEED") {
        if std::env::var_os("SIM_LOG").is_some() {
            component_base::logs::init(
                &component_base::logs::Level::default(),
                component_base::logs::Format::Text,
            );
        }
        let trace = run(seed, None, &machine());
        println!("{}\nhash {:016x}", trace.lines().join("\n"), trace.hash());
        assert!(!trace.has_failed(), "{}", failure(seed, &trace));
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let end = first + number("SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failures) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let machine = machine();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let trace = run(seed, None, &machine);
                    if trace.has_failed() {
                        println!("{}", failure(seed, &trace));
                        failures.lock().push(seed);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    assert!(failures.is_empty(), "of the seeds {first} to {} these failed: {failures:?}", end - 1);
}

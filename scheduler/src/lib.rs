//! The scheduler: decides on which node each pod runs.
mod cycle;
mod diagnosis;
mod event;
mod framework;
mod node;
mod plugins;
mod pod;
mod profile;
mod queue;
mod resources;
mod selector;
mod snapshot;
mod terms;
#[cfg(test)]
mod testing;

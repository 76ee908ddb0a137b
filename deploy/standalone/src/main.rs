//! The binary `coxswain`: a whole cluster in one process.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A container's shim is this same program, started again; it must be single-threaded, so it comes first.
    nodeagent::shim::main_if_asked();
    coxswain::commands::main()
}

//! The binary `nodeagent`.

use std::process::ExitCode;

use component_base::clock::Clock;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A container's shim is this same program, started again; it must be single-threaded, so it comes first.
    nodeagent::shim::main_if_asked();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodeagent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let args = component_base::flags::with_config_file(std::env::args_os())?;
    let (flags, told): (nodeagent::Flags, _) = component_base::zpages::parse(args);
    flags.init_logs();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let shutdown = component_base::signals::shutdown_on_signals()?;
        component_base::footprint::trim_after_start(&shutdown);
        let config = nodeagent::Config { flags: told, ..flags.config(Clock::system())? };
        nodeagent::run(config, shutdown).await
    })
}

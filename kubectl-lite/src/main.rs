//! The binary: arguments, standard streams, exit code.

use std::process::ExitCode;

use kubectl_lite::{Io, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run(std::env::args_os(), Io::standard()).await
}

//! Only the shim: what tests of the embedded runtime start, because their own binary has threads by then.

fn main() {
    nodeagent::shim::main_if_asked();
    eprintln!("this program is run by the embedded runtime as `shim container|exec|pause PLAN`");
    std::process::exit(2);
}

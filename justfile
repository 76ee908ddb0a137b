# What is typed most.

# A cluster of three nodes on this machine, with the tour on it.
up:
    cargo run --release -- up --nodes 3 --apply deploy/examples/tour

# Everything that CI checks.
ci:
    bash .ci/run

test *ARGS:
    cargo test --workspace {{ARGS}}

lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Update the expected texts inside tests.
bless:
    UPDATE_EXPECT=1 cargo test --workspace

bench KUBECONFIG:
    cargo run --release -p e2e --bin bench -- --kubeconfig {{KUBECONFIG}}

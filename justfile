# Every command of a developer. `just` lists them.

_default:
    @just --list --unsorted

# Show the way to production, and back, in under a minute
demo *args:
    cargo run --release -- demo {{ args }}

# Format, lints and licences: what a change must pass before it is looked at
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check bans licenses sources

# The tests of the crates, without those that start the whole of it
test *args:
    cargo test --workspace --exclude segue-integration-tests {{ args }}

# Everything: checks, and every test of the workspace with what it needs
integration:
    integration-tests/run

# Write the JSON Schemas anew
schemas:
    cargo run --package segue-schemas --example schemas
    cargo run --package segue-pipelines --example pipeline-schemas

# The figures that are promised, measured on a release build (`--json` for programs; parts by name)
bench *args:
    cargo build --release
    SEGUE_BIN="${CARGO_TARGET_DIR:-target}/release/segue" cargo run --release --package segue-integration-tests --bin bench -- {{ args }}

# Random faults under load for so many seconds, the same ones each time for the same seed, on `sqlite` or on a `cluster`
soak seconds="1800" seed="1" on="sqlite":
    cargo build --release
    SEGUE_BIN="${CARGO_TARGET_DIR:-target}/release/segue" SEGUE_SOAK_SECONDS={{ seconds }} SEGUE_SOAK_SEED={{ seed }} \
        cargo test --package segue-integration-tests --test stories random_faults_break_no_promise::{{ on }} -- --exact --nocapture

# Format everything
fmt:
    cargo fmt --all

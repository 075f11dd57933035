//! Loom models of every structure that two cores share. They live in `tests/` and exist under
//! `--cfg loom` only:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p loom-tests --profile loom
//! ```
//!
//! Each model has two threads and capacity 2, which is where every edge (empty, full, wrap) lies.

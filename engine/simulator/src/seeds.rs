//! Tests that run with many seeds: `SIMULATOR_SEEDS=n` runs so many, `SIMULATOR_SEED=n` that one, with its trace.

use std::panic::{RefUnwindSafe, catch_unwind, resume_unwind};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// The trace to begin with: none, unless there is one seed.
pub fn trace() -> Option<Vec<String>> {
    number("SIMULATOR_SEED").map(|_| Vec::new())
}

/// Runs a test with so many seeds; the one that fails is named.
pub fn each_seed(count: u64, test: impl Fn(u64) + RefUnwindSafe) {
    let count = number("SIMULATOR_SEEDS").unwrap_or(count);
    for seed in number("SIMULATOR_SEED").map_or(0..count, |seed| seed..seed + 1) {
        if let Err(why) = catch_unwind(|| test(seed)) {
            eprintln!("SIMULATOR_SEED={seed} repeats it");
            resume_unwind(why);
        }
    }
}

//! Plants one error after the other in a copy of the tree, and shows that the simulator finds each.
//!
//! ```text
//! engine/simulator/mutants/*.toml ─▶ target/mutants/tree (a copy, one error in it) ─▶ cargo build ─▶ seeds until one breaks a promise
//! ```
//!
//! A mutation is a text that stands exactly once in its file, and what stands there instead. When it no longer does, this
//! fails before anything is built, and so does this tool's own test: the list cannot rot. A mutation that no seed finds shows
//! a hole in the simulator, or that nothing depends on what it changes.

mod list;
mod tree;

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Parser;

use crate::{list::Mutant, tree::Copy};

/// Where the lists are.
const LISTS: &str = "engine/simulator/mutants";
/// Bytes of memory that a mutant may ask for, in KiB: one that never stops is not to take the machine along.
const MEMORY_KIB: u64 = 4 << 20;

/// Shows that the simulator finds planted errors.
#[derive(Parser)]
struct Arguments {
    /// Only those with this in their name or file.
    #[arg(long, default_value = "")]
    only: String,
    /// Seeds that a mutant is given at most.
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
}

/// What became of a mutant.
enum Found {
    /// A promise was broken, or it panicked or hung.
    At { seed: u64, kind: String },
    /// All seeds passed.
    Nowhere,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let root = std::env::current_dir()?;
    let mutants = list::read(&root, Path::new(LISTS))?;
    let chosen: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.is_called(&arguments.only)).collect();
    if chosen.is_empty() {
        bail!("none of {} mutations has `{}` in its name or file", mutants.len(), arguments.only);
    }
    let copy = Copy::of(&root, Path::new("target/mutants"))?;
    let began = Instant::now();
    // What fails without a mutation, too, shows nothing.
    build(&copy)?;
    let (planted, clean) = (copy.target().join("debug/hunt"), copy.target().join("debug/clean"));
    std::fs::copy(&planted, &clean)?;
    let end = arguments.seeds;
    let mut not_found = Vec::new();
    for (number, mutant) in chosen.iter().enumerate() {
        let text = std::fs::read_to_string(root.join(&mutant.file))?;
        copy.write(&mutant.file, &mutant.planted(&text))?;
        let built = build(&copy);
        let hunted = built.and_then(|()| {
            let began = Instant::now();
            Ok((first_found(&planted, &clean, end)?, began.elapsed()))
        });
        copy.write(&mutant.file, &text)?;
        let (found, took) =
            hunted.with_context(|| format!("the mutation `{}` shows nothing", mutant.name))?;
        let (number, name, seconds) = (number + 1, &mutant.name, took.as_secs_f64());
        match found {
            Found::At { seed, kind } => {
                println!("{number:3}  {name}: found at seed {seed} after {seconds:.1} s as \"{kind}\"");
            }
            Found::Nowhere => {
                println!("{number:3}  {name}: NOT FOUND in {} seeds, {seconds:.1} s", end);
                not_found.push(name);
            }
        }
    }
    let minutes = Duration::as_secs_f64(&began.elapsed()) / 60.0;
    println!("{} of {} found, {minutes:.1} min", chosen.len() - not_found.len(), chosen.len());
    Ok(if not_found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the copy's simulator; after the first time only what changed.
fn build(copy: &Copy) -> anyhow::Result<()> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["build", "--quiet", "--package", "mutants", "--bin", "hunt", "--target-dir"])
        .arg(copy.target())
        .current_dir(copy.path())
        // Warnings are the mutation's: something is not used any more.
        .env("RUSTFLAGS", std::env::var("RUSTFLAGS").unwrap_or_default())
        .output()
        .context("cargo cannot be run")?;
    if !output.status.success() {
        bail!("it does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The first seed that breaks a promise with the mutation, and none without.
fn first_found(planted: &Path, clean: &Path, end: u64) -> anyhow::Result<Found> {
    let mut first = 0;
    while let Found::At { seed, kind } = hunt(planted, first, end)? {
        if matches!(hunt(clean, seed, seed + 1)?, Found::Nowhere) {
            return Ok(Found::At { seed, kind });
        }
        first = seed + 1;
    }
    Ok(Found::Nowhere)
}

/// Runs these seeds until one breaks a promise.
fn hunt(binary: &Path, first: u64, end: u64) -> anyhow::Result<Found> {
    let limited = format!("ulimit -v {MEMORY_KIB}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &limited])
        .arg(binary)
        .args([first.to_string(), end.to_string()])
        .output()
        .with_context(|| format!("{} cannot be run", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim_end().split_once(' ') {
        Some(("all", "pass")) => Ok(Found::Nowhere),
        Some((seed, kind)) => {
            let seed = seed.parse().with_context(|| format!("`{text}` is no result"))?;
            Ok(Found::At { seed, kind: kind.to_owned() })
        }
        // It has said nothing: memory that was overwritten, or used up.
        None => Ok(Found::At { seed: first, kind: format!("the process ends: {}", output.status) }),
    }
}

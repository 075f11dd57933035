//! `bench-sinks`: what durability costs, and our publishers beside the bare clients.
//!
//! Sides take turns within one run; only the ratios count, absolute numbers drift by a fifth from hour to hour.

mod publishers;
mod queues;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// The bare clients get the allocator that Tidegate has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What durability costs, and our publishers beside the bare clients; interleaved.
#[derive(Debug, Parser)]
#[command(name = "bench-sinks", version)]
struct Cli {
    /// Tidegate's program.
    #[arg(long, value_name = "PATH", default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// Rounds of each side.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Length of a round of load.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// Only this part: queues, nats or kafka.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let rounds = cli.rounds.max(1);
    let wanted = |part: &str| cli.only.as_deref().is_none_or(|only| only == part);
    if wanted("queues") {
        queues::run(&cli.tidegate, rounds, cli.seconds)?;
    }
    if wanted("nats") || wanted("kafka") {
        ledger::process::install_services()?;
    }
    let folder = std::env::temp_dir().join(format!("bench-sinks-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    if wanted("nats") {
        publishers::nats(&folder, rounds)?;
    }
    if wanted("kafka") {
        publishers::kafka(&folder, rounds)?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The one in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

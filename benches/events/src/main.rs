//! `bench-events`: what analytics cost. Sides take turns within one run; only the ratios count, absolute numbers drift
//! by a fifth from hour to hour.

mod cost;
mod day;
mod queries;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

/// What analytics cost: CPU per event with and without them, queries while events come in, memory of a million users.
#[derive(Debug, Parser)]
#[command(name = "bench-events", version)]
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
    /// Only this part: cost, queries or users.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if !cli.tidegate.is_file() {
        bail!("{} is not there; `cargo build --release -p tidegate` makes it", cli.tidegate.display());
    }
    let rounds = cli.rounds.max(1);
    let wanted = |part: &str| cli.only.as_deref().is_none_or(|only| only == part);
    if wanted("cost") {
        cost::run(&cli.tidegate, rounds, cli.seconds)?;
    }
    if wanted("queries") {
        queries::run(&cli.tidegate, rounds, cli.seconds)?;
    }
    if wanted("users") {
        cost::users(&cli.tidegate)?;
    }
    Ok(())
}

/// The one in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

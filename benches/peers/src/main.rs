//! `bench-peers`: what a request costs Tidegate, beside axum and tonic doing the same work, in one interleaved run.
//!
//! Server on the first CPU, load client on the second; the measure is CPU time of the server process per message.
//! Only the ratios inside one run count: absolute numbers drift by a fifth from hour to hour.

mod contest;
mod peer;
mod report;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// The peers get the allocator that Tidegate has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Server CPU per request: Tidegate beside axum and tonic, interleaved.
#[derive(Debug, Parser)]
#[command(name = "bench-peers", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Tidegate's program.
    #[arg(long, value_name = "PATH", default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// Rounds of every peer in every scenario.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Length of a round.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// Only scenarios whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where the figures go for machines.
    #[arg(long, value_name = "FILE", default_value = "target/bench-peers.json")]
    json: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one of the peers (the bench starts itself so).
    Serve {
        /// Which.
        peer: Peer,
        /// Port on the loopback interface.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
}

/// A server beside which Tidegate is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Peer {
    /// axum 0.8: HTTP/1.1 and h2c.
    Axum,
    /// tonic 0.14: gRPC with 16 MiB windows.
    Tonic,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Serve { peer: Peer::Axum, port }) => peer::serve_axum(port)?,
        Some(Command::Serve { peer: Peer::Tonic, port }) => peer::serve_tonic(port)?,
        None => {
            let plan = contest::Plan { rounds: cli.rounds.max(1), seconds: cli.seconds, only: cli.only };
            let contest = contest::run(&cli.tidegate, &plan)?;
            report::print(&contest);
            report::write_json(&contest, &cli.json)?;
            return Ok(if contest.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

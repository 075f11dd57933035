//! Tidegate with one core's engine, once with its queue in memory and once with the durable log: the same load on both
//! in turns. Once the log's thread may use the CPU that the client does not keep busy, once all of it has one CPU.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use load::{Message, Pace, Protocol, Scenario, Until, process, server::Server};

use crate::median;

/// Runs both sides and prints what they did.
pub fn run(tidegate: &Path, rounds: usize, seconds: f64) -> Result<()> {
    if !tidegate.is_file() {
        bail!("{} is not there; `cargo build --release -p tidegate` makes it", tidegate.display());
    }
    let allowed = process::allowed_cpus()?;
    let (&server_cpu, &client_cpu) = allowed.first().zip(allowed.last()).context("no CPU at all")?;
    println!(
        "one core's engine, its queue in memory and the durable log; messages/s, median of {rounds} rounds"
    );
    contest(tidegate, "the log's thread on any CPU", &allowed, client_cpu, rounds, seconds)?;
    contest(tidegate, "all of it on one CPU", &[server_cpu], client_cpu, rounds, seconds)?;
    process::pin(&allowed)?;
    Ok(())
}

fn contest(
    tidegate: &Path,
    name: &str,
    server_cpus: &[usize],
    client_cpu: usize,
    rounds: usize,
    seconds: f64,
) -> Result<()> {
    let data = std::env::temp_dir().join(format!("bench-sinks-log-{}", std::process::id()));
    let directory = format!("data.directory={}", data.display());
    // What this thread starts inherits the CPUs it may run on.
    process::pin(server_cpus)?;
    let common = ["--cores", "1", "--queue-size", "16000"];
    let queued = Server::start(tidegate, &common)?;
    let durable =
        Server::start(tidegate, &[&common[..], &["--set", "queue.type=log", "--set", &directory]].concat())?;
    process::pin(&[client_cpu])?;

    println!("  {name}");
    let scenario = |protocol, connections, in_flight| Scenario {
        protocol,
        connections,
        in_flight,
        frame_messages: 1,
        stream_messages: 65_536,
        message: Message::of_size(64),
    };
    for scenario in [scenario(Protocol::GrpcUnary, 16, 32), scenario(Protocol::H1, 64, 1)] {
        let part = if scenario.protocol == Protocol::GrpcUnary { "grpc" } else { "gateway" };
        let sides = [queued.address(part)?, durable.address(part)?];
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (address, rates) in sides.iter().zip(&mut rates) {
                let mut connected = scenario.connect(*address)?;
                connected.run(Pace::Closed, Until::elapsed(Duration::from_millis(200)))?;
                let length = Duration::from_secs_f64(seconds);
                let outcome = connected.run(Pace::Closed, Until::elapsed(length))?;
                if !outcome.is_clean() {
                    bail!("{scenario}: not all was accepted: {:?}", outcome.first_trouble);
                }
                rates.push(outcome.accepted as f64 / seconds);
            }
        }
        let [queued, durable] = rates.map(median);
        println!(
            "    {:<30} queued {queued:>10.0}   durable {durable:>10.0}   {:>5.1} %",
            scenario.to_string(),
            100.0 * durable / queued
        );
    }
    queued.stop()?;
    durable.stop()?;
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

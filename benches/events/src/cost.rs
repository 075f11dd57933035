//! `StreamEvents` with analytics and without, the same load on both in turns; and what a million users take.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use load::{Message, Pace, Protocol, Scenario, Until, process, server::Server};

use crate::median;

const COMMON: [&str; 4] = ["--cores", "1", "--queue-size", "16000"];

fn stream(connections: usize, frame_messages: usize) -> Scenario {
    Scenario {
        protocol: Protocol::EventStream,
        connections,
        // Enough to keep the core busy, and less than the queue holds.
        in_flight: 8192 / connections,
        frame_messages,
        stream_messages: u64::MAX,
        message: Message::of_size(0),
    }
}

/// Runs both sides and prints what an event costs each.
pub fn run(tidegate: &Path, rounds: usize, seconds: f64) -> Result<()> {
    let allowed = process::allowed_cpus()?;
    let (&server_cpu, &client_cpu) = allowed.first().zip(allowed.last()).context("no CPU at all")?;
    process::pin(&[server_cpu])?;
    let with = Server::start(tidegate, &COMMON)?;
    let without = Server::start(tidegate, &[&COMMON[..], &["--set", "analytics.enabled=false"]].concat())?;
    process::pin(&[client_cpu])?;
    println!(
        "StreamEvents, 10,000 users, server CPU µs an event on one core; median of {rounds} rounds of {seconds} s"
    );
    // As many events as are kept in columns: from then on the memory of the oldest ones is used again.
    for server in [&with, &without] {
        let mut connected = stream(16, 16).connect(server.address("grpc")?)?;
        connected.run(Pace::Closed, Until::sent(2_500_000))?;
    }
    for scenario in [stream(1, 16), stream(16, 1), stream(16, 16)] {
        let mut costs = [Vec::new(), Vec::new()];
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (place, server) in [&with, &without].into_iter().enumerate() {
                let mut connected = scenario.connect(server.address("grpc")?)?;
                connected.run(Pace::Closed, Until::elapsed(Duration::from_millis(300)))?;
                let before = server.cpu_time()?;
                let outcome =
                    connected.run(Pace::Closed, Until::elapsed(Duration::from_secs_f64(seconds)))?;
                let cpu = server.cpu_time()? - before;
                if !outcome.is_clean() {
                    bail!("{scenario}: not all was accepted: {:?}", outcome.first_trouble);
                }
                costs[place].push(cpu.as_secs_f64() * 1e6 / outcome.accepted as f64);
                rates[place].push(outcome.per_second());
            }
        }
        let ratios = costs[0].iter().zip(&costs[1]).map(|(with, without)| with / without).collect();
        let ([with, without], ratio, [fast, faster]) = (costs.map(median), median(ratios), rates.map(median));
        println!(
            "  {:<40} with {with:>6.3} ({fast:>9.0}/s)   without {without:>6.3} ({faster:>9.0}/s)   {ratio:>5.2}×",
            scenario.to_string()
        );
    }
    with.stop()?;
    without.stop()?;
    process::pin(&allowed)?;
    Ok(())
}

/// Resident memory before and after a million users sent two events each.
pub fn users(tidegate: &Path) -> Result<()> {
    const USERS: u64 = 1_000_000;
    let server = Server::start(tidegate, &["--queue-size", "16000"])?;
    let resident = || -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kilobytes: f64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
        Ok(kilobytes / 1024.0)
    };
    let before = resident()?;
    load::events::set_users(USERS);
    let mut connected = stream(4, 16).connect(server.address("grpc")?)?;
    println!("resident memory, users drawn from {USERS}: at rest {before:.0} MiB");
    for events in [USERS, 2 * USERS, 4 * USERS] {
        let sent = if events == USERS { USERS } else { events / 2 };
        let outcome = connected.run(Pace::Closed, Until::sent(sent))?;
        if !outcome.is_clean() {
            bail!("not all was accepted: {:?}", outcome.first_trouble);
        }
        println!("  after {events:>8} events {:>6.0} MiB", resident()?);
    }
    drop(connected);
    server.stop()?;
    Ok(())
}

//! The rounds: which scenarios there are, who takes part in each, and what a round measured.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use load::{Message, Outcome, Pace, Protocol, Scenario, Until, process, server::Server};

use crate::peer::READY;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds of every side in every scenario.
    pub rounds: usize,
    /// Length of a round.
    pub seconds: f64,
    /// Only scenarios whose name contains this.
    pub only: Option<String>,
}

/// A scenario's place in the contest.
pub struct Match {
    /// What is sent.
    pub scenario: Scenario,
    /// Who is beside Tidegate.
    pub peer: &'static str,
    /// Tidegate's share of the peer's cost that we aim at, in per cent.
    pub goal_percent: Option<f64>,
    /// What the rounds measured: Tidegate, the peer.
    pub sides: [Side; 2],
}

/// One side's rounds.
pub struct Side {
    /// Who.
    pub name: &'static str,
    /// Server CPU per message in µs, one for each round.
    pub cpu_us: Vec<f64>,
    /// All rounds' messages.
    pub outcome: Outcome,
    /// Server CPU over all rounds.
    pub server_cpu: Duration,
}

/// The whole run.
pub struct Contest {
    /// What was run.
    pub plan: Plan,
    /// The scenarios.
    pub matches: Vec<Match>,
    /// CPU of the servers and of the client.
    pub cpus: (usize, usize),
}

impl Contest {
    /// Whether every answer of every round was an acceptance.
    pub fn is_clean(&self) -> bool {
        self.matches.iter().flat_map(|contest| &contest.sides).all(|side| side.outcome.is_clean())
    }
}

/// A peer's process.
struct PeerProcess {
    child: Child,
    address: SocketAddr,
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        // It has nothing to say at its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts everybody and runs the rounds.
///
/// # Errors
/// When a server cannot be started or reached.
pub fn run(tidegate: &Path, plan: &Plan) -> Result<Contest> {
    if !tidegate.is_file() {
        bail!("{} is not there; `cargo build --release -p tidegate` makes it", tidegate.display());
    }
    let allowed = process::allowed_cpus()?;
    let (Some(&server_cpu), Some(&client_cpu)) = (allowed.first(), allowed.last()) else {
        bail!("no CPU at all")
    };
    if server_cpu == client_cpu {
        eprintln!("only one CPU: client and server share it, the figures will be poor");
    }
    // What this thread starts inherits the CPU it may run on.
    process::pin(&[server_cpu])?;
    let ours = Server::start(tidegate, &["--cores", "1"])?;
    let axum = start_peer("axum")?;
    let tonic = start_peer("tonic")?;
    process::pin(&[client_cpu])?;

    let mut matches = matches();
    if let Some(only) = &plan.only {
        matches.retain(|contest| contest.scenario.to_string().to_lowercase().contains(&only.to_lowercase()));
        if matches.is_empty() {
            bail!("no scenario's name contains {only:?}");
        }
    }
    for contest in &mut matches {
        let is_grpc = contest.peer == "tonic";
        let peer = if is_grpc { &tonic } else { &axum };
        let servers = [
            (ours.address(if is_grpc { "grpc" } else { "gateway" })?, ours.pid()),
            (peer.address, peer.child.id()),
        ];
        eprint!("{} ", contest.scenario);
        for _ in 0..plan.rounds {
            for (side, (address, pid)) in contest.sides.iter_mut().zip(servers) {
                side.round(&contest.scenario, address, pid, Duration::from_secs_f64(plan.seconds))?;
                eprint!(".");
            }
        }
        eprintln!();
    }
    ours.stop()?;
    Ok(Contest { plan: plan.clone(), matches, cpus: (server_cpu, client_cpu) })
}

impl Side {
    fn new(name: &'static str) -> Self {
        Self { name, cpu_us: Vec::new(), outcome: Outcome::default(), server_cpu: Duration::ZERO }
    }

    fn round(&mut self, scenario: &Scenario, address: SocketAddr, pid: u32, length: Duration) -> Result<()> {
        let mut connected = scenario.connect(address)?;
        // The first answers pay for connections and tables; they are not what is measured.
        connected.run(Pace::Closed, Until::elapsed(length.min(Duration::from_secs(2)) / 10))?;
        let before = process::cpu_time(pid)?;
        let outcome = connected.run(Pace::Closed, Until::elapsed(length))?;
        let cpu = process::cpu_time(pid)? - before;
        if outcome.accepted == 0 {
            bail!("{}: nothing was accepted: {:?}", self.name, outcome.first_trouble);
        }
        self.cpu_us.push(cpu.as_secs_f64() * 1e6 / outcome.accepted as f64);
        self.server_cpu += cpu;
        self.outcome.add(&outcome);
        Ok(())
    }
}

/// The scenarios, with what we aim at.
fn matches() -> Vec<Match> {
    let entry = |protocol, connections, in_flight, frame_messages, peer, goal_percent| Match {
        scenario: Scenario {
            protocol,
            connections,
            in_flight,
            frame_messages,
            stream_messages: 65_536,
            message: Message::of_size(64),
        },
        peer,
        goal_percent,
        sides: [Side::new("tidegate"), Side::new(peer)],
    };
    vec![
        entry(Protocol::H1, 64, 1, 1, "axum", Some(80.0)),
        entry(Protocol::H2c, 16, 32, 1, "axum", Some(15.0)),
        entry(Protocol::H2c, 64, 1, 1, "axum", None),
        entry(Protocol::GrpcUnary, 16, 32, 1, "tonic", Some(10.0)),
        entry(Protocol::GrpcUnary, 16, 4, 1, "tonic", None),
        entry(Protocol::GrpcUnary, 64, 1, 1, "tonic", None),
        entry(Protocol::GrpcStream, 16, 1, 1, "tonic", None),
        entry(Protocol::GrpcStream, 16, 1, 64, "tonic", None),
    ]
}

fn start_peer(name: &str) -> Result<PeerProcess> {
    let mut child = Command::new(env::current_exe()?)
        .args(["serve", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} cannot be started"))?;
    let started = Instant::now();
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let Some(address) = line.trim().strip_prefix(READY).and_then(|text| text.parse().ok()) else {
        let _ = child.kill();
        let _ = child.wait();
        bail!("{name} said {line:?} after {:?} instead of where it listens", started.elapsed());
    };
    Ok(PeerProcess { child, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own() {
        let names: std::collections::HashSet<String> =
            matches().iter().map(|contest| contest.scenario.to_string()).collect();
        assert_eq!(names.len(), matches().len());
    }
}

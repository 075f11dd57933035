//! `load`: the demo, and load on any server that takes the same ingest requests.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use load::{
    Message, Outcome, Pace, Protocol, Scenario, Until, demo,
    outcome::{grouped, short_time},
    process,
    server::Server,
};

/// Puts load on an ingest server, or shows what Tidegate does.
#[derive(Debug, Parser)]
#[command(
    name = "load",
    version,
    after_help = "Examples:\n  \
        load demo --tidegate target/release/tidegate\n  \
        load grpc-unary --address 127.0.0.1:50051 --connections 16 --in-flight 32 --seconds 5\n  \
        load h1 --address 127.0.0.1:8080 --connections 64 --seconds 10 --rate 20000\n  \
        load shutdown --tidegate target/release/tidegate"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start Tidegate, send this machine's readings over four protocols, compare the counts.
    Demo {
        /// The program to start.
        #[arg(long, value_name = "PATH", default_value = "target/release/tidegate")]
        tidegate: PathBuf,
    },
    /// POST JSON over HTTP/1.1.
    H1(LoadArguments),
    /// POST JSON over HTTP/2 by prior knowledge.
    H2c(LoadArguments),
    /// gRPC, one message a call.
    GrpcUnary(LoadArguments),
    /// gRPC client streaming.
    GrpcStream(LoadArguments),
    /// Typed events on a stream, each answered.
    EventStream(LoadArguments),
    /// Start Tidegate, stop it while messages stream in (1,000,000 sent, and 200,000 over HTTP), compare the counts.
    Shutdown {
        /// The program to start.
        #[arg(long, value_name = "PATH", default_value = "target/release/tidegate")]
        tidegate: PathBuf,
        /// Messages over gRPC streaming that must be sent before SIGTERM.
        #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
        streamed: u64,
        /// Messages over HTTP that must be sent before SIGTERM: half HTTP/1.1, half h2c.
        #[arg(long, value_name = "COUNT", default_value_t = 200_000)]
        http: u64,
    },
}

#[derive(Args, Clone, Debug)]
struct LoadArguments {
    /// The server.
    #[arg(long, value_name = "HOST:PORT")]
    address: SocketAddr,
    /// Connections.
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    connections: usize,
    /// Requests (streaming: streams) under way on each connection.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    in_flight: usize,
    /// Stop after so many messages.
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    messages: Option<u64>,
    /// Stop after so long [default: 5, unless --messages is given].
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Open loop: messages per second on a fixed schedule; latencies count from the intended moment.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Bytes of payload in each message.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    data_bytes: usize,
    /// Streaming: messages in one DATA frame.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    frame_messages: usize,
    /// Streaming: messages on a stream before the next one is opened.
    #[arg(long, value_name = "COUNT", default_value_t = 65_536)]
    stream_messages: u64,
    /// The server's process, to say which side was busy.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Run on this CPU.
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

impl LoadArguments {
    fn scenario(&self, protocol: Protocol) -> Scenario {
        Scenario {
            protocol,
            connections: self.connections,
            in_flight: self.in_flight,
            frame_messages: self.frame_messages,
            stream_messages: self.stream_messages,
            message: Message::of_size(self.data_bytes),
        }
    }

    fn until(&self) -> Until {
        match (self.messages, self.seconds) {
            (Some(messages), _) => Until::sent(messages),
            (None, seconds) => Until::elapsed(Duration::from_secs_f64(seconds.unwrap_or(5.0))),
        }
    }

    fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second })
    }
}

fn main() -> Result<ExitCode> {
    let is_good = match Cli::parse().command {
        Command::Demo { tidegate } => {
            demo::check_program(&tidegate)?;
            demo::run(&tidegate)?
        }
        Command::H1(arguments) => put_load(Protocol::H1, &arguments)?,
        Command::H2c(arguments) => put_load(Protocol::H2c, &arguments)?,
        Command::GrpcUnary(arguments) => put_load(Protocol::GrpcUnary, &arguments)?,
        Command::EventStream(arguments) => put_load(Protocol::EventStream, &arguments)?,
        Command::GrpcStream(arguments) => put_load(Protocol::GrpcStream, &arguments)?,
        Command::Shutdown { tidegate, streamed, http } => {
            demo::check_program(&tidegate)?;
            shutdown(Server::start(&tidegate, &[])?, streamed, http)?
        }
    };
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One run; false when an answer was wrong or the counts do not add up.
fn put_load(protocol: Protocol, arguments: &LoadArguments) -> Result<bool> {
    if let Some(cpu) = arguments.pin {
        process::pin(&[cpu])?;
    }
    let scenario = arguments.scenario(protocol);
    let mut connected = scenario.connect(arguments.address)?;
    let server_cpu = || arguments.server_pid.map(process::cpu_time).transpose();
    let before = server_cpu()?;
    let outcome = connected.run(arguments.pace(), arguments.until())?;
    // A server that was stopped amid the run cannot be asked any more.
    let server_cpu = before.and_then(|before| Some(server_cpu().ok()?? - before));
    if arguments.json {
        let mut report = outcome.json();
        report["scenario"] = scenario.to_string().into();
        report["server_cpu_s"] = server_cpu.map(|cpu| cpu.as_secs_f64()).into();
        println!("{report}");
    } else {
        print_outcome(&scenario.to_string(), &outcome, server_cpu, arguments.rate);
    }
    Ok(outcome.failed == 0 && outcome.adds_up())
}

fn print_outcome(name: &str, outcome: &Outcome, server_cpu: Option<Duration>, rate: Option<f64>) {
    println!("{name}");
    println!("  sent         {:>13}  in {:.2} s", grouped(outcome.sent), outcome.elapsed.as_secs_f64());
    println!("  accepted     {:>13}  {}/s", grouped(outcome.accepted), grouped(outcome.per_second() as u64));
    let others = [
        ("refused", outcome.refused),
        ("failed", outcome.failed),
        ("never taken", outcome.never_taken),
        ("unanswered", outcome.unanswered),
    ];
    for (name, count) in others {
        if count > 0 || matches!(name, "refused" | "failed") {
            println!("  {name:<12} {:>13}", grouped(count));
        }
    }
    if let Some(trouble) = &outcome.first_trouble {
        println!("  first trouble: {trouble}");
    }
    if outcome.closed + outcome.goodbyes > 0 {
        println!(
            "  the server announced its end on {} connections, closed {}",
            outcome.goodbyes, outcome.closed
        );
    }
    let quantile = |quantile| short_time(outcome.latency_ns.value_at_quantile(quantile));
    let from = if rate.is_some() { "from the intended send" } else { "from the send; closed loop" };
    println!(
        "  latency      p50 {}, p99 {}, p99.9 {}, max {} ({from})",
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        short_time(outcome.latency_ns.max())
    );
    let busy = |cpu: Duration| cpu.as_secs_f64() / outcome.elapsed.as_secs_f64().max(1e-9) * 100.0;
    let per_message = |cpu: Duration| cpu.as_secs_f64() * 1e6 / outcome.sent.max(1) as f64;
    let mut line = format!(
        "  busy         client {:.0} % ({:.3} µs a message)",
        busy(outcome.client_cpu),
        per_message(outcome.client_cpu)
    );
    if let Some(cpu) = server_cpu {
        line += &format!(", server {:.0} % ({:.3} µs a message)", busy(cpu), per_message(cpu));
    }
    println!("{line}");
}

/// Loads a server over three protocols at once until the counts are reached, goes on, and stops the server amid that:
/// what clients hold acknowledged must be what the server says it has accepted and processed.
fn shutdown(server: Server, streamed: u64, http: u64) -> Result<bool> {
    let message = Message::of_size(64);
    let scenario = |protocol, connections, in_flight| Scenario {
        protocol,
        connections,
        in_flight,
        frame_messages: 1,
        stream_messages: 20_000,
        message: message.clone(),
    };
    let gateway = server.address("gateway")?;
    // The stream is paced: at full speed it would leave HTTP no CPU on a small machine.
    let paced = Pace::Open { per_second: 400_000.0 };
    let loads = [
        (scenario(Protocol::GrpcStream, 4, 2), server.address("grpc")?, streamed, paced),
        (scenario(Protocol::H1, 32, 1), gateway, http / 2, Pace::Closed),
        (scenario(Protocol::H2c, 8, 16), gateway, http - http / 2, Pace::Closed),
    ];
    let outcomes = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for (scenario, address, count, pace) in &loads {
            let mut connected = scenario.connect(*address)?;
            let progress = connected.progress();
            let until =
                Until { patience: Duration::from_secs(15), ..Until::elapsed(Duration::from_secs(60)) };
            clients.push((scope.spawn(move || connected.run(*pace, until)), progress, *count));
        }
        let is_short =
            |(client, progress, count): &(std::thread::ScopedJoinHandle<'_, _>, Arc<AtomicU64>, u64)| {
                !client.is_finished() && progress.load(Ordering::Relaxed) < *count
            };
        while clients.iter().any(is_short) {
            std::thread::sleep(Duration::from_millis(5));
        }
        server.terminate()?;
        let join = |client: std::thread::ScopedJoinHandle<'_, Result<Outcome>>| {
            client.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client thread panicked")))
        };
        clients.into_iter().map(|(client, ..)| join(client)).collect::<Result<Vec<Outcome>>>()
    })?;
    let end = server.stop()?;
    let mut all = Outcome::default();
    let mut is_long_enough = true;
    for ((scenario, _, count, pace), outcome) in loads.iter().zip(&outcomes) {
        let rate = if let Pace::Open { per_second } = pace { Some(*per_second) } else { None };
        print_outcome(&scenario.to_string(), outcome, None, rate);
        is_long_enough &= outcome.sent >= *count;
        all.add(outcome);
    }
    println!("server: {}", end.last_line);
    let number = |name| end.count(name).map_or_else(|| "unknown".to_owned(), grouped);
    let (accepted, processed, lost) = (end.count("accepted"), end.count("processed"), end.count("lost"));
    // A message without an answer may have been accepted: nobody promised anything about it.
    let within =
        accepted.is_some_and(|count| (all.accepted..=all.accepted + all.unanswered).contains(&count));
    let is_good = is_long_enough
        && within
        && accepted == processed
        && lost == Some(0)
        && end.status.success()
        && all.adds_up();
    println!(
        "{}: SIGTERM amid {} messages; clients hold {} acknowledged, {} without an answer; server accepted {}, processed {}, lost {}, {}",
        if is_good { "OK" } else { "WRONG" },
        grouped(all.sent),
        grouped(all.accepted),
        grouped(all.unanswered),
        number("accepted"),
        number("processed"),
        number("lost"),
        end.status
    );
    Ok(is_good)
}

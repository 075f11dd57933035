//! `make demo`: this machine's own readings go in over four ways, and the counts at the far end must agree.
//!
//! ```text
//! start Tidegate on free ports
//!   for HTTP/1.1, h2c, gRPC unary, gRPC streaming:
//!     ten snapshots of /proc, a tenth of a second apart ─ send ─ count ─ read the server's CPU time and counts
//! table ─ bar per core ─ sent = accepted = processed? ─ SIGTERM ─ the server's last line
//! ```

mod clients;
mod readings;
mod table;

use std::{
    fs,
    io::{IsTerminal, Write, stdout},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::{
    clients::{Client, Http1, Tally},
    readings::Readings,
    table::{Paint, Table, bar},
};
use crate::{
    outcome::{grouped, new_histogram, short_time},
    server::{End, Server},
};

/// Snapshots each protocol sends.
const SNAPSHOTS: u32 = 10;
/// From one snapshot to the next, so that the readings have something new to say.
const SNAPSHOT_GAP: Duration = Duration::from_millis(100);
/// How long the last messages may take to be processed.
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
/// Connections of the HTTP/1.1 client, and of each other one.
const HTTP1_CONNECTIONS: usize = 16;
const H2_CONNECTIONS: usize = 8;

/// What one protocol's phase came to.
struct Phase {
    name: &'static str,
    tally: Tally,
    processed: u64,
    cpu: Duration,
}

/// Runs the demo; `Ok(false)` means that it ran and the counts do not agree.
///
/// # Errors
/// When the server cannot be started or reached.
pub fn run(tidegate: &Path) -> Result<bool> {
    let started = Instant::now();
    let paint = Paint::detect();
    println!(
        "\n  {}  this machine's own readings, four ways in, counted at the far end",
        paint.bold("Tidegate demo")
    );
    println!("  {}\n", paint.dim(&machine()));
    let server = Server::start(tidegate, &["--set", "queue.size=65536"])?;
    let gateway = server.address("gateway")?;
    println!(
        "  server   pid {}, ready after {}; gateway {gateway}, grpc {}\n",
        server.pid(),
        short_time(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        server.address("grpc")?
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (phases, cores) = runtime.block_on(async {
        let phases = phases(&server, paint).await?;
        Ok::<_, anyhow::Error>((phases, cores(gateway).await))
    })?;
    drop(runtime);
    let end = server.stop()?;

    println!("\n{}", phase_table(&phases).draw(paint));
    println!(
        "  {}",
        paint.dim(
            "p50, p99: request to answer; * a stream of up to 64 messages, from its opening to its answer."
        )
    );
    println!("  {}", paint.dim("CPU: user and system time of the server process, divided by messages."));
    if !cores.is_empty() {
        print_cores(&cores, paint);
    }
    let ack = phases.iter().find_map(|phase| phase.tally.ack.clone());
    println!("\n  {}", what_accepted_means(ack.as_deref()));
    let agrees = verdict(&phases, &end, paint);
    println!("  server   {}", paint.dim(&end.last_line));
    println!("  done in  {:.1} s\n", started.elapsed().as_secs_f64());
    Ok(agrees)
}

async fn phases(server: &Server, paint: Paint) -> Result<Vec<Phase>> {
    let gateway = server.address("gateway")?;
    let grpc = server.address("grpc")?;
    Ok(vec![
        phase("HTTP/1.1 JSON", Client::http1(gateway, HTTP1_CONNECTIONS).await?, server, paint).await?,
        phase("h2c JSON", Client::h2c(gateway, H2_CONNECTIONS).await?, server, paint).await?,
        phase("gRPC unary", Client::grpc_unary(grpc, H2_CONNECTIONS).await?, server, paint).await?,
        phase("gRPC stream *", Client::grpc_stream(grpc, H2_CONNECTIONS).await?, server, paint).await?,
    ])
}

/// Sends the snapshots of one protocol and waits until the server has worked on them.
async fn phase(name: &'static str, mut client: Client, server: &Server, paint: Paint) -> Result<Phase> {
    let readings = Readings::new();
    let mut tally = Tally::default();
    let mut control = Http1::connect(server.address("gateway")?).await?;
    let before = processed(&mut control).await?;
    let cpu_before = server.cpu_time()?;
    for snapshot in 0..SNAPSHOTS {
        let next = Instant::now() + SNAPSHOT_GAP;
        client.send(readings.snapshot()?, &mut tally).await?;
        progress(name, snapshot + 1, tally.sent, paint);
        tokio::time::sleep_until(next.into()).await;
    }
    let cpu = server.cpu_time()? - cpu_before;
    let deadline = Instant::now() + SETTLE_PATIENCE;
    let mut count = processed(&mut control).await? - before;
    while count < tally.accepted && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
        count = processed(&mut control).await? - before;
    }
    Ok(Phase { name, tally, processed: count, cpu })
}

/// `pool.ProcessedCount` of `/stats`.
async fn processed(control: &mut Http1) -> Result<u64> {
    let (status, body) = control.get("/stats").await?;
    let stats: Value = serde_json::from_slice(&body).with_context(|| format!("/stats answered {status}"))?;
    stats["pool"]["ProcessedCount"].as_u64().context("/stats has no pool.ProcessedCount")
}

/// Messages that each core worked on, if the server says so.
async fn cores(gateway: SocketAddr) -> Vec<(String, u64)> {
    let page = async { Http1::connect(gateway).await?.get("/metrics").await };
    let page = page.await.map(|(_, body)| body).unwrap_or_default();
    core_counts(&String::from_utf8_lossy(&page))
}

/// `tidegate_core_messages_processed_total{core="0"} 123` of a metrics page.
fn core_counts(page: &str) -> Vec<(String, u64)> {
    let series =
        page.lines().filter_map(|line| line.strip_prefix("tidegate_core_messages_processed_total{core=\""));
    let mut cores: Vec<(String, u64)> = series
        .filter_map(|rest| rest.split_once("\"} "))
        .filter_map(|(core, count)| Some((core.to_owned(), count.trim().parse::<f64>().ok()? as u64)))
        .collect();
    cores.sort_by_key(|(core, _)| core.parse::<usize>().unwrap_or(usize::MAX));
    cores
}

fn progress(name: &str, done: u32, sent: u64, paint: Paint) {
    let is_last = done == SNAPSHOTS;
    if !stdout().is_terminal() {
        if is_last {
            println!("  {name:<14} {SNAPSHOTS} snapshots of /proc, {} messages", grouped(sent));
        }
        return;
    }
    let filled = bar(u64::from(done), u64::from(SNAPSHOTS), 20);
    let empty = "░".repeat(20 - filled.chars().count());
    print!("\r  {name:<14} {}{} {:>7} messages", paint.cyan(&filled), paint.dim(&empty), grouped(sent));
    if is_last {
        println!();
    }
    // A progress line that cannot be written is not worth an error.
    let _ = stdout().flush();
}

fn phase_table(phases: &[Phase]) -> Table {
    let mut table =
        Table::new(&["protocol", "sent", "accepted", "processed", "p50", "p99", "CPU per message"]);
    let per_message =
        |cpu: Duration, count: u64| format!("{:.1} µs", cpu.as_secs_f64() * 1e6 / count.max(1) as f64);
    let mut latency = new_histogram();
    let (mut sent, mut accepted, mut processed, mut cpu) = (0, 0, 0, Duration::ZERO);
    for phase in phases {
        let tally = &phase.tally;
        let quantile = |quantile| short_time(tally.latency_ns.value_at_quantile(quantile));
        table.row(vec![
            phase.name.to_owned(),
            grouped(tally.sent),
            grouped(tally.accepted),
            grouped(phase.processed),
            quantile(0.5),
            quantile(0.99),
            per_message(phase.cpu, tally.sent),
        ]);
        sent += tally.sent;
        accepted += tally.accepted;
        processed += phase.processed;
        cpu += phase.cpu;
        // Both have the same bounds.
        let _ = latency.add(&tally.latency_ns);
    }
    let quantile = |quantile| short_time(latency.value_at_quantile(quantile));
    let sums = [grouped(sent), grouped(accepted), grouped(processed), quantile(0.5), quantile(0.99)];
    table.sum([vec!["all".to_owned()], sums.to_vec(), vec![per_message(cpu, sent)]].concat());
    table
}

fn print_cores(cores: &[(String, u64)], paint: Paint) {
    println!("\n  {}", paint.bold("messages worked on by each core"));
    let max = cores.iter().map(|(_, count)| *count).max().unwrap_or(0);
    for (core, count) in cores {
        println!("  core {core:<3} {:<40} {:>8}", paint.cyan(&bar(*count, max, 40)), grouped(*count));
    }
}

/// What the level that the answers named is worth.
fn what_accepted_means(ack: Option<&str>) -> String {
    match ack {
        Some("queued") => "accepted = queued: in memory, not safe against a crash".to_owned(),
        Some("durable") => {
            "accepted = durable: in the log on disk, safe against kill -9 and power loss".to_owned()
        }
        Some("delivered") => "accepted = delivered: the broker has acknowledged".to_owned(),
        other => format!("accepted: the answers name the level {other:?}, which this demo does not know"),
    }
}

/// Says whether all counts agree, and if not, what differs.
fn verdict(phases: &[Phase], end: &End, paint: Paint) -> bool {
    let mut differs = Vec::new();
    let (mut sent, mut accepted, mut processed) = (0, 0, 0);
    for phase in phases {
        let tally = &phase.tally;
        if tally.sent != tally.accepted || tally.accepted != phase.processed {
            let counts =
                format!("sent {}, accepted {}, processed {}", tally.sent, tally.accepted, phase.processed);
            let trouble = tally.first_trouble.as_deref().map(|text| format!(" (first trouble: {text})"));
            differs.push(format!("{}: {counts}{}", phase.name, trouble.unwrap_or_default()));
        }
        sent += tally.sent;
        accepted += tally.accepted;
        processed += phase.processed;
    }
    for (name, ours) in [("accepted", accepted), ("processed", processed), ("lost", 0)] {
        if end.count(name) != Some(ours) {
            differs.push(format!("the server's last line: {name} is {:?}, not {ours}", end.count(name)));
        }
    }
    if !end.status.success() {
        differs.push(format!("the server ended with {}", end.status));
    }
    if differs.is_empty() {
        let sum = format!(
            "sent {} = accepted {} = processed {}",
            grouped(sent),
            grouped(accepted),
            grouped(processed)
        );
        println!("  {}  {sum}, lost 0, server's exit code 0\n", paint.green("✓ OK"));
    } else {
        println!("  {}  the counts do not agree:", paint.red("✗ WRONG"));
        differs.iter().for_each(|text| println!("    {text}"));
        println!();
    }
    differs.is_empty()
}

/// CPU, cores and kernel.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores, Linux {}", model.map_or("CPU unknown", |(_, name)| name), kernel.trim())
}

/// Checks that the program is there before anything is started.
///
/// # Errors
/// When it is not, with how to make it.
pub fn check_program(tidegate: &Path) -> Result<()> {
    if !tidegate.is_file() {
        bail!("{} is not there; `cargo build --release -p tidegate` makes it", tidegate.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::{clients::STREAM_MESSAGES, *};

    #[test]
    fn core_series_are_read_in_order() {
        let page = "# HELP x y\ntidegate_core_messages_processed_total{core=\"10\"} 7\n\
                    tidegate_core_messages_processed_total{core=\"2\"} 1234\nother{core=\"1\"} 5\n";
        assert_eq!(core_counts(page), [("2".to_owned(), 1234), ("10".to_owned(), 7)]);
        assert!(core_counts("").is_empty());
    }

    #[test]
    fn verdict_needs_every_count_to_agree() {
        let phase = |accepted| Phase {
            name: "h2c",
            tally: Tally { sent: 5, accepted, ..Tally::default() },
            processed: 5,
            cpu: Duration::ZERO,
        };
        let end =
            |line: &str, code| End { status: ExitStatusExt::from_raw(code), last_line: line.to_owned() };
        let paint = Paint { is_on: false };
        let good = r#"{"message":"stopped","accepted":5,"processed":5,"lost":0}"#;
        assert!(verdict(&[phase(5)], &end(good, 0), paint));
        assert!(!verdict(&[phase(4)], &end(good, 0), paint));
        assert!(!verdict(&[phase(5)], &end(good, 256), paint));
        assert!(!verdict(&[phase(5)], &end(r#"{"accepted":5,"processed":4,"lost":1}"#, 0), paint));
        assert!(!verdict(&[phase(5)], &end("", 0), paint));
    }

    #[test]
    fn streams_fit_the_footnote() {
        assert_eq!(STREAM_MESSAGES, 64);
    }
}

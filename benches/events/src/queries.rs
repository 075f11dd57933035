//! Queries over a day of a million events while events come in on a fixed schedule, and what that does to those.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use load::{Message, Outcome, Pace, Protocol, Scenario, Until, server::Server};

use crate::{day, median};

/// Events of the day.
const EVENTS: u64 = 1_000_000;
/// Events a second that come in meanwhile.
const PER_SECOND: f64 = 20_000.0;

const SUMMARY: &str =
    "/v1/analytics/summary?time_range.start=2026-05-29T00:00:00Z&time_range.end=2026-05-30T00:00:00Z";
const FUNNEL: &str = r#"{"steps":[
    {"name":"saw","filters":{"properties.name":"page_view"}},
    {"name":"wanted","filters":{"properties.name":"add_to_cart"}},
    {"name":"checked out","filters":{"properties.name":"checkout"}},
    {"name":"bought","filters":{"properties.name":"purchase"}}],
    "step_timeout":"7200s","time_range":{"start":"2026-05-29T00:00:00Z","end":"2026-05-30T00:00:00Z"}}"#;

/// A connection that asks one thing after the other.
struct Asker {
    reader: BufReader<TcpStream>,
}

impl Asker {
    fn connect(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(socket) })
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Duration> {
        let started = Instant::now();
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}");
        self.reader.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut length) = (String::new(), 0);
        self.reader.read_line(&mut line)?;
        if !line.contains(" 200 ") {
            bail!("{method} {path}: {line}");
        }
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let field = line.trim().to_ascii_lowercase();
            if field.is_empty() {
                break;
            }
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.reader.read_exact(&mut answer)?;
        Ok(started.elapsed())
    }
}

/// Asks until told to stop: a summary every 20 ms, a funnel every second.
fn ask(address: SocketAddr, stop: &AtomicBool) -> Result<[Histogram<u64>; 2]> {
    let mut asker = Asker::connect(address)?;
    let mut took = [Histogram::new(3)?, Histogram::new(3)?];
    let mut turn = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let due = Instant::now() + Duration::from_millis(20);
        if turn.is_multiple_of(50) {
            took[1].record(asker.ask("POST", "/v1/analytics/funnel", FUNNEL)?.as_micros() as u64)?;
        } else {
            took[0].record(asker.ask("GET", SUMMARY, "")?.as_micros() as u64)?;
        }
        turn += 1;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(took)
}

fn p99_ms(outcome: &Outcome) -> f64 {
    outcome.latency_ns.value_at_quantile(0.99) as f64 / 1e6
}

/// Fills a server and asks it while events come in; and not, in turns.
pub fn run(tidegate: &Path, rounds: usize, seconds: f64) -> Result<()> {
    let server = Server::start(tidegate, &["--queue-size", "16000"])?;
    let rate = day::fill(server.address("grpc")?, EVENTS)?;
    println!(
        "a day of {EVENTS} events in batches of 1,000 over one connection: {rate:.0}/s (the client encodes them meanwhile)"
    );
    let scenario = Scenario {
        protocol: Protocol::EventStream,
        connections: 4,
        in_flight: 4096,
        frame_messages: 1,
        stream_messages: u64::MAX,
        message: Message::of_size(0),
    };
    let mut connected = scenario.connect(server.address("grpc")?)?;
    let length = Duration::from_secs_f64(seconds.max(1.0) * 2.0);
    let pace = Pace::Open { per_second: PER_SECOND };
    connected.run(pace, Until::elapsed(Duration::from_millis(500)))?;
    let mut p99s = [Vec::new(), Vec::new()];
    let mut took = [Histogram::<u64>::new(3)?, Histogram::new(3)?];
    let gateway = server.address("gateway")?;
    for _ in 0..rounds {
        p99s[0].push(p99_ms(&connected.run(pace, Until::elapsed(length))?));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let asking = scope.spawn(|| ask(gateway, &stop));
            let outcome = connected.run(pace, Until::elapsed(length));
            stop.store(true, Ordering::Relaxed);
            let asked = asking.join().ok().context("the asking thread panicked")??;
            let outcome = outcome?;
            if !outcome.is_clean() {
                bail!("not all was accepted: {:?}", outcome.first_trouble);
            }
            p99s[1].push(p99_ms(&outcome));
            for (sum, one) in took.iter_mut().zip(asked) {
                sum.add(one)?;
            }
            Ok(())
        })?;
    }
    let ratios = p99s[0].iter().zip(&p99s[1]).map(|(without, with)| with / without).collect();
    let (ratio, [without, with]) = (median(ratios), p99s.map(median));
    println!(
        "{PER_SECOND}/s on a fixed schedule meanwhile: p99 {without:.2} ms, with queries {with:.2} ms ({ratio:.2}×), median of {rounds} rounds"
    );
    for (name, took) in ["summary over the day", "funnel of four steps over it"].into_iter().zip(&took) {
        let at = |quantile| took.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "  {name:<30} p50 {:>7.2} ms   p99 {:>7.2} ms   max {:>7.2} ms   ({} asked)",
            at(0.5),
            at(0.99),
            at(1.0),
            took.len()
        );
    }
    drop(connected);
    server.stop()?;
    Ok(())
}

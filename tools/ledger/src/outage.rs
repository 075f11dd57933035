//! A broker that is there and does not answer, under load: what clients notice, what memory it costs, and whether both
//! sides hold the same when it is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use hdrhistogram::Histogram;
use ledger::process::Process;
use parking_lot::Mutex;

use crate::{
    client::{Answer, Connection},
    verdict::Sent,
};

/// Before the outage, during it, after it.
const PHASES: [&str; 3] = ["before", "during", "after"];

/// What clients noticed.
pub struct Noticed {
    latencies: [Mutex<Histogram<u64>>; 3],
    accepted: [AtomicU64; 3],
    refused: [AtomicU64; 3],
    phase: AtomicUsize,
    stop: AtomicBool,
}

impl Noticed {
    fn new() -> Result<Self> {
        let histogram = || Ok::<_, anyhow::Error>(Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3)?));
        Ok(Self {
            latencies: [histogram()?, histogram()?, histogram()?],
            accepted: Default::default(),
            refused: Default::default(),
            phase: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        })
    }
}

/// Sends `rate` messages a second, on a schedule that does not wait for answers, while `victim` is stopped for
/// `seconds`. Returns the p99 before and during in microseconds.
pub fn run(
    tidegate: &Process,
    victim: &Process,
    level: &'static str,
    rate: u64,
    seconds: u64,
) -> Result<(u64, u64)> {
    const CLIENTS: u64 = 32;
    let noticed = Arc::new(Noticed::new()?);
    let start = Instant::now();
    let client = |number: u64| {
        let (noticed, port) = (Arc::clone(&noticed), tidegate.port);
        thread::spawn(move || {
            let mut connection = Connection::new(port);
            let gap = Duration::from_secs_f64(CLIENTS as f64 / rate as f64);
            let first = start + gap.mul_f64(number as f64 / CLIENTS as f64);
            for n in 0.. {
                let intended = first + gap * n;
                thread::sleep(intended.saturating_duration_since(Instant::now()));
                if noticed.stop.load(Relaxed) {
                    return;
                }
                let phase = noticed.phase.load(Relaxed);
                let sent = Sent {
                    id: format!("outage-{number}-{n}"),
                    key: format!("key-{number}"),
                    n: n.into(),
                    payload: "x".repeat(128),
                };
                match connection.post(&sent, level) {
                    Some(Answer::Yes(_)) => noticed.accepted[phase].fetch_add(1, Relaxed),
                    _ => noticed.refused[phase].fetch_add(1, Relaxed),
                };
                let took = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
                noticed.latencies[phase].lock().saturating_record(took);
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    let mut resident_max = [0; 3];
    for (phase, length) in [(0, seconds.clamp(5, 15)), (1, seconds), (2, seconds.clamp(5, 15))] {
        noticed.phase.store(phase, Relaxed);
        match phase {
            1 => victim.pause(),
            2 => victim.resume(),
            _ => {}
        }
        let end = Instant::now() + Duration::from_secs(length);
        while Instant::now() < end {
            resident_max[phase] = tidegate.resident_bytes().max(resident_max[phase]);
            thread::sleep(Duration::from_millis(200));
        }
    }
    noticed.stop.store(true, Relaxed);
    for client in clients {
        // A panic of it was printed.
        let _ = client.join();
    }
    println!("{rate} messages a second at level {level}, latency from the intended moment");
    for (phase, name) in PHASES.iter().enumerate() {
        let latencies = noticed.latencies[phase].lock();
        println!(
            "  {name:<7} accepted {:>8}, refused {:>7}; p50 {:>8} µs, p99 {:>8} µs, max {:>8} µs; resident at most {} MiB",
            noticed.accepted[phase].load(Relaxed),
            noticed.refused[phase].load(Relaxed),
            latencies.value_at_quantile(0.5),
            latencies.value_at_quantile(0.99),
            latencies.max(),
            resident_max[phase] >> 20
        );
    }
    let p99 = |phase: usize| noticed.latencies[phase].lock().value_at_quantile(0.99);
    Ok((p99(0), p99(1)))
}

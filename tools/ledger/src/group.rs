//! Two processes in one consumer group: both work, one is killed, the other takes over what it left.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ledger::process::Process;

use crate::{
    Queue, Run, STREAM, TOPIC,
    client::{self, Ledger},
    collect, downstream,
    house::House,
    settle, show,
    verdict::compare,
};

/// How long the one that is left may take: Kafka gives up on a dead member after its session timeout (20 s), JetStream
/// on what it had handed out after the consumer's ack wait (30 s).
const PATIENCE: Duration = Duration::from_secs(120);

/// Messages that this process has taken from its broker.
fn consumed(engine: &Process) -> Result<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", engine.port))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find(|line| line.starts_with("tidegate_broker_consumed_total{"));
    let value = line.and_then(|line| line.rsplit(' ').next()).context("no tidegate_broker_consumed_total")?;
    Ok(value.parse::<f64>()? as u64)
}

/// Messages that the group has still to work on.
fn left(house: &House) -> Result<u64> {
    match (house.nats_url(), house.kafka_brokers()) {
        (Some(url), None) => downstream::nats_left(&url, STREAM, "messages-consumer"),
        (None, Some(brokers)) => downstream::kafka_left(&brokers, TOPIC, "processor-group"),
        _ => bail!("a group is of one broker: --queue nats or --queue kafka"),
    }
}

/// Runs both for `each`, and one for as long.
pub fn run(run: &Run, folder: &Path, each: Duration) -> Result<bool> {
    ensure!(matches!(run.queue, Queue::Nats | Queue::Kafka), "a group needs --queue nats or --queue kafka");
    let mut house = House::start(run, folder, 2, true)?;
    // The topic is made, both have joined.
    thread::sleep(Duration::from_secs(5));
    let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
    let ports: Vec<u16> = house.engines.iter().map(|engine| engine.port).collect();
    let writers = client::writers(&ledger, &ports, run, &["delivered"], "group", &stop);
    thread::sleep(each);
    let (first, second) = (consumed(&house.engines[0])?, consumed(&house.engines[1])?);
    println!("both run: the first took {first} messages, the second {second}");
    house.engines[0].kill();
    let killed = Instant::now();
    println!("the first is killed; {} messages are not worked on", left(&house)?);
    thread::sleep(each);
    settle(&ledger, &stop, writers);
    let acknowledged = ledger.acknowledged.lock().clone();
    while left(&house)? > 0 {
        ensure!(killed.elapsed() < PATIENCE, "{} messages are left after {PATIENCE:?}", left(&house)?);
        thread::sleep(Duration::from_millis(500));
    }
    println!(
        "{:.0} s after the kill nothing is left; the second took {} messages",
        killed.elapsed().as_secs_f64(),
        consumed(&house.engines[1])?
    );
    let mut clean = first > 0 && second > 0;
    let sent = ledger.sent.lock().clone();
    for (side, found) in collect(run, &mut house, &acknowledged)? {
        let verdict = compare(&sent, &acknowledged, &found);
        show(side, &verdict);
        clean &= verdict.is_clean();
    }
    Ok(clean)
}

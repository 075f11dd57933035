//! Our publishers beside the bare clients: the same bytes, headers and settings to the same broker, in turns.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use async_nats::{HeaderMap, jetstream};
use brokers::{
    data_message,
    kafka::{KafkaConfig, publish::KafkaPublisher},
    nats::{Naming, NatsConfig, publish::NatsPublisher},
    publisher::Publisher,
    status::SideStatus,
};
use bytes::Bytes;
use engine_core::{PartitionKey, Record};
use futures_util::{StreamExt, stream::FuturesUnordered};
use ledger::process;
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};

use crate::median;

const KAFKA_MESSAGES: u64 = 300_000;
const NATS_MESSAGES: u64 = 60_000;
/// Publishes that wait for an acknowledgement, on both sides.
const NATS_WINDOW: usize = 1024;
const KAFKA_WINDOW: usize = 100_000;

/// Messages of one round; ids are never used twice.
struct Messages {
    round: String,
    payload: Vec<u8>,
}

impl Messages {
    fn new(round: usize, side: &str) -> Self {
        Self { round: format!("{side}-{round}"), payload: vec![b'x'; 200] }
    }

    fn id(&self, n: u64) -> String {
        format!("{}-{n}", self.round)
    }

    fn record<'a>(&'a self, id: &'a str) -> Record<'a> {
        Record { id: id.as_bytes(), source: b"bench", payload: &self.payload, ..Record::default() }
    }
}

/// Publishes through our publisher until all is acknowledged.
fn publish(publisher: &mut dyn Publisher, messages: &Messages, count: u64) -> f64 {
    let (mut sent, mut acknowledged, mut acks) = (0, 0, Vec::new());
    let started = Instant::now();
    while acknowledged < count {
        while sent < count {
            let id = messages.id(sent);
            if publisher.publish(sent, &messages.record(&id)).is_err() {
                break;
            }
            sent += 1;
        }
        publisher.poll(Duration::from_millis(100), &mut acks);
        acknowledged += acks.drain(..).filter(|ack| ack.outcome.is_ok()).count() as u64;
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn connected(publisher: &mut dyn Publisher) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !publisher.is_connected() {
        ensure!(Instant::now() < deadline, "the broker does not answer");
        publisher.poll(Duration::from_millis(50), &mut Vec::new());
    }
    Ok(())
}

fn report(broker: &str, rounds: usize, ours: Vec<f64>, bare: Vec<f64>) {
    let ratio = median(ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect());
    let best = bare.iter().copied().fold(0.0, f64::max);
    let (ours, bare) = (median(ours), median(bare));
    println!(
        "  {broker:<6} ours {ours:>9.0}   bare client {bare:>9.0} (best {best:.0})   {:>5.1} %, median of {rounds} rounds",
        100.0 * ratio
    );
}

/// NATS JetStream with files, synced before every acknowledgement.
pub fn nats(folder: &Path, rounds: usize) -> Result<()> {
    let server = process::nats(folder)?;
    let url = format!("nats://127.0.0.1:{}", server.port);
    let config = NatsConfig {
        servers: brokers::nats::Servers::parse(&url).map_err(anyhow::Error::msg)?,
        stream: "BENCH".into(),
        subject: "bench.messages".into(),
        subject_choice: None,
        value: brokers::raw_message::MessageValue::DataMessage,
        consumer: "none".into(),
        in_flight_max: NATS_WINDOW,
        pack_messages: 1,
        ack_timeout: Duration::from_secs(30),
    };
    let mut publisher = NatsPublisher::new(config, Naming::of_this_run(), Arc::new(SideStatus::new("nats")))
        .map_err(|error| anyhow!(error))?;
    connected(&mut publisher)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let context = runtime.block_on(async { async_nats::connect(&url).await.map(jetstream::new) })?;
    println!(
        "publishing to NATS JetStream, {NATS_MESSAGES} messages a round, {NATS_WINDOW} in flight; messages/s"
    );
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        ours.push(publish(&mut publisher, &Messages::new(round, "ours"), NATS_MESSAGES));
        let messages = Messages::new(round, "bare");
        bare.push(runtime.block_on(bare_nats(&context, &messages))?);
        runtime.block_on(async {
            context.get_stream("BENCH").await?.purge().await.map_err(anyhow::Error::from)
        })?;
    }
    report("NATS", rounds, ours, bare);
    Ok(())
}

async fn bare_nats(context: &jetstream::Context, messages: &Messages) -> Result<f64> {
    let mut value = Vec::new();
    data_message::write(&messages.record(&messages.id(0)), &mut value);
    let value = Bytes::from(value);
    let mut under_way = FuturesUnordered::new();
    let started = Instant::now();
    for n in 0..NATS_MESSAGES {
        let mut headers = HeaderMap::new();
        let id = messages.id(n);
        headers.insert("Nats-Msg-Id", id.as_str());
        headers.insert("message_id", id.as_str());
        headers.insert("source", "bench");
        headers.insert("schema", data_message::SCHEMA);
        let acknowledgement = context.publish_with_headers("bench.messages", headers, value.clone()).await?;
        under_way.push(acknowledgement.into_future());
        while under_way.len() >= NATS_WINDOW {
            under_way.next().await.context("an acknowledgement")??;
        }
    }
    while let Some(acknowledged) = under_way.next().await {
        acknowledged?;
    }
    Ok(NATS_MESSAGES as f64 / started.elapsed().as_secs_f64())
}

struct Counted(Arc<AtomicU64>);

impl ClientContext for Counted {}

impl ProducerContext for Counted {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Relaxed);
        }
    }
}

/// Kafka, idempotent and acks=all, with the settings that the server has by default.
pub fn kafka(folder: &Path, rounds: usize) -> Result<()> {
    let broker = process::kafka(folder)?;
    let config = KafkaConfig {
        brokers: format!("127.0.0.1:{}", broker.port),
        topic: "bench".into(),
        topic_choice: None,
        value: brokers::raw_message::MessageValue::DataMessage,
        shapes: None,
        consumer_group: "none".into(),
        client_id: "bench".into(),
        acks: "all".into(),
        compression: "none".into(),
        linger: Duration::from_millis(5),
        batch_messages: 10_000,
        retry_backoff: Duration::from_millis(100),
        in_flight_max: KAFKA_WINDOW,
        partition: PartitionKey::default(),
        security_protocol: "plaintext".into(),
        sasl_mechanism: "PLAIN".into(),
        sasl_username: Default::default(),
        sasl_password: Default::default(),
        ssl_ca_location: String::new(),
    };
    let mut publisher = KafkaPublisher::new(config.clone(), Arc::new(SideStatus::new("kafka")))
        .map_err(|error| anyhow!(error))?;
    connected(&mut publisher)?;
    let delivered = Arc::new(AtomicU64::new(0));
    let producer = ThreadedProducer::from_config_and_context(
        ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", KAFKA_WINDOW.to_string())
            .set("queue.buffering.max.kbytes", "262144"),
        Counted(Arc::clone(&delivered)),
    )?;
    println!("publishing to Kafka, {KAFKA_MESSAGES} messages a round, {KAFKA_WINDOW} in flight; messages/s");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    // The JVM is slow until it has compiled what it does.
    publish(&mut publisher, &Messages::new(rounds, "warm"), KAFKA_MESSAGES);
    for round in 0..rounds {
        ours.push(publish(&mut publisher, &Messages::new(round, "ours"), KAFKA_MESSAGES));
        delivered.store(0, Relaxed);
        bare.push(bare_kafka(&producer, &delivered, &Messages::new(round, "bare"))?);
    }
    report("Kafka", rounds, ours, bare);
    Ok(())
}

fn bare_kafka(
    producer: &ThreadedProducer<Counted>,
    delivered: &AtomicU64,
    messages: &Messages,
) -> Result<f64> {
    let mut value = Vec::new();
    data_message::write(&messages.record(&messages.id(0)), &mut value);
    let started = Instant::now();
    for n in 0..KAFKA_MESSAGES {
        let id = messages.id(n);
        let headers = OwnedHeaders::new_with_capacity(3)
            .insert(Header { key: "source", value: Some("bench") })
            .insert(Header { key: "message_id", value: Some(&id) })
            .insert(Header { key: "schema", value: Some(data_message::SCHEMA) });
        let mut record = BaseRecord::to("bench").key(&id).payload(&value).headers(headers);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(Duration::from_secs(60))?;
    ensure!(delivered.load(Relaxed) == KAFKA_MESSAGES, "not all was delivered");
    Ok(KAFKA_MESSAGES as f64 / started.elapsed().as_secs_f64())
}

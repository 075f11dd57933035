//! The client of production: librdkafka's producer, whose callbacks come on its threads and go through a channel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Statistics,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{Producer, ProducerContext, PurgeConfig, ThreadedProducer},
};

use super::{
    KafkaConfig,
    client::{Client, Event, Metadata, Outgoing},
    shape::Topic,
    topics,
};
use crate::{status::SideStatus, written::Batches};

/// Bytes that may wait in librdkafka, and the longest message that it takes: the brokers judge it, not the client.
const QUEUE_BYTES: usize = 256 << 20;

/// librdkafka.
pub struct Librdkafka {
    config: KafkaConfig,
    status: Arc<SideStatus>,
    /// From the first [`renew`](Client::renew) on.
    producer: Option<ThreadedProducer<Context>>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    bell: Arc<Bell>,
    connected: Arc<AtomicBool>,
}

impl Librdkafka {
    /// A client; it connects with its first producer.
    pub fn new(config: &KafkaConfig, status: &Arc<SideStatus>) -> Self {
        let (sender, events) = unbounded();
        Self {
            config: config.clone(),
            status: Arc::clone(status),
            producer: None,
            bell: Arc::new(Bell { events: sender.clone(), rung: AtomicBool::new(false) }),
            sender,
            events,
            connected: Arc::default(),
        }
    }
}

impl Client for Librdkafka {
    fn renew(&mut self, batch_messages: usize, batch_bytes: usize) -> Result<(), String> {
        let context = Context {
            events: self.sender.clone(),
            status: Arc::clone(&self.status),
            config: self.config.clone(),
            connected: Arc::clone(&self.connected),
            told: Mutex::default(),
        };
        self.producer = Some(producer(&self.config, context, batch_messages, batch_bytes)?);
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), KafkaError> {
        let Some(producer) = &self.producer else {
            return Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        };
        producer.send(record).map_err(|(error, _)| error)
    }

    fn purge(&mut self) {
        if let Some(producer) = &self.producer {
            producer.purge(PurgeConfig::default().queue());
        }
    }

    fn next(&mut self, timeout: Duration) -> Option<Event> {
        let event = if timeout.is_zero() {
            self.events.try_recv().ok()
        } else {
            self.events.recv_timeout(timeout).ok()
        }?;
        if matches!(event, Event::Woken) {
            self.bell.rung.store(false, Ordering::Release);
        }
        Some(event)
    }

    fn ask(&self, topic: &str, timeout: Duration) -> Result<Metadata, KafkaError> {
        let Some(producer) = &self.producer else {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown));
        };
        let said = producer.client().fetch_metadata(Some(topic), timeout)?;
        let nodes = said.brokers().iter();
        let topics = said.topics().iter().map(|topic| {
            let partitions = match topic.error() {
                Some(error) => Err(RDKafkaErrorCode::from(error)),
                None => Ok(topic.partitions().len()),
            };
            (topic.name().to_owned(), partitions)
        });
        Ok(Metadata {
            nodes: nodes.map(|node| (node.id(), format!("{}:{}", node.host(), node.port()))).collect(),
            topics: topics.collect(),
        })
    }

    fn create(&self, topics: &[Topic]) -> Result<Vec<bool>, String> {
        topics::create(&self.config, topics)
    }

    fn message_bytes_max(&self, topics: &[Topic]) -> Option<usize> {
        topics::message_bytes_max(&self.config, topics)
    }

    fn connected(&self) -> &AtomicBool {
        &self.connected
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }
}

/// librdkafka's callbacks; they come on its threads.
struct Context {
    events: Sender<Event>,
    status: Arc<SideStatus>,
    config: KafkaConfig,
    connected: Arc<AtomicBool>,
    /// What this client had written when it last said so.
    told: Mutex<[i64; 4]>,
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        let written = &self.status.written;
        let errors = statistics.brokers.values().map(|broker| broker.txerrs).sum::<u64>();
        let now = [
            statistics.tx,
            statistics.txmsgs,
            statistics.txmsg_bytes,
            i64::try_from(errors).unwrap_or(i64::MAX),
        ];
        let before = std::mem::replace(&mut *self.told.lock(), now);
        let counts = [&written.writes, &written.messages, &written.bytes, &written.errors];
        for ((count, now), before) in counts.into_iter().zip(now).zip(before) {
            count.fetch_add(u64::try_from(now - before).unwrap_or(0), Ordering::Relaxed);
        }
        for topic in statistics.topics.values() {
            let window = &topic.batchcnt;
            let of = |number: i64| u64::try_from(number).unwrap_or(0);
            let quantiles = [
                (5_000, of(window.p50)),
                (7_500, of(window.p75)),
                (9_000, of(window.p90)),
                (9_500, of(window.p95)),
                (9_900, of(window.p99)),
                (9_999, of(window.p99_99)),
                (10_000, of(window.max)),
            ];
            written.add(&Batches { count: of(window.cnt), messages: of(window.sum), quantiles });
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.connected.store(false, Ordering::Release);
        }
        let hint = match code {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                "look at kafka.sasl_username and kafka.sasl_password"
            }
            _ => "look at KAFKA_BROKERS",
        };
        let reason = self.config.hide_in(reason);
        let text = format!("kafka.brokers = {}: {reason} ({hint})", self.config.brokers);
        tracing::debug!(broker = self.status.name, text);
        if !self.connected.load(Ordering::Acquire) {
            self.status.set_trouble(Some(text));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let event = match result {
            Ok(_) => Event::Acknowledged(number),
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                Event::Failed(number, code, Box::new(message.detach()))
            }
        };
        // The receiver goes with the producer.
        let _ = self.events.send(event);
    }
}

/// Ends a wait of the thread; cheap while it does not wait.
struct Bell {
    events: Sender<Event>,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let _ = self.events.send(Event::Woken);
        }
    }
}

fn producer(
    config: &KafkaConfig,
    context: Context,
    batch_messages: usize,
    batch_bytes: usize,
) -> Result<ThreadedProducer<Context>, String> {
    let mut client = config.client()?;
    let idempotent = config.acks == "all";
    client
        .set("acks", &config.acks)
        .set("enable.idempotence", idempotent.to_string())
        .set("enable.gapless.guarantee", idempotent.to_string())
        .set("compression.type", &config.compression)
        .set("linger.ms", config.linger.as_millis().to_string())
        .set("batch.num.messages", batch_messages.to_string())
        .set("batch.size", batch_bytes.to_string())
        .set("message.max.bytes", QUEUE_BYTES.to_string())
        .set("statistics.interval.ms", "1000")
        // For ever: what may pass by itself is not given up.
        .set("message.timeout.ms", "0")
        .set("retry.backoff.ms", config.retry_backoff.as_millis().max(1).to_string())
        .set("queue.buffering.max.messages", config.in_flight_max.to_string())
        .set("queue.buffering.max.kbytes", (QUEUE_BYTES >> 10).to_string());
    ThreadedProducer::from_config_and_context(&client, context)
        .map_err(|error| config.hide_in(format!("kafka: {error}")))
}

//! Publishing: librdkafka's idempotent producer, with acknowledgements through a channel.
//!
//! Retrying is librdkafka's: in order, and with `message.timeout.ms = 0` for ever. What it gives up all the same is
//! looked at: what the broker will always refuse is [`Rejected`], everything else is sent again, in order, with a new
//! producer if the old one is broken (a fatal error of the idempotent producer).

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use engine_core::{MetadataPairs, Record};
use rdkafka::{
    ClientContext, Message,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders, OwnedMessage},
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};

use super::{
    KafkaConfig,
    shape::{Outgoing, Topic},
    topics,
};
use crate::{
    backoff::Backoff,
    data_message,
    publisher::{Ack, Busy, Publisher, Rejected},
    status::SideStatus,
};

/// How often a broker that does not answer is asked.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a broker may take to answer that.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

enum Event {
    Acknowledged(u64),
    Failed(u64, RDKafkaErrorCode, Box<OwnedMessage>),
    Woken,
}

/// librdkafka's callbacks; they come on its threads.
struct Context {
    events: Sender<Event>,
    status: Arc<SideStatus>,
    brokers: String,
    connected: Arc<AtomicBool>,
}

impl ClientContext for Context {
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
        let text = format!("kafka.brokers = {}: {reason} ({hint})", self.brokers);
        tracing::debug!(broker = self.status.name, text);
        if !self.connected.load(Ordering::Acquire) {
            self.status.set_trouble(Some(text));
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: usize) {
        let event = match result {
            Ok(_) => Event::Acknowledged(tag as u64),
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                Event::Failed(tag as u64, code, Box::new(message.detach()))
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

/// The publisher of Kafka.
pub struct KafkaPublisher {
    config: KafkaConfig,
    status: Arc<SideStatus>,
    producer: ThreadedProducer<Context>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    bell: Arc<Bell>,
    in_flight: usize,
    /// Decided in `publish`, told in the next `poll`.
    refused: Vec<Ack>,
    /// Failed for now, in order: with when each was first sent.
    again: VecDeque<(u64, OwnedMessage)>,
    again_at: Option<Instant>,
    backoff: Backoff,
    value: Vec<u8>,
    shaped: Outgoing,
    topics: Vec<Topic>,
    connected: Arc<AtomicBool>,
    asked: Option<Instant>,
    /// When a sample of the messages under way was sent, for the publish time.
    sample: Option<(u64, Instant)>,
    fatal: bool,
}

impl KafkaPublisher {
    /// A publisher; it need not reach a broker yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: KafkaConfig, status: Arc<SideStatus>) -> Result<Self, String> {
        let (sender, events) = unbounded();
        let connected = Arc::new(AtomicBool::new(false));
        let producer = producer(&config, &status, &sender, &connected)?;
        let bell = Arc::new(Bell { events: sender.clone(), rung: AtomicBool::new(false) });
        Ok(Self {
            backoff: Backoff::new(config.retry_backoff, Duration::from_secs(5)),
            topics: config.topics(),
            config,
            status,
            producer,
            sender,
            events,
            bell,
            in_flight: 0,
            refused: Vec::new(),
            again: VecDeque::new(),
            again_at: None,
            value: Vec::new(),
            shaped: Outgoing::default(),
            connected,
            asked: None,
            sample: None,
            fatal: false,
        })
    }

    fn note(&mut self, event: Event, acks: &mut Vec<Ack>) {
        match event {
            Event::Woken => self.bell.rung.store(false, Ordering::Release),
            Event::Acknowledged(tag) => {
                self.in_flight -= 1;
                self.connected.store(true, Ordering::Release);
                let took = match self.sample {
                    Some((sampled, since)) if sampled == tag => {
                        self.sample = None;
                        Some(since.elapsed())
                    }
                    _ => None,
                };
                self.status.note_acknowledged(took);
                acks.push(Ack { tag, outcome: Ok(()) });
            }
            Event::Failed(tag, code, _) if is_permanent(code) => {
                self.in_flight -= 1;
                acks.push(Ack { tag, outcome: Err(rejected(code)) });
            }
            Event::Failed(tag, code, message) => {
                self.status.retries.fetch_add(1, Ordering::Relaxed);
                self.fatal |= code == RDKafkaErrorCode::Fatal;
                let topic = self.topics.iter().find(|topic| topic.name == message.topic());
                self.status.set_trouble(Some(explain(&self.config, topic.unwrap_or(&self.topics[0]), code)));
                self.again.push_back((tag, *message));
                self.again_at.get_or_insert_with(|| Instant::now() + self.backoff.next_pause());
            }
        }
    }

    /// Sends once more what failed for now, oldest first.
    fn send_again(&mut self) {
        if self.again_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        if self.fatal {
            match producer(&self.config, &self.status, &self.sender, &self.connected) {
                Ok(producer) => {
                    tracing::warn!(broker = self.status.name, "the producer is broken and was made anew");
                    self.producer = producer;
                    self.fatal = false;
                }
                Err(error) => {
                    self.status.set_trouble(Some(error));
                    self.again_at = Some(Instant::now() + self.backoff.next_pause());
                    return;
                }
            }
        }
        while let Some((tag, message)) = self.again.pop_front() {
            let mut record = BaseRecord::with_opaque_to(message.topic(), tag as usize)
                .payload(message.payload().unwrap_or_default())
                .key(message.key().unwrap_or_default());
            record.timestamp = message.timestamp().to_millis();
            record.headers = message.headers().cloned();
            if self.producer.send(record).is_err() {
                self.again.push_front((tag, message));
                self.again_at = Some(Instant::now() + self.backoff.next_pause());
                return;
            }
        }
        self.again_at = None;
    }

    /// Asks a broker whether it and the topics are there; makes a topic if it is not.
    fn ask(&mut self) {
        if self.connected.load(Ordering::Acquire)
            || self.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN)
        {
            return;
        }
        self.asked = Some(Instant::now());
        let mut absent = Vec::new();
        for topic in &self.topics {
            match self.producer.client().fetch_metadata(Some(&topic.name), ASK_TIMEOUT) {
                Ok(metadata) => {
                    let error = metadata.topics().iter().find_map(|found| found.error());
                    match error.map(RDKafkaErrorCode::from) {
                        None => {}
                        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => absent.push(topic.clone()),
                        Some(code) => {
                            self.status.set_trouble(Some(explain(&self.config, topic, code)));
                            return;
                        }
                    }
                }
                Err(error) => {
                    let text =
                        format!("kafka.brokers = {}: {error} (look at KAFKA_BROKERS)", self.config.brokers);
                    self.status.set_trouble(Some(text));
                    return;
                }
            }
        }
        if absent.is_empty() {
            self.connected.store(true, Ordering::Release);
            return;
        }
        match topics::create(&self.config, &absent) {
            Ok(made) => {
                for (topic, _) in absent.iter().zip(made).filter(|(_, made)| *made) {
                    tracing::info!(
                        topic = topic.name,
                        partitions = topic.partitions,
                        "the topic was not there and was created"
                    );
                }
            }
            Err(error) => self.status.set_trouble(Some(error)),
        }
    }
}

impl Publisher for KafkaPublisher {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        if !self.again.is_empty() || self.in_flight >= self.config.in_flight_max {
            return Err(Busy);
        }
        self.shaped.clear();
        let shaped = self.config.shapes.as_ref().is_some_and(|shapes| shapes.write(record, &mut self.shaped));
        let trace = MetadataPairs::new(record.metadata).find(|(name, _)| *name == b"traceparent");
        let (topic, key, value, time_seconds, mut headers);
        if shaped {
            let Outgoing { topic: to, key: by, headers: fields, value: content, time_seconds: time } =
                &self.shaped;
            (topic, key, value) = (to.as_str(), by.as_slice(), content.as_slice());
            time_seconds = *time;
            headers = OwnedHeaders::new_with_capacity(fields.len() + 1);
            for (name, value) in fields {
                headers = headers.insert(Header { key: name, value: Some(value) });
            }
        } else {
            self.value.clear();
            data_message::write(record, &mut self.value);
            (topic, value) = (self.config.topic.as_str(), self.value.as_slice());
            time_seconds = None;
            key = self.config.partition.of(record.source, record.metadata).unwrap_or(record.id);
            headers = OwnedHeaders::new_with_capacity(4)
                .insert(Header { key: "source", value: Some(record.source) })
                .insert(Header { key: "message_id", value: Some(record.id) })
                .insert(Header { key: "schema", value: Some(data_message::SCHEMA) });
        }
        if let Some((_, value)) = trace {
            headers = headers.insert(Header { key: "traceparent", value: Some(value) });
        }
        let mut message =
            BaseRecord::with_opaque_to(topic, tag as usize).key(key).payload(value).headers(headers);
        message.timestamp = time_seconds.map(|seconds| seconds.saturating_mul(1000));
        match self.producer.send(message) {
            Ok(()) => {}
            Err((KafkaError::MessageProduction(code), _)) if is_permanent(code) => {
                self.refused.push(Ack { tag, outcome: Err(rejected(code)) });
                self.in_flight += 1;
                return Ok(());
            }
            Err((error, _)) => {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    self.status.set_trouble(Some(error.to_string()));
                }
                return Err(Busy);
            }
        }
        self.in_flight += 1;
        self.sample.get_or_insert_with(|| (tag, Instant::now()));
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>) {
        self.send_again();
        self.ask();
        self.in_flight -= self.refused.len();
        acks.append(&mut self.refused);
        let timeout = if acks.is_empty() { timeout } else { Duration::ZERO };
        match self.events.recv_timeout(timeout) {
            Ok(event) => self.note(event, acks),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        while let Ok(event) = self.events.try_recv() {
            self.note(event, acks);
        }
        if !acks.is_empty() && self.again.is_empty() {
            self.backoff.reset();
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }
}

fn producer(
    config: &KafkaConfig,
    status: &Arc<SideStatus>,
    events: &Sender<Event>,
    connected: &Arc<AtomicBool>,
) -> Result<ThreadedProducer<Context>, String> {
    let mut client = config.client()?;
    let idempotent = config.acks == "all";
    client
        .set("acks", &config.acks)
        .set("enable.idempotence", idempotent.to_string())
        .set("compression.type", &config.compression)
        .set("linger.ms", config.linger.as_millis().to_string())
        .set("batch.num.messages", config.batch_messages.to_string())
        // For ever: what may pass by itself is not given up.
        .set("message.timeout.ms", "0")
        .set("retry.backoff.ms", config.retry_backoff.as_millis().max(1).to_string())
        .set("queue.buffering.max.messages", config.in_flight_max.to_string())
        .set("queue.buffering.max.kbytes", "262144");
    let context = Context {
        events: events.clone(),
        status: Arc::clone(status),
        brokers: config.brokers.clone(),
        connected: Arc::clone(connected),
    };
    ThreadedProducer::from_config_and_context(&client, context).map_err(|error| format!("kafka: {error}"))
}

/// What another try cannot change.
fn is_permanent(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        InvalidMessageSize, InvalidRecord, MessageSizeTooLarge, UnsupportedForMessageFormat,
    };
    matches!(code, MessageSizeTooLarge | InvalidMessageSize | InvalidRecord | UnsupportedForMessageFormat)
}

fn rejected(code: RDKafkaErrorCode) -> Rejected {
    let hint = match code {
        RDKafkaErrorCode::MessageSizeTooLarge => {
            "; the broker's message.max.bytes, or the topic's max.message.bytes, is smaller than the message"
        }
        _ => "",
    };
    Rejected { code: format!("{code:?}"), reason: format!("{code}{hint}"), attempts: 1 }
}

fn explain(config: &KafkaConfig, topic: &Topic, code: RDKafkaErrorCode) -> String {
    let Topic { name, setting, .. } = topic;
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            format!("{setting} = {name}: this user may not write to it; grant that, or name another")
        }
        RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
            format!("{setting} = {name}: it does not exist any more; create it, or name another")
        }
        _ => format!("kafka.brokers = {}: {code}", config.brokers),
    }
}

//! Publishing: librdkafka's idempotent producer, with acknowledgements through a channel.
//!
//! Retrying is librdkafka's: in order, and with `message.timeout.ms = 0` for ever. What it gives up all the same ends
//! the producer: `enable.gapless.guarantee` has librdkafka stop at the first batch that failed, so nothing behind it
//! in its partition is stored before it. When everything under way has come back, what was not acknowledged is sent
//! again in its order by a new producer.
//!
//! What the failure judged ([`super::verdict`]) decides what changes before that. A batch that was refused for one of its
//! records is sent again in halves, and only a record that was refused alone in its request is [`Rejected`]. So that this
//! is rare, the topics' `max.message.bytes` are asked for before anything is sent, and batches are kept below them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::{Duration, Instant},
};

use engine_core::{Record, TRACE_FIELD, Traceparent, clock};
use rdkafka::{
    Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders, OwnedMessage},
    producer::BaseRecord,
};

use super::{
    KafkaConfig,
    client::{Client, Event, Metadata},
    librdkafka::Librdkafka,
    partitions::Partitions,
    shape::{Outgoing, Topic},
    verdict::{Verdict, verdict},
};
use crate::{
    backoff::Backoff,
    data_message,
    publisher::{Ack, Busy, Publisher, Rejected},
    raw_message::{self, MessageValue},
    status::SideStatus,
};

/// How often a broker that does not answer is asked.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a broker that is there may take to answer. Longer, and it counts as gone: it may stand still and keep its
/// connections.
const STILL_THERE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often a topic's partitions are counted (librdkafka's default).
const COUNT_AGAIN: Duration = Duration::from_secs(300);
/// How long a broker may take to answer that.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// Failures that may be a record's or the broker's, until the batch is halved, and until a record that was alone is taken for
/// the cause: one record does not hold up all others for ever.
const HALVED_FROM: u32 = 3;
const FAILURES_MAX: u32 = 10;

/// Most bytes of a batch, before compression, where the topics allow as many (librdkafka's default).
const BATCH_BYTES: usize = 1_000_000;
/// Of the topic's limit, what is left for the batch's own header (61 bytes in message format 2).
const BATCH_HEAD_BYTES: usize = 512;
/// A record that did not get through, as it was sent.
struct Failed {
    tag: u64,
    code: RDKafkaErrorCode,
    message: Box<OwnedMessage>,
    /// Where it was, and goes again, so that it stays in front of what is there already. A topic that was made anew has nothing.
    partition: Option<i32>,
}

/// The publisher of Kafka.
pub struct KafkaPublisher<C = Librdkafka> {
    config: KafkaConfig,
    status: Arc<SideStatus>,
    client: C,
    in_flight: usize,
    /// Decided in `publish`, told in the next `poll`.
    refused: Vec<Ack>,
    /// Tags of what librdkafka was given, in that order, from number `first` on; `None` once it is decided.
    sent: VecDeque<Option<u64>>,
    first: usize,
    /// What failed, by its number, so in the order in which it was given.
    failed: BTreeMap<usize, Failed>,
    /// How often records, by tag, have failed for what may be their fault.
    failures: HashMap<u64, u32>,
    /// Something failed: nothing is given to this producer any more; it is waited for what it was given.
    retired: bool,
    /// Before anything is sent again, the producer is made anew.
    renew: bool,
    /// What failed, in order, on its way into the new producer.
    again: VecDeque<Failed>,
    /// Most messages of a batch: fewer than the settings say after a batch was refused.
    batch_messages: usize,
    /// Most bytes of a batch; `None` until a broker was asked.
    batch_bytes: Option<usize>,
    again_at: Option<Instant>,
    backoff: Backoff,
    value: Vec<u8>,
    shaped: Outgoing,
    topics: Vec<Topic>,
    partitions: Partitions,
    /// Something is wrong with a topic: all are asked for again.
    look: bool,
    /// A topic is not there: nothing is given to the producer until it is made.
    absent: bool,
    /// The topic that is asked for next.
    turn: usize,
    asked: Option<Instant>,
    /// When a broker last acknowledged something.
    heard: Option<Instant>,
    /// When a sample of the messages under way was sent, for the publish time.
    sample: Option<(usize, Instant)>,
}

impl KafkaPublisher {
    /// A publisher; it need not reach a broker yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: KafkaConfig, status: Arc<SideStatus>) -> Result<Self, String> {
        let client = Librdkafka::new(&config, &status);
        Self::over(client, config, status)
    }
}

impl<C: Client> KafkaPublisher<C> {
    /// A publisher over this client.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn over(mut client: C, config: KafkaConfig, status: Arc<SideStatus>) -> Result<Self, String> {
        client.renew(config.batch_messages, BATCH_BYTES)?;
        Ok(Self {
            backoff: Backoff::new(config.retry_backoff, Duration::from_secs(5)),
            topics: config.topics(),
            partitions: Partitions::new(config.acks == "all"),
            look: false,
            absent: false,
            turn: 0,
            batch_messages: config.batch_messages,
            config,
            status,
            client,
            in_flight: 0,
            refused: Vec::new(),
            sent: VecDeque::new(),
            first: 0,
            failed: BTreeMap::new(),
            failures: HashMap::new(),
            retired: false,
            renew: false,
            again: VecDeque::new(),
            batch_bytes: None,
            again_at: None,
            value: Vec::new(),
            shaped: Outgoing::default(),
            asked: None,
            heard: None,
            sample: None,
        })
    }

    fn note(&mut self, event: Event, acks: &mut Vec<Ack>) {
        match event {
            Event::Woken => {}
            Event::Acknowledged(number) => {
                let Some(tag) = self.settle(number) else { return };
                self.partitions.acknowledged(number);
                self.in_flight -= 1;
                self.client.connected().store(true, Ordering::Release);
                let took = match self.sample {
                    Some((sampled, since)) if sampled == number => {
                        self.sample = None;
                        Some(clock::since(since))
                    }
                    _ => None,
                };
                self.status.note_acknowledged(took);
                acks.push(Ack { tag, outcome: Ok(()) });
            }
            Event::Failed(number, code, message) => {
                let Some(tag) = self.settle(number) else { return };
                self.status.retries.fetch_add(1, Ordering::Relaxed);
                if verdict(code) != Verdict::Batch && !is_consequence(code) {
                    let topic = self.topics.iter().find(|topic| topic.name == message.topic());
                    let text = explain(&self.config, topic.unwrap_or(&self.topics[0]), code);
                    self.status.set_trouble(Some(text));
                }
                self.look |= verdict(code) == Verdict::Topic;
                let partition = Some(message.partition());
                self.failed.insert(number, Failed { tag, code, message, partition });
                self.retired = true;
            }
        }
    }

    /// The tag of what was given under this number; it is not under way any more.
    fn settle(&mut self, number: usize) -> Option<u64> {
        let tag = self.sent.get_mut(number.checked_sub(self.first)?)?.take();
        while self.sent.front().is_some_and(Option::is_none) {
            self.sent.pop_front();
            self.first += 1;
        }
        tag
    }

    /// When everything of a producer that is given up has come back: decides what the failures mean.
    fn judge(&mut self, acks: &mut Vec<Ack>) {
        if !self.retired {
            return;
        }
        // What librdkafka has not sent yet, also what it put back into its queue.
        self.client.purge();
        if !self.sent.is_empty() {
            return;
        }
        for failed in self.failed.values().filter(|failed| verdict(failed.code) == Verdict::Doubt) {
            *self.failures.entry(failed.tag).or_default() += 1;
        }
        let failures = std::mem::take(&mut self.failures);
        let has_failed = |failed: &Failed| failures.get(&failed.tag).copied().unwrap_or_default();
        let is_refused = |failed: &Failed| match verdict(failed.code) {
            Verdict::Batch => true,
            Verdict::Doubt => has_failed(failed) >= HALVED_FROM,
            Verdict::Topic | Verdict::Connection => false,
        };
        let place = |message: &OwnedMessage| (message.topic().to_owned(), message.partition());
        let mut refused: HashMap<(String, i32), usize> = HashMap::new();
        for failed in self.failed.values().filter(|failed| is_refused(failed)) {
            *refused.entry(place(&failed.message)).or_default() += 1;
        }
        // One record refused in a partition was alone in its batch, or is the one that the broker named (the others then
        // have INVALID_DIFFERENT_RECORD). With one record a batch several requests may have been refused.
        let unbatched = self.batch_messages == 1;
        let is_alone = |count: usize| count == 1 || unbatched;
        let largest = refused.values().copied().filter(|count| !is_alone(*count)).max();
        let mut again = VecDeque::with_capacity(self.failed.len() + self.again.len());
        for (_, failed) in std::mem::take(&mut self.failed) {
            let count = refused.get(&place(&failed.message)).copied();
            let (code, attempts) = (failed.code, has_failed(&failed));
            let is_over = verdict(code) == Verdict::Batch || attempts >= FAILURES_MAX;
            if is_refused(&failed) && is_over && count.is_some_and(is_alone) {
                self.in_flight -= 1;
                acks.push(Ack { tag: failed.tag, outcome: Err(rejected(code, attempts.max(1))) });
            } else {
                if attempts > 0 {
                    self.failures.insert(failed.tag, attempts);
                }
                again.push_back(failed);
            }
        }
        // What the new producer before had not been given yet comes behind.
        again.append(&mut self.again);
        self.again = again;
        if let Some(messages) = largest {
            self.batch_messages = (messages.min(self.batch_messages) / 2).max(1);
            tracing::warn!(
                broker = self.status.name,
                messages,
                "Kafka refused a batch for one of its messages; it is sent again in halves"
            );
        } else if !refused.is_empty() {
            // It was the record and not the size of the batch.
            self.batch_messages = self.config.batch_messages;
        }
        if !refused.is_empty() {
            // The limit may be another one since it was asked for.
            self.batch_bytes = None;
        }
        // A refusal needs no pause: what is sent next is something else.
        let is_judged = self.failures.is_empty() && !refused.is_empty();
        let pause = if is_judged { Duration::ZERO } else { self.backoff.next_pause() };
        self.again_at = Some(clock::now() + pause);
        self.sample = None;
        self.retired = false;
        self.renew = true;
    }

    /// Makes the producer anew and gives it what failed, oldest first.
    fn send_again(&mut self) {
        if self.retired || self.absent || self.again_at.is_none_or(|at| clock::now() < at) {
            return;
        }
        if self.renew {
            if let Err(error) = self.renew_producer() {
                self.status.set_trouble(Some(error));
                self.again_at = Some(clock::now() + self.backoff.next_pause());
                return;
            }
            self.renew = false;
        }
        while let Some(failed) = self.again.pop_front() {
            let message = &failed.message;
            let number = self.first + self.sent.len();
            let key = message.key().unwrap_or_default();
            let before = failed.partition;
            let Some(partition) = self.partitions.take(message.topic(), key, number, before) else {
                // It goes on with the next acknowledgement.
                self.again.push_front(failed);
                return;
            };
            let mut record = BaseRecord::with_opaque_to(message.topic(), number)
                .partition(partition)
                .payload(message.payload().unwrap_or_default())
                .key(key);
            record.timestamp = message.timestamp().to_millis();
            record.headers = message.headers().cloned();
            if let Err(error) = self.client.send(record) {
                self.partitions.give_back(number);
                self.look |= error.rdkafka_error_code().is_some_and(|code| verdict(code) == Verdict::Topic);
                self.again.push_front(failed);
                self.again_at = Some(clock::now() + self.backoff.next_pause());
                return;
            }
            self.sent.push_back(Some(failed.tag));
        }
        self.again_at = None;
    }

    /// Makes the producer anew, with batches that fit into the topics as far as that is known.
    fn renew_producer(&mut self) -> Result<(), String> {
        let bytes = self.batch_bytes.unwrap_or_else(|| {
            let limit = self.client.message_bytes_max(&self.topics);
            limit.map_or(BATCH_BYTES, |limit| limit.saturating_sub(BATCH_HEAD_BYTES).clamp(1, BATCH_BYTES))
        });
        self.client.renew(self.batch_messages, bytes)?;
        self.partitions.close();
        self.batch_bytes = Some(bytes);
        Ok(())
    }

    /// Asks the brokers whether they and the topics are there; makes a topic if it is not.
    ///
    /// All topics once a second until all is well; then one after the other, when nothing was heard of the brokers for a
    /// second (one that stands still refuses nothing, and with nothing under way nobody would notice) and else to count its
    /// partitions.
    fn ask(&mut self) {
        let is_recent = |at: Option<Instant>, time| at.is_some_and(|at| clock::since(at) < time);
        let is_well = self.client.connected().load(Ordering::Acquire) && !self.look && !self.absent;
        let topics = self.topics.len();
        let count_again = (COUNT_AGAIN / u32::try_from(topics).unwrap_or(u32::MAX)).max(ASK_AGAIN);
        let is_heard = is_well && is_recent(self.heard, ASK_AGAIN);
        if is_recent(self.asked, if is_heard { count_again } else { ASK_AGAIN }) {
            return;
        }
        self.asked = Some(clock::now());
        self.turn = (self.turn + 1) % topics;
        let (timeout, asked_for) =
            if is_well { (STILL_THERE_TIMEOUT, self.turn..self.turn + 1) } else { (ASK_TIMEOUT, 0..topics) };
        let mut absent = Vec::new();
        for topic in &self.topics[asked_for] {
            let asked = clock::now();
            let metadata = match self.client.ask(&topic.name, timeout) {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.client.connected().store(false, Ordering::Release);
                    let text =
                        format!("kafka.brokers = {}: {error} (look at KAFKA_BROKERS)", self.config.brokers);
                    return self.status.set_trouble(Some(text));
                }
            };
            for (name, partitions) in &metadata.topics {
                match partitions {
                    Ok(count) => self.partitions.learn(name, *count),
                    Err(RDKafkaErrorCode::UnknownTopicOrPartition) => absent.push(topic.clone()),
                    Err(code) => {
                        self.look = true;
                        return self.status.set_trouble(Some(explain(&self.config, topic, *code)));
                    }
                }
            }
            self.note_told(metadata, clock::since(asked));
        }
        self.look = false;
        self.absent = !absent.is_empty();
        if self.absent {
            return self.make_topics(&absent);
        }
        if self.batch_bytes.is_none() && !self.retired && !self.renew {
            // Nothing was sent yet: nothing is until batches fit into the topics.
            if let Err(error) = self.renew_producer() {
                return self.status.set_trouble(Some(error));
            }
        }
        self.client.connected().store(true, Ordering::Release);
    }

    /// Makes topics that are not there, or not any more.
    fn make_topics(&mut self, absent: &[Topic]) {
        self.client.connected().store(false, Ordering::Release);
        absent.iter().for_each(|topic| self.partitions.forget(&topic.name));
        if !self.sent.is_empty() {
            // A producer that began in a topic cannot go on in one of the same name: the brokers do not know its sequences there.
            let topic = &absent[0];
            let text = explain(&self.config, topic, RDKafkaErrorCode::UnknownTopicOrPartition);
            self.status.set_trouble(Some(text));
            self.retired = true;
            return;
        }
        for failed in &mut self.again {
            if absent.iter().any(|topic| topic.name == failed.message.topic()) {
                failed.partition = None;
            }
        }
        match self.client.create(absent) {
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

    fn note_told(&self, metadata: Metadata, took: Duration) {
        let mut told = self.status.told.lock();
        told.nodes = metadata.nodes;
        told.took = took;
        for (topic, partitions) in metadata.topics {
            told.topics.retain(|known| *known != topic);
            if partitions.is_ok() {
                told.topics.push(topic);
            }
        }
        told.topics.sort_unstable();
    }
}

impl<C: Client> Publisher for KafkaPublisher<C> {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        if self.batch_bytes.is_none()
            || self.retired
            || self.absent
            || self.again_at.is_some()
            || self.in_flight >= self.config.in_flight_max
        {
            return Err(Busy);
        }
        self.shaped.clear();
        let shaped = self.config.shapes.as_ref().is_some_and(|shapes| shapes.write(record, &mut self.shaped));
        // An earlier version's log may hold one of any length.
        let trace = Traceparent::of(record.metadata);
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
            let schema;
            (value, schema) = match self.config.value {
                MessageValue::Raw => (record.payload, raw_message::SCHEMA),
                MessageValue::DataMessage => {
                    self.value.clear();
                    data_message::write(record, &mut self.value);
                    (self.value.as_slice(), data_message::SCHEMA)
                }
            };
            let chosen = self.config.topic_choice.as_ref().and_then(|choice| choice.of(record));
            topic = chosen.unwrap_or(self.config.topic.as_str());
            time_seconds = None;
            key = self.config.partition.of(record.source, record.metadata).unwrap_or(record.id);
            headers = OwnedHeaders::new_with_capacity(4)
                .insert(Header { key: "source", value: Some(record.source) })
                .insert(Header { key: "message_id", value: Some(record.id) })
                .insert(Header { key: "schema", value: Some(schema) });
            if self.config.value == MessageValue::Raw {
                for (name, value) in raw_message::headers(record) {
                    headers = headers.insert(Header { key: &name, value: Some(&*value) });
                }
            }
        }
        if let Some(trace) = &trace {
            headers = headers.insert(Header { key: TRACE_FIELD, value: Some(trace.as_bytes()) });
        }
        let number = self.first + self.sent.len();
        let Some(partition) = self.partitions.take(topic, key, number, None) else { return Err(Busy) };
        let mut message = BaseRecord::with_opaque_to(topic, number)
            .partition(partition)
            .key(key)
            .payload(value)
            .headers(headers);
        message.timestamp = time_seconds.map(|seconds| seconds.saturating_mul(1000));
        match self.client.send(message) {
            Ok(()) => {}
            // The client judges a record by itself.
            Err(KafkaError::MessageProduction(code)) if verdict(code) == Verdict::Batch => {
                self.partitions.give_back(number);
                self.refused.push(Ack { tag, outcome: Err(rejected(code, 1)) });
                self.in_flight += 1;
                return Ok(());
            }
            Err(error) => {
                self.partitions.give_back(number);
                self.look |= error.rdkafka_error_code().is_some_and(|code| verdict(code) == Verdict::Topic);
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    self.status.set_trouble(Some(error.to_string()));
                }
                return Err(Busy);
            }
        }
        self.in_flight += 1;
        self.sent.push_back(Some(tag));
        self.sample.get_or_insert_with(|| (number, clock::now()));
        Ok(())
    }

    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>) {
        self.partitions.tick();
        self.judge(acks);
        self.send_again();
        self.ask();
        self.in_flight -= self.refused.len();
        acks.append(&mut self.refused);
        let timeout = if acks.is_empty() { timeout } else { Duration::ZERO };
        let Some(event) = self.client.next(timeout) else { return };
        self.note(event, acks);
        while let Some(event) = self.client.next(Duration::ZERO) {
            self.note(event, acks);
        }
        if acks.iter().any(|ack| ack.outcome.is_ok()) {
            self.heard = Some(clock::now());
        }
        if !acks.is_empty() && !self.retired {
            self.backoff.reset();
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn is_connected(&self) -> bool {
        self.client.connected().load(Ordering::Acquire)
    }

    fn waker(&self) -> Waker {
        self.client.waker()
    }
}

/// What comes back only because something else failed before.
fn is_consequence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fatal, GaplessGuarantee, InvalidDifferentRecord, PurgeInflight, PurgeQueue};
    matches!(code, Fatal | GaplessGuarantee | InvalidDifferentRecord | PurgeInflight | PurgeQueue)
}

fn rejected(code: RDKafkaErrorCode, attempts: u32) -> Rejected {
    let hint = match code {
        RDKafkaErrorCode::MessageSizeTooLarge => {
            "; the broker's message.max.bytes, or the topic's max.message.bytes, is smaller than the message"
        }
        _ => "",
    };
    Rejected { code: format!("{code:?}"), reason: format!("{code}{hint}"), attempts }
}

fn explain(config: &KafkaConfig, topic: &Topic, code: RDKafkaErrorCode) -> String {
    let Topic { name, setting, .. } = topic;
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            format!("{setting} = {name}: this user may not write to it; grant that, or name another")
        }
        RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
            format!(
                "{setting} = {name}: it does not exist any more; it is created again as soon as the brokers allow, or name another"
            )
        }
        _ => format!("kafka.brokers = {}: {code}", config.brokers),
    }
}

#[cfg(test)]
mod tests;

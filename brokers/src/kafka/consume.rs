//! Taking messages: a member of a consumer group whose offsets are committed only after the messages were worked on,
//! in order.
//!
//! Cores finish in any order; an offset is stored for committing when everything before it in its partition is done.
//! What is stored is committed every second, and by librdkafka before a partition goes to another member.
//!
//! A topic that is deleted and made anew begins at offset 0, and librdkafka (2.12) goes on where it was in the one before: what
//! stands there by then would never be read. But with the topic the brokers delete what the group has committed. So before
//! each commit that is asked for, and where it is gone, reading begins anew.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use engine_core::clock;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
    statistics,
};

use super::{
    KafkaConfig,
    dead::Undertaker,
    headers::headers,
    shape::{Arrived, Shapes},
};
use crate::{
    inbound::{Source, Taken, take_data_message},
    raw_message,
    status::{PartitionLag, SideStatus},
};

/// A wait is cut into pieces of this length, so that what the cores have done is not kept waiting.
const SLICE: Duration = Duration::from_millis(5);

/// How often what is done is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long the brokers may take to say what is committed, and to go back to a topic's beginning.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// What came of a partition and is not done.
#[derive(Debug)]
struct Partition {
    topic: String,
    number: i32,
    /// In order: offset, and whether it is done.
    under_way: VecDeque<(i64, bool)>,
    /// Something was done since the last commit.
    is_done_with_more: bool,
    /// Something of it is committed.
    is_committed: bool,
    /// It was of a topic that is no more: its tags have no effect.
    is_over: bool,
}

/// The partitions that were ever ours; a tag has the place here above and the offset below.
#[derive(Debug, Default)]
struct Partitions {
    known: Vec<Partition>,
    places: HashMap<String, HashMap<i32, usize>>,
}

impl Partitions {
    fn place(&mut self, topic: &str, number: i32) -> usize {
        if let Some(place) = self.places.get(topic).and_then(|numbers| numbers.get(&number)) {
            return *place;
        }
        self.begin(topic, number)
    }

    /// A place of its own for what comes from now on: tags from before have no effect on it.
    fn begin(&mut self, topic: &str, number: i32) -> usize {
        self.known.push(Partition {
            topic: topic.to_owned(),
            number,
            under_way: VecDeque::new(),
            is_done_with_more: false,
            is_committed: false,
            is_over: false,
        });
        let place = self.known.len() - 1;
        self.places.entry(topic.to_owned()).or_default().insert(number, place);
        place
    }

    /// Those with something to commit.
    fn uncommitted(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.known.iter_mut().filter(|known| known.is_done_with_more && !known.is_over)
    }
}

struct Context {
    status: Arc<SideStatus>,
    partitions: Arc<Mutex<Partitions>>,
    config: KafkaConfig,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let reason = self.config.hide_in(reason);
        tracing::debug!(broker = self.status.name, brokers = self.config.brokers, %error, reason, "consumer");
    }

    fn stats(&self, statistics: Statistics) {
        let topics = statistics.topics.iter();
        let partitions = topics.flat_map(|(name, topic)| topic.partitions.values().map(move |of| (name, of)));
        let mut lags: Vec<PartitionLag> = partitions
            .filter_map(|(topic, partition)| {
                let records = lag_of(partition)?;
                Some(PartitionLag { topic: topic.clone(), partition: partition.partition, records })
            })
            .collect();
        lags.sort();
        self.status.lag.store(lags.iter().map(|lag| lag.records).sum(), Ordering::Relaxed);
        *self.status.partition_lags.lock() = lags;
    }
}

/// Records of a partition that the group has not passed. `None`: the partition is another member's, or nothing is known
/// of it yet.
fn lag_of(partition: &statistics::Partition) -> Option<u64> {
    // Both come with the first answer to a fetch; until then they are below zero, as what was never committed is.
    let (first, end) = (partition.lo_offset, partition.ls_offset);
    if !partition.desired || first < 0 || end < 0 {
        return None;
    }
    // A group that has committed nothing begins with the first record there is (auto.offset.reset = earliest), and so
    // does one whose next record was deleted: librdkafka's own number says nothing of the one, too much of the other.
    Some(end.saturating_sub(partition.committed_offset.max(first)).max(0).unsigned_abs())
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let mut partitions = self.partitions.lock();
            for element in list.elements() {
                // The next member gets what is not done; ours finish to no effect.
                let place = partitions.place(element.topic(), element.partition());
                let known = &mut partitions.known[place];
                known.under_way.clear();
                (known.is_done_with_more, known.is_committed) = (false, false);
            }
        }
        match rebalance {
            Rebalance::Assign(list) => {
                tracing::info!(
                    broker = self.status.name,
                    partitions = named(list),
                    "the group gives us partitions"
                );
            }
            Rebalance::Revoke(list) => {
                tracing::info!(
                    broker = self.status.name,
                    partitions = named(list),
                    "the group takes partitions back"
                );
            }
            Rebalance::Error(error) => {
                tracing::warn!(broker = self.status.name, %error, "the group could not share its partitions");
            }
        }
    }
}

/// `events 0,1; diplom-messages 2`.
fn named(list: &TopicPartitionList) -> String {
    let mut by_topic: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for element in list.elements() {
        by_topic.entry(element.topic().to_owned()).or_default().push(element.partition().to_string());
    }
    let topics = by_topic.iter().map(|(topic, numbers)| format!("{topic} {}", numbers.join(",")));
    topics.collect::<Vec<_>>().join("; ")
}

struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A member of the consumer group.
pub struct KafkaSource {
    consumer: BaseConsumer<Context>,
    partitions: Arc<Mutex<Partitions>>,
    status: Arc<SideStatus>,
    shapes: Option<Arc<dyn Shapes>>,
    undertaker: Undertaker,
    bell: Arc<Bell>,
    commit_at: Instant,
}

impl KafkaSource {
    /// Joins the group; it need not reach a broker yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: &KafkaConfig, status: Arc<SideStatus>) -> Result<Self, String> {
        let partitions = Arc::<Mutex<Partitions>>::default();
        let context = Context {
            status: Arc::clone(&status),
            partitions: Arc::clone(&partitions),
            config: config.clone(),
        };
        let consumer: BaseConsumer<Context> = config
            .client()?
            .set("group.id", &config.consumer_group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "false")
            .set("enable.auto.commit", "true")
            // By us; and by librdkafka before a partition goes.
            .set("auto.commit.interval.ms", "86400000")
            .set("partition.assignment.strategy", "roundrobin")
            .set("session.timeout.ms", "20000")
            .set("heartbeat.interval.ms", "3000")
            .set("statistics.interval.ms", "1000")
            .set("allow.auto.create.topics", "false")
            .set("topic.metadata.refresh.interval.ms", "5000")
            .create_with_context(context)
            .map_err(|error| config.hide_in(format!("kafka: {error}")))?;
        let topics = config.topics();
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        consumer.subscribe(&names).map_err(|error| format!("kafka topics {}: {error}", names.join(", ")))?;
        Ok(Self {
            consumer,
            partitions,
            status,
            shapes: config.shapes.clone(),
            undertaker: Undertaker::new(config),
            bell: Arc::new(Bell(AtomicBool::new(false))),
            commit_at: clock::now(),
        })
    }

    /// Commits what is done, but where the brokers have forgotten what was committed: that topic was made anew.
    fn commit(&mut self) {
        let mut wanted = TopicPartitionList::new();
        for known in self.partitions.lock().uncommitted() {
            wanted.add_partition(&known.topic, known.number);
        }
        if wanted.count() == 0 {
            return;
        }
        let committed = match self.consumer.committed_offsets(wanted, COMMIT_TIMEOUT) {
            Ok(committed) => committed,
            Err(error) => {
                tracing::debug!(broker = self.status.name, %error, "what is committed is not known");
                return;
            }
        };
        for element in committed.elements() {
            let mut partitions = self.partitions.lock();
            let place = partitions.place(element.topic(), element.partition());
            let known = &mut partitions.known[place];
            let is_there = matches!(element.offset(), Offset::Offset(_));
            if is_there || !known.is_committed || element.error().is_err() {
                continue;
            }
            known.is_over = true;
            partitions.begin(element.topic(), element.partition());
            drop(partitions);
            self.begin_anew(element.topic(), element.partition());
        }
        match self.consumer.commit_consumer_state(CommitMode::Sync) {
            Ok(()) => {
                for known in self.partitions.lock().uncommitted() {
                    (known.is_done_with_more, known.is_committed) = (false, true);
                }
            }
            Err(error) => tracing::debug!(broker = self.status.name, %error, "nothing is committed"),
        }
    }

    fn begin_anew(&self, topic: &str, partition: i32) {
        tracing::warn!(
            broker = self.status.name,
            topic,
            partition,
            "the topic was deleted and made anew: it is read from its beginning"
        );
        let begun = self
            .consumer
            .seek(topic, partition, Offset::Beginning, COMMIT_TIMEOUT)
            // What is stored is that of the topic before.
            .and_then(|()| self.consumer.store_offset(topic, partition, -1));
        if let Err(error) = begun {
            tracing::error!(broker = self.status.name, topic, partition, %error, "it is not read from its beginning");
        }
    }
}

impl Source for KafkaSource {
    fn take(&mut self, max: usize, timeout: Duration, each: &mut dyn FnMut(u64, Taken<'_>)) {
        let deadline = clock::now() + timeout;
        if clock::now() >= self.commit_at {
            self.commit();
            self.commit_at = clock::now() + COMMIT_EVERY;
        }
        let mut taken = 0;
        // Also without room: the client lives by being polled.
        while taken < max.max(1) {
            if max == 0 && taken == 0 {
                let assigned = self.consumer.assignment().unwrap_or_else(|_| TopicPartitionList::new());
                // Held back, not fetched and dropped.
                let _ = self.consumer.pause(&assigned);
            }
            let wait = if taken > 0 { Duration::ZERO } else { SLICE };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let offset = message.offset();
                    let mut partitions = self.partitions.lock();
                    let place = partitions.place(message.topic(), message.partition());
                    partitions.known[place].under_way.push_back((offset, false));
                    drop(partitions);
                    taken += 1;
                    self.status.consumed.fetch_add(1, Ordering::Relaxed);
                    read(self.shapes.as_deref(), &message, tag(place, offset), each);
                }
                // Said by the producer, which can make it.
                Some(Err(error))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                Some(Err(error)) => tracing::debug!(broker = self.status.name, %error, "nothing to take"),
                None if taken > 0
                    || self.bell.0.swap(false, Ordering::AcqRel)
                    || clock::now() >= deadline =>
                {
                    break;
                }
                None => {}
            }
            if max == 0 {
                break;
            }
        }
        if max > 0
            && let Ok(assigned) = self.consumer.assignment()
        {
            let _ = self.consumer.resume(&assigned);
        }
    }

    fn done(&mut self, tag: u64) {
        let (place, offset) = place_of(tag);
        let mut partitions = self.partitions.lock();
        let Some(partition) = partitions.known.get_mut(place).filter(|known| !known.is_over) else { return };
        if let Ok(place) = partition.under_way.binary_search_by_key(&offset, |(offset, _)| *offset) {
            partition.under_way[place].1 = true;
        }
        let mut passed = None;
        while let Some((offset, true)) = partition.under_way.front().copied() {
            partition.under_way.pop_front();
            passed = Some(offset);
        }
        partition.is_done_with_more |= passed.is_some();
        if let Some(passed) = passed
            && let Err(error) = self.consumer.store_offset(&partition.topic, partition.number, passed)
        {
            // The partition is another member's by now, who gets these again.
            tracing::debug!(broker = self.status.name, %error, "an offset is not stored");
        }
    }

    fn finish(&mut self) {
        self.commit();
    }

    fn refuse(&mut self, tag: u64, reason: &str) -> bool {
        let (place, offset) = place_of(tag);
        let known = self.partitions.lock();
        let Some((topic, number)) = known.known.get(place).map(|known| (known.topic.clone(), known.number))
        else {
            return false;
        };
        drop(known);
        let Some(to) = self.shapes.as_ref().and_then(|shapes| shapes.dead_letters(&topic)) else {
            return false;
        };
        let buried = self.undertaker.bury(&topic, number, offset, reason, &to);
        let to = to.name;
        match buried {
            Ok(()) => {
                tracing::warn!(
                    topic,
                    partition = number,
                    offset,
                    reason,
                    to,
                    "a record cannot be worked on: put aside"
                );
                true
            }
            Err(error) => {
                tracing::warn!(topic, to, error, "no dead letter in Kafka; it is kept here");
                false
            }
        }
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }

    fn name(&self) -> &str {
        &self.status.name
    }
}

const OFFSET_MASK: u64 = (1 << 48) - 1;

/// Places are fewer than 2^16: a member has no more partitions.
fn tag(place: usize, offset: i64) -> u64 {
    (place as u64) << 48 | (offset.unsigned_abs() & OFFSET_MASK)
}

fn place_of(tag: u64) -> (usize, i64) {
    ((tag >> 48) as usize, (tag & OFFSET_MASK) as i64)
}

/// Hands on what a record says, in whichever shape.
fn read(
    shapes: Option<&dyn Shapes>,
    message: &BorrowedMessage<'_>,
    tag: u64,
    each: &mut dyn FnMut(u64, Taken<'_>),
) {
    let value = message.payload().unwrap_or_default();
    let Some(headers) = headers(message) else {
        let reason = "a header's name is not UTF-8".to_owned();
        return each(tag, Taken::Malformed { reason, value });
    };
    let arrived = Arrived {
        key: message.key().unwrap_or_default(),
        value,
        headers: &headers,
        timestamp_seconds: message.timestamp().to_millis().unwrap_or_default().div_euclid(1000),
    };
    if arrived.header("schema") == Some(raw_message::SCHEMA.as_bytes()) {
        return raw_message::read(&headers, value, |record| each(tag, Taken::Message(record)));
    }
    let shaped =
        shapes.and_then(|shapes| shapes.read(&arrived, &mut |record| each(tag, Taken::Message(record))));
    match shaped {
        Some(Ok(())) => {}
        Some(Err(reason)) => each(tag, Taken::Malformed { reason, value }),
        None => take_data_message(tag, value, each),
    }
}

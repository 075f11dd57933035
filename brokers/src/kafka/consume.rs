//! Taking messages: a member of a consumer group whose offsets are committed only after the messages were worked on,
//! in order.
//!
//! Cores finish in any order; an offset is stored for committing when everything before it in its partition is done.
//! librdkafka commits what is stored every second, and before a partition goes to another member.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::KafkaConfig;
use crate::{inbound::Source, status::SideStatus};

/// A wait is cut into pieces of this length, so that what the cores have done is not kept waiting.
const SLICE: Duration = Duration::from_millis(5);

/// What came of a partition and is not done.
#[derive(Debug, Default)]
struct Partition {
    /// In order: offset, and whether it is done.
    under_way: VecDeque<(i64, bool)>,
}

/// Partitions by number; a tag is the partition above and the offset below.
type Partitions = Arc<Mutex<BTreeMap<i32, Partition>>>;

struct Context {
    status: Arc<SideStatus>,
    partitions: Partitions,
    brokers: String,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(broker = self.status.name, brokers = self.brokers, %error, reason, "consumer");
    }

    fn stats(&self, statistics: Statistics) {
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        let lag: i64 = partitions.map(|partition| partition.consumer_lag.max(0)).sum();
        self.status.lag.store(lag.unsigned_abs(), Ordering::Relaxed);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let mut partitions = self.partitions.lock();
            for element in list.elements() {
                // The next member gets what is not done; ours finish to no effect.
                partitions.remove(&element.partition());
            }
        }
        tracing::info!(broker = self.status.name, ?rebalance, "the group shares its partitions anew");
    }
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
    partitions: Partitions,
    status: Arc<SideStatus>,
    topic: String,
    bell: Arc<Bell>,
}

impl KafkaSource {
    /// Joins the group; it need not reach a broker yet.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: &KafkaConfig, status: Arc<SideStatus>) -> Result<Self, String> {
        let partitions = Partitions::default();
        let context = Context {
            status: Arc::clone(&status),
            partitions: Arc::clone(&partitions),
            brokers: config.brokers.clone(),
        };
        let consumer: BaseConsumer<Context> = config
            .client()?
            .set("group.id", &config.consumer_group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.offset.store", "false")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "1000")
            .set("partition.assignment.strategy", "roundrobin")
            .set("session.timeout.ms", "20000")
            .set("heartbeat.interval.ms", "3000")
            .set("statistics.interval.ms", "1000")
            .set("allow.auto.create.topics", "false")
            .set("topic.metadata.refresh.interval.ms", "5000")
            .create_with_context(context)
            .map_err(|error| format!("kafka: {error}"))?;
        consumer
            .subscribe(&[&config.topic])
            .map_err(|error| format!("kafka.topic = {}: {error}", config.topic))?;
        Ok(Self {
            consumer,
            partitions,
            status,
            topic: config.topic.clone(),
            bell: Arc::new(Bell(AtomicBool::new(false))),
        })
    }
}

impl Source for KafkaSource {
    fn take(&mut self, max: usize, timeout: Duration, each: &mut dyn FnMut(u64, &[u8])) {
        let deadline = Instant::now() + timeout;
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
                    let (partition, offset) = (message.partition(), message.offset());
                    let mut partitions = self.partitions.lock();
                    partitions.entry(partition).or_default().under_way.push_back((offset, false));
                    drop(partitions);
                    taken += 1;
                    self.status.consumed.fetch_add(1, Ordering::Relaxed);
                    each(tag(partition, offset), message.payload().unwrap_or_default());
                }
                // Said by the producer, which can make it.
                Some(Err(error))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                Some(Err(error)) => tracing::debug!(broker = self.status.name, %error, "nothing to take"),
                None if taken > 0
                    || self.bell.0.swap(false, Ordering::AcqRel)
                    || Instant::now() >= deadline =>
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
        let (number, offset) = ((tag >> 48) as i32, (tag & OFFSET_MASK) as i64);
        let mut partitions = self.partitions.lock();
        let Some(partition) = partitions.get_mut(&number) else { return };
        if let Ok(place) = partition.under_way.binary_search_by_key(&offset, |(offset, _)| *offset) {
            partition.under_way[place].1 = true;
        }
        let mut passed = None;
        while let Some((offset, true)) = partition.under_way.front().copied() {
            partition.under_way.pop_front();
            passed = Some(offset);
        }
        drop(partitions);
        if let Some(passed) = passed
            && let Err(error) = self.consumer.store_offset(&self.topic, number, passed)
        {
            // The partition is another member's by now, who gets these again.
            tracing::debug!(broker = self.status.name, %error, "an offset is not stored");
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

fn tag(partition: i32, offset: i64) -> u64 {
    u64::from(partition.unsigned_abs()) << 48 | (offset.unsigned_abs() & OFFSET_MASK)
}

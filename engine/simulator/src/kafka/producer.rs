//! The rules of librdkafka's producer, as the publisher sets it up: batches of one partition, retried for ever and in order;
//! idempotent with `acks=all`, and then ended by the first batch that is refused for good (`enable.gapless.guarantee`).
//!
//! Names of functions in brackets are librdkafka's (2.12), where the rule was read.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use engine_core::clock;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::broker::{BATCH_HEAD_BYTES, Batch, Message, ProducerId, Refusal};

/// `topic.metadata.propagation.max.ms`: so long a topic that is not there may still come.
const PROPAGATION: Duration = Duration::from_secs(30);
/// `topic.metadata.refresh.interval.ms`.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// `request.timeout.ms`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// `max.in.flight.requests.per.connection` of an idempotent producer. Others have a million.
const IN_FLIGHT_MAX: usize = 5;
/// `RD_KAFKA_IDEMP_MAX_INFLIGHT`: with so many *messages* of a partition under way it sends no more there; with fewer, it sends
/// as many *batches* at once as are missing (`rd_kafka_toppar_producer_serve`).
const MESSAGES_UNDER_WAY: usize = 5;

/// `acks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// `0`: acknowledged when it is sent.
    None,
    /// `1`.
    Leader,
    /// `all`; idempotent.
    All,
}

/// What the publisher sets.
#[derive(Clone, Debug)]
pub struct Settings {
    pub acks: Acks,
    /// `batch.num.messages`.
    pub batch_messages: usize,
    /// `batch.size`.
    pub batch_bytes: usize,
    /// `queue.buffering.max.messages`.
    pub queue_messages: usize,
    /// `message.max.bytes`.
    pub message_bytes_max: usize,
}

/// What became of a record.
#[derive(Debug)]
pub enum Report {
    Acknowledged(usize),
    Failed { number: usize, code: Code, message: Rc<Message>, partition: Option<usize> },
}

/// A record that is not decided.
#[derive(Clone, Debug)]
struct Queued {
    number: usize,
    /// Where it was said to go.
    partition: Option<usize>,
    /// Counts a partition's records, from 1.
    id: u64,
    message: Rc<Message>,
    /// Of the first of a batch that was sent: the id of its last. It is sent again as it was.
    batch_last: Option<u64>,
}

/// What is known of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Exists,
    Absent,
}

#[derive(Debug)]
struct Known {
    state: State,
    since: Instant,
    /// The topic's own id; it is another one when the topic was made anew.
    id: u64,
    /// By partition.
    leaders: Vec<usize>,
    asked: Instant,
    /// To be asked for soon.
    stale: bool,
    /// Without a partition yet.
    unassigned: VecDeque<Queued>,
}

/// A partition.
#[derive(Debug)]
struct Place {
    queue: VecDeque<Queued>,
    next_id: u64,
    /// The producer id that it has, and the record's id that has its first sequence.
    producer: Option<ProducerId>,
    base: u64,
    in_flight: usize,
    messages_in_flight: usize,
    /// A batch is to be sent again: not before all that are in flight are back.
    drain: bool,
    next_ack: u64,
    next_error: u64,
    /// Highest id acknowledged.
    acked: u64,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            next_id: 1,
            producer: None,
            base: 1,
            in_flight: 0,
            messages_in_flight: 0,
            drain: false,
            next_ack: 0,
            next_error: 0,
            acked: 0,
        }
    }
}

/// A batch under way.
#[derive(Debug)]
struct Sent {
    node: usize,
    topic: String,
    partition: usize,
    producer: Option<ProducerId>,
    sequence: u64,
    records: VecDeque<Queued>,
    at: Instant,
}

/// A producer.
#[derive(Debug)]
pub struct Producer {
    pub settings: Settings,
    id: Option<ProducerId>,
    /// Nothing is sent any more.
    fatal: bool,
    /// The epoch is raised when nothing is in flight.
    bump: bool,
    topics: BTreeMap<String, Known>,
    places: BTreeMap<(String, usize), Place>,
    under_way: BTreeMap<u64, Sent>,
    held: usize,
    reports: VecDeque<Report>,
}

impl Producer {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            id: None,
            fatal: false,
            bump: false,
            topics: BTreeMap::new(),
            places: BTreeMap::new(),
            under_way: BTreeMap::new(),
            held: 0,
            reports: VecDeque::new(),
        }
    }

    fn is_idempotent(&self) -> bool {
        self.settings.acks == Acks::All
    }

    /// Takes a record ([`rd_kafka_producev`]).
    ///
    /// [`rd_kafka_producev`]: https://docs.confluent.io/platform/current/clients/librdkafka/html/rdkafka_8h.html
    pub fn send(&mut self, number: usize, partition: Option<usize>, message: Message) -> Result<(), Code> {
        if self.fatal {
            return Err(Code::Fatal);
        }
        if message.key.len() + message.value.len() > self.settings.message_bytes_max {
            return Err(Code::MessageSizeTooLarge);
        }
        if self.held >= self.settings.queue_messages {
            return Err(Code::QueueFull);
        }
        let now = clock::now();
        let known = self.topics.entry(message.topic.clone()).or_insert_with(|| Known {
            state: State::Unknown,
            since: now,
            id: 0,
            leaders: Vec::new(),
            asked: now,
            stale: true,
            unassigned: VecDeque::new(),
        });
        if known.state == State::Absent {
            return Err(Code::UnknownTopic);
        }
        if !known.leaders.is_empty() && partition.is_some_and(|partition| partition >= known.leaders.len()) {
            return Err(Code::UnknownPartition);
        }
        self.held += 1;
        let queued = Queued { number, partition, id: 0, message: Rc::new(message), batch_last: None };
        if known.leaders.is_empty() {
            known.unassigned.push_back(queued);
        } else {
            let partitions = known.leaders.len();
            self.assign(partitions, queued);
        }
        Ok(())
    }

    /// Puts a record into its partition's queue.
    fn assign(&mut self, partitions: usize, mut queued: Queued) {
        let partition = queued.partition.unwrap_or_else(|| partition_of(&queued.message.key, partitions));
        let place = self.places.entry((queued.message.topic.clone(), partition)).or_default();
        queued.id = place.next_id;
        place.next_id += 1;
        place.queue.push_back(queued);
    }

    /// Fails what is not sent ([`rd_kafka_purge`] with `RD_KAFKA_PURGE_F_QUEUE`).
    pub fn purge(&mut self) {
        for known in self.topics.values_mut() {
            for queued in known.unassigned.drain(..) {
                self.held -= 1;
                fail(&mut self.reports, queued, Code::PurgeQueue, None);
            }
        }
        for ((_, partition), place) in &mut self.places {
            for queued in place.queue.drain(..) {
                self.held -= 1;
                fail(&mut self.reports, queued, Code::PurgeQueue, Some(*partition));
            }
        }
    }

    pub fn next_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// Whether it waits for its id.
    pub fn wants_id(&self) -> bool {
        self.is_idempotent() && self.id.is_none() && !self.fatal
    }

    pub fn give_id(&mut self, id: u64) {
        self.id = Some((id, 0));
    }

    /// Topics that it wants to hear of.
    pub fn stale_topics(&self) -> impl Iterator<Item = &str> {
        let is_stale = |known: &Known| known.stale || clock::since(known.asked) > REFRESH_EVERY;
        self.topics.iter().filter(move |(_, known)| is_stale(known)).map(|(name, _)| name.as_str())
    }

    /// What the brokers say of a topic: its id and the leaders of its partitions (`rd_kafka_topic_metadata_update2`).
    pub fn learn(&mut self, topic: &str, truth: Option<(u64, Vec<usize>)>) {
        let now = clock::now();
        let Some(known) = self.topics.get_mut(topic) else { return };
        known.asked = now;
        let Some((id, leaders)) = truth else {
            if known.state == State::Absent || clock::since(known.since) < PROPAGATION {
                return;
            }
            known.state = State::Absent;
            known.stale = false;
            known.leaders.clear();
            let unassigned = std::mem::take(&mut known.unassigned);
            for queued in unassigned {
                self.held -= 1;
                fail(&mut self.reports, queued, Code::UnknownTopicOrPartition, None);
            }
            self.fail_places(topic, 0, Code::UnknownTopicOrPartition);
            return;
        };
        known.stale = false;
        if known.state != State::Exists {
            (known.state, known.since) = (State::Exists, now);
        }
        if known.id != id || leaders.len() > known.leaders.len() {
            known.id = id;
            let partitions = leaders.len();
            known.leaders = leaders;
            let unassigned = std::mem::take(&mut known.unassigned);
            for queued in unassigned {
                self.assign(partitions, queued);
            }
            self.fail_places(topic, partitions, Code::UnknownPartition);
        } else {
            // Partitions are never taken away.
            known.leaders[..leaders.len()].copy_from_slice(&leaders);
        }
    }

    /// Fails what waits in a topic's partitions from this number on.
    fn fail_places(&mut self, topic: &str, from: usize, code: Code) {
        for ((_, partition), place) in
            self.places.iter_mut().filter(|((name, number), _)| name == topic && *number >= from)
        {
            for queued in place.queue.drain(..) {
                self.held -= 1;
                fail(&mut self.reports, queued, code, Some(*partition));
            }
        }
    }

    /// Partitions that have something to send to this node, which has so many batches of ours.
    pub fn ready(&self, node: usize) -> impl Iterator<Item = (&str, usize)> {
        let in_flight = self.under_way.values().filter(|sent| sent.node == node).count();
        let may_send = !self.fatal
            && (!self.is_idempotent() || (self.id.is_some() && !self.bump && in_flight < IN_FLIGHT_MAX));
        let places = self.places.iter().filter(move |_| may_send);
        places
            .filter(move |((topic, partition), place)| {
                let led = self.topics.get(topic).and_then(|known| known.leaders.get(*partition));
                let other_id = place.producer != self.id && place.in_flight > 0;
                let is_full = self.is_idempotent() && place.messages_in_flight >= MESSAGES_UNDER_WAY;
                !place.queue.is_empty() && led == Some(&node) && !place.drain && !other_id && !is_full
            })
            .map(|((topic, partition), _)| (topic.as_str(), *partition))
    }

    /// How many batches it sends to this partition at once.
    pub fn burst(&self, node: usize, topic: &str, partition: usize) -> usize {
        let place = self.places.get(&(topic.to_owned(), partition));
        let under_way = place.map_or(0, |place| place.messages_in_flight);
        let in_flight = self.under_way.values().filter(|sent| sent.node == node).count();
        if self.is_idempotent() {
            MESSAGES_UNDER_WAY.saturating_sub(under_way).min(IN_FLIGHT_MAX.saturating_sub(in_flight))
        } else {
            1
        }
    }

    /// Makes a batch of what waits for this partition (`rd_kafka_msgset_writer_write_msgq`).
    pub fn make_batch(&mut self, request: u64, node: usize, topic: &str, partition: usize) -> Option<Batch> {
        let id = self.id;
        let Settings { batch_messages, batch_bytes, acks, .. } = self.settings;
        let place = self.places.get_mut(&(topic.to_owned(), partition))?;
        let first = place.queue.front()?;
        if place.producer != id {
            // `rd_kafka_toppar_pid_change`
            (place.producer, place.base, place.next_ack, place.next_error) = (id, first.id, 0, 0);
        }
        let sequence = first.id - place.base;
        let again = first.batch_last;
        let mut records = VecDeque::new();
        let mut bytes = BATCH_HEAD_BYTES;
        while let Some(next) = place.queue.front() {
            bytes += next.message.bytes();
            let fits = match again {
                Some(last) => next.id <= last,
                // What was sent before is a batch of its own.
                None if next.batch_last.is_some() => false,
                None => records.is_empty() || (records.len() < batch_messages && bytes <= batch_bytes),
            };
            if !fits {
                break;
            }
            records.extend(place.queue.pop_front());
        }
        let batch = Batch {
            producer: id.filter(|_| acks == Acks::All),
            sequence,
            topic: topic.to_owned(),
            partition,
            messages: records.iter().map(|queued: &Queued| Rc::clone(&queued.message)).collect(),
            acks_all: acks == Acks::All,
        };
        if acks == Acks::None {
            for queued in records {
                self.held -= 1;
                self.reports.push_back(Report::Acknowledged(queued.number));
            }
            return Some(batch);
        }
        place.in_flight += 1;
        place.messages_in_flight += records.len();
        let (topic, producer) = (topic.to_owned(), id);
        let sent = Sent { node, topic, partition, producer, sequence, records, at: clock::now() };
        self.under_way.insert(request, sent);
        Some(batch)
    }

    /// Whether a node has not answered for so long that its connection is given up.
    pub fn is_late(&self, node: usize) -> bool {
        let mut of_node = self.under_way.values().filter(|sent| sent.node == node);
        of_node.any(|sent| clock::since(sent.at) > REQUEST_TIMEOUT)
    }

    /// The connection to a node is lost: what was under way there is sent again.
    pub fn lose_connection(&mut self, node: usize) {
        let lost = self.under_way.iter().filter(|(_, sent)| sent.node == node).map(|(request, _)| *request);
        // The last first, so that each comes before those that were behind it.
        for request in lost.collect::<Vec<_>>().into_iter().rev() {
            self.answer(request, Err(Code::BrokerTransportFailure.into()));
        }
        for known in self.topics.values_mut() {
            known.stale |= known.leaders.contains(&node);
        }
    }

    /// A broker's answer has come (`rd_kafka_handle_Produce`).
    pub fn answer(&mut self, request: u64, answer: Result<(), Refusal>) {
        let Some(mut sent) = self.under_way.remove(&request) else { return };
        let (producer, is_idempotent) = (self.id, self.is_idempotent());
        let Some(place) = self.places.get_mut(&(sent.topic.clone(), sent.partition)) else { return };
        place.in_flight -= 1;
        place.messages_in_flight -= sent.records.len();
        if place.in_flight == 0 {
            place.drain = false;
        }
        let next_sequence = sent.sequence + sent.records.len() as u64;
        let ids = sent.records.front().zip(sent.records.back()).map(|(first, last)| (first.id, last.id));
        let Some((first, last)) = ids else { return };
        match answer {
            Ok(()) => {
                if is_idempotent && place.acked + 1 < first {
                    // What was before it and is to be sent again must be there, too (`rd_kafka_dr_implicit_ack`).
                    while let Some(queued) = place.queue.pop_front_if(|queued| queued.id <= last) {
                        self.held -= 1;
                        self.reports.push_back(Report::Acknowledged(queued.number));
                    }
                }
                if place.next_error == place.next_ack {
                    place.next_error = next_sequence;
                }
                place.next_ack = next_sequence;
                place.acked = place.acked.max(last);
                for queued in sent.records {
                    self.held -= 1;
                    self.reports.push_back(Report::Acknowledged(queued.number));
                }
            }
            Err(refusal) => {
                let mut code = refusal.code;
                let mut is_final = !may_be_tried_again(code);
                let mut ends = is_idempotent;
                if is_idempotent && sent.producer != producer {
                    is_final = true;
                } else if is_idempotent && code == Code::OutOfOrderSequenceNumber {
                    // What is behind one that failed; else librdkafka and the broker disagree.
                    is_final = sent.sequence <= place.next_ack;
                    self.bump |= !is_final;
                }
                if is_final {
                    place.next_error = next_sequence;
                    for (at, queued) in sent.records.into_iter().enumerate() {
                        self.held -= 1;
                        if !refusal.named.is_empty() {
                            let is_named = refusal.named.contains(&at);
                            code = if is_named { refusal.code } else { Code::InvalidDifferentRecord };
                        }
                        fail(&mut self.reports, queued, code, Some(sent.partition));
                    }
                } else {
                    ends = false;
                    place.next_error = next_sequence;
                    place.drain = is_idempotent && place.in_flight > 0;
                    if let Some(queued) = sent.records.front_mut() {
                        queued.batch_last = is_idempotent.then_some(last);
                    }
                    let at = place.queue.partition_point(|queued| queued.id < first);
                    let behind = place.queue.split_off(at);
                    place.queue.append(&mut sent.records);
                    place.queue.extend(behind);
                    if needs_metadata(code)
                        && let Some(known) = self.topics.get_mut(&sent.topic)
                    {
                        known.stale = true;
                    }
                }
                if ends {
                    self.fatal = true;
                    self.purge();
                }
            }
        }
        if self.bump && self.under_way.is_empty() {
            // `rd_kafka_idemp_drain_done`
            self.bump = false;
            self.id = self.id.map(|(id, epoch)| (id, epoch + 1));
        }
    }
}

fn fail(reports: &mut VecDeque<Report>, queued: Queued, code: Code, partition: Option<usize>) {
    reports.push_back(Report::Failed { number: queued.number, code, message: queued.message, partition });
}

/// `rd_kafka_handle_Produce_error`: all others are for good.
fn may_be_tried_again(code: Code) -> bool {
    needs_metadata(code) || matches!(code, Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend)
}

fn needs_metadata(code: Code) -> bool {
    matches!(code, Code::BrokerTransportFailure | Code::UnknownTopicOrPartition | Code::NotLeaderForPartition)
}

/// The partitioner: by the key alone.
pub fn partition_of(key: &[u8], partitions: usize) -> usize {
    let hash =
        key.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash as usize % partitions.max(1)
}

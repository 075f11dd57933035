//! The rules of a Kafka cluster: what becomes of a batch that arrives at a broker.
//!
//! The order of the checks is that of `UnifiedLog.append` (Kafka 4.1): the size of the batch, its records, then what is known
//! of its producer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use rdkafka::error::RDKafkaErrorCode as Code;

/// What a broker keeps of a producer's last batches in a partition, to recognise them (`ProducerStateEntry`).
const BATCHES_KNOWN: usize = 5;
/// `max.message.bytes` of a topic that sets none.
pub const MESSAGE_BYTES_MAX: usize = 1_048_588;
/// Bytes of a batch before its records (message format 2).
pub const BATCH_HEAD_BYTES: usize = 61;
/// Bytes of a record beside key, value and headers, at most (`RD_KAFKAP_MESSAGE_V2_MAX_OVERHEAD` of librdkafka).
pub const RECORD_HEAD_BYTES: usize = 36;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: String,
    /// What decides about its partition.
    pub key: Vec<u8>,
    /// Its content.
    pub value: Vec<u8>,
    /// In order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds of the Unix epoch, as its sender says.
    pub timestamp_ms: Option<i64>,
}

impl Message {
    /// Bytes in a batch.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4);
        RECORD_HEAD_BYTES + self.key.len() + self.value.len() + headers.sum::<usize>()
    }
}

/// A record that is, or was, in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its partition's number.
    pub partition: usize,
    /// Its offset there.
    pub offset: u64,
    /// What it is.
    pub message: Rc<Message>,
}

/// Who produces: an id, and an epoch that it raises when it begins its sequences anew.
pub type ProducerId = (u64, u16);

/// A produce request: one batch of one partition.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `None`: not idempotent.
    pub producer: Option<ProducerId>,
    /// Sequence of the first record.
    pub sequence: u64,
    pub topic: String,
    pub partition: usize,
    pub messages: Vec<Rc<Message>>,
    /// All that are in sync have to have it (`acks=all`).
    pub acks_all: bool,
}

impl Batch {
    fn bytes(&self) -> usize {
        BATCH_HEAD_BYTES + self.messages.iter().map(|message| message.bytes()).sum::<usize>()
    }
}

/// Why a batch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// The records that are named, by their places in the batch (`record_errors`, Kafka 2.4).
    pub named: Vec<usize>,
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, named: Vec::new() }
    }
}

/// What a partition knows of a producer.
#[derive(Debug, Default)]
struct Known {
    epoch: u16,
    /// First and last sequence of its last batches.
    batches: VecDeque<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// The node that leads it.
    pub(super) leader: usize,
    /// Offset of the first record that is left.
    pub(super) first: u64,
    pub(super) records: VecDeque<Rc<Message>>,
    producers: BTreeMap<u64, Known>,
}

#[derive(Debug)]
pub(super) struct Topic {
    /// Which of all topics ever made it is.
    pub(super) id: u64,
    pub(super) partitions: Vec<Partition>,
    pub(super) message_bytes_max: usize,
}

/// The topics, and what they do with a batch.
#[derive(Debug)]
pub struct Topics {
    pub(super) topics: BTreeMap<String, Topic>,
    /// Everything that was ever stored, in that order.
    pub(super) ever: Vec<Stored>,
    /// `max.message.bytes` of topics that are made.
    pub(super) message_bytes_max: usize,
    /// Records with these keys are refused as invalid.
    pub(super) invalid: BTreeSet<Vec<u8>>,
    /// Whether a refusal names the invalid records.
    pub(super) names_invalid: bool,
    /// A broker fails, for a reason that nobody says, at a batch with this key.
    pub(super) poison: Option<Vec<u8>>,
    /// Fewer are in sync than `min.insync.replicas`; noticed after the append?
    pub(super) too_few_in_sync: Option<bool>,
    pub(super) nodes: usize,
    made: u64,
}

impl Topics {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            topics: BTreeMap::new(),
            ever: Vec::new(),
            message_bytes_max: MESSAGE_BYTES_MAX,
            invalid: BTreeSet::new(),
            names_invalid: true,
            poison: None,
            too_few_in_sync: None,
            nodes,
            made: 0,
        }
    }

    /// Makes a topic; false when it is there.
    pub(super) fn create(&mut self, name: &str, partitions: usize) -> bool {
        if self.topics.contains_key(name) {
            return false;
        }
        self.made += 1;
        let mut topic =
            Topic { id: self.made, partitions: Vec::new(), message_bytes_max: self.message_bytes_max };
        topic.grow(partitions, self.nodes);
        self.topics.insert(name.to_owned(), topic);
        true
    }

    /// What the broker of this number does with a batch.
    pub(super) fn produce(&mut self, node: usize, batch: &Batch) -> Result<(), Refusal> {
        let topic = self.topics.get_mut(&batch.topic);
        let limit = topic.as_ref().map_or(0, |topic| topic.message_bytes_max);
        let partition = topic.and_then(|topic| topic.partitions.get_mut(batch.partition));
        let partition = partition.ok_or(Code::UnknownTopicOrPartition)?;
        if partition.leader != node {
            return Err(Code::NotLeaderForPartition.into());
        }
        if batch.acks_all && self.too_few_in_sync == Some(false) {
            return Err(Code::NotEnoughReplicas.into());
        }
        if self.poison.as_ref().is_some_and(|key| batch.messages.iter().any(|one| one.key == *key)) {
            return Err(Code::Unknown.into());
        }
        if batch.bytes() > limit {
            return Err(Code::MessageSizeTooLarge.into());
        }
        let places = batch.messages.iter().enumerate();
        let invalid = places.filter(|(_, message)| self.invalid.contains(&message.key));
        let invalid: Vec<usize> = invalid.map(|(place, _)| place).collect();
        if !invalid.is_empty() {
            let named = if self.names_invalid { invalid } else { Vec::new() };
            return Err(Refusal { code: Code::InvalidRecord, named });
        }
        if !partition.is_new(batch)? {
            return Ok(());
        }
        for message in &batch.messages {
            let offset = partition.first + partition.records.len() as u64;
            partition.records.push_back(Rc::clone(message));
            self.ever.push(Stored { partition: batch.partition, offset, message: Rc::clone(message) });
        }
        if batch.acks_all && self.too_few_in_sync == Some(true) {
            return Err(Code::NotEnoughReplicasAfterAppend.into());
        }
        Ok(())
    }
}

impl Topic {
    /// Adds partitions until there are so many.
    pub(super) fn grow(&mut self, partitions: usize, nodes: usize) {
        for number in self.partitions.len()..partitions {
            self.partitions.push(Partition { leader: number % nodes, ..Partition::default() });
        }
    }
}

impl Partition {
    /// Whether a batch comes for the first time, and in its turn (`ProducerAppendInfo.checkSequence`). What is not known of
    /// a producer is not held against it: its first batch here may have any sequence.
    fn is_new(&mut self, batch: &Batch) -> Result<bool, Refusal> {
        let Some((id, epoch)) = batch.producer else { return Ok(true) };
        let last = batch.sequence + batch.messages.len() as u64 - 1;
        if let Some(known) = self.producers.get(&id) {
            if epoch < known.epoch {
                return Err(Code::InvalidProducerEpoch.into());
            }
            let next = known.batches.back().map_or(0, |(_, last)| last + 1);
            if epoch == known.epoch && known.batches.contains(&(batch.sequence, last)) {
                return Ok(false);
            }
            if batch.sequence != if epoch == known.epoch { next } else { 0 } {
                return Err(Code::OutOfOrderSequenceNumber.into());
            }
        }
        let known = self.producers.entry(id).or_default();
        if known.epoch != epoch {
            *known = Known { epoch, batches: VecDeque::new() };
        }
        known.batches.push_back((batch.sequence, last));
        if known.batches.len() > BATCHES_KNOWN {
            known.batches.pop_front();
        }
        Ok(true)
    }
}

//! What a Kafka broker does with a batch. What needs several nodes (too few replicas in sync, another leader) is not asked.

use std::{collections::BTreeMap, net::TcpStream, path::PathBuf, sync::Arc, time::Duration};

use brokers::{
    Publisher,
    kafka::{KafkaConfig, librdkafka::Librdkafka},
    status::SideStatus,
};
use engine_core::clock::SimulatedClock;
use ledger::process::{self, Process};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Headers,
    types::RDKafkaErrorCode as Code,
};

use crate::{kafka_consumer, kafka_publisher, kafka_wire};

/// Who sends a batch, and which of its batches it is.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub id: u64,
    pub epoch: u16,
    pub sequence: u64,
}

/// A record of a batch: its key, and how long its value is.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub key: Option<&'a str>,
    pub bytes: usize,
}

/// A cluster that rules are asked of. Each rule has topics of its own.
pub trait Asked {
    fn create(&mut self, topic: &str, partitions: usize, settings: &[(&str, &str)]);
    fn delete(&mut self, topic: &str);
    fn add_partitions(&mut self, topic: &str, to: usize);
    /// Deletes the records of partition 0 below this offset.
    fn delete_records(&mut self, topic: &str, below: u64);
    fn restart(&mut self);
    fn produce(
        &mut self,
        place: (&str, usize),
        sender: Option<Sender>,
        records: &[Record<'_>],
    ) -> Result<(), (Code, Vec<usize>)>;
    /// The keys of partition 0, in order.
    fn keys(&mut self, topic: &str) -> Vec<String>;
    /// The numbers that the records' headers `message_id` are, by partition and in order.
    fn ids(&mut self, topic: &str) -> Vec<u64>;
    fn set_limit(&mut self, topic: &str, bytes: usize);
    fn publisher(&mut self, config: KafkaConfig, status: &Arc<SideStatus>) -> Box<dyn Publisher>;
    /// Lets a little happen.
    fn turn(&mut self);
}

fn records<'a>(keys: &[&'a str]) -> Vec<Record<'a>> {
    keys.iter().map(|key| Record { key: Some(key), bytes: 10 }).collect()
}

fn from(id: u64, epoch: u16, sequence: u64) -> Option<Sender> {
    Some(Sender { id, epoch, sequence })
}

fn refused(code: Code) -> Result<(), (Code, Vec<usize>)> {
    Err((code, Vec::new()))
}

fn rules(asked: &mut dyn Asked) {
    a_batch_over_the_topics_limit_is_refused_as_a_whole(asked);
    an_invalid_record_is_named_and_refuses_the_batch(asked);
    a_topic_or_partition_that_is_not_there_is_said(asked);
    a_batch_that_is_sent_again_is_stored_once(asked);
    a_gap_in_the_sequences_is_refused(asked);
    a_producer_that_is_not_known_may_begin_anywhere(asked);
    a_higher_epoch_begins_at_zero_and_shuts_the_lower_out(asked);
    a_made_anew_topic_knows_no_producer(asked);
    deleted_records_leave_their_producer_known(asked);
    a_restart_forgets_no_producer(asked);
}

fn a_batch_over_the_topics_limit_is_refused_as_a_whole(asked: &mut dyn Asked) {
    asked.create("limit", 1, &[("max.message.bytes", "1000")]);
    let large = [Record { key: Some("a"), bytes: 10 }, Record { key: Some("b"), bytes: 1000 }];
    assert_eq!(asked.produce(("limit", 0), None, &large), refused(Code::MessageSizeTooLarge));
    assert_eq!(asked.produce(("limit", 0), None, &records(&["c"; 8])), Ok(()));
    assert_eq!(asked.keys("limit"), ["c"; 8]);
    // Also when it is there already.
    let again = records(&["d"; 8]);
    assert_eq!(asked.produce(("limit", 0), from(1, 0, 0), &again), Ok(()));
}

fn an_invalid_record_is_named_and_refuses_the_batch(asked: &mut dyn Asked) {
    asked.create("compacted", 1, &[("cleanup.policy", "compact")]);
    let mut batch = records(&["a", "b", "c"]);
    batch[1].key = None;
    assert_eq!(asked.produce(("compacted", 0), from(1, 0, 0), &batch), Err((Code::InvalidRecord, vec![1])));
    assert_eq!(asked.keys("compacted"), [""; 0]);
}

fn a_topic_or_partition_that_is_not_there_is_said(asked: &mut dyn Asked) {
    asked.create("small", 1, &[]);
    for place in [("nowhere", 0), ("small", 1)] {
        assert_eq!(asked.produce(place, None, &records(&["a"])), refused(Code::UnknownTopicOrPartition));
    }
    asked.add_partitions("small", 2);
    assert_eq!(asked.produce(("small", 1), None, &records(&["a"])), Ok(()));
}

fn a_batch_that_is_sent_again_is_stored_once(asked: &mut dyn Asked) {
    asked.create("again", 1, &[]);
    for (sequence, key) in ["a", "b", "c", "d", "e", "f"].iter().enumerate() {
        assert_eq!(asked.produce(("again", 0), from(1, 0, sequence as u64), &records(&[key])), Ok(()));
    }
    // Five are known.
    for sequence in [5, 1, 3] {
        assert_eq!(asked.produce(("again", 0), from(1, 0, sequence), &records(&["z"])), Ok(()));
    }
    assert_eq!(
        asked.produce(("again", 0), from(1, 0, 0), &records(&["z"])),
        refused(Code::OutOfOrderSequenceNumber)
    );
    assert_eq!(asked.keys("again"), ["a", "b", "c", "d", "e", "f"]);
}

fn a_gap_in_the_sequences_is_refused(asked: &mut dyn Asked) {
    asked.create("gap", 1, &[]);
    assert_eq!(asked.produce(("gap", 0), from(1, 0, 0), &records(&["a", "b"])), Ok(()));
    let ahead = asked.produce(("gap", 0), from(1, 0, 3), &records(&["d"]));
    assert_eq!(ahead, refused(Code::OutOfOrderSequenceNumber));
    assert_eq!(asked.produce(("gap", 0), from(1, 0, 2), &records(&["c"])), Ok(()));
    assert_eq!(asked.keys("gap"), ["a", "b", "c"]);
}

fn a_producer_that_is_not_known_may_begin_anywhere(asked: &mut dyn Asked) {
    asked.create("unknown", 1, &[("max.message.bytes", "1000")]);
    let large = [Record { key: Some("a"), bytes: 1000 }];
    let first = asked.produce(("unknown", 0), from(1, 0, 0), &large);
    assert_eq!(first, refused(Code::MessageSizeTooLarge));
    // What was under way behind it is stored, for nothing was stored before.
    assert_eq!(asked.produce(("unknown", 0), from(1, 0, 1), &records(&["b"])), Ok(()));
    assert_eq!(asked.keys("unknown"), ["b"]);
}

fn a_higher_epoch_begins_at_zero_and_shuts_the_lower_out(asked: &mut dyn Asked) {
    asked.create("epoch", 1, &[]);
    assert_eq!(asked.produce(("epoch", 0), from(1, 0, 0), &records(&["a"])), Ok(()));
    let wrong = asked.produce(("epoch", 0), from(1, 1, 1), &records(&["b"]));
    assert_eq!(wrong, refused(Code::OutOfOrderSequenceNumber));
    assert_eq!(asked.produce(("epoch", 0), from(1, 1, 0), &records(&["c"])), Ok(()));
    let late = asked.produce(("epoch", 0), from(1, 0, 1), &records(&["d"]));
    assert_eq!(late, refused(Code::InvalidProducerEpoch));
    assert_eq!(asked.keys("epoch"), ["a", "c"]);
}

fn a_made_anew_topic_knows_no_producer(asked: &mut dyn Asked) {
    asked.create("anew", 1, &[]);
    assert_eq!(asked.produce(("anew", 0), from(1, 0, 0), &records(&["a"])), Ok(()));
    asked.delete("anew");
    assert_eq!(
        asked.produce(("anew", 0), from(1, 0, 1), &records(&["b"])),
        refused(Code::UnknownTopicOrPartition)
    );
    asked.create("anew", 1, &[]);
    assert_eq!(asked.produce(("anew", 0), from(1, 0, 5), &records(&["c"])), Ok(()));
    assert_eq!(asked.keys("anew"), ["c"]);
}

fn deleted_records_leave_their_producer_known(asked: &mut dyn Asked) {
    asked.create("deleted", 1, &[]);
    for (sequence, key) in ["a", "b"].iter().enumerate() {
        assert_eq!(asked.produce(("deleted", 0), from(1, 0, sequence as u64), &records(&[key])), Ok(()));
    }
    asked.delete_records("deleted", 2);
    assert_eq!(asked.produce(("deleted", 0), from(1, 0, 1), &records(&["b"])), Ok(()));
    let ahead = asked.produce(("deleted", 0), from(1, 0, 5), &records(&["z"]));
    assert_eq!(ahead, refused(Code::OutOfOrderSequenceNumber));
    assert_eq!(asked.produce(("deleted", 0), from(1, 0, 2), &records(&["c"])), Ok(()));
    assert_eq!(asked.keys("deleted"), ["c"]);
}

fn a_restart_forgets_no_producer(asked: &mut dyn Asked) {
    asked.create("restart", 1, &[]);
    assert_eq!(asked.produce(("restart", 0), from(1, 0, 0), &records(&["a"])), Ok(()));
    asked.restart();
    assert_eq!(asked.produce(("restart", 0), from(1, 0, 0), &records(&["a"])), Ok(()));
    let ahead = asked.produce(("restart", 0), from(1, 0, 5), &records(&["z"]));
    assert_eq!(ahead, refused(Code::OutOfOrderSequenceNumber));
    assert_eq!(asked.produce(("restart", 0), from(1, 0, 1), &records(&["b"])), Ok(()));
    assert_eq!(asked.keys("restart"), ["a", "b"]);
}

/// The model.
struct Model {
    cluster: simulator::kafka::Cluster,
    clock: SimulatedClock,
    rng: fastrand::Rng,
}

impl Asked for Model {
    fn create(&mut self, topic: &str, partitions: usize, settings: &[(&str, &str)]) {
        self.cluster.create_topic(topic, partitions);
        self.cluster.refuse_no_key();
        for (name, value) in settings {
            match *name {
                "max.message.bytes" => self.cluster.set_limit(topic, value.parse().unwrap()),
                // A record without a key.
                "cleanup.policy" => self.cluster.refuse_key(b"", true),
                name => panic!("the model does not know {name}"),
            }
        }
    }

    fn delete(&mut self, topic: &str) {
        assert!(self.cluster.delete_topic(topic));
    }

    fn add_partitions(&mut self, topic: &str, to: usize) {
        self.cluster.add_partitions(topic, to - 1);
    }

    fn delete_records(&mut self, topic: &str, below: u64) {
        self.cluster.retain(topic, 0, below as usize);
    }

    fn restart(&mut self) {
        self.cluster.down(0, 0);
        self.cluster.up(0);
    }

    fn produce(
        &mut self,
        (topic, partition): (&str, usize),
        sender: Option<Sender>,
        records: &[Record<'_>],
    ) -> Result<(), (Code, Vec<usize>)> {
        let messages = records.iter().map(|record| simulator::kafka::Message {
            topic: topic.to_owned(),
            key: record.key.unwrap_or_default().into(),
            value: vec![b'x'; record.bytes],
            headers: Vec::new(),
            timestamp_ms: None,
        });
        let sender = sender.map(|sender| ((sender.id, sender.epoch), sender.sequence));
        self.cluster.produce((topic, partition), sender, messages.collect())
    }

    fn keys(&mut self, topic: &str) -> Vec<String> {
        let stored = self.cluster.stored(topic).into_iter().filter(|stored| stored.partition == 0);
        stored.map(|stored| String::from_utf8_lossy(&stored.message.key).into_owned()).collect()
    }

    fn ids(&mut self, topic: &str) -> Vec<u64> {
        let stored = self.cluster.stored(topic).into_iter();
        let ids = stored.map(|stored| {
            let (_, id) = stored.message.headers.iter().find(|(name, _)| name == "message_id").unwrap();
            number(id)
        });
        ids.collect()
    }

    fn set_limit(&mut self, topic: &str, bytes: usize) {
        self.cluster.set_limit(topic, bytes);
    }

    fn publisher(&mut self, config: KafkaConfig, status: &Arc<SideStatus>) -> Box<dyn Publisher> {
        kafka_publisher::over(self.cluster.client(&config, status), config, status)
    }

    fn turn(&mut self) {
        for _ in 0..3 {
            self.cluster.step(&mut self.rng);
        }
        self.clock.advance(Duration::from_millis(10));
    }
}

fn number(id: &[u8]) -> u64 {
    std::str::from_utf8(id).unwrap().parse().unwrap()
}

/// A broker that listens.
pub struct Real {
    process: Process,
    folder: PathBuf,
    admin: AdminClient<DefaultClientContext>,
    options: AdminOptions,
    connection: TcpStream,
    /// The topics that there should be, and how many partitions they should have.
    made: BTreeMap<String, usize>,
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Real {
    fn start() -> Option<Self> {
        let installed = process::install_services();
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(installed.is_ok() || !ci, "Kafka cannot be installed: {installed:?}");
        if let Err(error) = &installed {
            eprintln!("skipped, because Kafka cannot be installed: {error:#}");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("tidegate-rules-{:016x}", fastrand::u64(..)));
        let process = process::kafka(&folder).unwrap();
        let admin = ClientConfig::new()
            .set("bootstrap.servers", format!("127.0.0.1:{}", process.port))
            .create()
            .unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let connection = TcpStream::connect(("127.0.0.1", process.port)).unwrap();
        Some(Self { process, folder, admin, options, connection, made: BTreeMap::new() })
    }

    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.process.port)
    }

    /// What a group has committed of partition 0.
    pub fn committed(&self, group: &str, topic: &str) -> Option<i64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .set("group.id", group)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, 0);
        let committed = consumer.committed_offsets(list, PATIENCE).unwrap();
        committed.elements()[0].offset().to_raw().filter(|offset| *offset >= 0)
    }

    fn consumer(&self) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", format!("127.0.0.1:{}", self.process.port))
            .set("group.id", "rules")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.process.kill();
        // It is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Asked for Real {
    fn create(&mut self, topic: &str, partitions: usize, settings: &[(&str, &str)]) {
        let new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
        let made = futures_executor::block_on(self.admin.create_topics(&[new], &self.options)).unwrap();
        made[0].as_ref().unwrap();
        self.made.insert(topic.to_owned(), partitions);
    }

    fn delete(&mut self, topic: &str) {
        let gone = futures_executor::block_on(self.admin.delete_topics(&[topic], &self.options)).unwrap();
        gone[0].as_ref().unwrap();
        self.made.remove(topic);
    }

    fn add_partitions(&mut self, topic: &str, to: usize) {
        let more = NewPartitions::new(topic, to);
        let made = futures_executor::block_on(self.admin.create_partitions(&[more], &self.options)).unwrap();
        made[0].as_ref().unwrap();
        self.made.insert(topic.to_owned(), to);
    }

    fn delete_records(&mut self, topic: &str, below: u64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(below as i64)).unwrap();
        futures_executor::block_on(self.admin.delete_records(&list, &self.options)).unwrap();
    }

    fn restart(&mut self) {
        // Java says 143.
        self.process.stop().unwrap();
        self.process.again().unwrap();
        self.process.wait().unwrap();
        self.connection = TcpStream::connect(("127.0.0.1", self.process.port)).unwrap();
    }

    fn produce(
        &mut self,
        (topic, partition): (&str, usize),
        sender: Option<Sender>,
        records: &[Record<'_>],
    ) -> Result<(), (Code, Vec<usize>)> {
        let place = (topic, partition as i32);
        let begun = std::time::Instant::now();
        loop {
            let (code, named) = kafka_wire::produce(&mut self.connection, place, sender, records);
            let code = match code {
                0 => return Ok(()),
                3 => Code::UnknownTopicOrPartition,
                6 => Code::NotLeaderForPartition,
                10 => Code::MessageSizeTooLarge,
                45 => Code::OutOfOrderSequenceNumber,
                47 => Code::InvalidProducerEpoch,
                87 => Code::InvalidRecord,
                code => panic!("{code}"),
            };
            // What was just made, or started, comes to a broker a little later.
            let is_made = self.made.get(topic).is_some_and(|count| partition < *count);
            let is_early = matches!(code, Code::NotLeaderForPartition | Code::UnknownTopicOrPartition);
            if is_made && is_early && begun.elapsed() < PATIENCE {
                continue;
            }
            return Err((code, named));
        }
    }

    fn keys(&mut self, topic: &str) -> Vec<String> {
        let consumer = self.consumer();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut keys = Vec::new();
        // The end is an error.
        while let Some(Ok(message)) = consumer.poll(PATIENCE) {
            keys.push(String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned());
        }
        keys
    }

    fn ids(&mut self, topic: &str) -> Vec<u64> {
        let consumer = self.consumer();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (mut ids, mut ends) = (BTreeMap::new(), 0);
        while ends < list.count() {
            match consumer.poll(PATIENCE).expect("an answer") {
                Err(KafkaError::PartitionEOF(_)) => ends += 1,
                message => {
                    let message = message.unwrap();
                    let id = message.headers().unwrap().iter().find(|header| header.key == "message_id");
                    let place = (message.partition(), message.offset());
                    ids.insert(place, number(id.unwrap().value.unwrap()));
                }
            }
        }
        ids.into_values().collect()
    }

    fn set_limit(&mut self, topic: &str, bytes: usize) {
        let bytes = bytes.to_string();
        let limit = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", &bytes);
        let set = futures_executor::block_on(self.admin.alter_configs(&[limit], &self.options)).unwrap();
        set[0].as_ref().unwrap();
    }

    fn publisher(&mut self, config: KafkaConfig, status: &Arc<SideStatus>) -> Box<dyn Publisher> {
        let config = KafkaConfig { brokers: format!("127.0.0.1:{}", self.process.port), ..config };
        kafka_publisher::over(Librdkafka::new(&config, status), config, status)
    }

    fn turn(&mut self) {}
}

#[test]
fn the_model_has_the_rules() {
    let cluster = simulator::kafka::Cluster::new(1);
    let mut model = Model { cluster, clock: SimulatedClock::start(0), rng: fastrand::Rng::with_seed(0) };
    rules(&mut model);
    kafka_publisher::stories(&mut model);
}

#[test]
fn the_real_one_has_the_rules() {
    let Some(mut real) = Real::start() else { return };
    rules(&mut real);
    kafka_publisher::stories(&mut real);
    kafka_consumer::a_topic_that_is_made_anew_is_read_from_its_beginning(&mut real);
}

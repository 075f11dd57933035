//! Against librdkafka's own mock of a cluster, which answers produce requests with the errors it is told to.

use std::{collections::HashMap, ops::Range, sync::Arc};

use engine_core::PartitionKey;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode as Code,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::{super::verdict::VERDICTS, *};

const TOPIC: &str = "messages";
/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    cluster
}

fn publisher(cluster: &Cluster) -> KafkaPublisher {
    publisher_with(cluster, 10_000)
}

fn publisher_with(cluster: &Cluster, batch_messages: usize) -> KafkaPublisher {
    let config = KafkaConfig {
        brokers: cluster.bootstrap_servers(),
        topic: TOPIC.into(),
        topic_choice: None,
        value: crate::raw_message::MessageValue::DataMessage,
        shapes: None,
        consumer_group: "none".into(),
        client_id: "test".into(),
        acks: "all".into(),
        compression: "none".into(),
        linger: Duration::from_millis(20),
        batch_messages,
        retry_backoff: Duration::from_millis(1),
        in_flight_max: 10_000,
        partition: PartitionKey::default(),
        security_protocol: "plaintext".into(),
        sasl_mechanism: String::new(),
        sasl_username: Default::default(),
        sasl_password: Default::default(),
        ssl_ca_location: String::new(),
    };
    KafkaPublisher::new(config, Arc::new(SideStatus::new("kafka"))).unwrap()
}

/// Publishes these messages and waits until each is decided: what became of it.
fn publish(publisher: &mut KafkaPublisher, numbers: Range<u64>) -> HashMap<u64, Result<(), Rejected>> {
    let (mut outcomes, mut next, begun) = (HashMap::new(), numbers.start, Instant::now());
    while (outcomes.len() as u64) < numbers.end - numbers.start {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} of {numbers:?}: {:?}",
            outcomes.len(),
            publisher.status.trouble()
        );
        while next < numbers.end {
            let id = format!("{next:05}");
            let record = Record { id: id.as_bytes(), payload: b"x", ..Record::default() };
            if publisher.publish(next, &record).is_err() {
                break;
            }
            next += 1;
        }
        let mut acks = Vec::new();
        publisher.poll(Duration::from_millis(10), &mut acks);
        for ack in acks {
            assert!(outcomes.insert(ack.tag, ack.outcome).is_none(), "{} is decided twice", ack.tag);
        }
    }
    assert_eq!(publisher.in_flight(), 0);
    outcomes
}

/// The keys of the topic's first `count` records, in order.
fn keys(cluster: &Cluster, count: usize) -> Vec<u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    (0..count)
        .map(|_| {
            let message = consumer.poll(PATIENCE).expect("a message").unwrap();
            std::str::from_utf8(message.key().unwrap()).unwrap().parse().unwrap()
        })
        .collect()
}

fn fail(cluster: &Cluster, code: Code, times: usize) {
    let code = RDKafkaRespErr::try_from(code as i32).unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, &vec![code; times]);
}

#[test]
fn no_code_that_came_with_a_batch_buries_a_message_or_changes_the_order() {
    // What the protocol guide has for Produce, and what the client says by itself comes on top.
    let others = [
        Code::NotLeaderForPartition,
        Code::RequestTimedOut,
        Code::NotEnoughReplicas,
        Code::NotEnoughReplicasAfterAppend,
        Code::InvalidRequiredAcks,
        Code::ClusterAuthorizationFailed,
        Code::UnsupportedVersion,
        Code::KafkaStorageError,
        Code::UnknownProducerId,
    ];
    let judged =
        VERDICTS.iter().map(|(code, _)| *code).filter(|code| (*code as i32) > 0 || *code == Code::Unknown);
    for code in judged.chain(others) {
        let cluster = cluster();
        let mut publisher = publisher(&cluster);
        // It goes alone and opens the partition; those behind it are a batch.
        publish(&mut publisher, 0..1);
        fail(&cluster, code, 1);
        let outcomes = publish(&mut publisher, 1..200);
        assert!(outcomes.values().all(Result::is_ok), "{code:?}: {outcomes:?}");
        assert_eq!(keys(&cluster, 200), (0..200).collect::<Vec<_>>(), "{code:?}");
    }
}

#[test]
fn a_message_that_is_refused_alone_is_the_only_dead_letter() {
    for code in VERDICTS.iter().filter(|(_, verdict)| *verdict == Verdict::Batch).map(|(code, _)| *code) {
        let cluster = cluster();
        let mut publisher = publisher(&cluster);
        // One message, so one batch of one.
        fail(&cluster, code, 1);
        let refused = publish(&mut publisher, 0..1).remove(&0).unwrap().unwrap_err();
        assert_eq!(refused.code, format!("{code:?}"));
        let outcomes = publish(&mut publisher, 0..200);
        assert!(outcomes.values().all(Result::is_ok), "{code:?}: {outcomes:?}");
        assert_eq!(keys(&cluster, 200), (0..200).collect::<Vec<_>>(), "{code:?}");
    }
}

#[test]
fn what_is_behind_a_first_batch_that_is_tried_again_does_not_acknowledge_it() {
    let cluster = cluster();
    let mut publisher = publisher_with(&cluster, 1);
    // To the first batch; with one message a batch, those behind it would be under way.
    fail(&cluster, Code::NotEnoughReplicas, 1);
    let outcomes = publish(&mut publisher, 0..200);
    assert!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(keys(&cluster, 200), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_key_is_in_the_partition_that_librdkafka_would_choose() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 7, 1).unwrap();
    let mut client = Librdkafka::new(&publisher(&cluster).config, &Arc::new(SideStatus::new("kafka")));
    client.renew(1000, BATCH_BYTES).unwrap();
    for n in 0..100 {
        let key = format!("key {n}");
        client.send(BaseRecord::with_opaque_to(TOPIC, n).key(key.as_bytes()).payload(&b"x"[..])).unwrap();
    }
    for _ in 0..100 {
        assert!(matches!(client.next(PATIENCE), Some(Event::Acknowledged(_))));
    }
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..7 {
        list.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut partitions = Partitions::new(false);
    partitions.learn(TOPIC, 7);
    for n in 0..100 {
        let message = consumer.poll(PATIENCE).expect("a message").unwrap();
        let ours = partitions.take(TOPIC, message.key().unwrap(), n, None);
        assert_eq!(ours, Some(message.partition()), "{:?}", message.key());
    }
}

#[test]
fn a_batch_is_halved_until_it_is_taken() {
    let cluster = cluster();
    let mut publisher = publisher(&cluster);
    publish(&mut publisher, 0..1);
    for (round, most) in [(0, 250), (1, 125), (2, 62)] {
        fail(&cluster, Code::MessageSizeTooLarge, 1);
        let begin = 1 + round * 333;
        let outcomes = publish(&mut publisher, begin..begin + 333);
        assert!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
        assert!(publisher.batch_messages <= most, "{}", publisher.batch_messages);
    }
    assert_eq!(keys(&cluster, 1000), (0..1000).collect::<Vec<_>>());
}

#[test]
fn the_docs_have_every_code_of_the_table() {
    let page = include_str!("../../../../docs/brokers.md");
    for (code, verdict) in VERDICTS {
        let judges = match verdict {
            Verdict::Batch => "| the batch |",
            Verdict::Doubt => "| the batch or the broker |",
            Verdict::Topic => "| the topic |",
            Verdict::Connection => "| the connection",
        };
        let row = page.lines().find(|line| line.contains(&format!("`{code:?}`")));
        assert!(row.is_some_and(|row| row.contains(judges)), "{code:?}: {row:?}");
    }
}

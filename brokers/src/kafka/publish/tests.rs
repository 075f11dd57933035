//! Against librdkafka's own mock of a cluster, which answers produce requests with the errors it is told to.

use std::{collections::HashMap, sync::Arc};

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
        batch_messages: 10_000,
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

/// Publishes messages 0 to `count` and waits until each is decided: what became of it.
fn publish(publisher: &mut KafkaPublisher, count: u64) -> HashMap<u64, Result<(), Rejected>> {
    let (mut outcomes, mut next, begun) = (HashMap::new(), 0, Instant::now());
    while (outcomes.len() as u64) < count {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} of {count}: {:?}",
            outcomes.len(),
            publisher.status.trouble()
        );
        while next < count {
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
        Code::InvalidMessage,
        Code::NotLeaderForPartition,
        Code::RequestTimedOut,
        Code::NotEnoughReplicas,
        Code::NotEnoughReplicasAfterAppend,
        Code::InvalidRequiredAcks,
        Code::ClusterAuthorizationFailed,
        Code::UnsupportedVersion,
        Code::KafkaStorageError,
        Code::UnknownProducerId,
        Code::Unknown,
    ];
    let judged = VERDICTS.iter().map(|(code, _)| *code).filter(|code| (*code as i32) > 0);
    for code in judged.chain(others) {
        let cluster = cluster();
        let mut publisher = publisher(&cluster);
        fail(&cluster, code, 1);
        let outcomes = publish(&mut publisher, 200);
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
        let refused = publish(&mut publisher, 1).remove(&0).unwrap().unwrap_err();
        assert_eq!(refused.code, format!("{code:?}"));
        let outcomes = publish(&mut publisher, 200);
        assert!(outcomes.values().all(Result::is_ok), "{code:?}: {outcomes:?}");
        assert_eq!(keys(&cluster, 200), (0..200).collect::<Vec<_>>(), "{code:?}");
    }
}

#[test]
fn a_batch_is_halved_until_it_is_taken() {
    let cluster = cluster();
    let mut publisher = publisher(&cluster);
    fail(&cluster, Code::MessageSizeTooLarge, 4);
    let outcomes = publish(&mut publisher, 1000);
    assert!(outcomes.values().all(Result::is_ok), "{outcomes:?}");
    assert!(publisher.batch_messages < 1000, "{}", publisher.batch_messages);
    assert_eq!(keys(&cluster, 1000), (0..1000).collect::<Vec<_>>());
}

#[test]
fn the_docs_have_every_code_of_the_table() {
    let page = include_str!("../../../../docs/brokers.md");
    for (code, verdict) in VERDICTS {
        let judges = match verdict {
            Verdict::Batch => "| the batch |",
            Verdict::Topic => "| the topic |",
            Verdict::Connection => "| the connection",
        };
        let row = page.lines().find(|line| line.contains(&format!("`{code:?}`")));
        assert!(row.is_some_and(|row| row.contains(judges)), "{code:?}: {row:?}");
    }
}

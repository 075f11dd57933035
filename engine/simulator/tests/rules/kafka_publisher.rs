//! The production publisher over the model and over librdkafka with a real broker: the same stories, the same ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    task::Waker,
    time::Duration,
};

use brokers::{
    Ack, Publisher, Rejected,
    kafka::{
        KafkaConfig,
        client::{Client, Event, Metadata, Outgoing},
        publish::KafkaPublisher,
        shape::Topic,
    },
    status::SideStatus,
};
use engine_core::{PartitionKey, Record};
use rdkafka::error::KafkaError;

use crate::kafka::Asked;

/// A publisher, and what it said.
pub struct Story<'a> {
    asked: &'a mut dyn Asked,
    publisher: Box<dyn Publisher>,
    pub status: Arc<SideStatus>,
    outcomes: BTreeMap<u64, Result<(), Rejected>>,
    next: u64,
    troubles: Vec<String>,
}

/// Turns that a story may take to do what it has to: of 10 ms, or of as much as the model does in one.
const TURNS_MAX: usize = 6000;

impl<'a> Story<'a> {
    fn begin(asked: &'a mut dyn Asked, topic: &str) -> Self {
        let config = KafkaConfig {
            // All in one partition, whatever there are.
            partition: PartitionKey::from_setting("source"),
            ..simulator::kafka::config(topic)
        };
        let status = Arc::new(SideStatus::new("kafka"));
        let publisher = asked.publisher(config, &status);
        Self { asked, publisher, status, outcomes: BTreeMap::new(), next: 0, troubles: Vec::new() }
    }

    fn turn(&mut self) {
        self.asked.turn();
        let mut acks = Vec::new();
        self.publisher.poll(Duration::from_millis(10), &mut acks);
        for Ack { tag, outcome } in acks {
            assert!(self.outcomes.insert(tag, outcome).is_none(), "{tag} is decided twice");
        }
        if let Some(trouble) = self.status.trouble().filter(|trouble| !self.troubles.contains(trouble)) {
            self.troubles.push(trouble);
        }
    }

    /// Publishes so many records of one key; all are taken.
    fn publish(&mut self, count: u64, bytes: impl Fn(u64) -> usize) {
        for _ in 0..count {
            let (id, payload) = (format!("{:05}", self.next), vec![b'x'; bytes(self.next)]);
            let record = Record { id: id.as_bytes(), source: b"key", payload: &payload, ..Record::default() };
            for turn in 0.. {
                if self.publisher.publish(self.next, &record).is_ok() {
                    break;
                }
                assert!(turn < TURNS_MAX, "{} is not taken: {:?}", self.next, self.status.trouble());
                self.turn();
            }
            self.next += 1;
        }
    }

    fn finish(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.publisher.in_flight() == 0 {
                return;
            }
            self.turn();
        }
        panic!("{} of {}: {:?}", self.outcomes.len(), self.next, self.status.trouble());
    }

    fn rejected(&self) -> Vec<u64> {
        let rejected = self.outcomes.iter().filter(|(_, outcome)| outcome.is_err());
        rejected.map(|(tag, _)| *tag).collect()
    }
}

pub fn stories(asked: &mut dyn Asked) {
    records_over_a_lowered_limit_are_the_only_ones_refused_and_the_order_is_kept(asked);
    a_deleted_topic_is_made_again_under_a_running_producer(asked);
}

fn records_over_a_lowered_limit_are_the_only_ones_refused_and_the_order_is_kept(asked: &mut dyn Asked) {
    asked.create("lowered", 2, &[]);
    let mut story = Story::begin(asked, "lowered");
    story.publish(2, |_| 10);
    story.finish();
    story.asked.set_limit("lowered", 4000);
    // At odd and even places, so that in halves of two they are the first ones and the second ones.
    let is_large = |number: u64| number.is_multiple_of(25);
    story.publish(300, |number| if is_large(number) { 6000 } else { 10 });
    story.finish();
    assert_eq!(story.rejected(), (2..302).filter(|number| is_large(*number)).collect::<Vec<_>>());
    let ids = story.asked.ids("lowered");
    assert_eq!(ids, (0..302).filter(|number| *number < 2 || !is_large(*number)).collect::<Vec<_>>());
}

fn a_deleted_topic_is_made_again_under_a_running_producer(asked: &mut dyn Asked) {
    asked.create("fleeting", 1, &[]);
    let mut story = Story::begin(asked, "fleeting");
    story.publish(20, |_| 10);
    story.finish();
    story.asked.delete("fleeting");
    story.publish(20, |_| 10);
    story.finish();
    story.publish(20, |_| 10);
    story.finish();
    assert!(story.rejected().is_empty());
    // What was acknowledged before went with its topic.
    let ids = story.asked.ids("fleeting");
    assert_eq!(ids, (20..60).collect::<Vec<_>>());
    let named = |trouble: &String| trouble.contains("kafka.topic (KAFKA_TOPIC) = fleeting");
    assert!(story.troubles.iter().any(named), "{:?}", story.troubles);
}

/// For those who have a client.
pub fn over<C: Client + 'static>(
    client: C,
    config: KafkaConfig,
    status: &Arc<SideStatus>,
) -> Box<dyn Publisher> {
    Box::new(KafkaPublisher::over(Unprivileged(client), config, Arc::clone(status)).unwrap())
}

/// A client of a user who may not ask for limits (`DESCRIBE_CONFIGS`): batches are not kept below them, but halved.
struct Unprivileged<C>(C);

impl<C: Client> Client for Unprivileged<C> {
    fn renew(&mut self, batch_messages: usize, batch_bytes: usize) -> Result<(), String> {
        self.0.renew(batch_messages, batch_bytes)
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), KafkaError> {
        self.0.send(record)
    }

    fn purge(&mut self) {
        self.0.purge();
    }

    fn next(&mut self, timeout: Duration) -> Option<Event> {
        self.0.next(timeout)
    }

    fn ask(&self, topic: &str, timeout: Duration) -> Result<Metadata, KafkaError> {
        self.0.ask(topic, timeout)
    }

    fn create(&self, topics: &[Topic]) -> Result<Vec<bool>, String> {
        self.0.create(topics)
    }

    fn message_bytes_max(&self, _topics: &[Topic]) -> Option<usize> {
        None
    }

    fn connected(&self) -> &AtomicBool {
        self.0.connected()
    }

    fn waker(&self) -> Waker {
        self.0.waker()
    }
}

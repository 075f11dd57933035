//! The model in the place of librdkafka, as the publisher sees it.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use brokers::{
    kafka::{
        KafkaConfig,
        client::{Client, Event, Metadata, Outgoing},
        shape::Topic,
    },
    status::SideStatus,
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{Header, Headers, OwnedHeaders, OwnedMessage, Timestamp},
};

use super::{
    Cluster,
    broker::Message,
    producer::{Acks, Report, Settings},
};

/// A client of a [`Cluster`]. Nothing waits: what it has not heard yet comes with later calls.
pub struct ModelClient {
    cluster: Cluster,
    config: KafkaConfig,
    connected: Rc<AtomicBool>,
    status: Arc<SideStatus>,
    /// The number of its producer.
    producer: Option<u64>,
}

impl ModelClient {
    pub(super) fn new(cluster: Cluster, config: &KafkaConfig, status: &Arc<SideStatus>) -> Self {
        Self {
            cluster,
            config: config.clone(),
            connected: Rc::default(),
            status: Arc::clone(status),
            producer: None,
        }
    }

    fn drop_producer(&mut self) {
        if let Some(number) = self.producer.take() {
            self.cluster.inside().drop_producer(number);
        }
    }
}

impl Drop for ModelClient {
    fn drop(&mut self) {
        self.drop_producer();
    }
}

impl Client for ModelClient {
    fn renew(&mut self, batch_messages: usize, batch_bytes: usize) -> Result<(), String> {
        self.drop_producer();
        let mut inside = self.cluster.inside();
        let settings = Settings {
            acks: match self.config.acks.as_str() {
                "0" => Acks::None,
                "1" => Acks::Leader,
                _ => Acks::All,
            },
            batch_messages,
            batch_bytes,
            queue_messages: self.config.in_flight_max,
            message_bytes_max: inside.client_message_bytes_max,
        };
        let (connected, status) = (Rc::clone(&self.connected), Arc::clone(&self.status));
        self.producer = Some(inside.add_producer(settings, connected, status));
        Ok(())
    }

    fn send(&mut self, record: Outgoing<'_>) -> Result<(), KafkaError> {
        let headers = record.headers.iter().flat_map(Headers::iter);
        let message = Message {
            topic: record.topic.to_owned(),
            key: record.key.unwrap_or_default().to_vec(),
            value: record.payload.unwrap_or_default().to_vec(),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                .collect(),
            timestamp_ms: record.timestamp,
        };
        let mut inside = self.cluster.inside();
        let producer = self.producer.and_then(|number| inside.producer(number));
        let partition = record.partition.and_then(|partition| usize::try_from(partition).ok());
        let sent = producer.map_or(Err(Code::QueueFull), |producer| {
            producer.send(record.delivery_opaque, partition, message)
        });
        sent.map_err(KafkaError::MessageProduction)
    }

    fn purge(&mut self) {
        let mut inside = self.cluster.inside();
        if let Some(producer) = self.producer.and_then(|number| inside.producer(number)) {
            producer.purge();
        }
    }

    fn next(&mut self, _timeout: Duration) -> Option<Event> {
        let mut inside = self.cluster.inside();
        let report = inside.producer(self.producer?)?.next_report()?;
        Some(match report {
            Report::Acknowledged(number) => Event::Acknowledged(number),
            Report::Failed { number, code, message, partition } => {
                Event::Failed(number, code, Box::new(owned(&message, partition)))
            }
        })
    }

    fn ask(&self, topic: &str, _timeout: Duration) -> Result<Metadata, KafkaError> {
        let mut inside = self.cluster.inside();
        if !inside.answers() {
            return Err(KafkaError::MetadataFetch(Code::BrokerTransportFailure));
        }
        let truth = inside.truth(topic);
        let partitions = truth.as_ref().map(|(_, leaders)| leaders.len());
        // The producer hears of it, too.
        if let Some(producer) = self.producer.and_then(|number| inside.producer(number)) {
            producer.learn(topic, truth);
        }
        Ok(Metadata {
            nodes: (0..inside.nodes()).map(|node| (node as i32, format!("model:{node}"))).collect(),
            topics: vec![(topic.to_owned(), partitions.ok_or(Code::UnknownTopicOrPartition))],
        })
    }

    fn create(&self, topics: &[Topic]) -> Result<Vec<bool>, String> {
        let mut inside = self.cluster.inside();
        if !inside.answers() {
            return Err(format!(
                "kafka.brokers = {}: no answer (look at KAFKA_BROKERS)",
                self.config.brokers
            ));
        }
        let made = topics.iter().map(|topic| {
            let partitions = usize::try_from(topic.partitions).unwrap_or(1);
            inside.topics.create(&topic.name, partitions)
        });
        Ok(made.collect())
    }

    fn message_bytes_max(&self, topics: &[Topic]) -> Option<usize> {
        let inside = self.cluster.inside();
        if !inside.answers() || !inside.tells_limits {
            return None;
        }
        let topics = topics.iter().filter_map(|topic| inside.topics.topics.get(&topic.name));
        topics.map(|topic| topic.message_bytes_max).min()
    }

    fn connected(&self) -> &AtomicBool {
        &self.connected
    }

    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }
}

/// A record as librdkafka gives it back.
fn owned(message: &Message, partition: Option<usize>) -> OwnedMessage {
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
    for (name, value) in &message.headers {
        headers = headers.insert(Header { key: name, value: Some(value) });
    }
    OwnedMessage::new(
        Some(message.value.clone()),
        Some(message.key.clone()),
        message.topic.clone(),
        message.timestamp_ms.map_or(Timestamp::NotAvailable, Timestamp::CreateTime),
        partition.map_or(-1, |partition| partition as i32),
        -1001,
        Some(headers),
    )
}

/// The brokers are gone: librdkafka says so once (`ERR__ALL_BROKERS_DOWN`).
pub(super) fn say_all_down(connected: &AtomicBool, status: &SideStatus) {
    connected.store(false, Ordering::Release);
    status.set_trouble(Some("kafka.brokers: all brokers are down (look at KAFKA_BROKERS)".to_owned()));
}

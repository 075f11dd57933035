//! Apache Kafka: the producer ([`publish`]), the consumer group ([`consume`]), what records look like ([`shape`]) and
//! the topics ([`topics`]).
//!
//! Configuration names are librdkafka's (its CONFIGURATION.md); record headers are those of contracts 2.7, with
//! `schema` and `traceparent`.

pub mod consume;
mod dead;
pub mod publish;
pub mod shape;
pub mod topics;
mod verdict;

use std::{sync::Arc, time::Duration};

use engine_core::PartitionKey;
use rdkafka::ClientConfig;

use self::shape::{Shapes, Topic};

/// Partitions of a topic that we have to create.
const PARTITIONS: i32 = 3;

/// How to reach Kafka, and what to do there.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Bootstrap brokers, separated by commas.
    pub brokers: String,
    /// The topic of messages.
    pub topic: String,
    /// The shapes and topics of events; without them events are messages like any other.
    pub shapes: Option<Arc<dyn Shapes>>,
    /// The consumer group.
    pub consumer_group: String,
    /// What the client calls itself.
    pub client_id: String,
    /// `all`, `1` or `0`.
    pub acks: String,
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// How long a batch waits for more.
    pub linger: Duration,
    /// Most messages of a batch.
    pub batch_messages: usize,
    /// First pause before a publish is tried again.
    pub retry_backoff: Duration,
    /// Publishes that may wait for their acknowledgement.
    pub in_flight_max: usize,
    /// What is a message's key; without one its id is.
    pub partition: PartitionKey,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub security_protocol: String,
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub sasl_mechanism: String,
    /// For SASL.
    pub sasl_username: String,
    /// For SASL.
    pub sasl_password: String,
    /// File with certificate authorities.
    pub ssl_ca_location: String,
}

impl KafkaConfig {
    /// The topics that are written to and read from, each once, that of messages first.
    pub fn topics(&self) -> Vec<Topic> {
        let own = Topic {
            name: self.topic.clone(),
            setting: "kafka.topic (KAFKA_TOPIC)",
            partitions: PARTITIONS,
            retention: None,
        };
        let mut topics = vec![own];
        for topic in self.shapes.iter().flat_map(|shapes| shapes.topics()) {
            if topics.iter().all(|known| known.name != topic.name) {
                topics.push(topic);
            }
        }
        topics
    }

    /// What producer and consumer have in common.
    ///
    /// # Errors
    /// When it asks for what this build does not have.
    fn client(&self) -> Result<ClientConfig, String> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            // What is wrong is said through the error callback, in our words.
            .set("log.connection.close", "false");
        if self.security_protocol != "plaintext" {
            if !cfg!(feature = "kafka-tls") {
                return Err(format!(
                    "kafka.security_protocol = {}: this binary was built without TLS and SASL towards Kafka; build it with --features kafka-tls",
                    self.security_protocol
                ));
            }
            config.set("security.protocol", &self.security_protocol);
            for (name, value) in [
                ("sasl.mechanism", &self.sasl_mechanism),
                ("sasl.username", &self.sasl_username),
                ("sasl.password", &self.sasl_password),
                ("ssl.ca.location", &self.ssl_ca_location),
            ] {
                if !value.is_empty() {
                    config.set(name, value);
                }
            }
        }
        Ok(config)
    }
}

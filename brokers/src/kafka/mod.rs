//! Apache Kafka: the producer ([`publish`]), the consumer group ([`consume`]), what records look like ([`shape`]) and
//! the topics ([`topics`]).
//!
//! Configuration names are librdkafka's (its CONFIGURATION.md); record headers are the older ingest system's, with
//! `schema` and `traceparent`.

pub mod client;
pub mod consume;
mod dead;
mod headers;
pub mod librdkafka;
mod partitions;
pub mod publish;
pub mod shape;
pub mod topics;
mod verdict;

use std::{sync::Arc, time::Duration};

use engine_core::PartitionKey;
use rdkafka::ClientConfig;

use self::shape::{Shapes, Topic};
use crate::{destination::Choice, raw_message::MessageValue, secret::Secret};

/// Partitions of a topic that we have to create.
const PARTITIONS: i32 = 3;

/// Reads the bootstrap brokers, `host:port` separated by commas, and gives them without blanks.
///
/// # Errors
/// What is wrong, and what would be right; the text is never quoted, for it may hold a password.
pub fn bootstrap(text: &str) -> Result<String, String> {
    let list: Vec<&str> = text.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    for (place, one) in list.iter().enumerate() {
        let wrong = |why: &str| Err(format!("broker {}: {why}; give host:port,host:port", place + 1));
        if one.contains('@') {
            return wrong(
                "a user has no place here, it goes into kafka.sasl_username and kafka.sasl_password",
            );
        }
        let rest = match one.split_once("://") {
            Some((scheme, rest)) if PROTOCOLS.iter().any(|known| scheme.eq_ignore_ascii_case(known)) => rest,
            Some(_) => return wrong("its scheme is none of Kafka's (PLAINTEXT://, SSL://, SASL_SSL://)"),
            None => one,
        };
        let (host, port) = rest.rsplit_once(':').filter(|_| !rest.ends_with(']')).unwrap_or((rest, "9092"));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_name) || port.parse::<u16>().is_err() {
            return wrong("it is no host and port");
        }
    }
    if list.is_empty() {
        return Err("there is no broker; give host:port,host:port".to_owned());
    }
    Ok(list.join(","))
}

/// The protocols that librdkafka takes in front of a broker.
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// Whether this build speaks TLS and SASL with Kafka.
pub const SPEAKS_TLS: bool = cfg!(feature = "kafka-tls");

/// How to reach Kafka, and what to do there.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Bootstrap brokers, separated by commas.
    pub brokers: String,
    /// The topic of messages.
    pub topic: String,
    /// Topics that messages choose by what they hold, instead of that one.
    pub topic_choice: Option<Choice>,
    /// What is written there. Both are read, by the record's `schema`.
    pub value: MessageValue,
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
    pub sasl_username: Secret,
    /// For SASL.
    pub sasl_password: Secret,
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
        let chosen = self.topic_choice.iter().flat_map(Choice::allowed).map(|name| Topic {
            name: name.to_owned(),
            setting: "kafka.topics_allowed",
            partitions: PARTITIONS,
            retention: None,
        });
        let chosen: Vec<Topic> = chosen.collect();
        let mut topics = vec![own];
        for topic in chosen.into_iter().chain(self.shapes.iter().flat_map(|shapes| shapes.topics())) {
            if topics.iter().all(|known| known.name != topic.name) {
                topics.push(topic);
            }
        }
        topics
    }

    /// Takes user and password out of a text that others have written.
    pub(crate) fn hide_in(&self, text: impl ToString) -> String {
        let text = self.sasl_username.hide_in(text.to_string().into());
        self.sasl_password.hide_in(text).into_owned()
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
            if !SPEAKS_TLS {
                return Err(format!(
                    "kafka.security_protocol = {}: this binary was built without TLS and SASL towards Kafka; build it with --features kafka-tls",
                    self.security_protocol
                ));
            }
            config.set("security.protocol", &self.security_protocol);
            for (name, value) in [
                ("sasl.mechanism", self.sasl_mechanism.as_str()),
                ("sasl.username", self.sasl_username.expose()),
                ("sasl.password", self.sasl_password.expose()),
                ("ssl.ca.location", self.ssl_ca_location.as_str()),
            ] {
                if !value.is_empty() {
                    config.set(name, value);
                }
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_and_ports_and_never_quoted() {
        assert_eq!(bootstrap(" a:1 , b,[::1]:3,SASL_SSL://c:4, ").unwrap(), "a:1,b,[::1]:3,SASL_SSL://c:4");
        for (text, why) in [
            ("", "no broker"),
            (" , ", "no broker"),
            ("joe:swordfish@a:1", "sasl_password"),
            ("a:1,http://swordfish", "broker 2"),
            ("a:swordfish", "host and port"),
            ("a:1/swordfish", "host and port"),
        ] {
            let error = bootstrap(text).unwrap_err();
            assert!(error.contains(why) && error.contains("host:port"), "{text}: {error}");
            assert!(!error.contains("swordfish"), "{text}: {error}");
        }
    }
}

//! Dead letters in Kafka: what of a topic of events cannot be worked on goes, as it came and with the reason, to a topic
//! beside it, in the older analytics system's shape.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use engine_core::clock;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{DeliveryResult, OwnedMessage},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use serde::Serialize;

use super::{KafkaConfig, headers::headers, shape::Topic, topics};

/// How long reading a record back, and writing its dead letter, may take.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Letter<'a> {
    original_topic: &'a str,
    original_partition: i32,
    original_offset: i64,
    original_key: String,
    original_value: String,
    /// Only there when the value is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    original_value_encoding: Option<&'static str>,
    error: &'a str,
    /// Seconds of the Unix epoch.
    timestamp: u64,
    headers: BTreeMap<&'a str, String>,
}

/// Notes whether the one record under way arrived.
#[derive(Clone, Default)]
struct Report(Arc<AtomicBool>);

impl ClientContext for Report {}

impl ProducerContext for Report {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.store(result.is_ok(), Ordering::Release);
    }
}

/// Writes dead letters; its connections are opened with the first one.
pub(super) struct Undertaker {
    config: KafkaConfig,
    producer: Option<BaseProducer<Report>>,
    arrived: Report,
    /// Topics that are known to be there.
    there: Vec<String>,
}

impl Undertaker {
    pub(super) fn new(config: &KafkaConfig) -> Self {
        Self { config: config.clone(), producer: None, arrived: Report::default(), there: Vec::new() }
    }

    /// Reads the record back and sends it to `to`. It is there when this returns.
    pub(super) fn bury(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        error: &str,
        to: &Topic,
    ) -> Result<(), String> {
        if !self.there.contains(&to.name) {
            topics::create(&self.config, std::slice::from_ref(to))?;
            self.there.push(to.name.clone());
        }
        let message = self.read_back(topic, partition, offset)?;
        let letter = letter(&message, error);
        let producer = match &self.producer {
            Some(producer) => producer,
            None => {
                let mut client = self.config.client()?;
                client.set("acks", "all").set("message.timeout.ms", TIMEOUT.as_millis().to_string());
                let made =
                    client.create_with_context(self.arrived.clone()).map_err(|error| error.to_string())?;
                self.producer.insert(made)
            }
        };
        let record = BaseRecord::to(&to.name).key(message.key().unwrap_or_default()).payload(&letter);
        self.arrived.0.store(false, Ordering::Release);
        producer.send(record).map_err(|(error, _)| error.to_string())?;
        // A record that did not arrive within its own time leaves the queue, too.
        producer.flush(TIMEOUT + Duration::from_secs(1)).map_err(|error| error.to_string())?;
        self.arrived
            .0
            .load(Ordering::Acquire)
            .then_some(())
            .ok_or_else(|| format!("{} does not take it", to.name))
    }

    fn read_back(&self, topic: &str, partition: i32, offset: i64) -> Result<OwnedMessage, String> {
        let consumer: BaseConsumer = self
            .config
            .client()?
            .set("group.id", format!("{}-dead-letters", self.config.consumer_group))
            .set("enable.auto.commit", "false")
            .create()
            .map_err(|error| error.to_string())?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .map_err(|error| error.to_string())?;
        consumer.assign(&list).map_err(|error| error.to_string())?;
        match consumer.poll(TIMEOUT) {
            Some(Ok(message)) if message.offset() == offset => Ok(message.detach()),
            Some(Ok(_)) => Err("the record is not there any more".to_owned()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the record was not read back in time".to_owned()),
        }
    }
}

/// The value of a dead letter.
fn letter(message: &OwnedMessage, error: &str) -> Vec<u8> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let value = message.payload().unwrap_or_default();
    let (original_value, original_value_encoding) = match std::str::from_utf8(value) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (STANDARD.encode(value), Some("base64")),
    };
    let headers = headers(message).unwrap_or_default().into_iter();
    let letter = Letter {
        original_topic: message.topic(),
        original_partition: message.partition(),
        original_offset: message.offset(),
        original_key: lossy(message.key().unwrap_or_default()),
        original_value,
        original_value_encoding,
        error,
        timestamp: clock::wall_ms() / 1000,
        headers: headers.map(|(name, value)| (name, lossy(value))).collect(),
    };
    // Text and numbers into a Vec: nothing can fail.
    serde_json::to_vec(&letter).unwrap_or_default()
}

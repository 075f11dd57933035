//! Topics: made if they are not there and never altered, and listed with what a group has not read.

use std::time::Duration;

use rdkafka::{
    TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode,
};

use super::{KafkaConfig, shape::Topic};

/// How long the brokers may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long for the topics' limits, without which it goes on.
const LIMITS_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes topics; says of each whether it was made (else it was there).
///
/// # Errors
/// The first that cannot be had, with the setting to look at. Those before it are made.
pub fn create(config: &KafkaConfig, topics: &[Topic]) -> Result<Vec<bool>, String> {
    let admin: AdminClient<DefaultClientContext> =
        config.client()?.create().map_err(|error| unreachable(config, &error))?;
    let retention: Vec<Option<String>> =
        topics.iter().map(|topic| topic.retention.map(|time| time.as_millis().to_string())).collect();
    let wanted: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&retention)
        .map(|(topic, retention)| {
            let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(-1));
            match retention {
                Some(ms) => new.set("retention.ms", ms),
                None => new,
            }
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let made = futures_executor::block_on(admin.create_topics(&wanted, &options));
    let made = made.map_err(|error| unreachable(config, &error))?;
    let outcome = |(made, topic): (Result<String, (String, RDKafkaErrorCode)>, &Topic)| match made {
        Ok(_) => Ok(true),
        Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(false),
        Err((_, code)) => Err(format!(
            "{} = {}: it does not exist and cannot be created: {code}; create it, or name another",
            topic.setting, topic.name
        )),
    };
    made.into_iter().zip(topics).map(outcome).collect()
}

/// The least `max.message.bytes` of these topics: what a broker takes as one batch, after compression. A topic that sets
/// none has the broker's `message.max.bytes` there. `None` when this user may not read it (`DESCRIBE_CONFIGS`),
/// or no answer comes within a second.
pub(super) fn message_bytes_max(config: &KafkaConfig, topics: &[Topic]) -> Option<usize> {
    let admin: AdminClient<DefaultClientContext> = config.client().ok()?.create().ok()?;
    let wanted: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let options =
        AdminOptions::new().operation_timeout(Some(LIMITS_TIMEOUT)).request_timeout(Some(LIMITS_TIMEOUT));
    let found = futures_executor::block_on(admin.describe_configs(&wanted, &options)).ok()?;
    let limit = |topic: rdkafka::admin::ConfigResource| {
        topic.get("max.message.bytes").and_then(|entry| entry.value.as_deref()?.parse::<usize>().ok())
    };
    found.into_iter().filter_map(|topic| limit(topic.ok()?)).min()
}

fn unreachable(config: &KafkaConfig, error: &dyn std::fmt::Display) -> String {
    config.hide_in(format!("kafka.brokers = {}: {error} (look at KAFKA_BROKERS)", config.brokers))
}

/// A topic that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: usize,
    /// Records that it holds.
    pub records: i64,
    /// Of these, how many the group of the settings has not passed; `None`: it has read nothing of it.
    pub lag: Option<i64>,
    /// The same by partition.
    pub lags: Vec<(i32, i64)>,
}

/// Every topic but the broker's own.
///
/// # Errors
/// When the brokers do not answer.
pub fn list(config: &KafkaConfig) -> Result<Vec<Found>, String> {
    let unreachable = |error: &dyn std::fmt::Display| unreachable(config, error);
    let consumer: BaseConsumer = config
        .client()?
        .set("group.id", &config.consumer_group)
        .create()
        .map_err(|error| unreachable(&error))?;
    let metadata = consumer.fetch_metadata(None, TIMEOUT).map_err(|error| unreachable(&error))?;
    let mut found = Vec::new();
    for topic in metadata.topics().iter().filter(|topic| !topic.name().starts_with("__")) {
        let mut list = TopicPartitionList::new();
        for partition in topic.partitions() {
            list.add_partition(topic.name(), partition.id());
        }
        let committed = consumer.committed_offsets(list, TIMEOUT).map_err(|error| unreachable(&error))?;
        let (mut records, mut lags, mut read) = (0, Vec::new(), false);
        for place in committed.elements() {
            let (low, high) = consumer
                .fetch_watermarks(topic.name(), place.partition(), TIMEOUT)
                .map_err(|error| unreachable(&error))?;
            records += high - low;
            let passed = place.offset().to_raw().filter(|offset| *offset >= 0);
            read |= passed.is_some();
            lags.push((place.partition(), high - passed.unwrap_or(low).max(low)));
        }
        found.push(Found {
            name: topic.name().to_owned(),
            partitions: topic.partitions().len(),
            records,
            lag: read.then(|| lags.iter().map(|(_, lag)| lag).sum()),
            lags,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

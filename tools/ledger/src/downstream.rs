//! Reads what arrived, from the start.

use std::{collections::HashSet, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use async_nats::jetstream::{consumer::pull, stream::RetentionPolicy};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::Value;

use crate::verdict::Found;

/// Says that a NATS message is several records, one to a line.
const PACK_HEADER: &str = "Tidegate-Pack";
const TIMEOUT: Duration = Duration::from_secs(30);

fn found(value: &Value) -> Result<Found> {
    let text = |name: &str| value[name].as_str().with_context(|| format!("no {name} in {value}"));
    let payload = String::from_utf8(STANDARD.decode(text("payload")?)?)?;
    Ok(Found { id: text("id")?.to_owned(), payload })
}

/// Every message of a log, shard by shard; a key is in one shard.
pub fn log(tidegate: &Path, directory: &Path) -> Result<Vec<Found>> {
    match dump(tidegate, directory)? {
        (dumped, None) => Ok(dumped.into_iter().map(|(_, found)| found).collect()),
        (_, Some(trouble)) => bail!("tidegate log dump: {trouble}"),
    }
}

/// A message with its shard and offset.
pub type Placed = ((u64, u64), Found);

/// Every message that a log shows, and what the dump said if it did not call that all.
pub fn dump(tidegate: &Path, directory: &Path) -> Result<(Vec<Placed>, Option<String>)> {
    let dump = Command::new(tidegate)
        .args(["log", "dump", "--json", "--directory"])
        .arg(directory)
        .output()
        .context("tidegate log dump")?;
    let trouble = (!dump.status.success()).then(|| String::from_utf8_lossy(&dump.stderr).trim().to_owned());
    let lines = String::from_utf8(dump.stdout)?;
    let placed = |line: &str| -> Result<Placed> {
        let value: Value = serde_json::from_str(line)?;
        let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name} in {value}"));
        Ok(((number("shard")?, number("offset")?), found(&value)?))
    };
    let placed: Result<Vec<Placed>> = lines.lines().map(placed).collect();
    Ok((placed?, trouble))
}

/// Side and message id of every dead letter.
pub fn dead_letters(tidegate: &Path, directory: &Path) -> Result<HashSet<(String, String)>> {
    let list = Command::new(tidegate)
        .args(["dlq", "list", "--json", "--directory"])
        .arg(directory)
        .output()
        .context("tidegate dlq list")?;
    if !list.status.success() {
        bail!("tidegate dlq list: {}", String::from_utf8_lossy(&list.stderr));
    }
    // Where there is none it says so, in words.
    let lines = String::from_utf8(list.stdout)?;
    let lines = lines.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| {
            let letter: Value = serde_json::from_str(line)?;
            let text = |name: &str| letter[name].as_str().unwrap_or_default().to_owned();
            Ok((text("side"), text("id")))
        })
        .collect()
}

/// Every message of a topic, partition by partition; a key is in one partition.
pub fn kafka(brokers: &str, topic: &str) -> Result<Vec<Found>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "ledger")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let topic_metadata = metadata.topics().first().context("no such topic")?;
    let mut all = Vec::new();
    for partition in topic_metadata.partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), TIMEOUT)?;
        if low == high {
            continue;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition.id(), Offset::Offset(low))?;
        consumer.assign(&list)?;
        loop {
            let Some(message) = consumer.poll(TIMEOUT) else {
                bail!("partition {} ends before its watermark {high}", partition.id());
            };
            let message = message?;
            all.push(found(&serde_json::from_slice(message.payload().unwrap_or_default())?)?);
            if message.offset() + 1 >= high {
                break;
            }
        }
    }
    Ok(all)
}

/// Every message of a stream.
pub fn nats(url: &str, stream: &str) -> Result<Vec<Found>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(url).await?);
        let mut stream = context.get_stream(stream).await?;
        let info = stream.info().await?;
        let state = info.state.clone();
        let mut all = Vec::with_capacity(usize::try_from(state.messages)?);
        if info.config.retention == RetentionPolicy::WorkQueue {
            // Has no second reader: one by one.
            for sequence in state.first_sequence..=state.last_sequence {
                match stream.get_raw_message(sequence).await {
                    Ok(message) => all.push(found(&serde_json::from_slice(&message.payload)?)?),
                    Err(error) if error.to_string().contains("no message") => {}
                    Err(error) => return Err(error).with_context(|| format!("sequence {sequence}")),
                }
            }
            return Ok(all);
        }
        let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
        let mut messages = consumer.messages().await?;
        let mut read = 0;
        while read < state.messages {
            let message = messages.next().await.context("the stream ends early")??;
            read += 1;
            let is_pack = message.headers.as_ref().is_some_and(|headers| headers.get(PACK_HEADER).is_some());
            for record in message.payload.split(|byte| is_pack && *byte == b'\n') {
                all.push(found(&serde_json::from_slice(record)?)?);
            }
        }
        Ok(all)
    })
}

/// A stream of these subjects that holds everything, worked on or not.
pub fn create_stream(url: &str, name: &str, subjects: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(url).await?);
        let config = async_nats::jetstream::stream::Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            ..Default::default()
        };
        context.get_or_create_stream(config).await?;
        Ok(())
    })
}

/// Messages of a stream that its consumer was not given, or did not acknowledge.
pub fn nats_left(url: &str, stream: &str, consumer: &str) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(url).await?);
        let stream = context.get_stream(stream).await?;
        let info = stream.consumer_info(consumer).await?;
        Ok(info.num_pending + info.num_ack_pending as u64)
    })
}

/// Messages of a topic that a group has not committed.
pub fn kafka_left(brokers: &str, topic: &str, group: &str) -> Result<u64> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", group).create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let topic_metadata = metadata.topics().first().context("no such topic")?;
    let mut list = TopicPartitionList::new();
    for partition in topic_metadata.partitions() {
        list.add_partition(topic, partition.id());
    }
    let mut left = 0;
    for element in consumer.committed_offsets(list, TIMEOUT)?.elements() {
        let (low, high) = consumer.fetch_watermarks(topic, element.partition(), TIMEOUT)?;
        let committed = element.offset().to_raw().filter(|offset| *offset >= 0).unwrap_or(low);
        left += high.saturating_sub(committed).max(0).unsigned_abs();
    }
    Ok(left)
}

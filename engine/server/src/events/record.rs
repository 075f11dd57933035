//! Events as records of the engine, and what a worker does with them.
//!
//! A record of an event has its protobuf bytes as payload, as they were sent. The first pairs of its metadata say which
//! user it belongs to (`tidegate-key`) and that it is an event (`schema`): so it finds its core and its partition, and
//! its way back through any broker.

use std::sync::Arc;

use engine_analytics::{Event as Analysed, Kind, Part};
use engine_core::{KEY_OVERRIDE, MetadataPairs, MetadataWriter, Outcome, Prefix, Process, Record};
use parking_lot::Mutex;
use prost::Message;
use tidegate_proto::analytics::v1::{
    Event, EventType, SystemEventType, TransactionStatus, TransactionType, event::EventData,
};
use transports::inject::Injected;

use super::{legacy, validate::milliseconds};

pub(super) const SCHEMA_KEY: &[u8] = b"schema";
const SCHEMA: &[u8] = b"analytics.v1.Event";
/// The older system's events, as their JSON.
pub(super) const LEGACY_SCHEMA: &[u8] = b"analytics.Event";

/// The record of an event that was found good.
pub(super) fn record(event: &Event, id: String) -> Injected {
    let mut metadata = Vec::new();
    let mut writer = MetadataWriter::new(&mut metadata);
    writer.push(KEY_OVERRIDE, event.user_id.as_bytes());
    writer.push(SCHEMA_KEY, SCHEMA);
    Injected {
        once: !event.id.is_empty(),
        id: id.into_bytes(),
        source: event.source.clone().into_bytes(),
        payload: event.encode_to_vec(),
        metadata,
        timestamp_seconds: event.timestamp.as_ref().map(|timestamp| timestamp.seconds),
    }
}

/// What kind of event a record is, if it is one.
enum Schema {
    Typed,
    Legacy,
}

fn schema(record: &Record<'_>) -> Option<Schema> {
    let mut pairs = MetadataPairs::new(record.metadata);
    let (name, value) = match pairs.next()? {
        (KEY_OVERRIDE, _) => pairs.next()?,
        first => first,
    };
    if name != SCHEMA_KEY {
        return None;
    }
    match value {
        SCHEMA => Some(Schema::Typed),
        LEGACY_SCHEMA => Some(Schema::Legacy),
        _ => None,
    }
}

/// The processing step: events go into the core's aggregates, everything else gets the older system's prefix.
#[derive(Debug)]
pub struct Worker {
    part: Option<Arc<Mutex<Part>>>,
}

impl Worker {
    /// Works for this core's aggregates, if there are to be any.
    pub fn new(part: Option<Arc<Mutex<Part>>>) -> Self {
        Self { part }
    }

    /// Adds a record's event to the aggregates, if it is one. False: it says it is one, and is none.
    pub fn analyse(&self, record: &Record<'_>) -> bool {
        let Some(part) = &self.part else { return true };
        match schema(record) {
            None => true,
            Some(Schema::Typed) => Event::decode(record.payload).is_ok_and(|event| {
                add(&mut part.lock(), record, &event);
                true
            }),
            Some(Schema::Legacy) => serde_json::from_slice(record.payload).is_ok_and(|event| {
                add_legacy(&mut part.lock(), record, &event);
                true
            }),
        }
    }
}

fn add_legacy(part: &mut Part, record: &Record<'_>, event: &legacy::Event) {
    let pairs = event.properties.iter().flatten();
    let properties: Vec<(&str, &str)> = pairs.map(|(key, value)| (key.as_str(), value.as_str())).collect();
    part.add(&Analysed {
        id: &event.id,
        user: &event.user_id,
        kind: event.kind(),
        name: &event.event_type,
        source: &event.source,
        timestamp_ms: record.timestamp_seconds.saturating_mul(1000),
        is_error: event.event_type == "error_event",
        properties: &properties,
        ..Analysed::default()
    });
}

fn add(part: &mut Part, record: &Record<'_>, event: &Event) {
    let id = String::from_utf8_lossy(record.id);
    let properties: Vec<(&str, &str)> =
        event.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let mut metrics = Vec::new();
    if let Some(EventData::CustomEvent(custom)) = &event.event_data {
        metrics.extend(custom.metrics.iter().map(|metric| (metric.name.as_str(), metric.value)));
    }
    let at = event.timestamp.as_ref().and_then(milliseconds);
    let event_type = EventType::try_from(event.event_type).unwrap_or_default();
    part.add(&Analysed {
        id: &id,
        user: &event.user_id,
        session: &event.session_id,
        kind: match event_type {
            EventType::Unspecified => Kind::Unspecified,
            EventType::User => Kind::User,
            EventType::Transaction => Kind::Transaction,
            EventType::System => Kind::System,
            EventType::Custom => Kind::Custom,
        },
        name: event_type.as_str_name(),
        source: &event.source,
        timestamp_ms: at.unwrap_or(record.timestamp_seconds.saturating_mul(1000)),
        amount_micros: amount(event),
        is_error: matches!(&event.event_data, Some(EventData::SystemEvent(system))
                if system.r#type() == SystemEventType::Error),
        metrics: &metrics,
        properties: &properties,
    });
}

/// What a transaction earned: completed purchases and subscriptions add, completed refunds take away; what is not
/// completed, and a transfer, is a transaction that earned nothing.
fn amount(event: &Event) -> Option<i64> {
    let Some(EventData::TransactionEvent(transaction)) = &event.event_data else { return None };
    // Below 10^12, as was checked.
    let micros = (transaction.amount * 1e6).round() as i64;
    Some(match (transaction.status(), transaction.r#type()) {
        (TransactionStatus::Completed, TransactionType::Purchase | TransactionType::Subscription) => micros,
        (TransactionStatus::Completed, TransactionType::Refund) => -micros,
        _ => 0,
    })
}

impl Process for Worker {
    fn process(&mut self, record: &Record<'_>, result: &mut Vec<u8>) -> Outcome {
        if schema(record).is_some() {
            return if self.analyse(record) { Outcome::Processed } else { Outcome::Failed };
        }
        Prefix.process(record, result)
    }
}

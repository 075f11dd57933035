//! Events as records of the engine, and what a worker does with them.
//!
//! A record of an event has its protobuf bytes as payload, as they were sent. The first pairs of its metadata say which
//! user it belongs to (`tidegate-key`) and that it is an event (`schema`): so it finds its core and its partition, and
//! its way back through any broker. That it is one is said by a bit of its kind ([`engine_core::schema`]).

use std::sync::Arc;

use engine_analytics::{Event as Analysed, Kind, Part};
use engine_core::{
    HOW_SENT, KEY_OVERRIDE, MetadataWriter, Outcome, Prefix, Process, Record, TRACE_KEY, schema::Judged,
};
use parking_lot::{ArcMutexGuard, Mutex, RawMutex};
use prost::Message;
use serde::Deserialize;
use smallvec::SmallVec;
use tidegate_proto::analytics::v1::{Event, EventType, SystemEventType, TransactionStatus, TransactionType};
use transports::{
    events::{EVENT_SCHEMA, SCHEMA_KEY},
    inject::Injected,
    message::{About, EventProto, decode_event, read_event},
};

use super::{
    calendar::now_ms,
    handling::Handling,
    kafka::ProducerEvent,
    legacy,
    object::Object,
    schema::{LEGACY_SCHEMA, PRODUCER_SCHEMA, schema},
    validate::check,
};

/// The record of an event that was found good.
pub(super) fn record(event: &Event, id: String, handling: &Handling) -> Injected {
    let mut metadata = Vec::new();
    let mut writer = MetadataWriter::new(&mut metadata);
    writer.push(KEY_OVERRIDE, event.user_id.as_bytes());
    writer.push(SCHEMA_KEY, EVENT_SCHEMA);
    if let Some(how) = handling.how {
        writer.push(HOW_SENT, how.as_bytes());
    }
    if let Some(trace) = &handling.trace {
        writer.push(TRACE_KEY, trace.as_bytes());
    }
    Injected {
        once: !event.id.is_empty() || handling.key.is_some(),
        id: id.into_bytes(),
        source: event.source.clone().into_bytes(),
        payload: event.encode_to_vec(),
        metadata,
        timestamp_seconds: event.timestamp.as_ref().map(|timestamp| timestamp.seconds),
    }
}

/// The schema of a record, if it is an event that is counted: the producer service's are only passed on.
fn counted(record: &Record<'_>) -> Option<&'static [u8]> {
    let schema = schema(record)?;
    [EVENT_SCHEMA, LEGACY_SCHEMA].into_iter().find(|known| *known == schema)
}

/// Whether a record is an event that is counted.
pub fn is_event(record: &Record<'_>) -> bool {
    counted(record).is_some()
}

/// The type of a record's event, as its sender wrote it. Empty: the record is no event; or its type is written with escapes,
/// or its payload is none.
pub fn event_type<'a>(record: &Record<'a>) -> &'a str {
    #[derive(Deserialize)]
    struct Legacy<'a> {
        event_type: &'a str,
    }
    #[derive(Deserialize)]
    struct Produced<'a> {
        #[serde(rename = "type")]
        event_type: &'a str,
    }
    let found = match schema(record) {
        Some(EVENT_SCHEMA) => read_event(record.payload)
            .and_then(|event| EventType::try_from(i32::from(event.event_type)).ok())
            .map(|event_type| event_type.as_str_name()),
        Some(LEGACY_SCHEMA) => {
            serde_json::from_slice(record.payload).ok().map(|Legacy { event_type }| event_type)
        }
        Some(_) => serde_json::from_slice(record.payload).ok().map(|Produced { event_type }| event_type),
        None => None,
    };
    found.unwrap_or_default()
}

/// Judges an event that came as a record, by the rules of the routes that take events of this schema.
///
/// # Errors
/// What is wrong with it, in words.
pub fn judge(schema: &[u8], payload: &[u8]) -> Result<Judged, String> {
    let now_ms = now_ms();
    match schema {
        EVENT_SCHEMA => {
            if let Some(event) = decode_event(payload, now_ms) {
                return Ok(Judged { id: event.id.into(), user: event.user_id.into(), payload: None });
            }
            let event =
                Event::decode(payload).map_err(|error| format!("not an analytics.v1.Event: {error}"))?;
            if let Some(wrong) = check(&event, "event", now_ms).first() {
                return Err(format!("{}: {}", wrong.field, wrong.message));
            }
            let payload = Some(event.encode_to_vec());
            Ok(Judged { id: event.id.into_bytes(), user: event.user_id.into_bytes(), payload })
        }
        LEGACY_SCHEMA => {
            let Object(event): Object<legacy::Event> = serde_json::from_slice(payload)
                .map_err(|error| format!("not an analytics.Event: {error}"))?;
            match event.wrong() {
                Some(wrong) => Err(wrong),
                None => {
                    Ok(Judged { id: event.id.into_bytes(), user: event.user_id.into_bytes(), payload: None })
                }
            }
        }
        PRODUCER_SCHEMA => {
            let Object(event): Object<ProducerEvent> =
                serde_json::from_slice(payload).map_err(|error| format!("not a producer.Event: {error}"))?;
            if event.id.is_empty() || event.event_type.is_empty() {
                return Err("not a producer.Event: id and type are required".to_owned());
            }
            Ok(Judged { id: event.id.into_bytes(), ..Judged::default() })
        }
        other => Err(format!("there is no schema `{}` of events", String::from_utf8_lossy(other))),
    }
}

/// [`judge`] for a record of a broker.
///
/// # Errors
/// As [`judge`].
pub fn judge_record(record: &Record<'_>) -> Result<Judged, String> {
    judge(schema(record).unwrap_or_default(), record.payload)
}

/// The processing step: events go into the core's aggregates, everything else gets the older system's prefix.
pub struct Worker {
    part: Option<Arc<Mutex<Part>>>,
    /// Held from the first event of a turn to its end: a lock for each would cost more than the counting.
    held: Option<ArcMutexGuard<RawMutex, Part>>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("counts", &self.part.is_some()).finish_non_exhaustive()
    }
}

impl Worker {
    /// Works for this core's aggregates, if there are to be any.
    pub fn new(part: Option<Arc<Mutex<Part>>>) -> Self {
        Self { part, held: None }
    }

    /// Adds a record's event to the aggregates, if it is one. `Some(false)`: it says it is one, and is none.
    pub fn analyse(&mut self, record: &Record<'_>) -> Option<bool> {
        let schema = counted(record)?;
        let Some(part) = &self.part else { return Some(true) };
        let part = self.held.get_or_insert_with(|| part.lock_arc());
        Some(match schema {
            // The rules were asked when it came.
            EVENT_SCHEMA => {
                read_event(record.payload).is_some_and(|event| add(part, record, &event).is_some())
            }
            _ => serde_json::from_slice(record.payload).is_ok_and(|Object(event)| {
                let legacy::Event { id, user_id, event_type, source, .. } = &event;
                // What came through the door was asked this; what others wrote to a broker was not.
                let is_sound = legacy::is_sound(id, user_id, event_type, source);
                if is_sound {
                    add_legacy(part, record, &event);
                }
                is_sound
            }),
        })
    }
}

fn add_legacy(part: &mut Part, record: &Record<'_>, event: &legacy::Event) {
    let pairs = event.properties.iter().flatten();
    let properties: Vec<(&[u8], &[u8])> =
        pairs.map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
    part.add(&Analysed {
        id: event.id.as_bytes(),
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

/// Values of an event that are few in most: those are kept in place.
const FEW: usize = 8;

/// Adds an event. `None`: a text of it is none, or it has no type.
fn add(part: &mut Part, record: &Record<'_>, event: &EventProto<'_>) -> Option<()> {
    let text = |bytes| str::from_utf8(bytes).ok();
    let properties: SmallVec<[(&[u8], &[u8]); FEW]> = event.properties().collect();
    let mut metrics = SmallVec::<[(&str, f64); FEW]>::new();
    if let About::Custom(named) = event.about {
        for (name, value) in named.iter() {
            metrics.push((text(name)?, value));
        }
    }
    let (kind, name) = match event.event_type {
        1 => (Kind::User, EventType::User),
        2 => (Kind::Transaction, EventType::Transaction),
        3 => (Kind::System, EventType::System),
        4 => (Kind::Custom, EventType::Custom),
        // What came through the door has one of these.
        _ => return None,
    };
    part.add(&Analysed {
        id: record.id,
        user: text(event.user_id)?,
        session: text(event.session_id)?,
        kind,
        name: name.as_str_name(),
        source: text(event.source)?,
        timestamp_ms: event.timestamp_ms.unwrap_or(record.timestamp_seconds.saturating_mul(1000)),
        amount_micros: amount(event.about),
        is_error: matches!(event.about, About::System { kind } if kind == SystemEventType::Error as u64),
        metrics: &metrics,
        properties: &properties,
        detail: event.about_wire,
    });
    Some(())
}

/// What a transaction earned: completed purchases and subscriptions add, completed refunds take away; what is not
/// completed, and a transfer, is a transaction that earned nothing.
fn amount(about: About<'_>) -> Option<i64> {
    const COMPLETED: u64 = TransactionStatus::Completed as u64;
    const PURCHASE: u64 = TransactionType::Purchase as u64;
    const SUBSCRIPTION: u64 = TransactionType::Subscription as u64;
    const REFUND: u64 = TransactionType::Refund as u64;
    let About::Transaction { amount, kind, status } = about else { return None };
    // At most 10^12, as was checked.
    let micros = (amount * 1e6).round() as i64;
    Some(match (status, kind) {
        (COMPLETED, PURCHASE | SUBSCRIPTION) => micros,
        (COMPLETED, REFUND) => -micros,
        _ => 0,
    })
}

impl Process for Worker {
    fn process(&mut self, record: &Record<'_>, result: &mut Vec<u8>) -> Outcome {
        match self.analyse(record) {
            None => Prefix.process(record, result),
            Some(true) => Outcome::Processed,
            Some(false) => Outcome::Failed,
        }
    }

    fn rest(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use engine_analytics::Bounds;

    use engine_core::KIND_EVENT;

    use super::*;

    #[test]
    fn a_record_that_says_it_is_an_event_and_is_none_is_given_up() {
        let part = Arc::new(Mutex::new(Part::new(Bounds::default())));
        let mut worker = Worker::new(Some(Arc::clone(&part)));
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(SCHEMA_KEY, LEGACY_SCHEMA);
        let cases: [(&[u8], Outcome); 6] = [
            (br#"{"id":"e-1","event_type":"page_view"}"#, Outcome::Processed),
            (br#"{"id":"","event_type":""}"#, Outcome::Failed),
            (br#"{"id":"e-1"}"#, Outcome::Failed),
            (b"{}", Outcome::Failed),
            (br#"["e-1","u","page_view",{},0,"web"]"#, Outcome::Failed),
            (b"page_view", Outcome::Failed),
        ];
        for (payload, outcome) in cases {
            let record =
                Record { id: b"r", payload, metadata: &metadata, kind: KIND_EVENT, ..Record::default() };
            let text = String::from_utf8_lossy(payload);
            assert_eq!(worker.process(&record, &mut Vec::new()), outcome, "{text}");
        }
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(SCHEMA_KEY, EVENT_SCHEMA);
        for (user, event_type, outcome) in [
            ("u", 1, Outcome::Processed),
            ("u", 0, Outcome::Failed),
            ("u", 5, Outcome::Failed),
            ("", 1, Outcome::Failed),
        ] {
            let event = Event { user_id: user.to_owned(), event_type, ..Event::default() };
            let payload = event.encode_to_vec();
            let record = Record {
                id: b"r",
                payload: &payload,
                metadata: &metadata,
                kind: KIND_EVENT,
                ..Record::default()
            };
            assert_eq!(worker.process(&record, &mut Vec::new()), outcome, "{user} {event_type}");
        }
        worker.rest();
        assert_eq!(part.lock().events(), 2);
    }
}

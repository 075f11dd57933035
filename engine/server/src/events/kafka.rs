//! Events as the older systems' Kafka records, out and back.
//!
//! An event of `analytics.v1` says more than the older system's JSON can. Its value is that JSON all the same, so that
//! whoever knows only that can read it; the whole event travels beside it as header [`WHOLE`], and comes back whole.

use std::time::Duration;

use brokers::kafka::shape::{Arrived, Outgoing, Shapes, Topic};
use engine_core::{
    HOW_SENT, KEY_OVERRIDE, KIND_EVENT, MetadataPairs, MetadataWriter, Record, TRACE_FIELD, TRACE_KEY,
    Traceparent,
};
use prost::Message;
use serde::Deserialize;
use tidegate_proto::analytics::v1::{Event, EventType, SystemEventType, event::EventData};

use transports::events::{EVENT_SCHEMA, SCHEMA_KEY};

use super::{
    legacy,
    object::Object,
    schema::{LEGACY_SCHEMA, PRODUCER_SCHEMA, schema},
};

/// The header with the protobuf of an `analytics.v1.Event`.
pub const WHOLE: &str = "event-bin";
/// Events of the producer service have one version.
const PRODUCER_VERSION: &[u8] = b"1.0";

/// Says whose time an event's value has, where it is not the event's own.
const TIME_OF: &str = "time-of";
const ACCEPTANCE: &[u8] = b"acceptance";

/// A day.
const DAY: Duration = Duration::from_secs(86_400);

/// The shapes and topics of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventShapes {
    /// Of messages that are no events.
    pub messages: String,
    /// Of the analytics platform's events.
    pub analytics: String,
    /// Of the producer service's events.
    pub producer: String,
}

impl EventShapes {
    /// Every topic that Tidegate knows: those of [`Shapes::topics`], and those that consumers and dead letters use.
    pub fn all_topics(&self) -> Vec<Topic> {
        let beside =
            |name: String, setting, partitions, retention| Topic { name, setting, partitions, retention };
        let mut all = vec![Topic {
            name: self.messages.clone(),
            setting: "kafka.topic (KAFKA_TOPIC)",
            partitions: 3,
            retention: None,
        }];
        all.extend(self.topics());
        let analytics = "kafka.topic_analytics (KAFKA_TOPIC_EVENTS)";
        all.push(beside("metrics-data".to_owned(), analytics, 3, Some(3 * DAY)));
        all.push(beside(format!("{}-processed", self.analytics), analytics, 3, Some(DAY)));
        all.extend(
            [&self.analytics, &self.producer].into_iter().filter_map(|topic| self.dead_letters(topic)),
        );
        let mut names = Vec::new();
        all.retain(|topic| {
            let is_new = !names.contains(&topic.name);
            names.push(topic.name.clone());
            is_new
        });
        all
    }
}

/// The value of a pair of metadata.
fn pair<'a>(record: &Record<'a>, name: &[u8]) -> Option<&'a [u8]> {
    MetadataPairs::new(record.metadata).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Headers that say how an event was sent, in the older producer's words.
fn how(record: &Record<'_>, event_type: &[u8], out: &mut Outgoing) {
    out.header("timestamp", record.timestamp_seconds.to_string().as_bytes());
    match pair(record, HOW_SENT) {
        Some(b"async") => out.header("async", b"true"),
        Some(b"batch") => {
            out.header("batch", b"true");
            out.header("event_type", event_type);
            out.header("source", record.source);
        }
        _ => out.header("producer_id", b"analytics-producer"),
    }
    out.header("schema", LEGACY_SCHEMA);
    out.header("message_id", record.id);
}

/// What of a typed event the older JSON can say.
fn as_legacy(record: &Record<'_>, event: &Event) -> legacy::Event {
    let event_type = match (&event.event_data, event.event_type()) {
        (Some(EventData::CustomEvent(custom)), _) if !custom.name.is_empty() => custom.name.clone(),
        (Some(EventData::SystemEvent(system)), EventType::System)
            if system.r#type() == SystemEventType::Error =>
        {
            "error_event".to_owned()
        }
        (_, EventType::User) => "user_action".to_owned(),
        (_, EventType::Transaction) => "transaction".to_owned(),
        (_, EventType::System) => "system_event".to_owned(),
        (_, EventType::Custom | EventType::Unspecified) => "custom_event".to_owned(),
    };
    let mut properties = event.properties.clone().into_iter().collect::<std::collections::HashMap<_, _>>();
    if !event.session_id.is_empty() {
        properties.entry("session_id".to_owned()).or_insert_with(|| event.session_id.clone());
    }
    legacy::Event {
        id: String::from_utf8_lossy(record.id).into_owned(),
        user_id: event.user_id.clone(),
        event_type,
        properties: Some(properties),
        timestamp: record.timestamp_seconds,
        source: event.source.clone(),
    }
}

/// What of a producer event is looked at.
#[derive(Deserialize)]
pub(super) struct ProducerEvent {
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) event_type: String,
    #[serde(default)]
    source: String,
}

/// Fields by which a record without a header `schema` is told.
#[derive(Deserialize)]
struct Look {
    payload: Option<serde::de::IgnoredAny>,
    user_id: Option<serde::de::IgnoredAny>,
    event_type: Option<serde::de::IgnoredAny>,
    data: Option<serde::de::IgnoredAny>,
    r#type: Option<serde::de::IgnoredAny>,
}

enum Kind {
    Analytics,
    Producer,
}

fn kind(arrived: &Arrived<'_>) -> Option<Kind> {
    match arrived.header("schema") {
        Some(LEGACY_SCHEMA) => Some(Kind::Analytics),
        Some(PRODUCER_SCHEMA) => Some(Kind::Producer),
        Some(_) => None,
        None => match serde_json::from_slice::<Object<Look>>(arrived.value).ok()?.0 {
            Look { payload: Some(_), .. } => None,
            Look { user_id: Some(_), event_type: Some(_), .. } => Some(Kind::Analytics),
            Look { r#type: Some(_), data: Some(_), .. } => Some(Kind::Producer),
            _ => None,
        },
    }
}

/// An older event's JSON, as this program writes it, with another time. Nothing else of it changes, so that it is the same
/// message again when its time is taken back. `None`: somebody else wrote it.
fn with_time(json: &[u8], from: i64, to: i64) -> Option<Vec<u8>> {
    // Between two fields a quote is the end of a text: in a text it has a backslash in front.
    let written = |time: i64| format!(",\"timestamp\":{time},\"source\":\"");
    let (before, after) = (written(from), written(to));
    let place = std::str::from_utf8(json).ok()?.rfind(&before)?;
    Some([&json[..place], after.as_bytes(), &json[place + before.len()..]].concat())
}

fn read_analytics(arrived: &Arrived<'_>, then: &mut dyn FnMut(&Record<'_>)) -> Result<(), String> {
    let Object(event): Object<legacy::Event> =
        serde_json::from_slice(arrived.value).map_err(|error| format!("not an analytics.Event: {error}"))?;
    if event.id.is_empty() || event.event_type.is_empty() {
        return Err("not an analytics.Event: id and event_type are required".to_owned());
    }
    let whole = arrived.header(WHOLE);
    let mut metadata = Vec::new();
    let mut writer = MetadataWriter::new(&mut metadata);
    if !event.user_id.is_empty() {
        writer.push(KEY_OVERRIDE, event.user_id.as_bytes());
    }
    writer.push(SCHEMA_KEY, if whole.is_some() { EVENT_SCHEMA } else { LEGACY_SCHEMA });
    for (header, value) in [("async", &b"async"[..]), ("batch", b"batch")] {
        if arrived.header(header).is_some() {
            writer.push(HOW_SENT, value);
        }
    }
    push_trace(arrived, &mut writer);
    // Without a time of its own it has that of its acceptance, which may be long before it was sent to Kafka.
    let accepted = || std::str::from_utf8(arrived.header("timestamp")?).ok()?.parse().ok();
    let is_ours = arrived.header(TIME_OF) == Some(ACCEPTANCE);
    let timeless = is_ours.then(|| with_time(arrived.value, event.timestamp, 0)).flatten();
    then(&Record {
        id: event.id.as_bytes(),
        source: event.source.as_bytes(),
        payload: whole.or(timeless.as_deref()).unwrap_or(arrived.value),
        metadata: &metadata,
        kind: KIND_EVENT,
        timestamp_seconds: if event.timestamp == 0 {
            accepted().unwrap_or(arrived.timestamp_seconds)
        } else {
            event.timestamp
        },
        ..Record::default()
    });
    Ok(())
}

fn read_producer(arrived: &Arrived<'_>, then: &mut dyn FnMut(&Record<'_>)) -> Result<(), String> {
    let Object(event): Object<ProducerEvent> =
        serde_json::from_slice(arrived.value).map_err(|error| format!("not a producer.Event: {error}"))?;
    let mut metadata = Vec::new();
    let mut writer = MetadataWriter::new(&mut metadata);
    writer.push(SCHEMA_KEY, PRODUCER_SCHEMA);
    writer.push(b"event-type", event.event_type.as_bytes());
    if let Some(more) = arrived.header("event-metadata") {
        writer.push(b"event-metadata", more);
    }
    push_trace(arrived, &mut writer);
    then(&Record {
        id: event.id.as_bytes(),
        source: event.source.as_bytes(),
        payload: arrived.value,
        metadata: &metadata,
        kind: KIND_EVENT,
        timestamp_seconds: arrived.timestamp_seconds,
        ..Record::default()
    });
    Ok(())
}

fn push_trace(arrived: &Arrived<'_>, writer: &mut MetadataWriter<'_>) {
    if let Some(trace) = arrived.header(TRACE_FIELD).and_then(Traceparent::read) {
        writer.push(TRACE_KEY, trace.as_bytes());
    }
}

impl Shapes for EventShapes {
    fn topics(&self) -> Vec<Topic> {
        vec![
            Topic {
                name: self.analytics.clone(),
                setting: "kafka.topic_analytics (KAFKA_TOPIC_EVENTS)",
                partitions: 3,
                retention: Some(7 * DAY),
            },
            Topic {
                name: self.producer.clone(),
                setting: "kafka.topic_producer (PRODUCER_KAFKA_TOPIC)",
                partitions: 3,
                retention: None,
            },
        ]
    }

    fn write(&self, record: &Record<'_>, out: &mut Outgoing) -> bool {
        match schema(record) {
            Some(EVENT_SCHEMA) => {
                let Ok(event) = Event::decode(record.payload) else { return false };
                let legacy = as_legacy(record, &event);
                // Text and numbers into a Vec: nothing can fail.
                let _ = serde_json::to_writer(&mut out.value, &legacy);
                out.topic.push_str(&self.analytics);
                out.key.extend_from_slice(event.user_id.as_bytes());
                how(record, legacy.event_type.as_bytes(), out);
                out.header(WHOLE, record.payload);
                true
            }
            Some(LEGACY_SCHEMA) => {
                let Ok(Object(mut event)) = serde_json::from_slice::<Object<legacy::Event>>(record.payload)
                else {
                    return false;
                };
                out.topic.push_str(&self.analytics);
                if event.timestamp == 0 {
                    // 0 is a time of 1970 to whoever reads it there.
                    out.header(TIME_OF, ACCEPTANCE);
                    event.timestamp = record.timestamp_seconds;
                    match with_time(record.payload, 0, record.timestamp_seconds) {
                        Some(value) => out.value.extend_from_slice(&value),
                        // Text and numbers into a Vec: nothing can fail.
                        None => drop(serde_json::to_writer(&mut out.value, &event)),
                    }
                } else {
                    out.value.extend_from_slice(record.payload);
                }
                // Without a user any partition is as good, and an empty key would put them all into one.
                let key = if event.user_id.is_empty() { &event.id } else { &event.user_id };
                out.key.extend_from_slice(key.as_bytes());
                how(record, event.event_type.as_bytes(), out);
                true
            }
            Some(PRODUCER_SCHEMA) => {
                out.topic.push_str(&self.producer);
                out.value.extend_from_slice(record.payload);
                out.time_seconds = Some(record.timestamp_seconds);
                out.key.extend_from_slice(record.id);
                out.header("event-type", pair(record, b"event-type").unwrap_or_default());
                out.header("event-id", record.id);
                out.header("event-version", PRODUCER_VERSION);
                out.header("event-source", record.source);
                if let Some(more) = pair(record, b"event-metadata") {
                    out.header("event-metadata", more);
                }
                out.header("schema", PRODUCER_SCHEMA);
                true
            }
            _ => false,
        }
    }

    fn read(&self, arrived: &Arrived<'_>, then: &mut dyn FnMut(&Record<'_>)) -> Option<Result<(), String>> {
        Some(match kind(arrived)? {
            Kind::Analytics => read_analytics(arrived, then),
            Kind::Producer => read_producer(arrived, then),
        })
    }

    fn dead_letters(&self, topic: &str) -> Option<Topic> {
        let retention = if topic == self.analytics { Some(30 * DAY) } else { None };
        let is_events = (topic == self.analytics || topic == self.producer) && topic != self.messages;
        let topics = self.topics();
        let setting = topics.iter().find(|known| known.name == topic)?.setting;
        is_events.then(|| Topic { name: format!("{topic}-dlq"), setting, partitions: 1, retention })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> EventShapes {
        EventShapes {
            messages: "diplom-messages".to_owned(),
            analytics: "analytics-events".to_owned(),
            producer: "events".to_owned(),
        }
    }

    /// What comes back of a record that was written: its metadata, payload, id.
    fn there_and_back(record: &Record<'_>) -> (Outgoing, Vec<u8>, Vec<u8>, Vec<u8>) {
        let mut out = Outgoing::default();
        assert!(shapes().write(record, &mut out));
        let headers: Vec<(&str, &[u8])> =
            out.headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let arrived = Arrived { key: &out.key, value: &out.value, headers: &headers, timestamp_seconds: 5 };
        let mut back = None;
        let read = shapes().read(&arrived, &mut |record| {
            back = Some((record.metadata.to_vec(), record.payload.to_vec(), record.id.to_vec()));
        });
        assert_eq!(read, Some(Ok(())));
        let (metadata, payload, id) = back.unwrap();
        (out, metadata, payload, id)
    }

    #[test]
    fn a_typed_event_is_readable_to_the_older_system_and_comes_back_whole() {
        let event = Event {
            id: "e".to_owned(),
            user_id: "u".to_owned(),
            session_id: "s".to_owned(),
            event_type: EventType::User.into(),
            ..Event::default()
        };
        let injected = super::super::record::record(
            &event,
            "e".to_owned(),
            &super::super::handling::Handling::default(),
        );
        let record = Record {
            id: &injected.id,
            metadata: &injected.metadata,
            kind: KIND_EVENT,
            payload: &injected.payload,
            timestamp_seconds: 7,
            ..Record::default()
        };
        let (out, metadata, payload, id) = there_and_back(&record);
        let value: serde_json::Value = serde_json::from_slice(&out.value).unwrap();
        assert_eq!(
            (&value["user_id"], &value["event_type"], &value["timestamp"]),
            (&"u".into(), &"user_action".into(), &7.into())
        );
        assert_eq!((out.topic.as_str(), out.key.as_slice()), ("analytics-events", &b"u"[..]));
        assert_eq!(
            (metadata, payload, id),
            (injected.metadata.clone(), injected.payload.clone(), injected.id.clone())
        );
    }

    #[test]
    fn a_record_without_a_schema_is_told_by_what_it_looks_like() {
        let told = |value: &str| {
            let arrived = Arrived { key: b"", value: value.as_bytes(), headers: &[], timestamp_seconds: 5 };
            let mut found = None;
            let read = shapes().read(&arrived, &mut |record| {
                found = schema(record).map(<[u8]>::to_vec);
            });
            (read, found)
        };
        let legacy = r#"{"id":"event_1","user_id":"u","event_type":"page_view","timestamp":0}"#;
        assert_eq!(told(legacy), (Some(Ok(())), Some(LEGACY_SCHEMA.to_vec())));
        let producer = r#"{"id":"i","type":"user_created","data":"d","source":"s"}"#;
        assert_eq!(told(producer), (Some(Ok(())), Some(PRODUCER_SCHEMA.to_vec())));
        assert_eq!(told(r#"{"id":"i","payload":"aGk="}"#), (None, None));
        assert_eq!(told("no json"), (None, None));
        assert!(
            told(r#"{"user_id":"u","event_type":7}"#).0.unwrap().unwrap_err().contains("analytics.Event")
        );
    }

    #[test]
    fn an_event_without_a_time_keeps_that_of_its_acceptance() {
        let value = br#"{"id":"e","user_id":"u","event_type":"page_view","timestamp":0}"#;
        let told = |headers: &[(&str, &[u8])]| {
            let arrived = Arrived { key: b"u", value, headers, timestamp_seconds: 5 };
            let mut time = None;
            let _ = shapes().read(&arrived, &mut |record| time = Some(record.timestamp_seconds));
            time
        };
        assert_eq!(told(&[("timestamp", b"3")]), Some(3));
        assert_eq!((told(&[]), told(&[("timestamp", b"soon")])), (Some(5), Some(5)));
    }

    #[test]
    fn an_event_without_a_time_has_one_in_kafka_and_none_when_it_is_back() {
        for source in ["web", r#"a "timestamp":0,"source":" b"#, ""] {
            let event = legacy::Event {
                id: "e".to_owned(),
                event_type: "page_view".to_owned(),
                properties: Some([("timestamp".to_owned(), ",\"timestamp\":0".to_owned())].into()),
                source: source.to_owned(),
                ..legacy::Event::default()
            };
            let json = serde_json::to_vec(&event).unwrap();
            let foreign = br#"{"id":"e","event_type":"page_view","source":""}"#.to_vec();
            // As we write it, and as somebody else might.
            for (payload, comes_back) in [(json.clone(), true), (foreign, false)] {
                let mut metadata = Vec::new();
                MetadataWriter::new(&mut metadata).push(SCHEMA_KEY, LEGACY_SCHEMA);
                let record = Record {
                    id: b"e",
                    metadata: &metadata,
                    kind: KIND_EVENT,
                    payload: &payload,
                    timestamp_seconds: 1_780_000_000,
                    ..Record::default()
                };
                let (out, _, back, _) = there_and_back(&record);
                let value: legacy::Event = serde_json::from_slice(&out.value).unwrap();
                assert_eq!((value.timestamp, value.event_type.as_str()), (1_780_000_000, "page_view"));
                assert!(!comes_back || value == legacy::Event { timestamp: 1_780_000_000, ..event.clone() });
                assert_eq!(back == payload, comes_back, "{}", String::from_utf8_lossy(&back));
            }
        }
    }

    #[test]
    fn one_topic_for_all_is_named_once_and_its_dead_letters_stay_here() {
        let one =
            EventShapes { messages: "t".to_owned(), analytics: "t".to_owned(), producer: "t".to_owned() };
        let names: Vec<String> = one.all_topics().into_iter().map(|topic| topic.name).collect();
        assert_eq!(names, ["t", "metrics-data", "t-processed"]);
        assert_eq!(one.dead_letters("t"), None);
        assert_eq!(
            shapes().dead_letters("analytics-events").map(|topic| topic.name).as_deref(),
            Some("analytics-events-dlq")
        );
    }
}

//! The older systems' single events on the hot lane: `/events`, `/events/async`, `SendEvent`, and the producer service's.
//! What is wrong with a body is not said here: it goes to the cold lane, whose routes have the words.

use std::{
    borrow::Cow,
    fmt,
    io::Write,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use engine_core::{HOW_SENT, KEY_OVERRIDE, MetadataWriter};
use prost::Message;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::{json, value::RawValue};
use tidegate_proto::analytics::legacy as proto;
use transports::{
    events::SCHEMA_KEY,
    facade::{Draft, FACADE_PATHS, Facade},
    inject::NotTaken,
    message::check_json,
};

use super::{
    legacy::{Event, is_sound},
    object::Object,
    producer::{self, Counters, Kind},
    schema::{LEGACY_SCHEMA, PRODUCER_SCHEMA},
};

/// The older systems' routes.
#[derive(Debug)]
pub struct Facades {
    producer: Arc<Counters>,
}

impl Facades {
    /// Counts the producer service's events in `producer`.
    pub fn new(producer: Arc<Counters>) -> Self {
        Self { producer }
    }
}

/// What a route is for.
enum Purpose {
    Event,
    AsyncEvent,
    Producer(Kind),
    SendEvent,
}

fn purpose(route: usize) -> Purpose {
    match route {
        0 => Purpose::Event,
        1 => Purpose::AsyncEvent,
        2 | 3 => Purpose::Producer(Kind::User),
        4 | 5 => Purpose::Producer(Kind::Order),
        6 | 7 => Purpose::Producer(Kind::Payment),
        _ => Purpose::SendEvent,
    }
}

/// [`Event`] as it lies in a body.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct EventJson<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    properties: Option<Pairs<'a>>,
    timestamp: i64,
    #[serde(borrow)]
    source: Cow<'a, str>,
}

/// Properties in the order they came. A key that comes twice is the general reader's.
struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                #[derive(Deserialize)]
                struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut pairs: Vec<(Cow<'de, str>, Cow<'de, str>)> = Vec::new();
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    if pairs.len() == PAIRS_MAX || pairs.iter().any(|(known, _)| *known == key) {
                        return Err(serde::de::Error::custom("not for this reader"));
                    }
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Properties that are compared with each other; a body with more is the general reader's.
const PAIRS_MAX: usize = 32;

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// The body of a producer event.
#[derive(Deserialize)]
struct ProducerJson<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

/// A producer event as it is published.
#[derive(Serialize)]
struct Published<'a> {
    id: &'a str,
    r#type: &'a str,
    data: &'a str,
    timestamp: &'a str,
    version: &'a str,
    source: &'a str,
}

impl Facades {
    fn read_event(&self, event: &EventJson<'_>, how: &[u8], draft: &mut Draft) -> bool {
        let is_sound = is_sound(&event.id, &event.user_id, &event.event_type, &event.source);
        if !is_sound || event.id.chars().any(char::is_control) {
            return false;
        }
        draft.message.id.extend_from_slice(event.id.as_bytes());
        draft.message.source.extend_from_slice(event.source.as_bytes());
        let mut writer = MetadataWriter::new(&mut draft.message.metadata);
        if !event.user_id.is_empty() {
            writer.push(KEY_OVERRIDE, event.user_id.as_bytes());
        }
        writer.push(SCHEMA_KEY, LEGACY_SCHEMA);
        if !how.is_empty() {
            writer.push(HOW_SENT, how);
        }
        draft.message.timestamp_seconds = (event.timestamp != 0).then_some(event.timestamp);
        draft.message.once = true;
        serde_json::to_writer(&mut draft.message.payload, event).is_ok()
    }

    fn read_producer(kind: Kind, body: &[u8], unix_ms: u64, draft: &mut Draft) -> bool {
        let Ok(Object(ProducerJson { data, metadata })) = serde_json::from_slice(body) else { return false };
        let data = data.trim();
        if data.is_empty() || data.len() > producer::DATA_BYTES_MAX {
            return false;
        }
        let metadata = metadata.map(RawValue::get);
        // What is passed on as it is must not be understood in two ways.
        if metadata
            .is_some_and(|metadata| !metadata.starts_with('{') || check_json(metadata.as_bytes()).is_err())
        {
            return false;
        }
        let at = UNIX_EPOCH + Duration::from_millis(unix_ms);
        let timestamp = humantime::format_rfc3339_seconds(at).to_string();
        let id = producer::new_id(kind, &timestamp);
        let mut writer = MetadataWriter::new(&mut draft.message.metadata);
        writer.push(SCHEMA_KEY, PRODUCER_SCHEMA);
        writer.push(b"event-type", kind.name().as_bytes());
        if let Some(metadata) = metadata {
            writer.push(b"event-metadata", metadata.as_bytes());
        }
        let source = producer::SOURCE;
        draft.message.source.extend_from_slice(source.as_bytes());
        let published =
            Published { id: &id, r#type: kind.name(), data, timestamp: &timestamp, version: "1.0", source };
        if serde_json::to_writer(&mut draft.message.payload, &published).is_err() {
            return false;
        }
        draft.message.id.extend_from_slice(id.as_bytes());
        let _ = write!(draft.answer, r#"{{"status":"success","message":"{}","event":"#, kind.success());
        draft.answer.extend_from_slice(&draft.message.payload);
        let _ = write!(draft.answer, r#","timestamp":"{timestamp}"}}"#);
        true
    }
}

/// What a stored event is answered.
#[derive(Serialize)]
struct Sent<'a> {
    success: bool,
    message: &'a str,
    event_id: &'a str,
}

impl Facade for Facades {
    fn read(&self, route: usize, body: &[u8], unix_ms: u64, draft: &mut Draft) -> bool {
        debug_assert!(route < FACADE_PATHS.len());
        let (how, message) = match purpose(route) {
            Purpose::Producer(kind) => return Self::read_producer(kind, body, unix_ms, draft),
            Purpose::SendEvent => {
                let Ok(event) = proto::Event::decode(body) else { return false };
                let id = event.id.clone();
                let event = Event::from(event);
                let pairs = event.properties.iter().flatten();
                let pairs = pairs.map(|(key, value)| (Cow::from(key), Cow::from(value))).collect();
                let event = EventJson {
                    id: Cow::from(&event.id),
                    user_id: Cow::from(&event.user_id),
                    event_type: Cow::from(&event.event_type),
                    properties: Some(Pairs(pairs)),
                    timestamp: event.timestamp,
                    source: Cow::from(&event.source),
                };
                let message = "Event sent successfully".to_owned();
                let answer = proto::EventResponse { success: true, message, event_id: id };
                return self.read_event(&event, b"", draft) && answer.encode(&mut draft.answer).is_ok();
            }
            Purpose::Event => (&b""[..], "Event sent successfully"),
            Purpose::AsyncEvent => {
                draft.asynchronous = true;
                (&b"async"[..], "Event queued for async processing")
            }
        };
        let Ok(Object(event)) = serde_json::from_slice::<Object<EventJson<'_>>>(body) else { return false };
        let sent = Sent { success: true, message, event_id: &event.id };
        self.read_event(&event, how, draft) && serde_json::to_writer(&mut draft.answer, &sent).is_ok()
    }

    fn status(&self, route: usize) -> u16 {
        if matches!(purpose(route), Purpose::AsyncEvent) { 202 } else { 200 }
    }

    fn fields(&self, route: usize) -> &[(&'static str, &'static str)] {
        if matches!(purpose(route), Purpose::Producer(_)) { &producer::FIELDS } else { &[] }
    }

    fn stored(&self, route: usize, id: &[u8], took_ns: u64) {
        if let Purpose::Producer(kind) = purpose(route) {
            self.producer.published(kind, id, Duration::from_nanos(took_ns));
        }
    }

    fn refuse(&self, route: usize, id: &str, why: &NotTaken, out: &mut Vec<u8>) -> u16 {
        let (status, body) = match purpose(route) {
            Purpose::Producer(kind) => {
                self.producer.failed(kind);
                producer::refusal(why)
            }
            Purpose::SendEvent => {
                let answer = proto::EventResponse {
                    success: false,
                    message: why.text.clone(),
                    event_id: id.to_owned(),
                };
                out.extend_from_slice(&answer.encode_to_vec());
                return why.status;
            }
            Purpose::Event | Purpose::AsyncEvent => {
                (why.status, json!({"success": false, "message": why.text, "event_id": id}))
            }
        };
        out.extend_from_slice(body.to_string().as_bytes());
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(route: usize, body: &str) -> Option<Draft> {
        let facades = Facades::new(Arc::default());
        let mut draft = Draft::default();
        facades.read(route, body.as_bytes(), 1_780_012_800_000, &mut draft).then_some(draft)
    }

    #[test]
    fn an_event_is_kept_as_the_general_reader_would_keep_it() {
        let body = r#"{"id":"e-1","user_id":"u","event_type":"page_view","properties":{"a":"\u00e9","b":""},"extra":[1]}"#;
        let draft = draft(1, body).unwrap();
        let kept: Event = serde_json::from_slice(&draft.message.payload).unwrap();
        assert_eq!(kept, serde_json::from_str(body).unwrap());
        assert!(draft.asynchronous && draft.message.once);
        let answer: serde_json::Value = serde_json::from_slice(&draft.answer).unwrap();
        assert_eq!(answer["event_id"], "e-1");
    }

    #[test]
    fn what_is_wrong_or_unusual_is_left_to_the_cold_lane() {
        for body in [
            "",
            "{",
            "[]",
            r#"{"id":"e","event_type":""}"#,
            r#"{"event_type":"x"}"#,
            r#"{"id":7,"event_type":"x"}"#,
            r#"{"id":"e","event_type":"x","properties":{"a":"1","a":"2"}}"#,
            r#"{"id":"e","event_type":"x","properties":{"a":1}}"#,
        ] {
            assert!(draft(0, body).is_none(), "{body}");
        }
        for body in [r#"{"data":" "}"#, r#"{"data":1}"#, "{}", r#"{"data":"x","metadata":[1]}"#] {
            assert!(draft(2, body).is_none(), "{body}");
        }
        assert!(draft(2, &format!(r#"{{"data":"{}"}}"#, "x".repeat(10_001))).is_none());
    }

    #[test]
    fn a_producer_event_is_published_with_an_id_of_its_kind() {
        let draft = draft(5, r#"{"data":" Zürich ","metadata":{"a": 1},"timestamp":5}"#).unwrap();
        let published: serde_json::Value = serde_json::from_slice(&draft.message.payload).unwrap();
        let id = published["id"].as_str().unwrap();
        assert!(id.starts_with("order_placed_20260529000000_") && id.len() == 36, "{id}");
        assert_eq!((&published["data"], &published["version"]), (&json!("Zürich"), &json!("1.0")));
        let answer: serde_json::Value = serde_json::from_slice(&draft.answer).unwrap();
        assert_eq!((&answer["event"], &answer["status"]), (&published, &json!("success")));
    }
}

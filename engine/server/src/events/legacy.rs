//! The older analytics system's HTTP (docs/older-systems.md): its events on 8081, its summary on 8083.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine_analytics::Kind;
use engine_core::{AckLevel, HOW_SENT, KEY_OVERRIDE, MetadataWriter, TRACE_FIELD, TRACE_KEY, Traceparent};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Value, json};
use tidegate_proto::analytics::legacy as proto;
use transports::{
    Wanted,
    events::SCHEMA_KEY,
    inject::{Fate, Injected, Stored},
    message::EVENT_NAME_BYTES_MAX,
};

use super::{
    Platform, is_lines,
    object::Object,
    reached::{ACK, Reached},
    read_lines,
    schema::LEGACY_SCHEMA,
};

/// Events of a batch.
pub(super) const BATCH_MAX: usize = 1000;

/// An event as the older system writes it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) user_id: String,
    pub(super) event_type: String,
    #[serde(deserialize_with = "read_properties")]
    pub(super) properties: Option<HashMap<String, String>>,
    /// Seconds of the Unix epoch; 0: now.
    pub(super) timestamp: i64,
    pub(super) source: String,
}

/// Properties, of which none comes twice.
fn read_properties<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<HashMap<String, String>>, D::Error> {
    struct Properties;
    impl<'de> Visitor<'de> for Properties {
        type Value = Option<HashMap<String, String>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut properties = HashMap::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if properties.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("properties: duplicate key `{key}`")));
                }
                properties.insert(key, value);
            }
            Ok(Some(properties))
        }
    }
    deserializer.deserialize_any(Properties)
}

/// Whether an event with these is one that is taken.
pub(super) fn is_sound(id: &str, user_id: &str, event_type: &str, source: &str) -> bool {
    let longest = [id, user_id, event_type, source].map(str::len).into_iter().max();
    !id.is_empty() && !event_type.is_empty() && longest <= Some(EVENT_NAME_BYTES_MAX)
}

impl From<proto::Event> for Event {
    fn from(event: proto::Event) -> Self {
        let proto::Event { id, user_id, event_type, properties, timestamp, source } = event;
        Self { id, user_id, event_type, properties: Some(properties), timestamp, source }
    }
}

impl Event {
    /// What the text of its type means.
    pub(super) fn kind(&self) -> Kind {
        let name = self.event_type.as_str();
        match name {
            "page_view" | "user_action" => Kind::User,
            "system_event" | "error_event" => Kind::System,
            "purchase" => Kind::Transaction,
            _ if ["transaction", "order", "payment"].iter().any(|start| name.starts_with(start)) => {
                Kind::Transaction
            }
            _ => Kind::Custom,
        }
    }

    /// What is wrong with it.
    pub(super) fn wrong(&self) -> Option<String> {
        if self.id.is_empty() || self.event_type.is_empty() {
            return Some("Event ID and type are required".to_owned());
        }
        if self.id.chars().any(char::is_control) {
            return Some("id: expected printable characters".to_owned());
        }
        let is_sound = is_sound(&self.id, &self.user_id, &self.event_type, &self.source);
        (!is_sound)
            .then(|| format!("id, user_id, event_type and source have at most {EVENT_NAME_BYTES_MAX} bytes"))
    }

    /// `how` it was sent, for its headers in Kafka: `async`, `batch`, or nothing for one that is waited for.
    fn record(&self, how: &[u8], trace: Option<Traceparent>) -> Injected {
        let mut metadata = Vec::new();
        let mut writer = MetadataWriter::new(&mut metadata);
        if !self.user_id.is_empty() {
            writer.push(KEY_OVERRIDE, self.user_id.as_bytes());
        }
        writer.push(SCHEMA_KEY, LEGACY_SCHEMA);
        if !how.is_empty() {
            writer.push(HOW_SENT, how);
        }
        if let Some(trace) = trace {
            writer.push(TRACE_KEY, trace.as_bytes());
        }
        Injected {
            id: self.id.clone().into_bytes(),
            source: self.source.clone().into_bytes(),
            // Text and numbers into a Vec: nothing can fail.
            payload: serde_json::to_vec(self).unwrap_or_default(),
            metadata,
            timestamp_seconds: (self.timestamp != 0).then_some(self.timestamp),
            once: true,
        }
    }
}

#[derive(Deserialize)]
struct Batch {
    events: Vec<Object<Event>>,
}

/// Where the older system takes batches: as its service did, and as its own client asks.
pub const BATCH_PATHS: [&str; 2] = ["/events/batch", "/batch"];

/// Routes of the older system.
pub(super) fn routes(platform: Platform) -> Router {
    let router = Router::new()
        .route("/events", post(event))
        .route("/events/async", post(event_async))
        .route("/analytics/summary", get(summary));
    BATCH_PATHS.into_iter().fold(router, |router, path| router.route(path, post(batch))).with_state(platform)
}

fn answer(status: u16, value: Value) -> Response {
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(value)).into_response()
}

fn not_json(error: &dyn std::fmt::Display) -> Response {
    answer(400, json!({ "error": format!("Invalid JSON: {error}") }))
}

/// The trace that a request belongs to.
pub(super) fn trace_of_request(headers: &HeaderMap) -> Option<Traceparent> {
    Traceparent::of_request(headers.get_all(TRACE_FIELD).iter().map(HeaderValue::as_bytes))
}

async fn one(
    platform: &Platform,
    headers: &HeaderMap,
    body: &Bytes,
    asynchronous: Option<&str>,
    success: u16,
    message: &str,
) -> Response {
    let how = if asynchronous.is_some() { &b"async"[..] } else { b"" };
    let asked = match platform.acks.ask(headers.get_all(ACK).iter().map(HeaderValue::as_bytes), asynchronous)
    {
        Ok(asked) => asked,
        Err(why) => {
            return answer(why.status, json!({"success": false, "message": why.text, "event_id": ""}));
        }
    };
    let event: Event = match serde_json::from_slice(body) {
        Ok(Object(event)) => event,
        Err(error) => return not_json(&error),
    };
    if let Some(message) = event.wrong() {
        return answer(400, json!({"success": false, "message": message, "event_id": ""}));
    }
    match platform.injector.send(vec![event.record(how, trace_of_request(headers))], asked.wanted).await.pop()
    {
        Some(Fate::Ok(stored)) => {
            let body = json!({"success": true, "message": message, "event_id": event.id});
            Reached::by(&stored).told(answer(success, body))
        }
        Some(Fate::Err(why)) => {
            answer(why.status, json!({"success": false, "message": why.text, "event_id": event.id}))
        }
        None => answer(500, json!({ "error": "an event without a fate" })),
    }
}

async fn event(State(platform): State<Platform>, headers: HeaderMap, body: Bytes) -> Response {
    one(&platform, &headers, &body, None, 200, "Event sent successfully").await
}

async fn event_async(State(platform): State<Platform>, headers: HeaderMap, body: Bytes) -> Response {
    one(&platform, &headers, &body, Some("/events/async"), 202, "Event queued for async processing").await
}

async fn batch(State(platform): State<Platform>, headers: HeaderMap, body: Bytes) -> Response {
    let asked = match platform.acks.ask(headers.get_all(ACK).iter().map(HeaderValue::as_bytes), None) {
        Ok(asked) => asked,
        Err(why) => return answer(why.status, json!({ "error": why.text })),
    };
    let read = if is_lines(&headers) {
        read_lines::<Object<Event>>(&body).map(|lines| lines.into_iter().map(|(_, event)| event).collect())
    } else {
        let batch = serde_json::from_slice::<Object<Batch>>(&body);
        batch.map(|Object(batch)| batch.events).map_err(|error| error.to_string())
    };
    let events: Vec<Event> = match read {
        Ok(events) => events.into_iter().map(|Object(event)| event).collect(),
        Err(error) => return not_json(&error),
    };
    if events.is_empty() || events.len() > BATCH_MAX {
        let text = format!("expected 1 to {BATCH_MAX} events, not {}", events.len());
        return answer(400, json!({ "error": text }));
    }
    let fates = platform.send_older(&events, asked.wanted, trace_of_request(&headers)).await;
    let failed: Vec<&str> = events
        .iter()
        .zip(&fates)
        .filter(|(_, fate)| fate.is_err())
        .map(|(event, _)| event.id.as_str())
        .collect();
    let stored = events.len() - failed.len();
    let status = match stored {
        // Another try changes nothing about what is wrong by itself.
        0 if fates.iter().all(is_final) => 400,
        0 => 503,
        _ => 200,
    };
    let body = json!({
        "success": failed.is_empty(),
        "message": format!("Processed {stored}/{} events", events.len()),
        "processed_count": stored,
        "failed_event_ids": failed,
    });
    Reached::by_all(lowest(&fates)).told(answer(status, body))
}

/// What became of an event: what it reached, or status and words of why it was not taken.
pub(super) type Told = Result<Stored, (u16, String)>;

/// Whether another try ends the same.
fn is_final(told: &Told) -> bool {
    matches!(told, Err((400..500, _)))
}

/// The lowest level that any of them reached.
pub(super) fn lowest(fates: &[Told]) -> Option<AckLevel> {
    fates.iter().filter_map(|fate| fate.as_ref().ok()).map(|stored| stored.level).min()
}

impl Platform {
    /// Sends the older system's events; says of each what is wrong with it or what became of it.
    pub(super) async fn send_older(
        &self,
        events: &[Event],
        wanted: Wanted,
        trace: Option<Traceparent>,
    ) -> Vec<Told> {
        let how = if events.len() > 1 { &b"batch"[..] } else { b"" };
        let good = events.iter().filter(|event| event.wrong().is_none());
        let good = good.map(|event| event.record(how, trace)).collect();
        let mut fates = self.injector.send(good, wanted).await.into_iter();
        let fate = |event: &Event| {
            if let Some(wrong) = event.wrong() {
                return Err((400, wrong));
            }
            match fates.next() {
                Some(Fate::Ok(stored)) => Ok(stored),
                Some(Fate::Err(why)) => Err((why.status, why.text)),
                None => Err((500, "an event without a fate".to_owned())),
            }
        };
        events.iter().map(fate).collect()
    }
}

/// Everything so far: what the older system's page shows.
async fn summary(State(platform): State<Platform>) -> Json<Value> {
    let total = platform.ever();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let metric =
        |name: &str, value: f64| json!({"name": name, "value": value, "labels": {}, "timestamp": now});
    let top: Vec<Value> = ["revenue", "transactions", "errors", "sessions"]
        .into_iter()
        .map(|name| (name, total.metric(name)))
        .filter(|(_, value)| *value != 0.0)
        .map(|(name, value)| metric(name, value))
        .collect();
    let by_type: BTreeMap<&str, u64> =
        total.by_name.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    Json(json!({
        "total_events": total.events,
        "total_users": total.users,
        "events_by_type": by_type,
        "top_metrics": top,
        "last_updated": now,
    }))
}

//! The producer service (contracts 5): user, order and payment events, with its own answers and counters.

use std::time::{Instant, SystemTime};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use engine_core::MetadataWriter;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use transports::{
    events::SCHEMA_KEY,
    inject::{Fate, Injected},
};

use super::Platform;

/// Longest `data`, in bytes.
const DATA_BYTES_MAX: usize = 10_000;
/// Upper bounds of the publish times, in seconds: Prometheus' defaults.
pub const DURATION_BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    User,
    Order,
    Payment,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::User, Kind::Order, Kind::Payment];

    fn name(self) -> &'static str {
        match self {
            Kind::User => "user_created",
            Kind::Order => "order_placed",
            Kind::Payment => "payment_processed",
        }
    }

    fn success(self) -> &'static str {
        match self {
            Kind::User => "User created event sent to Kafka",
            Kind::Order => "Order placed event sent to Kafka",
            Kind::Payment => "Payment processed event sent to Kafka",
        }
    }
}

/// What became of the events of one kind.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Published.
    pub published: u64,
    /// Refused for what they are.
    pub invalid: u64,
    /// Not taken.
    pub failed: u64,
    /// By how long publishing took; bounds in [`DURATION_BOUNDS`], one more is unbounded.
    pub buckets: [u64; DURATION_BOUNDS.len() + 1],
    /// Seconds in all.
    pub seconds: f64,
}

/// The counters of the service.
#[derive(Debug, Default)]
pub struct Counters(Mutex<([Counted; 3], Option<SystemTime>)>);

impl Counters {
    /// The counts by the names of the kinds.
    pub fn read(&self) -> Vec<(&'static str, Counted)> {
        let counters = self.0.lock();
        Kind::ALL.into_iter().map(|kind| (kind.name(), counters.0[kind as usize].clone())).collect()
    }

    fn note(&self, kind: Kind, then: impl FnOnce(&mut Counted)) {
        then(&mut self.0.lock().0[kind as usize]);
    }

    fn published(&self, kind: Kind, since: Instant) {
        let seconds = since.elapsed().as_secs_f64();
        let mut counters = self.0.lock();
        counters.1 = Some(SystemTime::now());
        let counted = &mut counters.0[kind as usize];
        counted.published += 1;
        counted.seconds += seconds;
        let bucket = DURATION_BOUNDS.iter().position(|bound| seconds <= *bound);
        counted.buckets[bucket.unwrap_or(DURATION_BOUNDS.len())] += 1;
    }
}

/// Routes of the service.
pub(super) fn routes(platform: Platform) -> Router {
    let take = |kind: Kind| -> MethodRouter<Platform> {
        post(move |State(platform): State<Platform>, body: Bytes| async move {
            event(&platform, kind, &body).await
        })
    };
    Router::new()
        .route("/api/v1/events/user", take(Kind::User))
        .route("/api/v1/events/user-created", take(Kind::User))
        .route("/api/v1/events/order", take(Kind::Order))
        .route("/api/v1/events/order-placed", take(Kind::Order))
        .route("/api/v1/events/payment", take(Kind::Payment))
        .route("/api/v1/events/payment-processed", take(Kind::Payment))
        .route("/api/v1/events/stats", get(stats))
        .method_not_allowed_fallback(async || {
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "this path does not answer that method",
            )
        })
        .route_layer(middleware::from_fn(dress))
        .with_state(platform)
}

/// CORS with a preflight that works, and what keeps browsers from guessing.
async fn dress(request: Request, next: Next) -> Response {
    const FIELDS: [(HeaderName, &str); 7] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type, Authorization, X-Requested-With"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_XSS_PROTECTION, "1; mode=block"),
    ];
    let preflight = request.method() == Method::OPTIONS;
    let mut response = if preflight { StatusCode::OK.into_response() } else { next.run(request).await };
    for (name, value) in FIELDS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let error = status.canonical_reason().unwrap_or_default();
    let mut response =
        answer(status, &json!({"error": error, "message": message, "code": code, "timestamp": now()}));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// `data` and `metadata` of a request.
fn read(body: &[u8]) -> Result<(String, Option<Map<String, Value>>), String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("Invalid JSON: {error}"))?;
    let data = value.get("data").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    if data.is_empty() {
        return Err("data is required: a text that is not blank".to_owned());
    }
    if data.len() > DATA_BYTES_MAX {
        return Err(format!("data has {} bytes, at most {DATA_BYTES_MAX} are taken", data.len()));
    }
    match value.get("metadata") {
        None | Some(Value::Null) => Ok((data.to_owned(), None)),
        Some(Value::Object(metadata)) => Ok((data.to_owned(), Some(metadata.clone()))),
        Some(_) => Err("metadata is an object, or is left out".to_owned()),
    }
}

async fn event(platform: &Platform, kind: Kind, body: &Bytes) -> Response {
    let since = Instant::now();
    let (data, metadata) = match read(body) {
        Ok(read) => read,
        Err(message) => {
            platform.producer.note(kind, |counted| counted.invalid += 1);
            return refuse(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", &message);
        }
    };
    let timestamp = now();
    let digits: String = timestamp.chars().filter(char::is_ascii_digit).collect();
    let suffix: String = std::iter::repeat_with(|| fastrand::char('a'..='z')).take(8).collect();
    let id = format!("{}_{digits}_{suffix}", kind.name());
    let event = json!({
        "id": id, "type": kind.name(), "data": data, "timestamp": timestamp,
        "version": "1.0", "source": "producer-service",
    });
    let mut pairs = Vec::new();
    let mut writer = MetadataWriter::new(&mut pairs);
    writer.push(SCHEMA_KEY, b"producer.Event");
    writer.push(b"event-type", kind.name().as_bytes());
    if let Some(metadata) = metadata {
        writer.push(b"event-metadata", Value::Object(metadata).to_string().as_bytes());
    }
    let injected = Injected {
        id: id.into_bytes(),
        source: b"producer-service".to_vec(),
        payload: event.to_string().into_bytes(),
        metadata: pairs,
        ..Injected::default()
    };
    match platform.injector.send(vec![injected], None).await.pop() {
        Some(Fate::Ok(_)) => {
            platform.producer.published(kind, since);
            let message = kind.success();
            answer(
                StatusCode::OK,
                &json!({"status": "success", "message": message, "event": event, "timestamp": now()}),
            )
        }
        fate => {
            platform.producer.note(kind, |counted| counted.failed += 1);
            match fate {
                Some(Fate::Err(why)) if matches!(why.status, 503 | 504) => {
                    let status = StatusCode::from_u16(why.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                    refuse(status, "UNAVAILABLE", &why.text)
                }
                Some(Fate::Err(why)) => {
                    refuse(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", &why.text)
                }
                _ => refuse(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "an event without a fate"),
            }
        }
    }
}

async fn stats(State(platform): State<Platform>) -> Response {
    let counted = platform.producer.read();
    let total: u64 = counted.iter().map(|(_, counted)| counted.published).sum();
    let errors: u64 = counted.iter().map(|(_, counted)| counted.invalid + counted.failed).sum();
    let by_type: Map<String, Value> = counted
        .iter()
        .filter(|(_, counted)| counted.published > 0)
        .map(|(name, counted)| ((*name).to_owned(), counted.published.into()))
        .collect();
    let rate = if total + errors == 0 { 0.0 } else { 100.0 * total as f64 / (total + errors) as f64 };
    let mut data = json!({
        "total_events": total, "events_by_type": by_type, "error_count": errors, "success_rate": rate,
    });
    if let Some(last) = platform.producer.0.lock().1 {
        data["last_event_time"] = humantime::format_rfc3339_seconds(last).to_string().into();
    }
    answer(StatusCode::OK, &json!({"status": "success", "data": data}))
}

//! The older producer service (docs/older-systems.md): user, order and payment events, with its own answers and counters.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use engine_core::{MetadataWriter, TRACE_KEY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use transports::{
    events::SCHEMA_KEY,
    inject::{Fate, Injected, NotTaken},
    message::check_json,
};

use super::{
    Platform,
    calendar::now_ms,
    legacy::trace_of_request,
    reached::{ACK, Reached},
    schema::PRODUCER_SCHEMA,
};

/// Longest `data`, in bytes.
pub(super) const DATA_BYTES_MAX: usize = 10_000;
/// Upper bounds of the publish times, in seconds: Prometheus' defaults.
pub const DURATION_BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Order,
    Payment,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::User, Kind::Order, Kind::Payment];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::User => "user_created",
            Kind::Order => "order_placed",
            Kind::Payment => "payment_processed",
        }
    }

    pub(super) fn success(self) -> &'static str {
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

/// The counters of the events of one kind.
#[derive(Debug, Default)]
struct Cells {
    published: AtomicU64,
    invalid: AtomicU64,
    failed: AtomicU64,
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// The counters of the service; every core counts in them.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [Cells; 3],
    /// When the last event was published, in milliseconds of the Unix epoch; 0: none was.
    last_ms: AtomicU64,
    /// The same of the last one that was logged.
    logged_ms: AtomicU64,
}

/// Least time between two lines of the log about events that were published.
const LOG_EVERY_MS: u64 = 100;

impl Counters {
    /// The counts by the names of the kinds.
    pub fn read(&self) -> Vec<(&'static str, Counted)> {
        let read = |kind: Kind| {
            let cells = &self.kinds[kind as usize];
            let counted = Counted {
                published: cells.published.load(Relaxed),
                invalid: cells.invalid.load(Relaxed),
                failed: cells.failed.load(Relaxed),
                buckets: std::array::from_fn(|at| cells.buckets[at].load(Relaxed)),
                seconds: cells.nanoseconds.load(Relaxed) as f64 / 1e9,
            };
            (kind.name(), counted)
        };
        Kind::ALL.map(read).into()
    }

    /// The older service's line, of ten events a second.
    fn log(&self, now_ms: u64, kind: Kind, id: &[u8], took: Duration) {
        let last_ms = self.logged_ms.load(Relaxed);
        if now_ms.saturating_sub(last_ms) >= LOG_EVERY_MS
            && self.logged_ms.compare_exchange(last_ms, now_ms, Relaxed, Relaxed).is_ok()
        {
            let (event_id, event_type) = (String::from_utf8_lossy(id), kind.name());
            tracing::debug!(%event_id, event_type, duration = ?took, "Event published successfully");
        }
    }

    /// When the last event was published.
    fn last(&self) -> Option<SystemTime> {
        let ms = self.last_ms.load(Relaxed);
        (ms != 0).then(|| UNIX_EPOCH + Duration::from_millis(ms))
    }

    fn invalid(&self, kind: Kind) {
        self.kinds[kind as usize].invalid.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self, kind: Kind) {
        self.kinds[kind as usize].failed.fetch_add(1, Relaxed);
    }

    pub(super) fn published(&self, kind: Kind, id: &[u8], took: Duration) {
        let now_ms = now_ms().unsigned_abs();
        self.last_ms.fetch_max(now_ms, Relaxed);
        if tracing::enabled!(tracing::Level::DEBUG) {
            self.log(now_ms, kind, id, took);
        }
        let cells = &self.kinds[kind as usize];
        cells.published.fetch_add(1, Relaxed);
        cells.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        let bucket = DURATION_BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound);
        cells.buckets[bucket.unwrap_or(DURATION_BOUNDS.len())].fetch_add(1, Relaxed);
    }
}

/// Where the service's routes begin.
pub(super) const PATHS: &str = "/api/v1/events/";

/// Routes of the service.
pub(super) fn routes(platform: Platform) -> Router {
    let take = |kind: Kind| -> MethodRouter<Platform> {
        post(move |State(platform): State<Platform>, headers: HeaderMap, body: Bytes| async move {
            event(&platform, kind, &headers, &body).await
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

/// The source of the service's events.
pub(super) const SOURCE: &str = "producer-service";

/// Fields of every answer: CORS, and what keeps browsers from guessing.
pub const FIELDS: [(&str, &str); 7] = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, POST, PUT, DELETE, OPTIONS"),
    ("access-control-allow-headers", "Content-Type, Authorization, X-Requested-With"),
    ("access-control-max-age", "86400"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-xss-protection", "1; mode=block"),
];

/// Adds these fields, and answers a preflight.
pub async fn dress(request: Request, next: Next) -> Response {
    let preflight = request.method() == Method::OPTIONS;
    dressed(if preflight { StatusCode::OK.into_response() } else { next.run(request).await })
}

/// The same answer with these fields.
pub fn dressed(mut response: Response) -> Response {
    for (name, value) in FIELDS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// The answer to who has no key.
pub(super) fn unauthorized(message: &str) -> Response {
    dressed(refuse(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message))
}

/// An id for an event of this kind and time (RFC 3339, in whole seconds).
pub(super) fn new_id(kind: Kind, timestamp: &str) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::with_capacity(64);
    id.push_str(kind.name());
    id.push('_');
    id.extend(timestamp.chars().filter(char::is_ascii_digit));
    id.push('_');
    id.extend((0..8).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())])));
    id
}

/// Status and body of a refusal.
fn refusal_body(status: StatusCode, code: &str, message: &str) -> Value {
    let error = status.canonical_reason().unwrap_or_default();
    json!({"error": error, "message": message, "code": code, "timestamp": now()})
}

/// Status and body for an event that was not taken.
pub(super) fn refusal(why: &NotTaken) -> (u16, Value) {
    let (status, code) = match why.status {
        400 => (400, "VALIDATION_ERROR"),
        503 | 504 => (why.status, "UNAVAILABLE"),
        _ => (500, "INTERNAL_ERROR"),
    };
    let named = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, refusal_body(named, code, &why.text))
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    answer(status, &refusal_body(status, code, message))
}

/// `data` and `metadata` of a request.
fn read(body: &[u8]) -> Result<(String, Option<Map<String, Value>>), String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("Invalid JSON: {error}"))?;
    check_json(body).map_err(|error| format!("Invalid JSON: {error}"))?;
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

async fn event(platform: &Platform, kind: Kind, headers: &HeaderMap, body: &Bytes) -> Response {
    let since = Instant::now();
    let asked = platform.acks.ask(headers.get_all(ACK).iter().map(HeaderValue::as_bytes), None);
    let read = asked.map_err(|why| why.text).and_then(|asked| Ok((asked, read(body)?)));
    let (asked, (data, metadata)) = match read {
        Ok(read) => read,
        Err(message) => {
            platform.producer.invalid(kind);
            return refuse(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", &message);
        }
    };
    let timestamp = now();
    let id = new_id(kind, &timestamp);
    let event = json!({
        "id": id, "type": kind.name(), "data": data, "timestamp": timestamp,
        "version": "1.0", "source": SOURCE,
    });
    let mut pairs = Vec::new();
    let mut writer = MetadataWriter::new(&mut pairs);
    writer.push(SCHEMA_KEY, PRODUCER_SCHEMA);
    writer.push(b"event-type", kind.name().as_bytes());
    if let Some(metadata) = metadata {
        writer.push(b"event-metadata", Value::Object(metadata).to_string().as_bytes());
    }
    if let Some(trace) = trace_of_request(headers) {
        writer.push(TRACE_KEY, trace.as_bytes());
    }
    let injected = Injected {
        id: id.clone().into_bytes(),
        source: SOURCE.into(),
        payload: event.to_string().into_bytes(),
        metadata: pairs,
        ..Injected::default()
    };
    match platform.injector.send(vec![injected], asked.wanted).await.pop() {
        Some(Fate::Ok(stored)) => {
            platform.producer.published(kind, id.as_bytes(), since.elapsed());
            let message = kind.success();
            let body = json!({"status": "success", "message": message, "event": event, "timestamp": now()});
            Reached::by(&stored).told(answer(StatusCode::OK, &body))
        }
        Some(Fate::Err(why)) => {
            platform.producer.failed(kind);
            let (status, body) = refusal(&why);
            answer(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), &body)
        }
        None => refuse(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "an event without a fate"),
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
    if let Some(last) = platform.producer.last() {
        data["last_event_time"] = humantime::format_rfc3339_seconds(last).to_string().into();
    }
    answer(StatusCode::OK, &json!({"status": "success", "data": data}))
}

//! The events platform: typed events in, answers computed from their stream out.
//!
//! ```text
//! gRPC, REST ─▶ validate ─▶ record ─▶ Injector ─▶ queue, log, brokers ─▶ worker ─▶ Part of the core ─▶ queries
//! ```

mod analytics;
mod calendar;
mod deadline;
mod facade;
mod guard;
mod ingestion;
mod kafka;
mod legacy;
mod legacy_grpc;
mod metrics;
mod normal;
mod object;
mod openapi;
pub mod producer;
mod record;
mod rest;
mod validate;

use std::sync::Arc;

use axum::{body::Bytes, extract::DefaultBodyLimit};
use engine_analytics::{Bounds, Part};
use http::{HeaderMap, header::CONTENT_TYPE};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;
use tower_http::decompression::RequestDecompressionLayer;
use transports::{Guard, inject::Injector};

use crate::settings::Scope;

pub use analytics::query_turns;
pub use facade::Facades;
pub use guard::{admits, check};
pub use ingestion::Rules;
pub use kafka::EventShapes;
pub use legacy::BATCH_PATHS as OLDER_BATCH_PATHS;
pub use legacy_grpc::{Consumed, Older};
pub use record::{Worker, is_event};

/// The aggregates of every core.
pub type Parts = Arc<[Arc<Mutex<Part>>]>;

/// Empty aggregates for so many cores, which share the bounds.
pub fn parts(cores: usize, bounds: Bounds) -> Parts {
    let share = |all: usize| all.div_ceil(cores.max(1));
    let bounds = Bounds {
        events: share(bounds.events),
        event_bytes: share(bounds.event_bytes),
        users: share(bounds.users),
        quantile_bins: share(bounds.quantile_bins),
        ..bounds
    };
    (0..cores.max(1)).map(|_| Arc::new(Mutex::new(Part::new(bounds)))).collect()
}

/// Longest body, unpacked: as long as a gRPC message.
const BODY_BYTES_MAX: usize = 10 << 20;

/// Every route of the platform; bodies may be packed with gzip or zstd.
pub fn routes(platform: Platform) -> axum::Router {
    let (has_keys, all_ask) = (!platform.guard.is_open(), platform.scope.all);
    rest::routes(platform.clone())
        .merge(legacy::routes(platform.clone()))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(RequestDecompressionLayer::new())
        .merge(producer::routes(platform))
        .merge(openapi::routes(has_keys, all_ask))
}

/// What the services of the platform work with.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The way into the engine.
    pub injector: Injector,
    /// The aggregates.
    pub parts: Parts,
    /// What the producer service counts.
    pub producer: Arc<producer::Counters>,
    /// Who may ask.
    pub guard: Guard,
    /// What asks for a key beside the platform.
    pub scope: Scope,
    /// What this process calls itself.
    pub node: Arc<str>,
    /// Turns to work a query out.
    pub queries: Arc<Semaphore>,
}

/// A body with `events`: an object that has them, or one to a line (`application/x-ndjson`).
///
/// # Errors
/// Where it is no JSON.
fn batch_value(headers: &HeaderMap, body: &Bytes) -> Result<Value, serde_json::Error> {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let is_lines = [&b"application/x-ndjson"[..], b"application/ndjson", b"application/jsonl"]
        .iter()
        .any(|known| content_type.starts_with(known));
    if !is_lines {
        return serde_json::from_slice(body);
    }
    let events =
        serde_json::Deserializer::from_slice(body).into_iter::<Value>().collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::json!({ "events": events }))
}

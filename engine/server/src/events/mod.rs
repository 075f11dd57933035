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
mod handling;
mod ingestion;
mod kafka;
mod legacy;
mod legacy_grpc;
mod metrics;
mod normal;
mod object;
mod openapi;
pub mod producer;
mod proto_json;
mod reached;
mod record;
mod rest;
mod rest_answer;
mod schema;
mod unpack;
mod validate;

use std::sync::Arc;

use axum::{extract::DefaultBodyLimit, middleware};
use engine_analytics::{Bounds, Part};
use engine_core::AckLevel;
use http::{HeaderMap, header::CONTENT_TYPE};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tower_http::decompression::RequestDecompressionLayer;
use transports::{AckPolicy, Guard, inject::Injector};

use crate::scope::Scope;

pub use analytics::query_turns;
pub use facade::Facades;
pub use guard::{admits, check};
pub use ingestion::Rules;
pub use kafka::EventShapes;
pub use legacy::BATCH_PATHS as OLDER_BATCH_PATHS;
pub use legacy_grpc::{Consumed, Older};
pub use record::{Worker, event_type, is_event, judge_record};

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
    let levels = AckLevel::ALL.into_iter().zip(&platform.acks.unreachable);
    let levels: Vec<&str> = levels.filter(|(_, why)| why.is_none()).map(|(level, _)| level.name()).collect();
    let description = openapi::routes(has_keys, all_ask, &levels);
    rest::routes(platform.clone())
        .merge(legacy::routes(platform.clone()))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(RequestDecompressionLayer::new())
        .layer(middleware::from_fn(unpack::gzip))
        .merge(producer::routes(platform))
        .merge(description)
}

/// What the services of the platform work with.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The way into the engine.
    pub injector: Injector,
    /// What accepting an event can mean.
    pub acks: Arc<AckPolicy>,
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

/// Whether a body is events, one to a line (`application/x-ndjson`).
fn is_lines(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    [&b"application/x-ndjson"[..], b"application/ndjson", b"application/jsonl"]
        .iter()
        .any(|known| content_type.get(..known.len()).is_some_and(|start| start.eq_ignore_ascii_case(known)))
}

/// The events of such a body, each with the number of its line, from 1.
///
/// # Errors
/// What is wrong with the first line that is none.
fn read_lines<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<(usize, T)>, String> {
    let mut events = serde_json::Deserializer::from_slice(body).into_iter::<T>();
    let (mut lines, mut line, mut counted) = (Vec::new(), 1, 0);
    loop {
        let rest = body.get(events.byte_offset()..).unwrap_or_default();
        let start = body.len() - rest.trim_ascii_start().len();
        line += body.get(counted..start).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        counted = start;
        match events.next() {
            // What is open there may go on for lines before it cannot be meant.
            Some(event) => lines.push((line, event.map_err(|error| format!("line {line}: {error}"))?)),
            None => return Ok(lines),
        }
    }
}

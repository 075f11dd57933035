//! `/health` and `/ready`: one object with the keys of every older system.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use serde_json::{Map, Value, json};
use transports::{Health, Role};

use super::{condition::Condition, house::House, platform};
use crate::events::producer;

/// How a port calls itself: as the older system did whose clients read this field.
pub(super) fn service(role: Role) -> &'static str {
    match role {
        Role::Gateway => "producer-service",
        Role::Ingest => "producer",
        Role::Processor => "consumer",
        Role::Analytics => "analytics",
        Role::Grpc => "grpc-server",
        Role::Metrics => "metrics",
    }
}

fn now() -> (String, u64) {
    let now = SystemTime::now();
    let unix = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    (humantime::format_rfc3339_millis(now).to_string(), unix)
}

/// Renders `/health` for the hot lane. The house is known a moment after the front ends have started.
#[derive(Debug, Default)]
pub struct HealthReport {
    house: OnceLock<Arc<House>>,
}

impl HealthReport {
    /// Says what to report on.
    pub fn know(&self, house: Arc<House>) {
        // Set once, by the one who starts the fleet.
        let _ = self.house.set(house);
    }
}

impl Health for HealthReport {
    fn report(&self, role: Role) -> (u16, Vec<u8>) {
        let (timestamp, timestamp_unix) = now();
        // Only configured dependencies count; the memory queue has none.
        let house = self.house.get();
        let starting = || Condition::Unhealthy("starting".to_owned());
        let condition = house.map_or_else(starting, |house| house.of_port(role));
        let kafka = house.and_then(|house| house.places().into_iter().find(|(name, _)| *name == "kafka"));
        let mut body = json!({
            "healthy": condition.is_able(),
            "status": condition.name(),
            "service": service(role),
            "version": env!("CARGO_PKG_VERSION"),
            "timestamp": timestamp,
            "timestamp_unix": timestamp_unix,
            "database": "disabled",
            "redis": "disabled",
            "kafka": match kafka {
                None => "disabled",
                Some((_, None)) => "ok",
                Some((_, Some(_))) => "error",
            },
        });
        if let Some(why) = condition.trouble() {
            body["error"] = json!(why);
        }
        if let (Some(house), Value::Object(map)) = (house, &mut body) {
            map.insert("uptime_seconds".into(), json!(house.started.elapsed().as_secs_f64()));
            map.insert("draining".into(), json!(house.is_draining()));
            if let Some(remote) = house.remote() {
                map.insert("remote".into(), remote);
            }
            map.extend(platform::fields(house, role));
        }
        (if condition.is_able() { 200 } else { 503 }, body.to_string().into_bytes())
    }

    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        &producer::FIELDS
    }

    fn liveness(&self, stalled: &[usize]) -> (u16, Vec<u8>) {
        let lost = self.house.get().map(|house| house.behind.lost_threads()).unwrap_or_default();
        let alive = stalled.is_empty() && lost.is_empty();
        let mut body =
            json!({ "alive": alive, "healthy": alive, "status": if alive { "alive" } else { "stalled" } });
        if !alive {
            body["stalled_cores"] = json!(stalled);
            body["ended_threads"] = json!(lost);
        }
        (if alive { 200 } else { 503 }, body.to_string().into_bytes())
    }
}

/// The object of `/ready`, and whether it says yes.
pub fn ready(house: &House, role: Role) -> (bool, Value) {
    let default = house.behind.delivery.ack_default;
    // What is sent on has the level of the process that it is sent to.
    let ack = if house.behind.remote.is_some() { "remote" } else { default.name() };
    let mut checks = Map::new();
    let queue = if house.is_draining() { Some("draining".to_owned()) } else { None };
    let level = house.behind.trouble_of(default);
    let ready = queue.is_none() && level.is_none();
    checks.extend(house.checks());
    for (name, trouble) in [("queue", queue), (ack, level)] {
        checks.insert(name.into(), json!(trouble.unwrap_or_else(|| "ok".to_owned())));
    }
    let (timestamp, _) = now();
    let totals = house.totals();
    let mut body = Map::new();
    body.insert("ready".into(), json!(ready));
    body.insert("status".into(), json!(if ready { "ready" } else { "not_ready" }));
    body.insert("service".into(), json!(service(role)));
    body.insert("timestamp".into(), json!(timestamp));
    body.insert("ack".into(), json!(ack));
    body.insert("checks".into(), Value::Object(checks));
    body.insert("uptime_seconds".into(), json!(house.started.elapsed().as_secs_f64()));
    body.insert("messages_processed".into(), json!(totals.processed));
    body.insert("messages_sent".into(), json!(totals.accepted));
    for part in ["producer_ready", "consumer_ready", "stream_ready"] {
        body.insert(part.into(), json!(ready));
    }
    (ready, Value::Object(body))
}

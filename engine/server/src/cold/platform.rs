//! What the probes of the older analytics system read beside the rest: its fields of `/health`, `/ready` and
//! `/stats` on 8081 (its producer) and 8082 (its consumer), and `/lag`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use brokers::kafka::topics;
use http::StatusCode;
use serde_json::{Map, Value, json};
use transports::{Durations, Endpoint, Role, Tally};

use super::house::{House, Totals};
use crate::{events::Consumed, settings::Provider};

fn per(sum: Duration, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum.as_secs_f64() * 1000.0 / count as f64 }
}

/// Milliseconds that a request which brought messages took on average, from its last byte to its answer.
fn average_answer_ms(house: &House) -> f64 {
    let mut all = Durations::default();
    for role in Role::ALL {
        for endpoint in Endpoint::all().filter(|endpoint| endpoint.brings_messages()) {
            // The first outcome is success, in HTTP and in gRPC.
            all.merge(&house.durations(role, endpoint, 0));
        }
    }
    per(Duration::from_secs_f64(all.sum_seconds), all.count())
}

/// Fields of `/stats` and `/health` that are this port's.
pub fn fields(house: &House, role: Role) -> Map<String, Value> {
    let (totals, now) = (house.totals(), Instant::now());
    let mut fields = Map::new();
    if role == Role::Ingest {
        fields.insert("messages_sent".into(), json!(totals.accepted));
        fields.insert("messages_error".into(), json!(totals.refused));
        fields.insert("bytes_sent".into(), json!(house.tally(Tally::MessageBytes)));
        fields.insert("avg_latency_ms".into(), json!(average_answer_ms(house)));
        fields.insert("throughput_per_sec".into(), json!(house.rates[0].of(totals.accepted, now)));
    }
    if role == Role::Processor {
        let consumed = consumed(house, &totals, now);
        fields.insert("consumer".into(), consumer(house, &consumed));
        fields.insert("stream".into(), stream(house, &consumed, now));
    }
    if matches!(role, Role::Ingest | Role::Processor) {
        fields.insert("kafka_health".into(), kafka_health(house));
    }
    fields
}

/// What the workers did, as the older system's consumer tells it over HTTP and over gRPC.
fn consumed(house: &House, totals: &Totals, now: Instant) -> Consumed {
    Consumed {
        processed: totals.processed,
        failed: totals.errors,
        per_second: house.rates[1].of(totals.processed, now),
        average_ms: per(totals.busy, totals.processed),
        last: house.behind.last_worked(),
        counted: house.behind.parts.iter().map(|part| part.lock().events()).sum(),
    }
}

/// The same at this moment.
pub fn consumed_so_far(house: &House) -> Consumed {
    consumed(house, &house.totals(), Instant::now())
}

fn consumer(house: &House, consumed: &Consumed) -> Value {
    let last = consumed.last.map(|last| humantime::format_rfc3339_seconds(last).to_string());
    json!({
        "processed_events": consumed.processed,
        "failed_events": consumed.failed,
        // Of what comes back from brokers: messages that another side, or an earlier run, had brought before.
        "retried_events": house.behind.worked().repeated,
        "dlq_events": house.behind.dead_letters.count(),
        "processing_rate": consumed.per_second,
        "avg_processing_ms": consumed.average_ms,
        "last_message_time": last,
    })
}

fn stream(house: &House, consumed: &Consumed, now: Instant) -> Value {
    json!({
        "events_processed": consumed.counted,
        // Nothing is left out on the way: filters are for questions.
        "events_filtered": 0,
        "events_error": consumed.failed,
        "avg_latency_ms": consumed.average_ms,
        "throughput_per_sec": house.rates[2].of(consumed.counted, now),
    })
}

/// How Kafka is, as far as this process talks to it.
fn kafka_health(house: &House) -> Value {
    let behind = &house.behind;
    let broker = behind.brokers.iter().find(|broker| broker.provider == Provider::Kafka);
    let addresses = &behind.delivery.kafka.brokers;
    let healthy = broker.is_none_or(|broker| !broker.status.is_open());
    let mut health = json!({
        "is_healthy": healthy,
        "brokers": [],
        "topics": [],
        "response_time": 0,
        "timestamp": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
    });
    match broker {
        None => health["error_message"] = json!("not configured (QUEUE_TYPE)"),
        Some(broker) => {
            let told = broker.status.told.lock().clone();
            health["brokers"] = if told.nodes.is_empty() {
                // It was never reached: what it calls itself is not known.
                let listed = addresses.split(',').map(str::trim);
                listed.map(|address| json!({"id": -1, "address": address, "is_online": healthy})).collect()
            } else {
                let nodes = told.nodes.iter();
                nodes
                    .map(|(id, address)| json!({"id": id, "address": address, "is_online": healthy}))
                    .collect()
            };
            health["topics"] = json!(told.topics);
            // Of when it was last asked: no broker is asked for a probe's sake.
            health["response_time"] = json!(u64::try_from(told.took.as_nanos()).unwrap_or(u64::MAX));
            if let Some(trouble) = broker.status.trouble() {
                health["error_message"] = json!(trouble);
            }
        }
    }
    health
}

/// `GET /lag`: topic, partition, messages that are not worked on. Without Kafka the consumers of the log stand for topics.
pub async fn lag(State(house): State<Arc<House>>) -> Response {
    let uses_kafka = house.behind.delivery.providers.contains(&Provider::Kafka);
    let mut lag: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    if let Some(log) = &house.behind.log {
        for (consumer, behind) in log.lags() {
            let behind = i64::try_from(behind).unwrap_or(i64::MAX);
            lag.insert(format!("log:{consumer}"), [("0".to_owned(), behind)].into());
        }
    }
    if uses_kafka {
        let config = house.behind.delivery.kafka.clone();
        let found = tokio::task::spawn_blocking(move || topics::list(&config)).await;
        match found.map_err(|error| error.to_string()).and_then(|found| found) {
            Ok(found) => lag.extend(found.into_iter().filter(|topic| topic.lag.is_some()).map(|topic| {
                let partitions = topic.lags.iter().map(|(partition, lag)| (partition.to_string(), *lag));
                (topic.name, partitions.collect())
            })),
            Err(error) => {
                let error = format!("Failed to get consumer lag: {error}");
                return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error }))).into_response();
            }
        }
    }
    let timestamp = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    Json(json!({"service": "consumer", "lag": lag, "timestamp": timestamp})).into_response()
}

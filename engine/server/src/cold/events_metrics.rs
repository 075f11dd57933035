//! The metrics that the older analytics system's dashboards and alerts ask for by name. An event is one
//! increment, under its own type as far as types are few.

use std::collections::BTreeMap;

use transports::{Cause, Durations, Tally};

use super::{families::Family, house::House};
use crate::settings::Provider;

/// Event types with a series of their own: those that a core met first. Further ones are `other`.
const TYPES_MAX: u16 = 64;
/// The older system's programs, all of which this process is.
const SERVICES: [&str; 3] = ["producer", "consumer", "analytics"];

/// Appends them.
pub fn append(house: &House, families: &mut Vec<Family>) {
    let mut by_type: BTreeMap<String, u64> = BTreeMap::new();
    let mut all = 0;
    for part in house.behind.parts.iter() {
        let part = part.lock();
        all += part.events();
        for bucket in part.cover(0, i64::MAX) {
            for (number, count) in &bucket.by_name {
                let name = if *number < TYPES_MAX { part.names().name(*number) } else { "other" };
                *by_type.entry(name.to_owned()).or_default() += count;
            }
        }
    }
    let totals = house.totals();
    let mut processed = Family::counter(
        "events_processed_total",
        "Events that the aggregates count, by type; messages that the workers gave up are of the type other.",
    );
    for (event_type, count) in &by_type {
        processed.add_count(
            &[("service", "analytics"), ("event_type", event_type), ("status", "success")],
            *count,
        );
    }
    processed
        .add_count(&[("service", "consumer"), ("event_type", "other"), ("status", "error")], totals.errors);
    let mut took = Durations::default();
    for core in &house.cores {
        took.merge(&core.front.processing());
    }
    let mut durations = Family::histogram(
        "event_processing_duration_seconds",
        "Of messages of all kinds: each has its share of the turn that finished it.",
    );
    let labels = [("service", "consumer"), ("event_type", "all")];
    durations.add_durations(&labels, &took);
    let mut errors = Family::counter("errors_total", "What went wrong, by where and what.");
    errors.add_count(&[("service", "producer"), ("error_type", "refused")], totals.refused);
    errors.add_count(&[("service", "consumer"), ("error_type", "processing")], totals.errors);
    let limits = Cause::ALL.iter().map(|cause| house.hits(*cause)).sum();
    errors.add_count(&[("service", "producer"), ("error_type", "limit")], limits);
    let mut uptime = Family::gauge("service_uptime_seconds", "Seconds since the start.");
    for service in SERVICES {
        uptime = uptime.level(&[("service", service)], house.started.elapsed().as_secs_f64());
    }
    let opened = house.tally(Tally::ConnectionsOpened);
    let open = opened.saturating_sub(house.tally(Tally::ConnectionsClosed));
    families.extend(
        [
            processed,
            durations,
            errors,
            uptime,
            Family::counter("events_total", "Events that the aggregates count.").count(&[], all),
            Family::gauge("active_connections_total", "Connections open now.")
                .level(&[("service", "producer"), ("connection_type", "tcp")], open as f64),
        ]
        .into_iter()
        .filter_map(Family::finish),
    );
    families.extend(kafka_lag(house));
}

/// The lag in Kafka by partition, which are as many series as this process reads partitions; none without Kafka.
fn kafka_lag(house: &House) -> Option<Family> {
    let behind = &house.behind;
    let kafka = behind.brokers.iter().find(|broker| broker.provider == Provider::Kafka)?;
    let group = behind.delivery.kafka.consumer_group.as_str();
    let mut family = Family::gauge(
        "kafka_consumer_lag_total",
        "Records of a partition that the group has not worked on, of the partitions that this process reads.",
    );
    for lag in kafka.status.partition_lags.lock().iter() {
        let partition = lag.partition.to_string();
        let labels = [("topic", lag.topic.as_str()), ("partition", &partition), ("consumer_group", group)];
        family = family.level(&labels, lag.records as f64);
    }
    family.finish()
}

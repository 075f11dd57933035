//! `/metrics`: every name that the older systems' dashboards and alerts ask for, and our own, in Prometheus' text
//! format. All series are made from the cores' counters when they are asked for.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use brokers::{
    log::SYNC_BOUNDS_US,
    status::{PUBLISH_BOUNDS_MS, SideStatus},
    written::BATCH_BOUNDS,
};

use prometheus::{Encoder, TextEncoder, core::Collector, process_collector::ProcessCollector};
use transports::{Cause, Durations, Endpoint, GRPC_CODES, Role, STATUSES, StreamKind, Tally};

use super::{events_metrics, families::Family, house::House, native, short_pattern};
use crate::{events::producer::DURATION_BOUNDS as PUBLISH_BOUNDS_SECONDS, settings::Provider};

/// gRPC code names as `grpc_code` labels, by number.
const CODE_NAMES: [&str; GRPC_CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The whole page and its content type: text, or protobuf with native histograms.
///
/// # Errors
/// When the encoder refuses a family, which would be a mistake of ours.
pub fn page(house: &House, native: bool) -> Result<(String, Vec<u8>), prometheus::Error> {
    let mut families: Vec<Family> = Vec::new();
    ingest(house, &mut families);
    processor(house, &mut families);
    requests(house, &mut families);
    delivery(house, &mut families);
    remote(house, &mut families);
    snapshots(house, &mut families);
    own(house, &mut families);
    producer(house, &mut families);
    events_metrics::append(house, &mut families);
    own_names(&mut families);
    families.extend(ProcessCollector::for_self().collect().into_iter().map(Family::from));
    if native {
        return Ok((native::CONTENT_TYPE.to_owned(), native::write(&families)));
    }
    let families: Vec<_> = families.iter().map(|family| family.parts().0.clone()).collect();
    let (encoder, mut text) = (TextEncoder::new(), Vec::new());
    encoder.encode(&families, &mut text)?;
    Ok((encoder.format_type().to_owned(), text))
}

/// The names of the older dashboards that other programs have as well.
const GENERIC: [&str; 9] = [
    "messages_processed_total",
    "worker_pool_active",
    "queue_current_size",
    "queue_size",
    "queue_capacity",
    "system_health_status",
    "http_requests_total",
    "http_request_duration_seconds",
    "grpc_server_handled_total",
];

/// Gives what has a name of [`GENERIC`] one of ours beside it, for where several programs' metrics meet.
fn own_names(families: &mut Vec<Family>) {
    let generic = families.iter().filter(|family| GENERIC.contains(&family.name()));
    let own: Vec<Family> =
        generic.map(|family| family.clone().named(format!("tidegate_{}", family.name()))).collect();
    families.extend(own);
}

/// The `status` label of ingest for an outcome of a hot route.
fn ingest_status(endpoint: Endpoint, outcome: usize) -> &'static str {
    if endpoint.is_grpc() {
        return match outcome {
            0 => "success",
            8 | 14 => "service_unavailable",
            _ => "bad_request",
        };
    }
    match STATUSES[outcome.min(STATUSES.len() - 1)] {
        200 | 202 => "success",
        405 => "method_not_allowed",
        500 | 503 | 504 => "service_unavailable",
        _ => "bad_request",
    }
}

/// Every hot series that has counted something.
pub fn hot_requests(house: &House) -> impl Iterator<Item = (Role, Endpoint, usize, Durations)> {
    let all = Role::ALL.into_iter().flat_map(move |role| {
        Endpoint::all().flat_map(move |endpoint| {
            // As many as there are statuses; gRPC has fewer codes.
            (0..STATUSES.len())
                .map(move |outcome| (role, endpoint, outcome, house.durations(role, endpoint, outcome)))
        })
    });
    all.filter(|(.., durations)| durations.count() > 0)
}

/// The hot routes' requests that bring messages in, by the `status` label of their outcome.
fn ingest_requests(house: &House) -> BTreeMap<&'static str, Durations> {
    let mut by_status: BTreeMap<&str, Durations> = BTreeMap::new();
    for status in ["success", "bad_request", "method_not_allowed", "service_unavailable"] {
        by_status.insert(status, Durations::default());
    }
    for (_, endpoint, outcome, durations) in hot_requests(house) {
        if endpoint.is_ingest() {
            by_status.entry(ingest_status(endpoint, outcome)).or_default().merge(&durations);
        }
    }
    by_status
}

fn ingest(house: &House, families: &mut Vec<Family>) {
    let mut requests =
        Family::counter("ingest_requests_total", "Requests that bring messages in, by outcome.");
    let mut durations = Family::histogram(
        "ingest_request_duration_seconds",
        "From the read that completed a request to its answer being given to the socket.",
    );
    for (status, taken) in &ingest_requests(house) {
        requests.add_count(&[("status", status)], taken.count());
        durations.add_durations(&[("status", status)], taken);
    }
    let totals = house.totals();
    let messages = Family::counter("ingest_messages_processed_total", "Messages at the ingest stage.")
        .count(&[("status", "received")], totals.received)
        .count(&[("status", "sent")], totals.accepted)
        .count(&[("status", "failed")], totals.refused);
    families.extend([requests, durations, messages].into_iter().filter_map(Family::finish));
}

fn processor(house: &House, families: &mut Vec<Family>) {
    let totals = house.totals();
    let waiting = totals.waiting as f64;
    let workers = house.cores.len() as f64;
    let mut duration = Family::histogram(
        "processor_processing_duration_seconds",
        "Time a worker spent on a message, as its share of the batch's.",
    );
    let mut taken = Durations::default();
    for core in &house.cores {
        taken.merge(&core.front.processing());
    }
    duration.add_durations(&[("status", "processed")], &taken);
    families.extend(
        [
            Family::counter("processor_messages_total", "Messages that workers finished.")
                .count(&[("status", "processed")], totals.processed)
                .count(&[("status", "error")], totals.errors),
            Family::counter(
                "messages_processed_total",
                "Alias of processor_messages_total{status=\"processed\"}.",
            )
            .count(&[], totals.processed),
            Family::gauge("processor_worker_pool_size", "Workers: one per core thread.").level(&[], workers),
            Family::gauge("worker_pool_active", "Alias of processor_worker_pool_size.").level(&[], workers),
            Family::gauge(
                "processor_queue_size",
                "Messages that wait to be worked on: here, in the log, or at the brokers as these last told.",
            )
            .level(&[], waiting),
            Family::gauge("queue_current_size", "Alias of processor_queue_size.").level(&[], waiting),
            Family::gauge("queue_size", "Messages in flight in this process: at most queue_capacity.")
                .level(&[], totals.in_slots as f64),
            Family::gauge("queue_capacity", "Messages that may be in flight, over all cores.")
                .level(&[], house.queue_capacity as f64),
            Family::gauge(
                "system_health_status",
                "1 while messages are taken in at the default level, else 0.",
            )
            .level(&[], if !house.is_draining() && house.intake().is_able() { 1.0 } else { 0.0 }),
            duration,
        ]
        .into_iter()
        .filter_map(Family::finish),
    );
}

/// `http_*`, `gateway_*` and `grpc_*`.
fn requests(house: &House, families: &mut Vec<Family>) {
    // One request is one increment, whichever lane answered it.
    let mut all: BTreeMap<(String, String, String), Durations> = BTreeMap::new();
    let mut gateway: BTreeMap<(String, String, String), Durations> = BTreeMap::new();
    let mut upstream: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut grpc: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for (role, endpoint, outcome, durations) in hot_requests(house) {
        let row = endpoint.row();
        let mut status = "200".to_owned();
        if endpoint.is_grpc() {
            // A gRPC error travels under HTTP status 200; its code is counted in grpc_server_handled_total.
            let (service, method) = row.path.trim_start_matches('/').split_once('/').unwrap_or_default();
            *grpc.entry((service, method, CODE_NAMES[outcome])).or_default() += durations.count();
        } else {
            status = STATUSES[outcome.min(STATUSES.len() - 1)].to_string();
        }
        let method = if status == "405" { "OTHER" } else { row.method };
        let key = (method.to_owned(), short_pattern(row.path).to_owned(), status);
        all.entry(key.clone()).or_default().merge(&durations);
        if role == Role::Gateway {
            gateway.entry(key).or_default().merge(&durations);
            let service = if row.path == "/enqueue" { "processor" } else { "ingest" };
            match ingest_status(endpoint, outcome) {
                _ if !endpoint.is_ingest() => {}
                "success" => *upstream.entry((service, "success")).or_default() += durations.count(),
                "service_unavailable" => {
                    *upstream.entry((service, "error")).or_default() += durations.count()
                }
                _ => {}
            }
        }
    }
    for ((path, code), count) in house.rpcs.all() {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        *grpc.entry((service, method, CODE_NAMES[code])).or_default() += count;
    }
    for (cold, durations) in house.cold.all() {
        let key = (cold.method.to_owned(), cold.endpoint, cold.status.to_string());
        all.entry(key.clone()).or_default().merge(&durations);
        if cold.role == Role::Gateway.index() {
            gateway.entry(key).or_default().merge(&durations);
        }
    }
    for (name, series) in [("http", &all), ("gateway", &gateway)] {
        let whose = if name == "http" { "on every port" } else { "on the public API's port" };
        let prefix = if name == "http" { "http_request" } else { "gateway_request" };
        let mut count = Family::counter(&format!("{prefix}s_total"), &format!("Requests {whose}."));
        let mut time =
            Family::histogram(&format!("{prefix}_duration_seconds"), &format!("Their durations, {whose}."));
        for ((method, endpoint, status), taken) in series {
            let labels = [("method", method.as_str()), ("endpoint", endpoint), ("status", status)];
            count.add_count(&labels, taken.count());
            time.add_durations(&labels, taken);
        }
        families.extend([count, time].into_iter().filter_map(Family::finish));
    }
    let mut handed = Family::counter(
        "gateway_upstream_requests_total",
        "Requests the public API handed to the next stage.",
    );
    for ((service, status), count) in upstream {
        handed.add_count(&[("service", service), ("status", status)], count);
    }
    let mut handled = Family::counter("grpc_server_handled_total", "RPCs finished, by code.");
    for ((service, method, code), count) in grpc {
        handled.add_count(&[("grpc_service", service), ("grpc_method", method), ("grpc_code", code)], count);
    }
    families.extend([handed, handled].into_iter().filter_map(Family::finish));
}

/// The log, the brokers and the dead letters.
fn delivery(house: &House, families: &mut Vec<Family>) {
    let behind = &house.behind;
    families.extend(
        Family::counter(
            "tidegate_dead_letters_total",
            "Messages that were put aside: those in the folder of dead letters at the start, and those since.",
        )
        .count(&[], behind.dead_letters.count())
        .finish(),
    );
    families.extend(
        Family::counter(
            "tidegate_dead_letters_dropped_total",
            "Messages that were deleted from the dead letters before they were replayed (dead_letter.retention, when_full).",
        )
        .count(&[], behind.dead_letters.dropped())
        .finish(),
    );
    families.extend(
        Family::gauge(
            "tidegate_dead_letter_bytes",
            "Bytes of the dead letters, up to dead_letter.bytes_max.",
        )
        .level(&[], behind.dead_letters.bytes() as f64)
        .finish(),
    );
    families.extend(
        Family::counter(
            "tidegate_messages_repeated_total",
            "Messages that came to the workers again, from another side or once more from a broker, and were not worked on twice.",
        )
        .count(&[], behind.worked().repeated)
        .finish(),
    );
    families.extend(
        Family::counter(
            "tidegate_processing_attempts_failed_total",
            "Attempts of the workers at a message that came to nothing; a message that a broker brought is tried five times.",
        )
        .count(&[], behind.worked().failed_attempts)
        .finish(),
    );
    if let Some(log) = &behind.log {
        let mut bytes = Family::gauge("tidegate_log_bytes", "Bytes of the log's segments, by shard.");
        let mut next =
            Family::counter("tidegate_log_records_total", "Messages made durable in this run, by shard.");
        let mut age = Family::gauge("tidegate_log_oldest_seconds", "Age of the oldest segment, by shard.");
        let mut sync =
            Family::histogram("tidegate_log_sync_seconds", "Time of a commit: write and fdatasync.");
        let bounds: Vec<f64> = SYNC_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).collect();
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        for stat in log.stat() {
            let shard = stat.shard.to_string();
            let labels = [("shard", shard.as_str())];
            bytes = bytes.level(&labels, stat.bytes as f64);
            next.add_count(&labels, stat.records);
            let since = stat.oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(u128::from(oldest)));
            age = age.level(&labels, since as f64 / 1e3);
            sync.add_distribution(&labels, &bounds, &stat.sync_buckets, stat.sync_seconds);
        }
        let disk = Family::gauge("tidegate_disk_free_bytes", "Bytes free on the disk of data.directory.")
            .level(&[], behind.disk().map_or(0, |(free, _)| free) as f64);
        families.extend(disk.finish());
        let mut lag =
            Family::gauge("tidegate_log_lag", "Messages of the log that a consumer has not passed.");
        for (consumer, behind) in log.lags() {
            lag = lag.level(&[("consumer", &consumer)], behind as f64);
        }
        let damaged = Family::gauge(
            "tidegate_log_damaged_segments",
            "Segments of the log that were found damaged when they were read again; a check reads 1 MiB a second.",
        );
        let damaged = damaged.level(&[], behind.damaged_segments.load(Relaxed) as f64);
        families.extend([bytes, next, age, sync, lag, damaged].into_iter().filter_map(Family::finish));
    }
    let counter = |name: &str, help: &str, of: &dyn Fn(&SideStatus) -> &AtomicU64| {
        let mut family = Family::counter(name, help);
        for broker in &behind.brokers {
            family.add_count(&[("broker", broker.provider.name())], of(&broker.status).load(Relaxed));
        }
        family
    };
    let gauge = |name: &str, help: &str, of: &dyn Fn(&SideStatus) -> f64| {
        behind.brokers.iter().fold(Family::gauge(name, help), |family, broker| {
            family.level(&[("broker", broker.provider.name())], of(&broker.status))
        })
    };
    // What a broker out of reach holds is not known, so it is not said.
    let reached = behind.brokers.iter().filter(|broker| !broker.status.is_open());
    let lag = reached.fold(
        Family::gauge(
            "tidegate_broker_lag",
            "Messages a broker holds that this group has not worked on; absent while it is out of reach.",
        ),
        |family, broker| {
            let held = broker.status.lag.load(Relaxed) as f64;
            family.level(&[("broker", broker.provider.name())], held)
        },
    );
    let mut time = Family::histogram(
        "tidegate_broker_publish_seconds",
        "From sending a message to its acknowledgement, of a sample.",
    );
    let bounds: Vec<f64> = PUBLISH_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).collect();
    for broker in &behind.brokers {
        let buckets: Vec<u64> =
            broker.status.publish_buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let seconds = broker.status.publish_nanoseconds.load(Relaxed) as f64 / 1e9;
        time.add_distribution(&[("broker", broker.provider.name())], &bounds, &buckets, seconds);
    }
    families.extend(
        [
            counter("tidegate_broker_acknowledged_total", "Messages a broker acknowledged.", &|side| {
                &side.acknowledged
            }),
            counter("tidegate_broker_retries_total", "Publishes tried again.", &|side| &side.retries),
            counter("tidegate_broker_rejected_total", "Messages a broker refuses for ever.", &|side| {
                &side.rejected
            }),
            counter(
                "tidegate_broker_missed_total",
                "Messages a broker missed while another took them.",
                &|side| &side.missed,
            ),
            counter("tidegate_broker_consumed_total", "Messages taken from a broker.", &|side| {
                &side.consumed
            }),
            counter("tidegate_broker_redelivered_total", "Of these, how many came again.", &|side| {
                &side.redelivered
            }),
            gauge("tidegate_broker_in_flight", "Publishes not acknowledged yet.", &|side| {
                side.in_flight.load(Relaxed) as f64
            }),
            lag,
            gauge(
                "tidegate_broker_breaker",
                "0 closed, 1 open (out of reach), 0.5 half-open.",
                &|side| match (side.is_open(), side.half_open.load(Relaxed)) {
                    (true, _) => 1.0,
                    (false, true) => 0.5,
                    (false, false) => 0.0,
                },
            ),
            time,
        ]
        .into_iter()
        .filter_map(Family::finish),
    );
}

/// The process that messages are sent on to. Requests over connections is how often one is used again.
fn remote(house: &House, families: &mut Vec<Family>) {
    let Some(remote) = &house.behind.remote else { return };
    let count = |name: &str, help: &str, number: &AtomicU64| {
        Family::counter(name, help).count(&[], number.load(Relaxed)).finish()
    };
    let level = |name: &str, help: &str, value: f64| Family::gauge(name, help).level(&[], value).finish();
    let mut time = Family::histogram(
        "tidegate_remote_answer_seconds",
        "From sending a message on to its being accepted there.",
    );
    let bounds: Vec<f64> = PUBLISH_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).collect();
    let buckets: Vec<u64> = remote.side.publish_buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
    let seconds = remote.side.publish_nanoseconds.load(Relaxed) as f64 / 1e9;
    time.add_distribution(&[], &bounds, &buckets, seconds);
    families.extend(
        [
            count(
                "tidegate_remote_requests_total",
                "Messages sent on, those sent again included.",
                &remote.requests,
            ),
            count(
                "tidegate_remote_connections_opened_total",
                "Connections opened for that.",
                &remote.connections_opened,
            ),
            level(
                "tidegate_remote_connections",
                "Of these, open now.",
                remote.connections.load(Relaxed) as f64,
            ),
            count("tidegate_remote_accepted_total", "Messages accepted there.", &remote.side.acknowledged),
            count(
                "tidegate_remote_refused_total",
                "Messages turned down there, or that did not get there.",
                &remote.refused,
            ),
            count("tidegate_remote_unknown_total", "Messages of which nothing is known.", &remote.unknown),
            count(
                "tidegate_remote_retries_total",
                "Messages sent again after a connection was lost.",
                &remote.side.retries,
            ),
            level(
                "tidegate_remote_in_flight",
                "Messages sent on and not answered.",
                remote.side.in_flight.load(Relaxed) as f64,
            ),
            level(
                "tidegate_remote_breaker",
                "0 closed, 1 open (out of reach).",
                f64::from(u8::from(remote.side.is_open())),
            ),
            time.finish(),
        ]
        .into_iter()
        .flatten(),
    );
}

/// What makes the aggregates outlive the process.
fn snapshots(house: &House, families: &mut Vec<Family>) {
    let Some(snapshots) = &house.behind.snapshots else { return };
    let counts = &snapshots.counts;
    let mut age = Family::gauge(
        "tidegate_snapshot_age_seconds",
        "Since the aggregates on the disk were those in memory.",
    );
    if let Some(since) = counts.age() {
        age = age.level(&[], since.as_secs_f64());
    }
    families.extend(
        [
            age,
            Family::gauge("tidegate_snapshot_bytes", "Bytes of the snapshots written last, over all cores.")
                .level(&[], counts.bytes.load(Relaxed) as f64),
            Family::gauge("tidegate_snapshot_duration_seconds", "How long the last round of them took.")
                .level(&[], counts.round_nanoseconds.load(Relaxed) as f64 / 1e9),
            Family::counter("tidegate_snapshots_total", "Snapshots written in this run, one for each core.")
                .count(&[], counts.taken.load(Relaxed)),
            Family::counter("tidegate_snapshot_failures_total", "Snapshots that could not be written.")
                .count(&[], counts.failed.load(Relaxed)),
            Family::counter(
                "tidegate_journal_missed_total",
                "Events from brokers that the journal had no room for: a crash forgets them in the aggregates.",
            )
            .count(&[], counts.journal_missed.load(Relaxed)),
        ]
        .into_iter()
        .filter_map(Family::finish),
    );
}

fn own(house: &House, families: &mut Vec<Family>) {
    let opened = house.tally(Tally::ConnectionsOpened);
    let open = opened.saturating_sub(house.tally(Tally::ConnectionsClosed));
    let mut per_core =
        Family::counter("tidegate_core_messages_processed_total", "Messages each core's worker finished.");
    for (number, core) in house.cores.iter().enumerate() {
        per_core.add_count(&[("core", &number.to_string())], core.engine.snapshot().processed);
    }
    let mut busy = Family::gauge(
        "tidegate_core_busy_ratio",
        "Part of the last second in which each core's thread had a processor, 0 to 1.",
    );
    let mut cpu = Family::counter(
        "tidegate_core_cpu_seconds_total",
        "Processor time of each core's thread, in seconds.",
    );
    for (number, core) in house.cores.iter().enumerate() {
        let number = number.to_string();
        busy = busy.level(&[("core", &number)], core.front.busy());
        cpu.add_amount(&[("core", &number)], core.front.cpu().as_secs_f64());
    }
    let mut streamed = Family::histogram(
        "tidegate_stream_latency_seconds",
        "From the read of a message or event of a stream to its having the level asked for.",
    );
    for (what, method) in StreamKind::ALL {
        let mut taken = Durations::default();
        for core in &house.cores {
            taken.merge(&core.front.streamed(what));
        }
        if taken.count() > 0 {
            let labels = [("grpc_method", method)];
            streamed.add_durations(&labels, &taken);
        }
    }
    let totals = house.totals();
    let messages = Family::counter(
        "tidegate_messages_total",
        "Messages by what became of them. accepted = done + rejected + tidegate_messages_pending; duplicates, conflicts and \
         refused ones stand beside it.",
    )
    .count(&[("state", "accepted")], totals.accepted)
    .count(&[("state", "done")], totals.done)
    .count(&[("state", "rejected")], totals.rejected)
    .count(&[("state", "duplicate")], totals.duplicates)
    .count(&[("state", "conflict")], totals.conflicts)
    .count(&[("state", "refused")], totals.refused);
    let pending = Family::gauge("tidegate_messages_pending", "Messages accepted that are not done yet.")
        .level(&[], totals.pending as f64);
    let oldest = house.cores.iter().filter_map(|core| core.engine.oldest()).min();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let age = Family::gauge(
        "tidegate_oldest_message_age_seconds",
        "Since the oldest message in flight in this process came, to the second; 0 when there is none.",
    )
    .level(&[], oldest.map_or(0, |second| now.saturating_sub(second)) as f64);
    let mut limits = Family::counter(
        "tidegate_limit_hits_total",
        "Connections or requests cut short by a limit, by reason.",
    );
    for cause in Cause::ALL {
        limits.add_count(&[("reason", cause.label())], house.hits(*cause));
    }
    families.extend(
        [
            Family::gauge("tidegate_build_info", "Always 1; the labels say what runs.")
                .level(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
            Family::gauge("tidegate_uptime_seconds", "Seconds since the start.")
                .level(&[], house.started.elapsed().as_secs_f64()),
            Family::gauge("tidegate_connections", "Connections open now.").level(&[], open as f64),
            Family::counter("tidegate_connections_total", "Connections accepted.").count(&[], opened),
            Family::counter("tidegate_received_bytes_total", "Bytes read from sockets.")
                .count(&[], house.tally(Tally::BytesReceived)),
            Family::counter("tidegate_sent_bytes_total", "Bytes written to sockets.")
                .count(&[], house.tally(Tally::BytesSent)),
            Family::counter("tidegate_probes_total", "Probes of /api/v1/trace; in no other message count.")
                .count(&[], house.tally(Tally::Probes)),
            Family::counter("tidegate_cold_calls_total", "Requests handed to the cold lane.")
                .count(&[], house.tally(Tally::ColdCalls)),
            streamed,
            messages,
            pending,
            age,
            per_core,
            busy,
            cpu,
            limits,
        ]
        .into_iter()
        .filter_map(Family::finish),
    );
}

/// What the producer service's dashboards ask for.
fn producer(house: &House, families: &mut Vec<Family>) {
    let mut published = Family::counter("producer_events_published_total", "Events published, by type.");
    let mut failed =
        Family::counter("producer_events_failed_total", "Events not published, by type and reason.");
    let mut durations = Family::histogram(
        "producer_publish_duration_seconds",
        "From a request to its event being published.",
    );
    for (name, counted) in house.producer.read() {
        let label = ("event_type", name);
        published.add_count(&[label], counted.published);
        failed.add_count(&[label, ("reason", "validation_error")], counted.invalid);
        failed.add_count(&[label, ("reason", "publish_error")], counted.failed);
        durations.add_distribution(&[label], &PUBLISH_BOUNDS_SECONDS, &counted.buckets, counted.seconds);
    }
    families.extend([published, failed, durations].into_iter().filter_map(Family::finish));
    let Some(kafka) = house.behind.brokers.iter().find(|broker| broker.provider == Provider::Kafka) else {
        return;
    };
    let written = &kafka.status.written;
    let mut stats = Family::gauge(
        "producer_kafka_writer_stats",
        "What the Kafka client has sent in this run, as it says once a second.",
    );
    for (metric, number) in [
        ("writes", &written.writes),
        ("messages", &written.messages),
        ("bytes", &written.bytes),
        ("errors", &written.errors),
    ] {
        stats = stats.level(&[("metric", metric)], number.load(Relaxed) as f64);
    }
    let mut batches = Family::histogram(
        "producer_batch_size",
        "Messages in a batch to Kafka, from the quantiles that the Kafka client gives once a second.",
    );
    let buckets: Vec<u64> = written.batches.iter().map(|bucket| bucket.load(Relaxed)).collect();
    let bounds = BATCH_BOUNDS.map(|bound| bound as f64);
    batches.add_distribution(&[], &bounds, &buckets, written.batched.load(Relaxed) as f64);
    families.extend([stats, batches].into_iter().filter_map(Family::finish));
}

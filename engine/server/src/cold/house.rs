//! What the cold lane can see of the process: the cores' counters, added up, and how the process is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use brokers::log::Log;
use engine_core::CounterReader;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use transports::{Beats, Cause, Durations, Endpoint, FrontCounters, Role, Tally};

use super::{probe::Processor, rate::Rate, rpcs::RpcCounts};
use crate::{delivery::Behind, events::producer::Counters, logging::Latest};

/// The view of one core.
#[derive(Debug)]
pub struct CoreView {
    /// What its front end counts.
    pub front: Arc<FrontCounters>,
    /// What its engine counts.
    pub engine: CounterReader,
}

/// Whether and how the process is.
#[derive(Debug)]
pub struct House {
    /// The cores.
    pub cores: Vec<CoreView>,
    /// The latest warnings, errors and refusals.
    pub latest: Arc<Latest>,
    /// Whether their loops turn.
    pub beats: Arc<Beats>,
    /// The bound of messages in flight, over all cores.
    pub queue_capacity: usize,
    /// The processor, for the probe: the one that messages are sent on to, else this process's own listener, if any.
    pub processor: Option<Processor>,
    /// Marks the probe's message as ours.
    pub probe_token: String,
    /// What the producer service counts.
    pub producer: Arc<Counters>,
    /// The metrics' further path.
    pub metrics_path: String,
    /// Viewers that the live page may have at a time; 0: there is no page.
    pub live_viewers_max: usize,
    /// When the process began.
    pub started: Instant,
    /// A shutdown has begun.
    pub draining: watch::Sender<bool>,
    /// What is behind the queue.
    pub behind: Arc<Behind>,
    /// Requests that the cold lane answered.
    pub cold: ColdCounts,
    /// Of these, the RPCs.
    pub rpcs: RpcCounts,
    /// Of messages taken in, messages worked on, events counted.
    pub rates: [Rate; 3],
}

/// The messages' way through the process, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Messages of well-formed requests: the next four, and those in the queue that may be repeats.
    pub received: u64,
    /// New messages taken on: the sum of `done`, `rejected` and `pending`.
    pub accepted: u64,
    /// Repeats of accepted ones.
    pub duplicates: u64,
    /// Messages with the id of an accepted one and another content.
    pub conflicts: u64,
    /// Messages that did not go into the queue.
    pub refused: u64,
    /// Of the accepted, how many came to where they go: worked on, durable, or acknowledged.
    pub done: u64,
    /// Of the accepted, how many were given up, or refused where they go.
    pub rejected: u64,
    /// Of the accepted, the rest.
    pub pending: u64,
    /// Slots of the queue in use, at most its capacity.
    pub in_slots: u64,
    /// Messages that came to the workers of this process: the sum of the next three.
    pub enqueued: u64,
    /// Messages that the workers have finished.
    pub processed: u64,
    /// Messages that the workers gave up.
    pub errors: u64,
    /// Messages that wait to be worked on: here, in the log, or at the brokers, as these last told.
    pub waiting: u64,
    /// Time the workers spent on messages.
    pub busy: Duration,
}

impl House {
    /// The counts of this moment. Cores are read one after the other while they work, so sums can be off by what is
    /// under way; they agree when the process is at rest.
    pub fn totals(&self) -> Totals {
        let worked = self.behind.worked();
        let mut totals = Totals { processed: worked.processed, errors: worked.failed, ..Totals::default() };
        for core in &self.cores {
            let engine = core.engine.snapshot();
            totals.done += engine.done;
            totals.rejected += engine.rejected;
            totals.duplicates += engine.duplicates;
            totals.conflicts += engine.conflicts;
            // A core shows its numbers one after the other: the last turn's may be half there.
            totals.pending += engine.accepted.saturating_sub(engine.done + engine.rejected);
            totals.in_slots += engine.queue_depth;
            totals.busy += Duration::from_secs_f64(core.front.processing().sum_seconds);
            totals.received += core.front.tally(Tally::MessagesReceived);
            totals.refused += core.front.tally(Tally::MessagesRefused);
        }
        totals.accepted = totals.done + totals.rejected + totals.pending;
        let finished = totals.processed + totals.errors;
        if let Some(before) = self.behind.all_is_accepted_here() {
            // Each of the two only grows, so their sums never go back between two readings.
            totals.enqueued = (before + totals.accepted).max(finished);
            totals.waiting = totals.enqueued - finished;
        } else {
            totals.waiting = totals.pending + self.behind.waits_elsewhere();
            totals.enqueued = finished + totals.waiting;
        }
        totals
    }

    /// Whether messages are being taken in.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when a shutdown begins.
    pub async fn until_draining(&self) {
        // The sender is ours, so there is no other end.
        let mut draining = self.draining.subscribe();
        let _begun = draining.wait_for(|draining| *draining).await;
    }

    /// A front-end count over all cores.
    pub fn tally(&self, tally: Tally) -> u64 {
        self.cores.iter().map(|core| core.front.tally(tally)).sum()
    }

    /// Hits of a limit over all cores.
    pub fn hits(&self, cause: Cause) -> u64 {
        self.cores.iter().map(|core| core.front.hits(cause)).sum()
    }

    /// Requests of a role and endpoint with one outcome over all cores.
    pub fn durations(&self, role: Role, endpoint: Endpoint, outcome: usize) -> Durations {
        let mut all = Durations::default();
        for core in &self.cores {
            all.merge(&core.front.durations(role, endpoint, outcome));
        }
        all
    }

    /// How the process is that messages are sent on to, if there is one.
    pub fn remote(&self) -> Option<Value> {
        let (status, config) = (self.behind.remote.as_ref()?, self.behind.delivery.remote.as_ref()?);
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut remote = json!({
            "url": config.target.to_string(),
            "healthy": !status.side.is_open(),
            "connections": read(&status.connections),
            "connections_opened": read(&status.connections_opened),
            "requests": read(&status.requests),
            "accepted": read(&status.side.acknowledged),
            "refused": read(&status.refused),
            "unknown": read(&status.unknown),
            "in_flight": read(&status.side.in_flight),
        });
        if let Some(trouble) = status.side.trouble() {
            remote["error"] = json!(trouble);
        }
        Some(remote)
    }

    /// The ingest service's part of `/stats`.
    pub fn ingest_stats(&self) -> Value {
        let totals = self.totals();
        json!({
            "TotalReceived": totals.received,
            "TotalSent": totals.accepted,
            "TotalFailed": totals.refused,
            "TotalDuplicates": totals.duplicates,
            "TotalConflicts": totals.conflicts,
            "TotalRejected": totals.rejected,
        })
    }

    /// The processor's part of `/stats`.
    pub fn processor_stats(&self) -> Value {
        let totals = self.totals();
        let (enqueued, dequeued) = if self.behind.delivery.consume {
            (totals.enqueued, totals.processed + totals.errors)
        } else {
            // Nobody works on messages here: what leaves the queue is handed on.
            (totals.accepted.max(totals.waiting), totals.accepted.saturating_sub(totals.waiting))
        };
        let mut stats = json!({
            "queue": {
                "CurrentSize": totals.waiting,
                "TotalEnqueued": enqueued,
                "TotalDequeued": dequeued,
                "size": totals.in_slots,
                "capacity": self.queue_capacity,
                "type": self.behind.delivery.queue_type,
            },
            "pool": {
                "ProcessedCount": totals.processed,
                "ErrorCount": totals.errors,
                "TotalDuration": u64::try_from(totals.busy.as_nanos()).unwrap_or(u64::MAX),
                "processed": totals.processed,
                "errors": totals.errors,
                "workers": self.cores.len(),
            },
        });
        if self.behind.delivery.queue_type == "composite" {
            stats["queue"]["composite_stats"] = self.composite_stats();
        }
        stats
    }

    /// The sides of a composite by name.
    fn composite_stats(&self) -> Value {
        let behind = &self.behind;
        let lags: BTreeMap<String, u64> =
            behind.log.as_ref().map(Log::lags).unwrap_or_default().into_iter().collect();
        let mut sides = Map::new();
        for provider in &behind.delivery.providers {
            let name = provider.name();
            let stats = match behind.brokers.iter().find(|broker| broker.provider == *provider) {
                Some(broker) => {
                    let status = &broker.status;
                    let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
                    let behind = lags.get(name).copied().unwrap_or_else(|| read(&status.in_flight));
                    json!({
                        "TotalEnqueued": read(&status.acknowledged),
                        "TotalDequeued": read(&status.consumed),
                        "CurrentSize": behind,
                        "PublishErrors": read(&status.retries) + read(&status.rejected),
                        "Rejected": read(&status.rejected),
                        "Missed": read(&status.missed),
                        "ConsumerLag": read(&status.lag),
                        "healthy": !status.is_open(),
                        "trouble": status.trouble(),
                    })
                }
                None => {
                    let totals = self.totals();
                    json!({
                        "TotalEnqueued": totals.accepted,
                        "TotalDequeued": totals.processed,
                        "CurrentSize": lags.get("workers").copied().unwrap_or(0),
                        "PublishErrors": 0,
                        "healthy": true,
                    })
                }
            };
            sides.insert(name.to_owned(), stats);
        }
        Value::Object(sides)
    }
}

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ColdKey {
    /// [`Role::index`] of the port.
    pub role: usize,
    /// One of a fixed set.
    pub method: &'static str,
    /// The route's pattern.
    pub endpoint: String,
    /// HTTP status.
    pub status: u16,
}

/// What the cold lane answered, by kind. Bounded: methods and patterns come from fixed sets.
#[derive(Debug, Default)]
pub struct ColdCounts(Mutex<BTreeMap<ColdKey, Durations>>);

impl ColdCounts {
    /// Counts one answer.
    pub fn note(&self, key: ColdKey, took: Duration) {
        self.0.lock().entry(key).or_default().add(took);
    }

    /// A copy of all counts.
    pub fn all(&self) -> Vec<(ColdKey, Durations)> {
        self.0.lock().iter().map(|(key, durations)| (key.clone(), durations.clone())).collect()
    }
}

//! What is read of the process: running counts with the time they were read at, so that a viewer makes rates of any two
//! of them; and how things are at present.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use brokers::{
    log::{Health, Log, SYNC_BOUNDS_US, ShardStat},
    status::PUBLISH_BOUNDS_MS,
};
use engine_core::{AckLevel, Snapshot, clock};
use serde::Serialize;
use transports::{ANSWER_BOUNDS_US, Tally};

use super::{
    Live,
    events_seen::{self, EventsSeen},
    history::HISTORY_SECONDS,
    refusals::Requests,
    verdict::{self, Facts, Moment, Recent, Verdict},
};
use crate::{
    cold::{Condition, House, Totals},
    delivery::Behind,
};

/// Longest reason that is shown.
const REASON_CHARS_MAX: usize = 300;

/// What does not change during a run.
#[derive(Debug, Serialize)]
pub struct Hello<'a> {
    version: &'static str,
    node: &'a str,
    /// When the run began; also the first half of the samples' ids.
    run: u64,
    cores: usize,
    queue_type: &'a str,
    /// Messages in flight, over all cores.
    queue_capacity: usize,
    /// The level that a message without a wish gets.
    ack_default: &'static str,
    /// Distributions of durations that samples carry, by name: upper bounds in microseconds, without the last, open one.
    latencies: Vec<(&'static str, Vec<u64>)>,
    /// How far back the samples go that a viewer is given at first.
    history_seconds: u64,
    /// Whether events are added up.
    analytics: bool,
    events_minutes: i64,
}

/// Running counts. Each is right by itself and never goes back.
#[derive(Debug, Serialize)]
pub struct Sample<'a> {
    /// Milliseconds since the epoch, for the axis.
    at_ms: u64,
    /// Microseconds since the start of the process, for rates: no clock is set meanwhile.
    up_us: u64,
    /// Messages of well-formed requests, and what became of them.
    received: u64,
    accepted: u64,
    refused: u64,
    /// Requests that were turned away, by kind. Who is turned away before its message was looked at, because its level
    /// cannot be had, is here alone.
    refusals: BTreeMap<&'static str, u64>,
    processed: u64,
    errors: u64,
    /// Of the accepted, in the cores' queues now.
    queued: u64,
    connections: u64,
    bytes_in: u64,
    bytes_out: u64,
    cores: Cores,
    latencies: BTreeMap<&'static str, Vec<u64>>,
    sinks: Vec<Sink<'a>>,
}

/// Counts by core.
#[derive(Debug, Default, Serialize)]
pub struct Cores {
    /// Messages that the core took in.
    accepted: Vec<u64>,
    /// Messages in its queue now.
    queued: Vec<u64>,
}

/// Where messages go, in numbers.
#[derive(Debug, Serialize)]
pub struct Sink<'a> {
    name: &'a str,
    /// Worked on, stored, acknowledged.
    done: u64,
    /// Given up, or refused for ever.
    failed: u64,
    /// Sent and not acknowledged.
    in_flight: Option<u64>,
    /// Messages of the log that it has not passed.
    lag: Option<u64>,
}

/// How things are; of the present alone, and not kept.
#[derive(Debug, Serialize)]
pub struct Present {
    verdict: Verdict,
    draining: bool,
    /// By the name of a sink.
    states: BTreeMap<String, State>,
    levels: Vec<Level>,
    dead_letters: u64,
    /// Another number whenever `/live/errors` has something new to tell.
    errors_noted: u64,
    /// `None`: events are not added up.
    events: Option<EventsSeen>,
}

#[derive(Debug, Serialize)]
struct State {
    state: &'static str,
    reason: Option<String>,
}

/// Whether an ack level can be had.
#[derive(Debug, Serialize)]
struct Level {
    name: &'static str,
    state: &'static str,
    reason: Option<String>,
}

pub fn hello(live: &Live) -> Hello<'_> {
    let behind = &live.house.behind;
    let mut latencies = vec![("answer", ANSWER_BOUNDS_US.to_vec())];
    if behind.log.is_some() {
        latencies.push(("log", SYNC_BOUNDS_US.to_vec()));
    }
    let publish_us: Vec<u64> = PUBLISH_BOUNDS_MS.iter().map(|ms| ms * 1000).collect();
    latencies.extend(behind.brokers.iter().map(|broker| (broker.provider.name(), publish_us.clone())));
    Hello {
        version: env!("CARGO_PKG_VERSION"),
        node: &live.platform.node,
        run: live.run,
        cores: live.house.cores.len(),
        queue_type: &behind.delivery.queue_type,
        queue_capacity: live.house.queue_capacity,
        ack_default: behind.delivery.ack_default.name(),
        latencies,
        history_seconds: HISTORY_SECONDS,
        analytics: behind.analyses(),
        events_minutes: events_seen::MINUTES,
    }
}

/// Reads the process now, for the last seconds' numbers too; how things are, only if somebody is to see it.
pub fn take<'a>(live: &'a Live, recent: &mut Recent, is_watched: bool) -> (Sample<'a>, Option<Present>) {
    let house = &live.house;
    let stats = house.behind.log.as_ref().map(Log::stat).unwrap_or_default();
    let (totals, requests) = (house.totals(), Requests::of(house));
    let engine: Snapshot = house.cores.iter().map(|core| core.engine.snapshot()).sum();
    recent.push(Moment {
        served: requests.taken,
        taken: totals.accepted + totals.duplicates,
        rejected: totals.rejected,
        buried: house.behind.dead_letters.count(),
        refused: totals.refused,
        full: engine.refused_full,
        budget: engine.refused_budget,
        unavailable: requests.unavailable,
        finished: totals.processed + totals.errors,
        waiting: totals.waiting,
    });
    let present = is_watched.then(|| present(live, &stats, recent));
    (sample(house, &stats, &totals, &requests), present)
}

fn sample<'a>(house: &'a House, stats: &[ShardStat], totals: &Totals, requests: &Requests) -> Sample<'a> {
    let behind = &house.behind;
    let mut cores = Cores::default();
    let mut answers = vec![0; ANSWER_BOUNDS_US.len() + 1];
    for core in &house.cores {
        cores.accepted.push(core.front.tally(Tally::MessagesQueued));
        cores.queued.push(core.engine.snapshot().queue_depth);
        answers.iter_mut().zip(core.front.answering()).for_each(|(sum, count)| *sum += count);
    }
    let mut latencies = BTreeMap::from([("answer", answers)]);
    if behind.log.is_some() {
        let mut commits = vec![0; SYNC_BOUNDS_US.len() + 1];
        for stat in stats {
            commits.iter_mut().zip(stat.sync_buckets).for_each(|(sum, count)| *sum += count);
        }
        latencies.insert("log", commits);
    }
    for broker in &behind.brokers {
        let buckets = broker.status.publish_buckets.iter().map(|bucket| bucket.load(Relaxed));
        latencies.insert(broker.provider.name(), buckets.collect());
    }
    let opened = house.tally(Tally::ConnectionsOpened);
    Sample {
        at_ms: clock::wall_ms(),
        up_us: u64::try_from(house.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        received: totals.received,
        accepted: totals.accepted,
        refused: totals.refused,
        refusals: requests.by_kind(),
        processed: totals.processed,
        errors: totals.errors,
        queued: cores.queued.iter().sum(),
        connections: opened.saturating_sub(house.tally(Tally::ConnectionsClosed)),
        bytes_in: house.tally(Tally::BytesReceived),
        bytes_out: house.tally(Tally::BytesSent),
        sinks: sinks(behind, stats, totals.processed, totals.errors),
        cores,
        latencies,
    }
}

fn sinks<'a>(behind: &'a Behind, stats: &[ShardStat], processed: u64, errors: u64) -> Vec<Sink<'a>> {
    let read = |number: &AtomicU64| number.load(Relaxed);
    let mut lags: BTreeMap<String, u64> =
        behind.log.as_ref().map(Log::lags).unwrap_or_default().into_iter().collect();
    let mut sinks = Vec::new();
    if behind.log.is_some() {
        let done = stats.iter().map(|stat| stat.records).sum();
        sinks.push(Sink { name: "log", done, failed: 0, in_flight: None, lag: None });
    }
    for broker in &behind.brokers {
        let (name, status) = (broker.provider.name(), &broker.status);
        sinks.push(Sink {
            name,
            done: read(&status.acknowledged),
            failed: read(&status.rejected) + read(&status.missed),
            in_flight: Some(read(&status.in_flight)),
            lag: lags.remove(name),
        });
    }
    if behind.delivery.consume {
        let lag = lags.remove("workers");
        sinks.push(Sink { name: "workers", done: processed, failed: errors, in_flight: None, lag });
    }
    sinks
}

fn shortened(reason: Option<String>) -> Option<String> {
    reason.map(|reason| match reason.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{} …", &reason[..end]),
        None => reason,
    })
}

fn present(live: &Live, stats: &[ShardStat], recent: &Recent) -> Present {
    let (house, behind) = (&live.house, &live.house.behind);
    let mut states = BTreeMap::new();
    let mut say = |name: &str, state: &'static str, reason: Option<String>| {
        states.insert(name.to_owned(), State { state, reason: shortened(reason) });
    };
    if behind.log.is_some() {
        // The worst of the shards.
        let (mut state, mut reason) = ("writing", None);
        for stat in stats {
            match &stat.health {
                Health::Writing => {}
                Health::Full(why) if state == "writing" => (state, reason) = ("full", Some(why.clone())),
                Health::Full(_) => {}
                Health::Failed(why) => (state, reason) = ("failed", Some(why.clone())),
            }
        }
        say("log", state, reason);
    }
    for broker in &behind.brokers {
        let status = &broker.status;
        let state = match (status.is_open(), status.half_open.load(Relaxed)) {
            (true, _) => "out of reach",
            (false, true) => "trying again",
            (false, false) => "connected",
        };
        say(broker.provider.name(), state, status.trouble());
    }
    if behind.delivery.consume {
        match (house.workers(), recent.standing_still()) {
            (Condition::Unhealthy(why), _) => say("workers", "nothing to read from", Some(why)),
            (_, Some(waiting)) => say("workers", recent.working(), Some(format!("{waiting} messages wait"))),
            (_, None) => say("workers", recent.working(), None),
        }
    }
    let levels = AckLevel::ALL.map(|level| {
        let unreachable = &behind.delivery.unreachable[level as usize];
        let (state, reason) = match (unreachable, behind.gate.reason(level)) {
            (Some(why), _) => ("not with these settings", Some(why.clone())),
            (None, Some(why)) => ("refused now", Some(why)),
            (None, None) => ("honoured", None),
        };
        Level { name: level.name(), state, reason: shortened(reason) }
    });
    let refused_level = levels.iter().find(|level| level.state == "refused now");
    let reason = refused_level.and_then(|level| level.reason.as_deref());
    let rejection = behind
        .brokers
        .iter()
        .find_map(|broker| Some(format!("{}: {}", broker.provider.name(), broker.status.last_refusal()?)));
    let mut verdict = verdict::judge(
        &Facts {
            draining: house.is_draining(),
            condition: &house.intake(),
            lost: &behind.lost_threads(),
            stalled: &house.beats.stalled(),
            cores: house.cores.len(),
            level: reason,
            rejection: rejection.as_deref(),
        },
        recent,
    );
    verdict.reason = shortened(verdict.reason);
    let now_ms = i64::try_from(clock::wall_ms()).unwrap_or(i64::MAX);
    Present {
        verdict,
        draining: house.is_draining(),
        states,
        levels: levels.into(),
        dead_letters: behind.dead_letters.count(),
        errors_noted: house.latest.noted(),
        events: behind.analyses().then(|| events_seen::look(&behind.parts, now_ms)),
    }
}

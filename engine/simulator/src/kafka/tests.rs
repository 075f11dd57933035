//! The production publisher over the model: thousands of seeds, and the faults that were once found, by name.

use std::collections::{BTreeMap, BTreeSet};

use brokers::{Ack, Publisher, Rejected, kafka::publish::KafkaPublisher};
use engine_core::{PartitionKey, Record, clock::SimulatedClock};

use super::*;
use crate::seeds::{each_seed, trace};

const TOPIC: &str = "messages";
/// Turns after which everything has to be decided, once nothing is broken any more.
const TURNS_MAX: usize = 20_000;

/// A publisher, its cluster and its time. What is published is numbered, as in a log; a new publisher begins with what is not
/// decided.
struct World {
    rng: fastrand::Rng,
    clock: SimulatedClock,
    cluster: Cluster,
    config: KafkaConfig,
    publisher: Option<KafkaPublisher<ModelClient>>,
    status: Arc<SideStatus>,
    /// By tag.
    published: Vec<Published>,
    /// The next to be given to the publisher; below, it has all that is not decided.
    next: u64,
    outcomes: BTreeMap<u64, Result<(), Rejected>>,
    /// Those of this life.
    decided: BTreeSet<u64>,
    /// Refused in this life or in one before, and perhaps taken later.
    refused: BTreeSet<u64>,
    /// `None`: not wanted.
    trace: Option<Vec<String>>,
}

struct Published {
    key: String,
    bytes: usize,
}

impl World {
    fn new(seed: u64, nodes: usize, change: impl FnOnce(&mut KafkaConfig)) -> Self {
        fastrand::seed(seed);
        let mut config = KafkaConfig { partition: PartitionKey::from_setting("source"), ..config(TOPIC) };
        change(&mut config);
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            clock: SimulatedClock::start(1_800_000_000_000),
            cluster: Cluster::new(nodes),
            config,
            publisher: None,
            status: Arc::new(SideStatus::new("kafka")),
            published: Vec::new(),
            next: 0,
            outcomes: BTreeMap::new(),
            decided: BTreeSet::new(),
            refused: BTreeSet::new(),
            trace: trace(),
        };
        world.live_again();
        world
    }

    /// The process starts again: it knows what was decided without a gap.
    fn live_again(&mut self) {
        self.publisher = None;
        self.decided.clear();
        self.next = (0..self.next).find(|tag| !self.outcomes.contains_key(tag)).unwrap_or(self.next);
        let client = self.cluster.client(&self.config, &self.status);
        let (config, status) = (self.config.clone(), Arc::clone(&self.status));
        self.publisher = Some(KafkaPublisher::over(client, config, status).unwrap());
    }

    fn append(&mut self, key: &str, bytes: usize) {
        self.published.push(Published { key: key.to_owned(), bytes });
    }

    /// Gives the publisher what it takes.
    fn offer(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        while let Some(Published { key, bytes }) = self.published.get(self.next as usize) {
            let (id, payload) = (self.next.to_string(), vec![b'x'; *bytes]);
            let record =
                Record { id: id.as_bytes(), source: key.as_bytes(), payload: &payload, ..Record::default() };
            if publisher.publish(self.next, &record).is_err() {
                break;
            }
            self.next += 1;
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Lets a little happen, and asks the publisher.
    fn turn(&mut self) {
        self.offer();
        for _ in 0..self.rng.usize(..6) {
            if let Some(step) = self.cluster.step(&mut self.rng) {
                self.note(|| format!("{step:?}"));
            }
        }
        let mut acks = Vec::new();
        if let Some(publisher) = &mut self.publisher {
            publisher.poll(Duration::ZERO, &mut acks);
        }
        for Ack { tag, outcome } in acks {
            self.note(|| format!("{tag} {outcome:?}"));
            assert!(self.decided.insert(tag), "{tag} is decided twice");
            if outcome.is_err() {
                self.refused.insert(tag);
            }
            self.outcomes.insert(tag, outcome);
        }
        self.clock.advance(Duration::from_millis(self.rng.u64(..50)));
    }

    /// Goes on until everything is decided.
    fn finish(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.outcomes.len() == self.published.len() {
                return;
            }
            self.turn();
        }
        let trouble = self.status.trouble();
        self.tell();
        panic!("{} of {} are decided; {trouble:?}", self.outcomes.len(), self.published.len());
    }

    /// The tags of what was stored, in that order, by partition of each of the topics made under that name.
    fn stored(&self) -> Vec<(usize, u64)> {
        let ever = self.cluster.ever();
        ever.iter().map(|stored| (stored.partition, tag_of(&stored.message))).collect()
    }

    fn rejected(&self) -> Vec<u64> {
        let rejected = self.outcomes.iter().filter(|(_, outcome)| outcome.is_err());
        rejected.map(|(tag, _)| *tag).collect()
    }

    /// Prints the trace.
    fn tell(&self) {
        if let Some(trace) = &self.trace {
            trace.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("{:?}", self.stored());
        }
    }

    /// What must be so whatever happened.
    fn check(&self, limit_least: usize, refused_keys: &[&str]) {
        self.check_stored(limit_least, refused_keys);
        self.check_order();
    }

    fn check_stored(&self, limit_least: usize, refused_keys: &[&str]) {
        self.tell();
        assert_eq!(self.outcomes.len(), self.published.len(), "something is not decided");
        let stored = self.stored();
        let ever: BTreeSet<u64> = stored.iter().map(|(_, tag)| *tag).collect();
        for (tag, outcome) in &self.outcomes {
            let published = &self.published[*tag as usize];
            match outcome {
                Ok(()) => assert!(ever.contains(tag), "{tag} is acknowledged and was never stored"),
                Err(why) => assert!(
                    published.bytes * 4 / 3 + 300 > limit_least
                        || refused_keys.contains(&published.key.as_str()),
                    "{tag} of {} bytes is buried: {why:?}",
                    published.bytes
                ),
            }
        }
        assert!(ever.iter().all(|tag| (*tag as usize) < self.published.len()), "something is invented");
    }

    /// Repeats may come later; what comes first comes in order.
    fn check_order(&self) {
        let stored = self.stored();
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        for (partition, tag) in &stored {
            if seen.insert(*tag) && !self.refused.contains(tag) {
                let key = self.published[*tag as usize].key.as_str();
                let before = last.insert((*partition, key), *tag);
                assert!(before < Some(*tag), "{tag} is stored behind {before:?} in partition {partition}");
            }
        }
    }
}

fn tag_of(message: &Message) -> u64 {
    let id = message.headers.iter().find(|(name, _)| name == "message_id").unwrap();
    std::str::from_utf8(&id.1).unwrap().parse().unwrap()
}

/// One life with faults of all kinds.
fn live(seed: u64, trace: Option<Vec<String>>) -> World {
    let mut choose = fastrand::Rng::with_seed(seed);
    let (nodes, batch) = (choose.usize(1..4), *choose.choice(&[1, 2, 5, 1000]).unwrap());
    let mut world = World::new(seed, nodes, |config| config.batch_messages = batch);
    world.trace = trace.or(world.trace);
    world.cluster.set_default_limit(*choose.choice(&[1500, 5000, 1_048_588]).unwrap());
    let faults = choose.u32(..4);
    let mut has_changed = false;
    for turn in 0..400 {
        if choose.u32(..2) == 0 {
            let key = format!("k{}", choose.u32(..4));
            let bytes = if choose.u32(..20) == 0 { 3000 } else { choose.usize(..200) };
            world.append(&key, bytes);
        }
        // What waits for a partition goes to another one when the process starts again after partitions were added; and what
        // the process before had sent to a topic that was deleted may arrive in the new one. A key's order does not outlast that.
        if choose.u32(..400) < faults && !has_changed {
            world.note(|| "the process starts again".to_owned());
            world.live_again();
        }
        if choose.u32(..100) < faults && turn < 350 {
            let fault = world.cluster.fault(&mut choose);
            has_changed |= fault.contains("a partition more") || fault.contains("is deleted");
            world.note(|| fault);
        }
        world.turn();
    }
    world.cluster.heal();
    world.finish();
    world
}

#[test]
fn what_is_acknowledged_is_stored_and_in_order_whatever_breaks() {
    each_seed(500, |seed| {
        let world = live(seed, None);
        world.check(600, &[]);
    });
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 0..20 {
        let [one, other] = [(); 2].map(|()| live(seed, Some(Vec::new())).trace);
        assert_eq!(one, other);
    }
}

#[test]
fn of_a_batch_with_one_record_that_is_too_large_only_that_one_is_a_dead_letter() {
    each_seed(200, |seed| {
        let mut world = World::new(seed, 1, |_| {});
        // Nobody may ask for it, so batches are not kept below it.
        world.cluster.set_default_limit(4000);
        world.cluster.tell_limits(false);
        // It opens the partition; what comes then is a batch.
        world.append("key", 10);
        world.finish();
        (1..41).for_each(|number| world.append("key", if number == 21 { 5000 } else { 10 }));
        world.finish();
        world.check(4000, &[]);
        assert_eq!(world.rejected(), [21]);
    });
}

#[test]
fn what_is_behind_a_first_batch_that_is_tried_again_does_not_acknowledge_it() {
    each_seed(200, |seed| {
        let mut world = World::new(seed, 1, |config| config.batch_messages = 2);
        let mut choose = fastrand::Rng::with_seed(seed);
        for turn in 0..200 {
            world.append("key", 10);
            world.turn();
            if turn % 10 == 0 {
                let after = choose.choice([None, Some(false)]).flatten();
                world.cluster.too_few_in_sync(after);
            }
        }
        world.cluster.heal();
        world.finish();
        world.check(4000, &[]);
    });
}

#[test]
fn a_record_that_the_broker_fails_at_stops_no_other() {
    each_seed(50, |seed| {
        let mut world = World::new(seed, 1, |_| {});
        world.cluster.poison(b"poison");
        (0..40).for_each(|number| world.append(if number == 18 { "poison" } else { "key" }, 10));
        world.finish();
        world.check(4000, &["poison"]);
        assert_eq!(world.rejected(), [18]);
    });
}

#[test]
fn what_the_leader_alone_acknowledges_is_stored() {
    each_seed(100, |seed| {
        let mut choose = fastrand::Rng::with_seed(seed);
        let mut world = World::new(seed, 2, |config| config.acks = "1".to_owned());
        for turn in 0..200 {
            world.append("key", choose.usize(..200));
            if choose.u32(..100) < 3 && turn < 150 {
                let fault = world.cluster.fault(&mut choose);
                world.note(|| fault);
            }
            world.turn();
        }
        world.cluster.heal();
        world.finish();
        world.check_stored(600, &[]);
    });
}

//! The production publisher over the model: thousands of seeds, and the faults that were once found, by name.

use std::collections::{BTreeMap, BTreeSet};

use brokers::{Ack, Publisher, Rejected, kafka::publish::KafkaPublisher};
use engine_core::{PartitionKey, Record, clock::SimulatedClock};

use super::*;
use crate::seeds::{each_seed, trace};

const TOPIC: &str = "messages";
/// Turns after which everything has to be decided, once nothing is broken any more.
const TURNS_MAX: usize = 20_000;

/// A publisher, its cluster and its time.
struct World {
    rng: fastrand::Rng,
    clock: SimulatedClock,
    cluster: Cluster,
    publisher: KafkaPublisher<ModelClient>,
    status: Arc<SideStatus>,
    /// By tag.
    published: Vec<Published>,
    outcomes: BTreeMap<u64, Result<(), Rejected>>,
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
        let cluster = Cluster::new(nodes);
        let mut config = KafkaConfig { partition: PartitionKey::from_setting("source"), ..config(TOPIC) };
        change(&mut config);
        let status = Arc::new(SideStatus::new("kafka"));
        let client = cluster.client(&config, &status);
        Self {
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            clock: SimulatedClock::start(1_800_000_000_000),
            publisher: KafkaPublisher::over(client, config, Arc::clone(&status)).unwrap(),
            cluster,
            status,
            published: Vec::new(),
            outcomes: BTreeMap::new(),
            trace: trace(),
        }
    }

    /// Offers the next record; false when there is no room.
    fn publish(&mut self, key: &str, bytes: usize) -> bool {
        let tag = self.published.len() as u64;
        let (id, payload) = (tag.to_string(), vec![b'x'; bytes]);
        let record =
            Record { id: id.as_bytes(), source: key.as_bytes(), payload: &payload, ..Record::default() };
        let is_taken = self.publisher.publish(tag, &record).is_ok();
        if is_taken {
            self.published.push(Published { key: key.to_owned(), bytes });
        }
        is_taken
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Lets a little happen, and asks the publisher.
    fn turn(&mut self) {
        for _ in 0..self.rng.usize(..6) {
            if let Some(step) = self.cluster.step(&mut self.rng) {
                self.note(|| format!("{step:?}"));
            }
        }
        let mut acks = Vec::new();
        self.publisher.poll(Duration::ZERO, &mut acks);
        for Ack { tag, outcome } in acks {
            self.note(|| format!("{tag} {outcome:?}"));
            assert!(self.outcomes.insert(tag, outcome).is_none(), "{tag} is decided twice");
        }
        self.clock.advance(Duration::from_millis(self.rng.u64(..50)));
    }

    /// Goes on until everything is decided.
    fn finish(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.publisher.in_flight() == 0 {
                return;
            }
            self.turn();
        }
        let trouble = self.status.trouble();
        self.tell();
        panic!("{} of {} are decided; {trouble:?}", self.outcomes.len(), self.published.len());
    }

    fn wait_until_connected(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.publish("first", 10) {
                return;
            }
            self.turn();
        }
        panic!("never connected: {:?}", self.status.trouble());
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

    /// What must be so whatever happened.
    /// Prints the trace.
    fn tell(&self) {
        if let Some(trace) = &self.trace {
            trace.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("{:?}", self.stored());
        }
    }

    fn check(&self, limit_least: usize, refused_keys: &[&str]) {
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
        // Repeats may come later; what comes first comes in order.
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        for (partition, tag) in &stored {
            if seen.insert(*tag) {
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
    for turn in 0..400 {
        if choose.u32(..2) == 0 {
            let key = format!("k{}", choose.u32(..4));
            let bytes = if choose.u32(..20) == 0 { 3000 } else { choose.usize(..200) };
            world.publish(&key, bytes);
        }
        if choose.u32(..100) < faults && turn < 350 {
            let fault = world.cluster.fault(&mut choose);
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
        world.wait_until_connected();
        // It opens the partition; what comes then is a batch.
        assert!(world.publish("key", 10));
        world.finish();
        for number in 2..42 {
            let bytes = if number == 21 { 5000 } else { 10 };
            assert!(world.publish("key", bytes));
        }
        world.finish();
        world.check(4000, &[]);
        assert_eq!(world.rejected(), [21]);
    });
}

#[test]
fn what_is_behind_a_first_batch_that_is_tried_again_does_not_acknowledge_it() {
    each_seed(200, |seed| {
        let mut world = World::new(seed, 1, |config| config.batch_messages = 2);
        world.wait_until_connected();
        world.finish();
        let mut choose = fastrand::Rng::with_seed(seed);
        for turn in 0..200 {
            world.publish("key", 10);
            world.turn();
            if turn % 10 == 0 {
                // A new producer, as after a refusal.
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
        world.wait_until_connected();
        world.cluster.poison(b"poison");
        for number in 0..40 {
            let key = if number == 17 { "poison" } else { "key" };
            while !world.publish(key, 10) {
                world.turn();
            }
        }
        world.finish();
        world.check(4000, &["poison"]);
        assert_eq!(world.rejected(), [18]);
    });
}

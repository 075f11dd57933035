//! The production publisher over the model: thousands of seeds, and the faults that were once found, by name.

use std::collections::{BTreeMap, BTreeSet};

use brokers::{
    Ack, Publisher, Rejected, data_message,
    nats::{Naming, publish::NatsPublisher},
};
use engine_core::{Record, clock::SimulatedClock};

use super::*;
use crate::seeds::{each_seed, trace};

const STREAM: &str = "MESSAGES";
/// Turns after which everything has to be decided, once nothing is broken any more.
const TURNS_MAX: usize = 20_000;

/// A publisher, its server and its time. What is published is numbered, as in a log; a new publisher begins with what is not
/// decided.
struct World {
    rng: fastrand::Rng,
    clock: SimulatedClock,
    server: Server,
    config: NatsConfig,
    publisher: Option<NatsPublisher<ModelClient>>,
    status: Arc<SideStatus>,
    /// By tag: payload's bytes.
    published: Vec<usize>,
    /// The next to be given to the publisher; below, it has all that is not decided.
    next: u64,
    outcomes: BTreeMap<u64, Result<(), Rejected>>,
    /// What a record's sender calls it.
    id_of: fn(u64) -> String,
    trace: Option<Vec<String>>,
}

impl World {
    fn new(seed: u64, change: impl FnOnce(&mut NatsConfig)) -> Self {
        fastrand::seed(seed);
        let mut config = config(STREAM, "messages.new");
        change(&mut config);
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            clock: SimulatedClock::start(1_800_000_000_000),
            server: Server::default(),
            config,
            publisher: None,
            status: Arc::new(SideStatus::new("nats")),
            published: Vec::new(),
            next: 0,
            outcomes: BTreeMap::new(),
            id_of: |tag| tag.to_string(),
            trace: trace(),
        };
        world.live_again();
        world
    }

    /// The process starts again: it knows what was decided without a gap, and up to where it may have sent.
    fn live_again(&mut self) {
        self.publisher = None;
        let upto = self.next;
        while self.next > 0 && !self.outcomes.contains_key(&(self.next - 1)) {
            self.next -= 1;
        }
        let first = (0..self.next).find(|tag| !self.outcomes.contains_key(tag)).unwrap_or(self.next);
        self.next = first;
        let client = self.server.client(&self.config, &self.status);
        let naming = Naming::Log { log: "log".into(), shards: vec![(0, upto)] };
        let (config, status) = (self.config.clone(), Arc::clone(&self.status));
        self.publisher = Some(NatsPublisher::over(client, config, naming, status).unwrap());
    }

    fn append(&mut self, bytes: usize) {
        self.published.push(bytes);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// Gives the publisher what it takes.
    fn offer(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        while let Some(bytes) = self.published.get(self.next as usize) {
            let id = (self.id_of)(self.next);
            let payload = format!("{} {}", self.next, "x".repeat(*bytes));
            let record = Record { id: id.as_bytes(), payload: payload.as_bytes(), ..Record::default() };
            if publisher.publish(self.next, &record).is_err() {
                break;
            }
            self.next += 1;
        }
    }

    /// Lets a little happen, and asks the publisher.
    fn turn(&mut self) {
        self.offer();
        for _ in 0..self.rng.usize(..6) {
            if let Some(step) = self.server.step(&mut self.rng) {
                self.note(|| format!("{step:?}"));
            }
        }
        let mut acks = Vec::new();
        if let Some(publisher) = &mut self.publisher {
            publisher.poll(Duration::ZERO, &mut acks);
        }
        for Ack { tag, outcome } in acks {
            self.note(|| format!("{tag} {outcome:?}"));
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

    /// The tags of what was stored, in that order; a pack has several.
    fn stored(&self) -> Vec<u64> {
        let ever = self.server.ever();
        ever.iter()
            .filter(|stored| stored.stream == STREAM)
            .flat_map(|stored| tags_of(&stored.message))
            .collect()
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
    fn check(&self, limit_least: usize) {
        self.tell();
        let ever: BTreeSet<u64> = self.stored().into_iter().collect();
        for (tag, outcome) in &self.outcomes {
            let bytes = self.published[*tag as usize];
            match outcome {
                Ok(()) => assert!(ever.contains(tag), "{tag} is acknowledged and was never stored"),
                Err(why) => {
                    assert!(bytes * 4 / 3 + 300 > limit_least, "{tag} of {bytes} bytes is buried: {why:?}")
                }
            }
        }
        assert!(ever.iter().all(|tag| (*tag as usize) < self.published.len()), "something is invented");
    }

    /// Repeats may come later; what comes first comes in order.
    fn check_order(&self) {
        let (mut seen, mut last) = (BTreeSet::new(), None);
        for tag in self.stored() {
            if seen.insert(tag) {
                assert!(last < Some(tag), "{tag} is stored behind {last:?}");
                last = Some(tag);
            }
        }
    }
}

/// The numbers in the payloads of a message's records.
fn tags_of(message: &Message) -> Vec<u64> {
    let number = |record: &Record<'_>| {
        let text = std::str::from_utf8(record.payload).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let lines = message.payload.split(|byte| *byte == b'\n');
    lines.map(|line| data_message::read(line, number).unwrap()).collect()
}

/// One life, or several, with faults of all kinds or of the connection alone.
fn live(seed: u64, of_the_connection: bool, trace: Option<Vec<String>>) -> World {
    let mut choose = fastrand::Rng::with_seed(seed);
    let pack = *choose.choice(&[1, 1, 4, 64]).unwrap();
    let in_flight = *choose.choice(&[3, 1024]).unwrap();
    let mut world = World::new(seed, |config| {
        config.pack_messages = pack;
        config.in_flight_max = in_flight;
        config.ack_timeout = Duration::from_secs(5);
    });
    world.trace = trace.or(world.trace);
    let faults = choose.u32(..4);
    for turn in 0..400 {
        if choose.u32(..2) == 0 {
            let large = choose.u32(..20) == 0 && !of_the_connection;
            let bytes = if large { 1500 } else { choose.usize(..200) };
            world.append(bytes);
        }
        if choose.u32(..100) < faults && turn < 350 {
            let fault = if of_the_connection {
                world.server.connection_fault(&mut choose)
            } else {
                world.server.fault(&mut choose)
            };
            world.note(|| fault);
        }
        if choose.u32(..200) < faults {
            world.note(|| "the process starts again".to_owned());
            world.live_again();
        }
        world.turn();
    }
    world.server.heal();
    world.finish();
    world
}

#[test]
fn what_is_acknowledged_is_stored_whatever_breaks() {
    each_seed(150, |seed| live(seed, false, None).check(800));
}

#[test]
fn connections_that_break_change_no_order() {
    each_seed(150, |seed| {
        let world = live(seed, true, None);
        world.check(1 << 20);
        world.check_order();
    });
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 0..20 {
        let [one, other] = [(); 2].map(|()| live(seed, false, Some(Vec::new())).trace);
        assert_eq!(one, other);
    }
}

#[test]
fn records_that_their_senders_call_the_same_are_all_stored() {
    each_seed(100, |seed| {
        let mut world = World::new(seed, |_| {});
        world.id_of = |_| "order".to_owned();
        (0..10).for_each(|_| world.append(10));
        world.finish();
        world.check(1 << 20);
        assert_eq!(world.stored(), (0..10).collect::<Vec<_>>());
        assert!(world.rejected().is_empty());
    });
}

#[test]
fn a_message_that_ends_every_connection_stops_no_other() {
    each_seed(50, |seed| {
        let pack = [1, 1, 8][seed as usize % 3];
        let mut world = World::new(seed, |config| config.pack_messages = pack);
        // In the middle of its record's JSON, whatever it is packed with.
        world.id_of = |tag| if tag == 17 { "poison".to_owned() } else { tag.to_string() };
        world.server.poison(b"poison");
        (0..40).for_each(|_| world.append(10));
        world.finish();
        world.check(0);
        assert_eq!(world.rejected(), [17]);
        assert_eq!(world.outcomes[&17].as_ref().unwrap_err().code, "CONNECTION");
        world.check_order();
    });
}

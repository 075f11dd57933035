//! What is recognised as a repeat after a restart, whatever has happened to the log and to the number of cores.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use std::{cell::RefCell, path::PathBuf, rc::Rc, time::Duration};

use brokers::log::offline;
use engine_core::{
    AckLevel, KEY_OVERRIDE, MetadataWriter, Outcome, Receipt, Record, Rejection, clock::SimulatedClock,
    key_hash, shard_of,
};
use simulator::{
    disk::SimDisk,
    plan::{Kind, Queue, Shape},
    process::{Process, data},
};

const ROOM: u64 = 64 << 20;

fn shape() -> Shape {
    Shape {
        queue: Queue::Log,
        kinds: [Kind::Plain; 2],
        outbox: false,
        best_effort: false,
        segment_bytes: 4096,
        log_bytes_max: 4 << 20,
        retention_bytes: 4 << 20,
        window_entries: 1000,
        window_age: Duration::from_secs(600),
        keys: 1,
        payload_bytes_max: 0,
        with_id: 0,
    }
}

/// A process and what it stands on; it can be killed and started again.
struct World {
    shape: Shape,
    disk: SimDisk,
    clock: SimulatedClock,
    cores: usize,
    process: Option<Process>,
    token: u64,
}

impl World {
    fn new(shape: Shape, cores: usize) -> Self {
        fastrand::seed(1);
        let clock = SimulatedClock::start(1_700_000_000_000);
        let disk = SimDisk::new(ROOM, 1);
        let mut world = Self { shape, disk, clock, cores, process: None, token: 0 };
        world.start(cores);
        world
    }

    fn start(&mut self, cores: usize) {
        let worked = Rc::new(RefCell::new(Vec::new()));
        self.process = Some(Process::start(&self.disk, &self.shape, cores, &[], &worked).unwrap());
        self.cores = cores;
    }

    fn kill(&mut self) {
        self.process = None;
        self.disk.process_ended();
    }

    fn cut_power(&mut self) {
        self.disk.power_off();
        self.process = None;
        self.disk.power_on();
    }

    fn restart(&mut self, cores: usize) {
        self.kill();
        self.start(cores);
    }

    /// What the sender of a message is told, by `durable`.
    fn send(&mut self, id: Option<&str>, key: &str, payload: &str) -> Outcome {
        let process = self.process.as_mut().unwrap();
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(KEY_OVERRIDE, key.as_bytes());
        let hash = key_hash(key.as_bytes());
        self.token += 1;
        let record = Record {
            id: id.unwrap_or("generated").as_bytes(),
            payload: payload.as_bytes(),
            metadata: &metadata,
            key_hash: hash,
            level: AckLevel::Durable,
            once: id.is_some(),
            reply_token: self.token,
            ..Record::default()
        };
        process.shards[0].submit(shard_of(hash, self.cores), &record).unwrap();
        for _ in 0..100 {
            for core in 0..self.cores {
                process.shards[core].poll();
                process.commit(core, false);
                let mut replies = process.shards[core].take_replies();
                if let Some(reply) = replies.find(|reply| reply.token == self.token) {
                    self.clock.advance(Duration::from_millis(1));
                    return reply.outcome;
                }
            }
        }
        panic!("no answer");
    }

    fn receipt(&mut self, id: &str, key: &str) -> Receipt {
        match self.send(Some(id), key, id) {
            Outcome::Stored(receipt) => receipt,
            other => panic!("{id}: {other:?}"),
        }
    }

    /// Takes a message for the first time; says in which shard and where.
    fn take(&mut self, id: &str, key: &str) -> (usize, u64) {
        let receipt = self.receipt(id, key);
        assert!(!receipt.duplicate, "{id}: {receipt:?}");
        (shard_of(key_hash(key.as_bytes()), self.cores), receipt.offset().unwrap())
    }

    /// Its repeat is recognised, and told where the first one is.
    fn recognises(&mut self, id: &str, key: &str, place: (usize, u64)) {
        let own = shard_of(key_hash(key.as_bytes()), self.cores);
        let receipt = self.receipt(id, key);
        assert!(receipt.duplicate, "{id} is taken again, as {receipt:?}");
        let shard = receipt.shard().map_or(own, |shard| shard as usize);
        assert_eq!((shard, receipt.offset().unwrap()), place, "{id}");
    }

    /// Messages without an id of their sender's.
    fn fill(&mut self, count: usize, key: &str) {
        for _ in 0..count {
            self.send(None, key, "none of anybody's");
        }
    }

    /// Has retention delete all segments that it may.
    fn maintain(&mut self) {
        let process = self.process.as_mut().unwrap();
        process.shards.iter_mut().for_each(|shard| {
            shard.poll();
        });
        process.log.as_ref().unwrap().maintain().unwrap();
    }

    fn first_offset(&self, shard: usize) -> u64 {
        self.process.as_ref().unwrap().log.as_ref().unwrap().first_offset(shard)
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let mut paths = self.disk.paths();
        paths.retain(|path| path.extension().is_some_and(|found| found == extension));
        paths.sort();
        paths
    }
}

#[test]
fn a_repeat_is_recognised_behind_thousands_of_messages_without_an_id() {
    let mut world = World::new(shape(), 1);
    let place = world.take("order", "k");
    world.fill(3_000, "k");
    world.restart(1);
    world.recognises("order", "k", place);
    assert_eq!(world.send(Some("order"), "k", "another"), Outcome::Rejected(Rejection::Conflict));
}

#[test]
fn a_repeat_is_recognised_when_its_segment_is_deleted() {
    for power_cut in [false, true] {
        let mut world = World::new(Shape { retention_bytes: 4096, ..shape() }, 2);
        let place = world.take("order", "k");
        world.fill(300, "k");
        world.maintain();
        assert!(world.first_offset(place.0) > place.1, "its segment is deleted");
        if power_cut {
            world.cut_power()
        } else {
            world.kill()
        }
        for cores in [2, 1, 3] {
            world.start(cores);
            world.recognises("order", "k", place);
            world.kill();
        }
    }
}

#[test]
fn a_repeat_is_recognised_with_any_number_of_cores() {
    let mut world = World::new(shape(), 4);
    let messages: Vec<(String, String)> =
        (0..100).map(|number| (format!("order-{number}"), format!("k{}", number % 17))).collect();
    let places: Vec<_> = messages.iter().map(|(id, key)| world.take(id, key)).collect();
    for cores in [1, 3, 2, 4, 7] {
        world.restart(cores);
        for ((id, key), place) in messages.iter().zip(&places) {
            world.recognises(id, key, *place);
            // Whatever key it comes with, it is one id.
            let other = world.send(Some(id), "another key", id);
            assert_eq!(other, Outcome::Rejected(Rejection::Conflict), "{id} with {cores} cores");
        }
    }
}

#[test]
fn windows_are_as_they_were_after_several_changes_of_cores() {
    let mut world = World::new(Shape { retention_bytes: 4096, ..shape() }, 4);
    let mut taken = Vec::new();
    for (round, cores) in [4, 1, 3, 2].into_iter().enumerate() {
        if round > 0 {
            world.restart(cores);
        }
        for number in 0..40 {
            let (id, key) = (format!("{round}-{number}"), format!("k{number}"));
            taken.push((id.clone(), key.clone(), world.take(&id, &key)));
            world.fill(5, &key);
        }
        world.maintain();
        for (id, key, place) in &taken {
            world.recognises(id, key, *place);
        }
    }
}

#[test]
fn what_is_beyond_the_number_or_the_age_is_forgotten_and_its_file_deleted() {
    let bounds = Shape { retention_bytes: 4096, window_entries: 50, ..shape() };
    let mut world = World::new(bounds, 1);
    world.take("old", "k");
    for number in 0..200 {
        world.take(&format!("m{number}"), "k");
    }
    world.maintain();
    let files = world.files("keys");
    assert!(!files.is_empty() && files.len() < 10, "{files:?}");
    world.restart(1);
    assert!(!world.receipt("old", "k").duplicate);
    assert!(world.receipt("m199", "k").duplicate);
    world.clock.advance(Duration::from_secs(700));
    world.restart(1);
    assert!(!world.receipt("m198", "k").duplicate);
    world.fill(100, "k");
    world.maintain();
    assert!(world.files("keys").len() <= 2, "{:?}", world.files("keys"));
}

#[test]
fn keys_that_are_damaged_or_gone_are_read_from_their_segment() {
    let mut world = World::new(Shape { segment_bytes: 2048, ..shape() }, 1);
    let places: Vec<_> = (0..100).map(|number| world.take(&format!("m{number}"), "k")).collect();
    world.kill();
    let files = world.files("keys");
    assert!(files.len() > 2, "{files:?}");
    for (number, path) in files.iter().enumerate() {
        if number % 2 == 0 {
            world.disk.lose(path);
        } else {
            world.disk.damage(path, |bytes| bytes[70] ^= 1);
        }
    }
    world.start(1);
    for (number, place) in places.iter().enumerate() {
        world.recognises(&format!("m{number}"), "k", *place);
    }
    assert_eq!(world.files("keys").len(), files.len() + 1, "each is there again, and that of the last");
    // With the key of the hashes they are of no use, and are made again.
    world.kill();
    world.disk.lose(&data().join("window.key"));
    world.start(1);
    for (number, place) in places.iter().enumerate() {
        world.recognises(&format!("m{number}"), "k", *place);
    }
}

#[test]
fn a_full_disk_forgets_no_repeat() {
    let mut world = World::new(Shape { retention_bytes: 4096, ..shape() }, 1);
    let places: Vec<_> = (0..100).map(|number| world.take(&format!("m{number}"), "k")).collect();
    // None was written while there was room for it.
    world.kill();
    world.files("keys").iter().for_each(|path| world.disk.lose(path));
    world.start(1);
    world.files("keys").iter().for_each(|path| world.disk.lose(path));
    world.disk.set_capacity(world.disk.used());
    world.maintain();
    assert!(world.first_offset(0) > 0, "segments are deleted");
    world.disk.set_capacity(ROOM);
    world.restart(1);
    for (number, place) in places.iter().enumerate() {
        world.recognises(&format!("m{number}"), "k", *place);
    }
}

#[test]
fn what_a_repair_has_lost_is_no_repeat() {
    let mut world = World::new(Shape { segment_bytes: 2048, ..shape() }, 1);
    let places: Vec<_> = (0..100).map(|number| world.take(&format!("m{number}"), "k")).collect();
    world.kill();
    let segments = world.files("segment");
    assert!(segments.len() > 4, "{segments:?}");
    world.disk.lose(&segments[0]);
    world.disk.lose(&segments[2]);
    world.disk.damage(&segments[3], |bytes| bytes[200] ^= 1);
    let mut lost = Vec::new();
    for repaired in offline::repair(&world.disk, &data(), &PathBuf::from("salvage")).unwrap() {
        lost.extend(repaired.lost.into_iter().flat_map(|(from, upto)| from..upto));
    }
    assert!(lost.len() > 2);
    world.start(1);
    for (number, place) in places.iter().enumerate() {
        let id = format!("m{number}");
        if lost.contains(&place.1) {
            world.take(&id, "k");
        } else {
            world.recognises(&id, "k", *place);
        }
    }
}

//! Cores in turns drawn from a seed, on one thread.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use engine_core::{
    Batch, Completions, Outcome, PartitionKey, Record, Rejection, Shard, Sink, SlabConfig, key_hash, mesh,
    shard_of,
};

use super::claims;
use crate::{
    Pipeline, Way,
    window::{Ids, Window},
    work::{Work, WorkCounters},
};

/// What was worked on: the payloads, by core.
type Seen = Rc<RefCell<Vec<Vec<String>>>>;

struct Boxed(Box<dyn Sink>);

impl Sink for Boxed {
    fn submit(&mut self, batch: &mut Batch<'_>) {
        self.0.submit(batch);
    }

    fn poll(&mut self, done: &mut Completions<'_>) {
        self.0.poll(done);
    }
}

/// Cores that work in memory, and fail at each payload that says so.
fn cores(count: usize, seen: &Seen) -> Vec<Shard<Boxed>> {
    seen.borrow_mut().resize(count, Vec::new());
    let ports = mesh(count, &SlabConfig::new(512, 1 << 20));
    let bells: Vec<_> = ports.iter().map(engine_core::Port::doorbell).collect();
    let ids = Ids::new(count);
    let sinks = ports.into_iter().zip(claims(&bells)).zip(bells).enumerate();
    let shard = |(core, ((port, claims), bell)): (usize, _)| {
        let seen = Rc::clone(seen);
        let process = move |record: &Record<'_>, _: &mut Vec<u8>| {
            let payload = String::from_utf8_lossy(record.payload).into_owned();
            let outcome = if payload.contains("fails") { Outcome::Failed } else { Outcome::Processed };
            seen.borrow_mut()[core].push(payload);
            outcome
        };
        let window = Window::sharing(ids.clone(), 100_000, Duration::from_secs(600));
        let work = Work::new(process, None, Arc::new(WorkCounters::default()));
        let sink = Pipeline::new(Way::Memory, false, window, claims, work, Vec::new(), bell);
        Shard::new(port, Boxed(Box::new(sink)))
    };
    sinks.map(shard).collect()
}

/// xorshift64*; the numbers of a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// A message: its id, its partition key and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    id: String,
    key: Option<String>,
    payload: String,
}

fn send(shards: &mut [Shard<Boxed>], arrival: usize, token: u64, sent: &Sent) {
    let cores = shards.len();
    let mut metadata = Vec::new();
    let mut writer = engine_core::MetadataWriter::new(&mut metadata);
    if let Some(key) = &sent.key {
        writer.push(engine_core::KEY_OVERRIDE, key.as_bytes());
    }
    let key = PartitionKey::Arrival.of(b"", &metadata).map(key_hash);
    let record = Record {
        id: sent.id.as_bytes(),
        payload: sent.payload.as_bytes(),
        metadata: &metadata,
        key_hash: key.unwrap_or_default(),
        once: true,
        reply_token: token,
        ..Record::default()
    };
    let target = shard_of(key.unwrap_or_else(|| key_hash(sent.id.as_bytes())), cores);
    shards[arrival].submit(target, &record).expect("there is room");
}

fn run(seed: u64) {
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let seen = Seen::default();
    let count = 2 + numbers.below(3);
    let mut shards = cores(count, &seen);
    let mut all: Vec<Sent> = Vec::new();
    let mut outcomes: HashMap<u64, Outcome> = HashMap::new();
    let mut sent_by: HashMap<(usize, String), Vec<String>> = HashMap::new();
    let turn = |shards: &mut Vec<Shard<Boxed>>, core: usize, outcomes: &mut HashMap<u64, Outcome>| {
        shards[core].poll();
        outcomes.extend(shards[core].take_replies().map(|reply| (reply.token, reply.outcome)));
    };
    for step in 0..300 {
        if numbers.below(3) > 0 {
            turn(&mut shards, numbers.below(count), &mut outcomes);
            continue;
        }
        let id = format!("id-{}", numbers.below(20));
        let key = numbers.below(4).checked_sub(1).map(|key| format!("key-{key}"));
        let sent = match numbers.below(3) {
            // What was sent before, as it was.
            0 if !all.is_empty() => all[numbers.below(all.len())].clone(),
            1 => Sent { id, key, payload: format!("{step} fails") },
            _ => Sent { id, key, payload: step.to_string() },
        };
        let arrival = numbers.below(count);
        all.push(sent.clone());
        send(&mut shards, arrival, all.len() as u64, &sent);
        if let Some(key) = sent.key {
            sent_by.entry((arrival, key)).or_default().push(sent.payload);
        }
    }
    for _ in 0..50 {
        (0..count).for_each(|core| turn(&mut shards, core, &mut outcomes));
    }
    assert_eq!(outcomes.len(), all.len(), "seed {seed}: every message is answered");

    // Of an id one message is kept at most, whatever it was sent by, and each refusal has a reason.
    let mut kept: HashMap<&str, &Sent> = HashMap::new();
    for (token, sent) in (1..).zip(&all) {
        match outcomes[&token] {
            Outcome::Failed => assert!(sent.payload.contains("fails"), "seed {seed}: {sent:?}"),
            Outcome::Rejected(why) => assert_eq!(why, Rejection::Conflict, "seed {seed}"),
            Outcome::Processed | Outcome::Stored(_) => match kept.entry(&sent.id) {
                Entry::Vacant(place) => {
                    place.insert(sent);
                }
                Entry::Occupied(first) => assert_eq!(*first.get(), sent, "seed {seed}: both are kept"),
            },
        }
    }
    for sent in kept.values() {
        let worked = seen.borrow().iter().flatten().filter(|payload| **payload == sent.payload).count();
        assert_eq!(worked, 1, "seed {seed}: {sent:?}");
    }
    // What came over one core with one key is worked on in the order it came.
    for ((_, key), payloads) in &sent_by {
        let core = shard_of(key_hash(key.as_bytes()), count);
        let seen = seen.borrow();
        // What was sent more than once has no one place.
        let once = |payload: &&String| all.iter().filter(|sent| sent.payload == **payload).count() == 1;
        let worked: Vec<&String> = seen[core].iter().filter(once).collect();
        let places: Vec<_> =
            worked.iter().filter_map(|one| payloads.iter().position(|sent| sent == *one)).collect();
        assert!(places.is_sorted(), "seed {seed}: {key} {places:?}");
    }
}

#[test]
fn an_id_is_one_message_whatever_keys_it_comes_with_and_keys_keep_their_order() {
    (1..2_000).for_each(run);
}

#[test]
fn a_claim_of_what_failed_is_given_up() {
    let seen = Seen::default();
    let mut shards = cores(2, &seen);
    // Keys of both cores, so that the id is at home on one of them and away on the other.
    let key =
        |core| (0..).map(|n| format!("key-{n}")).find(|key| shard_of(key_hash(key.as_bytes()), 2) == core);
    let mut token = 0;
    let mut answer = |core: usize, payload: &str| {
        token += 1;
        send(&mut shards, 0, token, &Sent { id: "i".into(), key: key(core), payload: payload.into() });
        (0..10).for_each(|_| shards.iter_mut().for_each(|shard| _ = shard.poll()));
        shards[0].take_replies().map(|reply| reply.outcome).collect::<Vec<_>>()
    };
    assert_eq!(answer(0, "fails"), [Outcome::Failed]);
    assert_eq!(answer(1, "fails"), [Outcome::Failed]);
    assert_eq!(answer(0, "one"), [Outcome::Processed]);
    for core in [1, 0] {
        assert_eq!(answer(core, "other"), [Outcome::Rejected(Rejection::Conflict)]);
    }
}

//! Recognises repeats: the ids of the last messages, with what became of each.
//!
//! One window per shard; repeats of an id are routed to the shard of the first. Bounded by time and by entries: beyond
//! either the oldest is forgotten, except that a message still under way is never forgotten (the slab bounds those).
//!
//! Ids and contents are kept as keyed 128-bit and 64-bit hashes, keyed at random per process: nobody outside can choose
//! two ids that are taken for one.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    time::{Duration, Instant},
};

use engine_core::{Outcome, Record};

use crate::content;

/// A message in the window, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u128);

/// An id is a keyed hash already: a part of it is as good as another hash of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, id: u128) {
        self.0 = id as u64;
    }
}

/// A map by ids.
pub(crate) type ByIds<T> = HashMap<Id, T, BuildHasherDefault<IdHasher>>;

/// What the window knows of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: it is the first of its id, and is under way from now on.
    New,
    /// The first one is still under way.
    UnderWay,
    /// The first one came to this.
    Done(Outcome),
    /// Another message has this id.
    Conflict,
}

#[derive(Debug)]
struct Entry {
    content: u64,
    /// `None` while it is under way.
    outcome: Option<Outcome>,
    /// Number of its place in the order of forgetting.
    turn: u64,
}

/// The window of one shard.
#[derive(Debug)]
pub struct Window {
    hashers: [RandomState; 3],
    entries: ByIds<Entry>,
    /// Oldest first, with when each came. What is no longer the entry's turn was forgotten or done again.
    order: VecDeque<(Instant, u64, Id)>,
    turns: u64,
    entries_max: usize,
    age_max: Duration,
}

impl Window {
    /// Remembers `entries_max` messages for `age_max`.
    pub fn new(entries_max: usize, age_max: Duration) -> Self {
        Self {
            hashers: std::array::from_fn(|_| RandomState::new()),
            entries: ByIds::default(),
            order: VecDeque::new(),
            turns: 0,
            entries_max: entries_max.max(1),
            age_max,
        }
    }

    /// How a message's id is kept.
    pub fn id(&self, record: &Record<'_>) -> Id {
        let [high, low, _] = &self.hashers;
        Id(u128::from(high.hash_one(record.id)) << 64 | u128::from(low.hash_one(record.id)))
    }

    /// Looks a message up; a new one is under way from now on.
    pub fn look(&mut self, id: Id, record: &Record<'_>, now: Instant) -> Seen {
        self.forget_old(now);
        let content = content::hash(&self.hashers[2], record);
        match self.entries.entry(id) {
            hash_map::Entry::Occupied(entry) => match entry.get().outcome {
                _ if entry.get().content != content => Seen::Conflict,
                None => Seen::UnderWay,
                Some(outcome) => Seen::Done(outcome),
            },
            hash_map::Entry::Vacant(place) => {
                self.turns += 1;
                place.insert(Entry { content, outcome: None, turn: self.turns });
                self.order.push_back((now, self.turns, id));
                Seen::New
            }
        }
    }

    /// Remembers a message of an earlier run, which came to `outcome` at `since`. Oldest first.
    pub fn remember(&mut self, record: &Record<'_>, outcome: Outcome, since: Instant) {
        let id = self.id(record);
        if self.look(id, record, since) == Seen::New {
            self.decide(id, outcome);
        }
    }

    /// Notes what became of a message; a failure is forgotten, so that it can be tried again.
    pub fn decide(&mut self, id: Id, outcome: Outcome) {
        match outcome {
            Outcome::Processed | Outcome::Stored(_) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.outcome = Some(outcome);
                }
            }
            Outcome::Failed | Outcome::Rejected(_) => {
                self.entries.remove(&id);
            }
        }
    }

    /// Messages remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((since, turn, id)) = self.order.front().copied() {
            // Every entry has its turn in the order, so this is most calls' answer, without a look at the entries.
            if self.order.len() < self.entries_max && now.duration_since(since) < self.age_max {
                return;
            }
            let current = self.entries.get(&id).filter(|entry| entry.turn == turn);
            let over = self.entries.len() >= self.entries_max || now.duration_since(since) >= self.age_max;
            match current {
                None => {}
                Some(_) if !over => return,
                Some(entry) if entry.outcome.is_none() => {
                    // Under way: it waits at the end for its next turn, and those behind it have theirs.
                    self.order.pop_front();
                    self.turns += 1;
                    let turn = self.turns;
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.turn = turn;
                    }
                    self.order.push_back((now, turn, id));
                    return;
                }
                Some(_) => {
                    self.entries.remove(&id);
                }
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(id: &'a str, payload: &'a str) -> Record<'a> {
        Record { id: id.as_bytes(), payload: payload.as_bytes(), ..Record::default() }
    }

    fn look(window: &mut Window, id: &str, payload: &str, now: Instant) -> Seen {
        let record = message(id, payload);
        window.look(window.id(&record), &record, now)
    }

    fn decide(window: &mut Window, id: &str, outcome: Outcome) {
        window.decide(window.id(&message(id, "")), outcome);
    }

    #[test]
    fn a_repeat_is_told_from_a_conflict() {
        let (mut window, now) = (Window::new(10, Duration::from_secs(60)), Instant::now());
        assert_eq!(look(&mut window, "a", "one", now), Seen::New);
        assert_eq!(look(&mut window, "a", "one", now), Seen::UnderWay);
        assert_eq!(look(&mut window, "a", "two", now), Seen::Conflict);
        decide(&mut window, "a", Outcome::Processed);
        assert_eq!(look(&mut window, "a", "one", now), Seen::Done(Outcome::Processed));
        assert_eq!(look(&mut window, "a", "two", now), Seen::Conflict);
    }

    #[test]
    fn how_it_was_sent_is_no_part_of_a_message() {
        let (mut window, now) = (Window::new(10, Duration::from_secs(60)), Instant::now());
        let mut look = |pairs: &[(&[u8], &[u8])]| {
            let mut metadata = Vec::new();
            let mut writer = engine_core::MetadataWriter::new(&mut metadata);
            pairs.iter().for_each(|(key, value)| writer.push(key, value));
            let record = Record { id: b"a", metadata: &metadata, ..Record::default() };
            window.look(window.id(&record), &record, now)
        };
        assert_eq!(look(&[(b"k", b"v")]), Seen::New);
        assert_eq!(look(&[(b"k", b"v"), (engine_core::HOW_SENT, b"batch")]), Seen::UnderWay);
        assert_eq!(look(&[(b"k", b"w"), (engine_core::HOW_SENT, b"batch")]), Seen::Conflict);
    }

    #[test]
    fn a_failure_may_be_tried_again() {
        let (mut window, now) = (Window::new(10, Duration::from_secs(60)), Instant::now());
        assert_eq!(look(&mut window, "a", "one", now), Seen::New);
        decide(&mut window, "a", Outcome::Failed);
        assert_eq!(look(&mut window, "a", "other", now), Seen::New);
    }

    #[test]
    fn the_oldest_is_forgotten_by_number_and_by_age() {
        let (mut window, start) = (Window::new(2, Duration::from_secs(60)), Instant::now());
        for id in ["a", "b", "c"] {
            assert_eq!(look(&mut window, id, "", start), Seen::New);
            decide(&mut window, id, Outcome::Processed);
        }
        assert_eq!(look(&mut window, "a", "", start), Seen::New);
        decide(&mut window, "a", Outcome::Processed);
        assert!(window.len() <= 2);
        assert_eq!(look(&mut window, "a", "", start + Duration::from_secs(61)), Seen::New);
    }

    #[test]
    fn what_an_earlier_run_kept_is_a_repeat_until_it_is_too_old() {
        let (mut window, now) = (Window::new(10, Duration::from_secs(60)), Instant::now());
        window.remember(&message("a", "one"), Outcome::Processed, now - Duration::from_secs(30));
        assert_eq!(look(&mut window, "a", "one", now), Seen::Done(Outcome::Processed));
        assert_eq!(look(&mut window, "a", "two", now), Seen::Conflict);
        assert_eq!(look(&mut window, "a", "two", now + Duration::from_secs(31)), Seen::New);
    }

    #[test]
    fn what_is_under_way_is_never_forgotten() {
        let (mut window, start) = (Window::new(2, Duration::from_secs(60)), Instant::now());
        assert_eq!(look(&mut window, "slow", "", start), Seen::New);
        for step in 0..1000_u64 {
            let id = format!("quick-{step}");
            assert_eq!(look(&mut window, &id, "", start + Duration::from_secs(step)), Seen::New);
            decide(&mut window, &id, Outcome::Processed);
        }
        assert_eq!(look(&mut window, "slow", "", start + Duration::from_secs(2000)), Seen::UnderWay);
        assert!(window.order.len() <= 4, "{}", window.order.len());
    }
}

//! Recognises repeats: the ids of the last messages, with what became of each.
//!
//! One window per core; a repeat has the partition key of the first, or none like it, and so comes to the same core. That no
//! other core takes the id under another key is what [`claims`](crate::claims) are for. Bounded by time and by entries:
//! beyond either the oldest is forgotten, except that a message still under way is never forgotten. One that is under way for
//! longer than its place lasts takes no other's place: beside the entries there are as many of these as the slab bounds.
//!
//! Ids and contents are kept as keyed hashes, of 112 and 64 bits ([`fingerprint`](crate::fingerprint)): nobody outside can
//! choose two ids that are taken for one.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use engine_core::{Outcome, Record, key_hash, shard_of};

use crate::{
    content,
    fingerprint::{Fingerprint, HashKey},
};

/// A message in the window, by its id: 112 bits of hash under 16 bits that say which core is the id's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u128);

impl Id {
    /// The core where the id is claimed, whatever its message is partitioned by.
    pub fn home(self) -> usize {
        (self.0 >> Fingerprint::ID_BITS) as usize
    }

    /// The hash alone, which is the same with any number of cores.
    pub(crate) fn hash(self) -> u128 {
        self.0 & Fingerprint::ID_MASK
    }
}

/// How ids and contents are hashed. Windows that share it know a message by the same [`Id`].
#[derive(Clone, Debug)]
pub struct Ids {
    hash_key: HashKey,
    cores: usize,
}

impl Ids {
    /// For so many cores, 65,536 at most; keyed at random.
    pub fn new(cores: usize) -> Self {
        Self::keyed(HashKey::random(), cores)
    }

    /// The same with this key.
    pub fn keyed(hash_key: HashKey, cores: usize) -> Self {
        Self { hash_key, cores }
    }

    /// How a message's id is kept.
    fn of(&self, id: &[u8]) -> Id {
        self.at_home(self.hash_key.id(id), key_hash(id))
    }

    /// How the id of a fingerprint is kept.
    pub(crate) fn of_fingerprint(&self, fingerprint: &Fingerprint) -> Id {
        self.at_home(fingerprint.id, fingerprint.home)
    }

    fn at_home(&self, hash: u128, home: u64) -> Id {
        // The same core that a message without a partition key goes to.
        Id(hash | (shard_of(home, self.cores) as u128) << Fingerprint::ID_BITS)
    }
}

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
    /// Whether it was still under way when its first place in the order came up.
    is_late: bool,
}

/// The window of one shard.
#[derive(Debug)]
pub struct Window {
    ids: Ids,
    entries: ByIds<Entry>,
    /// Oldest first, with when each came. What is no longer the entry's turn was forgotten or done again.
    order: VecDeque<(Instant, u64, Id)>,
    turns: u64,
    /// Entries that are not late.
    on_time: usize,
    /// How many of these there may be.
    entries_max: usize,
    age_max: Duration,
}

impl Window {
    /// Remembers `entries_max` messages for `age_max`.
    pub fn new(entries_max: usize, age_max: Duration) -> Self {
        Self::sharing(Ids::new(1), entries_max, age_max)
    }

    /// The same, beside other windows with these ids.
    pub fn sharing(ids: Ids, entries_max: usize, age_max: Duration) -> Self {
        Self {
            ids,
            entries: ByIds::default(),
            order: VecDeque::new(),
            turns: 0,
            on_time: 0,
            entries_max: entries_max.max(1),
            age_max,
        }
    }

    /// How a message's id is kept.
    pub fn id(&self, record: &Record<'_>) -> Id {
        self.ids.of(record.id)
    }

    /// Whether there is a message with this id.
    pub(crate) fn knows(&self, id: Id) -> bool {
        self.entries.contains_key(&id)
    }

    /// The hash of what a message says.
    pub(crate) fn content(&self, record: &Record<'_>) -> u64 {
        content::hash(&self.ids.hash_key, record)
    }

    /// Looks a message up; a new one is under way from now on.
    pub fn look(&mut self, id: Id, record: &Record<'_>, now: Instant) -> Seen {
        let content = self.content(record);
        self.look_for(id, content, now)
    }

    /// The same for a message whose content has this hash.
    pub(crate) fn look_for(&mut self, id: Id, content: u64, now: Instant) -> Seen {
        self.forget_old(now);
        match self.entries.get(&id) {
            Some(entry) if entry.content != content => Seen::Conflict,
            Some(Entry { outcome: Some(outcome), .. }) => Seen::Done(*outcome),
            Some(_) => Seen::UnderWay,
            None => {
                self.enter(id, content, None, now);
                Seen::New
            }
        }
    }

    /// Takes in what is the newest now; what had the id before is forgotten.
    fn enter(&mut self, id: Id, content: u64, outcome: Option<Outcome>, now: Instant) {
        if !self.entries.contains_key(&id) {
            self.make_room(now);
        }
        self.turns += 1;
        let entry = Entry { content, outcome, turn: self.turns, is_late: false };
        let before = self.entries.insert(id, entry);
        self.on_time += usize::from(before.is_none_or(|before| before.is_late));
        self.push_turn(now, id);
    }

    /// Gives this id to a message on another core, which is under way from now on. False: something else has it.
    pub(crate) fn claim(&mut self, id: Id, core: usize, now: Instant) -> bool {
        self.forget_old(now);
        let content = self.content_away(core);
        if self.entries.get(&id).is_some_and(|entry| entry.content != content) {
            return false;
        }
        // That core may have forgotten its last message with this id, or have given it up.
        self.enter(id, content, None, now);
        true
    }

    /// What stands for the content of a message on another core.
    fn content_away(&self, core: usize) -> u64 {
        self.ids.hash_key.hash(b"core", &[core as u64])
    }

    /// Remembers a message of an earlier run, which came to `outcome` at `since`. Oldest first. Returns its id.
    pub fn remember(&mut self, record: &Record<'_>, outcome: Outcome, since: Instant) -> Id {
        let id = self.id(record);
        if self.look(id, record, since) == Seen::New {
            self.decide(id, outcome);
        }
        id
    }

    /// Remembers the message of this fingerprint, which came to `outcome` at `since`, whatever had its id before. Oldest first.
    pub(crate) fn remember_as(&mut self, fingerprint: &Fingerprint, outcome: Outcome, since: Instant) {
        self.forget_old(since);
        let id = self.ids.of_fingerprint(fingerprint);
        self.enter(id, fingerprint.content, Some(outcome), since);
    }

    /// Remembers that a message of an earlier run with this id is on another core. Oldest first.
    pub(crate) fn remember_away(&mut self, id: Id, core: usize, since: Instant) {
        self.forget_old(since);
        let content = self.content_away(core);
        self.enter(id, content, Some(Outcome::Processed), since);
    }

    /// The last turn was this id's. What is no longer anybody's turn is dropped before it is more than what is.
    fn push_turn(&mut self, now: Instant, id: Id) {
        self.order.push_back((now, self.turns, id));
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.order.retain(|(_, turn, id)| entries.get(id).is_some_and(|entry| entry.turn == *turn));
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
                if let Some(entry) = self.entries.remove(&id) {
                    self.on_time -= usize::from(!entry.is_late);
                }
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

    /// Forgets what is too old.
    fn forget_old(&mut self, now: Instant) {
        while let Some((since, turn, id)) = self.order.front().copied()
            && now.duration_since(since) >= self.age_max
        {
            if self.forget(turn, id, now) == Forgotten::UnderWay {
                return;
            }
        }
    }

    /// Forgets the oldest so that there is room for one more.
    fn make_room(&mut self, now: Instant) {
        while self.on_time >= self.entries_max
            && let Some((_, turn, id)) = self.order.front().copied()
        {
            self.forget(turn, id, now);
        }
    }

    /// Takes the first of the order, which is this, off it.
    fn forget(&mut self, turn: u64, id: Id, now: Instant) -> Forgotten {
        self.order.pop_front();
        match self.entries.entry(id) {
            hash_map::Entry::Occupied(mut entry) if entry.get().turn == turn => {
                self.on_time -= usize::from(!entry.get().is_late);
                if entry.get().outcome.is_some() {
                    entry.remove();
                    return Forgotten::Gone;
                }
                // Under way: it waits at the end for its next turn, and those behind it have theirs.
                self.turns += 1;
                entry.get_mut().turn = self.turns;
                entry.get_mut().is_late = true;
                self.order.push_back((now, self.turns, id));
                Forgotten::UnderWay
            }
            _ => Forgotten::Gone,
        }
    }
}

/// What became of the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgotten {
    /// It is not there any more.
    Gone,
    /// It was kept.
    UnderWay,
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
    fn a_repeat_of_the_oldest_is_recognised_in_a_full_window() {
        let (mut window, now) = (Window::new(3, Duration::from_secs(60)), Instant::now());
        for id in ["a", "b", "c"] {
            assert_eq!(look(&mut window, id, "", now), Seen::New);
            decide(&mut window, id, Outcome::Processed);
        }
        for id in ["a", "b", "c", "a"] {
            assert_eq!(look(&mut window, id, "", now), Seen::Done(Outcome::Processed), "{id}");
        }
        let id = window.id(&message("a", ""));
        assert!(!window.claim(id, 1, now));
        assert_eq!(window.len(), 3, "a claim of what is known takes nobody's place");
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
    fn what_failed_takes_no_room() {
        let (mut window, now) = (Window::new(1_000, Duration::from_secs(60)), Instant::now());
        assert_eq!(look(&mut window, "kept", "", now), Seen::New);
        decide(&mut window, "kept", Outcome::Processed);
        for _ in 0..10_000 {
            assert_eq!(look(&mut window, "again and again", "", now), Seen::New);
            decide(&mut window, "again and again", Outcome::Failed);
        }
        assert!(window.order.len() < 100, "{}", window.order.len());
        assert_eq!(look(&mut window, "kept", "", now), Seen::Done(Outcome::Processed));
    }

    #[test]
    fn an_id_is_one_cores_until_that_gives_it_up() {
        let (mut window, now) = (Window::new(10, Duration::from_secs(60)), Instant::now());
        let id = window.id(&message("a", ""));
        assert!(window.claim(id, 1, now));
        assert!(window.claim(id, 1, now), "it is that core's already");
        assert!(!window.claim(id, 2, now));
        assert_eq!(look(&mut window, "a", "", now), Seen::Conflict);
        window.decide(id, Outcome::Processed);
        assert!(!window.claim(id, 2, now));
        window.decide(id, Outcome::Failed);
        assert!(window.claim(id, 2, now));
        window.decide(id, Outcome::Failed);
        assert_eq!(look(&mut window, "a", "", now), Seen::New);
        assert!(!window.claim(id, 1, now));
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

    #[test]
    fn what_is_under_way_takes_no_place_of_what_came_later() {
        let (mut window, now) = (Window::new(4, Duration::from_secs(60)), Instant::now());
        let slow = ["s1", "s2", "s3", "s4"];
        for id in slow {
            assert_eq!(look(&mut window, id, "", now), Seen::New);
        }
        let is_known = |window: &mut Window, ids: &[&str]| {
            ids.iter().all(|id| look(window, id, "", now) == Seen::Done(Outcome::Processed))
        };
        for id in ["a", "b", "c", "d"] {
            assert_eq!(look(&mut window, id, "", now), Seen::New);
            decide(&mut window, id, Outcome::Processed);
        }
        assert!(is_known(&mut window, &["a", "b", "c", "d"]), "they are the latest four");
        for id in slow {
            decide(&mut window, id, Outcome::Processed);
        }
        assert!(is_known(&mut window, &["a", "b", "c", "d"]), "and are when the others are done, too");
        assert!(
            is_known(&mut window, &slow),
            "whoever waited longest for an answer is the likeliest to repeat"
        );
        for id in ["e", "f", "g", "h", "i", "j"] {
            assert_eq!(look(&mut window, id, "", now), Seen::New);
            decide(&mut window, id, Outcome::Processed);
        }
        assert_eq!(window.len(), 4, "then all of these are forgotten");
    }
}

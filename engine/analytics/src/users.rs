//! Profiles of users, with a number for each. Bounded: users beyond it are counted and have no profile.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
};

use compact_str::CompactString;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::{
    buckets::{DAY_MS, MINUTE_MS},
    chunk::{NO_ROW, NOBODY},
    event::Event,
    lendable::Lendable,
    sessions::{SESSIONS_MAX, Sessions},
};

/// Users of a page; a page is copied when somebody still looks at it.
const PAGE: usize = 1024;
/// Days that a profile has one by one.
const DAYS_MAX: usize = 64;

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// As events name it.
    pub id: CompactString,
    /// Time of the earliest event, in milliseconds.
    pub first_ms: i64,
    /// Time of the latest event.
    pub last_ms: i64,
    /// Events.
    pub events: u64,
    /// Sessions that began.
    pub sessions_begun: u64,
    /// Transactions.
    pub transactions: u64,
    /// Millionths of a currency unit.
    pub revenue_micros: i128,
    /// Days with events, the latest 64 of them, by the number of days since the epoch; lowest first.
    days: Vec<i32>,
    /// Days that are not in that list any more.
    days_before: u32,
    /// The sessions that are remembered.
    pub sessions: Sessions,
    /// The row of the user's last event.
    pub(crate) last_row: u64,
    /// The minute in whose bucket the user was counted last; not kept beyond a run.
    #[serde(skip, default = "no_minute")]
    counted_minute: i64,
}

fn no_minute() -> i64 {
    i64::MIN
}

impl Profile {
    fn new(id: &str) -> Self {
        Self {
            id: CompactString::new(id),
            first_ms: i64::MAX,
            last_ms: i64::MIN,
            events: 0,
            sessions_begun: 0,
            transactions: 0,
            revenue_micros: 0,
            days: Vec::new(),
            days_before: 0,
            sessions: Sessions::default(),
            last_row: NO_ROW,
            counted_minute: i64::MIN,
        }
    }

    /// Takes an event in and says how the starts of sessions changed. Returns the row of the event before.
    pub(crate) fn add(&mut self, event: &Event<'_>, row: u64, mut changed: impl FnMut((i64, i64))) -> u64 {
        let day = event.timestamp_ms.div_euclid(DAY_MS);
        // The day of the latest event is in the list.
        if self.events == 0 || day != self.last_ms.div_euclid(DAY_MS) {
            self.note_day(day as i32);
        }
        self.first_ms = self.first_ms.min(event.timestamp_ms);
        self.last_ms = self.last_ms.max(event.timestamp_ms);
        self.events += 1;
        if let Some(amount) = event.amount_micros {
            self.transactions += 1;
            self.revenue_micros += i128::from(amount);
        }
        let begun = &mut self.sessions_begun;
        self.sessions.add(event.session, event.timestamp_ms, |(at, by)| {
            *begun = begun.saturating_add_signed(by);
            changed((at, by));
        });
        std::mem::replace(&mut self.last_row, row)
    }

    /// Notes that the user is counted in this minute; says whether it was the last one before.
    pub(crate) fn note_minute(&mut self, at_ms: i64) -> bool {
        let minute = at_ms.div_euclid(MINUTE_MS);
        std::mem::replace(&mut self.counted_minute, minute) == minute
    }

    /// Takes in what another core knows of the same user, but for where its events are.
    pub(crate) fn take_over(&mut self, other: &Profile) {
        if self.events == 0 {
            let (last_row, counted_minute) = (NO_ROW, i64::MIN);
            *self = Self { last_row, counted_minute, ..other.clone() };
            return;
        }
        self.first_ms = self.first_ms.min(other.first_ms);
        self.last_ms = self.last_ms.max(other.last_ms);
        self.events += other.events;
        self.sessions_begun += other.sessions_begun;
        self.transactions += other.transactions;
        self.revenue_micros += other.revenue_micros;
        self.days_before += other.days_before;
        other.days.iter().for_each(|day| self.note_day(*day));
        self.sessions.take_over(&other.sessions);
    }

    fn note_day(&mut self, day: i32) {
        if let Err(place) = self.days.binary_search(&day) {
            self.days.insert(place, day);
            if self.days.len() > DAYS_MAX {
                self.days.remove(0);
                self.days_before += 1;
            }
        }
    }

    /// Whether it is one that events can have made.
    fn is_sound(&self) -> bool {
        let rising = self.days.windows(2).all(|two| two[0] < two[1]);
        rising && self.days.len() <= DAYS_MAX && self.sessions.list().len() <= SESSIONS_MAX
    }

    /// Days with events.
    pub fn days_active(&self) -> u32 {
        self.days_before + self.days.len() as u32
    }
}

/// A page of users.
pub(crate) type Page = Arc<Vec<Profile>>;

/// All users of a core.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    numbers: HashTable<u32>,
    pages: Vec<Lendable<Vec<Profile>>>,
    /// Random, so that clients cannot choose names that collide; kept in snapshots, as sketches are made of the hashes.
    keys: (u64, u64),
    hasher: SipHasher13,
    max: usize,
}

impl Users {
    pub(crate) fn new(max: usize) -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self::with_keys((random(), random()), max)
    }

    pub(crate) fn with_keys(keys: (u64, u64), max: usize) -> Self {
        let hasher = SipHasher13::new_with_keys(keys.0, keys.1);
        Self { numbers: HashTable::new(), pages: Vec::new(), keys, hasher, max: max.min(NOBODY as usize) }
    }

    /// Those of a snapshot; `Err`: what is wrong with them.
    pub(crate) fn restored(keys: (u64, u64), pages: Vec<Page>, max: usize) -> Result<Self, &'static str> {
        let count: usize = pages.iter().map(|page| page.len()).sum();
        let before_last = pages.len().saturating_sub(1);
        if count >= NOBODY as usize || pages.iter().take(before_last).any(|page| page.len() != PAGE) {
            return Err("a page of users is not full");
        }
        if !pages.iter().flat_map(|page| page.iter()).all(Profile::is_sound) {
            return Err("a profile that no events make");
        }
        let pages = pages.into_iter().map(Lendable::Lent).collect();
        let mut users = Self { pages, ..Self::with_keys(keys, max) };
        let (pages, hasher) = (&users.pages, &users.hasher);
        let hash_of = |number: &u32| hasher.hash(profile(pages, *number).id.as_bytes());
        users.numbers.reserve(count, hash_of);
        for number in 0..count as u32 {
            let id = &profile(pages, number).id;
            let known =
                users.numbers.entry(hash_of(&number), |other| profile(pages, *other).id == *id, hash_of);
            match known {
                hashbrown::hash_table::Entry::Occupied(_) => return Err("a user is there twice"),
                hashbrown::hash_table::Entry::Vacant(place) => place.insert(number),
            };
        }
        Ok(users)
    }

    /// What a snapshot keeps of them.
    pub(crate) fn shared(&mut self) -> ((u64, u64), Vec<Page>) {
        (self.keys, self.pages.iter_mut().map(Lendable::lend).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// A hash for the table, and for the sketch.
    pub(crate) fn hash(&self, user: &str) -> u64 {
        self.hasher.hash(user.as_bytes())
    }

    /// A hash of an event by its id and the hash of its user.
    pub(crate) fn event_hash(&self, user_hash: u64, id: &[u8]) -> u64 {
        let mut hasher = self.hasher;
        hasher.write_u64(user_hash);
        hasher.write(id);
        hasher.finish()
    }

    /// The number of a user, given now if there is one left; [`NOBODY`] otherwise.
    pub(crate) fn number(&mut self, user: &str, hash: u64) -> u32 {
        if let Some(number) = self.find(user, hash) {
            return number;
        }
        let number = self.len();
        if number >= self.max {
            return NOBODY;
        }
        if number / PAGE == self.pages.len() {
            self.pages.push(Lendable::Own(Vec::with_capacity(PAGE)));
        }
        if let Some(page) = self.pages.last_mut() {
            page.get_mut().push(Profile::new(user));
        }
        let (pages, hasher) = (&self.pages, &self.hasher);
        self.numbers
            .insert_unique(hash, number as u32, |number| hasher.hash(profile(pages, *number).id.as_bytes()));
        number as u32
    }

    /// The number of a user that has one.
    pub(crate) fn find(&self, user: &str, hash: u64) -> Option<u32> {
        self.numbers.find(hash, |number| profile(&self.pages, *number).id == *user).copied()
    }

    pub(crate) fn get(&self, number: u32) -> &Profile {
        profile(&self.pages, number)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Profile {
        &mut self.pages[number as usize / PAGE].get_mut()[number as usize % PAGE]
    }
}

fn profile(pages: &[Lendable<Vec<Profile>>], number: u32) -> &Profile {
    &pages[number as usize / PAGE].get()[number as usize % PAGE]
}

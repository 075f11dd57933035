//! Counting with conditions: what the buckets cannot tell apart is counted event by event.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use crate::{chunk::NOBODY, filter::Filter, part::View, sessions::GAP_MS};

/// What happened in a stretch of time, as far as it met the conditions.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Events.
    pub events: u64,
    /// By the number of their name.
    pub by_name: BTreeMap<u16, u64>,
    /// Different users with a profile.
    pub users: HashSet<u32>,
    /// Transactions.
    pub transactions: u64,
    /// Millionths of a currency unit.
    pub revenue_micros: i128,
    /// Events that report an error.
    pub errors: u64,
    /// User, the session it names (a hash; 0: none) and time of each event that has a user.
    touched: Vec<(u32, u64, i64)>,
}

impl Counted {
    /// Sessions that these events make up: by the id they name, else cut where none of them is for 30 minutes.
    pub fn sessions(&self) -> usize {
        let mut touched = self.touched.clone();
        touched.sort_unstable();
        let begins = |place: usize| match place.checked_sub(1).map(|before| (touched[before], touched[place]))
        {
            None => true,
            Some((before, now)) if before.0 != now.0 || before.1 != now.1 => true,
            Some((before, now)) => now.1 == 0 && now.2 - before.2 > GAP_MS,
        };
        (0..touched.len()).filter(|place| begins(*place)).count()
    }
}

/// Gives each event of `from..to` that meets the conditions to the bucket that `place` names.
pub fn scan<K: Ord>(
    view: &View,
    filter: &Filter,
    user: Option<u32>,
    from_ms: i64,
    to_ms: i64,
    mut place: impl FnMut(i64) -> K,
) -> BTreeMap<K, Counted> {
    let conditions = filter.resolve(view, user);
    let hasher = RandomState::new();
    let mut found: BTreeMap<K, Counted> = BTreeMap::new();
    for chunk in view.chunks_of(from_ms, to_ms) {
        for at in 0..chunk.len() {
            let time = chunk.timestamps_ms[at];
            if time < from_ms || time >= to_ms || !conditions.meets(chunk, at) {
                continue;
            }
            let counted = found.entry(place(time)).or_default();
            counted.events += 1;
            *counted.by_name.entry(chunk.names[at]).or_default() += 1;
            if chunk.users[at] != NOBODY {
                counted.users.insert(chunk.users[at]);
                let session = chunk.session(at);
                let hash = if session.is_empty() { 0 } else { hasher.hash_one(session) | 1 };
                counted.touched.push((chunk.users[at], hash, time));
            }
            if let Some(amount) = chunk.amount(at) {
                counted.transactions += 1;
                counted.revenue_micros += i128::from(amount);
            }
            counted.errors += u64::from(chunk.errors[at]);
        }
    }
    found
}

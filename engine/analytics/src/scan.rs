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

/// Sessions that began in `from..to` and hold an event that meets the conditions, each given to the bucket that `place`
/// names for its beginning. A session is made by all events of its user that are kept, not only by those that meet them:
/// its conditions say whether it counts, not where it begins.
///
/// Takes 24 bytes for each event of the users that have one which meets them, while it lasts.
pub fn sessions_begun<K: Ord>(
    view: &View,
    filter: &Filter,
    user: Option<u32>,
    from_ms: i64,
    to_ms: i64,
    mut place: impl FnMut(i64) -> K,
) -> BTreeMap<K, u64> {
    let conditions = filter.resolve(view, user);
    let mut wanted = vec![false; view.users];
    // A session has no event before it begins.
    for chunk in view.chunks_of(from_ms, i64::MAX) {
        for (at, user) in chunk.users.iter().enumerate() {
            if *user != NOBODY && chunk.timestamps_ms[at] >= from_ms && !wanted[*user as usize] {
                wanted[*user as usize] = conditions.meets(chunk, at);
            }
        }
    }
    let hasher = RandomState::new();
    // User, the session it names (a hash; 0: none), time, and whether it meets the conditions.
    let mut touched: Vec<(u32, u64, i64, bool)> = Vec::new();
    for chunk in view.chunks_of(i64::MIN, i64::MAX) {
        for (at, user) in chunk.users.iter().enumerate() {
            if *user != NOBODY && wanted[*user as usize] {
                let session = chunk.session(at);
                let hash = if session.is_empty() { 0 } else { hasher.hash_one(session) | 1 };
                touched.push((*user, hash, chunk.timestamps_ms[at], conditions.meets(chunk, at)));
            }
        }
    }
    touched.sort_unstable();
    let mut found: BTreeMap<K, u64> = BTreeMap::new();
    let of_one = |before: &(u32, u64, i64, bool), now: &(u32, u64, i64, bool)| {
        (before.0, before.1) == (now.0, now.1) && (now.1 != 0 || now.2 - before.2 <= GAP_MS)
    };
    for session in touched.chunk_by(of_one) {
        let start = session.first().map_or(i64::MIN, |first| first.2);
        if (from_ms..to_ms).contains(&start) && session.iter().any(|event| event.3) {
            *found.entry(place(start)).or_default() += 1;
        }
    }
    found
}

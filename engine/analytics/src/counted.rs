//! Which events are counted already: the ids of those that are kept, as hashes.
//!
//! An event is counted once by its user and its id, by whatever way it comes again: sent twice, brought twice by a broker, or
//! replayed. It is known as long as it is kept ([`Bounds`](crate::Bounds)): 9 to 18 bytes an event in the table, and 8 beside it,
//! so that a chunk's are forgotten with the chunk.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// Room that is taken at once, in events: growing in the middle would make an event wait for a million others.
const TAKEN_AT_ONCE: usize = 4 << 20;

/// The ids of the events that are kept.
#[derive(Debug, Default)]
pub(crate) struct CountedIds {
    /// Keyed hashes: nobody outside can choose two events that are taken for one.
    known: HashTable<u64>,
    /// Those of the full chunks, oldest first.
    full: VecDeque<Vec<u64>>,
    /// Those of the open chunk.
    open: Vec<u64>,
}

impl CountedIds {
    /// Notes an event; false if it is known. As many are expected as are kept.
    pub(crate) fn note(&mut self, hash: u64, kept_max: usize) -> bool {
        if self.known.capacity() == 0 {
            self.known.reserve(kept_max.min(TAKEN_AT_ONCE), |hash| *hash);
        }
        match self.known.entry(hash, |known| *known == hash, |hash| *hash) {
            hashbrown::hash_table::Entry::Occupied(_) => return false,
            hashbrown::hash_table::Entry::Vacant(place) => place.insert(hash),
        };
        self.open.push(hash);
        true
    }

    /// The open chunk is full.
    pub(crate) fn close_chunk(&mut self) {
        let room = self.open.len();
        self.full.push_back(std::mem::replace(&mut self.open, Vec::with_capacity(room)));
    }

    /// The oldest chunk is not kept any more.
    pub(crate) fn forget_oldest(&mut self) {
        for hash in self.full.pop_front().into_iter().flatten() {
            if let Ok(entry) = self.known.find_entry(hash, |known| *known == hash) {
                entry.remove();
            }
        }
    }
}

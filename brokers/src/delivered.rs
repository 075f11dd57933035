//! How far a broker has acknowledged a shard of the log.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// Offsets that a broker refuses and that are remembered. More: the oldest is forgotten, which only makes a message
/// that nobody asks for any more count as delivered.
pub(crate) const REFUSED_MAX: usize = 10_000;

/// Written by the broker's thread, read by the shard's core.
#[derive(Debug, Default)]
pub struct Delivered {
    upto: AtomicU64,
    has_refused: AtomicBool,
    refused: Mutex<BTreeSet<u64>>,
}

impl Delivered {
    /// Everything below this offset was acknowledged, or refused for ever.
    #[inline]
    pub fn upto(&self) -> u64 {
        // Acquire: pairs with the Release in `advance`; what was refused below is in the set.
        self.upto.load(Ordering::Acquire)
    }

    /// Whether the offset, which is below [`upto`](Self::upto), was refused.
    pub fn refused(&self, offset: u64) -> bool {
        self.has_refused.load(Ordering::Acquire) && self.refused.lock().contains(&offset)
    }

    /// The broker refuses the record at this offset for ever.
    pub fn refuse(&self, offset: u64) {
        let mut refused = self.refused.lock();
        refused.insert(offset);
        if refused.len() > REFUSED_MAX {
            refused.pop_first();
        }
        self.has_refused.store(true, Ordering::Release);
    }

    /// Everything below `upto` is decided.
    pub fn advance(&self, upto: u64) {
        self.upto.fetch_max(upto, Ordering::Release);
    }
}

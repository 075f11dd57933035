//! What a broker's client has written, as it says itself once a second: requests, and how many messages went in a batch.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the sizes of batches, in messages; one more is unbounded. The older producer service's.
pub const BATCH_BOUNDS: [u64; 9] = [1, 5, 10, 25, 50, 100, 250, 500, 1000];

/// Running counts of a run.
#[derive(Debug, Default)]
pub struct Written {
    /// Requests.
    pub writes: AtomicU64,
    /// Messages in them.
    pub messages: AtomicU64,
    /// Bytes of these, with what is around them.
    pub bytes: AtomicU64,
    /// Requests that could not be sent.
    pub errors: AtomicU64,
    /// Batches by how many messages they had; bounds in [`BATCH_BOUNDS`].
    pub batches: [AtomicU64; BATCH_BOUNDS.len() + 1],
    /// Messages in all of these.
    pub batched: AtomicU64,
}

/// The batches of one second, as a client sums them up.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    /// How many.
    pub count: u64,
    /// Messages in them.
    pub messages: u64,
    /// Part of the batches, in ten-thousandths, and what that part has at most; in order, the last one all.
    pub quantiles: [(u64, u64); 7],
}

impl Written {
    /// Adds the batches of a second. A bucket gets as many as the quantiles say, so its edge is as fine as those are.
    pub fn add(&self, batches: &Batches) {
        self.batched.fetch_add(batches.messages, Relaxed);
        let mut below = 0;
        for (bound, bucket) in BATCH_BOUNDS.iter().zip(&self.batches) {
            let known = batches.quantiles.iter().rev().find(|(_, messages)| messages <= bound);
            let upto = known.map_or(0, |(part, _)| batches.count * part / 10_000).max(below);
            bucket.fetch_add(upto - below, Relaxed);
            below = upto;
        }
        self.batches[BATCH_BOUNDS.len()].fetch_add(batches.count - below, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_counted_where_their_quantiles_are() {
        let written = Written::default();
        let quantiles =
            [(5000, 1), (7500, 8), (9000, 8), (9500, 40), (9900, 2000), (9999, 2000), (10_000, 2000)];
        written.add(&Batches { count: 100, messages: 9_000, quantiles });
        let buckets: Vec<u64> = written.batches.iter().map(|bucket| bucket.load(Relaxed)).collect();
        assert_eq!(buckets, [50, 0, 40, 0, 5, 0, 0, 0, 0, 5]);
        assert_eq!(written.batched.load(Relaxed), 9_000);
        // One batch: every quantile is it.
        written.add(&Batches {
            count: 1,
            messages: 3,
            quantiles: [5000, 7500, 9000, 9500, 9900, 9999, 10_000].map(|part| (part, 3)),
        });
        assert_eq!(written.batches[1].load(Relaxed), 1);
    }
}

//! What a core tells about its work: counters with one writer each, read by anyone.
//!
//! A core counts in plain integers of its own and copies them out once per turn with relaxed stores: no
//! read-modify-write, no shared line per message. A reader may see a turn half copied; each number by
//! itself is right and never goes back.

use std::iter::Sum;
use std::ops::AddAssign;
// Not the loom shim's: nothing is ordered by these numbers.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A core's numbers at one moment, or the sum of several cores'.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64,)+ }

        #[derive(Debug, Default)]
        struct Cells {
            $($name: AtomicU64,)+
            /// The second after that in which the oldest message in the slab came; 0: there is none.
            oldest: AtomicU64,
        }

        impl Cells {
            fn store(&self, numbers: &Snapshot) { $(self.$name.store(numbers.$name, Relaxed);)+ }
            fn load(&self) -> Snapshot { Snapshot { $($name: self.$name.load(Relaxed),)+ } }
        }

        impl AddAssign for Snapshot {
            fn add_assign(&mut self, other: Self) { $(self.$name += other.$name;)+ }
        }
    };
}

numbers! {
    /// Messages that this core took on: new ones. One whose repeat is recognised counts when it is known to be none.
    accepted,
    /// Of these, how many came to where they go.
    done,
    /// Of these, how many were given up or refused there.
    rejected,
    /// Messages that repeat an accepted one, and count nowhere else.
    duplicates,
    /// Messages with the id of an accepted one and another content; they count nowhere else.
    conflicts,
    /// Messages in this core's slab of which it is not known yet whether they are repeats.
    undecided,
    /// Messages of any core that this core's sink completed as processed or stored.
    processed,
    /// Messages of any core that this core's sink completed as failed or rejected.
    failed,
    /// Messages refused because every slot was in use.
    refused_full,
    /// Messages refused because the byte budget was used up.
    refused_budget,
    /// Bytes of the messages taken into the slab: id, source, metadata and payload.
    bytes_accepted,
    /// Batches of which the sink took at least one message.
    batches,
    /// Messages in this core's slab now: accepted and not yet completed.
    queue_depth,
}

impl Sum for Snapshot {
    fn sum<I: Iterator<Item = Self>>(snapshots: I) -> Self {
        snapshots.fold(Self::default(), |mut sum, snapshot| {
            sum += snapshot;
            sum
        })
    }
}

/// The writing side of one core's numbers.
#[derive(Debug)]
pub(crate) struct CounterWriter {
    cells: Arc<CachePadded<Cells>>,
    /// What stands in the cells. A turn that counted nothing leaves their lines to the readers.
    published: Snapshot,
}

/// The reading side of one core's numbers.
#[derive(Clone, Debug)]
pub struct CounterReader {
    cells: Arc<CachePadded<Cells>>,
}

pub(crate) fn counters() -> (CounterWriter, CounterReader) {
    let cells = Arc::new(CachePadded::new(Cells::default()));
    (CounterWriter { cells: Arc::clone(&cells), published: Snapshot::default() }, CounterReader { cells })
}

impl CounterWriter {
    #[inline]
    pub(crate) fn publish(&mut self, numbers: &Snapshot, oldest: Option<u32>) {
        if self.published != *numbers {
            self.cells.store(numbers);
            self.cells.oldest.store(oldest.map_or(0, |second| u64::from(second) + 1), Relaxed);
            self.published = *numbers;
        }
    }
}

impl CounterReader {
    /// The numbers as the core last published them; `readers.iter().map(CounterReader::snapshot).sum()`
    /// for all cores.
    pub fn snapshot(&self) -> Snapshot {
        self.cells.load()
    }

    /// The second in which the oldest message in this core's slab came, on the clock that its shard was told.
    pub fn oldest(&self) -> Option<u64> {
        self.cells.oldest.load(Relaxed).checked_sub(1)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_seen_once_published_and_add_up_over_cores() {
        let (mut writer, reader) = counters();
        let numbers = Snapshot { accepted: 3, queue_depth: 2, ..Snapshot::default() };
        assert_eq!(reader.snapshot(), Snapshot::default());
        writer.publish(&numbers, Some(0));
        assert_eq!(reader.oldest(), Some(0));
        assert_eq!(reader.snapshot(), numbers);
        let sum: Snapshot = [&reader, &reader].into_iter().map(CounterReader::snapshot).sum();
        assert_eq!((sum.accepted, sum.queue_depth, sum.failed), (6, 4, 0));
    }
}

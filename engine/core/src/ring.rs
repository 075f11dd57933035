//! A bounded queue with one producer and one consumer, the only structure two cores write to.
//!
//! ```
//! let (mut producer, mut consumer) = engine_core::ring::ring::<u32>(4);
//! producer.stage(1).unwrap();
//! producer.stage(2).unwrap();
//! assert!(consumer.is_empty()); // staged, not yet published
//! producer.publish(); // one Release store for both
//! assert_eq!(consumer.take(256, |value| assert!(value < 3)), 2);
//! ```
//!
//! # How it works
//!
//! `tail` counts what was ever published, `head` what was ever taken; both run freely and wrap with
//! `usize`, and a slot is `index & mask` (so the capacity is a power of two, and `tail - head` is the
//! length even across the wrap). Slots in `head..tail` hold values and belong to the consumer; all
//! others belong to the producer. Ownership changes sides in exactly two places:
//!
//! - [`Producer::publish`] stores `tail` (Release); `Consumer::refresh` loads it (Acquire).
//! - the consumer's advance stores `head` (Release); `Producer::refresh` loads it (Acquire).
//!
//! Each side keeps the other's index as it last saw it and looks again only when that does not
//! suffice, so in steady flow a batch costs one shared cache line each way beside the values' own.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UninitCells, UnsafeCell, uninit_cells};

/// What one side tells the other, alone on its cache lines.
#[derive(Debug)]
struct Side {
    index: AtomicUsize,
    gone: AtomicBool,
}

impl Side {
    fn new() -> CachePadded<Self> {
        CachePadded::new(Self { index: AtomicUsize::new(0), gone: AtomicBool::new(false) })
    }
}

struct Shared<T> {
    /// Written by the consumer: values taken so far.
    head: CachePadded<Side>,
    /// Written by the producer: values published so far.
    tail: CachePadded<Side>,
    slots: UninitCells<T>,
}

// SAFETY: a slot is touched by one side at a time (module doc), so sharing the ring between two
// threads only ever moves values from one to the other: `T: Send` is what that needs.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; `&Shared` gives no access to a slot but through the two unique sides.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn slots(&self) -> Slots<T> {
        Slots { first: NonNull::from(&*self.slots).cast(), mask: self.slots.len() - 1 }
    }
}

/// Where the slots are: each side keeps this beside its indices, so that its loops hold it in registers.
/// It is valid as long as the `Shared` it came from.
struct Slots<T> {
    first: NonNull<UnsafeCell<MaybeUninit<T>>>,
    mask: usize,
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slots<T> {}

impl<T> Slots<T> {
    /// The `count` slots from `index` on as the two runs they lie in, the second one mostly empty. Inside a
    /// run nothing is masked, so a batch's loop only moves a pointer on (measured: a third of its time).
    #[inline(always)]
    fn runs(self, index: usize, count: usize) -> [std::ops::Range<usize>; 2] {
        let start = index & self.mask;
        let first = count.min(self.mask + 1 - start);
        [start..start + first, 0..count - first]
    }

    /// # Safety
    /// The ring is alive; the caller is the only one that may touch the slot, which holds no value.
    #[inline(always)]
    unsafe fn write(self, index: usize, value: T) {
        // SAFETY: `index & mask` is below the number of slots, a power of two.
        let slot = unsafe { self.first.add(index & self.mask).as_ref() };
        // SAFETY: exclusive by the caller's promise; a `MaybeUninit` may be overwritten at any time.
        slot.with_mut(|slot| unsafe { (*slot).write(value) });
    }

    /// # Safety
    /// The ring is alive; the caller is the only one that may touch the slot, which holds a value. The
    /// caller owns it now and nobody reads it again.
    #[inline(always)]
    unsafe fn read(self, index: usize) -> T {
        // SAFETY: `index & mask` is below the number of slots, a power of two.
        let slot = unsafe { self.first.add(index & self.mask).as_ref() };
        // SAFETY: initialised and ours by the caller's promise.
        slot.with(|slot| unsafe { (*slot).assume_init_read() })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: both sides are gone, and the `Arc` made their last stores visible here.
        let mut head = self.head.index.load(Ordering::Relaxed);
        let tail = self.tail.index.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: `head..tail` holds values, and `&mut self` says that we are alone.
            drop(unsafe { self.slots().read(head) });
            head = head.wrapping_add(1);
        }
    }
}

/// The writing side. Unique: it may move to another thread, but not be shared.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    slots: Slots<T>,
    /// The next index to write; `published..tail` is staged.
    tail: usize,
    published: usize,
    /// `head` as last seen. The real one is the same or further on.
    head_seen: usize,
}

/// The reading side. Unique: it may move to another thread, but not be shared.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    slots: Slots<T>,
    head: usize,
    /// `tail` as last seen. The real one is the same or further on.
    tail_seen: usize,
}

// SAFETY: `slots` points into `shared`, which may be sent; the sides are unique.
unsafe impl<T: Send> Send for Producer<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Consumer<T> {}

/// A ring for `capacity` values.
///
/// # Panics
/// When `capacity` is not a power of two.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "a ring's capacity is a power of two, not {capacity}");
    let shared = Arc::new(Shared { head: Side::new(), tail: Side::new(), slots: uninit_cells(capacity) });
    let slots = shared.slots();
    (
        Producer { shared: Arc::clone(&shared), slots, tail: 0, published: 0, head_seen: 0 },
        Consumer { shared, slots, head: 0, tail_seen: 0 },
    )
}

impl<T: Send> Producer<T> {
    /// Writes a value and publishes it, with everything staged before it.
    ///
    /// # Errors
    /// The value itself when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        self.stage(value)?;
        self.publish();
        Ok(())
    }

    /// Writes a value that the consumer does not see before [`publish`](Self::publish).
    ///
    /// # Errors
    /// The value itself when the ring is full.
    #[inline]
    pub fn stage(&mut self, value: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head_seen) == self.capacity() {
            self.refresh();
            if self.tail.wrapping_sub(self.head_seen) == self.capacity() {
                return Err(value);
            }
        }
        // SAFETY: `tail` is outside `head..tail` because the ring is not full, so the slot is the
        // producer's and holds no value.
        unsafe { self.slots.write(self.tail, value) };
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Stages values until `values` ends or the ring is full; no value is drawn that has no slot.
    /// Returns how many.
    #[inline]
    pub fn stage_all(&mut self, mut values: impl Iterator<Item = T>) -> usize {
        let from = self.tail;
        loop {
            let slots = self.slots;
            let free = self.capacity() - self.tail.wrapping_sub(self.head_seen);
            for run in slots.runs(self.tail, free) {
                let mut staging = Staging { index: self.tail, tail: &mut self.tail };
                for slot in run {
                    let Some(value) = values.next() else {
                        return staging.index.wrapping_sub(from);
                    };
                    // SAFETY: the slot is outside `head..tail` because it was counted as free, so it is
                    // the producer's and holds no value.
                    unsafe { slots.write(slot, value) };
                    staging.index = staging.index.wrapping_add(1);
                }
            }
            self.refresh();
            if self.tail.wrapping_sub(self.head_seen) == self.capacity() {
                return self.tail.wrapping_sub(from);
            }
        }
    }

    /// Hands everything staged to the consumer with one store.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.tail {
            self.published = self.tail;
            // Release: the staged values are visible to the Acquire load in `Consumer::refresh`.
            self.shared.tail.index.store(self.tail, Ordering::Release);
        }
    }

    /// Values staged and not yet published.
    #[inline]
    pub fn staged(&self) -> usize {
        self.tail.wrapping_sub(self.published)
    }

    /// Free slots at this moment; the consumer can only make it more.
    #[inline]
    pub fn free_slots(&mut self) -> usize {
        self.refresh();
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// How many values the ring holds at most.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.slots.mask + 1
    }

    /// Whether the consumer was dropped: nothing pushed from now on will be taken.
    pub fn is_abandoned(&self) -> bool {
        // Acquire: pairs with the Release in `Consumer::drop`.
        self.shared.head.gone.load(Ordering::Acquire)
    }

    #[cold]
    fn refresh(&mut self) {
        // Acquire: pairs with the Release in `Advance::drop`; the consumer has moved the values out
        // of the slots before this one, so they may be written again.
        self.head_seen = self.shared.head.index.load(Ordering::Acquire);
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        while self.published != self.tail {
            self.tail = self.tail.wrapping_sub(1);
            // SAFETY: `published..tail` was staged by us and never shown to the consumer.
            drop(unsafe { self.slots.read(self.tail) });
        }
        // Release: whoever sees `gone` (Acquire in `Consumer::is_abandoned`) sees the last publish too.
        self.shared.tail.gone.store(true, Ordering::Release);
    }
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest published value.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.refresh();
            if self.head == self.tail_seen {
                return None;
            }
        }
        // SAFETY: `head` is inside `head..tail`, so the slot is the consumer's and holds a value;
        // the store below gives the slot away only after the value was moved out.
        let value = unsafe { self.slots.read(self.head) };
        self.head = self.head.wrapping_add(1);
        // Release: the value is out before the Acquire load in `Producer::refresh` sees the slot free.
        self.shared.head.index.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Takes up to `max` values in order and gives their slots back with one store. Returns how many.
    ///
    /// If `take` panics, the values it was given, the last one too, are gone from the ring.
    #[inline]
    pub fn take(&mut self, max: usize, mut take: impl FnMut(T)) -> usize {
        let mut available = self.tail_seen.wrapping_sub(self.head);
        if available < max {
            self.refresh();
            available = self.tail_seen.wrapping_sub(self.head);
        }
        let count = available.min(max);
        if count == 0 {
            return 0;
        }
        let (slots, from) = (self.slots, self.head);
        let mut advance = Advance { shared: &self.shared, head: &mut self.head, index: from };
        for run in slots.runs(from, count) {
            for slot in run {
                // SAFETY: `from..from + count` is inside `head..tail`: published, ours, taken once each,
                // because `index` moves on before `take` can unwind.
                let value = unsafe { slots.read(slot) };
                advance.index = advance.index.wrapping_add(1);
                take(value);
            }
        }
        drop(advance);
        count
    }

    /// Values that can be taken at this moment; the producer can only make it more.
    #[inline]
    pub fn len(&self) -> usize {
        // Relaxed is enough to count; taking them refreshes with Acquire.
        self.shared.tail.index.load(Ordering::Relaxed).wrapping_sub(self.head)
    }

    /// Whether there is nothing to take at this moment.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the producer was dropped. What it published before is still there: read this first,
    /// then take until empty.
    pub fn is_abandoned(&self) -> bool {
        // Acquire: pairs with the Release in `Producer::drop`.
        self.shared.tail.gone.load(Ordering::Acquire)
    }

    #[inline]
    fn refresh(&mut self) {
        // Acquire: pairs with the Release in `Producer::publish`; the values before this index are
        // written.
        self.tail_seen = self.shared.tail.index.load(Ordering::Acquire);
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `Producer::is_abandoned`. What is left in the ring is
        // dropped with `Shared`, when the producer is gone too.
        self.shared.head.gone.store(true, Ordering::Release);
    }
}

/// Notes what was staged when a run of it ends, also when it ends by a panic. (Not after each value: a
/// store per value that the slots might alias keeps the loop from being unrolled.)
struct Staging<'a> {
    tail: &'a mut usize,
    index: usize,
}

impl Drop for Staging<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.tail = self.index;
    }
}

/// Gives the taken slots back when a batch ends, also when it ends by a panic.
struct Advance<'a, T> {
    shared: &'a Shared<T>,
    head: &'a mut usize,
    index: usize,
}

impl<T> Drop for Advance<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release: the values are out before the Acquire load in `Producer::refresh` sees the slots free.
        self.shared.head.index.store(self.index, Ordering::Release);
        *self.head = self.index;
    }
}

impl<T> std::fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("tail", &self.tail).field("published", &self.published).finish()
    }
}

impl<T> std::fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("head", &self.head).field("tail_seen", &self.tail_seen).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize as Count;

    #[test]
    fn full_ring_returns_the_value() {
        let (mut producer, mut consumer) = ring(2);
        assert_eq!(producer.push(1), Ok(()));
        assert_eq!(producer.push(2), Ok(()));
        assert_eq!(producer.push(3), Err(3));
        assert_eq!(producer.stage(3), Err(3));
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(producer.push(3), Ok(()));
        assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn staged_values_are_unseen_until_published() {
        let (mut producer, mut consumer) = ring(4);
        producer.stage('a').unwrap();
        producer.stage('b').unwrap();
        assert_eq!((producer.staged(), consumer.len(), consumer.pop()), (2, 0, None));
        producer.publish();
        assert_eq!((producer.staged(), consumer.len()), (0, 2));
        assert_eq!(consumer.pop(), Some('a'));
    }

    #[test]
    fn values_staged_before_a_panic_stay_staged() {
        let (mut producer, mut consumer) = ring(4);
        producer.push(Box::new(0)).unwrap();
        drop(consumer.pop());
        // Three values up to the ring's seam; the fourth would stand behind it.
        let values = (1..).map(|n| if n < 4 { Box::new(n) } else { panic!("no more") });
        let staged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| producer.stage_all(values)));
        assert!(staged.is_err());
        assert_eq!(producer.staged(), 3);
        producer.publish();
        let mut seen = Vec::new();
        assert_eq!(consumer.take(8, |value| seen.push(*value)), 3);
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn stage_all_draws_no_value_that_has_no_slot() {
        let (mut producer, mut consumer) = ring(4);
        let mut values = 0..;
        assert_eq!(producer.stage_all(values.by_ref().take(3)), 3);
        producer.publish();
        assert_eq!(consumer.pop(), Some(0));
        assert_eq!(producer.stage_all(&mut values), 2); // one free, one given back
        assert_eq!((producer.stage_all(&mut values), values.next()), (0, Some(5)));
        producer.publish();
        let mut seen = Vec::new();
        consumer.take(8, |value| seen.push(value));
        assert_eq!(seen, [1, 2, 3, 4]);
    }

    #[test]
    fn staged_values_count_against_the_capacity() {
        let (mut producer, _consumer) = ring(2);
        producer.stage(1).unwrap();
        assert_eq!(producer.free_slots(), 1);
        producer.stage(2).unwrap();
        assert_eq!((producer.free_slots(), producer.stage(3)), (0, Err(3)));
    }

    #[test]
    fn take_stops_at_max_and_keeps_the_rest_in_order() {
        let (mut producer, mut consumer) = ring(8);
        (0..6).for_each(|value| producer.push(value).unwrap());
        let mut seen = Vec::new();
        assert_eq!(consumer.take(4, |value| seen.push(value)), 4);
        assert_eq!(consumer.take(4, |value| seen.push(value)), 2);
        assert_eq!(consumer.take(4, |value| seen.push(value)), 0);
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn indices_may_wrap_around_usize() {
        let (mut producer, mut consumer) = ring(2);
        let start = usize::MAX - 1;
        (producer.tail, producer.published, producer.head_seen) = (start, start, start);
        (consumer.head, consumer.tail_seen) = (start, start);
        producer.shared.tail.index.store(start, Ordering::Relaxed);
        producer.shared.head.index.store(start, Ordering::Relaxed);
        for round in 0..5 {
            producer.push(round).unwrap();
            producer.push(round + 100).unwrap();
            assert_eq!(producer.push(0), Err(0));
            assert_eq!((consumer.len(), consumer.pop(), consumer.pop()), (2, Some(round), Some(round + 100)));
        }
    }

    #[test]
    #[should_panic(expected = "power of two")]
    fn odd_capacity_is_refused() {
        let _ = ring::<u8>(3);
    }

    struct CountsDrops<'a>(&'a Count);

    impl Drop for CountsDrops<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn values_left_behind_are_dropped_once_staged_ones_too() {
        for consumer_first in [false, true] {
            let drops = Count::new(0);
            let (mut producer, mut consumer) = ring(8);
            (0..3).for_each(|_| assert!(producer.push(CountsDrops(&drops)).is_ok()));
            (0..2).for_each(|_| assert!(producer.stage(CountsDrops(&drops)).is_ok()));
            drop(consumer.pop());
            assert_eq!(drops.load(Ordering::Relaxed), 1);
            if consumer_first {
                drop(consumer);
                drop(producer);
            } else {
                drop(producer);
                drop(consumer);
            }
            assert_eq!(drops.load(Ordering::Relaxed), 5);
        }
    }

    #[test]
    fn panic_inside_take_loses_no_slot_and_drops_nothing_twice() {
        let drops = Count::new(0);
        let (mut producer, mut consumer) = ring(4);
        (0..4).for_each(|_| assert!(producer.push(CountsDrops(&drops)).is_ok()));
        let mut calls = 0;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            consumer.take(4, |_value| {
                calls += 1;
                assert!(calls < 2, "the second one panics");
            })
        }));
        assert!(result.is_err());
        assert_eq!((drops.load(Ordering::Relaxed), consumer.len(), producer.free_slots()), (2, 2, 2));
        drop((producer, consumer));
        assert_eq!(drops.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn each_side_sees_that_the_other_is_gone() {
        let (mut producer, mut consumer) = ring(2);
        assert!(!consumer.is_abandoned() && !producer.is_abandoned());
        producer.push(7).unwrap();
        drop(producer);
        assert!(consumer.is_abandoned());
        assert_eq!(consumer.pop(), Some(7));
        let (producer, consumer) = ring::<u8>(2);
        drop(consumer);
        assert!(producer.is_abandoned());
    }

    #[test]
    fn a_million_values_cross_threads_in_order() {
        const COUNT: u64 = if cfg!(miri) { 1_000 } else { 1_000_000 };
        let (mut producer, mut consumer) = ring::<Box<u64>>(64);
        let writer = std::thread::spawn(move || {
            let mut next = 0;
            while next < COUNT {
                // Batches of changing length, so that staging, publishing and a full ring all occur.
                for _ in 0..=(next % 7) {
                    if next < COUNT && producer.stage(Box::new(next)).is_ok() {
                        next += 1;
                    }
                }
                producer.publish();
                if producer.free_slots() == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            let single = consumer.pop();
            if let Some(value) = &single {
                assert_eq!(**value, expected);
                expected += 1;
            }
            let taken = consumer.take(16, |value| {
                assert_eq!(*value, expected);
                expected += 1;
            });
            if single.is_none() && taken == 0 {
                std::thread::yield_now();
            }
        }
        writer.join().unwrap();
        assert!(consumer.is_abandoned() && consumer.is_empty());
    }
}

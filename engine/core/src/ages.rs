//! How old a core's oldest message is, to the second: a count of messages for each second of arrival.
//!
//! Each slot keeps the second in which its message came, so a message that goes lowers the count of its own second. Both
//! are a few instructions; nothing is looked through.

use std::collections::VecDeque;

/// Seconds that are told apart, at most. A message that stays longer is shown as this old.
const SECONDS_MAX: usize = 1 << 16;

/// The seconds of arrival of the messages in a slab.
#[derive(Debug)]
pub(crate) struct Ages {
    /// By slot.
    arrived: Box<[u32]>,
    /// Messages that are there, by the second they came in; the first is not 0.
    counts: VecDeque<u32>,
    /// The second of the first count; what came earlier is in it, too.
    first: u32,
}

impl Ages {
    pub(crate) fn new(slots: usize) -> Self {
        Self { arrived: vec![0; slots].into(), counts: VecDeque::new(), first: 0 }
    }

    /// A message came into this slot.
    #[inline]
    pub(crate) fn came(&mut self, slot: usize, second: u32) {
        if self.counts.is_empty() {
            self.first = second;
        }
        // A clock that was set back: it came no later than what is there.
        let second = second.max(self.first);
        while self.counts.len() <= (second - self.first) as usize {
            self.counts.push_back(0);
            if self.counts.len() > SECONDS_MAX {
                let oldest = self.counts.pop_front().unwrap_or_default();
                self.first += 1;
                self.counts[0] += oldest;
            }
        }
        self.counts[(second - self.first) as usize] += 1;
        self.arrived[slot] = second;
    }

    /// The message in this slot is gone.
    #[inline]
    pub(crate) fn went(&mut self, slot: usize) {
        let place = self.arrived[slot].saturating_sub(self.first) as usize;
        if let Some(count) = self.counts.get_mut(place) {
            *count -= 1;
        }
        while self.counts.front() == Some(&0) {
            self.counts.pop_front();
            self.first += 1;
        }
    }

    /// The second in which the oldest message came.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (!self.counts.is_empty()).then_some(self.first)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_the_oldest_whatever_goes_first() {
        let mut ages = Ages::new(4);
        assert_eq!(ages.oldest(), None);
        for (slot, second) in [(0, 100), (1, 100), (2, 103), (3, 110)] {
            ages.came(slot, second);
        }
        for (slot, oldest) in [(2, Some(100)), (0, Some(100)), (1, Some(110)), (3, None)] {
            ages.went(slot);
            assert_eq!(ages.oldest(), oldest, "{slot}");
        }
        ages.came(1, 7);
        assert_eq!(ages.oldest(), Some(7));
    }

    #[test]
    fn a_clock_that_goes_back_and_a_message_that_stays_for_days_are_no_trouble() {
        let mut ages = Ages::new(3);
        ages.came(0, 1_000);
        ages.came(1, 900);
        ages.came(2, 1_000_000);
        assert_eq!((ages.counts.len(), ages.oldest()), (SECONDS_MAX, Some(1_000_001 - SECONDS_MAX as u32)));
        ages.went(0);
        ages.went(1);
        assert_eq!(ages.oldest(), Some(1_000_000));
        ages.went(2);
        assert_eq!(ages.oldest(), None);
    }
}

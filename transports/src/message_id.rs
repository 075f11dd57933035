//! Message ids: UUID version 7 (RFC 9562 §5.7), so that ids sort by the time they were given out.
//!
//! The `uuid` crate lays the bits out; time and randomness come from the core's own clock and generator, because a
//! system call and a lock per id cost ten times the id itself.

use std::cell::Cell;

use uuid::Builder;

/// Length of an id in its text form.
pub(crate) const MESSAGE_ID_BYTES: usize = 36;

/// Gives out the ids of one core.
#[derive(Debug)]
pub(crate) struct MessageIds {
    random: fastrand::Rng,
    /// Counts within a millisecond, so that ids of one core also sort among themselves (RFC 9562 §6.2, method 1).
    sequence: Cell<u16>,
    last_ms: Cell<u64>,
}

impl MessageIds {
    /// Seeds the generator from the system.
    pub(crate) fn new() -> Self {
        Self { random: fastrand::Rng::new(), sequence: Cell::new(0), last_ms: Cell::new(0) }
    }

    /// The next id, as text.
    pub(crate) fn next(&mut self, unix_ms: u64) -> [u8; MESSAGE_ID_BYTES] {
        // A clock that was set back must not make ids sort backwards.
        let mut ms = unix_ms.max(self.last_ms.get());
        let mut sequence = 0;
        if ms == self.last_ms.get() {
            sequence = self.sequence.get() + 1;
            if sequence > 0x0fff {
                sequence = 0;
                ms += 1;
            }
        }
        self.last_ms.set(ms);
        self.sequence.set(sequence);
        let mut bits = [0; 10];
        bits[..2].copy_from_slice(&sequence.to_be_bytes());
        bits[2..].copy_from_slice(&self.random.u64(..).to_be_bytes());
        let mut text = [0; MESSAGE_ID_BYTES];
        Builder::from_unix_timestamp_millis(ms, &bits).into_uuid().hyphenated().encode_lower(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_and_sort_by_the_order_they_were_given_out() {
        let mut ids = MessageIds::new();
        let mut last = ids.next(1_700_000_000_000);
        for step in 0..20_000_u64 {
            let next = ids.next(1_700_000_000_000 + step / 5000);
            assert!(next > last);
            assert_eq!(next[14], b'7');
            last = next;
        }
    }

    #[test]
    fn a_clock_set_back_does_not_turn_the_order() {
        let mut ids = MessageIds::new();
        let before = ids.next(1_700_000_000_000);
        assert!(ids.next(1_600_000_000_000) > before);
    }
}

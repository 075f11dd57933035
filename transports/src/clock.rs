//! One reading of the clock per batch.
//!
//! Time inside the process is monotonic milliseconds since the start; wall time is that plus an offset that is set
//! anew once a second. So a wall clock that jumps changes what is printed and nothing else: no timeout, no order.

use std::{
    cell::Cell,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// The clock of one core.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    now_ns: Cell<u64>,
    unix_offset_ms: Cell<i64>,
}

impl Clock {
    /// Starts at zero.
    pub(crate) fn new() -> Self {
        let clock = Self { start: Instant::now(), now_ns: Cell::new(0), unix_offset_ms: Cell::new(0) };
        clock.synchronise();
        clock
    }

    /// Reads the monotonic clock; returns nanoseconds since the start.
    pub(crate) fn tick(&self) -> u64 {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.now_ns.set(now);
        now
    }

    /// Nanoseconds since the start, as of the last [`Clock::tick`].
    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Milliseconds since the start, as of the last [`Clock::tick`].
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ns.get() / 1_000_000
    }

    /// Unix time in milliseconds, as of the last [`Clock::tick`].
    pub(crate) fn unix_ms(&self) -> u64 {
        self.unix_offset_ms.get().saturating_add_unsigned(self.now_ms()).max(0).unsigned_abs()
    }

    /// Takes the wall clock's present offset.
    pub(crate) fn synchronise(&self) {
        self.tick();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let unix = i64::try_from(unix).unwrap_or(i64::MAX);
        self.unix_offset_ms.set(unix.saturating_sub_unsigned(self.now_ms()));
    }
}

//! What time it is: the machine's clocks, or on a thread that is simulated what its simulator says.
//!
//! The simulator runs everything behind the front ends on one thread, in a time that it moves itself, so whatever waits,
//! expires or is stamped asks here and never `Instant::now` or `SystemTime::now`. On every other thread that costs a read of
//! a thread-local besides.

use std::{
    cell::Cell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The clocks of a simulated thread.
#[derive(Clone, Copy, Debug)]
struct Simulated {
    now: Instant,
    wall_ms: u64,
}

thread_local! {
    static SIMULATED: Cell<Option<Simulated>> = const { Cell::new(None) };
}

/// This moment, by a clock that never goes back.
#[inline]
pub fn now() -> Instant {
    SIMULATED.get().map_or_else(Instant::now, |simulated| simulated.now)
}

/// How long ago that was.
#[inline]
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Milliseconds of the Unix epoch, by a clock that may be set: it can jump, also back.
#[inline]
pub fn wall_ms() -> u64 {
    SIMULATED.get().map_or_else(
        || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        },
        |simulated| simulated.wall_ms,
    )
}

/// Makes this thread a simulated one, until it is dropped: its time stands still but for [`advance`](Self::advance) and
/// [`set_wall_ms`](Self::set_wall_ms).
#[derive(Debug)]
pub struct SimulatedClock {
    began: Instant,
    /// Clocks are a thread's own.
    _on_this_thread: std::marker::PhantomData<*const ()>,
}

impl SimulatedClock {
    /// Stops this thread's clocks at a wall time in milliseconds of the Unix epoch.
    pub fn start(wall_ms: u64) -> Self {
        let began = Instant::now();
        SIMULATED.set(Some(Simulated { now: began, wall_ms }));
        Self { began, _on_this_thread: std::marker::PhantomData }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let elapsed = self.elapsed() + by;
        let Some(simulated) = SIMULATED.get() else { return };
        let wall_ms = simulated.wall_ms + (elapsed.as_millis() - self.elapsed().as_millis()) as u64;
        SIMULATED.set(Some(Simulated { now: self.began + elapsed, wall_ms }));
    }

    /// Sets the wall clock, as an administrator or NTP may.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        if let Some(simulated) = SIMULATED.get() {
            SIMULATED.set(Some(Simulated { wall_ms, ..simulated }));
        }
    }

    /// How long it has run, in its own time.
    pub fn elapsed(&self) -> Duration {
        now() - self.began
    }
}

impl Drop for SimulatedClock {
    fn drop(&mut self) {
        SIMULATED.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_time_stands_still_until_it_is_moved() {
        let clock = SimulatedClock::start(1_000);
        let began = now();
        assert_eq!((now(), wall_ms()), (began, 1_000));
        for _ in 0..4 {
            clock.advance(Duration::from_micros(500));
        }
        assert_eq!((now() - began, wall_ms()), (Duration::from_millis(2), 1_002));
        clock.set_wall_ms(5);
        assert_eq!((clock.elapsed(), wall_ms()), (Duration::from_millis(2), 5));
        drop(clock);
        assert!(wall_ms() > 1_000_000_000_000);
    }
}

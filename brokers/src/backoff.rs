//! Exponential backoff with full jitter: each pause is drawn evenly from zero to a bound that doubles up to a cap, so
//! that many clients do not come back at the same moment.

use std::time::Duration;

/// The pauses between tries.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    bound: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// The first pause is at most `first`, none is longer than `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, bound: first, random: fastrand::Rng::new() }
    }

    /// The pause before the next try.
    pub fn next_pause(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(self.cap);
        bound.mul_f64(self.random.f64())
    }

    /// A try has succeeded.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_a_bound_that_doubles_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        for bound in [100, 200, 400, 500, 500] {
            assert!(backoff.next_pause() <= Duration::from_millis(bound));
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(100));
    }
}

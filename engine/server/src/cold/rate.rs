//! How many things a second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A rate is measured over at least so long.
const RATE_OVER_MIN: Duration = Duration::from_secs(1);

/// Things a second, from one asking to the next that comes a second or more behind it; the first time since the start.
#[derive(Debug)]
pub struct Rate(Mutex<(Instant, u64, f64)>);

impl Rate {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new((now, 0, 0.0)))
    }

    /// Takes the count of this moment.
    pub fn of(&self, count: u64, now: Instant) -> f64 {
        let mut mark = self.0.lock();
        let over = now.saturating_duration_since(mark.0);
        if over >= RATE_OVER_MIN {
            *mark = (now, count, count.saturating_sub(mark.1) as f64 / over.as_secs_f64());
        }
        mark.2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_time_since_it_was_asked_for() {
        let start = Instant::now();
        let rate = Rate::new(start);
        assert_eq!(rate.of(50, start + Duration::from_millis(500)), 0.0);
        assert_eq!(rate.of(100, start + Duration::from_secs(1)), 100.0);
        // Too soon: what was last measured.
        assert_eq!(rate.of(900, start + Duration::from_millis(1500)), 100.0);
        assert_eq!(rate.of(1100, start + Duration::from_secs(3)), 500.0);
    }
}

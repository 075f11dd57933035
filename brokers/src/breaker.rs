//! When a broker counts as out of reach, so that who needs it is refused at once instead of waiting.
//!
//! Closed: all is well. Open: nothing was acknowledged for a while though something was due, or failures came one
//! after the other. Half-open, after a pause that doubles with full jitter: tries are let through; the first
//! acknowledgement closes, further silence opens again. It only informs: the publisher tries on whatever it says.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// When to open and how long to pause.
#[derive(Clone, Copy, Debug)]
pub struct BreakerConfig {
    /// Failures in a row.
    pub failures: u32,
    /// Silence while something is due.
    pub stall: Duration,
    /// First pause.
    pub pause: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 5, stall: Duration::from_secs(3), pause: Duration::from_secs(1) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { since: Instant },
}

/// The breaker of one broker.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    failures: u32,
    /// Since when something is due without an acknowledgement.
    silent_since: Option<Instant>,
    backoff: Backoff,
}

impl Breaker {
    /// Open until the broker has answered once.
    pub fn new(config: BreakerConfig, now: Instant) -> Self {
        let backoff = Backoff::new(config.pause, config.pause.max(Duration::from_secs(30)));
        Self { config, state: State::Open { until: now }, failures: 0, silent_since: None, backoff }
    }

    /// The broker has answered or acknowledged.
    pub fn succeed(&mut self) {
        self.state = State::Closed;
        self.failures = 0;
        self.silent_since = None;
        self.backoff.reset();
    }

    /// A try has failed.
    pub fn fail(&mut self, now: Instant) {
        self.failures += 1;
        if self.failures >= self.config.failures || !matches!(self.state, State::Closed) {
            self.open(now);
        }
    }

    /// Time passes, with so many messages due.
    pub fn tick(&mut self, in_flight: usize, now: Instant) {
        if in_flight == 0 {
            self.silent_since = None;
        } else {
            let since = *self.silent_since.get_or_insert(now);
            if self.state == State::Closed && now.duration_since(since) >= self.config.stall {
                self.open(now);
            }
        }
        match self.state {
            State::Open { until } if now >= until => self.state = State::HalfOpen { since: now },
            State::HalfOpen { since } if now.duration_since(since) >= self.config.stall => self.open(now),
            _ => {}
        }
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Open { until: now + self.backoff.next_pause() };
    }

    /// Whether who needs the broker is to be refused.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether tries are let through.
    pub fn is_half_open(&self) -> bool {
        matches!(self.state, State::HalfOpen { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_opens_a_pause_half_opens_and_an_answer_closes() {
        let (config, start) = (BreakerConfig::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(config, start);
        breaker.succeed();
        breaker.tick(5, at(0));
        breaker.tick(5, at(2));
        assert!(!breaker.is_open());
        breaker.tick(5, at(3));
        assert!(breaker.is_open());
        breaker.tick(5, at(5));
        assert!(breaker.is_half_open() && !breaker.is_open());
        breaker.tick(5, at(9));
        assert!(breaker.is_open());
        breaker.succeed();
        assert!(!breaker.is_open() && !breaker.is_half_open());
    }

    #[test]
    fn nothing_due_is_no_silence() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default(), start);
        breaker.succeed();
        for second in 0..100 {
            breaker.tick(0, start + Duration::from_secs(second));
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn failures_in_a_row_open() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default(), start);
        breaker.succeed();
        for _ in 0..4 {
            breaker.fail(start);
        }
        assert!(!breaker.is_open());
        breaker.fail(start);
        assert!(breaker.is_open());
    }
}

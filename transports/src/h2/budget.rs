//! Abuse budgets: a bucket that is full at first and refills with time.

use super::limits::Budget;

/// What is left of a [`Budget`]. Counted in thousandths, so that a millisecond's refill is a whole number.
pub(super) struct Bucket {
    left: u64,
    refilled_ms: u64,
}

impl Bucket {
    pub(super) fn new(budget: Budget) -> Self {
        Bucket { left: u64::from(budget.burst) * 1000, refilled_ms: 0 }
    }

    /// Takes `amount` out; false when the budget does not hold that much. Time that goes back refills
    /// nothing.
    pub(super) fn spend(&mut self, amount: u32, budget: Budget, now_ms: u64) -> bool {
        let amount = u64::from(amount) * 1000;
        // While there is enough the clock need not be asked: the refill is made up for later.
        if self.left < amount {
            self.refill(budget, now_ms);
        }
        match self.left.checked_sub(amount) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.left = 0;
                false
            }
        }
    }

    /// Puts `amount` back, up to the burst.
    pub(super) fn earn(&mut self, amount: u64, budget: Budget) {
        let full = u64::from(budget.burst) * 1000;
        self.left = self.left.saturating_add(amount.saturating_mul(1000)).min(full);
    }

    fn refill(&mut self, budget: Budget, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        self.refilled_ms = self.refilled_ms.max(now_ms);
        let full = u64::from(budget.burst) * 1000;
        let refill = elapsed_ms.saturating_mul(u64::from(budget.per_second));
        self.left = self.left.saturating_add(refill).min(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { burst: 10, per_second: 2 };

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::new(BUDGET);
        for _ in 0..10 {
            assert!(bucket.spend(1, BUDGET, 0));
        }
        assert!(!bucket.spend(1, BUDGET, 0));
        assert!(!bucket.spend(1, BUDGET, 499));
        assert!(bucket.spend(1, BUDGET, 1_000));
    }

    #[test]
    fn refill_stops_at_the_burst() {
        let mut bucket = Bucket::new(BUDGET);
        for _ in 0..10 {
            assert!(bucket.spend(1, BUDGET, 0));
        }
        for _ in 0..10 {
            assert!(bucket.spend(1, BUDGET, 1_000_000));
        }
        assert!(!bucket.spend(1, BUDGET, 1_000_000));
    }

    #[test]
    fn time_that_goes_back_refills_nothing() {
        let mut bucket = Bucket::new(BUDGET);
        assert!(!bucket.spend(11, BUDGET, 10_000));
        assert!(!bucket.spend(1, BUDGET, 5_000));
        assert!(!bucket.spend(1, BUDGET, 10_000));
        assert!(bucket.spend(1, BUDGET, 10_500));
    }
}

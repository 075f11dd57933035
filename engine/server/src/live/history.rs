//! The samples of the last hour: of the last five minutes every one, of the time before one of ten.

use std::collections::VecDeque;

use bytes::Bytes;

/// Latest samples that are kept, each: five minutes.
const FINE_MAX: usize = 300;
/// Of older ones, one of so many is kept.
const COARSE_EVERY: u64 = 10;
/// Older ones that are kept: 55 minutes.
const COARSE_MAX: usize = 330;
/// What is kept goes back so far.
pub const HISTORY_SECONDS: u64 = FINE_MAX as u64 + COARSE_MAX as u64 * COARSE_EVERY;

/// Samples as they are sent, with their numbers, from 1 on.
#[derive(Debug, Default)]
pub struct History {
    /// One of [`COARSE_EVERY`], oldest first.
    coarse: VecDeque<(u64, Bytes)>,
    /// Those after that, all of them.
    fine: VecDeque<(u64, Bytes)>,
    last: u64,
}

impl History {
    /// Keeps the next sample, and of those before it as many as there is room for.
    pub fn push(&mut self, sample: Bytes) {
        self.last += 1;
        if self.fine.len() >= FINE_MAX
            && let Some(old) = self.fine.pop_front()
            && old.0.is_multiple_of(COARSE_EVERY)
        {
            if self.coarse.len() >= COARSE_MAX {
                self.coarse.pop_front();
            }
            self.coarse.push_back(old);
        }
        self.fine.push_back((self.last, sample));
    }

    /// The number of the newest sample; 0: there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// What is kept, oldest first.
    pub fn samples(&self) -> impl Iterator<Item = &(u64, Bytes)> {
        self.coarse.iter().chain(&self.fine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut history = History::default();
        for _ in 0..2 * HISTORY_SECONDS {
            history.push(Bytes::new());
        }
        let numbers: Vec<u64> = history.samples().map(|(number, _)| *number).collect();
        assert_eq!((HISTORY_SECONDS, numbers.len()), (3600, 630));
        assert_eq!((numbers[0], history.last()), (HISTORY_SECONDS + COARSE_EVERY, 2 * HISTORY_SECONDS));
        assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] <= COARSE_EVERY));
    }
}

//! Requests that bring messages or events in, by what became of them.

use std::collections::BTreeMap;

use serde::Serialize;
use transports::{Endpoint, STATUSES};

use crate::cold::{House, hot_requests, short_pattern};

/// Running counts of requests, over all ports and both lanes. What was cut short is in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Answered with what was asked for.
    pub taken: u64,
    /// The server could not: queue full, a level that cannot be had, an error or a timeout of ours.
    pub unavailable: u64,
    /// No key, or a wrong one.
    pub unauthorized: u64,
    /// The id of another message.
    pub conflict: u64,
    /// Malformed, too large, or not served at all.
    pub invalid: u64,
}

impl Requests {
    /// What all requests of this process came to so far.
    pub fn of(house: &House) -> Self {
        let mut requests = Self::default();
        for (_, endpoint, outcome, durations) in hot_requests(house) {
            if endpoint.brings_messages() {
                requests.note(endpoint.is_grpc(), outcome, durations.count());
            }
        }
        let intake = Endpoint::all().filter(|endpoint| endpoint.brings_messages() && !endpoint.is_grpc());
        let patterns: Vec<&str> = intake.map(|endpoint| short_pattern(endpoint.row().path)).collect();
        // What of the events' routes is not plain, and what the older systems answered in words of their own.
        for (key, durations) in house.cold.all() {
            if key.method == "POST" && patterns.contains(&key.endpoint.as_str()) {
                requests.note_status(key.status, durations.count());
            }
        }
        requests
    }

    fn note(&mut self, is_grpc: bool, outcome: usize, count: u64) {
        if !is_grpc {
            return self.note_status(STATUSES[outcome.min(STATUSES.len() - 1)], count);
        }
        // Codes by number: google.golang.org/grpc/codes.
        *match outcome {
            0 => &mut self.taken,
            // CANCELLED is the caller's own doing.
            1 => return,
            // A full queue is RESOURCE_EXHAUSTED here: it is no quota of the caller's.
            2 | 4 | 8 | 13 | 14 | 15 => &mut self.unavailable,
            6 | 10 => &mut self.conflict,
            7 | 16 => &mut self.unauthorized,
            _ => &mut self.invalid,
        } += count;
    }

    fn note_status(&mut self, status: u16, count: u64) {
        *match status {
            200..=299 => &mut self.taken,
            // RESOURCE_EXHAUSTED as HTTP: the queue is full. There are no quotas of callers.
            429 | 500 | 502..=599 => &mut self.unavailable,
            401 | 403 => &mut self.unauthorized,
            409 => &mut self.conflict,
            _ => &mut self.invalid,
        } += count;
    }

    /// The kinds of refusal with their counts, as they are drawn.
    pub fn by_kind(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([
            ("unavailable", self.unavailable),
            ("unauthorized", self.unauthorized),
            ("conflict", self.conflict),
            ("invalid", self.invalid),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_servers_or_the_callers() {
        let mut requests = Requests::default();
        for status in [200, 202, 503, 504, 500, 429, 401, 409, 400, 413, 501] {
            requests.note_status(status, 1);
        }
        for code in [0, 1, 8, 14, 3, 6, 16] {
            requests.note(true, code, 1);
        }
        let expected = Requests { taken: 3, unavailable: 6, unauthorized: 2, conflict: 2, invalid: 4 };
        assert_eq!(requests, expected);
        assert_eq!(requests.by_kind().values().sum::<u64>(), 14);
    }
}

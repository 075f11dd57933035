//! Requests that bring messages or events in, by what became of them.

use std::collections::BTreeMap;

use serde::Serialize;
use tonic::Code;
use transports::{Endpoint, STATUSES};

use crate::{
    cold::{House, hot_requests, short_pattern},
    logging::Kind,
};

/// Running counts of requests, over all ports and both lanes. What was cut short is in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Answered with what was asked for.
    pub taken: u64,
    /// The server could not: queue full, a level that cannot be had, an error or a timeout of ours.
    pub unavailable: u64,
    /// Accepted, and then given up, or refused for ever where its messages go: they are dead letters. Of gRPC, these are
    /// among `invalid`: FAILED_PRECONDITION is also the answer to a level that these settings never have.
    pub rejected: u64,
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
            // `transports::answer`: no other answer has it.
            422 => &mut self.rejected,
            _ => &mut self.invalid,
        } += count;
    }

    /// The kinds of refusal with their counts, as they are drawn.
    pub fn by_kind(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([
            ("unavailable", self.unavailable),
            ("rejected", self.rejected),
            ("unauthorized", self.unauthorized),
            ("conflict", self.conflict),
            ("invalid", self.invalid),
        ])
    }
}

/// Notes among the latest errors what was turned away since it was last asked.
#[derive(Debug, Default)]
pub struct Noted(BTreeMap<(&'static str, String), u64>);

impl Noted {
    /// Looks at the counts; `unavailable` says why the server could not, if that is known.
    pub fn look(&mut self, house: &House, unavailable: Option<&str>) {
        let mut now: BTreeMap<(&'static str, String), u64> = BTreeMap::new();
        for (_, endpoint, outcome, durations) in hot_requests(house) {
            let answer = if endpoint.is_grpc() {
                let code = i32::try_from(outcome).map_or(Code::Unknown, Code::from_i32);
                // CANCELLED is the caller's own doing.
                if matches!(code, Code::Ok | Code::Cancelled) {
                    continue;
                }
                format!("{code:?}")
            } else {
                let status = STATUSES[outcome.min(STATUSES.len() - 1)];
                if status < 400 {
                    continue;
                }
                status.to_string()
            };
            *now.entry((endpoint.row().path, answer)).or_default() += durations.count();
        }
        for (key, durations) in house.cold.all() {
            if key.status < 400 || key.endpoint == "unmatched" {
                continue;
            }
            // Patterns are few, and those of routes that take messages in have their row.
            let row = Endpoint::all().map(|endpoint| endpoint.row().path);
            let Some(path) = row.into_iter().find(|path| short_pattern(path) == key.endpoint) else {
                continue;
            };
            *now.entry((path, key.status.to_string())).or_default() += durations.count();
        }
        for ((path, answer), count) in &now {
            let before = self.0.get(&(*path, answer.clone())).copied().unwrap_or(0);
            if *count > before {
                let reason = reason(answer, unavailable);
                let text = format!("{path} answered {answer}");
                house.latest.note(Kind::Refusal, &text, reason, count - before);
            }
        }
        self.0 = now;
    }
}

/// What an answer means, in so far as the answer alone says it.
fn reason<'a>(answer: &str, unavailable: Option<&'a str>) -> Option<&'a str> {
    Some(match answer {
        "400" | "InvalidArgument" => "malformed, or a level that these settings never have",
        "401" | "Unauthenticated" => "no key, or a wrong one",
        "405" => "another method than the route has",
        "409" | "AlreadyExists" => "the id of another message",
        "411" => "a body without a length",
        "413" => "larger than limits.http_body_bytes_max",
        "415" => "another content type than the route has",
        "422" => "accepted, and then refused for ever where it goes: see the dead letters",
        "FailedPrecondition" => "refused for ever where it goes, or a level that these settings never have",
        "503" | "429" | "Unavailable" | "ResourceExhausted" => return unavailable,
        "504" | "DeadlineExceeded" => return unavailable.or(Some("not settled in time (ack.timeout)")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_servers_or_the_callers() {
        let mut requests = Requests::default();
        for status in [200, 202, 503, 504, 500, 429, 401, 409, 422, 400, 413, 501] {
            requests.note_status(status, 1);
        }
        for code in [0, 1, 8, 14, 3, 6, 16] {
            requests.note(true, code, 1);
        }
        let expected =
            Requests { taken: 3, unavailable: 6, rejected: 1, unauthorized: 2, conflict: 2, invalid: 4 };
        assert_eq!(requests, expected);
        assert_eq!(requests.by_kind().values().sum::<u64>(), 15);
    }
}

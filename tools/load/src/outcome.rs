//! What became of the messages of a run.
//!
//! Every message that was sent ends in exactly one count, so `sent` is always the sum of the others. The two that
//! look alike are kept apart: `never_taken` is what the server *said* it did not look at (RFC 9113 §6.8, §8.7), safe
//! to send again; `unanswered` may or may not have been accepted.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Counts of one run, and its latencies.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Messages written to a socket.
    pub sent: u64,
    /// Answered as accepted.
    pub accepted: u64,
    /// Refused for now: 503, 429, RESOURCE_EXHAUSTED, UNAVAILABLE.
    pub refused: u64,
    /// Any other answer: the client or the server has a fault.
    pub failed: u64,
    /// Beyond the server's last GOAWAY, or reset with REFUSED_STREAM.
    pub never_taken: u64,
    /// No answer came before the connection ended.
    pub unanswered: u64,
    /// Connections on which the server announced its end (GOAWAY, `connection: close`).
    pub goodbyes: u64,
    /// Connections that the server closed or that failed.
    pub closed: u64,
    /// What the first answer that was not an acceptance said.
    pub first_trouble: Option<String>,
    /// From the first message to the last answer.
    pub elapsed: Duration,
    /// CPU time of the client's thread in that time.
    pub client_cpu: Duration,
    /// Nanoseconds from the send (open loop: from the intended send) to the answer; a stream counts once.
    pub latency_ns: Histogram<u64>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            sent: 0,
            accepted: 0,
            refused: 0,
            failed: 0,
            never_taken: 0,
            unanswered: 0,
            goodbyes: 0,
            closed: 0,
            first_trouble: None,
            elapsed: Duration::ZERO,
            client_cpu: Duration::ZERO,
            // Two digits hold 1 % and keep the histogram in the cache; the range grows by itself.
            latency_ns: new_histogram(),
        }
    }
}

/// An empty histogram of nanoseconds.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2)
        .unwrap_or_else(|_| unreachable!("constant bounds are valid"))
}

impl Outcome {
    /// Notes an answer that did not accept its message.
    pub(crate) fn trouble(&mut self, what: impl FnOnce() -> String) {
        if self.first_trouble.is_none() {
            self.first_trouble = Some(what());
        }
    }

    /// One message answered with an HTTP status.
    pub(crate) fn http(&mut self, status: u16) {
        match status {
            200 | 202 => self.accepted += 1,
            429 | 503 => {
                self.refused += 1;
                self.trouble(|| format!("HTTP {status}"));
            }
            _ => {
                self.failed += 1;
                self.trouble(|| format!("HTTP {status}"));
            }
        }
    }

    /// `messages` answered together with a gRPC status that is not OK; `None`: no `grpc-status` came.
    pub(crate) fn grpc_refusal(&mut self, status: Option<u8>, http: u16, messages: u64) {
        match status {
            // RESOURCE_EXHAUSTED and UNAVAILABLE.
            Some(8 | 14) => self.refused += messages,
            _ => self.failed += messages,
        }
        self.trouble(|| match status {
            Some(code) => format!("grpc-status {code}"),
            None => format!("HTTP {http} without grpc-status"),
        });
    }

    /// A latency in nanoseconds.
    pub(crate) fn took(&mut self, nanoseconds: u64) {
        self.latency_ns.saturating_record(nanoseconds.max(1));
    }

    /// Adds another run's counts and latencies; the elapsed times add up, too.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.failed += other.failed;
        self.never_taken += other.never_taken;
        self.unanswered += other.unanswered;
        self.goodbyes += other.goodbyes;
        self.closed += other.closed;
        self.elapsed += other.elapsed;
        self.client_cpu += other.client_cpu;
        if self.first_trouble.is_none() {
            self.first_trouble.clone_from(&other.first_trouble);
        }
        // Both histograms have the same bounds.
        let _ = self.latency_ns.add(&other.latency_ns);
    }

    /// Whether every message was accepted.
    pub fn is_clean(&self) -> bool {
        self.accepted == self.sent && self.failed == 0
    }

    /// Whether every message that was sent is in exactly one count.
    pub fn adds_up(&self) -> bool {
        self.sent == self.accepted + self.refused + self.failed + self.never_taken + self.unanswered
    }

    /// Accepted messages per second.
    pub fn per_second(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// For machines.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "sent": self.sent, "accepted": self.accepted, "refused": self.refused, "failed": self.failed,
            "never_taken": self.never_taken, "unanswered": self.unanswered,
            "goodbyes": self.goodbyes, "closed": self.closed, "first_trouble": self.first_trouble,
            "elapsed_s": self.elapsed.as_secs_f64(), "per_second": self.per_second(),
            "client_cpu_s": self.client_cpu.as_secs_f64(),
            "latency_us": {
                "p50": self.quantile_us(0.5), "p99": self.quantile_us(0.99), "p99.9": self.quantile_us(0.999),
                "max": self.latency_ns.max() as f64 / 1e3, "count": self.latency_ns.len(),
            },
        })
    }

    /// A latency quantile in microseconds.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// 12,345 rather than 12345.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration for people: `912 ns`, `84 µs`, `1.25 ms`, `2.10 s`.
pub fn short_time(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..10_000 => format!("{:.1} µs", value / 1e3),
        10_000..1_000_000 => format!("{:.0} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", value / 1e6),
        _ => format!("{:.2} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn times_have_a_fitting_unit() {
        assert_eq!(short_time(912), "912 ns");
        assert_eq!(short_time(1_900), "1.9 µs");
        assert_eq!(short_time(84_000), "84 µs");
        assert_eq!(short_time(1_250_000), "1.25 ms");
        assert_eq!(short_time(2_100_000_000), "2.10 s");
    }

    #[test]
    fn busy_answers_are_refusals_and_others_are_failures() {
        let mut outcome = Outcome { sent: 6, ..Outcome::default() };
        for status in [200, 503, 429, 400] {
            outcome.http(status);
        }
        outcome.grpc_refusal(Some(8), 200, 1);
        outcome.grpc_refusal(None, 200, 1);
        assert_eq!((outcome.accepted, outcome.refused, outcome.failed), (1, 3, 2));
        assert!(outcome.adds_up());
        assert_eq!(outcome.first_trouble.as_deref(), Some("HTTP 503"));
    }
}

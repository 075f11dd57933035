//! What a refusal of a publish judges. One table for the publisher, its tests and `docs/brokers.md`.
//!
//! JetStream answers each NATS message by itself, so a code that judges a message judges one record, or one pack. All else
//! is the stream's, the account's or the server's condition, which passes or is mended, and no record's fault.

/// What a refusal judges, and so what must happen to the records it came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The NATS message. A pack is sent again in halves; a record that is refused alone is a dead letter.
    Message,
    /// The stream or its settings. Every record waits, in order, until that is mended.
    Stream,
    /// The account's or the server's means, or a state that passes. Every record is sent again, in order.
    Server,
}

/// A code, what it judges, and what mends it.
pub(super) struct Row {
    pub(super) code: u64,
    pub(super) verdict: Verdict,
    pub(super) mend: &'static str,
}

const fn row(code: u64, verdict: Verdict, mend: &'static str) -> Row {
    Row { code, verdict, mend }
}

/// `JSStreamStoreFailedErrF`: its description says what it judges.
pub(super) const STORE_FAILED: u64 = 10077;
/// Not a code of JetStream's: nobody listens on the subject (status 503 of NATS).
pub(super) const NO_RESPONDERS: u64 = 503;

/// The codes that a publish of ours can get (nats-server 2.15, `server/errors.json`, `processJetStreamMsg` and
/// `processClusteredInboundMsg`). Those of headers that we do not send (expected sequences, schedules, batches) are not here.
pub(super) const VERDICTS: &[Row] = &[
    row(10054, Verdict::Message, "the stream's max_msg_size is smaller than the message with its headers"),
    row(10097, Verdict::Message, "the message's id and source are headers, of at most 64 KiB together"),
    row(STORE_FAILED, Verdict::Stream, "consume or purge its messages, or raise its max_msgs or max_bytes"),
    row(10060, Verdict::Stream, "another stream has the subject; let the subjects of nats.stream cover it"),
    row(10109, Verdict::Stream, "nothing unseals a stream: delete it, or set nats.stream to another"),
    row(10118, Verdict::Stream, "look at the stream with `nats stream info`"),
    row(10194, Verdict::Stream, "look at the stream with `nats stream info`"),
    row(10169, Verdict::Stream, "it is a stream of counters; set nats.stream to another"),
    row(NO_RESPONDERS, Verdict::Stream, "turn JetStream on, or let the stream's subjects cover nats.subject"),
    row(10002, Verdict::Server, "raise the account's limits of JetStream"),
    row(10023, Verdict::Server, "raise the server's max_file_store or max_memory_store, or free some of it"),
    row(10028, Verdict::Server, "raise the server's max_memory_store"),
    row(10047, Verdict::Server, "raise the server's max_file_store"),
    row(10008, Verdict::Server, "the cluster has no leader at the moment"),
    row(10009, Verdict::Server, "the cluster has another leader"),
    row(10063, Verdict::Server, "the cluster's members disagree at the moment"),
    row(10158, Verdict::Server, "the same message is being stored"),
    row(10167, Verdict::Server, "the stream gets more than it can store"),
    row(10039, Verdict::Server, "turn JetStream on for this account"),
    row(10076, Verdict::Server, "turn JetStream on: nats-server -js"),
];

/// What a refusal judges, and what mends it. A code that is not known judges no message: what cannot be told from a
/// passing state is not buried.
pub(super) fn verdict(code: u64, description: &str) -> (Verdict, &'static str) {
    if code == STORE_FAILED && is_too_large(description) {
        return (Verdict::Message, "the server's file store cannot hold a message of this size");
    }
    let known = VERDICTS.iter().find(|row| row.code == code);
    known.map_or((Verdict::Server, "look at the server's log"), |row| (row.verdict, row.mend))
}

/// `ErrMsgTooLarge` of the store (nats-server `server/store.go`): 2.12 has mended the spelling of 2.11 and before.
fn is_too_large(description: &str) -> bool {
    ["message too large", "message to large"].iter().any(|said| description.contains(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_store_judges_the_stream_unless_it_names_the_message() {
        for full in ["maximum messages exceeded", "maximum bytes exceeded", "no space left on device"] {
            assert_eq!(verdict(STORE_FAILED, full).0, Verdict::Stream, "{full}");
        }
        for large in ["message too large", "message to large"] {
            assert_eq!(verdict(STORE_FAILED, large).0, Verdict::Message, "{large}");
        }
    }

    #[test]
    fn a_code_that_is_not_known_judges_no_message() {
        for code in [0, 10_003, 10_999, u64::MAX] {
            assert_eq!(verdict(code, "").0, Verdict::Server);
        }
    }

    #[test]
    fn the_page_names_every_code_with_what_it_judges() {
        let page = include_str!("../../../docs/brokers.md");
        let (_, page) = page.split_once("## NATS JetStream").expect("the page has a part of JetStream");
        for row in VERDICTS {
            let line = page.lines().find(|line| {
                let cell = line.split('|').nth(1).unwrap_or_default();
                cell.split(',').any(|code| code.trim().trim_matches('`') == row.code.to_string())
            });
            let judges = match row.verdict {
                Verdict::Message => "the message",
                Verdict::Stream => "the stream",
                Verdict::Server => "the server",
            };
            let line = line.unwrap_or_else(|| panic!("{} is not on the page", row.code));
            assert!(line.contains(&format!("| {judges}")), "{line}");
        }
    }
}

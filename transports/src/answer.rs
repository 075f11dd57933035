//! What a hot route answers, before it is put into HTTP/1.1, HTTP/2 or gRPC.

use std::{borrow::Cow, io::Write};

use engine_core::{AckLevel, Outcome, Refused, Rejection};

use crate::{
    grpc::Code,
    message::{write_error, write_json_text},
    message_id::MESSAGE_ID_BYTES,
    terms::AckPolicy,
    waiting::{MessageId, Settled},
};

const INGESTED_START: &[u8] = br#"{"messageId":""#;
const INGESTED_END: &[u8] = br#"","status":"accepted","ack":"queued"}"#;

/// Length of the body of an ingest that is answered at once.
pub(crate) const INGESTED_BYTES: usize = INGESTED_START.len() + MESSAGE_ID_BYTES + INGESTED_END.len();

/// The body of an ingest that is answered at once.
pub(crate) fn ingested(id: &[u8; MESSAGE_ID_BYTES]) -> [u8; INGESTED_BYTES] {
    let mut body = [0; INGESTED_BYTES];
    let (start, rest) = body.split_at_mut(INGESTED_START.len());
    let (middle, end) = rest.split_at_mut(MESSAGE_ID_BYTES);
    start.copy_from_slice(INGESTED_START);
    middle.copy_from_slice(id);
    end.copy_from_slice(INGESTED_END);
    body
}

/// What a message that was waited for has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) level: AckLevel,
    /// The shard whose log the offset belongs to.
    pub(crate) shard: usize,
    pub(crate) offset: Option<u64>,
    pub(crate) duplicate: bool,
}

impl Reached {
    /// In the queue of this process, for the first time.
    pub(crate) const QUEUED: Self =
        Self { level: AckLevel::Queued, shard: 0, offset: None, duplicate: false };

    /// Reads the outcome; what is no success says why.
    pub(crate) fn of(settled: &Settled, policy: &AckPolicy) -> Result<Self, Refusal> {
        let shard = settled.shard;
        let refusal = match settled.outcome {
            Some(Outcome::Processed) => {
                return Ok(Self { shard, ..Self::QUEUED });
            }
            Some(Outcome::Stored(receipt)) => {
                let (level, offset) = (receipt.level, receipt.offset());
                let shard = receipt.shard().map_or(shard, |shard| shard as usize);
                return Ok(Self { level, shard, offset, duplicate: receipt.duplicate });
            }
            Some(Outcome::Failed) => Refusal::new(
                422,
                Code::FailedPrecondition,
                "the message was accepted, but the processing step gave it up",
            ),
            Some(Outcome::Rejected(Rejection::Conflict)) => Refusal::new(
                409,
                Code::AlreadyExists,
                "another message with this id was accepted before; nothing was stored",
            ),
            Some(Outcome::Rejected(Rejection::Refused { sides })) => Refusal::new(
                422,
                Code::FailedPrecondition,
                format!(
                    "refused for ever by {}; the message is among the dead letters (tidegate dlq list says why)",
                    policy.names(sides)
                ),
            ),
            Some(Outcome::Rejected(Rejection::Unknown)) => Refusal::new(
                504,
                Code::DeadlineExceeded,
                "unknown: storing it failed half-way, it may still be there after a restart; send it again with the same Idempotency-Key",
            ),
            Some(Outcome::Rejected(Rejection::Far { status, reason })) => far(policy, status, reason),
            None => {
                let levels = [AckLevel::Durable, AckLevel::Delivered];
                let because = levels.into_iter().find_map(|level| policy.gate.reason(level));
                let because = because.map(|reason| format!(" ({reason})")).unwrap_or_default();
                Refusal::new(
                    504,
                    Code::DeadlineExceeded,
                    format!(
                        "unknown: not acknowledged within ack.timeout{because}, it may still be stored; send it again with the same Idempotency-Key"
                    ),
                )
            }
        };
        Err(refusal)
    }
}

/// What the process that a message was sent on to says, in its words.
fn far(policy: &AckPolicy, status: u16, reason: u32) -> Refusal {
    let kept = policy.far.as_ref().and_then(|far| far.reasons.get(reason));
    let named = kept.as_ref().and_then(|reason| reason.code.as_deref());
    let code = named.and_then(|name| Code::ALL.into_iter().find(|code| code.name() == name));
    let code = code.unwrap_or(match status {
        400 => Code::InvalidArgument,
        409 => Code::AlreadyExists,
        413 => Code::ResourceExhausted,
        422 => Code::FailedPrecondition,
        504 => Code::DeadlineExceeded,
        _ => Code::Unavailable,
    });
    match kept {
        Some(reason) => Refusal::new(status, code, reason.text),
        None => Refusal::new(status, code, "the process behind this one turned the message down"),
    }
}

/// Appends the body of an ingest that was waited for.
pub(crate) fn write_stored(out: &mut Vec<u8>, id: &MessageId, reached: &Reached) {
    out.extend_from_slice(br#"{"messageId":"#);
    write_json_text(out, &id.text());
    out.extend_from_slice(br#","status":"accepted","ack":""#);
    out.extend_from_slice(reached.level.name().as_bytes());
    out.push(b'"');
    if let Some(offset) = reached.offset {
        // Writing to a Vec cannot fail.
        let _ = write!(out, r#","shard":{},"offset":{offset}"#, reached.shard);
    }
    if reached.duplicate {
        out.extend_from_slice(br#","duplicate":true"#);
    }
    out.push(b'}');
}

/// A request that is turned down: why, in the words of each protocol.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: u16,
    /// gRPC code; its name is also the `code` of the JSON body.
    pub(crate) code: Code,
    /// What is wrong, where, and what would be right.
    pub(crate) text: Cow<'static, str>,
    /// The methods the path answers, for a 405.
    pub(crate) allow: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, text: text.into(), allow: None }
    }

    /// 405.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let text = format!("Method not allowed: this path answers {allow}");
        Self { allow: Some(allow), ..Self::new(405, Code::Unimplemented, text) }
    }

    /// A body over its limit.
    pub(crate) fn too_large(limit: usize) -> Self {
        let text = format!("the body is larger than limits.http_body_bytes_max = {limit} bytes");
        Self::new(413, Code::ResourceExhausted, text)
    }

    /// Whether it is worth trying again, after this many seconds.
    pub(crate) fn retry_after_seconds(&self) -> Option<u32> {
        (self.status == 503).then_some(1)
    }

    /// The JSON body.
    pub(crate) fn json(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.text.len() + 64);
        write_error(&mut body, &self.text, self.code.name());
        body
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::QueueFull => Self::new(
                503,
                Code::ResourceExhausted,
                "Queue is full: queue.size messages are in flight on this core",
            ),
            Refused::OverBudget => Self::new(
                503,
                Code::ResourceExhausted,
                "Queue is full: queue.bytes_max bytes of large messages are in flight on this core",
            ),
            Refused::Draining => {
                Self::new(503, Code::Unavailable, "Shutting down: nothing more is accepted here")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_never_contains_the_word_error() {
        let body = String::from_utf8(ingested(b"01234567-89ab-7def-8123-456789abcdef").to_vec()).unwrap();
        assert_eq!(
            body,
            r#"{"messageId":"01234567-89ab-7def-8123-456789abcdef","status":"accepted","ack":"queued"}"#
        );
    }

    #[test]
    fn an_answer_that_was_waited_for_says_where_the_message_is() {
        let mut body = Vec::new();
        let reached = Reached { level: AckLevel::Durable, shard: 1, offset: Some(17), duplicate: true };
        write_stored(&mut body, &b"a\"b"[..].into(), &reached);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "messageId": "a\"b", "status": "accepted", "ack": "durable", "shard": 1, "offset": 17, "duplicate": true
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_refusal_quotes_what_it_cites() {
        let refusal = Refusal::new(400, Code::InvalidArgument, "expected `\"` \u{1}");
        let value: serde_json::Value = serde_json::from_slice(&refusal.json()).unwrap();
        assert_eq!(value["error"], "expected `\"` \u{1}");
        assert_eq!(value["code"], "INVALID_ARGUMENT");
    }
}

//! What a hot route answers, before it is put into HTTP/1.1, HTTP/2 or gRPC.

use std::{borrow::Cow, fmt::Write};

use engine_core::Refused;

use crate::{core::ACK_LEVEL, grpc::Code, lane::MessageId, message_id::MESSAGE_ID_BYTES};

const INGESTED_START: &[u8] = br#"{"messageId":""#;
const INGESTED_END: &[u8] = br#"","status":"accepted","ack":"queued"}"#;

/// Length of the body of a successful ingest.
pub(crate) const INGESTED_BYTES: usize = INGESTED_START.len() + MESSAGE_ID_BYTES + INGESTED_END.len();

/// The body of a successful ingest.
pub(crate) fn ingested(id: &MessageId) -> [u8; INGESTED_BYTES] {
    let mut body = [0; INGESTED_BYTES];
    let (start, rest) = body.split_at_mut(INGESTED_START.len());
    let (middle, end) = rest.split_at_mut(MESSAGE_ID_BYTES);
    start.copy_from_slice(INGESTED_START);
    middle.copy_from_slice(id);
    end.copy_from_slice(INGESTED_END);
    body
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

    /// An ack level this queue cannot reach.
    pub(crate) fn unreachable_ack(wanted: &[u8]) -> Self {
        let wanted = String::from_utf8_lossy(wanted);
        let text = match &*wanted {
            "durable" | "delivered" => format!(
                "tidegate-ack: the level `{wanted}` cannot be reached with queue.type = memory; `{ACK_LEVEL}` can"
            ),
            _ => format!("tidegate-ack: there is no level `{wanted}`; give queued, durable or delivered"),
        };
        Self::new(400, Code::FailedPrecondition, text)
    }

    /// Whether it is worth trying again, after this many seconds.
    pub(crate) fn retry_after_seconds(&self) -> Option<u32> {
        (self.status == 503).then_some(1)
    }

    /// The JSON body.
    pub(crate) fn json(&self) -> String {
        let mut text = String::with_capacity(self.text.len() + 64);
        text.push_str(r#"{"status":"error","error":""#);
        for c in self.text.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                c if c.is_control() => {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\\u{:04x}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        // Writing to a String cannot fail.
        let _ = write!(text, r#"","code":"{}"}}"#, self.code.name());
        text
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
    fn a_refusal_quotes_what_it_cites() {
        let refusal = Refusal::new(400, Code::InvalidArgument, "expected `\"` \u{1}");
        let value: serde_json::Value = serde_json::from_str(&refusal.json()).unwrap();
        assert_eq!(value["error"], "expected `\"` \u{1}");
        assert_eq!(value["code"], "INVALID_ARGUMENT");
    }
}

//! What the other process says about a message, and what that means here.

use engine_core::{AckLevel, Outcome, Receipt, Rejection};
use h2::{RecvStream, client::ResponseFuture};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::RemoteStatus;

/// Most of a refusal's body that is read.
const BODY_BYTES_MAX: usize = 16 << 10;

/// What came of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It was answered.
    Answered(Answered),
    /// It was certainly not worked on: the other side said so.
    NotTaken,
    /// The connection broke; it may have been worked on.
    Lost(String),
    /// It was not answered in time.
    Late,
}

/// An answer, as far as it matters.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    receipt: Option<Receipt>,
    /// Of a refusal: its words and the name of its code.
    text: String,
    code: Option<String>,
}

/// Waits for an answer until `deadline`.
pub(super) async fn wait(response: ResponseFuture, deadline: Instant) -> Verdict {
    match tokio::time::timeout_at(deadline, read(response)).await {
        Ok(Ok(answered)) => Verdict::Answered(answered),
        // RFC 9113 §8.7: a refused stream, and one above a GOAWAY's last, was not processed.
        Ok(Err(error)) if is_unprocessed(&error) => Verdict::NotTaken,
        Ok(Err(error)) => Verdict::Lost(error.to_string()),
        Err(_) => Verdict::Late,
    }
}

fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

async fn read(response: ResponseFuture) -> Result<Answered, h2::Error> {
    let (head, body) = response.await?.into_parts();
    if head.status.is_success() {
        // An ingest service says the same in its body; the head is enough, and the rest is let go.
        return Ok(Answered {
            status: head.status,
            receipt: Some(receipt(&head.headers)),
            text: String::new(),
            code: None,
        });
    }
    let body = read_body(body).await?;
    let (text, code) = words(&body);
    Ok(Answered { status: head.status, receipt: None, text, code })
}

async fn read_body(mut stream: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
        if body.len() > BODY_BYTES_MAX {
            break;
        }
    }
    body.truncate(BODY_BYTES_MAX);
    Ok(body)
}

/// What was reached. The older processor says nothing of levels: it has it in its queue.
fn receipt(head: &HeaderMap) -> Receipt {
    let text = |name: &str| head.get(name).and_then(|value| value.to_str().ok());
    let level = text("tidegate-ack").and_then(|name| AckLevel::from_name(name.as_bytes()));
    let offset =
        text("tidegate-offset").and_then(|offset| offset.parse().ok()).filter(|offset| *offset != u64::MAX);
    let mut receipt = Receipt::new(level.unwrap_or_default(), offset);
    if let Some(shard) = text("tidegate-shard").and_then(|shard| shard.parse().ok()) {
        receipt = receipt.in_shard(shard);
    }
    receipt.duplicate = text("tidegate-duplicate") == Some("true");
    receipt
}

/// The words and the code of a refusal: `{"error": …, "code": …}`, or whatever text there is.
fn words(body: &[u8]) -> (String, Option<String>) {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
        code: Option<String>,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => (refusal.error, refusal.code),
        Err(_) => (String::from_utf8_lossy(body).trim().to_owned(), None),
    }
}

impl Answered {
    /// What it means here. `target` and `setting` name who said it; `repeats` says whether a duplicate is the sender's.
    pub(super) fn outcome(
        self,
        target: &str,
        setting: &str,
        status: &RemoteStatus,
        repeats: bool,
    ) -> Outcome {
        if let Some(mut receipt) = self.receipt {
            receipt.duplicate &= repeats;
            return Outcome::Stored(receipt);
        }
        let said = if self.text.is_empty() { self.status.to_string() } else { self.text };
        let (answer, text) = match self.status.as_u16() {
            // The sender's own doing, or for it to try again: the same words to it.
            same @ (400 | 409 | 413 | 422 | 503) => (same, said),
            // A publish failed half-way (the older processor's 500), or it does not know either.
            500 | 502 | 504 => (
                504,
                format!(
                    "unknown: {target} answered {}: {said}; send it again with the same Idempotency-Key",
                    self.status
                ),
            ),
            _ => (
                503,
                format!(
                    "not accepted: {target} answered {} to POST /enqueue: {said} (look at {setting})",
                    self.status
                ),
            ),
        };
        reject(status, answer, &text, self.code.as_deref().filter(|_| answer == self.status.as_u16()))
    }
}

/// A message that was not taken, with the words for it.
pub(super) fn reject(status: &RemoteStatus, answer: u16, text: &str, code: Option<&str>) -> Outcome {
    let counter = if answer == 504 { &status.unknown } else { &status.refused };
    counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Outcome::Rejected(Rejection::Far { status: answer, reason: status.reasons.note(text, code) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn an_answer_says_level_shard_offset_and_whether_it_is_a_repeat() {
        let found = receipt(&head(&[
            ("tidegate-ack", "durable"),
            ("tidegate-shard", "3"),
            ("tidegate-offset", "17"),
            ("tidegate-duplicate", "true"),
        ]));
        assert_eq!(
            (found.level, found.shard(), found.offset(), found.duplicate),
            (AckLevel::Durable, Some(3), Some(17), true)
        );
        assert_eq!(receipt(&HeaderMap::new()), Receipt::new(AckLevel::Queued, None));
    }

    #[test]
    fn refusals_keep_their_words_and_what_is_not_understood_names_the_setting() {
        let status = RemoteStatus::default();
        let outcome = |code: u16, text: &str| {
            let (text, name) = words(text.as_bytes());
            let status_code = StatusCode::from_u16(code).unwrap();
            let answered = Answered { status: status_code, receipt: None, text, code: name };
            let Outcome::Rejected(Rejection::Far { status: answer, reason }) =
                answered.outcome("http://far", "remote.processor_url", &status, false)
            else {
                panic!("not a rejection")
            };
            (answer, status.reasons.get(reason).unwrap())
        };
        let (answer, reason) =
            outcome(503, r#"{"status":"error","error":"Queue is full","code":"RESOURCE_EXHAUSTED"}"#);
        assert_eq!(
            (answer, reason.text.as_str(), reason.code.as_deref()),
            (503, "Queue is full", Some("RESOURCE_EXHAUSTED"))
        );
        let (answer, reason) = outcome(400, "Invalid request body\n");
        assert_eq!((answer, reason.text.as_str(), reason.code), (400, "Invalid request body", None));
        let (answer, reason) = outcome(404, "404 page not found");
        assert!(answer == 503 && reason.text.contains("remote.processor_url"), "{reason:?}");
        let (answer, reason) = outcome(500, "Failed to enqueue message");
        assert!(answer == 504 && reason.text.starts_with("unknown"), "{reason:?}");
    }
}

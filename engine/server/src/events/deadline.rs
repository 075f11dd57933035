//! `Grpc-Timeout`: how long a caller waits, over REST. grpc-gateway takes the field under this name, in the form that gRPC
//! itself gives it (its PROTOCOL-HTTP2.md, "Timeout").

use std::time::Duration;

use axum::response::Response;
use futures_util::stream;
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use transports::grpc::parse_timeout;

use super::rest_answer::refuse;

/// The field's name.
pub(super) const FIELD: &str = "Grpc-Timeout";
/// For a caller that waits for as long as it takes.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// When the caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// Reads it; `INVALID_ARGUMENT` when it has another form.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let timeout = match headers.get(FIELD) {
            None => NEVER,
            // The largest is eleven thousand years.
            Some(value) => {
                parse_timeout(value.as_bytes()).map(|timeout| timeout.min(NEVER)).map_err(|_| {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    let text = format!(
                        "{FIELD}: expected one to eight digits and one of H, M, S, m, u, n, not `{value}`"
                    );
                    Status::invalid_argument(text)
                })?
            }
        };
        Ok(Self(Instant::now() + timeout))
    }

    /// An answer that comes at the deadline at the latest.
    pub(super) async fn answer(self, work: impl Future<Output = Response>) -> Response {
        // The timer counts milliseconds: within the first one, the work may be done.
        if self.0 <= Instant::now() {
            return refuse(&exceeded());
        }
        timeout_at(self.0, work).await.unwrap_or_else(|_| refuse(&exceeded()))
    }

    /// The items up to the deadline, which is told as an error.
    pub(super) fn items<T>(
        self,
        items: impl Stream<Item = Result<T, Status>>,
    ) -> impl Stream<Item = Result<T, Status>> {
        stream::unfold(Some(Box::pin(items)), move |items| async move {
            let mut items = items?;
            match timeout_at(self.0, items.next()).await {
                Ok(item) => item.map(|item| (item, Some(items))),
                Err(_) => Some((Err(exceeded()), None)),
            }
        })
    }
}

fn exceeded() -> Status {
    Status::deadline_exceeded(format!(
        "{FIELD} is over; what was sent may still be stored: send it again with the same id"
    ))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn deadline(value: &'static str) -> Result<Deadline, Status> {
        Deadline::read(&[(FIELD.parse().unwrap(), value.parse().unwrap())].into_iter().collect())
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_error_of_its_deadline() {
        let items = tokio_stream::iter([Ok(1), Ok(2)]).chain(stream::pending());
        let told: Vec<_> = deadline("20m").unwrap().items(items).collect().await;
        assert_eq!((told.len(), told[1].as_ref().unwrap()), (3, &2));
        assert_eq!(told[2].as_ref().unwrap_err().code(), Code::DeadlineExceeded);
        let ended: Vec<_> = deadline("99999999H").unwrap().items(tokio_stream::iter([Ok(1)])).collect().await;
        assert_eq!(ended.len(), 1);
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_a_504() {
        assert_eq!(deadline("1m").unwrap().answer(std::future::pending()).await.status(), 504);
        let done = std::future::ready(Response::default());
        assert_eq!(deadline("0S").unwrap().answer(done).await.status(), 504);
        let status = deadline("1s").unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("`1s`"), "{status}");
    }
}

//! What is served over a connection: the calls that its state machine makes.

use super::error::{ErrorCode, Reset};
use super::head::RequestHead;
use super::hpack::Fields;
use super::replies::Replies;
use super::stream_id::StreamId;

/// What is served over a connection: the callbacks of [`Connection`](super::Connection).
///
/// Only well-formed requests get here. For each, [`open`](Application::open) comes first, and the stream it
/// returns is handed to every later call until [`closed`](Application::closed) or
/// [`reset`](Application::reset) takes it back.
pub trait Application {
    /// What a request head comes to: a route, a caller, a timeout.
    type Head;
    /// What the application keeps for an open stream.
    type Stream;

    /// Looks at a request head. The result is kept beside the encoded head and used again when the same bytes
    /// come again, so it must be a pure function of the head: what may change meanwhile (is this key still
    /// valid, is there room) belongs in [`open`](Application::open).
    fn classify(&mut self, head: &RequestHead<'_>) -> Self::Head;

    /// A request begins. With `end_stream` it is complete and no further call brings a part of it.
    fn open(
        &mut self,
        id: StreamId,
        head: &Self::Head,
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Self::Stream;

    /// A part of the body. `data` is empty only together with `end_stream`.
    fn data(
        &mut self,
        id: StreamId,
        stream: &mut Self::Stream,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Credit;

    /// The request's trailers, which end it.
    fn trailers(
        &mut self,
        id: StreamId,
        stream: &mut Self::Stream,
        fields: Fields<'_>,
        replies: &mut Replies<'_>,
    );

    /// The stream was reset: by the client, for a broken rule, or because the connection is gone. Nothing can be
    /// sent on it any more. The result says whether it still counts as open, see [`Work`].
    fn reset(&mut self, id: StreamId, stream: Self::Stream, why: Reset) -> Work;

    /// The stream ended: request and response are complete, or the application reset it itself.
    fn closed(&mut self, _id: StreamId, _stream: Self::Stream) {}

    /// A response that [`Replies::data`] did not take whole can go on.
    fn writable(&mut self, _id: StreamId, _stream: &mut Self::Stream, _replies: &mut Replies<'_>) {}

    /// A request that never got to [`open`](Application::open): malformed, too large, one too many. For
    /// counting.
    fn refused(&mut self, _id: StreamId, _code: ErrorCode, _reason: &'static str) {}
}

/// What becomes of the window that a part of a body took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Credit {
    /// The bytes are done with.
    Now,
    /// The application keeps them and will call [`Replies::credit`].
    Later,
}

/// What a reset leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Work {
    /// Nothing: another stream may take its place.
    Ended,
    /// Work that cannot be called back. The stream counts as open until [`Connection::work_ended`](super::Connection::work_ended), so a client
    /// that resets as fast as it asks (CVE-2023-44487) gets no more work done at once than any other.
    Remains,
}

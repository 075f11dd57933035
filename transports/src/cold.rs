//! The bridge to the cold lane: what is not a hot route crosses a channel as an `http::Request` and comes back as
//! events of one stream.
//!
//! A core never waits for the cold lane: it offers the call (a full channel is answered 503 at once) and goes on.
//! What comes back is bounded per stream by a credit of [`ANSWER_BYTES_MAX`] bytes that the front end returns as it
//! sends them on, and the body that goes over is bounded by the receive window that is returned as the cold lane
//! takes it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::listener::Role;

/// Bytes of an answer's body that may be on their way from the cold lane to the client, per stream.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Largest piece of an answer's body in one event.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// Where a request came in; an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The port's role.
    pub role: Role,
    /// The client.
    pub peer: SocketAddr,
}

/// A request for the cold lane.
#[derive(Debug)]
pub struct ColdCall {
    /// The request; [`Arrival`] is among its extensions.
    pub request: Request<ColdBody>,
    /// Where the answer goes.
    pub answer: ColdAnswer,
}

/// The front ends' end of the bridge.
pub type ColdSender = mpsc::Sender<ColdCall>;
/// The cold lane's end of the bridge.
pub type ColdReceiver = mpsc::Receiver<ColdCall>;

/// The bridge: at most `calls_max` requests wait in it.
pub fn bridge(calls_max: usize) -> (ColdSender, ColdReceiver) {
    mpsc::channel(calls_max)
}

/// What the cold lane says of one stream.
#[derive(Debug)]
pub(crate) enum ColdEvent {
    /// The answer begins, and perhaps ends with that.
    Head(Box<response::Parts>, bool),
    /// A piece of its body.
    Data(Bytes),
    /// It ends, perhaps with trailers.
    End(Option<HeaderMap>),
    /// It cannot be answered, or broke off.
    Failed,
    /// This many bytes of the request's body were taken.
    Taken(usize),
}

/// Events of all cold streams of one connection. Unbounded as a channel, bounded by the streams' credits.
pub(crate) type ColdEvents = mpsc::UnboundedReceiver<(u32, ColdEvent)>;
/// The sending side of [`ColdEvents`].
pub(crate) type ColdEventSender = mpsc::UnboundedSender<(u32, ColdEvent)>;

/// The connection's hold on a call under way; dropping it cancels the call.
#[derive(Debug)]
pub(crate) struct ColdHold {
    credit: Arc<Semaphore>,
    _cancel: oneshot::Sender<()>,
}

impl ColdHold {
    /// Lets the cold lane send `bytes` more.
    pub(crate) fn sent(&self, bytes: usize) {
        self.credit.add_permits(bytes);
    }
}

impl Drop for ColdHold {
    fn drop(&mut self) {
        // Whoever waits for credit learns that none will come.
        self.credit.close();
    }
}

/// The client has gone, or reset the stream: nobody waits for the answer any more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client no longer waits for this answer")]
pub struct Abandoned;

/// Where the answer of one call goes.
#[derive(Debug)]
pub struct ColdAnswer {
    stream: u32,
    events: ColdEventSender,
    credit: Arc<Semaphore>,
    cancelled: Option<oneshot::Receiver<()>>,
}

impl ColdAnswer {
    /// The answer's channel and the connection's hold on the call.
    pub(crate) fn new(stream: u32, events: ColdEventSender) -> (Self, ColdHold) {
        let credit = Arc::new(Semaphore::new(ANSWER_BYTES_MAX));
        let (cancel, cancelled) = oneshot::channel();
        let hold = ColdHold { credit: Arc::clone(&credit), _cancel: cancel };
        (Self { stream, events, credit, cancelled: Some(cancelled) }, hold)
    }

    fn event(&self, event: ColdEvent) -> Result<(), Abandoned> {
        self.events.send((self.stream, event)).map_err(|_| Abandoned)
    }

    /// Resolves when nobody waits for the answer any more; to be asked for once.
    pub fn abandoned(&mut self) -> impl Future<Output = ()> + use<> {
        let cancelled = self.cancelled.take();
        async move {
            match cancelled {
                // The sender is only ever dropped.
                Some(cancelled) => drop(cancelled.await),
                None => std::future::pending().await,
            }
        }
    }

    /// Begins the answer; with `ends` that is all of it, and neither body nor trailers follow.
    ///
    /// # Errors
    /// [`Abandoned`], here and below, when the connection is gone.
    pub fn head(&self, parts: response::Parts, ends: bool) -> Result<(), Abandoned> {
        self.event(ColdEvent::Head(Box::new(parts), ends))
    }

    /// Sends a piece of the body; waits while [`ANSWER_BYTES_MAX`] bytes are on their way.
    ///
    /// # Errors
    /// See [`ColdAnswer::head`].
    pub async fn data(&self, mut bytes: Bytes) -> Result<(), Abandoned> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
            let length = u32::try_from(piece.len()).map_err(|_| Abandoned)?;
            self.credit.acquire_many(length).await.map_err(|_| Abandoned)?.forget();
            self.event(ColdEvent::Data(piece))?;
        }
        Ok(())
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// See [`ColdAnswer::head`].
    pub fn end(&self, trailers: Option<HeaderMap>) -> Result<(), Abandoned> {
        self.event(ColdEvent::End(trailers))
    }

    /// Breaks the answer off.
    pub fn failed(&self) {
        // Nobody left to tell is as good as told.
        let _ = self.event(ColdEvent::Failed);
    }
}

/// The body of a request on its way to the cold lane.
#[derive(Debug)]
pub struct ColdBody(Source);

#[derive(Debug)]
enum Source {
    Whole(Option<Bytes>),
    Pieces { pieces: mpsc::UnboundedReceiver<Piece>, ended: bool, stream: u32, events: ColdEventSender },
}

/// A part of a streamed request body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Some bytes.
    Data(Bytes),
    /// The end, as the client meant it; a channel that closes without it is a reset.
    End,
}

/// The front end's end of a streamed request body; bounded by the stream's receive window.
pub(crate) type PieceSender = mpsc::UnboundedSender<Piece>;

impl ColdBody {
    /// A body that has arrived whole.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self(Source::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    /// A body that arrives in pieces; what is taken of it is reported as [`ColdEvent::Taken`].
    pub(crate) fn pieces(stream: u32, events: ColdEventSender) -> (PieceSender, Self) {
        let (sender, pieces) = mpsc::unbounded_channel();
        (sender, Self(Source::Pieces { pieces, ended: false, stream, events }))
    }
}

impl Body for ColdBody {
    type Data = Bytes;
    type Error = Abandoned;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Abandoned>>> {
        match &mut self.get_mut().0 {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Pieces { ended: true, .. } => Poll::Ready(None),
            Source::Pieces { pieces, ended, stream, events } => match pieces.poll_recv(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Piece::Data(bytes))) => {
                    // A connection that is gone needs no credit.
                    let _ = events.send((*stream, ColdEvent::Taken(bytes.len())));
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Poll::Ready(Some(Piece::End)) => {
                    *ended = true;
                    Poll::Ready(None)
                }
                Poll::Ready(None) => Poll::Ready(Some(Err(Abandoned))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Source::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Pieces { .. } => SizeHint::default(),
        }
    }
}

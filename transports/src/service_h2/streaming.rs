//! A client stream of a hot route: taken message by message, and not credited while the queue is full.

use std::rc::Rc;

use super::{Call, Service, Stream};
use crate::{
    counters,
    grpc::{Deframer, PREFIX_BYTES, Take},
    grpc_answer::Failure,
    h2::{Credit, Replies, StreamId},
    ingest::{self, Streamed},
    message::encode_ingest_response,
};

/// A client stream under way.
pub(crate) struct Streaming {
    pub(super) call: Call,
    pub(super) deframer: Deframer,
    pub(super) accepted: u64,
    /// Of these, those of which it is not known yet what became of them.
    pub(super) waiting: u64,
    /// Input that waits for room in the queue; its window is withheld.
    pub(super) rest: Vec<u8>,
    /// Bytes of window that are withheld.
    pub(super) withheld: usize,
    pub(super) stalled: bool,
    pub(super) ended: bool,
    /// Bytes of the core's room for messages in pieces.
    pub(super) counted: usize,
}

impl Streaming {
    /// Whether all of it has arrived and it is known what became of it.
    pub(super) fn is_complete(&self) -> bool {
        self.ended && self.waiting == 0
    }
}

impl Service {
    /// Takes messages of a client stream from `data`; returns how many bytes were used.
    pub(super) fn take(
        &mut self,
        id: StreamId,
        streaming: &mut Streaming,
        data: &[u8],
    ) -> Result<usize, Failure> {
        let core = Rc::clone(&self.core);
        let (may_take, before) = (self.may_take_room(id), streaming.accepted);
        streaming.call.terms.admit(&core.shared.acks)?;
        let Streaming { deframer, accepted, waiting, call, stalled, .. } = streaming;
        let mut inflater = core.inflater.borrow_mut();
        let mut failure = None;
        *stalled = false;
        let used = deframer.feed(data, |message| {
            if !may_take {
                *stalled = true;
                return Take::Hold;
            }
            let taken = match inflater.plain(message, call.encoding) {
                Ok(plain) => {
                    let caller = || self.caller(id);
                    ingest::ingest_proto_streamed(&core, plain, call.kind, &call.terms, caller)
                        .map_err(Failure::from)
                }
                Err(status) => Err(Failure::from(status)),
            };
            match taken {
                Ok(Streamed::Accepted) => {
                    *accepted += 1;
                    core.answered.note_streamed(counters::StreamKind::Messages, 0, 1);
                    Take::Next
                }
                Ok(Streamed::Waits) => {
                    *accepted += 1;
                    *waiting += 1;
                    Take::Next
                }
                Ok(Streamed::NoRoom) => {
                    *stalled = true;
                    Take::Hold
                }
                Err(refused) => {
                    failure = Some(refused);
                    Take::Stop
                }
            }
        });
        self.had_its_turn(id, streaming.stalled, streaming.accepted > before);
        let accepted = streaming.accepted;
        let counted = self.count_split(&streaming.deframer, &mut streaming.counted);
        let mut failure = match (failure, used, counted) {
            (None, Ok(used), Ok(())) => return Ok(used),
            (Some(failure), ..) => failure,
            (None, Err(error), _) => Failure::from(error),
            (None, Ok(_), Err(refusal)) => Failure::from(refusal),
        };
        failure.status.message =
            format!("message {accepted}: {} ({accepted} before it were accepted)", failure.status.message)
                .into();
        Err(failure)
    }

    /// The end of a client stream that was taken whole.
    pub(super) fn finish(&self, id: StreamId, streaming: &Streaming, replies: &mut Replies<'_>) -> Stream {
        if let Err(error) = streaming.deframer.finish() {
            return self.fail(id, streaming.call.endpoint, error, replies);
        }
        self.note(streaming.call.endpoint, 0);
        let mut answer = vec![0; PREFIX_BYTES];
        encode_ingest_response(&mut answer, &format!("batch-{}", streaming.accepted), "completed");
        answer[4] = u8::try_from(answer.len() - PREFIX_BYTES).unwrap_or_default();
        replies.head(id, &self.core.grpc.heads[streaming.call.terms.level as usize], false);
        let _all = replies.data(id, &answer, false);
        replies.trailers(id, &self.core.grpc.ok);
        Stream::Answered
    }

    /// A part of a client stream. `None`: the stream goes on.
    pub(super) fn stream_in(
        &mut self,
        id: StreamId,
        streaming: &mut Streaming,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> (Credit, Option<Stream>) {
        streaming.ended |= end_stream;
        if streaming.stalled {
            streaming.rest.extend_from_slice(data);
            streaming.withheld += data.len();
            return (Credit::Later, None);
        }
        match self.take(id, streaming, data) {
            Err(failure) => (Credit::Now, Some(self.fail(id, streaming.call.endpoint, failure, replies))),
            Ok(_) if !streaming.stalled => {
                let finished = streaming.is_complete().then(|| self.finish(id, streaming, replies));
                (Credit::Now, finished)
            }
            Ok(used) => {
                streaming.rest.extend_from_slice(&data[used..]);
                streaming.withheld += data.len();
                (Credit::Later, None)
            }
        }
    }

    /// There may be room in the queue again.
    pub(crate) fn resume(&mut self, id: StreamId, stream: &mut Stream, replies: &mut Replies<'_>) {
        if let Stream::Events(_) = stream {
            self.advance(id, stream, replies);
            // It may wait for something else by now.
            if !matches!(stream, Stream::Events(events) if events.wants_room) {
                self.leave_line(id);
            }
            return;
        }
        let Stream::Streaming(streaming) = stream else { return self.leave_line(id) };
        let rest = std::mem::take(&mut streaming.rest);
        let after = match self.take(id, streaming, &rest) {
            Err(failure) => Some(self.fail(id, streaming.call.endpoint, failure, replies)),
            Ok(used) => {
                streaming.rest.extend_from_slice(&rest[used..]);
                (!streaming.stalled && streaming.is_complete()).then(|| self.finish(id, streaming, replies))
            }
        };
        // What waits keeps its window; all else is given back.
        let keep = streaming.rest.len();
        let back = streaming.withheld.saturating_sub(keep);
        streaming.withheld = keep;
        replies.credit(id, back);
        if let Some(after) = after {
            let before = std::mem::replace(stream, after);
            self.forget(id, &before);
        }
    }
}

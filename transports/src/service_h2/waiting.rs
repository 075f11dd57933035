//! What comes to streams that wait: what became of their messages, and the end of their time.

use super::{Service, Stream};
use crate::{
    answer::{Reached, write_stored},
    counters::{StreamKind, status_index},
    grpc::{Code, PREFIX_BYTES, Status},
    grpc_answer::{Failure, fail, push_reached, push_status},
    h2::{Block, Replies, StreamId},
    message::encode_ingest_response,
    routes::{Endpoint, Hot},
    waiting::Settled,
};

impl Service {
    /// It is known what became of a message of this stream.
    pub(crate) fn settle(
        &mut self,
        id: StreamId,
        stream: &mut Stream,
        settled: &Settled,
        replies: &mut Replies<'_>,
    ) {
        let acks = &self.core.shared.acks;
        if let Stream::Events(events) = stream {
            // Answered with all others that were settled in this turn.
            events.settle(settled, &self.core);
            if self.dirty.last() != Some(&id) {
                self.dirty.push(id);
            }
            return;
        }
        if let Stream::Facade { call, answer, .. } = stream {
            *stream = self.settle_facade(id, call, settled, answer, replies);
            return;
        }
        if let Stream::Batch { call, batch } = stream {
            batch.settle(settled, acks);
            let after = batch.is_complete().then(|| self.answer_batch(id, call, batch, replies));
            if let Some(after) = after {
                *stream = after;
            }
            return;
        }
        let reached = Reached::of(settled, acks);
        let after = match (&mut *stream, reached) {
            (Stream::Waiting { event: Some(call), .. }, Ok(reached)) => {
                Some(self.answer_event(id, call, &settled.id, &reached, settled.since_ns, replies))
            }
            (Stream::Waiting { event: Some(call), .. }, Err(refusal)) => {
                Some(self.refuse_event(id, call, &refusal, replies))
            }
            (Stream::Waiting { endpoint, .. }, Ok(reached)) => {
                Some(self.answer_reached(id, *endpoint, settled, &reached, replies))
            }
            (Stream::Waiting { endpoint, .. }, Err(refusal)) if endpoint.is_grpc() => {
                Some(self.fail(id, *endpoint, refusal, replies))
            }
            (Stream::Waiting { endpoint, .. }, Err(refusal)) => {
                Some(self.turn_down(id, *endpoint, &refusal, replies))
            }
            (Stream::Streaming(streaming), Ok(_)) => {
                streaming.waiting -= 1;
                let waited_ns = self.core.clock.now_ns().saturating_sub(settled.since_ns);
                self.core.answered.note_streamed(StreamKind::Messages, waited_ns, 1);
                (!streaming.stalled && streaming.is_complete()).then(|| self.finish(id, streaming, replies))
            }
            (Stream::Streaming(streaming), Err(refusal)) => {
                let endpoint = streaming.call.endpoint;
                let mut failure = Failure::from(refusal);
                let text = &failure.status.message;
                failure.status.message = format!("one of {} messages: {text}", streaming.accepted).into();
                Some(self.fail(id, endpoint, failure, replies))
            }
            _ => None,
        };
        if let Some(after) = after {
            let before = std::mem::replace(stream, after);
            self.forget(id, &before);
        }
    }

    fn answer_reached(
        &self,
        id: StreamId,
        endpoint: Endpoint,
        settled: &Settled,
        reached: &Reached,
        replies: &mut Replies<'_>,
    ) -> Stream {
        let core = &*self.core;
        let mut body = core.body.borrow_mut();
        body.clear();
        match endpoint.row().hot {
            Hot::EnqueueJson => {
                self.note(endpoint, status_index(202));
                let mut block = Block::new(202).field("date", core.date.get());
                push_reached(&mut block, reached);
                replies.head(id, &block, true);
            }
            Hot::GrpcIngest { .. } => {
                self.note(endpoint, 0);
                body.resize(PREFIX_BYTES, 0);
                encode_ingest_response(&mut body, &settled.id.text(), "accepted");
                // A key has at most 255 bytes.
                let length = (body.len() - PREFIX_BYTES) as u32;
                body[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
                let mut block = core.block.borrow_mut();
                core.grpc.write_head(&mut block, reached);
                replies.head(id, &block, false);
                let _all = replies.data(id, &body, false);
                replies.trailers(id, &core.grpc.ok);
            }
            _ => {
                self.note(endpoint, status_index(200));
                write_stored(&mut body, &settled.id, reached);
                let prepared = core.prepared.borrow();
                let mut block = core.block.borrow_mut();
                block.copy_from(&prepared.h2_stored[reached.level as usize]);
                block.push_number(&prepared.content_length, body.len() as u64);
                replies.head(id, &block, false);
                let _all = replies.data(id, &body, true);
            }
        }
        Stream::Answered
    }

    /// It is known what became of a message of a stream that is not open any more. True when the stream was reset
    /// while messages of it were under way and this was the last of them.
    pub(crate) fn settle_abandoned(&mut self, id: StreamId) -> bool {
        let Some(place) = self.abandoned.iter().position(|(abandoned, _)| *abandoned == id) else {
            return false;
        };
        let left = &mut self.abandoned[place].1;
        *left -= 1;
        let is_last = *left == 0;
        if is_last {
            self.abandoned.swap_remove(place);
        }
        is_last
    }

    /// The time of a request is over. What was accepted stays accepted.
    pub(crate) fn expire(&mut self, id: StreamId, stream: &mut Stream, replies: &mut Replies<'_>) {
        if let Stream::Events(events) = stream {
            events.expire(Status::new(Code::DeadlineExceeded, "deadline exceeded"));
            self.leave_line(id);
            return self.advance(id, stream, replies);
        }
        let status = match &*stream {
            Stream::Streaming(streaming) => {
                let text =
                    format!("deadline exceeded; {} messages were accepted before it", streaming.accepted);
                Status::new(Code::DeadlineExceeded, text)
            }
            _ => Status::new(Code::DeadlineExceeded, "deadline exceeded"),
        };
        let after = match &*stream {
            Stream::Answered
            | Stream::Sending { .. }
            | Stream::Events(_)
            | Stream::Json { .. }
            | Stream::ForCold { .. }
            | Stream::Discarding { .. } => {
                return;
            }
            Stream::Unary { call, .. } => self.fail(id, call.endpoint, status, replies),
            Stream::Event { call, .. } | Stream::Batch { call, .. } => {
                self.fail(id, call.endpoint(), status, replies)
            }
            Stream::Facade { call, token, .. } => {
                self.core.lane.borrow_mut().waiting().forget(*token);
                self.fail(id, call.endpoint(), status, replies)
            }
            Stream::Waiting { endpoint, token, .. } => {
                self.core.lane.borrow_mut().waiting().forget(*token);
                self.fail(id, *endpoint, status, replies)
            }
            Stream::Streaming(streaming) => self.fail(id, streaming.call.endpoint, status, replies),
            Stream::Cold(cold) if cold.begun => {
                let mut block = Block::trailers();
                push_status(&mut block, &status, false);
                replies.trailers(id, &block);
                Stream::Answered
            }
            Stream::Cold(_) => {
                fail(id, &status, false, replies);
                Stream::Answered
            }
        };
        let before = std::mem::replace(stream, after);
        self.forget(id, &before);
    }
}

//! Events over HTTP/2, one request at a time: plain ones are taken here, all others are the cold lane's.

use std::rc::Rc;

use bytes::Bytes;

use super::{
    Head, Service, Stream, Then,
    bridge::cold_head,
    event_call::{EventCall, set_length},
    event_stream::EventStream,
    refused_head,
};
use crate::{
    answer::{Reached, Refusal},
    counters::status_index,
    events::{self, Batch, EventHead},
    facade::{self, Taken},
    grpc::{Code, Deframer, Encoding, PREFIX_BYTES, Status, Take, parse_timeout},
    grpc_answer::{is_grpc, push_reached, whole_message},
    h2::{Block, Replies, RequestHead, StreamId},
    lane::Accepted,
    message::{event_of_request, events_of_request, transcode_event, transcode_events, transcode_lines},
    routes::{Endpoint, Hot},
    session_h1::is_lines,
    waiting::{Caller, MessageId, Settled},
};

impl Service {
    /// What the head of an event route comes to.
    pub(super) fn event_head(&self, endpoint: Endpoint, head: &RequestHead<'_>) -> Head {
        let limit = self.core.shared.limits.http_body_bytes_max;
        let cold = match cold_head(head) {
            Ok(cold) => Rc::new(cold),
            Err(error) => {
                let text = format!("the request head: {error}");
                return refused_head(None, Refusal::new(400, Code::InvalidArgument, text), head);
            }
        };
        let field = |name: &str| head.field(name.as_bytes());
        let timeout = field("grpc-timeout").map(parse_timeout).transpose();
        let Ok(timeout) = timeout else { return Head::Cold { head: cold, timeout: None } };
        if !endpoint.is_grpc() && head.content_length().is_some_and(|length| length > limit as u64) {
            return refused_head(Some(endpoint), Refusal::too_large(limit), head);
        }
        // JSON on a gRPC path, or a packed body: unusual.
        let is_plain =
            endpoint.is_grpc() == is_grpc(field("content-type")) && field("content-encoding").is_none();
        let encoding = Encoding::from_field(field("grpc-encoding"));
        match EventHead::read(endpoint, &self.core.shared.acks, |name| head.values(name.as_bytes())) {
            Some(event_head) if is_plain && let Ok(encoding) = encoding => {
                let lines = is_lines(field("content-type"));
                Head::Event(Rc::new(EventCall { head: event_head, encoding, timeout, lines, cold }))
            }
            _ => Head::Cold { timeout: timeout.filter(|_| cold.grpc), head: cold },
        }
    }

    /// A request that may be taken here begins.
    pub(super) fn open_event(
        &mut self,
        id: StreamId,
        call: &Rc<EventCall>,
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Stream {
        self.set_deadline(id, call.timeout);
        if call.endpoint().row().hot == Hot::GrpcEventStream {
            let core = Rc::clone(&self.core);
            let mut block = core.block.borrow_mut();
            block.copy_from(&core.grpc.heads[call.head.terms.level as usize]);
            call.head.with_request_id(&core, |request_id| block.push_text(&core.grpc.request_id, request_id));
            replies.head(id, &block, false);
            drop(block);
            let limit = core.shared.limits.grpc_message_bytes_max;
            let mut stream = EventStream::new(Rc::clone(call), limit, end_stream);
            return match self.go_on(id, &mut stream, replies) {
                Some(ended) => ended,
                None => Stream::Events(Box::new(stream)),
            };
        }
        if end_stream {
            return self.event_request(id, call, &[], replies);
        }
        self.collecting += 1;
        Stream::Event { call: Rc::clone(call), body: Vec::new() }
    }

    /// A part of a request that does not lie in one piece; `None`: there is more to come.
    pub(super) fn collect_event(
        &mut self,
        id: StreamId,
        call: &Rc<EventCall>,
        body: &mut Vec<u8>,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Option<Stream> {
        let refusal = self.collect(body, data);
        let endpoint = call.endpoint();
        if !endpoint.is_grpc() {
            if let Some(refusal) = refusal {
                let then = Then::Refuse { endpoint: Some(endpoint), refusal };
                return Some(self.answer_when_whole(id, then, end_stream, replies));
            }
        } else {
            let limit = self.core.shared.limits.grpc_message_bytes_max;
            let claimed = body.first_chunk::<PREFIX_BYTES>();
            let claimed = claimed.map_or(0, |[_, length @ ..]| u32::from_be_bytes(*length) as usize);
            let is_large = refusal.as_ref().is_some_and(|refusal| refusal.status == 413);
            if claimed > limit || is_large {
                // Known from the prefix alone.
                let text = format!("gRPC message of {claimed} bytes is larger than the limit of {limit}");
                let status = Status::new(Code::ResourceExhausted, text);
                return Some(self.fail(id, endpoint, status, replies));
            }
            if let Some(refusal) = refusal {
                return Some(self.fail(id, endpoint, refusal, replies));
            }
        }
        end_stream.then(|| self.event_request(id, call, body, replies))
    }

    /// A request that is whole.
    pub(super) fn event_request(
        &mut self,
        id: StreamId,
        call: &Rc<EventCall>,
        body: &[u8],
        replies: &mut Replies<'_>,
    ) -> Stream {
        if let Some(stream) = self.take_plain(id, call, body, replies) {
            return stream;
        }
        let endpoint = call.endpoint();
        if endpoint.is_grpc() && whole_message(body).is_none() {
            // The cold lane would take the first of two.
            return self.fail(id, endpoint, self.not_one_message(body), replies);
        }
        self.pass_on(id, &call.cold, Some(Bytes::copy_from_slice(body)), replies)
    }

    /// What is wrong with the body of a unary call that is not one whole message.
    fn not_one_message(&self, body: &[u8]) -> Status {
        let mut messages = 0;
        let mut deframer = Deframer::new(self.core.shared.limits.grpc_message_bytes_max);
        let fed = deframer.feed(body, |_| {
            messages += 1;
            Take::Next
        });
        match fed.and_then(|_| deframer.finish()) {
            Err(error) => Status::from(error),
            Ok(()) => {
                let text = format!("a unary call carries one message, this one carried {messages}");
                Status::new(Code::Unimplemented, text)
            }
        }
    }

    fn take_plain(
        &self,
        id: StreamId,
        call: &Rc<EventCall>,
        body: &[u8],
        replies: &mut Replies<'_>,
    ) -> Option<Stream> {
        let core = &*self.core;
        let hot = call.endpoint().row().hot;
        let mut inflater = core.inflater.borrow_mut();
        let mut transcoded = core.transcoded.borrow_mut();
        transcoded.clear();
        let message = match hot {
            _ if call.endpoint().is_grpc() => inflater.plain(whole_message(body)?, call.encoding).ok()?,
            _ => body,
        };
        let caller = |place| Caller { place, ..self.caller(id) };
        match hot {
            Hot::Facade { route, .. } => {
                match facade::take(core, route, message, &call.head, || self.caller(id))? {
                    Taken::Stored => {
                        let (draft, status) = (core.draft.borrow(), core.shared.events.facade.status(route));
                        Some(self.answer_facade(
                            id,
                            call,
                            route,
                            status,
                            &draft.answer,
                            Some(Reached::QUEUED),
                            replies,
                        ))
                    }
                    Taken::Waits(token, answer) => {
                        Some(Stream::Facade { call: Rc::clone(call), token, answer })
                    }
                }
            }
            Hot::GrpcEvent => {
                let event = event_of_request(message)?;
                self.take_one(id, call, event, replies)
            }
            Hot::EventJson => {
                transcode_event(message, &mut transcoded)?;
                self.take_one(id, call, &transcoded, replies)
            }
            Hot::GrpcEvents => {
                let batch = Batch::take(core, events_of_request(message)?, &call.head, caller)?;
                Some(self.keep_batch(id, call, batch, replies))
            }
            _ => {
                let mut ends = Vec::new();
                let transcode = if call.lines { transcode_lines } else { transcode_events };
                transcode(message, &mut transcoded, &mut ends)?;
                let batch = Batch::take(core, pieces(&transcoded, &ends), &call.head, caller)?;
                Some(self.keep_batch(id, call, batch, replies))
            }
        }
    }

    fn take_one(
        &self,
        id: StreamId,
        call: &Rc<EventCall>,
        event: &[u8],
        replies: &mut Replies<'_>,
    ) -> Option<Stream> {
        let core = &*self.core;
        Some(match events::take_event(core, event, &call.head, || self.caller(id))? {
            Ok(Accepted::Waits(token)) => {
                Stream::Waiting { endpoint: call.endpoint(), token, event: Some(Rc::clone(call)) }
            }
            Ok(Accepted::Now(ours)) => {
                let ours = ours.as_slice().into();
                self.answer_event(id, call, &ours, &Reached::QUEUED, core.clock.now_ns(), replies)
            }
            Err(refused) => self.refuse_event(id, call, &refused.into(), replies),
        })
    }

    fn keep_batch(
        &self,
        id: StreamId,
        call: &Rc<EventCall>,
        batch: Batch,
        replies: &mut Replies<'_>,
    ) -> Stream {
        if batch.is_complete() {
            return self.answer_batch(id, call, &batch, replies);
        }
        Stream::Batch { call: Rc::clone(call), batch: Box::new(batch) }
    }

    /// Answers one event.
    pub(super) fn answer_event(
        &self,
        id: StreamId,
        call: &EventCall,
        event_id: &MessageId,
        reached: &Reached,
        since_ns: u64,
        replies: &mut Replies<'_>,
    ) -> Stream {
        self.send_answer(id, call, reached, replies, |core, as_json, out| {
            events::write_answer(core, event_id, reached.duplicate, since_ns, as_json, out);
            Ok(())
        })
    }

    /// Answers a batch of which everything is known.
    pub(super) fn answer_batch(
        &self,
        id: StreamId,
        call: &EventCall,
        batch: &Batch,
        replies: &mut Replies<'_>,
    ) -> Stream {
        let reached = Reached { level: batch.level, ..Reached::QUEUED };
        self.send_answer(id, call, &reached, replies, |core, as_json, out| batch.write(core, as_json, out))
    }

    fn send_answer(
        &self,
        id: StreamId,
        call: &EventCall,
        reached: &Reached,
        replies: &mut Replies<'_>,
        write: impl FnOnce(&crate::core::Core, bool, &mut Vec<u8>) -> Result<(), Refusal>,
    ) -> Stream {
        let core = &*self.core;
        let endpoint = call.endpoint();
        let is_grpc = endpoint.is_grpc();
        let mut body = core.body.borrow_mut();
        body.clear();
        if is_grpc {
            body.extend_from_slice(&[0; PREFIX_BYTES]);
        }
        if let Err(refusal) = write(core, !is_grpc, &mut body) {
            return self.refuse_event(id, call, &refusal, replies);
        }
        let mut block = core.block.borrow_mut();
        if is_grpc {
            self.note(endpoint, 0);
            set_length(&mut body, 0);
            core.grpc.write_head(&mut block, reached);
        } else {
            self.note(endpoint, status_index(200));
            let prepared = core.prepared.borrow();
            block.copy_from(&prepared.h2_stored[reached.level as usize]);
            block.push_number(&prepared.content_length, body.len() as u64);
            core.grpc.push_place(&mut block, reached);
        }
        call.head.with_request_id(core, |request_id| block.push_text(&core.grpc.request_id, request_id));
        replies.head(id, &block, false);
        self.send_body(id, endpoint, &body, replies)
    }

    /// Sends the body of an answer and what comes behind it. The answer to a thousand events that failed is larger
    /// than a stream's queue.
    pub(super) fn send_body(
        &self,
        id: StreamId,
        endpoint: Endpoint,
        body: &[u8],
        replies: &mut Replies<'_>,
    ) -> Stream {
        let is_grpc = endpoint.is_grpc();
        let taken = replies.data(id, body, !is_grpc);
        if taken < body.len() {
            return Stream::Sending { rest: body[taken..].to_vec(), endpoint };
        }
        if is_grpc {
            replies.trailers(id, &self.core.grpc.ok);
        }
        Stream::Answered
    }

    /// It is known what became of the message of an older system's route.
    pub(super) fn settle_facade(
        &self,
        id: StreamId,
        call: &EventCall,
        settled: &Settled,
        answer: &[u8],
        replies: &mut Replies<'_>,
    ) -> Stream {
        let Some(route) = call.endpoint().facade() else { return Stream::Answered };
        let mut body = Vec::new();
        let (status, reached) = facade::settle(&self.core, route, settled, answer, &mut body);
        self.answer_facade(id, call, route, status, &body, reached, replies)
    }

    #[expect(clippy::too_many_arguments, reason = "an answer's parts, named at both calls")]
    fn answer_facade(
        &self,
        id: StreamId,
        call: &EventCall,
        route: usize,
        status: u16,
        body: &[u8],
        reached: Option<Reached>,
        replies: &mut Replies<'_>,
    ) -> Stream {
        let core = &*self.core;
        let endpoint = call.endpoint();
        if endpoint.is_grpc() {
            // A refusal is an OK there, too; its message says so.
            self.note(endpoint, 0);
            let mut framed = vec![0; PREFIX_BYTES];
            framed.extend_from_slice(body);
            set_length(&mut framed, 0);
            match reached {
                Some(reached) => {
                    let mut block = core.block.borrow_mut();
                    core.grpc.write_head(&mut block, &reached);
                    replies.head(id, &block, false);
                }
                None => replies.head(id, &core.grpc.bare_head, false),
            }
            let _all = replies.data(id, &framed, false);
            replies.trailers(id, &core.grpc.ok);
            return Stream::Answered;
        }
        self.note(endpoint, status_index(status));
        let mut block = core.block.borrow_mut();
        block.restart(status);
        block.push(b"content-type", b"application/json");
        block.push(b"content-length", itoa::Buffer::new().format(body.len()).as_bytes());
        block.push(b"date", &core.date.get());
        if let Some(reached) = &reached {
            push_reached(&mut block, reached);
        }
        if status == 503 {
            block.push(b"retry-after", b"1");
        }
        for (name, value) in core.shared.events.facade.fields(route) {
            block.push(name.as_bytes(), value.as_bytes());
        }
        replies.head(id, &block, false);
        // At most some 10 KB: what the window does not take, the stream's queue does.
        let _all = replies.data(id, body, true);
        Stream::Answered
    }

    /// Turns an event, or all of a batch, down.
    pub(super) fn refuse_event(
        &self,
        id: StreamId,
        call: &EventCall,
        refusal: &Refusal,
        replies: &mut Replies<'_>,
    ) -> Stream {
        let endpoint = call.endpoint();
        if endpoint.is_grpc() {
            return self.fail(id, endpoint, refusal.clone(), replies);
        }
        let (status, body) = events::refusal_over_rest(refusal);
        self.note(endpoint, status_index(status));
        let mut block = Block::new(status)
            .field("content-type", "application/json")
            .field("content-length", itoa::Buffer::new().format(body.len()))
            .field("date", self.core.date.get());
        if events::is_worth_retrying(refusal) {
            block.push(b"retry-after", b"1");
        }
        call.head.with_request_id(&self.core, |request_id| block.push(b"x-request-id", request_id));
        replies.head(id, &block, false);
        let _all = replies.data(id, &body, true);
        Stream::Answered
    }
}

/// Events one behind the other, and where each ends.
pub(crate) fn pieces<'a>(bytes: &'a [u8], ends: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut start = 0;
    ends.iter().map(move |end| {
        let piece = bytes.get(start..*end).unwrap_or_default();
        start = *end;
        piece
    })
}

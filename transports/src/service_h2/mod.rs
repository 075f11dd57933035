//! What is served over HTTP/2: the hot routes as JSON and gRPC, and the bridge to the cold lane.
//!
//! A request that lies whole in one DATA frame is decoded where it lies. One that comes in pieces is collected, a
//! stream of messages is taken message by message, and when the queue is full its window is not given back.

mod bridge;
mod event_call;
mod event_stream;
mod events;
mod streaming;
mod waiting;

use std::{collections::VecDeque, num::NonZeroU64, rc::Rc, time::Duration};

use bytes::Bytes;

pub(crate) use self::events::pieces;
use self::{
    bridge::{Cold, ColdHead, cold_head},
    event_call::EventCall,
    event_stream::EventStream,
    streaming::Streaming,
};
use engine_core::KIND_PROBE;

use crate::{
    answer::{Refusal, ingested},
    cold::{ColdEventSender, ColdEvents, Piece},
    connection::Origin,
    core::Core,
    counters::{Cause, status_index},
    events::Batch,
    grpc::{Code, Deframer, Encoding, Message, Status, Take, parse_timeout},
    grpc_answer::{Failure, fail, is_grpc, unary_answer, whole_message},
    h2::{Application, Block, Credit, ErrorCode, Fields, Replies, RequestHead, Reset, StreamId, Work},
    hook::Hook,
    ingest,
    lane::Accepted,
    message::DataKind,
    routes::{Endpoint, Hot, Route, route},
    session_h1::{allow, unsuitable},
    terms::Terms,
    waiting::Caller,
};

/// What a request head comes to.
pub(crate) enum Head {
    /// A JSON body for a hot route.
    Json { endpoint: Endpoint, probe: bool, terms: Terms },
    /// `/health`.
    Health { endpoint: Endpoint, head_only: bool },
    /// A gRPC call of a hot route.
    Grpc(Call),
    /// A request of an event route.
    Event(Rc<EventCall>),
    /// To be turned down as HTTP.
    Refused { endpoint: Option<Endpoint>, refusal: Refusal, at_once: bool },
    /// To be turned down as gRPC.
    GrpcRefused { endpoint: Endpoint, status: Status },
    /// For the cold lane.
    Cold { head: Rc<ColdHead>, timeout: Option<Duration> },
}

/// How a gRPC call is to be read.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    endpoint: Endpoint,
    terms: Terms,
    kind: DataKind,
    streaming: bool,
    encoding: Encoding,
    timeout: Option<Duration>,
}

/// An open stream.
pub(crate) enum Stream {
    /// A JSON body that is being collected.
    Json { endpoint: Endpoint, probe: bool, terms: Terms, body: Vec<u8> },
    /// A unary gRPC call whose message is being collected.
    Unary { call: Call, collected: Option<Box<Collected>> },
    /// A client stream.
    Streaming(Box<Streaming>),
    /// A request for the cold lane whose body is being collected.
    ForCold { head: Rc<ColdHead>, body: Vec<u8> },
    /// Its message is in the queue; the answer waits for what becomes of it. With its request when it is an event.
    Waiting { endpoint: Endpoint, token: NonZeroU64, event: Option<Rc<EventCall>> },
    /// The message of an older system's route is in the queue; with the answer for a success.
    Facade { call: Rc<EventCall>, token: NonZeroU64, answer: Vec<u8> },
    /// A request of an event route that is being collected.
    Event { call: Rc<EventCall>, body: Vec<u8> },
    /// Its events are in the queue; the answer waits for what becomes of all of them.
    Batch { call: Rc<EventCall>, batch: Box<Batch> },
    /// It is answered as far as its client reads. What is left of the body, at most what a thousand refusals have to
    /// say, goes out as there is room.
    Sending { rest: Vec<u8>, endpoint: Endpoint },
    /// A stream of events.
    Events(Box<EventStream>),
    /// The cold lane works on it.
    Cold(Box<Cold>),
    /// Answered as soon as its body, which nobody wants, has arrived.
    Discarding { then: Box<Then>, discarded: usize },
    /// It is answered; whatever else arrives is dropped.
    Answered,
}

/// What is answered to a request whose body is not looked at.
pub(crate) enum Then {
    Health { endpoint: Endpoint, head_only: bool },
    Refuse { endpoint: Option<Endpoint>, refusal: Refusal },
}

/// A unary call that came in pieces.
pub(crate) struct Collected {
    deframer: Deframer,
    /// The message once it is complete; enqueued at the end of the stream, when it is certain to be the only one.
    message: Option<(bool, Vec<u8>)>,
    /// Bytes counted against the core's budget.
    counted: usize,
}

/// Serves the streams of one connection.
pub(crate) struct Service {
    core: Rc<Core>,
    origin: Origin,
    hook: Rc<Hook>,
    /// Reset streams whose messages are still under way, and how many those are.
    abandoned: Vec<(StreamId, usize)>,
    events: Option<(ColdEventSender, ColdEvents)>,
    deadlines: Vec<(u64, StreamId)>,
    /// When streams of events hear how they are.
    flushes: Vec<(u64, StreamId)>,
    /// Streams of events of which something was settled.
    dirty: Vec<StreamId>,
    collecting: usize,
    /// Streams that wait for room in the queue, in the order of their waiting: the connection's own [line](crate::room).
    line: VecDeque<StreamId>,
    /// Whether streams got room.
    got_room: bool,
    cold_streams: usize,
}

/// Body bytes that a core holds of requests that come in pieces. Beyond it a request that needs more is refused.
pub(crate) const COLLECTED_BYTES_MAX: usize = 256 << 20;

/// Bytes of an unwanted body that are read before it is answered. Until then the client may be too busy sending to
/// see an answer (curl drops it when the stream is reset behind it); beyond, it has to stop.
const DISCARDED_BYTES_MAX: usize = 16 << 20;

/// Writes a refusal as HTTP.
fn refuse(id: StreamId, refusal: &Refusal, date: &[u8; 29], replies: &mut Replies<'_>) {
    let body = refusal.json();
    let mut block = Block::new(refusal.status)
        .field("content-type", "application/json")
        .field("content-length", itoa::Buffer::new().format(body.len()))
        .field("date", date);
    if let Some(allow) = refusal.allow {
        block.push(b"allow", allow.as_bytes());
    }
    if refusal.status == 401 {
        block.push(b"www-authenticate", b"Bearer");
    }
    if let Some(seconds) = refusal.retry_after_seconds() {
        block.push(b"retry-after", itoa::Buffer::new().format(seconds).as_bytes());
    }
    replies.head(id, &block, false);
    // A few hundred bytes: they fit the stream's queue if not its window.
    let _all = replies.data(id, &body, true);
}

/// Takes out what is due.
fn take_due(times: &mut Vec<(u64, StreamId)>, now_ms: u64) -> Vec<StreamId> {
    if times.iter().all(|(at, _)| *at > now_ms) {
        return Vec::new();
    }
    let due = times.iter().filter(|(at, _)| *at <= now_ms).map(|(_, id)| *id).collect();
    times.retain(|(at, _)| *at > now_ms);
    due
}

impl Service {
    pub(crate) fn new(core: Rc<Core>, origin: Origin, hook: Rc<Hook>) -> Self {
        Self {
            core,
            origin,
            hook,
            abandoned: Vec::new(),
            events: None,
            deadlines: Vec::new(),
            flushes: Vec::new(),
            dirty: Vec::new(),
            collecting: 0,
            line: VecDeque::new(),
            got_room: false,
            cold_streams: 0,
        }
    }

    fn caller(&self, id: StreamId) -> Caller {
        Caller { hook: Rc::clone(&self.hook), stream: id.get(), place: 0 }
    }

    /// Requests whose body is being collected.
    pub(crate) fn collecting(&self) -> usize {
        self.collecting
    }

    /// The stream that waits longest for room in the queue.
    pub(crate) fn first_in_line(&self) -> Option<StreamId> {
        self.line.front().copied()
    }

    /// Whether the stream waits for room.
    pub(crate) fn is_in_line(&self, id: StreamId) -> bool {
        self.line.contains(&id)
    }

    /// The stream does not wait for room any more.
    pub(crate) fn leave_line(&mut self, id: StreamId) {
        self.line.retain(|waiting| *waiting != id);
    }

    /// Whether streams got room since the last call.
    pub(crate) fn got_room(&mut self) -> bool {
        std::mem::take(&mut self.got_room)
    }

    /// Whether a stream may take room: no other stream or connection waits before it.
    fn may_take_room(&self, id: StreamId) -> bool {
        self.line.front().is_none_or(|first| *first == id) && self.core.room.admits(&self.hook)
    }

    /// A stream has taken room or has not, and wants more or does not.
    fn had_its_turn(&mut self, id: StreamId, wants: bool, got_some: bool) {
        self.got_room |= got_some;
        if self.is_in_line(id) {
            if wants && !got_some {
                return;
            }
            self.leave_line(id);
        }
        if wants {
            self.line.push_back(id);
        }
    }

    /// Streams that the cold lane works on.
    pub(crate) fn cold_streams(&self) -> usize {
        self.cold_streams
    }

    pub(crate) fn write_timeout_ms(&self) -> u64 {
        u64::try_from(self.core.shared.limits.write_timeout.as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers of the cold lane.
    pub(crate) fn events(&mut self) -> Option<&mut ColdEvents> {
        self.events.as_mut().map(|(_, events)| events)
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.iter().chain(&self.flushes).map(|(at, _)| *at).min()
    }

    /// Streams of events of which something was settled since the last call.
    pub(crate) fn take_dirty(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.dirty)
    }

    /// Streams of events that are to hear how they are.
    pub(crate) fn take_flushes(&mut self, now_ms: u64) -> Vec<StreamId> {
        take_due(&mut self.flushes, now_ms)
    }

    /// Streams whose time is over.
    pub(crate) fn take_expired(&mut self, now_ms: u64) -> Vec<StreamId> {
        take_due(&mut self.deadlines, now_ms)
    }

    fn set_deadline(&mut self, id: StreamId, timeout: Option<Duration>) {
        if let Some(timeout) = timeout {
            let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            self.deadlines.push((self.core.clock.now_ms().saturating_add(ms), id));
        }
    }

    fn note(&self, endpoint: Endpoint, outcome: usize) {
        self.core.answered.note(self.origin.role, endpoint, outcome);
    }

    /// Turns a JSON request down.
    fn turn_down(
        &self,
        id: StreamId,
        endpoint: Endpoint,
        refusal: &Refusal,
        replies: &mut Replies<'_>,
    ) -> Stream {
        self.note(endpoint, status_index(refusal.status));
        refuse(id, refusal, &self.core.date.get(), replies);
        Stream::Answered
    }

    /// Ends a gRPC call with an error.
    fn fail(
        &self,
        id: StreamId,
        endpoint: Endpoint,
        failure: impl Into<Failure>,
        replies: &mut Replies<'_>,
    ) -> Stream {
        let Failure { status, retry } = failure.into();
        self.note(endpoint, usize::from(status.code.number()));
        if status.code == Code::ResourceExhausted && !retry {
            self.core.counters.hit(Cause::TooLarge);
        }
        fail(id, &status, retry, replies);
        Stream::Answered
    }

    /// Answers a request whose body was not looked at.
    fn answer_unread(&self, id: StreamId, then: &Then, replies: &mut Replies<'_>) -> Stream {
        match then {
            Then::Health { endpoint, head_only } => {
                let (status, body) = self.core.health(*endpoint, self.origin.role);
                self.note(*endpoint, status_index(status));
                let mut block = Block::new(status)
                    .field("content-type", "application/json")
                    .field("content-length", itoa::Buffer::new().format(body.len()))
                    .field("date", self.core.date.get());
                if status == 503 {
                    block.push(b"retry-after", b"1");
                }
                for (name, value) in self.core.shared.health.fields() {
                    block.push(name.as_bytes(), value.as_bytes());
                }
                replies.head(id, &block, *head_only);
                if !head_only {
                    let _all = replies.data(id, &body, true);
                }
            }
            Then::Refuse { endpoint, refusal } => {
                if refusal.status == 413 {
                    self.core.counters.hit(Cause::TooLarge);
                }
                if let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_grpc()) {
                    self.note(endpoint, status_index(refusal.status));
                }
                refuse(id, refusal, &self.core.date.get(), replies);
            }
        }
        Stream::Answered
    }

    /// Answers now when the request is complete, else when its body has arrived.
    fn answer_when_whole(
        &mut self,
        id: StreamId,
        then: Then,
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Stream {
        if end_stream {
            return self.answer_unread(id, &then, replies);
        }
        self.collecting += 1;
        Stream::Discarding { then: Box::new(then), discarded: 0 }
    }

    /// A complete JSON request.
    fn json(
        &self,
        id: StreamId,
        endpoint: Endpoint,
        probe: bool,
        terms: &Terms,
        body: &[u8],
        replies: &mut Replies<'_>,
    ) -> Stream {
        let core = &*self.core;
        if let Err(refusal) = terms.admit(&core.shared.acks) {
            return self.turn_down(id, endpoint, &refusal, replies);
        }
        // A probe asks whether messages get through, not whether they are kept.
        let of_a_probe;
        let (kind, terms) = if probe {
            of_a_probe = Terms::immediate();
            (KIND_PROBE, &of_a_probe)
        } else {
            (0, terms)
        };
        let caller = || self.caller(id);
        match endpoint.row().hot {
            Hot::EnqueueJson => match ingest::enqueue_json(core, body, kind, terms, caller) {
                Ok(Accepted::Waits(token)) => Stream::Waiting { endpoint, token, event: None },
                Ok(Accepted::Now(_)) => {
                    if !probe {
                        self.note(endpoint, status_index(202));
                    }
                    replies.head(id, &core.prepared.borrow().h2_enqueued, true);
                    Stream::Answered
                }
                Err(refusal) => self.turn_down(id, endpoint, &refusal, replies),
            },
            _ => match ingest::ingest_json(core, body, terms, caller) {
                Ok(Accepted::Waits(token)) => Stream::Waiting { endpoint, token, event: None },
                Ok(Accepted::Now(message)) => {
                    self.note(endpoint, status_index(200));
                    replies.head(id, &core.prepared.borrow().h2_ingested, false);
                    let _all = replies.data(id, &ingested(&message), true);
                    Stream::Answered
                }
                Err(refusal) => self.turn_down(id, endpoint, &refusal, replies),
            },
        }
    }

    /// A complete unary call.
    fn unary(&self, id: StreamId, call: &Call, message: Message<'_>, replies: &mut Replies<'_>) -> Stream {
        let core = &*self.core;
        let mut inflater = core.inflater.borrow_mut();
        if let Err(refusal) = call.terms.admit(&core.shared.acks) {
            return self.fail(id, call.endpoint, refusal, replies);
        }
        let accepted = match inflater.plain(message, call.encoding) {
            Ok(plain) => ingest::ingest_proto(core, plain, call.kind, &call.terms, || self.caller(id))
                .map_err(Failure::from),
            Err(status) => Err(Failure::from(status)),
        };
        match accepted {
            Ok(Accepted::Waits(token)) => Stream::Waiting { endpoint: call.endpoint, token, event: None },
            Ok(Accepted::Now(message)) => {
                self.note(call.endpoint, 0);
                replies.head(id, &core.grpc.heads[0], false);
                let _all = replies.data(id, &unary_answer(&message), false);
                replies.trailers(id, &core.grpc.ok);
                Stream::Answered
            }
            Err(failure) => self.fail(id, call.endpoint, failure, replies),
        }
    }

    /// There is no room for more of a request that comes in pieces.
    fn too_much_collected(&self) -> Refusal {
        self.core.counters.hit(Cause::BodyRoom);
        Refusal::new(503, Code::ResourceExhausted, "too many large bodies are arriving at once")
    }

    /// Collects a part of a JSON body; `Some` when it has to be refused.
    fn collect(&self, body: &mut Vec<u8>, data: &[u8]) -> Option<Refusal> {
        let limit = self.core.shared.limits.http_body_bytes_max;
        if body.len() + data.len() > limit {
            return Some(Refusal::too_large(limit));
        }
        if !self.core.reserve(data.len(), COLLECTED_BYTES_MAX) {
            return Some(self.too_much_collected());
        }
        body.extend_from_slice(data);
        None
    }

    /// A part of a unary call that does not lie in one piece.
    fn collect_unary(
        &mut self,
        id: StreamId,
        call: &Call,
        collected: &mut Option<Box<Collected>>,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Option<Stream> {
        let collected = collected.get_or_insert_with(|| {
            let deframer = Deframer::new(self.core.shared.limits.grpc_message_bytes_max);
            Box::new(Collected { deframer, message: None, counted: 0 })
        });
        if !self.core.reserve(data.len(), COLLECTED_BYTES_MAX) {
            return Some(self.fail(id, call.endpoint, self.too_much_collected(), replies));
        }
        collected.counted += data.len();
        let Collected { deframer, message, .. } = &mut **collected;
        let mut second = false;
        let fed = deframer.feed(data, |found| {
            if message.is_some() {
                second = true;
                return Take::Stop;
            }
            *message = Some((found.compressed, found.bytes.to_vec()));
            Take::Next
        });
        let fed = fed.and_then(|_| if end_stream && !second { deframer.finish() } else { Ok(()) });
        let status = match (fed, &collected.message) {
            (Err(error), _) => Status::from(error),
            _ if second => {
                Status::new(Code::Unimplemented, "a unary call carries one message, this one carried more")
            }
            (Ok(()), None) if end_stream => {
                Status::new(Code::Unimplemented, "a unary call carries one message, this one carried none")
            }
            (Ok(()), Some((compressed, bytes))) if end_stream => {
                let message = Message { compressed: *compressed, bytes };
                return Some(self.unary(id, call, message, replies));
            }
            (Ok(()), _) => return None,
        };
        Some(self.fail(id, call.endpoint, status, replies))
    }

    /// Counts what a stream of messages holds of one that came in part. `Err`: the core holds too much of such.
    fn count_split(&self, deframer: &Deframer, counted: &mut usize) -> Result<(), Refusal> {
        let held = deframer.buffered_bytes();
        if held <= *counted {
            self.core.release(*counted - held);
        } else if !self.core.reserve(held - *counted, COLLECTED_BYTES_MAX) {
            return Err(self.too_much_collected());
        }
        *counted = held;
        Ok(())
    }

    /// Takes a stream's share out of the sums.
    fn forget(&mut self, id: StreamId, stream: &Stream) {
        match stream {
            Stream::Discarding { .. } => self.collecting -= 1,
            Stream::Json { body, .. } | Stream::ForCold { body, .. } | Stream::Event { body, .. } => {
                self.collecting -= 1;
                self.core.release(body.len());
            }
            Stream::Unary { collected, .. } => {
                self.collecting -= 1;
                self.core.release(collected.as_ref().map_or(0, |collected| collected.counted));
            }
            Stream::Streaming(streaming) => {
                self.leave_line(id);
                self.core.release(streaming.counted);
            }
            Stream::Events(events) => {
                self.leave_line(id);
                self.core.release(events.counted);
            }
            Stream::Cold(_) => self.cold_streams -= 1,
            Stream::Answered
            | Stream::Sending { .. }
            | Stream::Waiting { .. }
            | Stream::Facade { .. }
            | Stream::Batch { .. } => {}
        }
    }

    fn grpc_head(&self, endpoint: Endpoint, hot: Hot, head: &RequestHead<'_>) -> Head {
        if !is_grpc(head.field(b"content-type")) {
            let text = "content-type: this path takes application/grpc or application/grpc+proto";
            let refusal = Refusal::new(415, Code::InvalidArgument, text);
            return refused_head(Some(endpoint), refusal, head);
        }
        let (streaming, text) = match hot {
            Hot::GrpcIngestStream { text } => (true, text),
            Hot::GrpcIngest { text } => (false, text),
            _ => (false, false),
        };
        let call = || -> Result<Call, Status> {
            let terms = Terms::read(&self.core.shared.acks, |name| head.values(name.as_bytes()));
            let terms = terms.map_err(|refusal| Failure::from(refusal).status)?;
            if streaming && terms.key.is_some() {
                let text = "idempotency-key: a stream has many messages and a key is for one; leave it out, or send \
                            the messages one by one";
                return Err(Status::new(Code::InvalidArgument, text));
            }
            Ok(Call {
                endpoint,
                terms,
                kind: if text { DataKind::Text } else { DataKind::Bytes },
                streaming,
                encoding: Encoding::from_field(head.field(b"grpc-encoding"))?,
                timeout: head.field(b"grpc-timeout").map(parse_timeout).transpose()?,
            })
        };
        match call() {
            Ok(call) => Head::Grpc(call),
            Err(status) => Head::GrpcRefused { endpoint, status },
        }
    }
}

impl Service {
    /// A request for the cold lane begins.
    fn open_cold(
        &mut self,
        id: StreamId,
        head: &Rc<ColdHead>,
        timeout: Option<Duration>,
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Stream {
        self.set_deadline(id, timeout);
        if end_stream || head.grpc {
            return self.pass_on(id, head, end_stream.then(Bytes::new), replies);
        }
        self.collecting += 1;
        Stream::ForCold { head: Rc::clone(head), body: Vec::new() }
    }

    /// A stream of events may go on.
    pub(crate) fn advance(&mut self, id: StreamId, stream: &mut Stream, replies: &mut Replies<'_>) {
        let Stream::Events(events) = &mut *stream else { return };
        if let Some(after) = self.go_on(id, events, replies) {
            let before = std::mem::replace(stream, after);
            self.forget(id, &before);
        }
    }
}

/// A head that is turned down. A client that waits for `100 Continue` sends no body before it has an answer.
fn refused_head(endpoint: Option<Endpoint>, refusal: Refusal, head: &RequestHead<'_>) -> Head {
    let beyond = head.content_length().is_some_and(|length| length > DISCARDED_BYTES_MAX as u64);
    Head::Refused { endpoint, refusal, at_once: beyond || head.field(b"expect").is_some() }
}

impl Application for Service {
    type Head = Head;
    type Stream = Stream;

    fn classify(&mut self, head: &RequestHead<'_>) -> Head {
        let path = head.path();
        let path = &path[..memchr::memchr(b'?', path).unwrap_or(path.len())];
        let endpoint = match route(head.method(), path) {
            Route::Hot(endpoint) => endpoint,
            Route::MethodNotAllowed(endpoint) => {
                return refused_head(Some(endpoint), Refusal::method_not_allowed(allow(endpoint)), head);
            }
            Route::Cold => {
                let timeout = head.field(b"grpc-timeout").and_then(|value| parse_timeout(value).ok());
                return match cold_head(head) {
                    Ok(cold) => Head::Cold { timeout: timeout.filter(|_| cold.grpc), head: Rc::new(cold) },
                    Err(error) => {
                        let text = format!("the request head: {error}");
                        refused_head(None, Refusal::new(400, Code::InvalidArgument, text), head)
                    }
                };
            }
        };
        if endpoint.is_event() {
            return self.event_head(endpoint, head);
        }
        let limit = self.core.shared.limits.http_body_bytes_max;
        match endpoint.row().hot {
            Hot::Health => Head::Health { endpoint, head_only: head.method() == b"HEAD" },
            Hot::IngestJson | Hot::EnqueueJson => {
                if let Some(refusal) = unsuitable(|name| head.field(name.as_bytes())) {
                    return refused_head(Some(endpoint), refusal, head);
                }
                if head.content_length().is_some_and(|length| length > limit as u64) {
                    return refused_head(Some(endpoint), Refusal::too_large(limit), head);
                }
                let token = self.core.shared.probe_token.as_bytes();
                match Terms::read(&self.core.shared.acks, |name| head.values(name.as_bytes())) {
                    Ok(mut terms) => {
                        if endpoint.row().hot == Hot::EnqueueJson {
                            let guard = &self.core.shared.events.guard;
                            terms = terms.with_events(guard, |name| head.field(name.as_bytes()));
                        }
                        Head::Json { endpoint, probe: head.field(b"tidegate-probe") == Some(token), terms }
                    }
                    Err(refusal) => refused_head(Some(endpoint), refusal, head),
                }
            }
            hot => self.grpc_head(endpoint, hot, head),
        }
    }

    fn open(&mut self, id: StreamId, head: &Head, end_stream: bool, replies: &mut Replies<'_>) -> Stream {
        match head {
            Head::Json { endpoint, probe, terms } => {
                if end_stream {
                    return self.json(id, *endpoint, *probe, terms, &[], replies);
                }
                self.collecting += 1;
                Stream::Json { endpoint: *endpoint, probe: *probe, terms: terms.clone(), body: Vec::new() }
            }
            Head::Health { endpoint, head_only } => {
                let then = Then::Health { endpoint: *endpoint, head_only: *head_only };
                self.answer_when_whole(id, then, end_stream, replies)
            }
            Head::Grpc(call) => {
                if end_stream && !call.streaming {
                    let status = Status::new(
                        Code::Unimplemented,
                        "a unary call carries one message, this one carried none",
                    );
                    return self.fail(id, call.endpoint, status, replies);
                }
                self.set_deadline(id, call.timeout);
                if !call.streaming {
                    self.collecting += 1;
                    return Stream::Unary { call: call.clone(), collected: None };
                }
                let streaming = Streaming {
                    call: call.clone(),
                    deframer: Deframer::new(self.core.shared.limits.grpc_message_bytes_max),
                    accepted: 0,
                    waiting: 0,
                    rest: Vec::new(),
                    withheld: 0,
                    stalled: false,
                    ended: end_stream,
                    counted: 0,
                };
                if end_stream {
                    return self.finish(id, &streaming, replies);
                }
                Stream::Streaming(Box::new(streaming))
            }
            Head::Event(call) if !call.head.is_admitted(&self.core) => {
                self.open_cold(id, &call.cold, call.timeout, end_stream, replies)
            }
            Head::Event(call) => self.open_event(id, call, end_stream, replies),
            Head::Refused { endpoint, refusal, at_once } => {
                let then = Then::Refuse { endpoint: *endpoint, refusal: refusal.clone() };
                self.answer_when_whole(id, then, end_stream || *at_once, replies)
            }
            Head::GrpcRefused { endpoint, status } => self.fail(id, *endpoint, status.clone(), replies),
            Head::Cold { head, timeout } => self.open_cold(id, head, *timeout, end_stream, replies),
        }
    }

    fn data(
        &mut self,
        id: StreamId,
        stream: &mut Stream,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Credit {
        let mut credit = Credit::Now;
        let after = match stream {
            Stream::Answered
            | Stream::Sending { .. }
            | Stream::Waiting { .. }
            | Stream::Facade { .. }
            | Stream::Batch { .. } => None,
            Stream::Json { endpoint, probe, terms, body } => {
                if end_stream && body.is_empty() && data.len() <= self.core.shared.limits.http_body_bytes_max
                {
                    Some(self.json(id, *endpoint, *probe, terms, data, replies))
                } else {
                    match self.collect(body, data) {
                        Some(refusal) => {
                            let then = Then::Refuse { endpoint: Some(*endpoint), refusal };
                            Some(self.answer_when_whole(id, then, end_stream, replies))
                        }
                        None => end_stream.then(|| self.json(id, *endpoint, *probe, terms, body, replies)),
                    }
                }
            }
            Stream::ForCold { head, body } => match self.collect(body, data) {
                Some(refusal) => {
                    let then = Then::Refuse { endpoint: None, refusal };
                    Some(self.answer_when_whole(id, then, end_stream, replies))
                }
                None if end_stream => {
                    let (head, bytes) = (Rc::clone(head), Bytes::copy_from_slice(body));
                    Some(self.pass_on(id, &head, Some(bytes), replies))
                }
                None => None,
            },
            Stream::Event { call, body } => {
                let is_whole = end_stream
                    && body.is_empty()
                    && data.len() <= self.core.shared.limits.http_body_bytes_max;
                if is_whole {
                    Some(self.event_request(id, call, data, replies))
                } else {
                    self.collect_event(id, call, body, data, end_stream, replies)
                }
            }
            Stream::Events(events) => {
                let (kept, after) = self.event_stream_in(id, events, data, end_stream, replies);
                credit = kept;
                after
            }
            Stream::Discarding { then, discarded } => {
                *discarded += data.len();
                let enough = end_stream || *discarded > DISCARDED_BYTES_MAX;
                enough.then(|| self.answer_unread(id, then, replies))
            }
            Stream::Unary { call, collected } => match whole_message(data) {
                Some(message)
                    if end_stream
                        && collected.is_none()
                        && message.bytes.len() <= self.core.shared.limits.grpc_message_bytes_max =>
                {
                    Some(self.unary(id, call, message, replies))
                }
                _ => self.collect_unary(id, call, collected, data, end_stream, replies),
            },
            Stream::Streaming(streaming) => {
                let (kept, after) = self.stream_in(id, streaming, data, end_stream, replies);
                credit = kept;
                after
            }
            Stream::Cold(cold) => {
                if let Some(pieces) = &cold.body
                    && !data.is_empty()
                    && pieces.send(Piece::Data(Bytes::copy_from_slice(data))).is_ok()
                {
                    credit = Credit::Later;
                }
                if end_stream && let Some(pieces) = cold.body.take() {
                    // A cold lane that has stopped reading needs no end.
                    let _ = pieces.send(Piece::End);
                }
                None
            }
        };
        if let Some(after) = after {
            let before = std::mem::replace(stream, after);
            self.forget(id, &before);
        }
        credit
    }

    fn trailers(
        &mut self,
        id: StreamId,
        stream: &mut Stream,
        _fields: Fields<'_>,
        replies: &mut Replies<'_>,
    ) {
        // gRPC and our JSON routes give request trailers no meaning: they are an end like any other.
        let _nothing_to_credit = self.data(id, stream, &[], true, replies);
    }

    fn reset(&mut self, id: StreamId, stream: Stream, _why: Reset) -> Work {
        let left = match &stream {
            Stream::Waiting { .. } | Stream::Facade { .. } => 1,
            Stream::Batch { batch, .. } => batch.left(),
            Stream::Events(events) => events.left(),
            Stream::Streaming(streaming) => usize::try_from(streaming.waiting).unwrap_or(usize::MAX),
            _ => 0,
        };
        self.closed(id, stream);
        if left == 0 {
            return Work::Ended;
        }
        self.abandoned.push((id, left));
        Work::Remains
    }

    fn closed(&mut self, id: StreamId, stream: Stream) {
        self.forget(id, &stream);
        for times in [&mut self.deadlines, &mut self.flushes] {
            if !times.is_empty() {
                times.retain(|(_, other)| *other != id);
            }
        }
    }

    fn writable(&mut self, id: StreamId, stream: &mut Stream, replies: &mut Replies<'_>) {
        if let Stream::Sending { rest, endpoint } = stream {
            let after = self.send_body(id, *endpoint, rest, replies);
            *stream = after;
            return;
        }
        self.advance(id, stream, replies);
    }

    fn refused(&mut self, _id: StreamId, code: ErrorCode, _reason: &'static str) {
        if code == ErrorCode::PROTOCOL_ERROR {
            self.core.counters.hit(Cause::Http2Protocol);
        }
    }
}

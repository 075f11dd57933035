//! HTTP/1.1 on a connection: the hot routes answered on the spot, everything else passed to the cold lane.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use engine_core::KIND_PROBE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::{
    answer::{Reached, Refusal, ingested, write_stored},
    cold::{Arrival, ColdAnswer, ColdBody, ColdCall, ColdEvent, ColdEvents, ColdHold},
    connection::{Origin, Wants},
    core::Core,
    counters::{Cause, Tally, status_index},
    events::{Batch, EventHead, is_worth_retrying, refusal_over_rest, take_event, write_answer},
    facade::{self, Taken},
    grpc::Code,
    h1::{Accept, Answer, Application, Connection, Limits, Reply, RequestHead, Waiting},
    hook::{Hook, Phase},
    ingest,
    lane::Accepted,
    message::{transcode_event, transcode_events, transcode_lines},
    routes::{Endpoint, Hot, Route, route},
    service_h2::{COLLECTED_BYTES_MAX, pieces},
    terms::Terms,
    waiting::{Caller, MessageId, Settled},
};

/// Bytes of an answer that are put into the output before it is sent.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// The HTTP/1.1 state of a connection.
pub(crate) struct Http1 {
    connection: Connection,
    room: Room,
    call: Option<Call>,
    /// What the answer waits for.
    waits: Option<Waits>,
    draining: bool,
    /// Something on this connection was HTTP.
    recognised: bool,
}

/// Messages whose fate an answer waits for.
enum Waits {
    /// The one of this route.
    Message(Endpoint),
    /// An event.
    Event(Box<EventHead>),
    /// A batch of events.
    Batch(Box<EventHead>, Batch),
    /// The one of an older system's route, with the answer for a success.
    Facade(Endpoint, usize, Vec<u8>),
}

/// A request that the cold lane is working on.
struct Call {
    hold: ColdHold,
    events: ColdEvents,
    /// An event that woke the connection and was not worked on yet.
    next: Option<ColdEvent>,
    begun: bool,
}

/// What a connection has taken of its core's room for requests in pieces; given back when it ends.
struct Room {
    core: Rc<Core>,
    bytes: usize,
}

impl Room {
    /// Takes as much as is held now; false when there is no room for it.
    fn hold(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.core.reserve(more, COLLECTED_BYTES_MAX) {
            return false;
        }
        self.core.release(self.bytes.saturating_sub(bytes));
        self.bytes = bytes;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.core.release(self.bytes);
    }
}

impl Http1 {
    pub(crate) fn new(core: &Rc<Core>, hook: &Hook) -> Self {
        let limits = &core.shared.limits;
        let limits = Limits {
            head_bytes_max: limits.header_list_bytes_max,
            fields_max: limits.header_fields_max,
            body_bytes_max: limits.http_body_bytes_max,
            ..Limits::default()
        };
        let mut connection = Connection::new(limits);
        let draining = hook.drain.get();
        if draining {
            // Its client has said nothing before now.
            connection.close_after_current();
        }
        Self {
            connection,
            room: Room { core: Rc::clone(core), bytes: 0 },
            call: None,
            waits: None,
            draining,
            recognised: false,
        }
    }

    pub(crate) fn phase(&self) -> (Phase, u64) {
        let phase = match self.connection.waiting_for() {
            Waiting::Idle | Waiting::Close => Phase::Idle,
            Waiting::Head => Phase::Head,
            Waiting::Body => Phase::Body,
            Waiting::Work => Phase::Work,
        };
        (phase, self.connection.body_bytes_received())
    }

    pub(crate) fn wants_drain(&self, hook: &Hook) -> bool {
        !self.draining || (hook.grace_is_over() && self.connection.waiting_for() == Waiting::Idle)
    }

    /// A time limit was hit: say which, where HTTP has words for it.
    pub(crate) fn expire(&mut self, core: &Core, cause: Cause, out: &mut Vec<u8>) {
        if matches!(cause, Cause::HeaderTimeout | Cause::BodyTimeout) {
            self.connection.time_out(&core.date.get(), out);
        }
    }

    pub(crate) fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        if call.next.is_none() {
            match call.events.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => call.next = Some(event.map_or(ColdEvent::Failed, |(_, event)| event)),
            }
        }
        Poll::Ready(())
    }

    /// Works on what came from elsewhere: the drain, what became of a message, the cold lane's answer.
    pub(crate) fn resume(
        &mut self,
        core: &Core,
        origin: &Origin,
        hook: &Hook,
        nothing_left_over: bool,
        out: &mut Vec<u8>,
    ) -> Wants {
        if hook.drain.get() && !self.draining {
            self.draining = true;
            self.connection.close_after_current();
        }
        // One request at a time: nothing is parsed while it waits.
        for settled in hook.settled.take() {
            let waits = match self.waits.take() {
                Some(Waits::Batch(head, mut batch)) => {
                    batch.settle(&settled, &core.shared.acks);
                    if !batch.is_complete() {
                        self.waits = Some(Waits::Batch(head, batch));
                        continue;
                    }
                    Waits::Batch(head, batch)
                }
                Some(waits) => waits,
                None => break,
            };
            self.connection.answer(&core.date.get(), out, |reply| match waits {
                Waits::Message(endpoint) => answer_settled(core, origin, endpoint, &settled, reply),
                Waits::Event(head) => match Reached::of(&settled, &core.shared.acks) {
                    Ok(reached) => {
                        answer_event(core, origin, &head, &settled.id, &reached, settled.since_ns, reply)
                    }
                    Err(refusal) => refuse_event(core, origin, &head, &refusal, reply),
                },
                Waits::Batch(head, batch) => answer_batch(core, origin, &head, &batch, reply),
                Waits::Facade(endpoint, route, answer) => {
                    let mut body = Vec::new();
                    let told = facade::settle(core, route, &settled, &answer, &mut body);
                    answer_facade(core, origin, (endpoint, route), told, &body, reply)
                }
            });
        }
        if let Some(call) = &mut self.call {
            while out.len() < OUTPUT_BYTES_MAX {
                let event = match call.next.take() {
                    Some(event) => event,
                    None => match call.events.try_recv() {
                        Ok((_, event)) => event,
                        Err(tokio::sync::mpsc::error::TryRecvError::Empty) => break,
                        Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => ColdEvent::Failed,
                    },
                };
                if apply(&mut self.connection, call, event, core, out) {
                    self.call = None;
                    break;
                }
            }
        }
        if self.connection.should_close() {
            return Wants::Close;
        }
        if self.call.is_some() || self.waits.is_some() {
            return Wants::Answer;
        }
        // Not at once: a request may be on its way, and its client would see an error instead of an answer that says
        // `Connection: close`.
        let idle = nothing_left_over && self.connection.waiting_for() == Waiting::Idle;
        if self.draining && hook.grace_is_over() && idle {
            return Wants::Close;
        }
        Wants::Input
    }

    /// Works on input; says how much was used.
    pub(crate) fn receive(
        &mut self,
        core: &Core,
        origin: &Origin,
        hook: &Rc<Hook>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Wants) {
        let mut used = 0;
        while used < input.len() {
            let mut service = Service { core, origin, hook, call: None, waits: None };
            let outcome = self.connection.receive(&input[used..], &core.date.get(), &mut service, out);
            self.call = service.call.take();
            self.waits = service.waits.take();
            match outcome {
                Ok(0) => break,
                Ok(taken) => {
                    used += taken;
                    self.recognised = true;
                    if !self.room.hold(self.connection.body_bytes_held()) {
                        core.counters.hit(Cause::BodyRoom);
                        self.connection.refuse_body(&core.date.get(), out);
                        return (input.len(), Wants::Close);
                    }
                }
                Err(close) => {
                    if !self.recognised && !speaks_http(input) {
                        // Neither protocol of this port: text would only confuse whoever is there.
                        out.clear();
                    }
                    core.counters.hit(match close.fault.status() {
                        413 => Cause::TooLarge,
                        _ => Cause::Http1Protocol,
                    });
                    return (input.len(), Wants::Close);
                }
            }
            if self.connection.is_pending() {
                return (used, Wants::Answer);
            }
        }
        let wants = if self.connection.should_close() { Wants::Close } else { Wants::Input };
        (used, wants)
    }
}

/// Whether the first line ends like a request line of any HTTP version.
fn speaks_http(input: &[u8]) -> bool {
    let line = &input[..memchr::memchr(b'\n', input).unwrap_or(input.len())];
    line.windows(5).any(|word| word == b"HTTP/")
}

/// Puts an event of the cold lane into the output; true when the answer is complete.
fn apply(
    connection: &mut Connection,
    call: &mut Call,
    event: ColdEvent,
    core: &Core,
    out: &mut Vec<u8>,
) -> bool {
    match event {
        ColdEvent::Head(parts, ends) => {
            let length = parts.headers.get(http::header::CONTENT_LENGTH);
            let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
            let fields =
                parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
            connection.begin_response(parts.status.as_u16(), fields, length, &core.date.get(), out);
            call.begun = true;
            if ends {
                connection.end(out);
            }
            ends
        }
        ColdEvent::Data(bytes) => {
            connection.body(&bytes, out);
            call.hold.sent(bytes.len());
            false
        }
        ColdEvent::End(_) => {
            connection.end(out);
            true
        }
        ColdEvent::Failed if call.begun => {
            connection.abort();
            true
        }
        ColdEvent::Failed => {
            let refusal = Refusal::new(500, Code::Internal, "The request could not be answered");
            connection.answer(&core.date.get(), out, |reply| refuse(reply, &refusal));
            true
        }
        ColdEvent::Taken(_) => false,
    }
}

/// Writes a refusal.
fn refuse(reply: Reply<'_>, refusal: &Refusal) -> Answer {
    let mut fields: Vec<(&[u8], &[u8])> = vec![(b"Content-Type", b"application/json")];
    if let Some(allow) = refusal.allow {
        fields.push((b"Allow", allow.as_bytes()));
    }
    if refusal.status == 401 {
        fields.push((b"WWW-Authenticate", b"Bearer"));
    }
    let retry_after = refusal.retry_after_seconds().map(|seconds| seconds.to_string());
    if let Some(seconds) = &retry_after {
        fields.push((b"Retry-After", seconds.as_bytes()));
    }
    reply.full(refusal.status, fields, &refusal.json())
}

/// Writes the answer to a request whose message's fate is known.
fn answer_settled(
    core: &Core,
    origin: &Origin,
    endpoint: Endpoint,
    settled: &Settled,
    reply: Reply<'_>,
) -> Answer {
    let note = |status| core.answered.note(origin.role, endpoint, status_index(status));
    let reached = match Reached::of(settled, &core.shared.acks) {
        Ok(reached) => reached,
        Err(refusal) => {
            note(refusal.status);
            return refuse(reply, &refusal);
        }
    };
    if endpoint.row().hot == Hot::EnqueueJson {
        note(202);
        let mut numbers = Default::default();
        return reply.full(202, reached_fields(&reached, &mut numbers), b"");
    }
    note(200);
    let mut body = core.body.borrow_mut();
    body.clear();
    write_stored(&mut body, &settled.id, &reached);
    reply.ready(&core.h1_ingested[reached.level as usize], &body)
}

/// The fields that say what one message has reached; `numbers` is room for shard and offset.
fn reached_fields<'a>(
    reached: &Reached,
    numbers: &'a mut [itoa::Buffer; 2],
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
    let [shard, offset] = numbers;
    let place = reached.offset.map(|at| {
        let place: [(&[u8], &[u8]); 2] = [
            (b"Tidegate-Shard", shard.format(reached.shard).as_bytes()),
            (b"Tidegate-Offset", offset.format(at).as_bytes()),
        ];
        place
    });
    let level: (&[u8], &[u8]) = (b"Tidegate-Ack", reached.level.name().as_bytes());
    let duplicate = reached.duplicate.then_some((&b"Tidegate-Duplicate"[..], &b"true"[..]));
    [level].into_iter().chain(place.into_iter().flatten()).chain(duplicate)
}

/// Writes the answer to an event.
fn answer_event(
    core: &Core,
    origin: &Origin,
    head: &EventHead,
    id: &MessageId,
    reached: &Reached,
    since_ns: u64,
    reply: Reply<'_>,
) -> Answer {
    let mut body = core.body.borrow_mut();
    body.clear();
    write_answer(core, id, reached.duplicate, since_ns, true, &mut body);
    answer_stored(core, origin, head, reached, &body, reply)
}

/// Writes the answer to a batch of which everything is known.
fn answer_batch(core: &Core, origin: &Origin, head: &EventHead, batch: &Batch, reply: Reply<'_>) -> Answer {
    let mut body = core.body.borrow_mut();
    body.clear();
    match batch.write(core, true, &mut body) {
        Ok(()) => {
            let reached = Reached { level: batch.level, ..Reached::QUEUED };
            answer_stored(core, origin, head, &reached, &body, reply)
        }
        Err(refusal) => refuse_event(core, origin, head, &refusal, reply),
    }
}

fn answer_stored(
    core: &Core,
    origin: &Origin,
    head: &EventHead,
    reached: &Reached,
    body: &[u8],
    reply: Reply<'_>,
) -> Answer {
    core.answered.note(origin.role, head.endpoint, status_index(200));
    let mut numbers = Default::default();
    head.with_request_id(core, |request_id| {
        let told: [(&[u8], &[u8]); 2] =
            [(b"Content-Type", b"application/json"), (b"X-Request-Id", request_id)];
        reply.full(200, told.into_iter().chain(reached_fields(reached, &mut numbers)), body)
    })
}

/// Writes why an event, or all of a batch, was not taken.
fn refuse_event(
    core: &Core,
    origin: &Origin,
    head: &EventHead,
    refusal: &Refusal,
    reply: Reply<'_>,
) -> Answer {
    let (status, body) = refusal_over_rest(refusal);
    core.answered.note(origin.role, head.endpoint, status_index(status));
    head.with_request_id(core, |request_id| {
        let told: [(&[u8], &[u8]); 3] =
            [(b"Content-Type", b"application/json"), (b"X-Request-Id", request_id), (b"Retry-After", b"1")];
        let fields = if is_worth_retrying(refusal) { 3 } else { 2 };
        reply.full(status, told.into_iter().take(fields), &body)
    })
}

/// Writes the answer of an older system's route.
fn answer_facade(
    core: &Core,
    origin: &Origin,
    (endpoint, route): (Endpoint, usize),
    (status, reached): (u16, Option<Reached>),
    body: &[u8],
    reply: Reply<'_>,
) -> Answer {
    core.answered.note(origin.role, endpoint, status_index(status));
    let own = core.shared.events.facade.fields(route);
    let mut numbers = Default::default();
    let reached = reached.as_ref().map(|reached| reached_fields(reached, &mut numbers));
    let fields = [(&b"Content-Type"[..], &b"application/json"[..])]
        .into_iter()
        .chain(reached.into_iter().flatten())
        .chain((status == 503).then_some((&b"Retry-After"[..], &b"1"[..])))
        .chain(own.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    reply.full(status, fields, body)
}

/// Whether a content type is one of lines of JSON.
pub(crate) fn is_lines(content_type: Option<&[u8]>) -> bool {
    let known = [&b"application/x-ndjson"[..], b"application/ndjson", b"application/jsonl"];
    let begins_with = |content_type: &[u8], lines: &[u8]| {
        content_type.get(..lines.len()).is_some_and(|start| start.eq_ignore_ascii_case(lines))
    };
    content_type.is_some_and(|content_type| known.iter().any(|lines| begins_with(content_type, lines)))
}

/// What the parser calls.
struct Service<'a> {
    core: &'a Core,
    origin: &'a Origin,
    hook: &'a Rc<Hook>,
    call: Option<Call>,
    waits: Option<Waits>,
}

impl Service<'_> {
    fn note(&self, endpoint: Endpoint, status: u16) {
        self.core.answered.note(self.origin.role, endpoint, status_index(status));
    }

    fn turn_down(&self, endpoint: Endpoint, refusal: &Refusal, reply: Reply<'_>) -> Answer {
        self.note(endpoint, refusal.status);
        refuse(reply, refusal)
    }

    /// A request for an event route: taken here when it is plain, else passed on.
    fn event(&mut self, endpoint: Endpoint, head: &RequestHead<'_>, body: &[u8], reply: Reply<'_>) -> Answer {
        let core = self.core;
        let plain = !endpoint.is_grpc() && head.field("content-encoding").is_none();
        let event_head = plain
            .then(|| EventHead::read(endpoint, &core.shared.acks, |name| head.values(name)))
            .flatten()
            .filter(|event_head| event_head.is_admitted(core));
        let Some(event_head) = event_head else { return self.pass_on(head, body, reply) };
        let hook = self.hook;
        let caller = |place| Caller { hook: Rc::clone(hook), stream: 0, place };
        if let Some(route) = endpoint.facade() {
            return match facade::take(core, route, body, &event_head, || caller(0)) {
                None => self.pass_on(head, body, reply),
                Some(Taken::Stored) => {
                    let (draft, status) = (core.draft.borrow(), core.shared.events.facade.status(route));
                    let told = (status, Some(Reached::QUEUED));
                    answer_facade(core, self.origin, (endpoint, route), told, &draft.answer, reply)
                }
                Some(Taken::Waits(_, answer)) => {
                    self.waits = Some(Waits::Facade(endpoint, route, answer));
                    reply.later()
                }
            };
        }
        let mut transcoded = core.transcoded.borrow_mut();
        transcoded.clear();
        if endpoint.is_single_event() {
            let taken = transcode_event(body, &mut transcoded)
                .and_then(|()| take_event(core, &transcoded, &event_head, || caller(0)));
            return match taken {
                None => self.pass_on(head, body, reply),
                Some(Ok(Accepted::Waits(_))) => {
                    self.waits = Some(Waits::Event(Box::new(event_head)));
                    reply.later()
                }
                Some(Ok(Accepted::Now(ours))) => {
                    let (ours, now_ns) = (ours.as_slice().into(), core.clock.now_ns());
                    answer_event(core, self.origin, &event_head, &ours, &Reached::QUEUED, now_ns, reply)
                }
                Some(Err(refused)) => refuse_event(core, self.origin, &event_head, &refused.into(), reply),
            };
        }
        let mut ends = Vec::new();
        let transcode = if is_lines(head.field("content-type")) { transcode_lines } else { transcode_events };
        let batch = transcode(body, &mut transcoded, &mut ends)
            .and_then(|()| Batch::take(core, pieces(&transcoded, &ends), &event_head, caller));
        match batch {
            None => self.pass_on(head, body, reply),
            Some(batch) if batch.is_complete() => answer_batch(core, self.origin, &event_head, &batch, reply),
            Some(batch) => {
                self.waits = Some(Waits::Batch(Box::new(event_head), batch));
                reply.later()
            }
        }
    }

    /// Passes a request to the cold lane.
    fn pass_on(&mut self, head: &RequestHead<'_>, body: &[u8], reply: Reply<'_>) -> Answer {
        let request = match cold_request(head, body, self.origin) {
            Ok(request) => request,
            Err(error) => {
                let refusal = Refusal::new(400, Code::InvalidArgument, format!("the request head: {error}"));
                return refuse(reply, &refusal);
            }
        };
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let (answer, hold) = ColdAnswer::new(0, sender);
        if self.core.shared.cold.try_send(ColdCall { request, answer }).is_err() {
            self.core.counters.hit(Cause::ColdLaneFull);
            let refusal =
                Refusal::new(503, Code::Unavailable, "Too many requests wait for an answer of this kind");
            return refuse(reply, &refusal);
        }
        self.core.counters.add(Tally::ColdCalls, 1);
        self.call = Some(Call { hold, events, next: None, begun: false });
        reply.later()
    }
}

impl Application for Service<'_> {
    fn head(&mut self, head: &RequestHead<'_>, reply: Reply<'_>) -> Accept {
        let limit = self.core.shared.limits.http_body_bytes_max;
        let too_large = head.content_length().is_some_and(|length| length > limit as u64);
        match route(head.method(), head.path()) {
            Route::Cold | Route::Hot(_) if too_large => {
                self.core.counters.hit(Cause::TooLarge);
                let refusal = Refusal::too_large(limit);
                Accept::Refused(match route(head.method(), head.path()) {
                    Route::Hot(endpoint) => self.turn_down(endpoint, &refusal, reply),
                    _ => refuse(reply, &refusal),
                })
            }
            Route::Cold => Accept::Body,
            // The cold lane answers what is unusual.
            Route::Hot(endpoint) if endpoint.is_event() => Accept::Body,
            Route::MethodNotAllowed(endpoint) => {
                let refusal = Refusal::method_not_allowed(allow(endpoint));
                Accept::Refused(self.turn_down(endpoint, &refusal, reply))
            }
            Route::Hot(endpoint) if endpoint.is_grpc() => {
                let refusal = Refusal::new(
                    415,
                    Code::Internal,
                    "gRPC needs HTTP/2; over HTTP/1.1 post JSON to /api/v1/ingest",
                );
                Accept::Refused(self.turn_down(endpoint, &refusal, reply))
            }
            Route::Hot(endpoint) => match unsuitable(|name| head.field(name)) {
                Some(refusal) => Accept::Refused(self.turn_down(endpoint, &refusal, reply)),
                None => Accept::Body,
            },
        }
    }

    fn request(&mut self, head: &RequestHead<'_>, body: &[u8], reply: Reply<'_>) -> Answer {
        let Route::Hot(endpoint) = route(head.method(), head.path()) else {
            return self.pass_on(head, body, reply);
        };
        let core = self.core;
        let hot = endpoint.row().hot;
        if hot == Hot::Health {
            let (status, body) = core.health(endpoint, self.origin.role);
            self.note(endpoint, status);
            let own = core.shared.health.fields();
            let fields = [(&b"Content-Type"[..], &b"application/json"[..])]
                .into_iter()
                .chain((status == 503).then_some((&b"Retry-After"[..], &b"1"[..])))
                .chain(own.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            return reply.full(status, fields, &body);
        }
        if endpoint.is_event() {
            return self.event(endpoint, head, body, reply);
        }
        let acks = &core.shared.acks;
        let terms = Terms::read(acks, |name| head.values(name));
        let terms = match terms.and_then(|terms| terms.admit(acks).map(|()| terms)) {
            Ok(terms) => terms,
            Err(refusal) => return self.turn_down(endpoint, &refusal, reply),
        };
        let hook = self.hook;
        let caller = || Caller { hook: Rc::clone(hook), stream: 0, place: 0 };
        match hot {
            Hot::IngestJson => match ingest::ingest_json(core, body, &terms, caller) {
                Ok(Accepted::Waits(_)) => {
                    self.waits = Some(Waits::Message(endpoint));
                    reply.later()
                }
                Ok(Accepted::Now(id)) => {
                    self.note(endpoint, 200);
                    reply.ready(&core.h1_ingested[0], &ingested(&id))
                }
                Err(refusal) => self.turn_down(endpoint, &refusal, reply),
            },
            Hot::EnqueueJson => {
                let probe = head.field("tidegate-probe") == Some(core.shared.probe_token.as_bytes());
                // A probe asks whether messages get through, not whether they are kept.
                let guard = &core.shared.events.guard;
                let terms = if probe {
                    Terms::immediate()
                } else {
                    terms.with_events(guard, |name| head.field(name))
                };
                let kind = if probe { KIND_PROBE } else { 0 };
                match ingest::enqueue_json(core, body, kind, &terms, caller) {
                    Ok(Accepted::Waits(_)) => {
                        self.waits = Some(Waits::Message(endpoint));
                        reply.later()
                    }
                    Ok(Accepted::Now(_)) => {
                        if !probe {
                            self.note(endpoint, 202);
                        }
                        reply.ready(&core.h1_enqueued, b"")
                    }
                    Err(refusal) => self.turn_down(endpoint, &refusal, reply),
                }
            }
            // Refused with the head, or answered above.
            _ => self.pass_on(head, body, reply),
        }
    }
}

/// The methods of a hot path.
pub(crate) fn allow(endpoint: Endpoint) -> &'static str {
    match endpoint.row().method {
        "GET" => "GET, HEAD",
        other => other,
    }
}

/// What in a head keeps a hot route from being served: an encoded body.
pub(crate) fn unsuitable<'a>(field: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Refusal> {
    if let Some(coding) = field("content-encoding")
        && !coding.eq_ignore_ascii_case(b"identity")
    {
        let coding = String::from_utf8_lossy(coding).into_owned();
        let text = format!("content-encoding: `{coding}` is not taken on this route; send the body as it is");
        return Some(Refusal::new(415, Code::InvalidArgument, text));
    }
    None
}

fn cold_request(
    head: &RequestHead<'_>,
    body: &[u8],
    origin: &Origin,
) -> Result<Request<ColdBody>, http::Error> {
    let mut headers = HeaderMap::with_capacity(head.fields().len());
    for (name, value) in head.fields() {
        headers.append(HeaderName::from_bytes(name)?, HeaderValue::from_bytes(value)?);
    }
    let mut target = head.path().to_vec();
    if let Some(query) = head.query() {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    let mut request = Request::new(ColdBody::whole(Bytes::copy_from_slice(body)));
    *request.method_mut() = Method::from_bytes(head.method())?;
    *request.uri_mut() = Uri::try_from(target)?;
    *request.headers_mut() = headers;
    request.extensions_mut().insert(Arrival { role: origin.role, peer: origin.peer });
    Ok(request)
}

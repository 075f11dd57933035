//! Events of `analytics.v1` on the hot lane.
//!
//! Here an event is taken when it is plain (see [`message`](crate::message)) and so is its request. Everything else,
//! whether wrong or only unusual, is passed on whole to the cold lane, which has the general decoders and the words.

use std::sync::Arc;

use engine_core::{
    AckLevel, HOW_SENT, KEY_OVERRIDE, KIND_EVENT, MetadataWriter, Refused, TRACE_KEY, Traceparent,
    schema::Judged,
};

use crate::{
    answer::{Reached, Refusal},
    core::Core,
    facade::Facade,
    grpc::Code,
    guard::Guard,
    lane::{Accepted, Incoming},
    message::{
        EventProto, NotTaken, Stamp, decode_event, encode_event_response, encode_events_response,
        write_event_response, write_events_response,
    },
    routes::Endpoint,
    terms::{AckPolicy, Terms, agrees},
    waiting::{Caller, MessageId, Settled},
};

/// The metadata key that says what an event's payload is; the second pair, behind
/// [`KEY_OVERRIDE`](engine_core::KEY_OVERRIDE), or the first.
pub use engine_core::schema::SCHEMA_KEY;
/// The schema of an event of `analytics.v1`: its payload is the protobuf bytes as they were sent.
pub const EVENT_SCHEMA: &[u8] = engine_core::schema::EVENTS[0];

/// Events of one request (docs/events.md).
const BATCH_MAX: usize = 1000;
/// Longest id of a request that is given back.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What serves events.
#[derive(Clone)]
pub struct EventPlan {
    /// Who may ask.
    pub guard: Guard,
    /// What this process calls itself.
    pub node: Arc<str>,
    /// What judges an event that is not plain, where the cold lane cannot be asked: in the middle of a stream.
    pub rules: Arc<dyn EventRules>,
    /// The older systems' routes.
    pub facade: Arc<dyn Facade>,
}

/// Judges events that are not plain.
pub trait EventRules: Send + Sync {
    /// Looks at an event's bytes. `at` is where it stands in the request: `events[3]`.
    fn examine(&self, event: &[u8], at: &str) -> Examined;

    /// Looks at an event of this schema ([`engine_core::schema`]) that comes as a message.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn judge(&self, schema: &[u8], event: &[u8]) -> Result<Judged, String>;
}

/// What an event that was not plain turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// Good; these bytes say the same plainly.
    Good(Vec<u8>),
    /// Against the rules: the `IngestEventResponse` that says so, encoded.
    Bad(Vec<u8>),
    /// No event at all, in words.
    Broken(String),
}

/// What of a request's head concerns its events.
#[derive(Debug)]
pub(crate) struct EventHead {
    pub(crate) endpoint: Endpoint,
    pub(crate) terms: Terms,
    api_key: Option<Box<[u8]>>,
    authorization: Option<Box<[u8]>>,
    request_id: Option<Box<[u8]>>,
}

impl EventHead {
    /// Reads a head; `None`: there is something in it that the cold lane has to answer.
    pub(crate) fn read<'a, V: Iterator<Item = &'a [u8]>>(
        endpoint: Endpoint,
        policy: &AckPolicy,
        values: impl Fn(&'static str) -> V,
    ) -> Option<Self> {
        let field = |name| values(name).next();
        // gRPC's own is watched where the connection is; over REST it is the cold lane that does.
        if !endpoint.is_grpc() && field("grpc-timeout").is_some() {
            return None;
        }
        let mut terms = Terms::read(policy, &values).ok()?;
        if !endpoint.is_single_event() {
            // A key is for one message; the events of a batch have ids of their own.
            terms.key = None;
        }
        let kept = |name| field(name).map(Box::from);
        let is_an_id = |value: &&[u8]| !value.is_empty() && value.len() <= REQUEST_ID_BYTES_MAX;
        Some(Self {
            endpoint,
            terms,
            api_key: kept("x-api-key"),
            authorization: kept("authorization"),
            request_id: field("x-request-id").filter(is_an_id).map(Box::from),
        })
    }

    /// Whether the caller may send events, and what it asks for can be had now.
    pub(crate) fn is_admitted(&self, core: &Core) -> bool {
        let shared = &core.shared;
        let guard = &shared.events.guard;
        // The older systems' routes ask for no key of their own; where all do, the terms did.
        let may_ask = self.endpoint.facade().is_some()
            || guard.admits(self.api_key.as_deref(), self.authorization.as_deref()).is_ok();
        may_ask && self.terms.admit(&shared.acks).is_ok()
    }

    /// The caller's `traceparent`.
    pub(crate) fn trace(&self) -> Option<&[u8]> {
        self.terms.trace.as_ref().map(Traceparent::as_bytes)
    }

    /// Calls `then` with the id that the answer carries: the request's own, or one of ours.
    pub(crate) fn with_request_id<T>(&self, core: &Core, then: impl FnOnce(&[u8]) -> T) -> T {
        if let Some(id) = &self.request_id {
            return then(id);
        }
        let mut ours = *b"req-........-....-....-....-............";
        ours[4..].copy_from_slice(&core.lane.borrow_mut().next_id(core.clock.unix_ms()));
        then(&ours)
    }
}

/// Puts a plain event into the queue; `payload` are its bytes. `full_is_refused`: else who asks waits for room.
fn offer(
    core: &Core,
    event: &EventProto<'_>,
    payload: &[u8],
    head: &EventHead,
    full_is_refused: bool,
    caller: impl FnOnce() -> Caller,
) -> Result<Accepted, Refused> {
    let mut metadata = core.metadata.borrow_mut();
    metadata.clear();
    let mut writer = MetadataWriter::new(&mut metadata);
    writer.push(KEY_OVERRIDE, event.user_id);
    writer.push(SCHEMA_KEY, EVENT_SCHEMA);
    if head.endpoint.is_batch_of_events() {
        writer.push(HOW_SENT, b"batch");
    }
    if let Some(trace) = head.trace() {
        writer.push(TRACE_KEY, trace);
    }
    let incoming = Incoming {
        id: (!event.id.is_empty()).then_some(event.id),
        source: event.source,
        payload,
        metadata: &metadata,
        timestamp_seconds: event.timestamp_ms.map(|ms| ms / 1000),
        once: true,
    };
    if full_is_refused {
        core.accept(&incoming, KIND_EVENT, &head.terms, caller)
    } else {
        core.accept_or_wait(&incoming, KIND_EVENT, &head.terms, caller)
    }
}

/// The clock as the rules for events want it.
pub(crate) fn now_ms(core: &Core) -> i64 {
    i64::try_from(core.clock.unix_ms()).unwrap_or(i64::MAX)
}

/// Takes the one event of a request. `None`: it is not plain, or its key is not its id.
pub(crate) fn take_event(
    core: &Core,
    bytes: &[u8],
    head: &EventHead,
    caller: impl FnOnce() -> Caller,
) -> Option<Result<Accepted, Refused>> {
    let event = decode_event(bytes, now_ms(core))?;
    if !agrees(head.terms.key.as_deref(), event.id) {
        return None;
    }
    Some(offer(core, &event, bytes, head, true, caller))
}

/// What became of an event of a stream.
#[derive(Debug)]
pub(crate) enum Streamed {
    /// It is in the queue, and that is what was asked for: the id it goes by.
    Stored(MessageId),
    /// It is in the queue; what becomes of it is told later.
    Waits,
    /// There is no room: offer it again later.
    NoRoom,
    /// It was not taken: its own id, and why.
    Refused(MessageId, Refusal),
}

/// Takes a plain event of a stream; `bytes` are its bytes.
pub(crate) fn take_streamed(
    core: &Core,
    event: &EventProto<'_>,
    bytes: &[u8],
    head: &EventHead,
    caller: impl FnOnce() -> Caller,
) -> Streamed {
    match offer(core, event, bytes, head, false, caller) {
        Ok(Accepted::Now(ours)) => Streamed::Stored(ours.as_slice().into()),
        Ok(Accepted::Waits(_)) => Streamed::Waits,
        Err(Refused::QueueFull | Refused::OverBudget) => Streamed::NoRoom,
        Err(refused) => Streamed::Refused(event.id.into(), refused.into()),
    }
}

/// An event of a batch that was not taken.
#[derive(Debug)]
struct Failed {
    place: u32,
    id: MessageId,
    refusal: Refusal,
}

/// The events of one request on their way.
#[derive(Debug)]
pub(crate) struct Batch {
    since_ns: u64,
    /// Of how many it is not known what became of them.
    left: usize,
    stored: usize,
    failed: Vec<Failed>,
    /// The lowest level that any of them reached.
    pub(crate) level: AckLevel,
}

impl Batch {
    /// Takes the events of a request. `None`: not all of them are plain, or the queue has no room for all of them
    /// now; the cold lane takes such a batch in pieces.
    pub(crate) fn take<'a>(
        core: &Core,
        events: impl Iterator<Item = &'a [u8]>,
        head: &EventHead,
        caller: impl Fn(u32) -> Caller,
    ) -> Option<Self> {
        let now_ms = now_ms(core);
        let mut plain = Vec::new();
        for bytes in events.take(BATCH_MAX + 1) {
            plain.push((decode_event(bytes, now_ms)?, bytes));
        }
        let count = plain.len();
        if !(1..=BATCH_MAX).contains(&count) || !core.lane.borrow_mut().has_room(count) {
            return None;
        }
        let (since_ns, level) = (core.clock.now_ns(), head.terms.level);
        let mut batch = Self { since_ns, left: 0, stored: 0, failed: Vec::new(), level };
        // There are at most a thousand.
        for (place, (event, bytes)) in (0_u32..).zip(&plain) {
            match offer(core, event, bytes, head, true, || caller(place)) {
                Ok(Accepted::Now(_)) => batch.stored += 1,
                Ok(Accepted::Waits(_)) => batch.left += 1,
                Err(refused) => {
                    batch.failed.push(Failed { place, id: event.id.into(), refusal: refused.into() });
                }
            }
        }
        Some(batch)
    }

    /// It is known what became of one of them.
    pub(crate) fn settle(&mut self, settled: &Settled, policy: &AckPolicy) {
        self.left = self.left.saturating_sub(1);
        match Reached::of(settled, policy) {
            Ok(reached) => {
                self.stored += 1;
                self.level = self.level.min(reached.level);
            }
            Err(refusal) => {
                self.failed.push(Failed { place: settled.place, id: settled.id.clone(), refusal });
            }
        }
    }

    /// Of how many it is not known what became of them.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Whether it is known of all of them.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Appends the answer, as protobuf or as JSON.
    ///
    /// # Errors
    /// When none was taken: why the first one was not. The caller has to try again.
    pub(crate) fn write(&self, core: &Core, as_json: bool, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let mut failed: Vec<&Failed> = self.failed.iter().collect();
        // They are settled in any order.
        failed.sort_unstable_by_key(|failed| failed.place);
        if self.stored == 0
            && let Some(Failed { place, refusal, .. }) = failed.first()
        {
            let mut refusal = refusal.clone();
            if refusal.code == Code::AlreadyExists {
                refusal.text =
                    format!("{}: {}", place_of(*place as usize, refusal.code), refusal.text).into();
            }
            return Err(refusal);
        }
        let ids: Vec<_> = failed.iter().map(|failed| failed.id.text()).collect();
        let failed: Vec<NotTaken<'_>> = ids
            .iter()
            .zip(failed)
            .map(|(id, Failed { place, refusal, .. })| NotTaken {
                place: place_of(*place as usize, refusal.code),
                id,
                message: &refusal.text,
                code: refusal.code.name(),
            })
            .collect();
        let write = if as_json { write_events_response } else { encode_events_response };
        write(out, self.stored, &failed, &stamp(core, self.since_ns));
        Ok(())
    }
}

/// Where in its batch an event stands that was not taken: a conflict is one of its id.
pub fn place_of(place: usize, code: Code) -> String {
    let field = if code == Code::AlreadyExists { ".id" } else { "" };
    format!("events[{place}]{field}")
}

/// When and where an event is answered.
pub(crate) fn stamp(core: &Core, since_ns: u64) -> Stamp<'_> {
    Stamp {
        unix_ms: core.clock.unix_ms(),
        node: &core.shared.events.node,
        took_ns: core.clock.now_ns().saturating_sub(since_ns),
    }
}

/// What is said of a stored event.
pub(crate) fn verdict(duplicate: bool) -> &'static str {
    if duplicate { "duplicate" } else { "accepted" }
}

/// Appends the answer to the one event of a request, as protobuf or as JSON.
pub(crate) fn write_answer(
    core: &Core,
    id: &MessageId,
    duplicate: bool,
    since_ns: u64,
    as_json: bool,
    out: &mut Vec<u8>,
) {
    let stamp = stamp(core, since_ns);
    if as_json {
        write_event_response(out, &id.text(), verdict(duplicate), &stamp);
    } else {
        encode_event_response(out, true, id.bytes(), verdict(duplicate), &stamp);
    }
}

/// A refusal over REST, by the rules of grpc-gateway: status and body.
pub(crate) fn refusal_over_rest(refusal: &Refusal) -> (u16, Vec<u8>) {
    let status = refusal.code.http_status();
    let body = serde_json::json!({"code": refusal.code.number(), "message": refusal.text, "details": []});
    (status, body.to_string().into_bytes())
}

/// Whether a refusal over REST is worth trying again in a second.
pub(crate) fn is_worth_retrying(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::ResourceExhausted | Code::Unavailable)
}

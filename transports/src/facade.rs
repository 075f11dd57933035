//! Routes of older systems on the hot lane: one body in, one message out, one answer in that system's words.
//!
//! What they look like is the binary's affair ([`Facade`]). What a facade does not take, and what there is no room for, is
//! passed on whole to the cold lane, as everything else of these systems.

use std::num::NonZeroU64;

use engine_core::{KIND_EVENT, MetadataWriter, TRACE_KEY};

use crate::{
    answer::{Reached, Refusal},
    core::Core,
    events::EventHead,
    inject::{Injected, NotTaken},
    lane::Accepted,
    terms::Terms,
    waiting::{Caller, Settled},
};

/// The routes, by the number that a [`Facade`] knows them by; the last one is gRPC.
pub const FACADE_PATHS: [&str; 9] = [
    "/events",
    "/events/async",
    "/api/v1/events/user",
    "/api/v1/events/user-created",
    "/api/v1/events/order",
    "/api/v1/events/order-placed",
    "/api/v1/events/payment",
    "/api/v1/events/payment-processed",
    "/analytics.ProducerService/SendEvent",
];

/// A message that a facade makes, and the answer when it is stored. Kept from request to request, so that making one
/// needs no allocation.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The message.
    pub message: Injected,
    /// Whether the route is answered without waiting.
    pub asynchronous: bool,
    /// The body of the answer: JSON, or a protobuf message.
    pub answer: Vec<u8>,
}

impl Draft {
    fn clear(&mut self) {
        let Injected { id, source, payload, metadata, timestamp_seconds, once } = &mut self.message;
        for bytes in [id, source, payload, metadata, &mut self.answer] {
            bytes.clear();
            // A large one is not kept.
            bytes.shrink_to(DRAFT_KEPT_BYTES_MAX);
        }
        (*timestamp_seconds, *once, self.asynchronous) = (None, false, false);
    }
}

/// Room that a draft keeps of each of its parts.
const DRAFT_KEPT_BYTES_MAX: usize = 64 << 10;

/// The older systems' routes, by their number in [`FACADE_PATHS`].
pub trait Facade: Send + Sync {
    /// Reads a body into a draft; false: the cold lane answers.
    fn read(&self, route: usize, body: &[u8], unix_ms: u64, draft: &mut Draft) -> bool;

    /// The status of a success.
    fn status(&self, route: usize) -> u16;

    /// Fields of every answer.
    fn fields(&self, route: usize) -> &[(&'static str, &'static str)];

    /// The message with this id was stored, so long after it was put into the queue.
    fn stored(&self, route: usize, id: &[u8], took_ns: u64);

    /// Writes the answer for a message that was not taken after all, and returns its status.
    fn refuse(&self, route: usize, id: &str, why: &NotTaken, out: &mut Vec<u8>) -> u16;
}

/// What a request came to.
pub(crate) enum Taken {
    /// It is stored as was asked; the answer is in the core's draft.
    Stored,
    /// What becomes of it is told later; the answer for a success.
    Waits(NonZeroU64, Vec<u8>),
}

/// Takes the message of a request. `None`: the cold lane has to.
pub(crate) fn take(
    core: &Core,
    route: usize,
    body: &[u8],
    head: &EventHead,
    caller: impl FnOnce() -> Caller,
) -> Option<Taken> {
    let mut draft = core.draft.borrow_mut();
    draft.clear();
    let facade = &core.shared.events.facade;
    if !facade.read(route, body, core.clock.unix_ms(), &mut draft) {
        return None;
    }
    if let Some(trace) = head.trace() {
        MetadataWriter::new(&mut draft.message.metadata).push(TRACE_KEY, trace);
    }
    let mut terms = Terms { key: None, ..head.terms.clone() };
    if draft.asynchronous {
        if terms.insists() {
            // A contradiction.
            return None;
        }
        terms = terms.asynchronous();
    }
    let policy = &core.shared.acks;
    if policy.unreachable[terms.level as usize].is_some()
        || terms.admit(policy).is_err()
        || !core.lane.borrow_mut().has_room(1)
    {
        return None;
    }
    match core.accept(&draft.message.incoming(), KIND_EVENT, &terms, caller).ok()? {
        Accepted::Now(_) => {
            facade.stored(route, &draft.message.id, 0);
            Some(Taken::Stored)
        }
        Accepted::Waits(token) => Some(Taken::Waits(token, draft.answer.clone())),
    }
}

/// Writes what is answered to a message of which it is known what became of it: status, body, what it reached.
pub(crate) fn settle(
    core: &Core,
    route: usize,
    settled: &Settled,
    success: &[u8],
    out: &mut Vec<u8>,
) -> (u16, Option<Reached>) {
    let facade = &core.shared.events.facade;
    match Reached::of(settled, &core.shared.acks) {
        Ok(reached) => {
            let took_ns = core.clock.now_ns().saturating_sub(settled.since_ns);
            facade.stored(route, settled.id.bytes(), took_ns);
            out.extend_from_slice(success);
            (facade.status(route), Some(reached))
        }
        Err(refusal) => (refuse(core, route, &settled.id.text(), refusal, out), None),
    }
}

/// Writes a refusal in the facade's words.
pub(crate) fn refuse(core: &Core, route: usize, id: &str, refusal: Refusal, out: &mut Vec<u8>) -> u16 {
    core.shared.events.facade.refuse(route, id, &NotTaken::from(refusal), out)
}

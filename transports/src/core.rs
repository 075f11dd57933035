//! What all connections of one core share. One thread, no lock: cells and plain borrows that end before every await.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use engine_core::AckLevel;
use parking_lot::Mutex;

use crate::{
    clock::Clock,
    cold::ColdSender,
    counters::{Answered, Cause, FrontCounters, Tally},
    events::EventPlan,
    facade::Draft,
    grpc::Inflater,
    grpc_answer::GrpcBlocks,
    h1,
    h2::{self, Block, FieldName},
    hook::Hook,
    lane::{Accepted, Incoming, Lane, count_offer},
    limits::Limits,
    listener::Role,
    room::RoomLine,
    routes::{Endpoint, LIVENESS_PATH},
    session_h2,
    terms::{AckPolicy, Terms},
    turns::Turns,
    waiting::Caller,
};

/// What `/health` and `/livez` answer, rendered by the binary: it knows what there is to be healthy about.
pub trait Health: Send + Sync {
    /// `/health`: HTTP status and JSON body, for the port of this role.
    fn report(&self, role: Role) -> (u16, Vec<u8>);

    /// What the answers of both have beside the usual fields; names in lower case.
    fn fields(&self) -> &'static [(&'static str, &'static str)];

    /// `/livez`: HTTP status and JSON body; these cores' loops do not turn.
    fn liveness(&self, stalled: &[usize]) -> (u16, Vec<u8>);
}

/// When each core's loop last turned.
#[derive(Debug)]
pub struct Beats {
    since: Instant,
    /// Milliseconds, by core.
    last: Box<[AtomicU64]>,
}

impl Beats {
    /// A loop beats once a second; one that has not for so long stands still.
    const STALLED_AFTER: Duration = Duration::from_millis(2500);

    pub(crate) fn new(cores: usize) -> Self {
        Self { since: Instant::now(), last: (0..cores).map(|_| AtomicU64::new(0)).collect() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// This core's loop turns.
    pub(crate) fn beat(&self, core: usize) {
        // Relaxed: nothing else is read by it.
        self.last[core].store(self.now_ms(), Ordering::Relaxed);
    }

    /// The cores whose loops stand still.
    pub fn stalled(&self) -> Vec<usize> {
        let limit = self.now_ms().saturating_sub(Self::STALLED_AFTER.as_millis() as u64);
        let stalls = |(_, last): &(usize, &AtomicU64)| last.load(Ordering::Relaxed) < limit;
        self.last.iter().enumerate().filter(stalls).map(|(core, _)| core).collect()
    }
}

/// What the cores share among each other; touched when connections come and go, never per request.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) health: Arc<dyn Health>,
    pub(crate) beats: Arc<Beats>,
    pub(crate) cold: ColdSender,
    /// What accepting a message can mean.
    pub(crate) acks: AckPolicy,
    /// Marks the messages of our own probe.
    pub(crate) probe_token: String,
    /// What serves events.
    pub(crate) events: EventPlan,
    /// Connections open over all cores.
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_max: usize,
    /// Connections by client address; an entry exists while its count is not 0, so `connections_max` bounds it.
    pub(crate) by_address: Mutex<std::collections::HashMap<IpAddr, usize>>,
}

/// Answers that are the same every time, encoded once a second for the date's sake.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// HTTP/2 `200` with JSON, the level `queued` and the date.
    pub(crate) h2_ingested: Block,
    /// HTTP/2 `200` with JSON of any length, by level.
    pub(crate) h2_stored: [Block; 3],
    /// The name of the field that such a head lacks.
    pub(crate) content_length: FieldName,
    /// HTTP/2 `202` without a body.
    pub(crate) h2_enqueued: Block,
}

/// Everything a connection of this core needs.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Clock,
    pub(crate) lane: RefCell<Lane>,
    pub(crate) counters: Arc<FrontCounters>,
    pub(crate) answered: Answered,
    pub(crate) date: Cell<[u8; 29]>,
    pub(crate) prepared: RefCell<Prepared>,
    /// Pre-encoded HTTP/1.1 heads, by level.
    pub(crate) h1_ingested: [h1::Ready; 3],
    pub(crate) h1_enqueued: h1::Ready,
    pub(crate) draining: Cell<bool>,
    /// The core's connections, for the sweep and the drain.
    pub(crate) hooks: RefCell<Vec<Rc<Hook>>>,
    /// Connections with streams that wait for room in the queue.
    pub(crate) room: RoomLine,
    /// Tasks that let the others run first.
    pub(crate) turns: Turns,
    /// The one read buffer of the core; taken and put back within a turn.
    pub(crate) input: RefCell<Vec<u8>>,
    /// The one output buffer of the core.
    pub(crate) output: RefCell<Vec<u8>>,
    /// Room for a message's metadata while it is decoded.
    pub(crate) metadata: RefCell<Vec<u8>>,
    /// Room for a payload that is decoded from base64.
    pub(crate) inflated: RefCell<Vec<u8>>,
    /// Room for the head of an answer over HTTP/2.
    pub(crate) block: RefCell<Block>,
    /// Room for the body of an answer.
    pub(crate) body: RefCell<Vec<u8>>,
    /// Room for events that came as JSON.
    pub(crate) transcoded: RefCell<Vec<u8>>,
    /// Room for a message of an older system's route.
    pub(crate) draft: RefCell<Draft>,
    /// Undoes the compression of gRPC messages.
    pub(crate) inflater: RefCell<Inflater>,
    /// Pre-encoded gRPC blocks.
    pub(crate) grpc: GrpcBlocks,
    /// The limits of HTTP/2 connections.
    pub(crate) h2_limits: Arc<h2::Limits>,
    /// Bytes of requests that are being collected.
    collected_bytes: Cell<usize>,
}

impl Core {
    /// Says that this core's loop turns.
    pub(crate) fn beat(&self) {
        let core = self.lane.borrow_mut().shard().core();
        self.shared.beats.beat(core);
    }

    /// The answer of a health endpoint on the port of this role.
    pub(crate) fn health(&self, endpoint: Endpoint, role: Role) -> (u16, Vec<u8>) {
        if endpoint.row().path == LIVENESS_PATH {
            return self.shared.health.liveness(&self.shared.beats.stalled());
        }
        self.shared.health.report(role)
    }

    pub(crate) fn new(shared: Arc<Shared>, lane: Lane, counters: Arc<FrontCounters>) -> Self {
        // One frame of the largest size and what may stand before it.
        let input_bytes =
            (64 << 10).max(shared.limits.frame_bytes_max + (16 << 10)) + shared.limits.header_list_bytes_max;
        let date = h1::http_date(SystemTime::now());
        let h2_limits = session_h2::limits(&shared.limits);
        let grpc_message_bytes_max = shared.limits.grpc_message_bytes_max;
        Self {
            shared,
            clock: Clock::new(),
            lane: RefCell::new(lane),
            counters,
            answered: Answered::default(),
            date: Cell::new(date),
            prepared: RefCell::new(prepare(&date)),
            h1_ingested: AckLevel::ALL.map(|level| {
                h1::Ready::new(200, &[("Content-Type", "application/json"), ("Tidegate-Ack", level.name())])
            }),
            h1_enqueued: h1::Ready::new(202, &[("Tidegate-Ack", AckLevel::Queued.name())]),
            draining: Cell::new(false),
            hooks: RefCell::default(),
            room: RoomLine::default(),
            turns: Turns::default(),
            input: RefCell::new(vec![0; input_bytes]),
            output: RefCell::default(),
            metadata: RefCell::default(),
            inflated: RefCell::default(),
            block: RefCell::new(Block::new(200)),
            body: RefCell::default(),
            transcoded: RefCell::default(),
            draft: RefCell::default(),
            inflater: RefCell::new(Inflater::new(grpc_message_bytes_max)),
            grpc: GrpcBlocks::new(),
            h2_limits,
            collected_bytes: Cell::new(0),
        }
    }

    /// Once a second: the wall clock, and what carries the date.
    pub(crate) fn refresh_date(&self) {
        self.clock.synchronise();
        let date = h1::http_date(SystemTime::now());
        self.date.set(date);
        *self.prepared.borrow_mut() = prepare(&date);
    }

    /// Takes room for bytes of a request that comes in pieces; false when all of `bytes_max` is in use.
    pub(crate) fn reserve(&self, bytes: usize, bytes_max: usize) -> bool {
        let collected = self.collected_bytes.get() + bytes;
        if collected > bytes_max {
            return false;
        }
        self.collected_bytes.set(collected);
        true
    }

    /// Gives that room back.
    pub(crate) fn release(&self, bytes: usize) {
        self.collected_bytes.set(self.collected_bytes.get() - bytes);
    }

    /// Puts a message into the queue and counts its fate.
    pub(crate) fn accept(
        &self,
        message: &Incoming<'_>,
        kind: u8,
        terms: &Terms,
        caller: impl FnOnce() -> Caller,
    ) -> Result<Accepted, engine_core::Refused> {
        let (unix_ms, now_ns) = (self.clock.unix_ms(), self.clock.now_ns());
        let outcome = self.lane.borrow_mut().offer(message, kind, terms, caller, unix_ms, now_ns);
        count_offer(
            &self.counters,
            kind,
            message.payload.len(),
            outcome.as_ref().map(|_| ()).map_err(|refused| *refused),
        );
        outcome
    }

    /// As [`Core::accept`], for a stream: a full queue is not a refusal, the stream waits.
    pub(crate) fn accept_or_wait(
        &self,
        message: &Incoming<'_>,
        kind: u8,
        terms: &Terms,
        caller: impl FnOnce() -> Caller,
    ) -> Result<Accepted, engine_core::Refused> {
        use engine_core::Refused::{OverBudget, QueueFull};
        let (unix_ms, now_ns) = (self.clock.unix_ms(), self.clock.now_ns());
        let outcome = self.lane.borrow_mut().offer(message, kind, terms, caller, unix_ms, now_ns);
        if !matches!(outcome, Err(QueueFull | OverBudget)) {
            count_offer(
                &self.counters,
                kind,
                message.payload.len(),
                outcome.as_ref().map(|_| ()).map_err(|refused| *refused),
            );
        }
        outcome
    }

    /// One turn of the worker, with its time since the last tick counted; wakes who waits for room.
    /// Returns whether anything moved.
    pub(crate) fn work(&self) -> bool {
        let start = self.clock.now_ns();
        let (moved, finished) = self.lane.borrow_mut().work();
        if finished > 0 {
            let took = self.clock.tick() - start;
            self.counters.processed(finished, took);
        }
        if moved > 0 {
            self.room.wake_first();
        }
        moved > 0
    }

    /// Tells those who have waited too long for their ack level.
    pub(crate) fn expire_waiting(&self) {
        let timeout_ns = u64::try_from(self.shared.acks.timeout.as_nanos()).unwrap_or(u64::MAX);
        let Some(before_ns) = self.clock.now_ns().checked_sub(timeout_ns) else { return };
        for _ in 0..self.lane.borrow_mut().waiting().expire(before_ns) {
            self.counters.hit(Cause::AckTimeout);
        }
    }

    /// A connection joins the core's.
    pub(crate) fn enlist(&self, hook: &Rc<Hook>) {
        let mut hooks = self.hooks.borrow_mut();
        hook.place.set(hooks.len());
        hooks.push(Rc::clone(hook));
    }

    /// It leaves them; the last one takes its place.
    pub(crate) fn strike(&self, hook: &Hook) {
        self.room.leave(hook);
        let mut hooks = self.hooks.borrow_mut();
        hooks.swap_remove(hook.place.get());
        if let Some(moved) = hooks.get(hook.place.get()) {
            moved.place.set(hook.place.get());
        }
    }

    /// Takes a place for a connection from `address`, or says which bound is in the way.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), Cause> {
        let shared = &self.shared;
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= shared.connections_max {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Cause::ConnectionsMax);
        }
        if !address.to_canonical().is_loopback() {
            let mut by_address = shared.by_address.lock();
            let count = by_address.entry(address).or_default();
            if *count >= shared.limits.connections_per_address_max {
                shared.connections.fetch_sub(1, Ordering::Relaxed);
                return Err(Cause::ConnectionsPerAddress);
            }
            *count += 1;
        }
        self.counters.add(Tally::ConnectionsOpened, 1);
        Ok(())
    }

    /// Gives the place back.
    pub(crate) fn dismiss(&self, address: IpAddr) {
        let shared = &self.shared;
        shared.connections.fetch_sub(1, Ordering::Relaxed);
        if !address.to_canonical().is_loopback() {
            let mut by_address = shared.by_address.lock();
            if let Some(count) = by_address.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&address);
                }
            }
        }
        self.counters.add(Tally::ConnectionsClosed, 1);
    }
}

fn prepare(date: &[u8; 29]) -> Prepared {
    let ingested = Block::new(200)
        .field("content-type", "application/json")
        .field("tidegate-ack", AckLevel::Queued.name())
        .field("content-length", crate::answer::INGESTED_BYTES.to_string())
        .field("date", date);
    let enqueued = Block::new(202).field("tidegate-ack", AckLevel::Queued.name()).field("date", date);
    let stored = AckLevel::ALL.map(|level| {
        Block::new(200)
            .field("content-type", "application/json")
            .field("tidegate-ack", level.name())
            .field("date", date)
    });
    let content_length = FieldName::content_length();
    Prepared { h2_ingested: ingested, h2_stored: stored, content_length, h2_enqueued: enqueued }
}

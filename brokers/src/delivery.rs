//! The thread of a broker: takes messages from the log or straight from the cores, gives them to the client, and takes
//! the acknowledgements home.
//!
//! ```text
//! log (outbox) ─ Tail ──┐                         ┌─ cursor, delivered offsets ─► cores that wait
//!                       ├─► Publisher ─► acks ────┤
//! cores (direct) ─ ring ┘                         └─ ring ─► cores
//! ```
//!
//! With the outbox nothing is held in memory beyond the client's window: a broker that is away costs disk. Direct, what
//! is under way is bounded by the cores' slabs and the rings.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering, Ordering::Relaxed},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use engine_core::{
    Doorbell, Record, clock,
    ring::{Consumer, Producer, ring},
};

use crate::{
    breaker::{Breaker, BreakerConfig},
    dead_letter::{Cause, DeadLetters},
    delivered::Delivered,
    entry,
    log::{Cursor, Log, Reader},
    publisher::{Ack, Busy, Publisher, Rejected},
    status::SideStatus,
};

/// How long the thread waits for the client at most before it looks at everything else.
const POLL: Duration = Duration::from_millis(100);
/// Bytes that are read from the log at once.
const READ_BYTES: usize = 256 << 10;
/// Messages after which the position is written down: after a crash about so many are sent again.
const FLUSH_EVERY: u64 = 1024;
/// How long the client may take to return after that.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// Pause when a dead letter could not be kept.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(1);

/// Where a delivery thread's messages come from.
enum Feed {
    Log(Vec<Tail>),
    Cores(Vec<CoreLink>),
}

/// A shard of the log that is being delivered.
struct Tail {
    shard: usize,
    log: Log,
    reader: Reader,
    cursor: Cursor,
    /// Lowest offset that is not decided.
    base: u64,
    /// As it is in the cursor's file.
    flushed: u64,
    /// What was handed to the client, with whether it is decided; oldest first. Offsets may be missing between.
    under_way: VecDeque<(u64, bool)>,
    delivered: Arc<Delivered>,
    /// The core that waits for this shard; orphans of an earlier run have none.
    doorbell: Option<Doorbell>,
}

/// A message on its way from a core to the thread.
#[derive(Debug)]
struct Parcel {
    tag: u32,
    entry: Box<[u8]>,
}

/// The thread's end towards a core.
struct CoreLink {
    parcels: Consumer<Parcel>,
    acks: Producer<CoreAck>,
    doorbell: Doorbell,
    /// By tag: what is under way, for the dead letters.
    under_way: Vec<Option<Box<[u8]>>>,
    /// Taken from the ring, and not yet by the client.
    waiting: Option<Parcel>,
}

/// What a core is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreAck {
    /// As given to [`DirectPort::send`].
    pub tag: u32,
    /// Whether the broker has it; else it refuses it for ever.
    pub accepted: bool,
}

/// The core's end towards a broker's thread.
pub struct DirectPort {
    parcels: Producer<Parcel>,
    acks: Consumer<CoreAck>,
    /// Sent and not acknowledged.
    in_flight: usize,
    capacity: usize,
    /// Bytes of these, by tag and in all. A message that its sender was told of may still be under way to a slower side: the
    /// cores' own budget does not bound those.
    bytes: Vec<u32>,
    bytes_in_flight: usize,
    bytes_max: usize,
    waker: Waker,
}

impl std::fmt::Debug for DirectPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectPort").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl DirectPort {
    /// Whether another message may be sent.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.in_flight < self.capacity && self.bytes_in_flight < self.bytes_max
    }

    /// Sends a message; the thread sees it after [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Busy`] when there is no room.
    pub fn send(&mut self, tag: u32, record: &Record<'_>) -> Result<(), Busy> {
        if !self.has_room() {
            return Err(Busy);
        }
        let mut bytes = Vec::new();
        entry::encode(record, &mut bytes);
        let place = tag as usize;
        if self.bytes.len() <= place {
            self.bytes.resize(place + 1, 0);
        }
        // A message is far below 4 GiB.
        self.bytes[place] = bytes.len() as u32;
        self.bytes_in_flight += bytes.len();
        let staged = self.parcels.stage(Parcel { tag, entry: bytes.into() });
        debug_assert!(staged.is_ok(), "the ring holds as many as may be in flight");
        self.in_flight += 1;
        Ok(())
    }

    /// Shows the thread what was sent, and wakes it once.
    pub fn flush(&mut self) {
        if self.parcels.staged() > 0 {
            self.parcels.publish();
            self.waker.wake_by_ref();
        }
    }

    /// Gives what was decided to `each`.
    pub fn poll(&mut self, mut each: impl FnMut(CoreAck)) {
        let Self { acks, bytes, bytes_in_flight, .. } = self;
        self.in_flight -= acks.take(usize::MAX, |ack| {
            *bytes_in_flight -=
                bytes.get_mut(ack.tag as usize).map_or(0, |bytes| std::mem::take(bytes) as usize);
            each(ack);
        });
    }
}

/// Sets a delivery thread up.
pub struct DeliveryPlan {
    /// How the broker is.
    pub status: Arc<SideStatus>,
    /// When it counts as out of reach.
    pub breaker: BreakerConfig,
    /// Where refused messages go.
    pub dead_letters: Arc<DeadLetters>,
}

/// A running delivery thread.
#[derive(Debug)]
pub struct DeliveryThread {
    stage: Arc<AtomicU8>,
    waker: Waker,
    thread: JoinHandle<Unfinished>,
}

/// Messages of the cores that a broker had not acknowledged when its thread had to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Those that are dead letters now.
    pub put_aside: u64,
    /// Those that could not be kept either: each is named in the log.
    pub lost: u64,
}

/// What the thread is to do.
const GO_ON: u8 = 0;
/// Finish what is under way.
const FINISH: u8 = 1;
/// Put aside what is not finished, and end.
const END: u8 = 2;

/// The code of a dead letter that a broker had not acknowledged when the process was stopped.
pub const STOPPED: &str = "STOPPED";

impl DeliveryThread {
    /// Wakes it: there is something new in the log.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Whether it does its work; not after it has panicked.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends it. What is acknowledged within `patience` counts; the rest stays in the log, or without one is put aside.
    pub fn stop(self, patience: Duration) -> Unfinished {
        for (stage, patience) in [(FINISH, patience), (END, LAST_PATIENCE)] {
            self.stage.store(stage, Ordering::Release);
            self.waker.wake_by_ref();
            let deadline = Instant::now() + patience;
            while !self.thread.is_finished() && Instant::now() < deadline {
                thread::park_timeout(Duration::from_millis(5));
            }
        }
        if !self.thread.is_finished() {
            tracing::error!("a broker's client does not return; what it has under way is unknown");
            return Unfinished::default();
        }
        // A panic of it was printed.
        self.thread.join().unwrap_or_default()
    }
}

/// Delivers the log's messages from the consumer's cursor on. `doorbells` are those of the cores, by shard.
///
/// # Errors
/// When the cursor or the thread cannot be had.
pub fn deliver_log<P: Publisher>(
    plan: DeliveryPlan,
    log: &Log,
    delivered: &[Arc<Delivered>],
    doorbells: &[Doorbell],
    publisher: impl FnOnce() -> Result<P, String> + Send + 'static,
) -> Result<DeliveryThread, String> {
    let feed = follow_log(&plan, log, delivered, doorbells)?;
    start(plan, feed, publisher)
}

/// The same for who takes the turns himself.
///
/// # Errors
/// When the cursor cannot be had.
pub fn deliver_log_apart<P: Publisher>(
    plan: DeliveryPlan,
    log: &Log,
    delivered: &[Arc<Delivered>],
    doorbells: &[Doorbell],
    publisher: P,
) -> Result<Delivery<P>, String> {
    let feed = follow_log(&plan, log, delivered, doorbells)?;
    Ok(Delivery::new(plan, feed, publisher))
}

fn follow_log(
    plan: &DeliveryPlan,
    log: &Log,
    delivered: &[Arc<Delivered>],
    doorbells: &[Doorbell],
) -> Result<Feed, String> {
    let cursor = log.cursor(&plan.status.name).map_err(|error| error.to_string())?;
    let tails = log.shards().into_iter().map(|shard| {
        let base = cursor.position(shard);
        let delivered = delivered.get(shard).map_or_else(Arc::default, Arc::clone);
        delivered.advance(base);
        for offset in plan.dead_letters.refused(&plan.status.name, shard) {
            delivered.refuse(offset);
        }
        Tail {
            shard,
            log: log.clone(),
            reader: log.reader(shard, base),
            cursor: cursor.clone(),
            base,
            flushed: base,
            under_way: VecDeque::new(),
            delivered,
            doorbell: doorbells.get(shard).cloned(),
        }
    });
    Ok(Feed::Log(tails.collect()))
}

/// Delivers what cores send; so many messages of each, and so many bytes and one message, may be under way.
///
/// # Errors
/// When the thread cannot be had.
pub fn deliver_direct<P: Publisher>(
    plan: DeliveryPlan,
    doorbells: &[Doorbell],
    (capacity, bytes_max): (usize, usize),
    publisher: impl FnOnce() -> Result<P, String> + Send + 'static,
) -> Result<(DeliveryThread, Vec<DirectPort>), String> {
    let (feed, halves) = link_cores(doorbells, capacity, bytes_max);
    let thread = start(plan, feed, publisher)?;
    let ports = halves.into_iter().map(|half| half.port(thread.waker())).collect();
    Ok((thread, ports))
}

/// The same for who takes the turns himself.
pub fn deliver_direct_apart<P: Publisher>(
    plan: DeliveryPlan,
    doorbells: &[Doorbell],
    (capacity, bytes_max): (usize, usize),
    publisher: P,
) -> (Delivery<P>, Vec<DirectPort>) {
    let (feed, halves) = link_cores(doorbells, capacity, bytes_max);
    let ports = halves.into_iter().map(|half| half.port(publisher.waker())).collect();
    (Delivery::new(plan, feed, publisher), ports)
}

/// A core's end that lacks the waker.
struct HalfPort {
    parcels: Producer<Parcel>,
    acks: Consumer<CoreAck>,
    capacity: usize,
    bytes_max: usize,
}

impl HalfPort {
    fn port(self, waker: Waker) -> DirectPort {
        let Self { parcels, acks, capacity, bytes_max } = self;
        let (bytes, bytes_in_flight) = (Vec::new(), 0);
        DirectPort { parcels, acks, in_flight: 0, capacity, bytes, bytes_in_flight, bytes_max, waker }
    }
}

fn link_cores(doorbells: &[Doorbell], capacity: usize, bytes_max: usize) -> (Feed, Vec<HalfPort>) {
    let capacity = capacity.max(1);
    let (mut links, mut halves) = (Vec::new(), Vec::new());
    for doorbell in doorbells {
        let (parcels_out, parcels) = ring(capacity);
        let (acks_out, acks) = ring(capacity);
        let doorbell = doorbell.clone();
        links.push(CoreLink { parcels, acks: acks_out, doorbell, under_way: Vec::new(), waiting: None });
        halves.push(HalfPort { parcels: parcels_out, acks, capacity, bytes_max });
    }
    (Feed::Cores(links), halves)
}

fn start<P: Publisher>(
    plan: DeliveryPlan,
    feed: Feed,
    publisher: impl FnOnce() -> Result<P, String> + Send + 'static,
) -> Result<DeliveryThread, String> {
    let stage = Arc::new(AtomicU8::new(GO_ON));
    let asked = Arc::clone(&stage);
    let (sender, made) = std::sync::mpsc::channel();
    let thread = thread::Builder::new()
        .name(plan.status.name.clone())
        .spawn(move || match publisher() {
            Ok(publisher) => {
                // The starter waits for it.
                let _ = sender.send(Ok(publisher.waker()));
                let mut delivery = Delivery::new(plan, feed, publisher);
                loop {
                    let stage = asked.load(Ordering::Acquire);
                    if stage == END || !delivery.turn(stage != GO_ON, POLL) {
                        return delivery.end();
                    }
                }
            }
            Err(error) => {
                let _ = sender.send(Err(error));
                Unfinished::default()
            }
        })
        .map_err(|error| format!("a broker's thread cannot be started: {error}"))?;
    let waker = made.recv().map_err(|_| "a broker's thread has ended at once".to_owned())??;
    Ok(DeliveryThread { stage, waker, thread })
}

/// What a delivery thread does, turn by turn.
pub struct Delivery<P> {
    plan: DeliveryPlan,
    feed: Feed,
    publisher: P,
    breaker: Breaker,
    acks: Vec<Ack>,
    /// Refused for ever, and not among the dead letters yet; oldest first. Nothing new is handed to the client meanwhile, so
    /// there are as many as its window holds.
    unburied: VecDeque<Ack>,
    /// When that is tried again.
    bury_at: Option<Instant>,
    /// Why the oldest of them cannot be put there. While it cannot, nothing else is sent.
    cannot_bury: Option<String>,
}

impl<P> std::fmt::Debug for Delivery<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("side", &self.plan.status.name).finish_non_exhaustive()
    }
}

impl<P: Publisher> Delivery<P> {
    fn new(plan: DeliveryPlan, feed: Feed, publisher: P) -> Self {
        let breaker = Breaker::new(plan.breaker, clock::now());
        Self {
            plan,
            feed,
            publisher,
            breaker,
            acks: Vec::new(),
            unburied: VecDeque::new(),
            bury_at: None,
            cannot_bury: None,
        }
    }

    /// One turn, which waits for the client for so long at most. False: it is to stop, and nothing is under way any more.
    pub fn turn(&mut self, stopping: bool, patience: Duration) -> bool {
        if self.unburied.is_empty() && (!stopping || matches!(self.feed, Feed::Cores(_))) {
            self.offer();
        }
        if stopping && self.publisher.in_flight() == 0 && self.unburied.is_empty() {
            return false;
        }
        let mut acks = std::mem::take(&mut self.acks);
        self.publisher.poll(patience, &mut acks);
        let answered = !acks.is_empty();
        for ack in acks.drain(..) {
            if ack.outcome.is_err() {
                self.unburied.push_back(ack);
            } else {
                self.settle(&ack);
            }
        }
        self.acks = acks;
        self.bury();
        self.publish_progress();
        self.watch(answered);
        true
    }

    /// Ends it: what of the cores' the broker has not acknowledged becomes dead letters.
    pub fn end(mut self) -> Unfinished {
        self.publish_progress();
        let Feed::Cores(links) = &mut self.feed else { return Unfinished::default() };
        let mut left: Vec<Box<[u8]>> = Vec::new();
        for link in links {
            left.extend(link.under_way.drain(..).flatten());
            left.extend(link.waiting.take().map(|parcel| parcel.entry));
            while let Some(parcel) = link.parcels.pop() {
                left.push(parcel.entry);
            }
        }
        put_aside(&self.plan.dead_letters, &self.plan.status.name, &left)
    }

    /// Gives the client what it takes.
    fn offer(&mut self) {
        let (publisher, status) = (&mut self.publisher, &self.plan.status);
        let mut taken = 0;
        match &mut self.feed {
            Feed::Log(tails) => {
                for (index, tail) in tails.iter_mut().enumerate() {
                    loop {
                        let under_way = &mut tail.under_way;
                        let read = tail.reader.read(READ_BYTES, |offset, _, bytes| {
                            let Ok(record) = entry::decode(bytes) else {
                                tracing::error!(
                                    offset,
                                    "a record of the log is no message; it is passed over"
                                );
                                return true;
                            };
                            // 16 bits of place, 48 of offset: no log is longer.
                            let tag = (index as u64) << 48 | (offset & OFFSET_MASK);
                            let sent = publisher.publish(tag, &record).is_ok();
                            if sent {
                                under_way.push_back((offset, false));
                                taken += 1;
                            }
                            sent
                        });
                        match read {
                            Ok(0) => break,
                            Ok(_) => {}
                            Err(error) => {
                                status.set_trouble(Some(error.to_string()));
                                break;
                            }
                        }
                    }
                }
            }
            Feed::Cores(links) => {
                for (index, link) in links.iter_mut().enumerate() {
                    while let Some(parcel) = link.waiting.take().or_else(|| link.parcels.pop()) {
                        let Ok(record) = entry::decode(&parcel.entry) else { continue };
                        let tag = (index as u64) << 48 | u64::from(parcel.tag);
                        if publisher.publish(tag, &record).is_err() {
                            link.waiting = Some(parcel);
                            break;
                        }
                        taken += 1;
                        let place = parcel.tag as usize;
                        if link.under_way.len() <= place {
                            link.under_way.resize_with(place + 1, || None);
                        }
                        link.under_way[place] = Some(parcel.entry);
                    }
                }
            }
        }
        status.published.fetch_add(taken, Relaxed);
    }

    /// Puts among the dead letters what was refused for ever, as far as that can be done now.
    fn bury(&mut self) {
        if self.bury_at.is_some_and(|at| clock::now() < at) {
            return;
        }
        self.bury_at = None;
        while let Some(ack) = self.unburied.front() {
            if let Err(error) = self.bury_one(ack) {
                let why = format!("a dead letter cannot be kept: {error}");
                if self.cannot_bury.as_ref() != Some(&why) {
                    tracing::error!(
                        error,
                        "a dead letter cannot be kept; trying again, the broker's other messages wait"
                    );
                    self.cannot_bury = Some(why);
                }
                self.bury_at = Some(clock::now() + DEAD_LETTER_RETRY);
                return;
            }
            self.cannot_bury = None;
            if let Some(ack) = self.unburied.pop_front() {
                self.settle(&ack);
            }
        }
    }

    fn bury_one(&self, ack: &Ack) -> Result<(), String> {
        let Err(rejected) = &ack.outcome else { return Ok(()) };
        let index = (ack.tag >> 48) as usize;
        match &self.feed {
            Feed::Log(tails) => {
                let Some(tail) = tails.get(index) else { return Ok(()) };
                let offset = ack.tag & OFFSET_MASK;
                let mut buried = Ok(());
                let mut reader = tail.log.reader(tail.shard, offset);
                let read = reader.read(1, |_, _, bytes| {
                    if let Ok(record) = entry::decode(bytes) {
                        buried = bury(&self.plan, rejected, Some((tail.shard, offset)), &record);
                    }
                    true
                });
                if let Err(error) = read {
                    tracing::error!(offset, %error, "a refused message cannot be read back");
                }
                buried
            }
            Feed::Cores(links) => {
                let parcel = links.get(index).and_then(|link| link.under_way.get(ack.tag as u32 as usize));
                match parcel.and_then(Option::as_deref).map(entry::decode) {
                    Some(Ok(record)) => bury(&self.plan, rejected, None, &record),
                    _ => Ok(()),
                }
            }
        }
    }

    fn settle(&mut self, ack: &Ack) {
        let index = (ack.tag >> 48) as usize;
        match &mut self.feed {
            Feed::Log(tails) => {
                let Some(tail) = tails.get_mut(index) else { return };
                let offset = ack.tag & OFFSET_MASK;
                if ack.outcome.is_err() {
                    tail.delivered.refuse(offset);
                }
                if let Ok(place) = tail.under_way.binary_search_by_key(&offset, |(offset, _)| *offset) {
                    tail.under_way[place].1 = true;
                }
            }
            Feed::Cores(links) => {
                let Some(link) = links.get_mut(index) else { return };
                let tag = ack.tag as u32;
                if let Some(parcel) = link.under_way.get_mut(tag as usize) {
                    *parcel = None;
                }
                let staged = link.acks.stage(CoreAck { tag, accepted: ack.outcome.is_ok() });
                debug_assert!(staged.is_ok(), "the ring holds as many as may be in flight");
            }
        }
    }

    /// Tells the cores, once for all that came together.
    fn publish_progress(&mut self) {
        match &mut self.feed {
            Feed::Log(tails) => {
                for tail in tails {
                    let before = tail.base;
                    while tail.under_way.front().is_some_and(|(_, decided)| *decided) {
                        tail.under_way.pop_front();
                    }
                    // Offsets that are lost, or hold no message, are passed with those before them.
                    tail.base = tail.under_way.front().map_or(tail.reader.offset(), |(offset, _)| *offset);
                    if tail.base > before {
                        tail.cursor.advance(tail.shard, tail.base);
                        tail.delivered.advance(tail.base);
                        if tail.base - tail.flushed >= FLUSH_EVERY {
                            tail.flushed = tail.base;
                            if let Err(error) = tail.cursor.flush() {
                                tracing::error!(%error, "a position cannot be written; after a crash more is sent again");
                            }
                        }
                        if let Some(doorbell) = &tail.doorbell {
                            doorbell.ring();
                        }
                    }
                }
            }
            Feed::Cores(links) => {
                for link in links {
                    if link.acks.staged() > 0 {
                        link.acks.publish();
                        link.doorbell.ring();
                    }
                }
            }
        }
    }

    fn watch(&mut self, answered: bool) {
        let (status, now) = (&self.plan.status, clock::now());
        let in_flight = self.publisher.in_flight();
        // What cannot be put aside waits like what is not answered.
        let in_flight = in_flight + self.unburied.len();
        let is_well =
            self.unburied.is_empty() && (answered || (self.publisher.is_connected() && in_flight == 0));
        if is_well {
            self.breaker.succeed();
        } else if !self.publisher.is_connected() {
            self.breaker.fail(now);
        }
        self.breaker.tick(in_flight, now);
        status.in_flight.store(in_flight as u64, Relaxed);
        // A pause may be over at once: while there is no connection, no try is worth anything.
        let is_tried = self.breaker.is_half_open() && self.publisher.is_connected();
        let was_open = status.is_open();
        let is_away = self.breaker.is_open() || (self.breaker.is_half_open() && !is_tried);
        status.set_open(is_away || self.cannot_bury.is_some());
        if was_open
            && !status.is_open()
            && let Feed::Cores(links) = &self.feed
        {
            // What they could send nowhere waits in their queues, and nothing else would wake them.
            links.iter().for_each(|link| link.doorbell.ring());
        }
        status.half_open.store(self.breaker.is_half_open(), Relaxed);
        if is_well {
            // Not before: a breaker that is not open yet has heard nothing.
            status.set_trouble(None);
        } else if self.cannot_bury.is_some() {
            // Whatever the broker says: it could be well, and nothing would come of that.
            status.set_trouble(self.cannot_bury.clone());
        } else if self.breaker.is_open() && status.trouble().is_none() {
            status.set_trouble(Some("it acknowledges nothing".to_owned()));
        }
    }
}

const OFFSET_MASK: u64 = (1 << 48) - 1;

/// Makes dead letters of what is not finished when the process is stopped; names each that cannot be kept.
pub(crate) fn put_aside(dead_letters: &DeadLetters, side: &str, left: &[Box<[u8]>]) -> Unfinished {
    let cause = Cause {
        side: side.to_owned(),
        code: STOPPED.to_owned(),
        reason: "the process was stopped before it was known to be there; it may be".to_owned(),
        attempts: 0,
        place: None,
    };
    let record =
        |number: usize| left.get(number).and_then(|entry| entry::decode(entry).ok()).unwrap_or_default();
    let (kept, result) = dead_letters.append_all(left.len(), |number| (&cause, record(number)));
    if let Err(error) = result {
        for number in kept..left.len() {
            let id = String::from_utf8_lossy(record(number).id);
            tracing::error!(%id, side, error, "a message is lost: the process ends, and it cannot be kept");
        }
    }
    Unfinished { put_aside: kept as u64, lost: (left.len() - kept) as u64 }
}

/// Keeps a refused message among the dead letters.
fn bury(
    plan: &DeliveryPlan,
    rejected: &Rejected,
    place: Option<(usize, u64)>,
    record: &Record<'_>,
) -> Result<(), String> {
    let cause = Cause {
        side: plan.status.name.clone(),
        code: rejected.code.clone(),
        reason: rejected.reason.clone(),
        attempts: rejected.attempts,
        place,
    };
    plan.dead_letters.append(&cause, record)?;
    plan.status.note_refusal(&rejected.reason);
    Ok(())
}

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
        atomic::{AtomicBool, Ordering, Ordering::Relaxed},
    },
    task::Waker,
    thread::{self, JoinHandle},
    time::Duration,
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
    /// From `base` on: whether decided.
    decided: VecDeque<bool>,
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
        self.in_flight < self.capacity
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
        self.in_flight -= self.acks.take(usize::MAX, &mut each);
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
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl DeliveryThread {
    /// Wakes it: there is something new in the log.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Whether it does its work; not after it has panicked.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends it. What is acknowledged within `patience` counts; the rest stays in the log, or is lost without one.
    pub fn stop(self, patience: Duration) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        let deadline = clock::now() + patience;
        while !self.thread.is_finished() && clock::now() < deadline {
            thread::park_timeout(Duration::from_millis(5));
        }
        if self.thread.is_finished() {
            // A panic of it was printed.
            let _ = self.thread.join();
        }
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
    let cursor = log.cursor(&plan.status.name).map_err(|error| error.to_string())?;
    let tails = log.shards().into_iter().map(|shard| {
        let base = cursor.position(shard);
        let delivered = delivered.get(shard).map_or_else(Arc::default, Arc::clone);
        delivered.advance(base);
        Tail {
            shard,
            log: log.clone(),
            reader: log.reader(shard, base),
            cursor: cursor.clone(),
            base,
            flushed: base,
            decided: VecDeque::new(),
            delivered,
            doorbell: doorbells.get(shard).cloned(),
        }
    });
    start(plan, Feed::Log(tails.collect()), publisher)
}

/// Delivers what cores send; `capacity` messages of each may be under way.
///
/// # Errors
/// When the thread cannot be had.
pub fn deliver_direct<P: Publisher>(
    plan: DeliveryPlan,
    doorbells: &[Doorbell],
    capacity: usize,
    publisher: impl FnOnce() -> Result<P, String> + Send + 'static,
) -> Result<(DeliveryThread, Vec<DirectPort>), String> {
    let capacity = capacity.max(1);
    let (mut links, mut halves) = (Vec::new(), Vec::new());
    for doorbell in doorbells {
        let (parcels_out, parcels) = ring(capacity);
        let (acks, acks_in) = ring(capacity);
        let doorbell = doorbell.clone();
        links.push(CoreLink { parcels, acks, doorbell, under_way: Vec::new(), waiting: None });
        halves.push((parcels_out, acks_in));
    }
    let thread = start(plan, Feed::Cores(links), publisher)?;
    let port = |(parcels, acks)| DirectPort { parcels, acks, in_flight: 0, capacity, waker: thread.waker() };
    let ports = halves.into_iter().map(port).collect();
    Ok((thread, ports))
}

fn start<P: Publisher>(
    plan: DeliveryPlan,
    feed: Feed,
    publisher: impl FnOnce() -> Result<P, String> + Send + 'static,
) -> Result<DeliveryThread, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let (sender, made) = std::sync::mpsc::channel();
    let thread = thread::Builder::new()
        .name(plan.status.name.clone())
        .spawn(move || match publisher() {
            Ok(publisher) => {
                // The starter waits for it.
                let _ = sender.send(Ok(publisher.waker()));
                let breaker = Breaker::new(plan.breaker, clock::now());
                Delivery { plan, feed, publisher, breaker, acks: Vec::new() }.run(&asked);
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        })
        .map_err(|error| format!("a broker's thread cannot be started: {error}"))?;
    let waker = made.recv().map_err(|_| "a broker's thread has ended at once".to_owned())??;
    Ok(DeliveryThread { stop, waker, thread })
}

struct Delivery<P> {
    plan: DeliveryPlan,
    feed: Feed,
    publisher: P,
    breaker: Breaker,
    acks: Vec<Ack>,
}

impl<P: Publisher> Delivery<P> {
    fn run(mut self, stop: &AtomicBool) {
        loop {
            let stopping = stop.load(Ordering::Acquire);
            if !stopping || matches!(self.feed, Feed::Cores(_)) {
                self.offer();
            }
            if stopping && self.publisher.in_flight() == 0 {
                return;
            }
            let mut acks = std::mem::take(&mut self.acks);
            self.publisher.poll(POLL, &mut acks);
            let answered = !acks.is_empty();
            for ack in acks.drain(..) {
                self.settle(ack);
            }
            self.acks = acks;
            self.publish_progress();
            self.watch(answered);
        }
    }

    /// Gives the client what it takes.
    fn offer(&mut self) {
        let (publisher, status) = (&mut self.publisher, &self.plan.status);
        let mut taken = 0;
        match &mut self.feed {
            Feed::Log(tails) => {
                for (index, tail) in tails.iter_mut().enumerate() {
                    loop {
                        let decided = &mut tail.decided;
                        let read = tail.reader.read(READ_BYTES, |offset, _, bytes| {
                            let Ok(record) = entry::decode(bytes) else {
                                tracing::error!(
                                    offset,
                                    "a record of the log is no message; it is passed over"
                                );
                                decided.push_back(true);
                                return true;
                            };
                            // 16 bits of place, 48 of offset: no log is longer.
                            let tag = (index as u64) << 48 | (offset & OFFSET_MASK);
                            let sent = publisher.publish(tag, &record).is_ok();
                            if sent {
                                decided.push_back(false);
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

    fn settle(&mut self, ack: Ack) {
        let index = (ack.tag >> 48) as usize;
        match &mut self.feed {
            Feed::Log(tails) => {
                let Some(tail) = tails.get_mut(index) else { return };
                let offset = tail.base + ((ack.tag & OFFSET_MASK) - (tail.base & OFFSET_MASK));
                if let Err(rejected) = &ack.outcome {
                    let mut reader = tail.log.reader(tail.shard, offset);
                    let read = reader.read(1, |_, _, bytes| {
                        if let Ok(record) = entry::decode(bytes) {
                            bury(&self.plan, rejected, &record);
                        }
                        true
                    });
                    if let Err(error) = read {
                        tracing::error!(offset, %error, "a refused message cannot be read back");
                    }
                    tail.delivered.refuse(offset);
                }
                if let Some(decided) = tail.decided.get_mut((offset - tail.base) as usize) {
                    *decided = true;
                }
            }
            Feed::Cores(links) => {
                let Some(link) = links.get_mut(index) else { return };
                let tag = ack.tag as u32;
                let bytes = link.under_way.get_mut(tag as usize).and_then(Option::take);
                if let Err(rejected) = &ack.outcome
                    && let Some(Ok(record)) = bytes.as_deref().map(entry::decode)
                {
                    bury(&self.plan, rejected, &record);
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
                    while tail.decided.front() == Some(&true) {
                        tail.decided.pop_front();
                        tail.base += 1;
                    }
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
        let is_well = answered || (self.publisher.is_connected() && in_flight == 0);
        if is_well {
            self.breaker.succeed();
        } else if !self.publisher.is_connected() {
            self.breaker.fail(now);
        }
        self.breaker.tick(in_flight, now);
        status.in_flight.store(in_flight as u64, Relaxed);
        // A pause may be over at once: while there is no connection, no try is worth anything.
        let is_tried = self.breaker.is_half_open() && self.publisher.is_connected();
        status.set_open(self.breaker.is_open() || (self.breaker.is_half_open() && !is_tried));
        status.half_open.store(self.breaker.is_half_open(), Relaxed);
        if is_well {
            // Not before: a breaker that is not open yet has heard nothing.
            status.set_trouble(None);
        } else if self.breaker.is_open() && status.trouble().is_none() {
            status.set_trouble(Some("it acknowledges nothing".to_owned()));
        }
    }
}

const OFFSET_MASK: u64 = (1 << 48) - 1;

/// Keeps a refused message among the dead letters; waits until it can.
fn bury(plan: &DeliveryPlan, rejected: &Rejected, record: &Record<'_>) {
    let cause = Cause {
        side: plan.status.name.clone(),
        code: rejected.code.clone(),
        reason: rejected.reason.clone(),
        attempts: rejected.attempts,
    };
    plan.status.note_refusal(&rejected.reason);
    while let Err(error) = plan.dead_letters.append(&cause, record) {
        tracing::error!(
            error,
            "a dead letter cannot be kept; trying again, the broker's other messages wait"
        );
        thread::sleep(DEAD_LETTER_RETRY);
    }
}

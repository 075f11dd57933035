//! The engine of one core: its slab, its port on the mesh and its sink, polled by the core's loop.
//!
//! ```
//! use engine_core::{MemorySink, Prefix, Record, Shard, SlabConfig, mesh, shard_of};
//!
//! let port = mesh(1, &SlabConfig::default()).remove(0); // one port per core, each to its thread
//! let mut shard = Shard::new(port, MemorySink::new(Prefix));
//! let record = Record { id: b"id", payload: b"hello", ..Record::default() };
//! shard.submit(shard_of(record.key_hash, 1), &record).unwrap(); // for each message that was read
//! shard.poll(); // once per turn of the loop
//! assert_eq!(shard.in_flight(), 0);
//! ```
//!
//! # A core's loop
//!
//! Read from the sockets, [`submit`](Shard::submit) each message, [`poll`](Shard::poll), answer what
//! [`take_replies`](Shard::take_replies) says. When [`poll_work`](Shard::poll_work) is pending the core
//! may sleep until its waker or a socket wakes it; after any wake it polls first.
//!
//! # The bound
//!
//! Messages in flight are bounded by this core's slab alone (slots and bytes, see [`mod@crate::slab`]): queued,
//! in a ring, in a sink and on the way home all count. When it is full `submit` refuses and nothing else
//! happens: nothing waits, nothing is dropped. One slow core can therefore hold all slots of the others,
//! which then refuse also what is not meant for it; that is the price of one honest bound.
//! The process stays under `cores × SlabConfig::bytes_worst_case + mesh_bytes_worst_case`, beside 36
//! bytes per slot for this module's own queues and ages.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use crate::ages::Ages;
use crate::counters::{CounterReader, CounterWriter, Snapshot, counters};
use crate::mesh::{Completed, Doorbell, Port};
use crate::outcome::Outcome;
use crate::sink::{BATCH, Batch, Completions, Sink};
use crate::slab::{Handle, InsertError, KIND_PROBE, Record, RecordView, Released, SlabOwner};

/// Why a message was not accepted. The first two pass by themselves, the third does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every slot of this core's slab is in use.
    QueueFull,
    /// This core's byte budget is used up.
    OverBudget,
    /// The shard drains; it will accept nothing any more.
    Draining,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::QueueFull => "the queue is full",
            Self::OverBudget => "the queue's byte budget is used up",
            Self::Draining => "shutting down",
        })
    }
}

impl std::error::Error for Refused {}

/// What became of a message whose record carried a reply token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The record's `reply_token`.
    pub token: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A core's port, and what a completion there leads to. Lent to the sink's batch and completions.
#[derive(Debug)]
pub(crate) struct Home {
    port: Port,
    tally: Snapshot,
    ages: Ages,
    replies: Vec<Reply>,
}

impl Home {
    #[inline]
    pub(crate) fn read<'a>(&'a self, handle: &'a Handle) -> RecordView<'a> {
        self.port.readers[handle.core()].read(handle)
    }

    /// The sink is done with a message: free it if it is ours, else stage it for its home.
    #[inline]
    pub(crate) fn complete(&mut self, handle: Handle, outcome: Outcome) {
        match outcome {
            Outcome::Processed | Outcome::Stored(_) => self.tally.processed += 1,
            Outcome::Failed | Outcome::Rejected(_) => self.tally.failed += 1,
        }
        let completed = Completed { handle, outcome };
        let Some(lane) = &mut self.port.lanes[completed.handle.core()] else {
            return settle(
                &mut self.port.slab,
                &mut self.tally,
                &mut self.ages,
                &mut self.replies,
                completed,
            );
        };
        let staged = lane.completions_out.stage(completed);
        assert!(staged.is_ok(), "a completion ring holds every slot of the slab it leads to");
    }

    fn completed(&self) -> u64 {
        self.tally.processed + self.tally.failed
    }

    /// Shows the other cores what was staged for them, and wakes each of them once.
    #[inline]
    fn publish(&mut self) {
        for (core, lane) in self.port.lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            if lane.submissions_out.staged() + lane.completions_out.staged() > 0 {
                lane.submissions_out.publish();
                lane.completions_out.publish();
                self.port.doorbells[core].ring();
            }
        }
    }
}

/// One of our own messages is done with: its slot is free, it is counted and its sender is told.
#[inline]
fn settle(
    slab: &mut SlabOwner,
    tally: &mut Snapshot,
    ages: &mut Ages,
    replies: &mut Vec<Reply>,
    completed: Completed,
) {
    ages.went(completed.handle.slot());
    let Released { reply_token: token, once, kind } = slab.release(completed.handle);
    if kind & KIND_PROBE == 0 {
        let (count, is_new) = match completed.outcome {
            // A repeat of a message that nobody was to recognise is a second try of our own, and is that message.
            Outcome::Stored(receipt) if once && receipt.duplicate => (&mut tally.duplicates, false),
            Outcome::Rejected(rejection) if once && rejection.is_conflict() => (&mut tally.conflicts, false),
            Outcome::Processed | Outcome::Stored(_) => (&mut tally.done, true),
            Outcome::Failed | Outcome::Rejected(_) => (&mut tally.rejected, true),
        };
        *count += 1;
        if once {
            tally.undecided -= 1;
            tally.accepted += u64::from(is_new);
        }
    }
    if token != 0 {
        replies.push(Reply { token, outcome: completed.outcome });
    }
}

/// One core's engine. Moves to its thread once and stays there.
#[derive(Debug)]
pub struct Shard<S> {
    home: Home,
    sink: S,
    /// Messages to be offered to the sink, by the core they came from. Our own wait here only, those of
    /// other cores at most one batch long (the rest in their ring).
    inbound: Vec<VecDeque<Handle>>,
    /// Whose turn it is to be offered first.
    first_lane: usize,
    /// The sink took nothing when it was last asked and has completed nothing since.
    sink_is_full: bool,
    draining: bool,
    /// What the clock said last.
    second: u32,
    counter_writer: CounterWriter,
    counter_reader: CounterReader,
}

impl<S: Sink> Shard<S> {
    /// The engine of the port's core.
    pub fn new(port: Port, sink: S) -> Self {
        let (counter_writer, counter_reader) = counters();
        let inbound = (0..port.cores()).map(|_| VecDeque::with_capacity(BATCH)).collect();
        let ages = Ages::new(port.slab.capacity());
        Self {
            home: Home { port, tally: Snapshot::default(), ages, replies: Vec::new() },
            sink,
            inbound,
            first_lane: 0,
            sink_is_full: false,
            draining: false,
            second: 0,
            counter_writer,
            counter_reader,
        }
    }

    /// Accepts a message for `target_core` (see [`shard_of`](crate::shard_of)). That core sees it after
    /// the next [`flush`](Self::flush) or [`poll`](Self::poll).
    ///
    /// # Errors
    /// [`Refused`]; the message is in no queue then.
    ///
    /// # Panics
    /// When there is no such core.
    #[inline]
    pub fn submit(&mut self, target_core: usize, record: &Record<'_>) -> Result<(), Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        let Home { port, tally, ages, .. } = &mut self.home;
        let lane = &mut port.lanes[target_core]; // before anything has changed, as it may panic
        let handle = match port.slab.insert(record) {
            Ok(handle) => handle,
            Err(InsertError::Full) => {
                tally.refused_full += 1;
                return Err(Refused::QueueFull);
            }
            Err(InsertError::OverBudget) => {
                tally.refused_budget += 1;
                return Err(Refused::OverBudget);
            }
        };
        ages.came(handle.slot(), self.second);
        if record.kind & KIND_PROBE == 0 {
            if record.once {
                tally.undecided += 1;
            } else {
                tally.accepted += 1;
            }
        }
        tally.bytes_accepted +=
            (record.id.len() + record.source.len() + record.metadata.len() + record.payload.len()) as u64;
        match lane {
            None => self.inbound[target_core].push_back(handle),
            Some(lane) => {
                let staged = lane.submissions_out.stage(handle);
                assert!(staged.is_ok(), "a submission ring holds every slot of the slab it leads from");
            }
        }
        Ok(())
    }

    /// Shows the other cores what was submitted for them, without working. [`poll`](Self::poll) begins
    /// with it; call it alone only to let them start earlier.
    pub fn flush(&mut self) {
        self.home.publish();
    }

    /// One turn of the worker: frees what came home, offers a batch of each core's messages to the
    /// sink, asks the sink what it has finished, sends completions home. Returns how many messages it
    /// moved.
    pub fn poll(&mut self) -> usize {
        // First, so that whatever is published from here on rings again.
        self.home.port.doorbells[self.home.port.core].answer();
        self.home.publish();

        let mut moved = self.collect_completions();
        moved += self.offer();
        let before = self.home.completed();
        self.sink.poll(&mut Completions::new(&mut self.home));
        let finished = self.home.completed() - before;
        if finished > 0 {
            self.sink_is_full = false;
        }

        self.home.publish();
        self.show_counts();
        moved + finished as usize
    }

    /// Shows the counters to their readers. Each turn ends with it; whoever answers earlier calls it before: a message that
    /// its sender was told of is counted.
    #[inline]
    pub fn show_counts(&mut self) {
        self.home.tally.queue_depth = self.home.port.slab.in_use() as u64;
        self.counter_writer.publish(&self.home.tally, self.home.ages.oldest());
    }

    /// Frees our messages that other cores are done with.
    fn collect_completions(&mut self) -> usize {
        let Home { port, replies, tally, ages } = &mut self.home;
        let mut freed = 0;
        for lane in port.lanes.iter_mut().flatten() {
            let settle = |completed| settle(&mut port.slab, tally, ages, replies, completed);
            freed += lane.completions_in.take(usize::MAX, settle);
        }
        freed
    }

    /// Offers the sink one batch from each core's messages, another core's first each turn.
    fn offer(&mut self) -> usize {
        for (lane, queue) in self.home.port.lanes.iter_mut().zip(&mut self.inbound) {
            if let Some(lane) = lane
                && queue.len() < BATCH
            {
                lane.submissions_in.take(BATCH - queue.len(), |handle| queue.push_back(handle));
            }
        }
        if self.inbound.iter().all(VecDeque::is_empty) {
            return 0;
        }
        let cores = self.inbound.len();
        let mut taken = 0;
        for offset in 0..cores {
            // Not a division: with one message a turn, two of them would be a tenth of its cost.
            let lane = self.first_lane + offset;
            let queue = &mut self.inbound[if lane < cores { lane } else { lane - cores }];
            let offered = queue.len();
            if offered > 0 {
                self.sink.submit(&mut Batch::new(queue, &mut self.home));
                let taken_here = offered - queue.len();
                taken += taken_here;
                self.home.tally.batches += u64::from(taken_here > 0);
            }
        }
        self.first_lane = if self.first_lane + 1 < cores { self.first_lane + 1 } else { 0 };
        self.sink_is_full = taken == 0;
        taken
    }

    /// Whether a poll would move something now.
    pub fn has_work(&self) -> bool {
        let offerable = !self.sink_is_full;
        let in_rings = self.home.port.lanes.iter().flatten().any(|lane| {
            !lane.completions_in.is_empty()
                || (offerable && !lane.submissions_in.is_empty())
                || lane.submissions_out.staged() > 0
        });
        in_rings || (offerable && self.inbound.iter().any(|queue| !queue.is_empty()))
    }

    /// Ready when the core should poll. When pending, `waker` is called as soon as another core, or a
    /// sink's thread, has rung this core's doorbell: the core may sleep.
    pub fn poll_work(&self, waker: &Waker) -> Poll<()> {
        if self.has_work() {
            return Poll::Ready(());
        }
        // Whoever publishes rings afterwards, so the bell alone tells of all that came since.
        self.home.port.doorbells[self.home.port.core].poll_rung(waker)
    }

    /// What became of the awaited messages since the last call. To be taken after each poll; what is
    /// left there grows by one entry per awaited message.
    pub fn take_replies(&mut self) -> impl ExactSizeIterator<Item = Reply> {
        self.home.replies.drain(..)
    }

    /// From now on `submit` refuses; what was accepted goes on. The loop keeps polling until *all*
    /// shards are drained, as this one still works for the others.
    pub fn begin_drain(&mut self) {
        self.draining = true;
    }

    /// Ends what a drain that ran out of time has left: the sink puts somewhere what waits for it and what it has taken. All cores
    /// do this, then each polls once more for what comes home; what is in flight then is lost.
    pub fn abandon(&mut self) {
        for (lane, queue) in self.home.port.lanes.iter_mut().zip(&mut self.inbound) {
            if let Some(lane) = lane {
                lane.submissions_in.take(usize::MAX, |handle| queue.push_back(handle));
            }
        }
        for queue in &mut self.inbound {
            loop {
                let left = queue.len();
                self.sink.abandon(&mut Batch::new(queue, &mut self.home));
                if queue.len() == left {
                    break;
                }
            }
        }
        self.sink.part(&mut Completions::new(&mut self.home));
        self.home.publish();
    }

    /// Frees what has come home, and offers nothing more.
    pub fn settle(&mut self) {
        self.collect_completions();
        self.show_counts();
    }

    /// Whether every message this core ever accepted was completed, and no further one can come.
    pub fn is_drained(&self) -> bool {
        self.draining && self.in_flight() == 0
    }

    /// Messages this core accepted that are not completed. After a drain that ran out of time: the lost.
    pub fn in_flight(&self) -> usize {
        self.home.port.slab.in_use()
    }

    /// Tells the time, in seconds since whenever the caller counts from: that of the messages that come next.
    #[inline]
    pub fn set_second(&mut self, second: u32) {
        self.second = second;
    }

    /// Bytes of slab memory these messages take.
    pub fn bytes_in_flight(&self) -> usize {
        self.home.port.slab.bytes_in_use()
    }

    /// Messages this core takes at most.
    pub fn capacity(&self) -> usize {
        self.home.port.slab.capacity()
    }

    /// The number of this core.
    pub fn core(&self) -> usize {
        self.home.port.core
    }

    /// How many cores share the work.
    pub fn cores(&self) -> usize {
        self.inbound.len()
    }

    /// This core's doorbell, for a sink's threads.
    pub fn doorbell(&self) -> Doorbell {
        self.home.port.doorbell()
    }

    /// Messages that this core's sink has completed, processed and failed together, as of now: for the
    /// core's own loop, which needs no shared counter for it.
    #[inline]
    pub fn completed(&self) -> u64 {
        self.home.completed()
    }

    /// This core's counters, for whoever reports them. Updated once per poll.
    pub fn counters(&self) -> CounterReader {
        self.counter_reader.clone()
    }

    /// The sink.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// The sink, to configure it or ask it something.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{MemorySink, Prefix, SlabConfig, Ticket, mesh, tickets_lost};

    /// Notes payloads in order, keeps tickets until `release`, takes `room` at most.
    #[derive(Default)]
    struct Capture {
        seen: Vec<Vec<u8>>,
        kept: VecDeque<Ticket>,
        room: usize,
        release: usize,
    }

    impl Capture {
        fn with_room(room: usize) -> Self {
            Self { room, ..Self::default() }
        }
    }

    impl Sink for Capture {
        fn submit(&mut self, batch: &mut Batch<'_>) {
            while self.kept.len() < self.room
                && let Some(ticket) = batch.take()
            {
                self.seen.push(batch.read(&ticket).payload().to_vec());
                self.kept.push_back(ticket);
            }
        }

        fn poll(&mut self, done: &mut Completions<'_>) {
            for _ in 0..std::mem::take(&mut self.release) {
                let Some(ticket) = self.kept.pop_front() else { break };
                assert!(self.seen.iter().any(|seen| seen == done.read(&ticket).payload()));
                done.complete(ticket, Outcome::Processed);
            }
        }
    }

    fn shards<S: Sink>(cores: usize, slots: u32, sink: impl Fn() -> S) -> Vec<Shard<S>> {
        let ports = mesh(cores, &SlabConfig::new(slots, 1 << 20));
        ports.into_iter().map(|port| Shard::new(port, sink())).collect()
    }

    fn record(payload: &[u8]) -> Record<'_> {
        Record { payload, ..Record::default() }
    }

    #[test]
    fn message_for_another_core_goes_there_and_its_slot_comes_home() {
        let mut shards = shards(2, 4, || MemorySink::new(Prefix));
        shards[0].submit(1, &Record { reply_token: 9, ..record(b"hello") }).unwrap();
        assert!(!shards[1].has_work());
        shards[0].flush();
        assert!(shards[1].has_work());
        assert_eq!(shards[1].poll(), 1);
        assert_eq!((shards[0].in_flight(), shards[0].poll(), shards[0].in_flight()), (1, 1, 0));
        let replies: Vec<Reply> = shards[0].take_replies().collect();
        assert_eq!(replies, [Reply { token: 9, outcome: Outcome::Processed }]);
        let [home, away] = [0, 1].map(|core: usize| shards[core].counters().snapshot());
        assert_eq!((home.accepted, home.processed, home.bytes_accepted), (1, 0, 5));
        assert_eq!((away.accepted, away.processed, away.batches), (0, 1, 1));
    }

    #[test]
    fn only_awaited_messages_are_replied_to() {
        let mut shards = shards(1, 4, || MemorySink::new(Prefix));
        shards[0].submit(0, &record(b"nobody waits")).unwrap();
        shards[0].poll();
        assert_eq!(shards[0].take_replies().len(), 0);
    }

    #[test]
    fn full_queue_refuses_and_counts_until_a_completion() {
        let mut shards = shards(1, 2, || Capture::with_room(8));
        let shard = &mut shards[0];
        shard.submit(0, &record(b"1")).unwrap();
        shard.submit(0, &record(b"2")).unwrap();
        assert_eq!(shard.submit(0, &record(b"3")), Err(Refused::QueueFull));
        shard.poll();
        assert_eq!(shard.submit(0, &record(b"3")), Err(Refused::QueueFull)); // in the sink is in flight
        shard.sink_mut().release = 1;
        shard.poll();
        shard.submit(0, &record(b"3")).unwrap();
        shard.poll();
        let snapshot = shard.counters().snapshot();
        assert_eq!((snapshot.accepted, snapshot.refused_full, snapshot.queue_depth), (3, 2, 2));
        shard.sink_mut().release = 2;
        shard.poll();
    }

    #[test]
    fn over_budget_is_refused_and_counted() {
        let mut shards = shards(1, 2, || MemorySink::new(Prefix));
        let large = vec![0; (1 << 20) + 1];
        assert_eq!(shards[0].submit(0, &record(&large)), Err(Refused::OverBudget));
        shards[0].poll();
        assert_eq!(shards[0].counters().snapshot().refused_budget, 1);
        assert_eq!(shards[0].bytes_in_flight(), 0);
    }

    #[test]
    fn what_a_sink_leaves_is_offered_again_in_order() {
        let mut shards = shards(2, 16, || Capture::with_room(3));
        for n in 0..5_u8 {
            shards[0].submit(1, &record(&[n])).unwrap();
        }
        shards[0].flush();
        assert_eq!(shards[1].poll(), 3);
        for n in 5..8_u8 {
            shards[0].submit(1, &record(&[n])).unwrap();
        }
        shards[0].flush();
        for _ in 0..8 {
            shards[1].sink_mut().release = 1;
            shards[1].poll();
            shards[1].poll();
            shards[0].poll();
        }
        let expected: Vec<Vec<u8>> = (0..8).map(|n| vec![n]).collect();
        assert_eq!(shards[1].sink().seen, expected);
        assert_eq!(shards[0].in_flight(), 0);
    }

    #[test]
    fn full_sink_lets_the_core_sleep_until_it_completes_or_rings() {
        let mut shards = shards(1, 4, || Capture::with_room(1));
        let shard = &mut shards[0];
        shard.submit(0, &record(b"1")).unwrap();
        shard.submit(0, &record(b"2")).unwrap();
        assert_eq!((shard.poll(), shard.has_work()), (1, true));
        assert_eq!((shard.poll(), shard.has_work()), (0, false));
        assert!(shard.poll_work(Waker::noop()).is_pending());
        shard.doorbell().ring();
        assert!(shard.poll_work(Waker::noop()).is_ready());
        shard.sink_mut().release = 1;
        assert_eq!((shard.poll(), shard.has_work()), (1, true));
        assert_eq!(shard.poll(), 1);
        shard.sink_mut().release = 1;
        shard.poll();
        assert_eq!(shard.in_flight(), 0);
    }

    #[test]
    fn a_batch_is_bounded_and_every_core_gets_its_turn() {
        let mut shards = shards(2, 1024, || MemorySink::new(Prefix));
        for _ in 0..600 {
            shards[0].submit(1, &record(b"away")).unwrap();
            shards[1].submit(1, &record(b"home")).unwrap();
        }
        shards[0].flush();
        let moved: Vec<usize> = (0..4).map(|_| shards[1].poll()).collect();
        assert_eq!(moved, [2 * BATCH, 2 * BATCH, 2 * (600 - 2 * BATCH), 0]);
        assert_eq!(shards[1].counters().snapshot().batches, 6);
    }

    #[test]
    fn draining_refuses_new_messages_and_finishes_the_old() {
        let mut shards = shards(2, 4, || MemorySink::new(Prefix));
        shards[0].submit(1, &record(b"last")).unwrap();
        shards[0].begin_drain();
        assert_eq!(shards[0].submit(1, &record(b"late")), Err(Refused::Draining));
        assert!(!shards[0].is_drained());
        shards[0].poll();
        shards[1].poll();
        shards[0].poll();
        assert!(shards[0].is_drained());
        assert!(!shards[1].is_drained(), "never asked to");
    }

    #[test]
    fn dropped_ticket_is_counted_and_its_message_stays_in_flight() {
        struct Careless;
        impl Sink for Careless {
            fn submit(&mut self, batch: &mut Batch<'_>) {
                drop(batch.take());
            }
            fn poll(&mut self, _done: &mut Completions<'_>) {}
        }
        let mut shards = shards(1, 4, || Careless);
        let before = tickets_lost();
        shards[0].submit(0, &record(b"lost")).unwrap();
        shards[0].begin_drain();
        shards[0].poll();
        assert_eq!((shards[0].in_flight(), shards[0].is_drained()), (1, false));
        assert!(tickets_lost() > before);
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn no_such_core_panics() {
        let _ = shards(1, 4, || MemorySink::new(Prefix))[0].submit(1, &record(b"nowhere"));
    }

    #[test]
    fn two_cores_keep_order_per_key_and_lose_nothing() {
        const EACH: u64 = if cfg!(miri) { 200 } else { 200_000 };
        /// Checks that each home core's numbers come in order.
        struct InOrder {
            next: [u64; 2],
        }
        impl Sink for InOrder {
            fn submit(&mut self, batch: &mut Batch<'_>) {
                while let Some(ticket) = batch.take() {
                    let view = batch.read(&ticket);
                    let number = u64::from_le_bytes(view.payload().try_into().unwrap());
                    assert_eq!(number, std::mem::replace(&mut self.next[ticket.home_core()], number + 1));
                    batch.complete(ticket, Outcome::Processed);
                }
            }
            fn poll(&mut self, _done: &mut Completions<'_>) {}
        }
        let drained = std::sync::atomic::AtomicUsize::new(0);
        let ports = mesh(2, &SlabConfig::new(64, 1 << 20));
        std::thread::scope(|scope| {
            for port in ports {
                let drained = &drained;
                scope.spawn(move || {
                    let mut shard = Shard::new(port, InOrder { next: [0; 2] });
                    let other = 1 - shard.core();
                    let (mut sent, mut told) = (0_u64, false);
                    while drained.load(std::sync::atomic::Ordering::Relaxed) < 2 {
                        while sent < EACH && shard.submit(other, &record(&sent.to_le_bytes())).is_ok() {
                            sent += 1;
                        }
                        if shard.poll() == 0 {
                            std::thread::yield_now();
                        }
                        if sent == EACH {
                            shard.begin_drain();
                        }
                        if shard.is_drained() && !std::mem::replace(&mut told, true) {
                            drained.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                    assert_eq!(shard.sink().next[other], EACH);
                    assert_eq!(shard.counters().snapshot().processed, EACH);
                });
            }
        });
    }
}

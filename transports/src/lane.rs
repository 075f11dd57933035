//! The way into the engine: what a front end does with a message it has read.

use std::num::NonZeroU64;

use engine_core::{
    Batch, Completions, KIND_PROBE, PartitionKey, Record, Refused, Shard, Sink, key_hash, shard_of,
};

use crate::{
    counters::{FrontCounters, Tally},
    message_id::{MESSAGE_ID_BYTES, MessageIds},
    terms::Terms,
    waiting::{Caller, WaitingRoom},
};

/// Where accepted messages of a core go; chosen at the start, called once per batch.
pub type BoxedSink = Box<dyn Sink + Send>;

/// [`BoxedSink`] as the engine takes it.
pub(crate) struct AnySink(pub(crate) BoxedSink);

impl Sink for AnySink {
    fn submit(&mut self, batch: &mut Batch<'_>) {
        self.0.submit(batch);
    }

    fn poll(&mut self, done: &mut Completions<'_>) {
        self.0.poll(done);
    }

    fn abandon(&mut self, left: &mut Batch<'_>) {
        self.0.abandon(left);
    }

    fn part(&mut self, done: &mut Completions<'_>) {
        self.0.part(done);
    }
}

impl std::fmt::Debug for AnySink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnySink")
    }
}

/// A message as read from a request, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    /// The caller's id; without one it gets ours.
    pub(crate) id: Option<&'a [u8]>,
    pub(crate) source: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// Pairs as `engine_core::MetadataWriter` writes them.
    pub(crate) metadata: &'a [u8],
    /// The caller's time; without one it gets ours.
    pub(crate) timestamp_seconds: Option<i64>,
    /// Whether a repeat of the caller's id is recognised.
    pub(crate) once: bool,
}

/// What a front end gets for an accepted message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Accepted {
    /// It is in the queue, and that is what was asked for; the id it goes by (ours; the caller's is not copied back).
    Now([u8; MESSAGE_ID_BYTES]),
    /// The answer comes through the caller's hook.
    Waits(NonZeroU64),
}

/// One core's engine with what a message needs on its way in.
#[derive(Debug)]
pub(crate) struct Lane {
    shard: Shard<AnySink>,
    ids: MessageIds,
    partition: PartitionKey,
    route_by_id: bool,
    finished: u64,
    /// Messages that moved outside of [`Lane::work`] since its last turn.
    moved: usize,
    waiting: WaitingRoom,
}

impl Lane {
    pub(crate) fn new(shard: Shard<AnySink>, partition: PartitionKey, route_by_id: bool) -> Self {
        let (ids, waiting) = (MessageIds::new(), WaitingRoom::default());
        Self { shard, ids, partition, route_by_id, finished: 0, moved: 0, waiting }
    }

    /// Puts a message into the queue, on these terms; `caller` is told later when they make it wait.
    ///
    /// A full queue is worked on once, on the spot, before it is called full: so a burst that this core can digest
    /// is never refused for having come in one read.
    pub(crate) fn offer(
        &mut self,
        message: &Incoming<'_>,
        kind: u8,
        terms: &Terms,
        caller: impl FnOnce() -> Caller,
        unix_ms: u64,
        now_ns: u64,
    ) -> Result<Accepted, Refused> {
        let ours = self.ids.next(unix_ms);
        // Enough until the year 2106.
        self.shard.set_second((unix_ms / 1000) as u32);
        let id = message.id.or(terms.key.as_deref()).unwrap_or(&ours);
        let key = self.partition.of(message.source, message.metadata).map(key_hash);
        // Repeats of an id must meet where the first one is remembered.
        let once = terms.key.is_some() || (message.once && message.id.is_some());
        let by_id = self.route_by_id || once;
        let route = key.or_else(|| by_id.then(|| key_hash(id)));
        let core = route.map_or(self.shard.core(), |route| shard_of(route, self.shard.cores()));
        let mut record = Record {
            id,
            source: message.source,
            payload: message.payload,
            metadata: message.metadata,
            timestamp_seconds: message
                .timestamp_seconds
                .unwrap_or_else(|| i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX)),
            key_hash: key.unwrap_or_default(),
            kind,
            level: terms.level,
            level_named: terms.named,
            once,
            reply_token: 0,
        };
        if terms.detached || (!once && !terms.waits()) {
            self.submit(core, &record)?;
            return Ok(Accepted::Now(ours));
        }
        let token = self.waiting.enter(caller(), id.into(), core, now_ns);
        record.reply_token = token.get();
        if let Err(refused) = self.submit(core, &record) {
            self.waiting.forget(token);
            return Err(refused);
        }
        Ok(Accepted::Waits(token))
    }

    fn submit(&mut self, core: usize, record: &Record<'_>) -> Result<(), Refused> {
        match self.shard.submit(core, record) {
            Err(Refused::QueueFull | Refused::OverBudget) => {
                self.moved += self.shard.poll();
                self.shard.submit(core, record)
            }
            other => other,
        }
    }

    /// One turn of the worker; tells those who wait. Returns how many messages moved and how many its sink finished.
    pub(crate) fn work(&mut self) -> (usize, u64) {
        let moved = self.shard.poll() + std::mem::take(&mut self.moved);
        for reply in self.shard.take_replies() {
            self.waiting.settle(reply.token, reply.outcome);
        }
        if self.shard.has_work() {
            // A turn offers the sink one batch. Whoever brought more may have no other turn before the sink is done
            // with these: the worker task goes on.
            self.shard.doorbell().ring();
        }
        let before = std::mem::replace(&mut self.finished, self.shard.completed());
        (moved, self.finished - before)
    }

    /// An id for something that is no message.
    pub(crate) fn next_id(&mut self, unix_ms: u64) -> [u8; MESSAGE_ID_BYTES] {
        self.ids.next(unix_ms)
    }

    /// Whether this core takes so many more messages; its queue is worked on once to make room.
    pub(crate) fn has_room(&mut self, messages: usize) -> bool {
        let free = |shard: &Shard<AnySink>| shard.capacity() - shard.in_flight();
        if free(&self.shard) < messages {
            self.moved += self.shard.poll();
        }
        free(&self.shard) >= messages
    }

    /// Those who wait.
    pub(crate) fn waiting(&mut self) -> &mut WaitingRoom {
        &mut self.waiting
    }

    pub(crate) fn shard(&mut self) -> &mut Shard<AnySink> {
        &mut self.shard
    }
}

/// Counts the fate of messages.
pub(crate) fn count_offer(
    counters: &FrontCounters,
    kind: u8,
    payload_bytes: usize,
    outcome: Result<(), Refused>,
) {
    match (kind, outcome) {
        (KIND_PROBE, Ok(())) => counters.add(Tally::Probes, 1),
        (KIND_PROBE, Err(_)) => {}
        (_, Ok(())) => {
            counters.add(Tally::MessagesReceived, 1);
            counters.add(Tally::MessagesQueued, 1);
            counters.add(Tally::MessageBytes, payload_bytes as u64);
        }
        (_, Err(_)) => {
            counters.add(Tally::MessagesReceived, 1);
            counters.add(Tally::MessagesRefused, 1);
        }
    }
}

//! A core's messages in the log: appended, synced, worked on, and followed to the brokers.

use std::{collections::VecDeque, sync::Arc};

use engine_core::{AckLevel, Completions, Outcome, Process, Record, Rejection, Ticket, key_hash};

use crate::{
    delivered::Delivered,
    entry,
    fingerprint::Fingerprint,
    log::{Cursor, Log, Pushback, Reader, ShardWriter},
    pipeline::{Decided, NotSent, in_shard, stored},
    window::Id,
    work::Work,
};

/// Bytes of a backlog that are worked on in one turn of a core.
const BACKLOG_BYTES: usize = 256 << 10;

/// A message in the log whose sender is not told yet.
#[derive(Debug)]
struct Kept {
    offset: u64,
    ticket: Ticket,
    id: Option<Id>,
}

/// What works on the log's messages of a shard on this core.
#[derive(Debug)]
struct Follower {
    log: Log,
    shard: usize,
    cursor: Cursor,
    /// Reads what is not in memory any more: a backlog from before the start.
    reader: Option<Reader>,
    /// The next offset to work on.
    position: u64,
}

/// How the messages have come through to the brokers.
#[derive(Debug)]
pub struct Onward {
    /// One for each broker, with its bit in a rejection: how far it has each shard of the log.
    pub sides: Vec<(u8, Vec<Arc<Delivered>>)>,
    /// Whether one of them is enough.
    pub best_effort: bool,
    /// Whether being in the log is being at one of the sides.
    pub log_is_a_side: bool,
}

/// The log's part of a core's sink.
#[derive(Debug)]
pub struct Stored {
    shard: usize,
    writer: ShardWriter,
    /// Appended last, and about to be kept.
    appended: u64,
    /// Waits to be durable; oldest first.
    pending: VecDeque<Kept>,
    /// Durable, waits to be delivered; oldest first.
    awaiting: VecDeque<Kept>,
    /// Repeats that ask for more than the first did, by the shard and the offset of that.
    late: Vec<(usize, u64, Ticket)>,
    /// This core's shard first; behind it its part of those that no core writes any more.
    followers: Vec<Follower>,
    onward: Option<Onward>,
}

impl Stored {
    /// Writes to `writer`. With `cursor` this core works on its shard's messages from there.
    pub fn new(
        log: &Log,
        shard: usize,
        writer: ShardWriter,
        cursor: Option<Cursor>,
        onward: Option<Onward>,
    ) -> Self {
        let cores = log.config().shards;
        let others = log.shards().into_iter().filter(|other| *other >= cores && other % cores == shard);
        let follow = |cursor: &Cursor, shard: usize| {
            let position = cursor.position(shard);
            Follower { log: log.clone(), shard, reader: None, position, cursor: cursor.clone() }
        };
        let followers = cursor.iter().flat_map(|cursor| {
            std::iter::once(shard).chain(others.clone()).map(|shard| follow(cursor, shard))
        });
        let followers = followers.collect();
        Self {
            shard,
            writer,
            appended: 0,
            pending: VecDeque::new(),
            awaiting: VecDeque::new(),
            late: Vec::new(),
            followers,
            onward,
        }
    }

    /// The offset behind what this core has worked on, if it works on the log.
    pub(crate) fn worked_upto(&self) -> Option<u64> {
        self.followers.first().map(|follower| follower.position)
    }

    /// Appends a message; `known`: its id with the hash of its content, if its repeats are to be recognised.
    pub(crate) fn append(&mut self, record: &Record<'_>, known: Option<(Id, u64)>) -> Result<(), NotSent> {
        let fingerprint =
            known.map(|(id, content)| Fingerprint { id: id.hash(), content, home: key_hash(record.id) });
        let appended =
            self.writer.append_known(record.key_hash, fingerprint, |out| entry::encode(record, out));
        self.appended = appended.map_err(|pushback| match pushback {
            Pushback::Busy => NotSent::NoRoom,
            // Settings that allow it are refused at the start.
            Pushback::TooLong => NotSent::Never(Outcome::Failed),
            // Its sender was told already: it stays in the queue, and is put aside when the process ends.
            Pushback::Failed if record.level == AckLevel::Queued => NotSent::NoRoom,
            Pushback::Failed => NotSent::Never(Outcome::Rejected(Rejection::Unknown)),
        })?;
        Ok(())
    }

    pub(crate) fn keep(&mut self, ticket: Ticket, id: Option<Id>) {
        self.pending.push_back(Kept { offset: self.appended, ticket, id });
    }

    pub(crate) fn commit(&mut self) {
        self.writer.commit();
    }

    pub(crate) fn await_delivery(&mut self, shard: Option<u32>, offset: u64, ticket: Ticket) {
        let shard = shard.map_or(self.shard, |shard| shard as usize);
        self.late.push((shard, offset, ticket));
    }

    /// Tells those whose level is reached, works on what is durable. True when there is more to work on.
    pub(crate) fn poll<P: Process>(
        &mut self,
        work: &mut Work<P>,
        done: &mut Completions<'_>,
        decide: &mut impl FnMut(Decided, &mut Completions<'_>),
    ) -> bool {
        self.writer.commit();
        let durable_upto = self.writer.durable_upto();
        while self.pending.front().is_some_and(|kept| kept.offset < durable_upto) {
            let Some(Kept { offset, ticket, id }) = self.pending.pop_front() else { break };
            let view = done.read(&ticket);
            if let Some(follower) = self.followers.first_mut()
                && follower.position == offset
            {
                // Still in memory: no need to read it back.
                work.work(&view.record());
                follower.position += 1;
            }
            if view.level() == AckLevel::Delivered && self.onward.is_some() {
                self.awaiting.push_back(Kept { offset, ticket, id });
            } else {
                let outcome = stored(AckLevel::Durable, Some(offset));
                decide(Decided { ticket, id, outcome }, done);
            }
        }
        if self.writer.has_failed() {
            // What is on the disk of these is known after the next start. Those whose senders were told already are put aside
            // when the process ends.
            for kept in std::mem::take(&mut self.pending) {
                if done.read(&kept.ticket).level() == AckLevel::Queued {
                    self.pending.push_back(kept);
                } else {
                    let Kept { ticket, id, .. } = kept;
                    decide(Decided { ticket, id, outcome: Outcome::Rejected(Rejection::Unknown) }, done);
                }
            }
        }
        if let Some(onward) = &self.onward {
            while let Some(kept) = self.awaiting.front()
                && let Some(outcome) = onward.outcome(self.shard, kept.offset)
            {
                let Some(Kept { ticket, id, .. }) = self.awaiting.pop_front() else { break };
                decide(Decided { ticket, id, outcome }, done);
            }
            for (shard, offset, ticket) in std::mem::take(&mut self.late) {
                match onward.outcome(shard, offset) {
                    Some(outcome) => {
                        decide(Decided { ticket, id: None, outcome: as_repeat(shard, outcome) }, done);
                    }
                    None => self.late.push((shard, offset, ticket)),
                }
            }
        }
        let mut more = false;
        for follower in &mut self.followers {
            more |= follower.catch_up(work);
        }
        more
    }

    /// The process ends: what is durable has what it was promised, or more; the rest goes to `unsafe_ones`.
    pub(crate) fn part(
        &mut self,
        done: &mut Completions<'_>,
        unsafe_ones: &mut impl FnMut(Ticket, &Completions<'_>),
    ) {
        let durable_upto = self.writer.durable_upto();
        for Kept { offset, ticket, .. } in self.awaiting.drain(..).chain(self.pending.drain(..)) {
            if offset < durable_upto {
                done.complete(ticket, stored(AckLevel::Durable, Some(offset)));
            } else {
                unsafe_ones(ticket, done);
            }
        }
        for (shard, offset, ticket) in self.late.drain(..) {
            done.complete(ticket, as_repeat(shard, stored(AckLevel::Durable, Some(offset))));
        }
    }
}

/// What a repeat of a message in this shard is told, which need not be this core's.
fn as_repeat(shard: usize, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Stored(receipt) => {
            let mut receipt = in_shard(receipt, shard);
            receipt.duplicate = true;
            Outcome::Stored(receipt)
        }
        other => other,
    }
}

impl Follower {
    /// Works on a part of the backlog; true when there is more.
    fn catch_up<P: Process>(&mut self, work: &mut Work<P>) -> bool {
        let (shard, durable_upto) = (self.shard, self.log.durable_upto(self.shard));
        if self.position < durable_upto {
            let position = &mut self.position;
            let reader = match &mut self.reader {
                Some(reader) if reader.offset() == *position => reader,
                other => other.insert(self.log.reader(shard, *position)),
            };
            let read = reader.read(BACKLOG_BYTES, |offset, _appended_ms, bytes| {
                match entry::decode(bytes) {
                    Ok(record) => {
                        work.work(&record);
                    }
                    Err(error) => tracing::error!(shard, offset, %error, "a record of the log is no message"),
                }
                *position = offset + 1;
                true
            });
            // Offsets that are lost are passed, too.
            self.position = reader.offset();
            if let Err(error) = read {
                tracing::error!(shard, %error, "the log cannot be read back; its messages wait for the next start");
                self.reader = None;
                self.cursor.advance(shard, self.position);
                return false;
            }
        } else {
            self.reader = None;
        }
        self.cursor.advance(shard, self.position);
        self.position < durable_upto
    }
}

impl Onward {
    /// What a message at this offset has come to, by the strategy; `None` while it is not decided.
    fn outcome(&self, shard: usize, offset: u64) -> Option<Outcome> {
        if self.best_effort && self.log_is_a_side {
            return Some(stored(AckLevel::Delivered, Some(offset)));
        }
        let (mut passed, mut refused) = (0, 0);
        for (bit, shards) in &self.sides {
            let Some(side) = shards.get(shard) else { continue };
            if offset < side.upto() {
                passed |= bit;
                if side.refused(offset) {
                    refused |= bit;
                }
            }
        }
        let all = self.sides.iter().fold(0, |all, (bit, _)| all | bit);
        let has = passed & !refused;
        let decided = if self.best_effort { has != 0 || passed == all } else { passed == all };
        if !decided {
            return None;
        }
        Some(if self.best_effort && has != 0 || refused == 0 {
            stored(AckLevel::Delivered, Some(offset))
        } else {
            Outcome::Rejected(Rejection::Refused { sides: refused })
        })
    }
}

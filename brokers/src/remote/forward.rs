//! A core's messages on their way to another process: its end of the rings, and the tickets of what is under way.

use std::task::Waker;

use engine_core::{
    AckLevel, Completions, Outcome, Record, Ticket,
    ring::{Consumer, Producer},
};

use crate::{
    entry,
    pipeline::{Decided, NotSent},
};

/// Messages of one core that may be under way; a power of two, as rings are. More wait in the queue.
pub(super) const UNDER_WAY_MAX: usize = 1 << 14;

/// A message on its way to the thread.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) tag: u32,
    /// As its sender named it.
    pub(super) level: Option<AckLevel>,
    /// As [`entry`] writes it.
    pub(super) entry: Box<[u8]>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) tag: u32,
    pub(super) outcome: Outcome,
}

/// The core's end towards the thread.
pub struct RemotePort {
    pub(super) parcels: Producer<Parcel>,
    pub(super) fates: Consumer<Fate>,
    pub(super) waker: Waker,
}

impl std::fmt::Debug for RemotePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RemotePort")
    }
}

/// The forwarding part of a core's sink.
#[derive(Debug)]
pub struct Forward {
    port: RemotePort,
    /// By tag: what is under way.
    tickets: Vec<Option<Ticket>>,
    free: Vec<u32>,
    /// The tag that was sent last and whose ticket comes next.
    sent: u32,
}

impl Forward {
    /// Sends through this port.
    pub fn new(port: RemotePort) -> Self {
        Self { port, tickets: Vec::new(), free: Vec::new(), sent: 0 }
    }

    /// Sends a message, or says that there is no room for it.
    pub(crate) fn send(&mut self, record: &Record<'_>) -> Result<(), NotSent> {
        if self.tickets.len() - self.free.len() >= UNDER_WAY_MAX {
            return Err(NotSent::NoRoom);
        }
        let tag = self.free.pop().unwrap_or_else(|| {
            self.tickets.push(None);
            // At most as many as may be under way.
            (self.tickets.len() - 1) as u32
        });
        let mut bytes = Vec::new();
        entry::encode(record, &mut bytes);
        let level = record.level_named.then_some(record.level);
        let staged = self.port.parcels.stage(Parcel { tag, level, entry: bytes.into() });
        debug_assert!(staged.is_ok(), "the ring holds as many as may be under way");
        self.sent = tag;
        Ok(())
    }

    pub(crate) fn keep(&mut self, ticket: Ticket) {
        self.tickets[self.sent as usize] = Some(ticket);
    }

    /// The tickets of what is under way, which nobody knows the fate of.
    pub(crate) fn take_tickets(&mut self) -> impl Iterator<Item = Ticket> {
        self.tickets.iter_mut().filter_map(Option::take)
    }

    /// Shows the thread what was sent, and wakes it once.
    pub(crate) fn flush(&mut self) {
        if self.port.parcels.staged() > 0 {
            self.port.parcels.publish();
            self.port.waker.wake_by_ref();
        }
    }

    /// Tells those whose message was decided.
    pub(crate) fn poll(
        &mut self,
        done: &mut Completions<'_>,
        decide: &mut impl FnMut(Decided, &mut Completions<'_>),
    ) {
        let Self { port, tickets, free, .. } = self;
        port.fates.take(usize::MAX, |fate| {
            let Some(ticket) = tickets.get_mut(fate.tag as usize).and_then(Option::take) else { return };
            free.push(fate.tag);
            // Repeats are the other side's to recognise, which has them from everybody.
            decide(Decided { ticket, id: None, outcome: fate.outcome }, done);
        });
    }
}

//! Where messages go: the trait that a sink implements and the three things it is handed.
//!
//! The worker offers a [`Batch`]. For each message the sink wants it takes a [`Ticket`], reads the
//! message through it as often and as long as it likes, and completes it: at once
//! ([`Batch::complete`]) or in a later poll ([`Completions::complete`]). What it does not take stays
//! queued, in order, and is offered again: that is how a sink says "not now".

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::outcome::Outcome;
use crate::shard::Home;
use crate::slab::{Handle, RecordView};

/// The largest batch a sink is offered, in messages.
pub const BATCH: usize = 256;

/// What does something with messages: one per core, called on that core's thread only. It must not block.
///
/// A client with threads of its own hands them work in `submit` and passes on in `poll` what they have
/// finished; the threads ring the core's [`Doorbell`](crate::Doorbell) once per batch.
pub trait Sink {
    /// Takes as many messages from the front of the batch as it can. A sink that takes none is offered
    /// them again when it completes something or when the core's doorbell rings, so it rings the
    /// doorbell when it has room again.
    fn submit(&mut self, batch: &mut Batch<'_>);

    /// Completes what was finished since the last call. Called on every turn of the core.
    fn poll(&mut self, done: &mut Completions<'_>);

    /// The process ends, and these still wait. What is taken and completed went somewhere; what is left is lost. Called until it
    /// takes nothing more.
    fn abandon(&mut self, _left: &mut Batch<'_>) {}

    /// The process ends: completes what it has taken and has put somewhere. The rest of that is lost.
    fn part(&mut self, _done: &mut Completions<'_>) {}
}

/// The duty to complete one message.
///
/// A ticket dropped without being completed is counted ([`tickets_lost`]), and its message stays in its
/// slot: it shows in the home shard's `in_flight`, and that shard never drains. So a sink's bug is seen
/// as lost messages, never taken for delivered ones; and a sink that a hard shutdown cuts off is told
/// apart from one that lost something by nothing but the moment, which is why this does not panic.
#[must_use = "a message is in flight until its ticket is completed"]
#[derive(Debug)]
pub struct Ticket {
    handle: Handle,
    duty: Duty,
}

/// The duty itself: dropped with the ticket, forgotten when the ticket is used up. A part of its own, so
/// that the handle can be taken out of the ticket and a ticket is no larger than a handle.
#[derive(Debug)]
struct Duty;

static TICKETS_LOST: AtomicU64 = AtomicU64::new(0);

/// Tickets of this process that were dropped without being completed.
pub fn tickets_lost() -> u64 {
    TICKETS_LOST.load(Ordering::Relaxed)
}

impl Drop for Duty {
    #[inline]
    fn drop(&mut self) {
        TICKETS_LOST.fetch_add(1, Ordering::Relaxed);
    }
}

impl Ticket {
    #[inline]
    fn new(handle: Handle) -> Self {
        Self { handle, duty: Duty }
    }

    #[inline]
    fn into_handle(self) -> Handle {
        std::mem::forget(self.duty);
        self.handle
    }

    /// The core that received the message.
    #[inline]
    pub fn home_core(&self) -> usize {
        self.handle.core()
    }
}

/// Messages offered to the sink, oldest first.
#[derive(Debug)]
pub struct Batch<'a> {
    queue: &'a mut VecDeque<Handle>,
    left: usize,
    home: &'a mut Home,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(queue: &'a mut VecDeque<Handle>, home: &'a mut Home) -> Self {
        let left = queue.len().min(BATCH);
        Self { queue, left, home }
    }

    /// Takes the next message.
    #[inline]
    pub fn take(&mut self) -> Option<Ticket> {
        self.left = self.left.checked_sub(1)?;
        self.queue.pop_front().map(Ticket::new)
    }

    /// The next message, not taken yet: for a sink that must know whether it has room for it.
    #[inline]
    pub fn peek(&self) -> Option<RecordView<'_>> {
        if self.left == 0 {
            return None;
        }
        self.queue.front().map(|handle| self.home.read(handle))
    }

    /// The messages not taken yet, oldest first: for a sink that asks for something ahead.
    pub fn views(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.queue.iter().take(self.left).map(|handle| self.home.read(handle))
    }

    /// Messages not taken yet, at most [`BATCH`].
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether all were taken.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The ticket's message.
    #[inline]
    pub fn read<'r>(&'r self, ticket: &'r Ticket) -> RecordView<'r> {
        self.home.read(&ticket.handle)
    }

    /// Completes a message on the spot.
    #[inline]
    pub fn complete(&mut self, ticket: Ticket, outcome: Outcome) {
        self.home.complete(ticket.into_handle(), outcome);
    }
}

/// The way home for tickets that a sink kept.
#[derive(Debug)]
pub struct Completions<'a> {
    home: &'a mut Home,
}

impl<'a> Completions<'a> {
    pub(crate) fn new(home: &'a mut Home) -> Self {
        Self { home }
    }

    /// The ticket's message, for a sink that must read it again.
    #[inline]
    pub fn read<'r>(&'r self, ticket: &'r Ticket) -> RecordView<'r> {
        self.home.read(&ticket.handle)
    }

    /// Sends the message home. In any order; it is free at once if this core is its home.
    #[inline]
    pub fn complete(&mut self, ticket: Ticket, outcome: Outcome) {
        self.home.complete(ticket.into_handle(), outcome);
    }
}

//! A connection as the rest of its core sees it: how to wake it, what it waits for and since when.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Waker},
};

use crate::{counters::Cause, waiting::Settled};

/// What a connection is in the middle of; each has its own time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The protocol is not known yet.
    Preface,
    /// A head is incomplete.
    Head,
    /// A body is incomplete.
    Body,
    /// The client has to take what we sent.
    Write,
    /// The client has to open a stream's window; a look once a second finds streams that waited too long.
    Window,
    /// We are at work, or the peer streams at its own pace with the window withheld by us.
    Work,
    /// Nothing is under way.
    Idle,
}

/// A connection's hook.
#[derive(Debug)]
pub(crate) struct Hook {
    waker: RefCell<Option<Waker>>,
    /// What it is in the middle of.
    pub(crate) phase: Cell<Phase>,
    /// Since when, or since the last progress, in the core's milliseconds.
    pub(crate) since_ms: Cell<u64>,
    /// Body bytes when the phase began, for the minimum rate.
    pub(crate) body_start: Cell<(u64, u64)>,
    /// Body bytes received so far.
    pub(crate) body_bytes: Cell<u64>,
    /// Set by the sweep: the connection is to end, for this reason.
    pub(crate) expired: Cell<Option<Cause>>,
    /// Set by the drain: finish what is open and end.
    pub(crate) drain: Cell<bool>,
    /// Where it stands among the core's connections.
    pub(crate) place: Cell<usize>,
    /// Whether it is among those that wait for room in the queue.
    pub(crate) waits_for_room: Cell<bool>,
    /// Set from outside: have a turn, something may go on.
    pub(crate) nudged: Cell<bool>,
    /// What became of messages whose answer this connection owes.
    pub(crate) settled: RefCell<Vec<Settled>>,
    /// Counted up by the sweep: once a second while draining.
    pub(crate) drain_ticks: Cell<u32>,
}

impl Hook {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            waker: RefCell::default(),
            phase: Cell::new(Phase::Preface),
            since_ms: Cell::new(now_ms),
            body_start: Cell::new((now_ms, 0)),
            body_bytes: Cell::new(0),
            expired: Cell::new(None),
            drain: Cell::new(false),
            place: Cell::new(0),
            waits_for_room: Cell::new(false),
            nudged: Cell::new(false),
            settled: RefCell::default(),
            drain_ticks: Cell::new(0),
        }
    }

    /// Enters a phase, or notes progress in it.
    pub(crate) fn enter(&self, phase: Phase, now_ms: u64, body_bytes: u64) {
        let before = self.phase.replace(phase);
        self.body_bytes.set(body_bytes);
        if before != phase || !matches!(phase, Phase::Head | Phase::Preface) {
            // These have one limit from their first byte: bytes that trickle in are no progress.
            self.since_ms.set(now_ms);
        }
        if before != phase {
            self.body_start.set((now_ms, body_bytes));
        }
    }

    /// Whether what was sent before the client could know of the drain has had its second to arrive.
    pub(crate) fn grace_is_over(&self) -> bool {
        // The first sweep may come at once.
        self.drain_ticks.get() > 1
    }

    /// Remembers whom to wake.
    pub(crate) fn register(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) if known.will_wake(context.waker()) => {}
            other => *other = Some(context.waker().clone()),
        }
    }

    /// Wakes the connection.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

//! What a broker's client looks like to the thread that drives it.

use std::{task::Waker, time::Duration};

use engine_core::Record;

/// Takes records in order and says what became of each. Driven by one thread of its own.
///
/// Whatever may pass by itself (no connection, a leader election, a timeout) the publisher retries for ever, with
/// exponential backoff and full jitter, in order: a record that is retried is not overtaken by a later one of the same
/// key. Only what the broker refuses for ever comes back as [`Rejected`].
pub trait Publisher {
    /// Takes a record; `tag` comes back in its [`Ack`]. Does not wait. The record is copied.
    ///
    /// # Errors
    /// [`Busy`] when as many records are in flight as the publisher's window allows: nothing was taken, offer it
    /// again after a [`poll`](Publisher::poll).
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy>;

    /// Drives the client and appends what was decided since the last call, in any order. Returns as soon as there
    /// is something, when the publisher's waker (whatever it hands out) is used, or after `timeout`.
    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>);

    /// Records taken and not yet acknowledged.
    fn in_flight(&self) -> usize;

    /// Whether the broker answers, as far as is known.
    fn is_connected(&self) -> bool;

    /// Ends a [`poll`](Publisher::poll) that waits; cheap while none does.
    fn waker(&self) -> Waker;
}

impl<P: Publisher + ?Sized> Publisher for Box<P> {
    fn publish(&mut self, tag: u64, record: &Record<'_>) -> Result<(), Busy> {
        (**self).publish(tag, record)
    }

    fn poll(&mut self, timeout: Duration, acks: &mut Vec<Ack>) {
        (**self).poll(timeout, acks);
    }

    fn in_flight(&self) -> usize {
        (**self).in_flight()
    }

    fn is_connected(&self) -> bool {
        (**self).is_connected()
    }

    fn waker(&self) -> Waker {
        (**self).waker()
    }
}

/// The publisher's window is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// As given to [`Publisher::publish`].
    pub tag: u64,
    /// Acknowledged by the broker, or refused for ever.
    pub outcome: Result<(), Rejected>,
}

/// A record that the broker refuses for ever, judged by itself: too large, or invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The broker's own code: `MSG_SIZE_TOO_LARGE`, `10054`.
    pub code: String,
    /// In words, with the setting to change where there is one.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}

//! The way to another Tidegate: messages that this process does not work on itself go there over HTTP/2 with prior
//! knowledge, as `POST /enqueue` of a `DataMessage`, and what it answers is what is answered here.
//!
//! ```text
//! core's Sink ─ Forward ─ ring ─▶ thread "remote": Bridge ─▶ Pool ─▶ connection ─ many streams ─▶ the other process
//!        told  ◀───────── ring ◀──────────────────────────── Answer ◀──────────────────────────── 202, 4xx, 503 …
//! ```
//!
//! - **Nothing is kept here.** A message is in the slab of the core that received it until its fate is known, so the
//!   queue's bound is the bound of everything under way; a full one refuses as ever.
//! - **In batches.** Everything that waits when the thread has its turn becomes frames of one write per connection.
//! - **A connection that breaks after a message was sent** leaves its fate open: it is sent once more, on another
//!   connection, under the same `Idempotency-Key`, and the other side recognises it. A second break is answered 504,
//!   unknown. What was not sent at all is answered 503.
//! - **Order**: two messages that wait at the same time may overtake each other, on two connections or by being sent
//!   again. A sender that waits for each answer sees its own order.

mod answer;
mod bridge;
mod corked;
mod forward;
mod pool;
mod target;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use engine_core::Reasons;
use http::HeaderValue;

use crate::{breaker::BreakerConfig, status::SideStatus};

pub use self::{
    bridge::{RemoteThread, forward},
    forward::{Forward, RemotePort},
    target::Target,
};

/// How to reach the other process.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Which.
    pub target: Target,
    /// The setting that names it, for what is said when it cannot be reached.
    pub setting: &'static str,
    /// What it asks for, if it does: sent as `x-api-key` with every message. The callers' own keys stay here.
    pub key: Option<HeaderValue>,
    /// Connections open at once. All in use: messages wait in the queue.
    pub connections_max: usize,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How long the other process may take to answer a message.
    pub answer_timeout: Duration,
    /// A connection without a message for this long is closed.
    pub idle: Duration,
    /// When it counts as out of reach.
    pub breaker: BreakerConfig,
}

/// How the other process is, and what went there.
#[derive(Debug)]
pub struct RemoteStatus {
    /// As of a broker.
    pub side: SideStatus,
    /// The words for what was not taken.
    pub reasons: Arc<Reasons>,
    /// Connections opened so far.
    pub connections_opened: AtomicU64,
    /// Connections open now.
    pub connections: AtomicU64,
    /// Messages sent, those sent again included.
    pub requests: AtomicU64,
    /// Messages that were turned down or did not get there.
    pub refused: AtomicU64,
    /// Messages of which nothing is known.
    pub unknown: AtomicU64,
}

impl Default for RemoteStatus {
    fn default() -> Self {
        Self {
            side: SideStatus::new("remote"),
            reasons: Arc::default(),
            connections_opened: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }
}

//! Where messages go and where they come from: the embedded durable log, NATS JetStream, Kafka, and several at once.
//!
//! ```text
//!              ┌ log::ShardWriter ── fdatasync ──► durable ─┐ (outbox: a delivery thread reads it)
//! core's Sink ─┤                                            ├─► Publisher (nats, kafka) ──► delivered
//!              └ ring ── a delivery thread (no log) ────────┘
//! ```
//!
//! A [`Publisher`] is a broker's client: it takes records in order and says what became of each. It retries what may
//! pass by itself for as long as it takes and gives up only what the broker refuses for ever.

pub mod entry;
pub mod log;
pub mod publisher;

pub use publisher::{Ack, Busy, Publisher, Rejected};

//! Where messages go and where they come from: the embedded durable log, NATS JetStream, Kafka, and several at once.
//!
//! ```text
//!              ┌ log::ShardWriter ── fdatasync ──► durable ─┐ (outbox: a delivery thread reads it)
//! core's Sink ─┤                                            ├─► Publisher (nats, kafka) ──► delivered
//!              └ ring ── a delivery thread (no log) ────────┘
//! ```
//!
//! Or all of it goes to another Tidegate ([`remote`]), whose answer is this one's.
//!
//! [`pipeline`] is the sink of a core and says which way a message takes. A [`Publisher`] is a broker's client: it takes
//! records in order and says what became of each. It retries what may pass by itself for as long as it takes and gives
//! up only what the broker refuses for ever.

pub mod backoff;
pub mod breaker;
pub mod claims;
mod content;
pub mod data_message;
pub mod dead_letter;
pub mod delivered;
pub mod delivery;
pub mod destination;
pub mod direct;
pub mod disk;
pub mod entry;
pub mod fingerprint;
pub mod inbound;
pub mod journal;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod log;
pub mod missed;
#[cfg(feature = "nats")]
pub mod nats;
pub mod pipeline;
pub mod publisher;
pub mod raw_message;
pub mod recall;
#[cfg(feature = "remote")]
pub mod remote;
pub mod secret;
pub mod status;
pub mod stored;
pub mod tap;
pub mod window;
pub mod work;
pub mod written;

pub use pipeline::{Onlooker, Pipeline, Progress, Way};
pub use publisher::{Ack, Busy, Publisher, Rejected};

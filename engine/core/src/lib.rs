//! The engine of Tidegate: what carries a message from the core that received it to the core that
//! works on it, and its acknowledgement home again.
//!
//! This crate knows no runtime and no socket. It is a plain library that a core's loop polls.
//!
//! ```text
//! core A   Shard::submit  record written once into A's slab, its handle staged
//!          Shard::flush     └─ submission ring A→B ─→ core B  Shard::poll → Sink::submit
//! core A   slot freed      ←─ completion ring B→A ←─ core B  Sink::poll → Completions::complete
//! ```
//!
//! Read in this order: [`mod@ring`] (the only thing that two cores share by writing), [`mod@slab`] (where a
//! message lives), [`mod@mesh`] (the rings between all cores), [`shard`] (one core's engine), [`sink`] and
//! [`worker`] (what happens to a message), [`counters`] (what is told about it).

pub mod ages;
pub mod clock;
mod counters;
pub mod mesh;
pub mod metadata;
pub mod outcome;
pub mod partition;
pub mod reasons;
pub mod ring;
pub mod schema;
pub mod shard;
pub mod sink;
pub mod slab;
mod sync;
pub mod trace;
pub mod worker;

pub use counters::{CounterReader, Snapshot};
pub use mesh::{Doorbell, Port, key_hash, mesh, shard_of};
pub use metadata::{MetadataPairs, MetadataWriter};
pub use outcome::{AckLevel, Outcome, Receipt, Rejection};
pub use partition::{HOW_SENT, KEY_OVERRIDE, OF_ITS_WAY, PartitionKey};
pub use reasons::{Reason, Reasons};
pub use shard::{Refused, Reply, Shard};
pub use sink::{BATCH, Batch, Completions, Sink, Ticket, tickets_lost};
pub use slab::{
    Handle, InsertError, KIND_EVENT, KIND_PROBE, Record, RecordView, SizeClass, SlabConfig, SlabOwner,
    SlabReader, slab,
};
pub use trace::{TRACE_FIELD, TRACE_KEY, Traceparent};
pub use worker::{MemorySink, Prefix, Process};

//! Tidegate without sockets, disks, brokers and time: the same code in a world that one seed decides.
//!
//! ```text
//! seed ─▶ plan: queue, sizes, lives, faults, damages
//!           │
//!           ▼           send ─▶ shards ─▶ pipelines ─▶ log ─▶ deliveries ─▶ publishers     (the engine's own code)
//!         run: whose turn is it? ◀──────────────────────┐       │
//!           │                                     disk ─┘       └─ brokers                 (models with the real ones' rules)
//!           ▼
//!         ledger: what was promised, what became of it ─▶ report, or a violation ─▶ shrink
//! ```
//!
//! Everything runs on one thread and takes its time from [`engine_core::clock`] and its chance from one generator, so a
//! seed is a run: the same steps, byte for byte. [`disk`] loses what was not synced, [`damage`] what was; [`plan`] says what
//! goes wrong when; [`process`] puts the engine's parts together as the binary does; [`ledger`] holds them to their word;
//! [`search`] runs many seeds and makes the plan of a failing one small.
//!
//! What is not in it: sockets, the front ends' parsing, librdkafka and async-nats themselves, threads that run at once (loom
//! has the ring and the slab), and the analytics' numbers.

pub mod broker;
pub mod damage;
pub mod disk;
pub mod kafka;
pub mod ledger;
pub mod nats;
pub mod plan;
pub mod process;
pub mod run;
pub mod search;
#[cfg(test)]
mod seeds;
pub mod side;
pub mod trace;

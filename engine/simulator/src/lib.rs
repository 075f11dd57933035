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
//! # Planted errors
//!
//! What shows that a clean run says something is that it would not be clean with an error in the code. `engine/simulator/mutants`
//! lists such errors: a sync that is left out, an offset that is one too high, a refusal that is taken for a delivery.
//! `make simulate-mutants` plants each in a copy of the tree, builds that and says at which seed, of 100,000, a promise is broken
//! with it and none is without; it fails when one is not found. `MUTANTS=cursor` takes those with `cursor` in their name or their
//! file's, `SEEDS=` sets how many seeds each is given.
//!
//! To add one, give it a name that says what the code does then, its file, a text that stands there exactly once and what is to
//! stand there instead. When the text is changed the tool's own test fails, and the list has to follow. One that is not found
//! either shows a check that is missing here, or cannot break a promise: then another one says more.
//!
//! # What is not in it
//!
//! Sockets, the front ends' parsing, librdkafka and async-nats themselves, threads that run at once (loom
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

//! The front ends on real sockets in front of a sink that the test holds in its hand: what is refused when it takes
//! nothing, and what exactly reaches it when it does.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

mod acks;
mod backpressure;
mod bytes;
mod event_batches;
mod event_faults;
mod event_peer;
mod events;
mod harness;
mod partition;

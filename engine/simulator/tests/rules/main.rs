//! The rules of the model brokers, each asked of the model and of the real one by the same lines, so that the model cannot
//! drift.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

mod kafka;
mod kafka_consumer;
mod kafka_publisher;
mod kafka_wire;
mod nats;
mod nats_consumer;

//! The rules of the model brokers, each asked of the model and of the real one by the same lines, so that the model cannot
//! drift.

mod kafka;
mod kafka_wire;

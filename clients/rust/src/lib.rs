#![doc = include_str!("../README.md")]

mod analytics;
mod batcher;
mod call;
mod config;
mod connection;
mod error;
mod events;
mod messages;
mod retry;

pub use batcher::{BatchConfig, Batcher, Fate, Receipt};
pub use call::{AckLevel, Answer, CallOptions, Client, Timing};
pub use config::Config;
pub use error::Error;
/// The messages of the services.
pub use tidegate_proto as proto;
pub use tonic::{Code, Status, Streaming};

//! Front ends: what listens, reads, answers, and puts messages into the engine.
//!
//! ```text
//! listener → accept → connection ─┬─ session_h1 (h1) ─┬─ ingest → lane → engine-core
//!                                 └─ session_h2 (h2) ─┘
//!                                        └─ cold: everything that is no hot route, by channel
//! ```
//!
//! The protocol modules ([`h1`], [`h2`], [`grpc`], [`message`]) are sans-IO: they never see a socket or a clock.
//! `fleet` runs it all on one thread per core.

mod accept;
mod answer;
mod clock;
pub mod cold;
mod connection;
mod core;
mod counters;
mod driver;
mod durations;
pub mod events;
pub mod facade;
mod fleet;
pub mod grpc;
mod grpc_answer;
mod guard;
pub mod h1;
pub mod h2;
mod hook;
mod ingest;
pub mod inject;
mod lane;
mod limits;
mod listener;
pub mod message;
mod message_id;
mod room;
mod routes;
mod select;
mod service_h2;
mod session_h1;
mod session_h2;
mod socket;
mod terms;
mod token;
mod turns;
mod waiting;

pub use crate::{
    core::{Beats, Health},
    counters::{ANSWER_BOUNDS_US, Cause, FrontCounters, GRPC_CODES, STATUSES, StreamKind, Tally},
    driver::{Driver, DriverChoice, choose},
    durations::{DURATION_BOUNDS, Durations, FINE_BUCKETS, FINE_INDEX, FINE_SCHEMA, FINE_ZERO_SECONDS},
    events::{EventPlan, EventRules, Examined},
    fleet::{Farewell, Fleet, Plan, SinkMaker},
    guard::{Denied, Guard},
    lane::BoxedSink,
    limits::Limits,
    listener::{Role, bind},
    routes::{ENDPOINTS, Endpoint, Row},
    terms::{AckPolicy, Asked, Far, Gate, Wanted},
};

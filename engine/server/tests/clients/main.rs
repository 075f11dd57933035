//! The binary as its clients meet it: real sockets, and clients that know nothing of our code (curl, h2load, grpcurl,
//! grpcio, schemathesis, the `h2` crate, tonic). `tools/clients/install` brings the tools.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

mod harness;

mod acceptance;
mod aggregates;
mod bodies;
mod brokers;
mod client_libraries;
mod command_line;
mod counted;
mod definitions;
mod delivery;
mod docs;
mod event_bodies;
mod events;
mod events_hot;
mod grpc_clients;
mod health;
mod http1_clients;
mod http1_malformed;
mod http2_clients;
mod kafka_shapes;
mod keys;
mod levels;
mod live_lists;
mod live_page;
mod live_tail;
mod metrics;
mod older_probes;
mod one_id;
mod openapi;
mod openapi_generators;
mod roles;
mod secrets;
mod settings_cli;
mod settings_effects;
mod shutdown;
mod start;
mod sums;
mod traces;

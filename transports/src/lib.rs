//! Front ends: bytes in, bytes and requests out.
//!
//! The protocol modules are sans-IO: they never see a socket or a clock.
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod message;

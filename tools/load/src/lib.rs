//! Load clients for HTTP/1.1, h2c and gRPC, and what they share.
//!
//! ```text
//! Message ─ encoded once ─┐
//!                         ▼
//! Load (one thread, epoll) ── Conversation: bytes out, bytes in, no socket
//!   ├ sockets, clock, pace        ├ h1::Pipeline   HTTP/1.1, keep-alive
//!   └ Outcome: what came back     ├ h2::Unary      h2c JSON and gRPC unary
//!                                 ├ h2::Streaming  gRPC client streaming
//!                                 └ h2::EventStreaming  StreamEvents, answered event by event
//! ```
//!
//! A request is a few hundred bytes that were encoded before the run; sending one is a copy and two patched stream
//! ids, and reading its answer is a walk over frame headers. So the client stays cheaper than the server it measures,
//! and still every answer's status is looked at: a refused message is never counted as accepted.

pub mod day;
pub mod demo;
pub mod drive;
pub mod events;
pub mod h1;
pub mod h2;
pub mod message;
pub mod outcome;
pub mod process;
pub mod scenario;
pub mod server;

pub use drive::{Load, Pace, Until};
pub use message::Message;
pub use outcome::Outcome;
pub use scenario::{Protocol, Scenario};

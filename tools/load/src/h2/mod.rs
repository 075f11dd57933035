//! HTTP/2 by prior knowledge, as much of it as a load client needs (RFC 9113, RFC 7541).
//!
//! [`Link`] is what a connection always does: preface, SETTINGS, PING, GOAWAY, windows, cutting bytes into frames.
//! [`Unary`], [`Streaming`] and [`EventStreaming`] are the shapes of conversation on it.

mod block;
mod event_stream;
mod frame;
mod link;
mod streaming;
mod unary;

pub use block::{AnswerBlocks, AnswerFields, RequestBlock};
pub use event_stream::EventStreaming;
pub use frame::{Header, flag, kind};
pub use link::{Event, Link};
pub use streaming::Streaming;
pub use unary::{Call, Unary};

//! HTTP/2 (RFC 9113), the server's side, sans-IO: bytes in; calls to an [`Application`] and bytes out. No
//! socket, no clock, no allocation and no task per request.
//!
//! - [`Connection`] is what a driver holds; `receiving` is its state machine, which checks frames and streams
//!   and calls the application.
//! - [`Replies`] is the way back; [`Block`] is a response header block encoded beforehand.
//! - `wire` has both directions' flow control, `streams` the table of open streams, `memo` the request heads
//!   seen before, `head` the rules for header lists, `hpack` the decoder.
//! - [`Limits`] bounds all of it.
//!
//! Decisions where the RFC leaves a choice:
//!
//! - A request that breaks a rule is reset and never reaches the application; a header list that is too large
//!   is answered 431, CONNECT 501.
//! - A response that is complete before its request is followed by RST_STREAM(NO_ERROR), but only at the end
//!   of the read, since the rest of the request often stands right behind. What was still under way is
//!   credited to the connection's window and dropped.
//! - Priorities are parsed and forgotten. Nothing is pushed. No encoder table is kept.
//!
//! ```
//! use std::sync::Arc;
//! use transports::h2::{Application, Block, Connection, Credit, Fields, Limits};
//! use transports::h2::{Replies, RequestHead, Reset, StreamId, Work};
//!
//! /// Answers every request 204.
//! struct Silent(Block);
//!
//! impl Application for Silent {
//!     type Head = ();
//!     type Stream = ();
//!     fn classify(&mut self, _: &RequestHead<'_>) {}
//!     fn open(&mut self, id: StreamId, _: &(), _: bool, replies: &mut Replies<'_>) {
//!         replies.head(id, &self.0, true);
//!     }
//!     fn data(&mut self, _: StreamId, _: &mut (), _: &[u8], _: bool, _: &mut Replies<'_>) -> Credit {
//!         Credit::Now
//!     }
//!     fn trailers(&mut self, _: StreamId, _: &mut (), _: Fields<'_>, _: &mut Replies<'_>) {}
//!     fn reset(&mut self, _: StreamId, _: (), _: Reset) -> Work {
//!         Work::Ended
//!     }
//! }
//!
//! let mut app = Silent(Block::new(204));
//! let mut connection = Connection::new(Arc::new(Limits::default()));
//! let mut out = Vec::new();
//! let input = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
//! assert_eq!(connection.receive(input, 0, &mut app, &mut out), Ok(input.len()));
//! ```

mod application;
mod assembly;
mod block;
mod budget;
mod connection;
mod error;
pub mod frame;
mod head;
pub mod hpack;
mod limits;
mod memo;
mod receiving;
mod replies;
mod stream_id;
mod streams;
mod wire;

pub use application::{Application, Credit, Work};
pub use block::{Block, FieldName};
pub use connection::{Connection, Waiting};
pub use error::{ConnectionError, ErrorCode, Reset};
pub use head::RequestHead;
pub use hpack::Fields;
pub use limits::{Budget, Limits};
pub use replies::Replies;
pub use stream_id::StreamId;

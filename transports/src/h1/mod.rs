//! HTTP/1.1 and 1.0, the server's side, without sockets and without a clock (RFC 9110, RFC 9112).
//!
//! A [`Connection`] takes the bytes that arrived and appends answers to an output buffer; an
//! [`Application`] is called for each request. Requests that lie whole in the input are parsed in place
//! and cost no allocation; the answers of a pipelined batch leave in one buffer.
//!
//! The parser is strict on purpose. Where two implementations could disagree about the end of a message,
//! a smuggled request hides (RFC 9112 §11.2), so everything ambiguous is a [`Fault`]: answered with its
//! status, the connection closed, and the bytes behind it never looked at.
//!
//! ```text
//! scan  →  head  →  connection  ←  body (lengths, chunks)
//!                        ↓
//!                      reply
//! ```

mod body;
mod connection;
mod fault;
mod head;
mod reply;
mod scan;

pub use connection::{Accept, Application, Connection, Waiting};
pub use fault::{Close, Fault, Place};
pub use head::{RequestHead, Version};
pub use reply::{Answer, Ready, Reply, http_date, reason_phrase};

/// What one connection may ask of us. Every bound has its own [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and fields together, and the trailer section by itself (431). The driver's input
    /// buffer must hold more than this, or a long head could never be completed.
    pub head_bytes_max: usize,
    /// Field lines of a head, and of a trailer section (431).
    pub fields_max: usize,
    /// The request line without its line ending (414).
    pub request_line_bytes_max: usize,
    /// A body after chunked decoding (413); [`Accept::BodyUpTo`] lowers it for one request.
    pub body_bytes_max: usize,
    /// Chunk extensions of one body, all its chunks together (400, CVE-2023-39326).
    pub chunk_extension_bytes_max: usize,
    /// Requests answered in one call of [`Connection::receive`]; the rest stays in the input.
    pub pipelined_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 * 1024,
            fields_max: 100,
            request_line_bytes_max: 8 * 1024,
            body_bytes_max: 10 * 1024 * 1024,
            chunk_extension_bytes_max: 1024,
            pipelined_max: 32,
        }
    }
}

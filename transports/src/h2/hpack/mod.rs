//! HPACK, the header compression of HTTP/2 (RFC 7541): what a server needs of it.
//!
//! Decoding is complete. Encoding is not here, because this server keeps no encoder dynamic table: a
//! response header block is written once and sent many times ([`Block`](super::Block)).

mod decoder;
pub mod huffman;
pub mod integer;
mod list;
pub mod static_table;
mod table;

pub use decoder::{Decoded, Decoder};
pub use list::{Fields, HeaderList};

/// A header block that cannot be decoded. The two ends' tables differ from here on, so this always ends
/// the connection with COMPRESSION_ERROR (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HPACK: {0}")]
pub struct CompressionError(pub &'static str);

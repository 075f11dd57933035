//! gRPC over HTTP/2, the parts above the frames of HTTP/2: length-prefixed messages, their compression,
//! statuses with details, and timeouts.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. Nothing here owns a stream; the
//! HTTP/2 front end feeds DATA in and writes what comes out into trailers.

mod compression;
mod details;
mod frame;
mod status;
mod timeout;

pub use compression::{ACCEPT_ENCODING, Encoding, Inflater};
pub use details::{Detail, encode_details};
pub use frame::{Deframer, FrameError, Message, PREFIX_BYTES, Take, encode_prefix};
pub use status::{Code, Status, encode_message};
pub use timeout::{TimeoutError, parse_timeout};

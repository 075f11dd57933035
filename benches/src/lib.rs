//! What the benches in `benches/` share: one message in every form a client may send it, and the bytes
//! of clients that send it. Nothing here is timed.
//!
//! The message is the same everywhere (about 80 bytes as protobuf), so that the stages' figures can be
//! subtracted from the whole pipeline's.

pub mod http1;
pub mod http2;
pub mod message;

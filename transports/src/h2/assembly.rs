//! A request head that comes in several frames.

/// A header block in pieces (RFC 9113 §6.10).
pub(super) struct Assembly {
    pub(super) id: u32,
    pub(super) end_stream: bool,
    pub(super) depends_on_itself: bool,
    pub(super) frames: u32,
    pub(super) block: Vec<u8>,
}

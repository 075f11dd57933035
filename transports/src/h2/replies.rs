//! What an application may do with a stream: answer it, give window back, reset it.

use super::block::Block;
use super::error::ErrorCode;
use super::stream_id::StreamId;
use super::wire::Wire;

/// The way back to the client, lent to the application for the length of a call.
///
/// Every method takes the stream's id, so a call about one stream may answer another. An id that is no
/// longer open is not an error: the stream may have been reset meanwhile, and nobody waits for the answer.
pub struct Replies<'a> {
    wire: &'a mut Wire,
    out: &'a mut Vec<u8>,
    /// The stream the call is about, which needs no look-up.
    hint: u32,
}

impl<'a> Replies<'a> {
    #[inline]
    pub(super) fn new(wire: &'a mut Wire, out: &'a mut Vec<u8>, hint: u32) -> Self {
        Replies { wire, out, hint }
    }

    /// Sends the response's head. An interim one (1xx) may come before it, and never ends the stream.
    #[inline]
    pub fn head(&mut self, id: StreamId, block: &Block, end_stream: bool) {
        if let Some(slot) = self.slot(id) {
            self.wire.send_head(slot, block, end_stream, self.out);
        }
    }

    /// Sends body bytes, or queues them where the client's windows are closed, and returns how many were
    /// taken. When that is not all, the queue is full: `end_stream` did not count, and
    /// [`Application::writable`](super::Application::writable) says when to go on with the rest.
    ///
    /// For a stream that is no longer open everything counts as taken.
    #[inline]
    #[must_use = "what was not taken has to be sent again"]
    pub fn data(&mut self, id: StreamId, data: &[u8], end_stream: bool) -> usize {
        match self.slot(id) {
            Some(slot) => self.wire.send_data(slot, data, end_stream, self.out),
            None => data.len(),
        }
    }

    /// How many bytes [`Replies::data`] would take now.
    pub fn room(&mut self, id: StreamId) -> usize {
        match self.slot(id) {
            Some(slot) => self.wire.room(slot, self.out),
            None => 0,
        }
    }

    /// Sends trailers, behind what is queued; they end the response.
    #[inline]
    pub fn trailers(&mut self, id: StreamId, block: &Block) {
        if let Some(slot) = self.slot(id) {
            self.wire.send_trailers(slot, block, self.out);
        }
    }

    /// Resets the stream; what is queued for it is dropped.
    pub fn reset(&mut self, id: StreamId, code: ErrorCode) {
        if let Some(slot) = self.slot(id) {
            self.wire.reset(slot, code, self.out);
        }
    }

    /// Gives back window that [`Credit::Later`](super::Credit::Later) kept.
    pub fn credit(&mut self, id: StreamId, bytes: usize) {
        if let Some(slot) = self.slot(id) {
            self.wire.credit(slot, bytes, self.out);
        }
    }

    /// Whether the stream still takes an answer.
    pub fn is_open(&mut self, id: StreamId) -> bool {
        self.slot(id).is_some()
    }

    #[inline]
    fn slot(&mut self, id: StreamId) -> Option<u32> {
        match self.wire.streams.get(self.hint) {
            Some(stream) if stream.id == id.get() && id.get() != 0 => Some(self.hint),
            _ => self.wire.streams.find(id.get()),
        }
    }
}

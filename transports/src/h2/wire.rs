//! Everything about a connection that does not depend on the application: windows both ways, what waits to
//! be sent, which streams were reset, and the abuse budgets.
//!
//! Sending. A stream's bytes go straight to the output while the stream's window, the connection's window and
//! the output have room. Otherwise they wait in the stream's queue, and END_STREAM or trailers wait behind
//! them. A stream that waits for its own window is served when that opens. One that waits for what all
//! streams share stands in a line, which is served one frame at a time, round and round.
//!
//! Receiving. A window is `remaining + pending + held`: what the client may send, what is done with but not
//! yet given back, and what the application still holds. `pending` is given back when it is no less than
//! `remaining`. With nothing held that is at half a window; with much held it is earlier, so a client never
//! stands before a closed window while there is something to give.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block::Block;
use super::budget::Bucket;
use super::error::{ConnectionError, ErrorCode};
use super::frame::{self, FrameHeader, HEADER_BYTES, flag, kind};
use super::limits::Limits;
use super::streams::{Queue, Stream, Streams, Tail, mark};

/// Streams remembered as reset. More than the burst of the default budget, so that whatever an honest client
/// still had under way for them is recognised.
const HISTORY_MAX: usize = 1024;
/// We need no larger frames, whatever the client takes: streams should get their turn.
const SEND_FRAME_MAX: u32 = 64 << 10;
/// Glitches that a DATA or HEADERS frame of ours may cause: a WINDOW_UPDATE for the stream, one for the
/// connection, a PING.
const EARNED_BY_FRAME: u32 = 3;

/// How a stream that is no more was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetBy {
    Client,
    Us,
}

pub(super) struct Wire {
    pub(super) limits: Arc<Limits>,
    pub(super) streams: Streams,
    pub(super) now_ms: u64,
    /// Inside `receive`: the rest of a request may be in the same read.
    pub(super) receiving: bool,

    /// What the client lets us send on the connection.
    pub(super) send_window: u32,
    /// Its SETTINGS_INITIAL_WINDOW_SIZE.
    pub(super) initial_send_window: i32,
    /// Its SETTINGS_MAX_FRAME_SIZE, as far as we use it.
    send_frame_max: u32,
    /// The client's table became smaller than the default: the next block must begin with a size update.
    size_update_due: bool,
    size_update_sent: bool,
    /// Slots that wait for the connection's window or for room in the output.
    line: VecDeque<u32>,
    pub(super) sent_data_bytes: u64,

    pub(super) recv_window: u32,
    /// The window a new stream begins with.
    pub(super) initial_recv_window: u32,
    pending: u32,
    held: usize,
    withheld: u32,

    /// Streams that ended and whose slot waits to be released: slot and id.
    pub(super) finished: Vec<(u32, u32)>,
    /// Streams answered before their request was complete.
    pub(super) lingering: Vec<(u32, u32)>,
    /// Streams whose application waits for room and can have it.
    pub(super) roomy: Vec<(u32, u32)>,
    history: VecDeque<(u32, ResetBy)>,
    /// Streams that are gone but whose work goes on.
    pub(super) unfinished: u32,

    resets: Bucket,
    glitches: Bucket,
    overhead: Bucket,
    earned: u32,
    pub(super) control_replies: u32,
    /// A budget was overspent where no error could be returned.
    pub(super) overspent: bool,
}

impl Wire {
    pub(super) fn new(limits: Arc<Limits>) -> Self {
        Wire {
            streams: Streams::default(),
            now_ms: 0,
            receiving: false,
            send_window: 65_535,
            initial_send_window: 65_535,
            send_frame_max: 16_384,
            size_update_due: false,
            size_update_sent: false,
            line: VecDeque::new(),
            sent_data_bytes: 0,
            recv_window: limits.connection_window(),
            // RFC 9113 §6.9.2: until our SETTINGS are acknowledged the client may go by the default.
            initial_recv_window: limits.stream_window().max(65_535),
            pending: 0,
            held: 0,
            withheld: 0,
            finished: Vec::new(),
            lingering: Vec::new(),
            roomy: Vec::new(),
            history: VecDeque::new(),
            unfinished: 0,
            resets: Bucket::new(limits.resets),
            glitches: Bucket::new(limits.glitches),
            overhead: Bucket::new(limits.data_overhead),
            earned: 0,
            control_replies: 0,
            overspent: false,
            limits,
        }
    }

    // --- Budgets ---

    pub(super) fn spend_reset(&mut self) -> Result<(), ConnectionError> {
        match self.resets.spend(1, self.limits.resets, self.now_ms) {
            true => Ok(()),
            false => Err(ConnectionError::calm("too many resets")),
        }
    }

    #[inline]
    pub(super) fn spend_glitch(&mut self, reason: &'static str) -> Result<(), ConnectionError> {
        if self.earned > 0 {
            self.earned -= 1;
            return Ok(());
        }
        match self.glitches.spend(1, self.limits.glitches, self.now_ms) {
            true => Ok(()),
            false => Err(ConnectionError::calm(reason)),
        }
    }

    /// A DATA frame that does not end its stream and carries little.
    #[inline]
    pub(super) fn spend_overhead(&mut self, carried: u32, padding: u32) -> Result<(), ConnectionError> {
        let cost = 32 + padding;
        let earned = u64::from(carried) * 4;
        match u32::try_from(u64::from(cost).saturating_sub(earned)) {
            Ok(0) | Err(_) => {
                let surplus = earned.saturating_sub(u64::from(cost));
                self.overhead.earn(surplus, self.limits.data_overhead);
                Ok(())
            }
            Ok(cost) => match self.overhead.spend(cost, self.limits.data_overhead, self.now_ms) {
                true => Ok(()),
                false => Err(ConnectionError::calm("DATA frames carry too little")),
            },
        }
    }

    pub(super) fn count_control_reply(&mut self) -> Result<(), ConnectionError> {
        self.control_replies += 1;
        if self.control_replies > self.limits.control_replies_max {
            return Err(ConnectionError::calm("control replies are not read"));
        }
        Ok(())
    }

    #[inline]
    fn earn_by_frame(&mut self) {
        self.earned = (self.earned + EARNED_BY_FRAME).min(self.limits.glitches.burst);
    }

    // --- The end of streams ---

    pub(super) fn remember_reset(&mut self, id: u32, by: ResetBy) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((id, by));
    }

    pub(super) fn reset_by(&self, id: u32) -> Option<ResetBy> {
        self.history.iter().rev().find(|(other, _)| *other == id).map(|(_, by)| *by)
    }

    /// Takes the stream out of the table. What its application held counts as given back.
    #[inline]
    pub(super) fn close(&mut self, slot: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        let (id, held, in_line) = (stream.id, stream.held, stream.is(mark::IN_LINE));
        if id == 0 {
            return;
        }
        self.streams.remove(slot);
        self.finished.push((slot, id));
        if in_line {
            self.line.retain(|other| *other != slot);
        }
        if held > 0 {
            self.release_held(held, out);
        }
    }

    pub(super) fn is_lingering(&mut self, slot: u32) -> bool {
        self.streams.get(slot).is_some_and(|stream| stream.is(mark::LOCAL_DONE))
    }

    /// Our END_STREAM is out.
    #[inline]
    fn finish_local(&mut self, slot: u32, out: &mut Vec<u8>) {
        let receiving = self.receiving;
        let Some(stream) = self.streams.get(slot) else { return };
        stream.marks |= mark::LOCAL_ENDED | mark::LOCAL_DONE;
        let id = stream.id;
        if stream.is(mark::REMOTE_DONE) {
            self.close(slot, out);
        } else if receiving {
            self.lingering.push((slot, id));
        } else {
            self.stop_request(slot, out);
        }
    }

    /// RFC 9113 §8.1: a response may be complete before its request; RST_STREAM(NO_ERROR) asks the client to
    /// stop sending. It says nothing ill about the client, so no budget pays for it.
    pub(super) fn stop_request(&mut self, slot: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        let id = stream.id;
        frame::write_rst_stream(id, ErrorCode::NO_ERROR, out);
        self.remember_reset(id, ResetBy::Us);
        self.close(slot, out);
    }

    /// The streams that were answered in this read and whose request did not end in it.
    pub(super) fn stop_lingering(&mut self, out: &mut Vec<u8>) {
        while let Some((slot, id)) = self.lingering.pop() {
            if self.streams.get(slot).is_some_and(|stream| stream.id == id) {
                self.stop_request(slot, out);
            }
        }
    }

    // --- Receiving ---

    /// RFC 9113 §6.9.1: a DATA frame's whole payload, padding included, comes out of the window.
    #[inline]
    pub(super) fn take_from_window(&mut self, bytes: u32) -> Result<(), ConnectionError> {
        match self.recv_window.checked_sub(bytes) {
            Some(left) => {
                self.recv_window = left;
                Ok(())
            }
            None => Err(ConnectionError::new(
                ErrorCode::FLOW_CONTROL_ERROR,
                "DATA beyond the connection's window",
            )),
        }
    }

    /// Gives `bytes` of the connection's window back.
    #[inline]
    pub(super) fn credit_connection(&mut self, bytes: u32, out: &mut Vec<u8>) {
        self.pending = self.pending.saturating_add(bytes);
        if self.pending >= self.recv_window && self.pending > 0 {
            frame::write_window_update(0, self.pending, out);
            self.recv_window = self.recv_window.saturating_add(self.pending);
            self.pending = 0;
        }
    }

    /// Gives `bytes` of a stream's window back.
    #[inline]
    pub(super) fn credit_stream(&mut self, slot: u32, bytes: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        // A request that is complete needs no window.
        if stream.is(mark::REMOTE_DONE) {
            return;
        }
        stream.pending = stream.pending.saturating_add(bytes);
        if i64::from(stream.pending) >= i64::from(stream.recv_window) && stream.pending > 0 {
            frame::write_window_update(stream.id, stream.pending, out);
            stream.recv_window = stream.recv_window.saturating_add_unsigned(stream.pending);
            stream.pending = 0;
        }
    }

    /// The application keeps `bytes` for now. Beyond `held_bytes_max` the connection's window is kept too.
    pub(super) fn hold(&mut self, slot: u32, bytes: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        stream.held = stream.held.saturating_add(bytes);
        self.held = self.held.saturating_add(bytes as usize);
        let withheld = self.to_withhold();
        let more = withheld.saturating_sub(self.withheld).min(bytes);
        self.withheld += more;
        self.credit_connection(bytes - more, out);
    }

    /// The application is done with `bytes` that it held.
    pub(super) fn credit(&mut self, slot: u32, bytes: usize, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(stream.held);
        stream.held -= bytes;
        self.credit_stream(slot, bytes, out);
        self.release_held(bytes, out);
    }

    fn release_held(&mut self, bytes: u32, out: &mut Vec<u8>) {
        self.held = self.held.saturating_sub(bytes as usize);
        let withheld = self.to_withhold().min(self.withheld);
        let back = self.withheld - withheld;
        self.withheld = withheld;
        self.credit_connection(back, out);
    }

    fn to_withhold(&self) -> u32 {
        u32::try_from(self.held.saturating_sub(self.limits.held_bytes_max)).unwrap_or(u32::MAX)
    }

    // --- Sending ---

    pub(super) fn set_send_frame_max(&mut self, bytes: u32) {
        self.send_frame_max = bytes.min(SEND_FRAME_MAX);
    }

    /// RFC 7541 §4.2: when the client's table shrinks below what an encoder may assume, the next block has to
    /// say that the encoder follows. We use no table at all, so the update is to 0, and one is enough for ever.
    pub(super) fn set_peer_table_bytes(&mut self, bytes: u32) {
        if bytes < 4096 && !self.size_update_sent {
            self.size_update_due = true;
        }
    }

    /// Sends a response head. Ignored on a stream that is gone or has its head.
    #[inline]
    pub(super) fn send_head(&mut self, slot: u32, block: &Block, end_stream: bool, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        if stream.is(mark::HEAD_SENT | mark::LOCAL_ENDED) {
            return;
        }
        let end_stream = end_stream && !block.is_interim();
        if !block.is_interim() {
            stream.marks |= mark::HEAD_SENT;
        }
        let id = stream.id;
        self.write_block(id, block, end_stream, out);
        if end_stream {
            self.finish_local(slot, out);
        }
    }

    /// Sends or queues what fits of `data`, and says how much that was; `end_stream` holds when all did.
    #[inline]
    pub(super) fn send_data(&mut self, slot: u32, data: &[u8], end_stream: bool, out: &mut Vec<u8>) -> usize {
        let (connection_window, frame_max) = (self.send_window, self.send_frame_max);
        let room_in_output = out.len() < self.limits.output_bytes_max;
        let Some(stream) = self.streams.get(slot) else { return data.len() };
        if stream.marks & (mark::HEAD_SENT | mark::LOCAL_ENDED) == mark::HEAD_SENT
            && stream.queue.is_none()
            && room_in_output
            && let Ok(len) = u32::try_from(data.len())
            && len <= frame_max
            && len <= connection_window
            && i64::from(len) <= i64::from(stream.send_window)
        {
            if len == 0 && !end_stream {
                return 0;
            }
            // `len` is at most `send_window`, so it is no more than `i32::MAX` either.
            stream.send_window -= len as i32;
            self.send_window -= len;
            let id = stream.id;
            self.write_data_frame(id, data, end_stream, out);
            if end_stream {
                self.finish_local(slot, out);
            }
            return data.len();
        }
        self.send_data_slowly(slot, data, end_stream, out)
    }

    fn send_data_slowly(&mut self, slot: u32, data: &[u8], end_stream: bool, out: &mut Vec<u8>) -> usize {
        let Some(stream) = self.streams.get(slot) else { return data.len() };
        if stream.is(mark::LOCAL_ENDED) {
            return data.len();
        }
        if !stream.is(mark::HEAD_SENT) {
            self.reset(slot, ErrorCode::INTERNAL_ERROR, out);
            return data.len();
        }
        // Behind queued bytes nothing goes out directly.
        let queued = stream.queue.is_some();
        let mut taken = 0;
        while taken < data.len() && !queued {
            let frame_bytes = self.frame_that_fits(slot, data.len() - taken, out);
            if frame_bytes == 0 {
                break;
            }
            let end = taken + frame_bytes;
            let frame = data.get(taken..end).unwrap_or_default();
            taken = end;
            self.write_stream_data(slot, frame, end_stream && taken == data.len(), out);
        }
        let rest = data.get(taken..).unwrap_or_default();
        let queue_max = self.limits.send_queue_bytes_max;
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get(slot) else { return taken };
        if rest.is_empty() {
            if end_stream && !stream.is(mark::LOCAL_ENDED) {
                self.end_behind_queue(slot, Tail::End, out);
            }
            return data.len();
        }
        let room = queue_max.saturating_sub(stream.queued_bytes());
        let queued = rest.get(..room.min(rest.len())).unwrap_or_default();
        if queued.len() < rest.len() {
            stream.marks |= mark::WANTS_ROOM;
        }
        if !queued.is_empty() {
            let queue = stream.queue.get_or_insert_with(|| {
                Box::new(Queue { bytes: Vec::new(), sent: 0, tail: Tail::Open, progress_ms: now_ms })
            });
            queue.bytes.extend_from_slice(queued);
            taken += queued.len();
        }
        if taken == data.len() && end_stream {
            self.end_behind_queue(slot, Tail::End, out);
        }
        self.join_line(slot);
        taken
    }

    /// Sends or queues trailers, which end the response.
    #[inline]
    pub(super) fn send_trailers(&mut self, slot: u32, block: &Block, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        if stream.marks & (mark::HEAD_SENT | mark::LOCAL_ENDED) != mark::HEAD_SENT {
            if !stream.is(mark::LOCAL_ENDED) {
                self.reset(slot, ErrorCode::INTERNAL_ERROR, out);
            }
            return;
        }
        if stream.queue.is_none() {
            let id = stream.id;
            self.write_block(id, block, true, out);
            self.finish_local(slot, out);
        } else {
            self.end_behind_queue(slot, Tail::Trailers(block.clone()), out);
        }
    }

    /// Resets a stream at the application's wish.
    pub(super) fn reset(&mut self, slot: u32, code: ErrorCode, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        let id = stream.id;
        if id == 0 {
            return;
        }
        if self.spend_reset().is_err() {
            self.overspent = true;
        }
        frame::write_rst_stream(id, code, out);
        self.remember_reset(id, ResetBy::Us);
        self.close(slot, out);
    }

    /// Bytes that [`Wire::send_data`] would take now.
    pub(super) fn room(&mut self, slot: u32, out: &[u8]) -> usize {
        let (window, queue_max) = (self.send_window, self.limits.send_queue_bytes_max);
        let room_in_output = self.limits.output_bytes_max.saturating_sub(out.len());
        let Some(stream) = self.streams.get(slot) else { return 0 };
        if stream.queue.is_some() {
            return queue_max.saturating_sub(stream.queued_bytes());
        }
        let direct = (stream.send_window.max(0) as usize).min(window as usize).min(room_in_output);
        direct.saturating_add(queue_max)
    }

    /// The stream's own window opened, or all did.
    pub(super) fn pump(&mut self, slot: u32, out: &mut Vec<u8>) {
        while self.pump_frame(slot, out) {}
        self.join_line(slot);
    }

    /// What all streams share has room again: each in line gets a frame, until there is none left.
    pub(super) fn serve_line(&mut self, out: &mut Vec<u8>) {
        while self.send_window > 0 && out.len() < self.limits.output_bytes_max {
            let Some(slot) = self.line.pop_front() else { break };
            if let Some(stream) = self.streams.get(slot) {
                stream.marks &= !mark::IN_LINE;
            }
            self.pump_frame(slot, out);
            self.join_line(slot);
        }
    }

    pub(super) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// A queue whose stream's own window is open waits for what all share.
    fn join_line(&mut self, slot: u32) {
        let Some(stream) = self.streams.get(slot) else { return };
        if stream.id != 0 && stream.queue.is_some() && stream.send_window > 0 && !stream.is(mark::IN_LINE) {
            stream.marks |= mark::IN_LINE;
            self.line.push_back(slot);
        }
    }

    /// Sends one frame from the queue, and what stands behind it when that empties it.
    fn pump_frame(&mut self, slot: u32, out: &mut Vec<u8>) -> bool {
        let queue_max = self.limits.send_queue_bytes_max;
        let Some(stream) = self.streams.get(slot) else { return false };
        let Some(queue) = stream.queue.as_ref() else { return false };
        let waiting = queue.bytes.len() - queue.sent;
        let frame_bytes = self.frame_that_fits(slot, waiting, out);
        if frame_bytes == 0 {
            return false;
        }
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get(slot) else { return false };
        let Some(mut queue) = stream.queue.take() else { return false };
        let is_last = frame_bytes == waiting;
        let end_stream = is_last && matches!(queue.tail, Tail::End);
        let frame = queue.bytes.get(queue.sent..queue.sent + frame_bytes).unwrap_or_default();
        self.write_stream_data(slot, frame, end_stream, out);
        queue.sent += frame_bytes;
        queue.progress_ms = now_ms;
        let left = queue.bytes.len() - queue.sent;
        if is_last {
            if let Tail::Trailers(block) = queue.tail {
                let id = self.streams.get(slot).map_or(0, |stream| stream.id);
                self.write_block(id, &block, true, out);
                self.finish_local(slot, out);
            }
        } else {
            // The sent part is dropped when it is the larger one: each byte moves once on average.
            if queue.sent > left {
                queue.bytes.drain(..queue.sent);
                queue.sent = 0;
            }
            if let Some(stream) = self.streams.get(slot) {
                stream.queue = Some(queue);
            }
        }
        if let Some(stream) = self.streams.get(slot)
            && stream.id != 0
            && stream.is(mark::WANTS_ROOM)
            && left <= queue_max / 2
        {
            stream.marks &= !mark::WANTS_ROOM;
            let id = stream.id;
            self.roomy.push((slot, id));
        }
        !is_last
    }

    fn end_behind_queue(&mut self, slot: u32, tail: Tail, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        stream.marks |= mark::LOCAL_ENDED;
        if let Some(queue) = stream.queue.as_mut() {
            queue.tail = tail;
            return;
        }
        // Nothing waits: only a DATA frame that is empty is still to be sent, and that needs no window.
        let id = stream.id;
        self.write_data_frame(id, &[], true, out);
        self.finish_local(slot, out);
    }

    /// How many of `bytes` may go into one DATA frame now.
    fn frame_that_fits(&mut self, slot: u32, bytes: usize, out: &[u8]) -> usize {
        if out.len() >= self.limits.output_bytes_max {
            return 0;
        }
        let shared = self.send_window.min(self.send_frame_max);
        let Some(stream) = self.streams.get(slot) else { return 0 };
        bytes.min(shared as usize).min(stream.send_window.max(0) as usize)
    }

    /// A DATA frame that was found to fit; the windows pay.
    fn write_stream_data(&mut self, slot: u32, data: &[u8], end_stream: bool, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get(slot) else { return };
        stream.send_window = stream.send_window.saturating_sub_unsigned(data.len() as u32);
        let id = stream.id;
        self.send_window = self.send_window.saturating_sub(data.len() as u32);
        self.write_data_frame(id, data, end_stream, out);
        if end_stream {
            self.finish_local(slot, out);
        }
    }

    #[inline]
    fn write_data_frame(&mut self, stream: u32, data: &[u8], end_stream: bool, out: &mut Vec<u8>) {
        self.earn_by_frame();
        self.sent_data_bytes += data.len() as u64;
        let flags = if end_stream { flag::END_STREAM } else { 0 };
        let header = FrameHeader { len: data.len() as u32, kind: kind::DATA, flags, stream };
        out.reserve(HEADER_BYTES + data.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(data);
    }

    /// Writes a header block as one HEADERS frame, or where it does not fit with CONTINUATIONs behind it.
    #[inline]
    pub(super) fn write_block(&mut self, stream: u32, block: &Block, end_stream: bool, out: &mut Vec<u8>) {
        self.earn_by_frame();
        let frame = block.frame();
        if self.size_update_due || frame.len() > HEADER_BYTES + self.send_frame_max as usize {
            self.write_block_slowly(stream, block, end_stream, out);
            return;
        }
        let start = out.len();
        out.extend_from_slice(frame);
        if let Some([_, _, _, _, flags, id @ ..]) = out.get_mut(start..start + HEADER_BYTES) {
            *flags |= if end_stream { flag::END_STREAM } else { 0 };
            id.copy_from_slice(&stream.to_be_bytes());
        }
    }

    #[cold]
    fn write_block_slowly(&mut self, stream: u32, block: &Block, end_stream: bool, out: &mut Vec<u8>) {
        let mut fields = Vec::with_capacity(block.fields().len() + 1);
        if std::mem::take(&mut self.size_update_due) {
            self.size_update_sent = true;
            fields.push(0x20);
        }
        fields.extend_from_slice(block.fields());
        let mut frames = fields.chunks(self.send_frame_max as usize).peekable();
        let mut header = FrameHeader {
            len: 0,
            kind: kind::HEADERS,
            flags: if end_stream { flag::END_STREAM } else { 0 },
            stream,
        };
        while let Some(chunk) = frames.next() {
            header.len = chunk.len() as u32;
            header.flags |= if frames.peek().is_none() { flag::END_HEADERS } else { 0 };
            out.extend_from_slice(&header.encode());
            out.extend_from_slice(chunk);
            header.kind = kind::CONTINUATION;
            header.flags = 0;
        }
    }

    // --- What the client's windows and settings do ---

    /// RFC 9113 §6.9.2: a new initial window moves every stream's window; it may go below zero, not over 2³¹−1.
    pub(super) fn set_initial_send_window(&mut self, bytes: i32) -> Result<(), ConnectionError> {
        let change = i64::from(bytes) - i64::from(self.initial_send_window);
        self.initial_send_window = bytes;
        for slot in 0..self.streams.slots() as u32 {
            let Some(stream) = self.streams.get(slot) else { continue };
            if stream.id == 0 {
                continue;
            }
            match i32::try_from(i64::from(stream.send_window) + change) {
                Ok(window) => stream.send_window = window,
                Err(_) => {
                    return Err(ConnectionError::new(
                        ErrorCode::FLOW_CONTROL_ERROR,
                        "initial window overflows a stream's window",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Every stream's window may have opened.
    pub(super) fn pump_all(&mut self, out: &mut Vec<u8>) {
        for slot in 0..self.streams.slots() as u32 {
            if self.streams.get(slot).is_some_and(|stream| stream.queue.is_some()) {
                self.pump(slot, out);
            }
        }
    }

    /// Our SETTINGS are acknowledged: a window below the default holds from now on.
    pub(super) fn settle_initial_recv_window(&mut self) {
        let window = self.limits.stream_window();
        let less = self.initial_recv_window.saturating_sub(window);
        self.initial_recv_window = window;
        if less == 0 {
            return;
        }
        for slot in 0..self.streams.slots() as u32 {
            if let Some(stream) = self.streams.get(slot)
                && stream.id != 0
            {
                stream.recv_window = stream.recv_window.saturating_sub_unsigned(less);
            }
        }
    }

    /// Streams whose queue has not moved since `before_ms`.
    pub(super) fn stalled(&self, before_ms: u64) -> impl Iterator<Item = u32> {
        let is_stalled =
            move |stream: &&Stream| stream.queue.as_ref().is_some_and(|queue| queue.progress_ms < before_ms);
        self.streams.iter().filter(is_stalled).map(|stream| stream.id)
    }

    /// Gives back what an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        self.streams.shrink();
        self.line.shrink_to_fit();
        self.finished.shrink_to_fit();
        self.lingering.shrink_to_fit();
        self.roomy.shrink_to_fit();
        self.history.shrink_to_fit();
    }
}

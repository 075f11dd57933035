//! The frames a client sends, one after the other (RFC 9113 §6).
//!
//! Each is acted on before the next is looked at, and ends in one of three ways: done, a stream error, a
//! connection error. Nothing is kept of the input but a header block that CONTINUATION frames cut in pieces.

use super::application::{Application, Credit, Work};
use super::assembly::Assembly;
use super::block::Block;
use super::connection::Connection;
use super::error::{ConnectionError, ErrorCode, Fault, Reset};
use super::frame::{self, FrameHeader, HEADER_BYTES, PREFACE, flag, kind, setting};
use super::head::{self, Refusal};
use super::memo::Known;
use super::replies::Replies;
use super::stream_id::StreamId;
use super::streams::{LENGTH_UNKNOWN, Stream, mark};
use super::wire::{ResetBy, Wire};

impl<A: Application> Connection<A> {
    /// Takes the preface and then whole frames; how many bytes that was.
    pub(super) fn frames(
        &mut self,
        input: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        let mut at = 0;
        self.partial = None;
        if self.preface_seen < PREFACE.len() {
            let due = &PREFACE[self.preface_seen..];
            let seen = input.get(..due.len()).unwrap_or(input);
            if !due.starts_with(seen) {
                return Err(ConnectionError::protocol("bad preface"));
            }
            at = seen.len();
            self.preface_seen += at;
            if self.preface_seen < PREFACE.len() {
                return Ok(at);
            }
            self.greet(out);
        }
        let frame_bytes_max = self.wire.limits.frame_bytes();
        while let Some(header) = input.get(at..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) {
            let header = FrameHeader::parse(header);
            // §4.2 lets us choose the connection: the frame cannot be skipped without reading it.
            if header.len > frame_bytes_max {
                return Err(ConnectionError::frame_size("frame over SETTINGS_MAX_FRAME_SIZE"));
            }
            let start = at + HEADER_BYTES;
            let Some(payload) = input.get(start..start + header.len as usize) else {
                self.partial = Some(header.kind);
                return Ok(at);
            };
            at = start + payload.len();
            match self.frame(header, payload, app, out) {
                Ok(()) => {}
                Err(Fault::Connection(error)) => return Err(error),
                Err(Fault::Stream(id, code, reason)) => {
                    self.stream_error(id.get(), code, reason, app, out)?;
                }
            }
            if !self.wire.finished.is_empty() || !self.wire.roomy.is_empty() || self.wire.overspent {
                self.settle(app, out)?;
            }
        }
        if at < input.len() {
            self.partial = Some(u8::MAX);
        }
        Ok(at)
    }

    #[inline]
    fn frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        // §6.2: nothing may stand between the pieces of a header block, on any stream.
        if self.assembly.is_some() && header.kind != kind::CONTINUATION {
            return Err(ConnectionError::protocol("frame inside a header block").into());
        }
        // §3.4.
        if !self.settings_seen && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(ConnectionError::protocol("first frame is not SETTINGS").into());
        }
        match header.kind {
            kind::DATA => self.data(header, payload, app, out),
            kind::HEADERS => self.headers(header, payload, app, out),
            kind::CONTINUATION => self.continuation(header, payload, app, out),
            kind::WINDOW_UPDATE => self.window_update(header, payload, out),
            kind::SETTINGS => self.settings(header, payload, out),
            kind::PING => self.ping(header, payload, out),
            kind::RST_STREAM => self.rst_stream(header, payload, app, out),
            kind::PRIORITY => self.priority(header, payload),
            kind::GOAWAY => self.goaway(header, payload),
            // §8.4: a client cannot push.
            kind::PUSH_PROMISE => Err(ConnectionError::protocol("PUSH_PROMISE from a client").into()),
            // §5.5: unknown types are ignored; not for ever.
            _ => Ok(self.wire.spend_glitch("too many unknown frames")?),
        }
    }

    /// RST_STREAM for a broken rule. It counts like a client's own (CVE-2025-8671): work was begun and thrown
    /// away.
    #[cold]
    pub(super) fn stream_error(
        &mut self,
        id: u32,
        code: ErrorCode,
        reason: &'static str,
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), ConnectionError> {
        self.wire.spend_reset()?;
        self.wire.count_control_reply()?;
        frame::write_rst_stream(id, code, out);
        self.wire.remember_reset(id, ResetBy::Us);
        match self.wire.streams.find(id) {
            Some(slot) => self.take_back(slot, Reset { code, by_client: false, reason }, app, out),
            None => app.refused(StreamId::new(id), code, reason),
        }
        Ok(())
    }

    /// Ends a stream that was reset.
    fn take_back(&mut self, slot: u32, why: Reset, app: &mut A, out: &mut Vec<u8>) {
        let Some(id) = self.wire.streams.get(slot).map(|stream| stream.id) else { return };
        let lingers = self.wire.is_lingering(slot);
        self.wire.close(slot, out);
        // A stream that was answered is not reset for its application: it had ended.
        if lingers {
            return;
        }
        if let Some(stream) = self.apps.get_mut(slot as usize).and_then(Option::take)
            && app.reset(StreamId::new(id), stream, why) == Work::Remains
        {
            self.wire.unfinished += 1;
        }
    }

    /// §5.1.1: what was never opened, or is not the client's to open, is idle.
    fn is_idle(&self, id: u32) -> bool {
        id > self.last_id || id.is_multiple_of(2)
    }

    // --- DATA (§6.1) ---

    #[inline]
    fn data(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let id = header.stream;
        let Some(data) = (if header.has(flag::PADDED) { unpad(payload) } else { Some(payload) }) else {
            return Err(ConnectionError::protocol("padding longer than its DATA frame").into());
        };
        let window_bytes = header.len;
        self.wire.take_from_window(window_bytes)?;
        let Some(slot) = self.wire.streams.find(id) else {
            return self.data_on_no_stream(id, window_bytes, out);
        };
        let Some(stream) = self.wire.streams.get(slot) else { return Ok(()) };
        let end_stream = header.has(flag::END_STREAM);
        let fault = if stream.is(mark::REMOTE_DONE) {
            Some((ErrorCode::STREAM_CLOSED, "DATA after END_STREAM"))
        } else if i64::from(window_bytes) > i64::from(stream.recv_window) {
            Some((ErrorCode::FLOW_CONTROL_ERROR, "DATA beyond the stream's window"))
        } else if stream.length_left != LENGTH_UNKNOWN
            && (data.len() as u64 > stream.length_left
                || (end_stream && (data.len() as u64) < stream.length_left))
        {
            // §8.1.1: found out before the end is delivered, so the application never sees it complete.
            Some((ErrorCode::PROTOCOL_ERROR, "content-length differs from DATA"))
        } else {
            None
        };
        if let Some((code, reason)) = fault {
            self.wire.credit_connection(window_bytes, out);
            return Err(Fault::Stream(StreamId::new(id), code, reason));
        }
        // Not over `i32::MAX`, as it is not over `recv_window`.
        stream.recv_window -= window_bytes as i32;
        if stream.length_left != LENGTH_UNKNOWN {
            stream.length_left -= data.len() as u64;
        }
        let answered = stream.is(mark::LOCAL_DONE);
        if end_stream {
            stream.marks |= mark::REMOTE_DONE;
        } else {
            self.spend_on_data(data.len() as u32, window_bytes)?;
        }
        self.received_data_bytes += data.len() as u64;
        if answered {
            // Nobody wants it; and at the end of this read the client will be told so.
            self.wire.credit_connection(window_bytes, out);
            if end_stream {
                self.wire.close(slot, out);
            }
            return Ok(());
        }
        let mut credit = Credit::Now;
        if (!data.is_empty() || end_stream)
            && let Some(Some(stream)) = self.apps.get_mut(slot as usize)
        {
            let mut replies = Replies::new(&mut self.wire, out, slot);
            credit = app.data(StreamId::new(id), stream, data, end_stream, &mut replies);
        }
        // The call may have ended the stream; then nobody holds anything.
        let is_open = self.wire.streams.get(slot).is_some_and(|stream| stream.id == id);
        match credit {
            Credit::Later if is_open => {
                let padding = window_bytes - data.len() as u32;
                self.wire.credit_stream(slot, padding, out);
                self.wire.credit_connection(padding, out);
                self.wire.hold(slot, data.len() as u32, out);
            }
            _ => {
                if is_open {
                    self.wire.credit_stream(slot, window_bytes, out);
                }
                self.wire.credit_connection(window_bytes, out);
            }
        }
        Ok(())
    }

    #[inline]
    fn spend_on_data(&mut self, carried: u32, window_bytes: u32) -> Result<(), ConnectionError> {
        if carried == 0 {
            self.empty_data_frames += 1;
            if self.empty_data_frames > self.wire.limits.empty_data_frames_max {
                return Err(ConnectionError::calm("too many empty DATA frames"));
            }
            self.wire.spend_glitch("too many empty DATA frames")?;
        } else {
            self.empty_data_frames = 0;
        }
        self.wire.spend_overhead(carried, window_bytes - carried)
    }

    #[cold]
    fn data_on_no_stream(&mut self, id: u32, window_bytes: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.is_idle(id) {
            return Err(ConnectionError::protocol("DATA on an idle stream").into());
        }
        self.wire.credit_connection(window_bytes, out);
        self.after_the_end(id, "DATA on a closed stream")
    }

    /// §5.1: a frame on a stream that is closed. After our RST_STREAM, or beyond our GOAWAY, it was under way
    /// and is ignored; after the client's own it is a stream error; after END_STREAM, a connection error.
    #[cold]
    fn after_the_end(&mut self, id: u32, reason: &'static str) -> Result<(), Fault> {
        self.wire.spend_glitch("too many frames on closed streams")?;
        if self.accept_upto.is_some_and(|upto| id > upto) {
            return Ok(());
        }
        match self.wire.reset_by(id) {
            Some(ResetBy::Us) => Ok(()),
            Some(ResetBy::Client) => Err(Fault::Stream(StreamId::new(id), ErrorCode::STREAM_CLOSED, reason)),
            None => Err(ConnectionError::new(ErrorCode::STREAM_CLOSED, reason).into()),
        }
    }

    // --- HEADERS (§6.2) and CONTINUATION (§6.10) ---

    fn headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let id = header.stream;
        // §5.1.1; this includes stream 0.
        if id.is_multiple_of(2) {
            return Err(ConnectionError::protocol("HEADERS on a stream that is not a client's").into());
        }
        let mut block = payload;
        if header.has(flag::PADDED) {
            block =
                unpad(payload).ok_or(ConnectionError::protocol("padding longer than its HEADERS frame"))?;
        }
        let mut depends_on_itself = false;
        if header.has(flag::PRIORITY) {
            let Some((priority, rest)) = block.split_first_chunk::<5>() else {
                return Err(ConnectionError::frame_size("HEADERS shorter than its priority").into());
            };
            depends_on_itself = dependency(priority) == id;
            block = rest;
        }
        let end_stream = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.header_block(id, end_stream, depends_on_itself, block, app, out);
        }
        let block = block.to_vec();
        self.assembly = Some(Box::new(Assembly { id, end_stream, depends_on_itself, frames: 0, block }));
        Ok(())
    }

    #[cold]
    fn continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Some(mut assembly) = self.assembly.take().filter(|assembly| assembly.id == header.stream) else {
            return Err(ConnectionError::protocol("CONTINUATION of nothing").into());
        };
        assembly.frames += 1;
        if assembly.frames > self.wire.limits.continuation_frames_max {
            return Err(ConnectionError::calm("too many CONTINUATION frames").into());
        }
        if assembly.block.len() + payload.len() > self.wire.limits.header_block_bytes_max() {
            return Err(ConnectionError::calm("header block too large").into());
        }
        assembly.block.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            self.assembly = Some(assembly);
            return Ok(());
        }
        let Assembly { id, end_stream, depends_on_itself, ref block, .. } = *assembly;
        self.header_block(id, end_stream, depends_on_itself, block, app, out)
    }

    /// A whole header block. Whatever becomes of it, it is decoded: the tables must stay in step.
    #[inline]
    fn header_block(
        &mut self,
        id: u32,
        end_stream: bool,
        depends_on_itself: bool,
        block: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if id <= self.last_id {
            return self.second_header_block(id, end_stream, block, app, out);
        }
        if id > self.last_id + 2 {
            self.skipped = (self.last_id + 1, id - 1);
        }
        self.last_id = id;
        let limits = &self.wire.limits;
        let is_refused = self.wire.streams.open() + self.wire.unfinished as usize
            >= limits.max_concurrent_streams as usize;
        if depends_on_itself || is_refused || self.accept_upto.is_some() {
            self.decode(block)?;
            let id = StreamId::new(id);
            return match self.accept_upto {
                // Beyond our GOAWAY: the client knows that this is not served (§6.8).
                Some(_) => Ok(self.wire.spend_glitch("too many streams beyond GOAWAY")?),
                // §5.3.1 of RFC 7540; RFC 9113 dropped priorities, not the rule against nonsense.
                None if depends_on_itself => {
                    Err(Fault::Stream(id, ErrorCode::PROTOCOL_ERROR, "stream depends on itself"))
                }
                None => Err(Fault::Stream(id, ErrorCode::REFUSED_STREAM, "too many concurrent streams")),
            };
        }
        if let Some(known) = self.memo.find(block) {
            return open(&mut self.wire, &mut self.apps, id, end_stream, known, app, out);
        }
        self.new_head(id, end_stream, block, app, out)
    }

    /// A head whose bytes were not seen before.
    fn new_head(
        &mut self,
        id: u32,
        end_stream: bool,
        block: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let table_changed = self.decode(block)?;
        if self.list.is_too_large() {
            self.wire.spend_reset()?;
            app.refused(StreamId::new(id), ErrorCode::NO_ERROR, "header list too large");
            self.answer_alone(id, 431, end_stream, out);
            return Ok(());
        }
        let head = match head::request(&self.list) {
            Ok(head) => head,
            Err(Refusal::Malformed(reason)) => {
                return Err(Fault::Stream(StreamId::new(id), ErrorCode::PROTOCOL_ERROR, reason));
            }
            Err(Refusal::Connect) => {
                app.refused(StreamId::new(id), ErrorCode::NO_ERROR, "CONNECT is not offered");
                self.answer_alone(id, 501, end_stream, out);
                return Ok(());
            }
        };
        let known = Known { content_length: head.content_length(), head: app.classify(&head) };
        let (wire, apps) = (&mut self.wire, &mut self.apps);
        if table_changed {
            return open(wire, apps, id, end_stream, &known, app, out);
        }
        match self.memo.keep(block, known) {
            Ok(known) => open(wire, apps, id, end_stream, known, app, out),
            Err(known) => open(wire, apps, id, end_stream, &known, app, out),
        }
    }

    /// HEADERS on a stream that is not new: trailers, or a mistake.
    fn second_header_block(
        &mut self,
        id: u32,
        end_stream: bool,
        block: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        self.decode(block)?;
        let stream_fault = |code, reason| Err(Fault::Stream(StreamId::new(id), code, reason));
        let Some(slot) = self.wire.streams.find(id) else {
            // §5.1.1: ids only go up, and opening one closes those below it.
            if (self.skipped.0..=self.skipped.1).contains(&id) {
                return Err(ConnectionError::protocol("stream ids go back").into());
            }
            return self.after_the_end(id, "HEADERS on a closed stream");
        };
        let Some(stream) = self.wire.streams.get(slot) else { return Ok(()) };
        if stream.is(mark::REMOTE_DONE) {
            return stream_fault(ErrorCode::STREAM_CLOSED, "HEADERS after END_STREAM");
        }
        // §8.1: only trailers can come here, and those end the stream.
        if !end_stream {
            return stream_fault(ErrorCode::PROTOCOL_ERROR, "trailers without END_STREAM");
        }
        if self.list.is_too_large() {
            return stream_fault(ErrorCode::ENHANCE_YOUR_CALM, "trailers too large");
        }
        if !matches!(stream.length_left, 0 | LENGTH_UNKNOWN) {
            return stream_fault(ErrorCode::PROTOCOL_ERROR, "content-length differs from DATA");
        }
        let fields = match head::trailers(&self.list) {
            Ok(fields) => fields,
            Err(Refusal::Malformed(reason)) => return stream_fault(ErrorCode::PROTOCOL_ERROR, reason),
            Err(Refusal::Connect) => return Ok(()),
        };
        stream.marks |= mark::REMOTE_DONE;
        if stream.is(mark::LOCAL_DONE) {
            self.wire.close(slot, out);
        } else if let Some(Some(stream)) = self.apps.get_mut(slot as usize) {
            let mut replies = Replies::new(&mut self.wire, out, slot);
            app.trailers(StreamId::new(id), stream, fields, &mut replies);
        }
        Ok(())
    }

    /// Decodes into the list; true when the dynamic table is not what it was.
    fn decode(&mut self, block: &[u8]) -> Result<bool, ConnectionError> {
        let limits = &self.wire.limits;
        let (bytes_max, fields_max) =
            (limits.header_list_bytes_max as usize, limits.header_fields_max as usize);
        let decoded = self.decoder.decode(block, &mut self.list, bytes_max, fields_max)?;
        if decoded.table_changed {
            self.memo.next_epoch();
        }
        Ok(decoded.table_changed)
    }

    /// Answers a request that gets no stream.
    #[cold]
    fn answer_alone(&mut self, id: u32, status: u16, end_stream: bool, out: &mut Vec<u8>) {
        self.wire.write_block(id, &Block::new(status), true, out);
        if !end_stream {
            frame::write_rst_stream(id, ErrorCode::NO_ERROR, out);
            self.wire.remember_reset(id, ResetBy::Us);
        }
    }

    // --- The small frames ---

    /// §6.9.
    fn window_update(&mut self, header: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let Ok(increment) = <[u8; 4]>::try_from(payload) else {
            return Err(ConnectionError::frame_size("WINDOW_UPDATE is not four bytes").into());
        };
        let increment = u32::from_be_bytes(increment) & 0x7fff_ffff;
        // Opening a window wide cannot be repeated often before it overflows; small steps are paid for.
        if increment < 1024 {
            self.wire.spend_glitch("too many small WINDOW_UPDATEs")?;
        }
        let id = header.stream;
        if id == 0 {
            if increment == 0 {
                return Err(ConnectionError::protocol("WINDOW_UPDATE by zero").into());
            }
            let window = self.wire.send_window.checked_add(increment);
            let Some(window) = window.filter(|window| *window <= i32::MAX as u32) else {
                let code = ErrorCode::FLOW_CONTROL_ERROR;
                return Err(ConnectionError::new(code, "the connection's window overflows").into());
            };
            self.wire.send_window = window;
            self.wire.serve_line(out);
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(ConnectionError::protocol("WINDOW_UPDATE on an idle stream").into());
        }
        let Some(slot) = self.wire.streams.find(id) else {
            // §5.1: may come for a while after the end.
            return Ok(());
        };
        let Some(stream) = self.wire.streams.get(slot) else { return Ok(()) };
        let stream_fault = |code, reason| Err(Fault::Stream(StreamId::new(id), code, reason));
        if increment == 0 {
            return stream_fault(ErrorCode::PROTOCOL_ERROR, "WINDOW_UPDATE by zero");
        }
        match stream.send_window.checked_add_unsigned(increment) {
            Some(window) => stream.send_window = window,
            None => return stream_fault(ErrorCode::FLOW_CONTROL_ERROR, "the stream's window overflows"),
        }
        if stream.queue.is_some() {
            self.wire.pump(slot, out);
        }
        Ok(())
    }

    /// §6.5.
    fn settings(&mut self, header: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(ConnectionError::protocol("SETTINGS on a stream").into());
        }
        self.wire.spend_glitch("too many SETTINGS")?;
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(ConnectionError::frame_size("SETTINGS acknowledgement with a payload").into());
            }
            self.wire.settle_initial_recv_window();
            self.decoder.settle_table_bytes_max(self.wire.limits.header_table_bytes);
            return Ok(());
        }
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(ConnectionError::frame_size("SETTINGS is not a multiple of six bytes").into());
        }
        if entries.len() > self.wire.limits.settings_entries_max as usize {
            return Err(ConnectionError::calm("too many settings").into());
        }
        self.settings_seen = true;
        for &[i0, i1, v0, v1, v2, v3] in entries {
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([i0, i1]) {
                setting::HEADER_TABLE_SIZE => self.wire.set_peer_table_bytes(value),
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(ConnectionError::protocol("SETTINGS_ENABLE_PUSH is not 0 or 1").into());
                }
                setting::INITIAL_WINDOW_SIZE => match i32::try_from(value) {
                    Ok(window) => self.wire.set_initial_send_window(window)?,
                    Err(_) => {
                        let code = ErrorCode::FLOW_CONTROL_ERROR;
                        return Err(
                            ConnectionError::new(code, "SETTINGS_INITIAL_WINDOW_SIZE too large").into()
                        );
                    }
                },
                setting::MAX_FRAME_SIZE => {
                    if !(16_384..=16_777_215).contains(&value) {
                        return Err(ConnectionError::protocol("SETTINGS_MAX_FRAME_SIZE out of range").into());
                    }
                    self.wire.set_send_frame_max(value);
                }
                // MAX_CONCURRENT_STREAMS is about pushes, MAX_HEADER_LIST_SIZE is advice, §6.5.2: unknown
                // ones are ignored.
                _ => {}
            }
        }
        self.wire.count_control_reply()?;
        // §6.5.3: the acknowledgement comes at once, so before what the new values let go.
        frame::write_settings_ack(out);
        self.wire.pump_all(out);
        Ok(())
    }

    /// §6.7.
    fn ping(&mut self, header: FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(ConnectionError::protocol("PING on a stream").into());
        }
        let Ok(opaque) = <&[u8; 8]>::try_from(payload) else {
            return Err(ConnectionError::frame_size("PING is not eight bytes").into());
        };
        self.wire.spend_glitch("too many PINGs")?;
        if !header.has(flag::ACK) {
            self.wire.count_control_reply()?;
            frame::write_ping_ack(opaque, out);
        }
        Ok(())
    }

    /// §6.4.
    #[cold]
    fn rst_stream(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let id = header.stream;
        let Ok(code) = <[u8; 4]>::try_from(payload) else {
            return Err(ConnectionError::frame_size("RST_STREAM is not four bytes").into());
        };
        if self.is_idle(id) {
            return Err(ConnectionError::protocol("RST_STREAM on an idle stream").into());
        }
        let Some(slot) = self.wire.streams.find(id) else {
            return Ok(self.wire.spend_glitch("too many RST_STREAMs")?);
        };
        self.wire.spend_reset()?;
        self.wire.remember_reset(id, ResetBy::Client);
        let code = ErrorCode(u32::from_be_bytes(code));
        self.take_back(slot, Reset { code, by_client: true, reason: "reset by the client" }, app, out);
        Ok(())
    }

    /// §6.3. Priorities are checked and forgotten: no tree is kept (CVE-2019-9513).
    #[cold]
    fn priority(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        let id = header.stream;
        if id == 0 {
            return Err(ConnectionError::protocol("PRIORITY on stream 0").into());
        }
        self.wire.spend_glitch("too many PRIORITYs")?;
        let (code, reason) = match <&[u8; 5]>::try_from(payload) {
            Ok(priority) if dependency(priority) != id => return Ok(()),
            Ok(_) => (ErrorCode::PROTOCOL_ERROR, "stream depends on itself"),
            Err(_) => (ErrorCode::FRAME_SIZE_ERROR, "PRIORITY is not five bytes"),
        };
        // §6.4: RST_STREAM cannot be sent for an idle stream.
        if self.is_idle(id) {
            return Err(ConnectionError::new(code, reason).into());
        }
        Err(Fault::Stream(StreamId::new(id), code, reason))
    }

    /// §6.8: the client opens no more streams; those that are open are finished.
    #[cold]
    fn goaway(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(ConnectionError::protocol("GOAWAY on a stream").into());
        }
        if payload.len() < 8 {
            return Err(ConnectionError::frame_size("GOAWAY shorter than eight bytes").into());
        }
        self.wire.spend_glitch("too many GOAWAYs")?;
        self.client_goes = true;
        Ok(())
    }
}

/// Opens a stream for a request whose head is known. Apart from `Connection`, since `known` is borrowed from
/// its memo.
#[inline]
fn open<A: Application>(
    wire: &mut Wire,
    apps: &mut Vec<Option<A::Stream>>,
    id: u32,
    end_stream: bool,
    known: &Known<A::Head>,
    app: &mut A,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    // §8.1.1.
    if end_stream && known.content_length.is_some_and(|length| length != 0) {
        let reason = "content-length without a body";
        return Err(Fault::Stream(StreamId::new(id), ErrorCode::PROTOCOL_ERROR, reason));
    }
    let slot = wire.streams.insert(Stream {
        id,
        marks: if end_stream { mark::REMOTE_DONE } else { 0 },
        send_window: wire.initial_send_window,
        recv_window: i32::try_from(wire.initial_recv_window).unwrap_or(i32::MAX),
        pending: 0,
        held: 0,
        length_left: known.content_length.unwrap_or(LENGTH_UNKNOWN),
        queue: None,
    });
    let mut replies = Replies::new(wire, out, slot);
    let stream = app.open(StreamId::new(id), &known.head, end_stream, &mut replies);
    match apps.get_mut(slot as usize) {
        Some(place) => *place = Some(stream),
        None => {
            apps.resize_with(slot as usize, || None);
            apps.push(Some(stream));
        }
    }
    Ok(())
}

/// §6.1: the first byte says how many at the end are padding. `None` where those are not there.
fn unpad(payload: &[u8]) -> Option<&[u8]> {
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}

/// RFC 7540 §5.3.1: the stream depended on; the first bit says exclusive.
fn dependency(priority: &[u8; 5]) -> u32 {
    let [d0, d1, d2, d3, _] = *priority;
    u32::from_be_bytes([d0, d1, d2, d3]) & 0x7fff_ffff
}

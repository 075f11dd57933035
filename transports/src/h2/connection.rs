//! One connection, seen from its driver: bytes, time, answers from outside, the end.
//!
//! What the client's frames do stands in `receiving`.

use std::sync::Arc;

use super::application::{Application, Work};
use super::assembly::Assembly;
use super::error::{ConnectionError, ErrorCode, Reset};
use super::frame::{self, PREFACE, kind, setting};
use super::hpack::{Decoder, HeaderList};
use super::limits::Limits;
use super::memo::Memo;
use super::replies::Replies;
use super::stream_id::StreamId;
use super::streams::mark;
use super::wire::Wire;

/// What a connection is waiting for, so that a sweep can hold it to the time it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The client's preface.
    Preface,
    /// The client's first SETTINGS.
    Settings,
    /// The rest of a header block: its frame is incomplete, or CONTINUATION is due.
    HeaderBlock,
    /// The rest of another frame.
    Frame,
    /// The client's windows, for a response that waits.
    PeerWindow,
    /// The rest of a request's body.
    Body,
    /// The application's answer.
    Work,
    /// A new request.
    Idle,
}

/// A server's side of one HTTP/2 connection. See the [module](super).
pub struct Connection<A: Application> {
    pub(super) wire: Wire,
    /// By the same slot as the wire's streams.
    pub(super) apps: Vec<Option<A::Stream>>,
    pub(super) memo: Memo<A::Head>,
    pub(super) decoder: Decoder,
    pub(super) list: HeaderList,
    pub(super) assembly: Option<Box<Assembly>>,
    pub(super) preface_seen: usize,
    pub(super) greeted: bool,
    pub(super) settings_seen: bool,
    /// The kind of the frame of which `receive` saw only a part.
    pub(super) partial: Option<u8>,
    pub(super) last_id: u32,
    /// Ids the client jumped over last: they are closed without ever having been open.
    pub(super) skipped: (u32, u32),
    /// Streams beyond are not served any more: what our last GOAWAY said.
    pub(super) accept_upto: Option<u32>,
    pub(super) client_goes: bool,
    pub(super) empty_data_frames: u32,
    pub(super) received_data_bytes: u64,
    pub(super) failed: Option<ConnectionError>,
}

impl<A: Application> Connection<A> {
    /// A connection at its very beginning: the client's preface is still to come.
    pub fn new(limits: Arc<Limits>) -> Self {
        Connection {
            decoder: Decoder::new(limits.header_table_bytes),
            wire: Wire::new(limits),
            apps: Vec::new(),
            memo: Memo::new(),
            list: HeaderList::default(),
            assembly: None,
            preface_seen: 0,
            greeted: false,
            settings_seen: false,
            partial: None,
            last_id: 0,
            skipped: (0, 0),
            accept_upto: None,
            client_goes: false,
            empty_data_frames: 0,
            received_data_bytes: 0,
            failed: None,
        }
    }

    /// Writes our SETTINGS and opens the connection's window, once; `receive` does it behind a good preface.
    /// Where the protocol is known beforehand (ALPN) it may be done at once.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.greeted, true) {
            return;
        }
        let limits = &self.wire.limits;
        let window = limits.connection_window();
        let settings = [
            (setting::HEADER_TABLE_SIZE, limits.header_table_bytes, 4_096),
            (setting::MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams, u32::MAX),
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window(), 65_535),
            (setting::MAX_FRAME_SIZE, limits.frame_bytes(), 16_384),
            (setting::MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max, u32::MAX),
        ];
        let mut entries = [(0, 0); 5];
        let mut count = 0;
        for (id, value, default) in settings {
            if value != default {
                entries[count] = (id, value);
                count += 1;
            }
        }
        frame::write_settings(&entries[..count], out);
        if window > 65_535 {
            frame::write_window_update(0, window - 65_535, out);
        }
    }

    /// Takes whole frames from the start of `input` and returns how many bytes that was; the rest is to be
    /// presented again with more behind it, in a buffer of at least `frame_bytes_max` + 9. Replies are appended
    /// to `out`; `now_ms` is any clock that does not go back.
    ///
    /// After an error, write what is in `out` (a GOAWAY is its end, unless the client does not speak HTTP/2 at
    /// all), call [`Connection::disconnect`], and close.
    pub fn receive(
        &mut self,
        input: &[u8],
        now_ms: u64,
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.wire.now_ms = now_ms;
        if out.is_empty() {
            self.wire.control_replies = 0;
        }
        if self.wire.has_line() {
            self.wire.serve_line(out);
        }
        self.wire.receiving = true;
        let mut result = self.settle(app, out).and_then(|()| self.frames(input, app, out));
        self.wire.receiving = false;
        if result.is_ok() && !self.wire.lingering.is_empty() {
            self.wire.stop_lingering(out);
            result = self.settle(app, out).and(result);
        }
        if let Err(error) = result {
            self.fail(error, out);
        }
        result
    }

    /// The caller wrote `out` away: what waited for room in it goes on. Call this after a write while
    /// [`Connection::wants_output`].
    pub fn output_drained(
        &mut self,
        now_ms: u64,
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<(), ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.wire.now_ms = now_ms;
        self.wire.serve_line(out);
        let result = self.settle(app, out);
        if let Err(error) = result {
            self.fail(error, out);
        }
        result
    }

    /// Whether response bytes wait for room in the output, or for the connection's window, which only the
    /// client can open.
    pub fn wants_output(&self) -> bool {
        self.wire.has_line()
    }

    /// An open stream, for what comes from outside `receive`: answers, timeouts.
    pub fn stream<'a>(
        &'a mut self,
        id: StreamId,
        out: &'a mut Vec<u8>,
    ) -> Option<(&'a mut A::Stream, Replies<'a>)> {
        if self.failed.is_some() {
            return None;
        }
        let slot = self.wire.streams.find(id.get())?;
        let stream = self.apps.get_mut(slot as usize)?.as_mut()?;
        Some((stream, Replies::new(&mut self.wire, out, slot)))
    }

    /// Every open stream in turn.
    pub fn for_each_stream(
        &mut self,
        out: &mut Vec<u8>,
        mut act: impl FnMut(StreamId, &mut A::Stream, &mut Replies<'_>),
    ) {
        if self.failed.is_some() {
            return;
        }
        for (slot, stream) in (0..).zip(&mut self.apps) {
            let id = self.wire.streams.get(slot).map_or(0, |stream| stream.id);
            if let (Some(stream), true) = (stream.as_mut(), id != 0) {
                act(StreamId::new(id), stream, &mut Replies::new(&mut self.wire, out, slot));
            }
        }
    }

    /// Hands the application what ended outside `receive` ([`Application::closed`]), and calls
    /// [`Application::writable`] where there is room. `receive` begins with it; a driver that answers from
    /// outside may call it to have streams back earlier.
    pub fn settle(&mut self, app: &mut A, out: &mut Vec<u8>) -> Result<(), ConnectionError> {
        loop {
            while let Some((slot, id)) = self.wire.finished.pop() {
                let stream = self.apps.get_mut(slot as usize).and_then(Option::take);
                self.wire.streams.release(slot);
                if let Some(stream) = stream {
                    app.closed(StreamId::new(id), stream);
                }
            }
            let Some((slot, id)) = self.wire.roomy.pop() else { break };
            if self.wire.streams.get(slot).is_some_and(|stream| stream.id == id)
                && let Some(Some(stream)) = self.apps.get_mut(slot as usize)
            {
                let mut replies = Replies::new(&mut self.wire, out, slot);
                app.writable(StreamId::new(id), stream, &mut replies);
            }
        }
        match self.wire.overspent {
            false => Ok(()),
            true => Err(ConnectionError::calm("too many resets")),
        }
    }

    /// Work that a reset left behind ([`Work::Remains`]) has ended.
    pub fn work_ended(&mut self) {
        self.wire.unfinished = self.wire.unfinished.saturating_sub(1);
    }

    /// Resets streams whose response has waited for the client's windows since before
    /// `now_ms - timeout_ms`; returns how many.
    pub fn reset_stalled(
        &mut self,
        now_ms: u64,
        timeout_ms: u64,
        app: &mut A,
        out: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.wire.now_ms = now_ms;
        let Some(before_ms) = now_ms.checked_sub(timeout_ms) else { return Ok(0) };
        let stalled: Vec<u32> = self.wire.stalled(before_ms).collect();
        for &id in &stalled {
            let reset = self.stream_error(id, ErrorCode::CANCEL, "response not read in time", app, out);
            if let Err(error) = reset {
                self.fail(error, out);
                return Err(error);
            }
        }
        Ok(stalled.len())
    }

    /// The connection is gone: every open stream is [`reset`](Application::reset), and nothing more happens.
    pub fn disconnect(&mut self, app: &mut A) {
        let gone = ConnectionError::new(ErrorCode::NO_ERROR, "disconnected");
        let code = self.failed.get_or_insert(gone).code;
        let why = Reset { code, by_client: true, reason: "connection closed" };
        for (slot, id) in std::mem::take(&mut self.wire.finished) {
            if let Some(stream) = self.apps.get_mut(slot as usize).and_then(Option::take) {
                app.closed(StreamId::new(id), stream);
            }
        }
        for slot in 0..self.apps.len() {
            let Some(stream) = self.apps[slot].take() else { continue };
            let Some(id) = self.wire.streams.get(slot as u32).map(|stream| stream.id) else { continue };
            self.wire.unfinished += u32::from(app.reset(StreamId::new(id), stream, why) == Work::Remains);
            self.wire.streams.remove(slot as u32);
        }
    }

    /// Response bytes of a stream that wait for windows.
    pub fn queued_bytes(&self, id: StreamId) -> usize {
        let slot = self.wire.streams.find(id.get());
        slot.and_then(|slot| self.wire.streams.peek(slot)).map_or(0, |stream| stream.queued_bytes())
    }

    /// Streams that are open.
    pub fn open_streams(&self) -> usize {
        self.wire.streams.open()
    }

    /// What the connection waits for; where it is several things, the first in the order of [`Waiting`].
    pub fn waiting_for(&self) -> Waiting {
        if self.preface_seen < PREFACE.len() {
            return Waiting::Preface;
        }
        if !self.settings_seen {
            return Waiting::Settings;
        }
        match self.partial {
            _ if self.assembly.is_some() => return Waiting::HeaderBlock,
            Some(kind::HEADERS) => return Waiting::HeaderBlock,
            Some(_) => return Waiting::Frame,
            None => {}
        }
        let mut waiting = if self.wire.unfinished > 0 { Waiting::Work } else { Waiting::Idle };
        for stream in self.wire.streams.iter() {
            if stream.queue.is_some() {
                return Waiting::PeerWindow;
            }
            if !stream.is(mark::REMOTE_DONE) {
                waiting = Waiting::Body;
            } else if waiting == Waiting::Idle {
                waiting = Waiting::Work;
            }
        }
        waiting
    }

    /// Body bytes received so far, for a minimum rate.
    pub fn received_data_bytes(&self) -> u64 {
        self.received_data_bytes
    }

    /// Body bytes written to the output so far.
    pub fn sent_data_bytes(&self) -> u64 {
        self.wire.sent_data_bytes
    }

    /// Announces the end (RFC 9113 §6.8): GOAWAY with the highest id, so that requests under way are still
    /// served. [`Connection::go_away`] follows a round trip later.
    pub fn go_away_notice(&mut self, out: &mut Vec<u8>) {
        if self.failed.is_none() && self.accept_upto.is_none() {
            self.greet(out);
            frame::write_goaway(0x7fff_ffff, ErrorCode::NO_ERROR, "", out);
        }
    }

    /// Serves no streams beyond those already open, and says so.
    pub fn go_away(&mut self, out: &mut Vec<u8>) {
        if self.failed.is_none() && self.accept_upto.is_none() {
            self.greet(out);
            self.accept_upto = Some(self.last_id);
            frame::write_goaway(self.last_id, ErrorCode::NO_ERROR, "", out);
        }
    }

    /// Whether one side said GOAWAY and everything that was accepted is answered: time to close.
    pub fn is_drained(&self) -> bool {
        let goes = self.accept_upto.is_some() || self.client_goes;
        goes && self.open_streams() == 0 && self.wire.unfinished == 0
    }

    /// Ends the connection with an error of the caller's, such as a timeout.
    pub fn close_with(&mut self, code: ErrorCode, debug: &str, out: &mut Vec<u8>) {
        if self.failed.is_none() {
            self.greet(out);
            frame::write_goaway(self.last_served(), code, debug, out);
            self.failed = Some(ConnectionError::new(code, "closed by the server"));
        }
    }

    /// Gives memory back that an idle connection can do without; the next request will take it again.
    pub fn shrink(&mut self) {
        if self.wire.finished.is_empty() && self.open_streams() == 0 {
            self.wire.shrink();
            self.apps = Vec::new();
            self.list.shrink();
            self.memo.forget();
            self.decoder.shrink();
        }
    }

    fn fail(&mut self, error: ConnectionError, out: &mut Vec<u8>) {
        self.failed = Some(error);
        // Whoever did not send the preface may not know what a GOAWAY is.
        if self.greeted {
            frame::write_goaway(self.last_served(), error.code, error.reason, out);
        }
    }

    /// §6.8: an id in a GOAWAY is never larger than in the one before.
    fn last_served(&self) -> u32 {
        self.accept_upto.unwrap_or(self.last_id)
    }
}

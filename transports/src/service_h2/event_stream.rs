//! `StreamEvents`: events come in, and each is answered in the order they came.
//!
//! What waits here is bounded on both sides: a stream whose queue is full, or whose client does not read its answers,
//! is not read from. A broken event is answered and does not end the stream.

use std::{collections::VecDeque, rc::Rc};

use super::{
    Service, Stream,
    event_call::{EventCall, set_length},
};
use crate::{
    answer::{Reached, Refusal},
    core::Core,
    counters::StreamKind,
    events::{self, Examined, Streamed},
    grpc::{Code, Deframer, PREFIX_BYTES, Status, Take},
    grpc_answer::{Failure, push_status},
    h2::{Block, Credit, Replies, StreamId},
    message::{
        StreamedRequest, decode_event, encode_stream_status, encode_streamed, encode_streamed_response,
        read_streamed,
    },
    waiting::{Caller, MessageId, Settled},
};

/// Events of a stream whose answer is not under way to the client.
const TURNS_MAX: usize = 8192;
/// Answers are sent in pieces of this size: a DATA frame's.
const PIECE_BYTES: usize = 16 << 10;
/// A stream that does not say otherwise hears how it is after so many events …
const BATCH_SIZE: u64 = 100;
/// … or when so much time has passed since an answer.
const FLUSH_INTERVAL_MS: u64 = 1000;
/// No stream hears of itself more often than this.
const FLUSH_INTERVAL_MS_MIN: u64 = 10;

/// An event's turn to be answered.
#[derive(Debug)]
enum Turn {
    /// It is not known yet what became of it.
    Waiting,
    /// It is stored.
    Stored { id: MessageId, duplicate: bool, since_ns: u64 },
    /// It was not taken.
    Refused { id: MessageId, refusal: Refusal },
    /// An answer that is written already: an `IngestEventResponse`.
    Answer(Vec<u8>),
    /// The stream's settings were taken.
    Configured,
}

/// A stream of events under way.
pub(crate) struct EventStream {
    pub(super) call: Rc<EventCall>,
    deframer: Deframer,
    /// In the order of their coming.
    turns: VecDeque<Turn>,
    /// The place of the first of them.
    first: u32,
    /// Events so far.
    count: u64,
    /// Of these, how many were answered since the stream last heard how it is.
    answered: u64,
    batch_size: u64,
    flush_interval_ms: u64,
    /// Whether a time to flush is set.
    flushing: bool,
    /// Answers that the stream's queue did not take: the client is not reading.
    unsent: Vec<u8>,
    /// Input that waits; its window is withheld.
    rest: Vec<u8>,
    /// Bytes of window that are withheld.
    withheld: usize,
    /// Whether it waits for room in the queue, or for its own events to be answered.
    stalled: bool,
    /// Whether it is room in the queue that it waits for.
    pub(super) wants_room: bool,
    ended: bool,
    /// The last status is written.
    finished: bool,
    /// What ends it with an error, once the events before it are answered.
    failure: Option<Failure>,
    /// Bytes of the core's room for messages in pieces.
    pub(super) counted: usize,
}

impl EventStream {
    pub(super) fn new(call: Rc<EventCall>, message_bytes_max: usize, ended: bool) -> Self {
        Self {
            call,
            deframer: Deframer::new(message_bytes_max),
            turns: VecDeque::new(),
            first: 0,
            count: 0,
            answered: 0,
            batch_size: BATCH_SIZE,
            flush_interval_ms: FLUSH_INTERVAL_MS,
            flushing: false,
            unsent: Vec::new(),
            rest: Vec::new(),
            withheld: 0,
            stalled: false,
            wants_room: false,
            ended,
            finished: false,
            failure: None,
            counted: 0,
        }
    }

    /// It is known what became of one of its events.
    pub(super) fn settle(&mut self, settled: &Settled, core: &Core) {
        let Some(turn) = self.turns.get_mut(settled.place.wrapping_sub(self.first) as usize) else { return };
        let (id, since_ns) = (settled.id.clone(), settled.since_ns);
        *turn = match Reached::of(settled, &core.shared.acks) {
            Ok(reached) => Turn::Stored { id, duplicate: reached.duplicate, since_ns },
            Err(refusal) => Turn::Refused { id, refusal },
        };
    }

    /// Of how many of its events it is not known what became of them.
    pub(super) fn left(&self) -> usize {
        self.turns.iter().filter(|turn| matches!(turn, Turn::Waiting)).count()
    }

    /// Appends the answers that are due, up to a piece.
    fn write_answers(&mut self, core: &Core, out: &mut Vec<u8>) {
        while out.len() < PIECE_BYTES
            && let Some(turn) = self.turns.front()
            && !matches!(turn, Turn::Waiting)
        {
            let start = out.len();
            out.extend_from_slice(&[0; PREFIX_BYTES]);
            match turn {
                Turn::Waiting => {}
                Turn::Stored { id, duplicate, since_ns } => {
                    let stamp = events::stamp(core, *since_ns);
                    core.answered.note_streamed(StreamKind::Events, stamp.took_ns, 1);
                    encode_streamed_response(out, true, id.bytes(), events::verdict(*duplicate), &stamp);
                }
                Turn::Refused { id, refusal } => {
                    let stamp = events::stamp(core, core.clock.now_ns());
                    encode_streamed_response(out, false, id.bytes(), &refusal.text, &stamp);
                }
                Turn::Answer(response) => encode_streamed(out, response),
                Turn::Configured => encode_stream_status(out, self.turns.len() - 1, "configured"),
            }
            set_length(out, start);
            self.answered += u64::from(!matches!(turn, Turn::Configured));
            self.turns.pop_front();
            self.first = self.first.wrapping_add(1);
            if self.answered >= self.batch_size {
                self.write_status(out, "flushed");
            }
        }
        if self.is_taken()
            && self.failure.is_none()
            && self.turns.is_empty()
            && !self.finished
            && out.len() < PIECE_BYTES
        {
            self.finished = true;
            self.write_status(out, &format!("end of stream: {} events", self.count));
        }
    }

    fn write_status(&mut self, out: &mut Vec<u8>, message: &str) {
        let start = out.len();
        out.extend_from_slice(&[0; PREFIX_BYTES]);
        encode_stream_status(out, self.turns.len(), message);
        set_length(out, start);
        self.answered = 0;
    }

    /// Whether all of it was taken.
    fn is_taken(&self) -> bool {
        self.ended && !self.stalled && self.rest.is_empty()
    }

    /// Nothing more is taken.
    fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.rest = Vec::new();
        (self.stalled, self.wants_room) = (false, false);
    }

    /// Its time is over: what is not answered stays so, what is written is sent to the end of its message.
    pub(super) fn expire(&mut self, status: Status) {
        self.turns.clear();
        self.fail(status.into());
    }

    /// Whether nothing is under way: all that came was taken and answered.
    fn is_at_rest(&self) -> bool {
        let whole = self.deframer.finish().is_ok() && !self.deframer.is_holding();
        whole && self.turns.is_empty() && self.rest.is_empty() && !self.is_blocked() && self.failure.is_none()
    }

    /// Whether the client does not take its answers.
    fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }
}

impl Service {
    /// A part of the stream. `None`: it goes on.
    pub(super) fn event_stream_in(
        &mut self,
        id: StreamId,
        stream: &mut EventStream,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> (Credit, Option<Stream>) {
        stream.ended |= end_stream;
        if stream.failure.is_some() {
            return (Credit::Now, None);
        }
        if stream.stalled || stream.is_blocked() || !stream.rest.is_empty() {
            stream.rest.extend_from_slice(data);
            stream.withheld += data.len();
            return (Credit::Later, None);
        }
        let used = self.take_events(id, stream, data);
        let mut credit = Credit::Now;
        if stream.failure.is_none() && (used < data.len() || stream.stalled) {
            stream.rest.extend_from_slice(&data[used..]);
            stream.withheld += data.len();
            credit = Credit::Later;
        }
        (credit, self.go_on(id, stream, replies))
    }

    /// Answers what can be answered, and takes what waits.
    pub(super) fn go_on(
        &mut self,
        id: StreamId,
        stream: &mut EventStream,
        replies: &mut Replies<'_>,
    ) -> Option<Stream> {
        loop {
            if stream.is_taken()
                && stream.failure.is_none()
                && let Err(error) = stream.deframer.finish()
            {
                stream.fail(error.into());
            }
            self.send_answers(id, stream, replies);
            if stream.is_blocked() || (stream.rest.is_empty() && !stream.stalled) {
                break;
            }
            let rest = std::mem::take(&mut stream.rest);
            let used = self.take_events(id, stream, &rest);
            if stream.failure.is_none() {
                stream.rest.extend_from_slice(&rest[used..]);
            }
            if stream.stalled {
                break;
            }
        }
        // What waits keeps its window; all else is given back.
        let back = stream.withheld.saturating_sub(stream.rest.len());
        stream.withheld -= back;
        replies.credit(id, back);
        if stream.is_blocked() {
            return None;
        }
        if stream.turns.is_empty()
            && let Some(failure) = stream.failure.take()
        {
            return Some(self.fail_begun(id, stream, failure, replies));
        }
        if !stream.finished {
            // Such streams stay open for days. The client hears so between two events, and goes on elsewhere.
            let leaves = self.hook.drain.get() && self.hook.grace_is_over() && stream.is_at_rest();
            let status =
                || Status::new(Code::Unavailable, "this server shuts down; all that came is answered");
            return leaves.then(|| self.fail_begun(id, stream, status(), replies));
        }
        self.note(stream.call.endpoint(), 0);
        replies.trailers(id, &self.core.grpc.ok);
        Some(Stream::Answered)
    }

    fn send_answers(&mut self, id: StreamId, stream: &mut EventStream, replies: &mut Replies<'_>) {
        let core = Rc::clone(&self.core);
        let mut piece = core.body.borrow_mut();
        loop {
            piece.clear();
            if stream.is_blocked() {
                piece.append(&mut stream.unsent);
                stream.unsent = Vec::new();
            }
            stream.write_answers(&core, &mut piece);
            if piece.is_empty() {
                break;
            }
            let taken = replies.data(id, &piece, false);
            if taken < piece.len() {
                stream.unsent.extend_from_slice(&piece[taken..]);
                break;
            }
        }
        if stream.answered > 0 && !stream.flushing {
            stream.flushing = true;
            self.flushes.push((core.clock.now_ms() + stream.flush_interval_ms, id));
        }
    }

    /// The time to say how the stream is has come.
    pub(crate) fn flush(&mut self, id: StreamId, stream: &mut Stream, replies: &mut Replies<'_>) {
        let Stream::Events(events) = stream else { return };
        events.flushing = false;
        if events.answered == 0 || events.is_blocked() {
            return;
        }
        let mut piece = Vec::new();
        events.write_status(&mut piece, "flushed");
        let taken = replies.data(id, &piece, false);
        events.unsent.extend_from_slice(&piece[taken..]);
    }

    /// Takes events from `data`; returns how many bytes were used. What is no event ends the stream.
    fn take_events(&mut self, id: StreamId, stream: &mut EventStream, data: &[u8]) -> usize {
        let core = Rc::clone(&self.core);
        let (may_take, before) = (self.may_take_room(id), stream.count);
        (stream.stalled, stream.wants_room) = (false, false);
        let EventStream {
            call,
            deframer,
            turns,
            first,
            count,
            batch_size,
            flush_interval_ms,
            stalled,
            wants_room,
            ..
        } = stream;
        let mut inflater = core.inflater.borrow_mut();
        let mut failure = None;
        let used = deframer.feed(data, |message| {
            if turns.len() >= TURNS_MAX {
                *stalled = true;
                return Take::Hold;
            }
            let request = inflater
                .plain(message, call.encoding)
                .map_err(Failure::from)
                .and_then(|plain| read_streamed(plain).map_err(|error| Failure::from(Refusal::from(error))));
            match request {
                Ok(StreamedRequest::Event(_)) if !may_take => {
                    (*stalled, *wants_room) = (true, true);
                    return Take::Hold;
                }
                Ok(StreamedRequest::Event(event)) => {
                    let place = first.wrapping_add(turns.len() as u32);
                    let caller = || Caller { hook: Rc::clone(&self.hook), stream: id.get(), place };
                    match take_one(&core, event, call, *count, caller) {
                        Ok(Some(turn)) => turns.push_back(turn),
                        Ok(None) => {
                            (*stalled, *wants_room) = (true, true);
                            return Take::Hold;
                        }
                        Err(broken) => {
                            failure = Some(broken);
                            return Take::Stop;
                        }
                    }
                    *count += 1;
                }
                Ok(StreamedRequest::Config { batch_size: size, flush_interval_ms: interval_ms }) => {
                    let or_usual = |value: u64, usual: u64| if value == 0 { usual } else { value };
                    *batch_size = or_usual(size, BATCH_SIZE);
                    *flush_interval_ms = or_usual(interval_ms, FLUSH_INTERVAL_MS).max(FLUSH_INTERVAL_MS_MIN);
                    turns.push_back(Turn::Configured);
                }
                Ok(StreamedRequest::Nothing) => {}
                Err(broken) => {
                    failure = Some(broken);
                    return Take::Stop;
                }
            }
            Take::Next
        });
        self.had_its_turn(id, stream.wants_room, stream.count > before);
        let counted = self.count_split(&stream.deframer, &mut stream.counted);
        let mut failure = match (failure, used, counted) {
            (None, Ok(used), Ok(())) => return used,
            (Some(failure), ..) => failure,
            (None, Err(error), _) => Failure::from(error),
            (None, Ok(_), Err(refusal)) => Failure::from(refusal),
        };
        let text = &failure.status.message;
        failure.status.message = format!("message {}: {text}", stream.count).into();
        stream.fail(failure);
        data.len()
    }

    /// Ends a stream that has its head already with an error; what was accepted stays accepted.
    pub(super) fn fail_begun(
        &mut self,
        id: StreamId,
        stream: &EventStream,
        failure: impl Into<Failure>,
        replies: &mut Replies<'_>,
    ) -> Stream {
        let Failure { status, retry } = failure.into();
        self.note(stream.call.endpoint(), usize::from(status.code.number()));
        let mut block = Block::trailers();
        push_status(&mut block, &status, retry);
        replies.trailers(id, &block);
        Stream::Answered
    }
}

/// Takes an event. `None`: there is no room for it now.
fn take_one(
    core: &Core,
    event: &[u8],
    call: &EventCall,
    number: u64,
    caller: impl FnOnce() -> Caller,
) -> Result<Option<Turn>, Failure> {
    call.head.terms.admit(&core.shared.acks)?;
    let now_ms = events::now_ms(core);
    let rewritten;
    let (plain, bytes) = match decode_event(event, now_ms) {
        Some(plain) => (plain, event),
        None => match core.shared.events.rules.examine(event, &format!("events[{number}]")) {
            Examined::Good(bytes) => {
                rewritten = bytes;
                let plain = decode_event(&rewritten, now_ms);
                let odd = || Status::new(Code::Internal, "an event that is good and cannot be said plainly");
                (plain.ok_or_else(odd)?, rewritten.as_slice())
            }
            Examined::Bad(response) => return Ok(Some(Turn::Answer(response))),
            Examined::Broken(text) => return Err(Status::new(Code::Internal, text).into()),
        },
    };
    Ok(match events::take_streamed(core, &plain, bytes, &call.head, caller) {
        Streamed::Stored(id) => Some(Turn::Stored { id, duplicate: false, since_ns: core.clock.now_ns() }),
        Streamed::Waits => Some(Turn::Waiting),
        Streamed::NoRoom => None,
        Streamed::Refused(id, refusal) => Some(Turn::Refused { id, refusal }),
    })
}

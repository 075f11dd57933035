//! `analytics.v1` `StreamEvents`: events on a stream, each answered in its order.

use std::collections::VecDeque;

use anyhow::{Result, bail};

use super::{
    frame::{self, Header, PAYLOAD_BYTES_MAX, flag, kind},
    link::{Event, Link},
    unary::{grpc_block, write_on_stream},
};
use crate::{drive::Conversation, events::Events, message::GRPC_PREFIX_BYTES, outcome::Outcome};

/// One stream on one connection.
pub struct EventStreaming {
    link: Link,
    first: Vec<u8>,
    events: Events,
    frame_events: usize,
    /// Events whose answer may be under way.
    in_flight_max: usize,
    /// When each of them went out.
    sent_ns: VecDeque<u64>,
    is_open: bool,
    is_ended: bool,
    window: i64,
    status: u16,
    /// Bytes of answers whose window was not given back.
    unreturned: u32,
    /// Answers that are not complete.
    answers: Vec<u8>,
}

const STREAM: u32 = 1;
/// The stream's window is given back in pieces of this size.
const WINDOW_KEPT_BYTES: u32 = 1 << 20;

impl EventStreaming {
    /// A stream with `frame_events` events in a DATA frame and at most `in_flight` of them not answered.
    ///
    /// # Errors
    /// When so many events are larger than a DATA frame.
    pub fn new(
        authority: &str,
        path: &str,
        events: Events,
        frame_events: usize,
        in_flight: usize,
    ) -> Result<Self> {
        let block = grpc_block(authority, path);
        let mut first = Vec::new();
        frame::write(&mut first, kind::HEADERS, flag::END_HEADERS, 0, &block.first);
        let frame_events = frame_events.max(1);
        if frame_events * events.frame_bytes() > PAYLOAD_BYTES_MAX {
            bail!("{frame_events} events do not fit into a DATA frame");
        }
        Ok(Self {
            link: Link::default(),
            first,
            events,
            frame_events,
            in_flight_max: in_flight.max(frame_events),
            sent_ns: VecDeque::new(),
            is_open: false,
            is_ended: false,
            window: 0,
            status: 0,
            unreturned: 0,
            answers: Vec::new(),
        })
    }

    fn frame_bytes(&self) -> i64 {
        (self.frame_events * self.events.frame_bytes()) as i64
    }

    /// Counts the complete answers.
    fn count_answers(&mut self, now_ns: u64, outcome: &mut Outcome) {
        let mut at = 0;
        while let Some(prefix) = self.answers.get(at..at + GRPC_PREFIX_BYTES) {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            let start = at + GRPC_PREFIX_BYTES;
            let Some(answer) = self.answers.get(start..start + length) else { break };
            at = start + length;
            // Field 1 is the answer to an event, field 2 a status of the stream.
            if answer.first() != Some(&0x0a) {
                continue;
            }
            if let Some(sent_ns) = self.sent_ns.pop_front() {
                outcome.took(now_ns.saturating_sub(sent_ns));
            }
            // Behind the tag its length, in one or two bytes; then field 1, `success`, which is written when true.
            let success = if answer.get(1).is_some_and(|length| *length < 0x80) { 2 } else { 3 };
            if answer.get(success..success + 2) == Some(&[0x08, 0x01]) {
                outcome.accepted += 1;
            } else {
                outcome.refused += 1;
                outcome.trouble(|| "an event was not taken".to_owned());
            }
        }
        self.answers.drain(..at);
    }
}

impl Conversation for EventStreaming {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.link.open(out);
    }

    fn is_ready(&self) -> bool {
        let frame_bytes = self.frame_bytes();
        let window = if self.is_open { self.window } else { self.link.stream_window };
        self.link.is_ready()
            && !self.is_ended
            && self.link.send_window >= frame_bytes
            && window >= frame_bytes
            && self.sent_ns.len() + self.frame_events <= self.in_flight_max
    }

    fn send(&mut self, intended_ns: u64, max: u64, out: &mut Vec<u8>) -> u64 {
        if !self.is_open {
            write_on_stream(out, &self.first, STREAM);
            self.is_open = true;
            self.window = self.link.stream_window;
        }
        let count = (self.frame_events as u64).min(max);
        let len = count as usize * self.events.frame_bytes();
        out.extend_from_slice(&Header { len, kind: kind::DATA, flags: 0, stream: STREAM }.encode());
        for _ in 0..count {
            self.events.write(out);
            self.sent_ns.push_back(intended_ns);
        }
        self.window -= len as i64;
        self.link.send_window -= len as i64;
        count
    }

    /// The stream stays open for the next run; its answers come by themselves.
    fn finish(&mut self, _out: &mut Vec<u8>) {}

    fn receive(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
        outcome: &mut Outcome,
    ) -> Result<usize> {
        let Self { link, window, answers, status, is_ended, unreturned, .. } = self;
        let used = link.receive(bytes, out, |event| {
            match event {
                Event::Headers { fields, is_end, .. } => {
                    *status = fields.status.unwrap_or(*status);
                    if is_end {
                        *is_ended = true;
                        outcome
                            .trouble(|| format!("the stream ended: HTTP {status}, gRPC {:?}", fields.grpc));
                    }
                }
                Event::Data { payload, .. } => {
                    *unreturned += payload.len() as u32;
                    answers.extend_from_slice(payload);
                }
                Event::Reset { code, .. } => {
                    *is_ended = true;
                    outcome.trouble(|| format!("stream reset, code {code}"));
                }
                Event::Window { increment, .. } => *window += i64::from(increment),
                Event::InitialWindow { delta } => *window += delta,
                Event::GoAway { .. } => *is_ended = true,
            }
            Ok(())
        })?;
        if self.unreturned > WINDOW_KEPT_BYTES {
            frame::write_window_update(out, STREAM, self.unreturned);
            self.unreturned = 0;
        }
        self.count_answers(now_ns, outcome);
        Ok(used)
    }

    fn is_waiting(&self) -> bool {
        !self.sent_ns.is_empty() && !self.is_ended
    }

    fn close(&mut self, outcome: &mut Outcome) {
        outcome.unanswered += self.sent_ns.len() as u64;
        self.sent_ns.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let framed = [&[0, 0, 0, 0, payload.len() as u8], payload].concat();
        frame::write(&mut bytes, kind::DATA, 0, STREAM, &framed);
        bytes
    }

    #[test]
    fn answers_make_room_for_more_and_are_counted_by_what_they_say() {
        let mut stream = EventStreaming::new("a", "/x", Events::next_run(), 2, 4).unwrap();
        let mut outcome = Outcome::default();
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind::SETTINGS, 0, 0, &[]);
        stream.receive(&bytes, 0, &mut Vec::new(), &mut outcome).unwrap();
        let mut out = Vec::new();
        assert_eq!(stream.send(0, 9, &mut out) + stream.send(0, 9, &mut out), 4);
        assert!(!stream.is_ready() && stream.is_waiting());
        for payload in [&b"\x0a\x02\x08\x01"[..], b"\x12\x02\x08\x01", b"\x0a\x03\x12\x01x"] {
            stream.receive(&answer(payload), 7, &mut Vec::new(), &mut outcome).unwrap();
        }
        assert_eq!((outcome.accepted, outcome.refused), (1, 1));
        assert!(stream.is_ready());
        stream.close(&mut outcome);
        assert_eq!(outcome.unanswered, 2);
    }
}

//! gRPC client streaming: many messages on a stream, one answer with their count at its end.
//!
//! A message counts as accepted when the stream's answer names it in its `batch-<count>`. A stream that ends with
//! another status is counted as refused or failed with all of its messages, although the server may have taken the
//! first of them: the client has no word for it.

use anyhow::{Result, bail};
use prost::Message as _;
use tidegate_proto::diplom::v1::IngestResponse;

use super::{
    frame::{self, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX, flag, kind},
    link::{Event, Link},
    unary::{REFUSED_STREAM, STREAM_ID_MAX, grpc_block, write_on_stream},
};
use crate::{drive::Conversation, message::GRPC_PREFIX_BYTES, outcome::Outcome};

/// The answer is one small message; what is longer is not kept.
const ANSWER_BYTES_MAX: usize = 4096;

/// Streams of one kind on one connection.
pub struct Streaming {
    link: Link,
    first: Vec<u8>,
    later: Vec<u8>,
    /// As many messages as go into one DATA frame.
    batch: Vec<u8>,
    message_bytes: usize,
    /// Messages on a stream before it is ended and the next one opened.
    stream_messages: u64,
    lanes: Vec<Lane>,
    next_lane: usize,
    next_id: u32,
    is_finishing: bool,
}

/// One of the streams that are open at a time.
#[derive(Debug, Default)]
struct Lane {
    /// 0 while no stream is open.
    id: u32,
    window: i64,
    sent: u64,
    opened_ns: u64,
    is_ended: bool,
    status: u16,
    answer: Vec<u8>,
}

impl Streaming {
    /// A connection that keeps `streams` streams going, with `frame_messages` messages in a DATA frame.
    ///
    /// # Errors
    /// When so many messages are larger than a DATA frame.
    pub fn new(
        authority: &str,
        path: &str,
        message: &[u8],
        frame_messages: usize,
        stream_messages: u64,
        streams: usize,
    ) -> Result<Self> {
        let block = grpc_block(authority, path);
        let headers = |block: &[u8]| {
            let mut bytes = Vec::new();
            frame::write(&mut bytes, kind::HEADERS, flag::END_HEADERS, 0, block);
            bytes
        };
        let batch = message.repeat(frame_messages.max(1));
        if batch.len() > PAYLOAD_BYTES_MAX {
            bail!("{frame_messages} messages of {} bytes do not fit into a DATA frame", message.len());
        }
        Ok(Self {
            link: Link::default(),
            first: headers(&block.first),
            later: headers(&block.later),
            batch,
            message_bytes: message.len(),
            stream_messages: stream_messages.max(1),
            lanes: (0..streams.max(1)).map(|_| Lane::default()).collect(),
            next_lane: 0,
            next_id: 1,
            is_finishing: false,
        })
    }

    /// The next stream in turn that may send a DATA frame.
    fn sendable(&self) -> Option<usize> {
        let frame_bytes = self.batch.len() as i64;
        if self.is_finishing || self.link.send_window < frame_bytes {
            return None;
        }
        let count = self.lanes.len();
        (0..count).map(|step| (self.next_lane + step) % count).find(|index| {
            let lane = &self.lanes[*index];
            if lane.id != 0 {
                return !lane.is_ended && lane.window >= frame_bytes;
            }
            // Positions beyond the server's limit are simply not used.
            *index < self.link.streams_max
                && self.link.is_ready()
                && self.link.stream_window >= frame_bytes
                && self.next_id < STREAM_ID_MAX
        })
    }

    fn end_streams(&mut self, out: &mut Vec<u8>) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.id != 0 && !lane.is_ended) {
            frame::write(out, kind::DATA, flag::END_STREAM, lane.id, &[]);
            lane.is_ended = true;
        }
    }
}

impl Conversation for Streaming {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.link.open(out);
    }

    fn is_ready(&self) -> bool {
        self.sendable().is_some() || (self.is_finishing && self.link.is_ready() && !self.is_waiting())
    }

    fn send(&mut self, intended_ns: u64, max: u64, out: &mut Vec<u8>) -> u64 {
        // A run that follows a finished one opens new streams.
        self.is_finishing = false;
        let Some(index) = self.sendable() else { return 0 };
        self.next_lane = (index + 1) % self.lanes.len();
        let lane = &mut self.lanes[index];
        if lane.id == 0 {
            let headers = if self.next_id == 1 { &self.first } else { &self.later };
            write_on_stream(out, headers, self.next_id);
            lane.id = self.next_id;
            lane.window = self.link.stream_window;
            lane.sent = 0;
            lane.opened_ns = intended_ns;
            lane.is_ended = false;
            lane.status = 0;
            lane.answer.clear();
            self.next_id += 2;
        }
        let in_frame = (self.batch.len() / self.message_bytes) as u64;
        let count = in_frame.min(max).min(self.stream_messages - lane.sent);
        let payload = &self.batch[..count as usize * self.message_bytes];
        lane.sent += count;
        lane.window -= payload.len() as i64;
        self.link.send_window -= payload.len() as i64;
        lane.is_ended = lane.sent == self.stream_messages;
        let flags = if lane.is_ended { flag::END_STREAM } else { 0 };
        let header = Header { len: payload.len(), kind: kind::DATA, flags, stream: lane.id };
        debug_assert!(header.encode().len() == HEADER_BYTES);
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
        count
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.is_finishing = true;
        self.end_streams(out);
    }

    fn receive(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
        outcome: &mut Outcome,
    ) -> Result<usize> {
        let Self { link, lanes, next_id, .. } = self;
        let was_leaving = link.is_leaving;
        let mut cancelled = Vec::new();
        let used = link.receive(bytes, out, |event| {
            let stream = match event {
                Event::Headers { stream, .. }
                | Event::Data { stream, .. }
                | Event::Reset { stream, .. }
                | Event::Window { stream, .. } => stream,
                Event::InitialWindow { delta } => {
                    lanes.iter_mut().for_each(|lane| lane.window += delta);
                    return Ok(());
                }
                Event::GoAway { last_stream } => {
                    for lane in lanes.iter_mut().filter(|lane| lane.id > last_stream) {
                        outcome.never_taken += lane.sent;
                        lane.id = 0;
                    }
                    return Ok(());
                }
            };
            if stream >= *next_id || stream == 0 {
                bail!("a frame for stream {stream}, which was never opened");
            }
            // Late frames on a stream that is done are allowed.
            let Some(lane) = lanes.iter_mut().find(|lane| lane.id == stream) else { return Ok(()) };
            match event {
                Event::Headers { fields, is_end, .. } => {
                    lane.status = fields.status.unwrap_or(lane.status);
                    if is_end {
                        lane.settle(fields.grpc, now_ns, outcome, &mut cancelled);
                    }
                }
                Event::Data { payload, is_end, .. } => {
                    if lane.answer.len() + payload.len() <= ANSWER_BYTES_MAX {
                        lane.answer.extend_from_slice(payload);
                    }
                    if is_end {
                        lane.settle(None, now_ns, outcome, &mut cancelled);
                    }
                }
                Event::Reset { code, .. } => {
                    outcome.trouble(|| format!("stream reset, code {code}"));
                    if code == REFUSED_STREAM {
                        outcome.never_taken += lane.sent
                    } else {
                        outcome.failed += lane.sent
                    }
                    lane.id = 0;
                }
                Event::Window { increment, .. } => lane.window += i64::from(increment),
                Event::InitialWindow { .. } | Event::GoAway { .. } => {}
            }
            Ok(())
        })?;
        for stream in cancelled {
            // Code 8, CANCEL: the answer came before the end of the request.
            frame::write(out, kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        }
        if self.link.is_leaving && !was_leaving {
            outcome.goodbyes += 1;
        }
        if self.link.is_leaving {
            self.end_streams(out);
        }
        Ok(used)
    }

    fn is_waiting(&self) -> bool {
        self.lanes.iter().any(|lane| lane.id != 0)
    }

    fn close(&mut self, outcome: &mut Outcome) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.id != 0) {
            outcome.unanswered += lane.sent;
            lane.id = 0;
        }
    }
}

impl Lane {
    /// The stream's answer is complete.
    fn settle(&mut self, grpc: Option<u8>, now_ns: u64, outcome: &mut Outcome, cancelled: &mut Vec<u32>) {
        if !self.is_ended {
            cancelled.push(self.id);
        }
        self.id = 0;
        outcome.took(now_ns.saturating_sub(self.opened_ns));
        if self.status != 200 || grpc != Some(0) {
            outcome.grpc_refusal(grpc, self.status, self.sent);
            return;
        }
        match batch_count(&self.answer) {
            Some(count) if count <= self.sent => {
                outcome.accepted += count;
                outcome.unanswered += self.sent - count;
                if count < self.sent {
                    let sent = self.sent;
                    outcome.trouble(|| format!("a stream of {sent} messages was answered batch-{count}"));
                }
            }
            _ => {
                outcome.failed += self.sent;
                outcome
                    .trouble(|| format!("a stream's answer names no possible count: {:02x?}", self.answer));
            }
        }
    }
}

/// `n` of a framed `IngestResponse` with the id `batch-n`.
fn batch_count(answer: &[u8]) -> Option<u64> {
    let response = IngestResponse::decode(answer.get(GRPC_PREFIX_BYTES..)?).ok()?;
    response.message_id.strip_prefix("batch-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    fn ready(frame_messages: usize, stream_messages: u64, streams: usize) -> Streaming {
        let mut streaming =
            Streaming::new("a", "/x", &[7; 100], frame_messages, stream_messages, streams).unwrap();
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind::SETTINGS, 0, 0, &[]);
        streaming.receive(&bytes, 0, &mut Vec::new(), &mut Outcome::default()).unwrap();
        streaming
    }

    fn answer(stream: u32, count: u64) -> Vec<u8> {
        let response =
            IngestResponse { message_id: format!("batch-{count}"), status: "completed".to_owned() };
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind::HEADERS, flag::END_HEADERS, stream, &[0x88]);
        frame::write(&mut bytes, kind::DATA, 0, stream, &message::frame(&response));
        let trailers = [&[0x00, 11], b"grpc-status".as_slice(), b"\x010"].concat();
        frame::write(&mut bytes, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &trailers);
        bytes
    }

    #[test]
    fn full_stream_is_ended_and_its_count_believed() {
        let mut streaming = ready(4, 10, 1);
        let mut out = Vec::new();
        let mut outcome = Outcome::default();
        while streaming.is_ready() {
            outcome.sent += streaming.send(0, 100, &mut out);
        }
        assert_eq!(outcome.sent, 10);
        streaming.receive(&answer(1, 10), 5, &mut out, &mut outcome).unwrap();
        assert!(outcome.is_clean() && streaming.is_ready());
    }

    #[test]
    fn window_withheld_stops_the_stream_and_an_update_resumes_it() {
        let mut streaming = ready(100, u64::MAX, 1);
        let mut sent = 0;
        while streaming.is_ready() {
            sent += streaming.send(0, u64::MAX, &mut Vec::new());
        }
        assert_eq!(sent, 600);
        let mut bytes = Vec::new();
        frame::write_window_update(&mut bytes, 0, 20_000);
        streaming.receive(&bytes, 0, &mut Vec::new(), &mut Outcome::default()).unwrap();
        assert!(!streaming.is_ready());
        bytes.clear();
        frame::write_window_update(&mut bytes, 1, 20_000);
        streaming.receive(&bytes, 0, &mut Vec::new(), &mut Outcome::default()).unwrap();
        assert!(streaming.is_ready());
    }

    #[test]
    fn goodbye_ends_open_streams_and_waits_for_their_counts() {
        let mut streaming = ready(1, 100, 1);
        let mut outcome = Outcome::default();
        outcome.sent += streaming.send(0, 9, &mut Vec::new());
        outcome.sent += streaming.send(0, 9, &mut Vec::new());
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind::GOAWAY, 0, 0, &[0x7f, 255, 255, 255, 0, 0, 0, 0]);
        let mut out = Vec::new();
        streaming.receive(&bytes, 0, &mut out, &mut outcome).unwrap();
        assert_eq!(Header::parse(&out).unwrap().flags, flag::END_STREAM);
        assert!(!streaming.is_ready() && streaming.is_waiting());
        streaming.receive(&answer(1, 2), 5, &mut out, &mut outcome).unwrap();
        assert!(outcome.is_clean() && outcome.goodbyes == 1);
    }

    #[test]
    fn short_count_is_not_taken_for_the_whole() {
        let mut streaming = ready(1, 3, 1);
        let mut outcome = Outcome::default();
        (0..3).for_each(|_| outcome.sent += streaming.send(0, 9, &mut Vec::new()));
        streaming.receive(&answer(1, 2), 5, &mut Vec::new(), &mut outcome).unwrap();
        assert_eq!((outcome.accepted, outcome.unanswered), (2, 1));
    }
}

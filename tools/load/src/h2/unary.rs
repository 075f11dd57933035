//! One request per stream: h2c with a JSON body, or gRPC unary.

use std::collections::VecDeque;

use anyhow::{Result, bail};

use super::{
    block::RequestBlock,
    frame::{self, HEADER_BYTES, PAYLOAD_BYTES_MAX, flag, kind},
    link::{Event, Link},
};
use crate::{drive::Conversation, outcome::Outcome};

/// Stream ids end at 2³¹; a connection that comes near opens no more.
pub(super) const STREAM_ID_MAX: u32 = 0x7fff_fff0;

/// RST_STREAM code: the server did not look at the request.
pub(super) const REFUSED_STREAM: u32 = 7;

/// A request as the two frames it is sent in; the stream ids in them are patched at every send.
#[derive(Clone, Debug)]
pub struct Call {
    first: Vec<u8>,
    later: Vec<u8>,
    body_bytes: usize,
    table_bytes: usize,
    is_grpc: bool,
}

impl Call {
    /// `POST path` with a JSON body.
    pub fn json(authority: &str, path: &str, body: &[u8]) -> Self {
        let length = body.len().to_string();
        let fields = [
            ("content-type", "application/json"),
            ("content-length", &length),
            ("user-agent", "tidegate-load"),
        ];
        Self::new(&RequestBlock::post(authority, path, &fields), body, false)
    }

    /// A gRPC call with one message, which has its prefix already.
    pub fn grpc(authority: &str, path: &str, message: &[u8]) -> Self {
        Self::new(&grpc_block(authority, path), message, true)
    }

    fn new(block: &RequestBlock, body: &[u8], is_grpc: bool) -> Self {
        debug_assert!(body.len() <= PAYLOAD_BYTES_MAX, "one DATA frame");
        let request = |block: &[u8]| {
            let mut bytes = Vec::new();
            frame::write(&mut bytes, kind::HEADERS, flag::END_HEADERS, 0, block);
            frame::write(&mut bytes, kind::DATA, flag::END_STREAM, 0, body);
            bytes
        };
        Self {
            first: request(&block.first),
            later: request(&block.later),
            body_bytes: body.len(),
            table_bytes: block.table_bytes,
            is_grpc,
        }
    }
}

/// The header fields of every gRPC call of this client.
pub(super) fn grpc_block(authority: &str, path: &str) -> RequestBlock {
    let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "tidegate-load")];
    RequestBlock::post(authority, path, &fields)
}

/// Writes the frames of a request with their stream id.
pub(super) fn write_on_stream(out: &mut Vec<u8>, frames: &[u8], stream: u32) {
    let mut at = out.len();
    out.extend_from_slice(frames);
    while at < out.len() {
        let len = u32::from_be_bytes([0, out[at], out[at + 1], out[at + 2]]) as usize;
        out[at + 5..at + HEADER_BYTES].copy_from_slice(&stream.to_be_bytes());
        at += HEADER_BYTES + len;
    }
}

/// Requests of one kind on one connection, up to a depth of them unanswered.
pub struct Unary {
    link: Link,
    call: Call,
    depth: usize,
    requests: Requests,
}

impl Unary {
    /// A connection that keeps `depth` requests under way.
    pub fn new(call: Call, depth: usize) -> Self {
        let requests = Requests { open: VecDeque::with_capacity(2 * depth), front_id: 1, waiting: 0 };
        Self { link: Link::default(), call, depth, requests }
    }
}

/// Streams from the oldest unanswered one to the newest. Ids follow each other, so an id is a position.
struct Requests {
    open: VecDeque<Request>,
    front_id: u32,
    waiting: usize,
}

#[derive(Clone, Copy)]
struct Request {
    sent_ns: u64,
    status: u16,
    is_settled: bool,
}

impl Requests {
    fn next_id(&self) -> u32 {
        self.front_id + 2 * self.open.len() as u32
    }

    fn push(&mut self, sent_ns: u64) {
        self.open.push_back(Request { sent_ns, status: 0, is_settled: false });
        self.waiting += 1;
    }

    /// The request of a stream, unless it is answered already.
    fn find(&mut self, stream: u32) -> Option<&mut Request> {
        let position = stream.checked_sub(self.front_id)? / 2;
        self.open.get_mut(position as usize).filter(|request| !request.is_settled)
    }

    /// Takes a request out as answered.
    fn settle(&mut self, stream: u32) -> Option<Request> {
        let request = self.find(stream)?;
        request.is_settled = true;
        let request = *request;
        self.waiting -= 1;
        while self.open.front().is_some_and(|request| request.is_settled) {
            self.open.pop_front();
            self.front_id += 2;
        }
        Some(request)
    }

    /// Takes out every request beyond a stream; returns how many.
    fn settle_beyond(&mut self, last_stream: u32) -> u64 {
        let mut count = 0;
        let (mut stream, end) = (self.front_id, self.next_id());
        while stream < end {
            if stream > last_stream && self.settle(stream).is_some() {
                count += 1;
            }
            stream += 2;
        }
        count
    }
}

impl Conversation for Unary {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.link.open(out);
    }

    fn is_ready(&self) -> bool {
        self.requests.waiting < self.depth.min(self.link.streams_max)
            && self.link.is_ready()
            && self.link.send_window >= self.call.body_bytes as i64
            && self.link.stream_window >= self.call.body_bytes as i64
            && self.requests.next_id() < STREAM_ID_MAX
    }

    fn send(&mut self, intended_ns: u64, _max: u64, out: &mut Vec<u8>) -> u64 {
        let stream = self.requests.next_id();
        let frames = if stream == 1 { &self.call.first } else { &self.call.later };
        write_on_stream(out, frames, stream);
        self.link.send_window -= self.call.body_bytes as i64;
        self.requests.push(intended_ns);
        1
    }

    fn finish(&mut self, _out: &mut Vec<u8>) {}

    fn receive(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
        outcome: &mut Outcome,
    ) -> Result<usize> {
        let Self { link, call, requests, .. } = self;
        let was_leaving = link.is_leaving;
        let used = link.receive(bytes, out, |event| {
            match event {
                Event::Headers { stream, fields, is_end } => {
                    let Some(request) = requests.find(stream) else { return unknown(requests, stream) };
                    if let Some(status) = fields.status {
                        // An interim answer (1xx) is not the answer.
                        request.status = status;
                    }
                    if is_end {
                        settle(requests, stream, call.is_grpc, fields.grpc, now_ns, outcome);
                    }
                }
                Event::Data { stream, is_end, .. } => {
                    if requests.find(stream).is_none() {
                        return unknown(requests, stream);
                    }
                    if is_end {
                        settle(requests, stream, call.is_grpc, None, now_ns, outcome);
                    }
                }
                Event::Reset { stream, code } => {
                    // A reset behind a complete answer only says that the rest of the request was not needed.
                    if requests.settle(stream).is_some() {
                        outcome.trouble(|| format!("stream reset, code {code}"));
                        if code == REFUSED_STREAM { outcome.never_taken += 1 } else { outcome.failed += 1 }
                    }
                }
                Event::GoAway { last_stream } => outcome.never_taken += requests.settle_beyond(last_stream),
                Event::Window { .. } | Event::InitialWindow { .. } => {}
            }
            Ok(())
        })?;
        if link.is_leaving && !was_leaving {
            outcome.goodbyes += 1;
        }
        if link.table_bytes < call.table_bytes {
            bail!("the server's header table holds {} bytes, too few for this client", link.table_bytes);
        }
        Ok(used)
    }

    fn is_waiting(&self) -> bool {
        self.requests.waiting > 0
    }

    fn close(&mut self, outcome: &mut Outcome) {
        outcome.unanswered += self.requests.settle_beyond(0);
    }
}

/// A frame for a stream that is not waiting: late ones after a reset are allowed, for streams never opened not.
fn unknown(requests: &Requests, stream: u32) -> Result<()> {
    if stream == 0 || stream.is_multiple_of(2) || stream >= requests.next_id() {
        bail!("a frame for stream {stream}, which was never opened");
    }
    Ok(())
}

fn settle(
    requests: &mut Requests,
    stream: u32,
    is_grpc: bool,
    grpc: Option<u8>,
    now_ns: u64,
    outcome: &mut Outcome,
) {
    let Some(request) = requests.settle(stream) else { return };
    outcome.took(now_ns.saturating_sub(request.sent_ns));
    if !is_grpc {
        outcome.http(request.status);
    } else if request.status == 200 && grpc == Some(0) {
        outcome.accepted += 1;
    } else {
        outcome.grpc_refusal(grpc, request.status, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(call: Call, depth: usize) -> Unary {
        let mut unary = Unary::new(call, depth);
        let mut settings = Vec::new();
        frame::write(&mut settings, kind::SETTINGS, 0, 0, &[]);
        unary.receive(&settings, 0, &mut Vec::new(), &mut Outcome::default()).unwrap();
        unary
    }

    fn answer(list: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        list.iter().for_each(|(kind, flags, stream, payload)| {
            frame::write(&mut bytes, *kind, *flags, *stream, payload)
        });
        bytes
    }

    #[test]
    fn every_request_carries_its_own_stream_id() {
        let mut unary = ready(Call::json("a", "/x", b"{}"), 2);
        let mut out = Vec::new();
        unary.send(0, 1, &mut out);
        let first = out.len();
        unary.send(0, 1, &mut out);
        assert!(!unary.is_ready());
        let header = frame::Header::parse(&out[first..]).unwrap();
        assert_eq!((header.kind, header.stream), (kind::HEADERS, 3));
        let data = frame::Header::parse(&out[first + HEADER_BYTES + header.len..]).unwrap();
        assert_eq!((data.kind, data.flags, data.stream, data.len), (kind::DATA, flag::END_STREAM, 3, 2));
        assert!(out.len() - first < first);
    }

    #[test]
    fn answers_out_of_order_are_all_counted() {
        let mut unary = ready(Call::json("a", "/x", b"{}"), 3);
        let mut outcome = Outcome::default();
        (0..3).for_each(|at| outcome.sent += unary.send(at, 1, &mut Vec::new()));
        let both = flag::END_HEADERS | flag::END_STREAM;
        for stream in [5, 1, 3] {
            let bytes = answer(&[(kind::HEADERS, both, stream, &[0x88])]);
            unary.receive(&bytes, 10, &mut Vec::new(), &mut outcome).unwrap();
        }
        assert!(outcome.is_clean() && !unary.is_waiting());
        assert_eq!(unary.requests.next_id(), 7);
    }

    #[test]
    fn grpc_answer_without_a_status_is_a_failure() {
        let mut unary = ready(Call::grpc("a", "/x", b"\0\0\0\0\0"), 3);
        let mut outcome = Outcome::default();
        (0..3).for_each(|at| outcome.sent += unary.send(at, 1, &mut Vec::new()));
        let exhausted = [&[0x88, 0x40, 11], b"grpc-status".as_slice(), b"\x018"].concat();
        let both = flag::END_HEADERS | flag::END_STREAM;
        let bytes = answer(&[
            (kind::HEADERS, flag::END_HEADERS, 1, &[0x88]),
            (kind::DATA, flag::END_STREAM, 1, b"\0\0\0\0\0"),
            (kind::HEADERS, both, 3, &exhausted),
            (kind::HEADERS, both, 5, &[0x88, 0x0f, 0x2f, 1, b'0']),
        ]);
        unary.receive(&bytes, 10, &mut Vec::new(), &mut outcome).unwrap();
        assert_eq!((outcome.failed, outcome.refused, outcome.accepted), (1, 1, 1));
        assert!(outcome.adds_up());
    }

    #[test]
    fn goaway_tells_untaken_requests_from_unanswered_ones() {
        let mut unary = ready(Call::json("a", "/x", b"{}"), 4);
        let mut outcome = Outcome::default();
        (0..4).for_each(|at| outcome.sent += unary.send(at, 1, &mut Vec::new()));
        let bytes = answer(&[(kind::GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0])]);
        unary.receive(&bytes, 10, &mut Vec::new(), &mut outcome).unwrap();
        assert!(!unary.is_ready() && unary.is_waiting());
        unary.close(&mut outcome);
        assert_eq!((outcome.never_taken, outcome.unanswered, outcome.goodbyes), (1, 3, 1));
        assert!(outcome.adds_up());
    }

    #[test]
    fn frame_for_a_stream_never_opened_is_a_fault() {
        let mut unary = ready(Call::json("a", "/x", b"{}"), 1);
        let bytes = answer(&[(kind::HEADERS, flag::END_HEADERS, 1, &[0x88])]);
        assert!(unary.receive(&bytes, 0, &mut Vec::new(), &mut Outcome::default()).is_err());
    }
}

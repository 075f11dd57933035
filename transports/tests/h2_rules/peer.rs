//! A client made by hand, an application that writes down its calls, and a connection between them.

use std::sync::Arc;

use transports::h2::frame::{FrameHeader, PREFACE, flag, kind};
use transports::h2::{
    Application, Block, Connection, ConnectionError, Credit, ErrorCode, Fields, Limits, Replies, RequestHead,
    Reset, StreamId, Work,
};

/// A call of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open(u32, String, bool),
    Data(u32, Vec<u8>, bool),
    Trailers(u32, usize),
    Reset(u32, ErrorCode, bool),
    Closed(u32),
    Refused(u32, ErrorCode),
}

/// When requests are answered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    AtTheEnd,
    AtOnce,
    Never,
}

pub(crate) struct App {
    pub(crate) calls: Vec<Call>,
    pub(crate) classified: usize,
    pub(crate) answer: Answer,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: bool,
    pub(crate) later: bool,
    pub(crate) work: Work,
}

impl App {
    /// Sends the body from where it stopped. The stream's state is how much is sent.
    fn answer(&mut self, id: StreamId, sent: &mut usize, replies: &mut Replies<'_>) {
        let rest = &self.body[*sent..];
        *sent += replies.data(id, rest, !self.trailers);
        if *sent == self.body.len() && self.trailers {
            replies.trailers(id, &Block::trailers().field("grpc-status", "0"));
        }
    }

    fn begin(&mut self, id: StreamId, sent: &mut usize, replies: &mut Replies<'_>) {
        replies.head(id, &Block::new(200), false);
        self.answer(id, sent, replies);
    }
}

impl Application for App {
    type Head = String;
    type Stream = usize;

    fn classify(&mut self, head: &RequestHead<'_>) -> String {
        self.classified += 1;
        String::from_utf8_lossy(head.path()).into_owned()
    }

    fn open(&mut self, id: StreamId, head: &String, end_stream: bool, replies: &mut Replies<'_>) -> usize {
        self.calls.push(Call::Open(id.get(), head.clone(), end_stream));
        let mut sent = 0;
        if self.answer == Answer::AtOnce || (end_stream && self.answer == Answer::AtTheEnd) {
            self.begin(id, &mut sent, replies);
        }
        sent
    }

    fn data(
        &mut self,
        id: StreamId,
        sent: &mut usize,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Credit {
        self.calls.push(Call::Data(id.get(), data.to_vec(), end_stream));
        if end_stream && self.answer == Answer::AtTheEnd {
            self.begin(id, sent, replies);
        }
        if self.later { Credit::Later } else { Credit::Now }
    }

    fn trailers(&mut self, id: StreamId, sent: &mut usize, fields: Fields<'_>, replies: &mut Replies<'_>) {
        self.calls.push(Call::Trailers(id.get(), fields.count()));
        if self.answer == Answer::AtTheEnd {
            self.begin(id, sent, replies);
        }
    }

    fn reset(&mut self, id: StreamId, _: usize, why: Reset) -> Work {
        self.calls.push(Call::Reset(id.get(), why.code, why.by_client));
        self.work
    }

    fn closed(&mut self, id: StreamId, _: usize) {
        self.calls.push(Call::Closed(id.get()));
    }

    fn writable(&mut self, id: StreamId, sent: &mut usize, replies: &mut Replies<'_>) {
        self.answer(id, sent, replies);
    }

    fn refused(&mut self, id: StreamId, code: ErrorCode, _: &'static str) {
        self.calls.push(Call::Refused(id.get(), code));
    }
}

/// A frame that came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        self.flags & flag::END_STREAM != 0
    }

    /// The 32-bit number that RST_STREAM and WINDOW_UPDATE consist of.
    pub(crate) fn number(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

pub(crate) struct Talk {
    pub(crate) connection: Connection<App>,
    pub(crate) app: App,
    pub(crate) out: Vec<u8>,
    pub(crate) now_ms: u64,
}

impl Talk {
    /// Behind the preface and both SETTINGS.
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let mut talk = Self::before_preface(limits);
        let input = [PREFACE.as_slice(), &settings(&[]), &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat();
        talk.send(&input).unwrap();
        talk.out.clear();
        talk
    }

    pub(crate) fn before_preface(limits: Limits) -> Self {
        Talk {
            connection: Connection::new(Arc::new(limits)),
            app: App {
                calls: Vec::new(),
                classified: 0,
                answer: Answer::AtTheEnd,
                body: b"ok".to_vec(),
                trailers: false,
                later: false,
                work: Work::Ended,
            },
            out: Vec::new(),
            now_ms: 0,
        }
    }

    /// Sends whole frames.
    pub(crate) fn send(&mut self, input: &[u8]) -> Result<(), ConnectionError> {
        let taken = self.connection.receive(input, self.now_ms, &mut self.app, &mut self.out)?;
        assert_eq!(taken, input.len(), "a whole frame was left");
        Ok(())
    }

    /// What came out since the last call.
    pub(crate) fn frames(&mut self) -> Vec<Frame> {
        parse(&std::mem::take(&mut self.out))
    }

    pub(crate) fn calls(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.app.calls)
    }

    /// Expects the connection to end with this code, and GOAWAY to be the last frame.
    #[track_caller]
    pub(crate) fn dies(&mut self, input: &[u8], code: ErrorCode) {
        let error = self.connection.receive(input, self.now_ms, &mut self.app, &mut self.out).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        let last = self.frames().pop().unwrap();
        assert_eq!(last.kind, kind::GOAWAY);
        assert_eq!(last.payload[4..8], code.0.to_be_bytes());
        let again = self.connection.receive(b"", self.now_ms, &mut self.app, &mut self.out);
        assert_eq!(again, Err(error), "an ended connection stays ended");
    }

    /// Expects the stream to be reset with this code, once, and nothing else to come out.
    #[track_caller]
    pub(crate) fn resets(&mut self, input: &[u8], stream: u32, code: ErrorCode) {
        self.send(input).unwrap();
        assert_eq!(self.frames(), [rst_frame(stream, code)]);
    }

    /// Expects the neighbours to be well: a new request is answered.
    #[track_caller]
    pub(crate) fn still_answers(&mut self, stream: u32) {
        self.app.answer = Answer::AtTheEnd;
        self.calls();
        self.out.clear();
        self.send(&get(stream)).unwrap();
        let frames = self.frames();
        assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [kind::HEADERS, kind::DATA]);
        assert!(frames[1].ends_stream());
    }
}

pub(crate) fn rst_frame(stream: u32, code: ErrorCode) -> Frame {
    Frame { kind: kind::RST_STREAM, flags: 0, stream, payload: code.0.to_be_bytes().to_vec() }
}

pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        let FrameHeader { len, kind, flags, stream } = FrameHeader::parse(header);
        let (payload, rest) = rest.split_at(len as usize);
        frames.push(Frame { kind, flags, stream, payload: payload.to_vec() });
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { len: payload.len() as u32, kind, flags, stream };
    [header.encode().as_slice(), payload].concat()
}

pub(crate) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in entries {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// Literals without indexing.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for string in [name, value] {
            assert!(string.len() < 127);
            block.push(string.len() as u8);
            block.extend_from_slice(string.as_bytes());
        }
    }
    block
}

pub(crate) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "a.example")];

pub(crate) fn post_block(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&POST, more].concat())
}

/// A request whose body is to follow.
pub(crate) fn post(stream: u32) -> Vec<u8> {
    headers(stream, 0, &post_block(&[]))
}

/// A request that is complete.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    headers(stream, flag::END_STREAM, &[0x82, 0x86, 0x84])
}

/// HEADERS with END_HEADERS.
pub(crate) fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, block)
}

pub(crate) fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, 0, stream, payload)
}

pub(crate) fn last_data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flag::END_STREAM, stream, payload)
}

pub(crate) fn rst(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &ErrorCode::CANCEL.0.to_be_bytes())
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn ping() -> Vec<u8> {
    frame(kind::PING, 0, 0, b"12345678")
}

//! HTTP/2 with HPACK: no input panics, behind a good preface.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use transports::h2::{
    Application, Block, Connection, Credit, Fields, Limits, Replies, RequestHead, Reset, StreamId, Work,
};

struct Silent(Block);

impl Application for Silent {
    type Head = ();
    type Stream = ();

    fn classify(&mut self, head: &RequestHead<'_>) {
        assert!(!head.path().is_empty() && !head.method().is_empty());
    }

    fn open(&mut self, id: StreamId, _: &(), end_stream: bool, replies: &mut Replies<'_>) {
        if end_stream {
            replies.head(id, &self.0, true);
        }
    }

    fn data(&mut self, id: StreamId, _: &mut (), _: &[u8], end_stream: bool, replies: &mut Replies<'_>) -> Credit {
        if end_stream {
            replies.head(id, &self.0, true);
        }
        Credit::Now
    }

    fn trailers(&mut self, id: StreamId, _: &mut (), _: Fields<'_>, replies: &mut Replies<'_>) {
        replies.head(id, &self.0, true);
    }

    fn reset(&mut self, _: StreamId, _: (), _: Reset) -> Work {
        Work::Ended
    }
}

fuzz_target!(|data: &[u8]| {
    let mut app = Silent(Block::new(204));
    let mut connection = Connection::new(Arc::new(Limits::default()));
    let (mut out, mut input) = (Vec::new(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec());
    for (turn, piece) in data.chunks(997).enumerate() {
        input.extend_from_slice(piece);
        match connection.receive(&input, turn as u64, &mut app, &mut out) {
            Ok(used) => drop(input.drain(..used)),
            Err(_) => break,
        }
        out.clear();
    }
    connection.disconnect(&mut app);
});

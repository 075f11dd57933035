//! The bytes of an HTTP/2 client that sends unary gRPC calls, a batch at a time.
//!
//! The first call puts its header fields into the HPACK table; from then on a head is seven indices, as it is
//! with any client that sends the same call again and again. A batch is encoded once, and only stream
//! numbers change in it, so that a bench times the server and not the client.

use transports::h2::frame::{FrameHeader, HEADER_BYTES, PREFACE};

use crate::message::grpc_body;

/// Whether the server may know a call's head from the call before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Every head is the same bytes: decoded once.
    Same,
    /// One literal field (never indexed) changes from call to call: every head is decoded.
    Changing,
}

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How many values the changing field takes in turn; more than the server remembers heads.
const CHANGES: u8 = 64;

/// A client's side of one connection, without its receiving half.
#[derive(Debug)]
pub struct UnaryCalls {
    batch: Vec<u8>,
    /// Bytes of one call in the batch: HEADERS and DATA.
    call_bytes: usize,
    head_bytes: usize,
    calls: usize,
    heads: Heads,
    next_stream: u32,
    turn: u8,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { len: payload.len() as u32, kind, flags, stream };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(payload);
}

/// RFC 7541 §6.2.1: a literal that enters the table.
fn indexed_literal(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(0x40);
    for text in [name, value] {
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    }
}

impl UnaryCalls {
    /// A client that sends `calls` at once and is answered with up to `answer_bytes` of DATA each.
    pub fn new(calls: usize, heads: Heads, answer_bytes: usize) -> Self {
        // The five fields of the first call, newest first, behind POST and http of the static table.
        let mut head = vec![0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
        if heads == Heads::Changing {
            head.extend_from_slice(&[0, 1, b'x', 1, b'!']);
        }
        let (mut batch, body) = (Vec::new(), grpc_body(1));
        for _ in 0..calls {
            frame(HEADERS, END_HEADERS, 1, &head, &mut batch);
            frame(DATA, END_STREAM, 1, &body, &mut batch);
        }
        // What the answers take of the connection's window is given back; streams' own do not run out.
        let taken = (calls * answer_bytes) as u32;
        frame(WINDOW_UPDATE, 0, 0, &taken.to_be_bytes(), &mut batch);
        Self {
            batch,
            call_bytes: 2 * HEADER_BYTES + head.len() + body.len(),
            head_bytes: head.len(),
            calls,
            heads,
            next_stream: 3,
            turn: 0,
        }
    }

    /// The preface, SETTINGS, and the first call, which fills the table.
    pub fn opening(&self) -> Vec<u8> {
        let mut out = PREFACE.to_vec();
        frame(SETTINGS, 0, 0, &[], &mut out);
        let mut head = vec![0x83, 0x86];
        indexed_literal(":path", "/diplom.v1.IngestService/Ingest", &mut head);
        indexed_literal(":authority", "127.0.0.1:50051", &mut head);
        indexed_literal("te", "trailers", &mut head);
        indexed_literal("content-type", "application/grpc", &mut head);
        indexed_literal("user-agent", "load/1", &mut head);
        frame(HEADERS, END_HEADERS, 1, &head, &mut out);
        frame(DATA, END_STREAM, 1, &grpc_body(1), &mut out);
        out
    }

    /// The next batch. A connection has streams for 2³⁰ calls.
    #[inline]
    pub fn next_batch(&mut self) -> &[u8] {
        for call in 0..self.calls {
            let id = self.next_stream.to_be_bytes();
            self.next_stream += 2;
            let call = &mut self.batch[call * self.call_bytes..][..self.call_bytes];
            call[5..9].copy_from_slice(&id);
            let (head, data) = call[HEADER_BYTES..].split_at_mut(self.head_bytes);
            data[5..9].copy_from_slice(&id);
            if self.heads == Heads::Changing {
                head[self.head_bytes - 1] = b'!' + self.turn;
                self.turn = (self.turn + 1) % CHANGES;
            }
        }
        &self.batch
    }
}

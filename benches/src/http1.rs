//! The bytes of an HTTP/1.1 client.

use crate::message::INGEST_JSON;

/// `count` pipelined requests, with the fields that a plain client sends.
pub fn requests(count: usize) -> Vec<u8> {
    let head = format!(
        "POST /api/v1/ingest HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: load/1\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        INGEST_JSON.len()
    );
    [head.as_bytes(), INGEST_JSON].concat().repeat(count)
}

/// A date as answers carry it; the benches have no clock in their timed part.
pub const DATE: [u8; 29] = *b"Sun, 06 Nov 1994 08:49:37 GMT";

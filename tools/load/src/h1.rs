//! HTTP/1.1: one pre-encoded request after the other on a connection that stays open.

use std::collections::VecDeque;

use anyhow::{Result, bail};
use memchr::{memchr, memmem};

use crate::{drive::Conversation, outcome::Outcome};

/// Longer than any answer's head should be.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// `POST` requests, up to a depth of them unanswered (more than one is pipelining).
pub struct Pipeline {
    request: Vec<u8>,
    depth: usize,
    /// When each unanswered request was (to be) sent; answers come in order.
    sent_ns: VecDeque<u64>,
    /// The server said `connection: close`.
    is_last: bool,
    finder: memmem::Finder<'static>,
}

impl Pipeline {
    /// A connection for requests made by [`request`].
    pub fn new(request: Vec<u8>, depth: usize) -> Self {
        let finder = memmem::Finder::new(b"\r\n\r\n");
        Self { request, depth, sent_ns: VecDeque::with_capacity(depth), is_last: false, finder }
    }
}

/// The bytes of one `POST` with a JSON body.
pub fn request(authority: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: tidegate-load\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// What an answer's head says that matters here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Length of the body.
    pub content_length: usize,
    /// `connection: close`: no further request is answered.
    pub is_last: bool,
}

impl Head {
    /// Reads a head, which ends with its empty line.
    ///
    /// # Errors
    /// When it is no HTTP/1.1 answer with a known length.
    pub fn parse(head: &[u8]) -> Result<Self> {
        let digits = match head {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1' | b'0', b' ', a, b, c, ..] => [*a, *b, *c],
            _ => bail!("not an HTTP/1.1 answer: {}", String::from_utf8_lossy(&head[..head.len().min(40)])),
        };
        let status = digits
            .iter()
            .try_fold(0_u16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0')));
        let Some(status) = status else { bail!("a status that is no number") };
        let mut answer = Self { status, content_length: 0, is_last: false };
        let mut rest = head;
        while let Some(end) = memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if let Some(value) = field(line, b"content-length") {
                let Ok(length) = std::str::from_utf8(value).unwrap_or("").trim().parse() else {
                    bail!("a content-length that is no number");
                };
                answer.content_length = length;
            } else if let Some(value) = field(line, b"connection") {
                answer.is_last = value.trim_ascii().eq_ignore_ascii_case(b"close");
            } else if field(line, b"transfer-encoding").is_some() {
                bail!("an answer with transfer-encoding, which this client does not read");
            }
        }
        Ok(answer)
    }
}

/// The value of a line if it is the field of that (lower-case) name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // Most lines are another field: the first letter tells.
    if line.first()? | 0x20 != name[0] || line.len() <= name.len() || line[name.len()] != b':' {
        return None;
    }
    line[..name.len()].eq_ignore_ascii_case(name).then(|| &line[name.len() + 1..])
}

impl Conversation for Pipeline {
    fn open(&mut self, _out: &mut Vec<u8>) {}

    fn is_ready(&self) -> bool {
        self.sent_ns.len() < self.depth && !self.is_last
    }

    fn send(&mut self, intended_ns: u64, _max: u64, out: &mut Vec<u8>) -> u64 {
        out.extend_from_slice(&self.request);
        self.sent_ns.push_back(intended_ns);
        1
    }

    fn finish(&mut self, _out: &mut Vec<u8>) {}

    fn receive(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        _out: &mut Vec<u8>,
        outcome: &mut Outcome,
    ) -> Result<usize> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            let Some(end) = self.finder.find(rest) else {
                if rest.len() > HEAD_BYTES_MAX {
                    bail!("an answer's head longer than {HEAD_BYTES_MAX} bytes");
                }
                break;
            };
            let head = Head::parse(&rest[..end + 4])?;
            let length = end + 4 + head.content_length;
            if rest.len() < length {
                break;
            }
            used += length;
            let Some(sent_ns) = self.sent_ns.pop_front() else {
                bail!("an answer without a request: {}", head.status)
            };
            outcome.http(head.status);
            outcome.took(now_ns.saturating_sub(sent_ns));
            if head.is_last && !self.is_last {
                self.is_last = true;
                outcome.goodbyes += 1;
            }
        }
        Ok(used)
    }

    fn is_waiting(&self) -> bool {
        !self.sent_ns.is_empty()
    }

    fn close(&mut self, outcome: &mut Outcome) {
        outcome.unanswered += self.sent_ns.len() as u64;
        self.sent_ns.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ndate: x\r\n\r\n{}";

    #[test]
    fn answer_in_pieces_is_counted_once() {
        let mut pipeline = Pipeline::new(request("a", "/", b"{}"), 1);
        let mut out = Vec::new();
        let mut outcome = Outcome { sent: pipeline.send(5, 1, &mut out), ..Outcome::default() };
        assert!(!pipeline.is_ready());
        for end in 0..OK.len() {
            assert_eq!(pipeline.receive(&OK[..end], 10, &mut out, &mut outcome).unwrap(), 0);
        }
        assert_eq!(pipeline.receive(OK, 10, &mut out, &mut outcome).unwrap(), OK.len());
        assert!(pipeline.is_ready() && outcome.is_clean() && outcome.adds_up());
    }

    #[test]
    fn refusal_is_not_an_acceptance() {
        let mut pipeline = Pipeline::new(Vec::new(), 2);
        let mut outcome = Outcome::default();
        outcome.sent += pipeline.send(0, 1, &mut Vec::new());
        outcome.sent += pipeline.send(0, 1, &mut Vec::new());
        let busy = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        pipeline.receive(busy, 1, &mut Vec::new(), &mut outcome).unwrap();
        assert!(!pipeline.is_ready());
        pipeline.close(&mut outcome);
        assert_eq!((outcome.refused, outcome.unanswered, outcome.goodbyes), (1, 1, 1));
        assert!(outcome.adds_up());
    }

    #[test]
    fn answer_nobody_asked_for_is_a_fault() {
        let mut pipeline = Pipeline::new(Vec::new(), 1);
        assert!(pipeline.receive(OK, 1, &mut Vec::new(), &mut Outcome::default()).is_err());
    }

    #[test]
    fn head_needs_a_known_length() {
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(Head::parse(b"ICY 200 OK\r\n\r\n").is_err());
        let head =
            Head::parse(b"HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\nconnection: Close\r\n\r\n").unwrap();
        assert_eq!(head, Head { status: 404, content_length: 7, is_last: true });
    }
}

//! The rules of a stream of JetStream's: what becomes of a message that is published to it.
//!
//! The order of the checks is that of `processJetStreamMsg` (nats-server 2.15, one server).

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use engine_core::clock;

/// Bytes of a message's headers, at most.
const HEADER_BYTES_MAX: usize = 65_535;
/// Bytes of a message in the file store beside subject, headers and payload (`fileStoreMsgSize`).
const STORE_HEAD_BYTES: usize = 30;
/// `duplicate_window` of a stream that sets none.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A message that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub subject: String,
    /// In the order of their names.
    pub headers: Vec<(String, String)>,
    /// Its content.
    pub payload: Bytes,
}

impl Message {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Bytes of its headers on the wire: `NATS/1.0`, a line for each, and an empty one.
    pub fn header_bytes(&self) -> usize {
        if self.headers.is_empty() {
            return 0;
        }
        let lines = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4);
        12 + lines.sum::<usize>()
    }

    /// What `max_payload` and `max_msg_size` count.
    pub fn bytes(&self) -> usize {
        self.header_bytes() + self.payload.len()
    }

    fn stored_bytes(&self) -> usize {
        let headers = self.header_bytes();
        let headers = if headers == 0 { 0 } else { headers + 4 };
        STORE_HEAD_BYTES + self.subject.len() + headers + self.payload.len()
    }
}

/// A message that is, or was, in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The stream's name.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// What it is.
    pub message: Rc<Message>,
}

/// A refusal: JetStream's code and description.
pub type Refusal = (u64, &'static str);

/// What a stream says to a message: its sequence, and whether it was there already.
pub type Outcome = Result<(u64, bool), Refusal>;

/// What a stream takes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `max_msgs`.
    pub messages: Option<usize>,
    /// `max_bytes`.
    pub bytes: Option<usize>,
    /// `max_msg_size`.
    pub message_bytes: Option<usize>,
    /// `duplicate_window`.
    pub duplicate_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages: None, bytes: None, message_bytes: None, duplicate_window: DUPLICATE_WINDOW }
    }
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) subjects: Vec<String>,
    pub(super) limits: Limits,
    pub(super) is_sealed: bool,
    pub(super) messages: VecDeque<(u64, Instant, Rc<Message>)>,
    bytes: usize,
    last: u64,
    /// By `Nats-Msg-Id`: the sequence, and when it was stored.
    ids: BTreeMap<String, (u64, Instant)>,
}

impl Stream {
    pub(super) fn new(subjects: Vec<String>, limits: Limits) -> Self {
        Self { subjects, limits, ..Self::default() }
    }

    /// Stores a message.
    pub(super) fn publish(&mut self, name: &str, message: &Rc<Message>) -> Outcome {
        let Limits { messages, bytes, message_bytes, duplicate_window } = self.limits;
        if self.is_sealed {
            return Err((10109, "invalid operation on sealed stream"));
        }
        if message_bytes.is_some_and(|most| message.bytes() > most) {
            return Err((10054, "message size exceeds maximum allowed"));
        }
        if message.header_bytes() > HEADER_BYTES_MAX {
            return Err((10097, "header size exceeds maximum allowed of 64k"));
        }
        if message.header("Nats-Expected-Stream").is_some_and(|expected| expected != name) {
            return Err((10060, "expected stream does not match"));
        }
        let id = message.header("Nats-Msg-Id");
        self.ids.retain(|_, (_, at)| clock::since(*at) < duplicate_window);
        if let Some((sequence, _)) = id.and_then(|id| self.ids.get(id)) {
            return Ok((*sequence, true));
        }
        if messages.is_some_and(|most| self.messages.len() >= most) {
            return Err((10077, "maximum messages exceeded"));
        }
        if bytes.is_some_and(|most| self.bytes + message.stored_bytes() > most) {
            return Err((10077, "maximum bytes exceeded"));
        }
        self.last += 1;
        let now = clock::now();
        self.bytes += message.stored_bytes();
        self.messages.push_back((self.last, now, Rc::clone(message)));
        if let Some(id) = id {
            self.ids.insert(id.to_owned(), (self.last, now));
        }
        Ok((self.last, false))
    }

    /// Takes the first messages away, so many: by a purge, by age, or because they were worked on. Their ids stay known.
    pub(super) fn take_away(&mut self, count: usize) {
        for (.., message) in self.messages.drain(..count.min(self.messages.len())) {
            self.bytes -= message.stored_bytes();
        }
    }

    /// The server starts again: it knows the ids of what is there (`rebuildDedupe`).
    pub(super) fn restart(&mut self) {
        self.ids.clear();
        for (sequence, at, message) in &self.messages {
            if let Some(id) = message.header("Nats-Msg-Id") {
                self.ids.insert(id.to_owned(), (*sequence, *at));
            }
        }
    }
}

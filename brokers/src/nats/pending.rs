//! A publish that is not acknowledged: one record, or a pack of them, which can be taken apart again.

use std::{
    hash::{DefaultHasher, Hasher},
    time::Instant,
};

use async_nats::{HeaderMap, Subject};
use bytes::{Bytes, BytesMut};
use engine_core::{Record, TRACE_FIELD, Traceparent};

use super::{PACK_HEADER, naming::Name};
use crate::{data_message, raw_message};

/// Bytes of a pack's headers, at most: `Nats-Msg-Id`, `Tidegate-Pack`, `schema`, and
/// `Nats-Expected-Stream` with a name of up to 255 bytes.
pub(super) const PACK_HEAD_BYTES: usize = 448;

/// A record of a publish.
struct Part {
    tag: u64,
    name: Name,
    /// Bytes of its value.
    bytes: usize,
}

/// A publish that is not acknowledged.
pub(super) struct Pending {
    parts: Vec<Part>,
    /// What it is published on.
    subject: Subject,
    /// Of the first record; a pack gets its own when it is sent.
    headers: HeaderMap,
    payload: BytesMut,
    /// Ready to be sent, and as it was sent.
    sealed: Option<(HeaderMap, Bytes)>,
    /// An earlier run can have sent all of it.
    pub(super) may_be_there: bool,
    /// Nothing else is in flight with it: a part of a pack that was refused, or a pack that may be.
    pub(super) goes_alone: bool,
    pub(super) first_sent: Option<Instant>,
    pub(super) sent: Option<Instant>,
    pub(super) attempts: u32,
    /// How often its connection ended, or did not answer, when nothing else was in flight.
    pub(super) breaks: u32,
    pub(super) done: bool,
}

impl Pending {
    /// A record; `value` is its JSON.
    pub(super) fn new(subject: Subject, tag: u64, name: Name, record: &Record<'_>, value: &[u8]) -> Self {
        let mut pending = Self::empty(subject, headers(&name, record), 1);
        pending.push(tag, name, value);
        pending
    }

    /// A record whose value is its payload.
    pub(super) fn raw(subject: Subject, tag: u64, name: Name, record: &Record<'_>) -> Self {
        let mut pending = Self::empty(subject, raw_headers(&name, record), 1);
        pending.push(tag, name, record.payload);
        pending
    }

    fn empty(subject: Subject, headers: HeaderMap, capacity: usize) -> Self {
        Self {
            parts: Vec::with_capacity(capacity),
            subject,
            headers,
            payload: BytesMut::new(),
            sealed: None,
            may_be_there: true,
            goes_alone: false,
            first_sent: None,
            sent: None,
            attempts: 0,
            breaks: 0,
            done: false,
        }
    }

    /// Adds a record to what is not sealed.
    pub(super) fn push(&mut self, tag: u64, name: Name, value: &[u8]) {
        if !self.parts.is_empty() {
            self.payload.extend_from_slice(b"\n");
        }
        self.payload.extend_from_slice(value);
        self.may_be_there &= name.may_be_there;
        self.parts.push(Part { tag, name, bytes: value.len() });
    }

    /// Its records.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of its payload.
    pub(super) fn bytes(&self) -> usize {
        self.sealed.as_ref().map_or(self.payload.len(), |(_, payload)| payload.len())
    }

    /// Takes the tags of its records.
    pub(super) fn take_tags(&mut self) -> impl Iterator<Item = u64> {
        self.parts.drain(..).map(|part| part.tag)
    }

    /// What it is published on.
    pub(super) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether a value of `bytes` bytes can be added.
    pub(super) fn has_room(&self, bytes: usize, records_max: usize, bytes_max: usize) -> bool {
        self.sealed.is_none() && self.len() < records_max && self.payload.len() + 1 + bytes <= bytes_max
    }

    /// Headers and payload; nothing is added any more.
    pub(super) fn seal(&mut self) -> (HeaderMap, Bytes) {
        if let Some(sealed) = &self.sealed {
            return sealed.clone();
        }
        let mut headers = std::mem::take(&mut self.headers);
        if self.len() > 1 {
            headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", self.pack_id().as_str());
            headers.insert(PACK_HEADER, self.len().to_string());
            headers.insert("schema", data_message::SCHEMA);
        }
        self.sealed.insert((headers, std::mem::take(&mut self.payload).freeze())).clone()
    }

    /// The same records, the same id: a pack that is sent again is recognised.
    fn pack_id(&self) -> String {
        let mut digest = [DefaultHasher::new(), DefaultHasher::new()];
        digest[1].write_u8(1);
        for digest in &mut digest {
            for Part { name, .. } in &self.parts {
                digest.write_usize(name.text.len());
                digest.write(name.text.as_bytes());
            }
        }
        format!("pack-{:016x}{:016x}", digest[0].finish(), digest[1].finish())
    }

    /// Takes a pack that is not stored apart into two, in order. A record that is alone then has its
    /// own name and headers, as if it had never been in a pack.
    pub(super) fn halve(mut self) -> [Self; 2] {
        let (_, payload) = self.seal();
        let second = self.parts.split_off(self.parts.len() / 2);
        let mut from = 0;
        [self.parts, second].map(|parts| {
            let begin = from;
            let mut piece = Self::empty(self.subject.clone(), HeaderMap::new(), 0);
            piece.goes_alone = true;
            piece.may_be_there = parts.iter().all(|part| part.name.may_be_there);
            for part in &parts {
                from += part.bytes + 1;
            }
            let value = payload.slice(begin..from.saturating_sub(1).min(payload.len()));
            if let [alone] = parts.as_slice() {
                // We wrote it, so it can be read.
                piece.headers = data_message::read(&value, |record| headers(&alone.name, record))
                    .unwrap_or_else(|_| headers(&alone.name, &Record::default()));
            }
            piece.parts = parts;
            // A slice of the pack's payload: nothing is copied.
            let heads = std::mem::take(&mut piece.headers);
            let heads = if piece.len() > 1 { piece.seal().0 } else { heads };
            piece.sealed = Some((heads, value));
            piece
        })
    }
}

/// The headers of a record that travels alone.
fn headers(name: &Name, record: &Record<'_>) -> HeaderMap {
    let text = String::from_utf8_lossy;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", name.text.as_str());
    headers.insert("message_id", &*header_value(&text(record.id)));
    headers.insert("source", &*header_value(&text(record.source)));
    headers.insert("schema", data_message::SCHEMA);
    insert_trace(&mut headers, record);
    headers
}

/// The headers of a record whose value is its payload. Nothing of the record is lost: see [`raw_message::escape`].
fn raw_headers(name: &Name, record: &Record<'_>) -> HeaderMap {
    let value = |bytes: &[u8]| raw_message::escape(bytes, |_| false);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", name.text.as_str());
    headers.insert("message_id", &*value(record.id));
    headers.insert("source", &*value(record.source));
    headers.insert("schema", raw_message::SCHEMA);
    for (name, bytes) in raw_message::headers(record) {
        // Names of headers are visible ASCII without a colon (NATS ADR-4).
        let name = raw_message::escape(name.as_bytes(), |c| !c.is_ascii_graphic() || c == ':');
        headers.append(name.as_str(), &*value(&bytes));
    }
    insert_trace(&mut headers, record);
    headers
}

/// A trace is checked here, too: an earlier version's log may hold one of any length.
fn insert_trace(headers: &mut HeaderMap, record: &Record<'_>) {
    if let Some(trace) = Traceparent::of(record.metadata) {
        headers.insert(TRACE_FIELD, &*String::from_utf8_lossy(trace.as_bytes()));
    }
}

/// Header values are one line.
fn header_value(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use engine_core::MetadataWriter;

    use super::*;

    fn pack(numbers: std::ops::Range<u64>, value: &[u8], record: &Record<'_>) -> Pending {
        let name = |n: u64| Name { text: format!("log-0-{n}"), may_be_there: n < 2 };
        let mut pack = Pending::new(Subject::from("s"), numbers.start, name(numbers.start), record, value);
        numbers.skip(1).for_each(|n| pack.push(n, name(n), value));
        pack
    }

    const TRACE: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_no_trace_is_no_header() {
        let name = Name { text: "log-0-1".to_owned(), may_be_there: false };
        for (trace, is_sent) in [(TRACE, true), (&b"00-1-2-3"[..], false), (&[b'0'; 6000], false)] {
            let mut metadata = Vec::new();
            MetadataWriter::new(&mut metadata).push(TRACE_FIELD.as_bytes(), trace);
            let record = Record { metadata: &metadata, ..Record::default() };
            for headers in [headers(&name, &record), raw_headers(&name, &record)] {
                assert_eq!(headers.get(TRACE_FIELD).is_some(), is_sent, "{}", trace.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_taken_apart_is_what_would_have_been_sent_without_the_rest() {
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(TRACE_FIELD.as_bytes(), TRACE);
        let record = Record {
            id: b"id",
            source: b"sen\nsor",
            payload: b"p",
            metadata: &metadata,
            ..Record::default()
        };
        let mut value = Vec::new();
        data_message::write(&record, &mut value);
        let mut waiting = vec![pack(0..7, &value, &record)];
        let mut alone = Vec::new();
        while let Some(mut one) = waiting.pop() {
            let begin = one.parts[0].tag;
            let mut other = pack(begin..begin + one.len() as u64, &value, &record);
            assert_eq!(one.seal(), other.seal());
            assert_eq!(one.may_be_there, other.may_be_there);
            if one.len() == 1 {
                alone.push(begin);
            } else {
                waiting.extend(one.halve().into_iter().rev());
            }
        }
        assert_eq!(alone, [0, 1, 2, 3, 4, 5, 6]);
    }
}

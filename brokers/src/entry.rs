//! A message as bytes: what stands in the log and what crosses to a broker's thread.
//!
//! ```text
//! ┌ kind u8 ┬ id length u16 ┬ source length u32 ┬ metadata length u32 ┬ timestamp i64 ┬ key hash u64 ┬
//! ├ id ┬ source ┬ metadata ┬ payload, to the end ┐                    all numbers little endian
//! ```
//!
//! The highest bit of the kind says that the sender gave the id to have repeats recognised: the window of a restarted
//! process is filled from it. The one below says that the kind tells events from messages ([`KIND_EVENT`]). Earlier versions
//! wrote neither of these two: of what they wrote, metadata that begins with the schema of an event makes one.

use engine_core::{KIND_EVENT, Record, schema};

/// Bytes before the id.
pub const HEAD_BYTES: usize = 1 + 2 + 4 + 4 + 8 + 8;

/// In the kind: [`Record::once`].
const ONCE: u8 = 0x80;
/// In the kind: it says whether this is an event.
const TELLS_EVENTS: u8 = 0x40;

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are no message: shorter than the lengths they begin with")]
pub struct Malformed(pub usize);

/// Appends a record.
///
/// # Panics
/// When the id is over 65,535 bytes or another part over 4 GiB; the front ends' limits come long before.
#[inline]
pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let id_bytes = u16::try_from(record.id.len()).expect("an id under 64 KiB");
    let length = |part: &[u8]| u32::try_from(part.len()).expect("a part of a message under 4 GiB");
    let parts = record.id.len() + record.source.len() + record.metadata.len() + record.payload.len();
    out.reserve(HEAD_BYTES + parts);
    out.push(record.kind & !ONCE | TELLS_EVENTS | if record.once { ONCE } else { 0 });
    out.extend_from_slice(&id_bytes.to_le_bytes());
    out.extend_from_slice(&length(record.source).to_le_bytes());
    out.extend_from_slice(&length(record.metadata).to_le_bytes());
    out.extend_from_slice(&record.timestamp_seconds.to_le_bytes());
    out.extend_from_slice(&record.key_hash.to_le_bytes());
    out.extend_from_slice(record.id);
    out.extend_from_slice(record.source);
    out.extend_from_slice(record.metadata);
    out.extend_from_slice(record.payload);
}

/// Reads a record; its parts lie in `bytes`.
///
/// # Errors
/// [`Malformed`]. Anything long enough is a record: the log's checksums guard the content.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let malformed = Malformed(bytes.len());
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(malformed)?;
    let [kind, i0, i1, s0, s1, s2, s3, m0, m1, m2, m3, numbers @ ..] = *head;
    let (timestamp, key_hash) = numbers.split_at(8);
    let number = |part: &[u8]| part.try_into().map(u64::from_le_bytes).map_err(|_| malformed);
    let (id, rest) = rest.split_at_checked(u16::from_le_bytes([i0, i1]).into()).ok_or(malformed)?;
    let split = |rest: &'_ [u8], length: [u8; 4]| u32::from_le_bytes(length) as usize <= rest.len();
    if !split(rest, [s0, s1, s2, s3]) {
        return Err(malformed);
    }
    let (source, rest) = rest.split_at(u32::from_le_bytes([s0, s1, s2, s3]) as usize);
    if !split(rest, [m0, m1, m2, m3]) {
        return Err(malformed);
    }
    let (metadata, payload) = rest.split_at(u32::from_le_bytes([m0, m1, m2, m3]) as usize);
    let was_event = kind & TELLS_EVENTS == 0 && schema::at_start(metadata).is_some();
    Ok(Record {
        id,
        source,
        payload,
        metadata,
        timestamp_seconds: number(timestamp)? as i64,
        key_hash: number(key_hash)?,
        kind: kind & !(ONCE | TELLS_EVENTS) | if was_event { KIND_EVENT } else { 0 },
        once: kind & ONCE != 0,
        ..Record::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_an_earlier_version_wrote_the_schema_at_the_start_makes_an_event() {
        let mut metadata = Vec::new();
        let mut writer = engine_core::MetadataWriter::new(&mut metadata);
        writer.push(engine_core::KEY_OVERRIDE, b"u-1");
        writer.push(b"schema", b"analytics.v1.Event");
        for (kind, comes_back) in [(0, 0), (KIND_EVENT, KIND_EVENT)] {
            let record = Record { id: b"e", metadata: &metadata, kind, ..Record::default() };
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            assert_eq!(decode(&bytes).unwrap().kind, comes_back);
            bytes[0] &= !(TELLS_EVENTS | KIND_EVENT);
            assert_eq!(decode(&bytes).unwrap().kind, KIND_EVENT);
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let record = Record {
            id: b"id",
            source: b"somewhere",
            payload: b"\0\xffpayload",
            metadata: b"pairs",
            timestamp_seconds: -5,
            key_hash: 0x0123_4567_89ab_cdef,
            kind: 7,
            once: true,
            ..Record::default()
        };
        let mut bytes = Vec::new();
        encode(&record, &mut bytes);
        assert_eq!(decode(&bytes).unwrap(), record);
        let shortest = bytes.len() - record.payload.len();
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]).is_ok(), length >= shortest, "{length}");
        }
    }
}

//! `diplom.v1.IngestRequest` from its wire form, borrowed, and `IngestResponse` into it.
//!
//! ```text
//! IngestRequest  { 1 source string, 2 data bytes, 3 metadata map<string,string> }
//! IngestResponse { 1 message_id string, 2 status string }
//! ```
//!
//! The rules are those of <https://protobuf.dev/programming-guides/encoding/>: fields in any order, the last of
//! a repeated one wins, unknown ones are skipped whatever their type.

use super::{METADATA_PAIRS_MAX, MessageError, encode, wire::Wire};

/// What field 2 is declared as. On the wire they are the same; a string must be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// `diplom.v1.IngestService`.
    Bytes,
    /// The `IngestService` without a package.
    Text,
}

/// A raw message as protobuf brings it; every field may be absent. Texts were checked to be UTF-8 but stay
/// bytes, which is what they are copied as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestProto<'a> {
    /// Who sent it; UTF-8.
    pub source: &'a [u8],
    /// The payload.
    pub data: &'a [u8],
    /// The metadata.
    pub metadata: MetadataProto<'a>,
}

/// The pairs of a map field, as UTF-8. The wire has been validated, and iterating reads it again: that is
/// cheaper than storing pairs, and needs no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataProto<'a> {
    wire: &'a [u8],
    len: usize,
    text_bytes: usize,
    /// Filled when a key came twice: then the last one alone counts, as in every map.
    settled: Option<Vec<Pair<'a>>>,
}

impl<'a> MetadataProto<'a> {
    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of all keys and values together.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// All pairs in the order they came.
    #[must_use]
    pub fn iter(&self) -> MetadataIter<'_, 'a> {
        match &self.settled {
            Some(pairs) => MetadataIter { wire: Wire { bytes: &[], at: 0 }, settled: pairs.iter() },
            None => MetadataIter { wire: Wire { bytes: self.wire, at: 0 }, settled: [].iter() },
        }
    }
}

impl<'p, 'a> IntoIterator for &'p MetadataProto<'a> {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = MetadataIter<'p, 'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`MetadataProto`].
#[derive(Clone, Debug)]
pub struct MetadataIter<'p, 'a> {
    wire: Wire<'a>,
    settled: std::slice::Iter<'p, Pair<'a>>,
}

impl<'a> Iterator for MetadataIter<'_, 'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // The wire was validated when it was decoded, so an error cannot come; it would end the iteration.
        while !self.wire.is_done() {
            if let (METADATA, Some(entry)) = self.wire.field().ok()? {
                let (key, value) = entry.map_entry().ok()?;
                return Some((key.bytes, value.bytes));
            }
        }
        self.settled.next().copied()
    }
}

type Pair<'a> = (&'a [u8], &'a [u8]);

const SOURCE: u32 = 1;
const DATA: u32 = 2;
const METADATA: u32 = 3;

/// Decodes an `IngestRequest`.
///
/// # Errors
/// [`MessageError::Protobuf`] when the bytes are no message, [`MessageError::ProtobufText`] when a string in
/// it is not UTF-8, [`MessageError::TooManyPairs`].
pub fn decode_ingest_proto(bytes: &[u8], data_kind: DataKind) -> Result<IngestProto<'_>, MessageError> {
    let mut message = IngestProto::default();
    let mut wire = Wire { bytes, at: 0 };
    let mut first_entry = 0;
    let mut keys = Keys::default();
    while !wire.is_done() {
        let start = wire.at;
        match wire.field()? {
            (SOURCE, Some(text)) => {
                text.check_utf8("source")?;
                message.source = text.bytes;
            }
            (DATA, Some(data)) => {
                if data_kind == DataKind::Text {
                    data.check_utf8("data")?;
                }
                message.data = data.bytes;
            }
            (METADATA, Some(entry)) => {
                let metadata = &mut message.metadata;
                if metadata.len == METADATA_PAIRS_MAX {
                    return Err(MessageError::TooManyPairs);
                }
                let (key, value) = entry.map_entry()?;
                key.check_utf8("metadata")?;
                value.check_utf8("metadata")?;
                if metadata.len == 0 {
                    first_entry = start;
                }
                keys.note(metadata.len, key.bytes);
                metadata.len += 1;
                metadata.text_bytes += key.bytes.len() + value.bytes.len();
            }
            // A known number with another wire type is an unknown field too.
            _ => {}
        }
    }
    if message.metadata.len > 0 {
        message.metadata.wire = &bytes[first_entry..];
        if keys.repeated || message.metadata.len > Keys::FEW {
            settle_repeated_keys(&mut message.metadata);
        }
    }
    Ok(message)
}

/// The first few keys, compared with each other as they come: most messages have no more.
#[derive(Default)]
pub(super) struct Keys<'a> {
    few: [&'a [u8]; Keys::FEW],
    pub(super) repeated: bool,
}

impl<'a> Keys<'a> {
    pub(super) const FEW: usize = 8;

    #[inline]
    pub(super) fn note(&mut self, index: usize, key: &'a [u8]) {
        if index < Self::FEW {
            self.repeated |= self.few[..index].contains(&key);
            self.few[index] = key;
        }
    }
}

/// Leaves the last of equal keys where it stands and drops the others. Only for many keys, and for those
/// rare messages that repeat one.
#[cold]
fn settle_repeated_keys(metadata: &mut MetadataProto<'_>) {
    let mut pairs: Vec<(usize, Pair<'_>)> = metadata.iter().enumerate().collect();
    // The last of equal keys first, so that `dedup` keeps it; then back into the order of coming.
    pairs.sort_unstable_by(|(at, (key, _)), (other_at, (other, _))| key.cmp(other).then(other_at.cmp(at)));
    pairs.dedup_by(|(_, (later, _)), (_, (kept, _))| later == kept);
    if pairs.len() == metadata.len {
        return;
    }
    pairs.sort_unstable_by_key(|(at, _)| *at);
    let pairs: Vec<_> = pairs.into_iter().map(|(_, pair)| pair).collect();
    metadata.len = pairs.len();
    metadata.text_bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
    metadata.settled = Some(pairs);
}

/// Appends an `IngestResponse`.
pub fn encode_ingest_response(out: &mut Vec<u8>, message_id: &str, status: &str) {
    encode::text(out, 1, message_id.as_bytes());
    encode::text(out, 2, status.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<IngestProto<'_>, MessageError> {
        decode_ingest_proto(bytes, DataKind::Bytes)
    }

    fn pairs(bytes: &[u8]) -> Vec<(&str, &str)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        decode(bytes).unwrap().metadata.iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    const MESSAGE: &[u8] =
        b"\x0a\x04test\x12\x05hello\x1a\x0c\x0a\x04type\x12\x04demo\x1a\x06\x0a\x01k\x12\x01v";

    #[test]
    fn message_is_borrowed_whole() {
        let message = decode(MESSAGE).unwrap();
        assert_eq!((message.source, message.data), (&b"test"[..], &b"hello"[..]));
        assert_eq!(pairs(MESSAGE), [("type", "demo"), ("k", "v")]);
        assert_eq!((message.metadata.len(), message.metadata.text_bytes()), (2, 10));
        assert_eq!(decode(b"").unwrap(), IngestProto::default());
    }

    #[test]
    fn order_is_free_and_the_last_field_wins() {
        let message = decode(b"\x12\x01a\x1a\x03\x0a\x01k\x0a\x01s\x12\x01b\x0a\x01t").unwrap();
        assert_eq!((message.source, message.data), (&b"t"[..], &b"b"[..]));
        assert_eq!(message.metadata.get(b"k"), Some(&b""[..]));
    }

    #[test]
    fn last_of_a_repeated_metadata_key_wins() {
        assert_eq!(
            pairs(b"\x1a\x06\x0a\x01k\x12\x011\x1a\x06\x0a\x01j\x12\x012\x1a\x06\x0a\x01k\x12\x013"),
            [("j", "2"), ("k", "3")]
        );
        let many: Vec<u8> =
            (0..100u8).flat_map(|n| [0x1a, 6, 0x0a, 1, b'a' + n % 20, 0x12, 1, b'0' + n / 20]).collect();
        let settled = decode(&many).unwrap().metadata;
        assert_eq!((settled.len(), settled.text_bytes()), (20, 40));
        assert!(settled.iter().all(|(_, value)| value == b"4"));
    }

    #[test]
    fn map_entries_default_to_empty() {
        assert_eq!(pairs(b"\x1a\x00"), [("", "")]);
        assert_eq!(pairs(b"\x1a\x03\x12\x01v"), [("", "v")]);
        assert_eq!(pairs(b"\x1a\x08\x12\x01v\x18\x05\x0a\x01k"), [("k", "v")]);
    }

    #[test]
    fn unknown_fields_of_every_type_are_skipped() {
        for unknown in [
            &b"\x20\x96\x01"[..],
            b"\x21\x01\x02\x03\x04\x05\x06\x07\x08",
            b"\x22\x03abc",
            b"\x25\x01\x02\x03\x04",
            b"\x23\x24",
            b"\x23\x08\x01\x2b\x12\x01x\x2c\x24",
            b"\x08\x01",
            b"\xf8\xff\xff\xff\x0f\x01",
            b"\x20\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
            b"\xa0\x80\x00\x01",
        ] {
            for message in [[unknown, MESSAGE].concat(), [MESSAGE, unknown].concat()] {
                let decoded = decode(&message).unwrap();
                assert_eq!((decoded.source, decoded.data), (&b"test"[..], &b"hello"[..]), "{unknown:x?}");
                assert_eq!(decoded.metadata.len(), 2);
            }
        }
    }

    #[test]
    fn broken_wire_is_an_internal_error_with_its_place() {
        for (bytes, at) in [
            (&b"\x0a"[..], 1),
            (b"\x0a\x05test", 1),
            (b"\x0a\x80", 1),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1),
            (b"\x00", 0),
            (b"\x02\x01a", 0),
            (b"\x0a\x01a\x06", 3),
            (b"\x07", 0),
            (b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 1),
            (b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1),
            (b"\x20", 1),
            (b"\x21\x01", 1),
            (b"\x25\x01\x02\x03", 1),
            (b"\x80\x80\x80\x80\x10", 0),
            (b"\x23", 1),
            (b"\x24", 0),
            (b"\x23\x2c", 1),
            (b"\x1a\x02\x0a\x05", 3),
            (b"\x1a\x01\x00", 2),
        ] {
            let error = decode(bytes).unwrap_err();
            assert_eq!(error.class(), crate::message::Class::Internal);
            assert!(
                matches!(error, MessageError::Protobuf { at: found, .. } if found == at),
                "{bytes:x?}: {error}"
            );
        }
    }

    #[test]
    fn groups_are_bounded() {
        let nested = |depth: usize| [vec![0x23; depth], vec![0x24; depth]].concat();
        assert!(decode(&nested(100)).is_ok());
        let error = decode(&nested(101)).unwrap_err();
        assert_eq!(error, MessageError::TooDeep { at: 100 });
        assert_eq!(error.class(), crate::message::Class::InvalidArgument);
    }

    #[test]
    fn strings_must_be_utf8_and_bytes_need_not() {
        for (bytes, field, at) in [
            (&b"\x0a\x02a\xff"[..], "source", 3),
            (b"\x1a\x03\x0a\x01\xff", "metadata", 4),
            (b"\x1a\x03\x12\x01\x80", "metadata", 4),
            (b"\x0a\x0aabcdefgh\xc3x", "source", 10),
            (b"\x0a\x12abcdefghi\xffabcdefgh", "source", 11),
        ] {
            let error = decode(bytes).unwrap_err();
            assert_eq!(error, MessageError::ProtobufText { field, at });
            assert_eq!(error.class(), crate::message::Class::InvalidArgument);
        }
        assert_eq!(decode(b"\x12\x01\xff").unwrap().data, b"\xff");
        assert_eq!(
            decode_ingest_proto(b"\x12\x01\xff", DataKind::Text),
            Err(MessageError::ProtobufText { field: "data", at: 2 })
        );
    }

    #[test]
    fn metadata_pairs_are_bounded() {
        assert!(decode(&b"\x1a\x00".repeat(1024)).is_ok());
        assert_eq!(decode(&b"\x1a\x00".repeat(1025)), Err(MessageError::TooManyPairs));
    }

    #[test]
    fn every_prefix_and_random_bytes_do_no_harm() {
        for end in 0..MESSAGE.len() {
            let _any = decode(&MESSAGE[..end]);
        }
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..20_000 {
            let mut bytes = MESSAGE.to_vec();
            for _ in 0..3 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = (random >> 32) as usize % bytes.len();
                bytes[at] = random as u8;
            }
            if let Ok(message) = decode(&bytes) {
                assert_eq!(message.metadata.iter().count(), message.metadata.len());
            }
        }
    }

    #[test]
    fn response_is_encoded_as_two_strings() {
        let mut out = Vec::new();
        encode_ingest_response(&mut out, "id", "accepted");
        assert_eq!(out, b"\x0a\x02id\x12\x08accepted");
        out.clear();
        encode_ingest_response(&mut out, &"x".repeat(300), "");
        assert_eq!(out[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(out.len(), 303);
    }
}

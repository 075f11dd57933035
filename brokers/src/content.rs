//! What makes two messages the same: source, metadata and payload, whatever the order of what has none. The entries of a map
//! go over the wire in any order (Go's clients shuffle them, each time anew), and so may the fields of a protobuf message
//! (its encoding guide, "Field Order"): a caller who sends a message again says the same in other bytes.

use std::hash::{BuildHasher, RandomState};

use engine_core::{
    KIND_EVENT, MetadataPairs, OF_ITS_WAY, Record,
    schema::{EVENTS, SCHEMA_KEY},
};

/// What stands in the metadata of an event whose payload is a protobuf `analytics.v1.Event`.
const EVENT: (&[u8], &[u8]) = (SCHEMA_KEY, EVENTS[0]);
/// The fields of it that are messages: what the event is about.
const ABOUT: std::ops::RangeInclusive<u64> = 10..=13;

/// A keyed hash of it. How a message was sent is no part of it.
pub(crate) fn hash(state: &RandomState, record: &Record<'_>) -> u64 {
    let (mut pairs, mut is_event) = (0_u64, false);
    for pair in MetadataPairs::new(record.metadata).filter(|(key, _)| !OF_ITS_WAY.contains(key)) {
        is_event |= record.kind & KIND_EVENT != 0 && pair == EVENT;
        // A sum has no order, and unlike an exclusive or counts what is there twice.
        pairs = pairs.wrapping_add(state.hash_one(pair));
    }
    let payload = if is_event { fields(state, record.payload, 0) } else { None };
    let payload = payload.unwrap_or_else(|| state.hash_one(record.payload));
    state.hash_one((record.source, pairs, payload, record.kind & KIND_EVENT))
}

/// The fields of a protobuf message, in any order, and those of what an event is about; `None` if it is none.
fn fields(state: &RandomState, mut bytes: &[u8], depth: usize) -> Option<u64> {
    let mut sum = 0_u64;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let length = match tag & 7 {
            0 => {
                sum = sum.wrapping_add(state.hash_one((tag, varint(&mut bytes)?)));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let is_about = depth == 0 && tag & 7 == 2 && ABOUT.contains(&(tag >> 3));
        let inner = if is_about { fields(state, value, depth + 1) } else { None };
        let value = inner.unwrap_or_else(|| state.hash_one(value));
        sum = sum.wrapping_add(state.hash_one((tag, value)));
    }
    Some(sum)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 127) << shift;
        if *byte < 128 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use engine_core::MetadataWriter;

    use super::*;

    fn of(state: &RandomState, pairs: &[(&str, &str)], payload: &[u8]) -> u64 {
        let mut metadata = Vec::new();
        let mut writer = MetadataWriter::new(&mut metadata);
        pairs.iter().for_each(|(key, value)| writer.push(key.as_bytes(), value.as_bytes()));
        let kind = if pairs.contains(&("schema", "analytics.v1.Event")) { KIND_EVENT } else { 0 };
        hash(state, &Record { payload, metadata: &metadata, kind, ..Record::default() })
    }

    #[test]
    fn the_order_of_metadata_does_not_matter_and_what_it_says_does() {
        let state = RandomState::new();
        let one = of(&state, &[("a", "1"), ("b", "2")], b"x");
        assert_eq!(one, of(&state, &[("b", "2"), ("a", "1")], b"x"));
        for other in [
            &[("a", "2"), ("b", "1")][..],
            &[("a", "1")],
            &[("a", "1"), ("b", "2"), ("b", "2")],
            &[("a", "1"), ("b2", "")],
        ] {
            assert_ne!(one, of(&state, other, b"x"), "{other:?}");
        }
    }

    #[test]
    fn the_order_of_an_events_fields_does_not_matter_and_what_they_say_does() {
        let state = RandomState::new();
        let event = |payload: &[u8]| of(&state, &[("schema", "analytics.v1.Event")], payload);
        // 1: "i"; 7: two entries of a map; 10: a message with 1: "c" and 2: "d".
        let (id, first, second) = (b"\x0a\x01i", b"\x3a\x02ab", b"\x3a\x02cd");
        let (about, turned) = (b"\x52\x06\x0a\x01c\x12\x01d", b"\x52\x06\x12\x01d\x0a\x01c");
        let one = event(&[&id[..], first, second, about].concat());
        assert_eq!(one, event(&[&about[..], second, first, id].concat()));
        assert_eq!(one, event(&[&turned[..], second, first, id].concat()));
        assert_ne!(one, event(&[&id[..], first, first, about].concat()));
        assert_ne!(one, event(&[&id[..], first, second, b"\x52\x06\x0a\x01d\x12\x01c"].concat()));
        // Of what is no event, and of what is no protobuf, every byte has its place.
        assert_ne!(of(&state, &[], &[&id[..], first].concat()), of(&state, &[], &[&first[..], id].concat()));
        assert_ne!(event(b"\x07ab"), event(b"\x07ba"));
    }
}

//! What makes two messages the same: source, metadata and payload, whatever the order of what has none. The entries of a map
//! go over the wire in any order (Go's clients shuffle them, each time anew), and so may the fields of a protobuf message
//! (its encoding guide, "Field Order") and the members of a JSON object (RFC 8259 §4): a caller who sends a message again says
//! the same in other bytes.

use engine_core::{
    KIND_EVENT, MetadataPairs, OF_ITS_WAY, Record, key_hash,
    schema::{EVENTS, SCHEMA_KEY},
};

use crate::fingerprint::{Fingerprint, HashKey};

/// What stands in the metadata of an event whose payload is a protobuf `analytics.v1.Event`.
const EVENT: (&[u8], &[u8]) = (SCHEMA_KEY, EVENTS[0]);
/// The fields of it that are messages: what the event is about.
const ABOUT: std::ops::RangeInclusive<u64> = 10..=13;

/// The schema of the older system's events, whose payload is JSON.
const OLDER_EVENT: (&[u8], &[u8]) = (SCHEMA_KEY, EVENTS[1]);
/// Objects and arrays in each other that are looked into; what lies deeper is compared byte by byte.
const JSON_DEPTH_MAX: usize = 64;

/// What a message is recognised by.
pub(crate) fn fingerprint(hash_key: &HashKey, record: &Record<'_>) -> Fingerprint {
    Fingerprint { id: hash_key.id(record.id), content: hash(hash_key, record), home: key_hash(record.id) }
}

/// A keyed hash of it. How a message was sent is no part of it.
pub(crate) fn hash(hash_key: &HashKey, record: &Record<'_>) -> u64 {
    let (mut pairs, mut is_event, mut is_older_event) = (0_u64, false, false);
    let may_be_event = record.kind & KIND_EVENT != 0;
    for pair in MetadataPairs::new(record.metadata).filter(|(key, _)| !OF_ITS_WAY.contains(key)) {
        is_event |= may_be_event && pair == EVENT;
        is_older_event |= may_be_event && pair == OLDER_EVENT;
        let (key, value) = pair;
        // An object or an array in a metadata object arrives as its JSON text.
        let json = if value.first() == Some(&b'{') || value.first() == Some(&b'[') {
            json(hash_key, value)
        } else {
            None
        };
        let value = json.unwrap_or_else(|| hash_key.hash(value, &[]));
        // A sum has no order, and unlike an exclusive or counts what is there twice.
        pairs = pairs.wrapping_add(hash_key.hash(key, &[value]));
    }
    let payload = match (is_event, is_older_event) {
        (true, _) => fields(hash_key, record.payload, 0),
        (_, true) => json(hash_key, record.payload),
        _ => None,
    };
    let payload = payload.unwrap_or_else(|| hash_key.hash(record.payload, &[]));
    hash_key.hash(record.source, &[pairs, payload, u64::from(record.kind & KIND_EVENT)])
}

/// The fields of a protobuf message, in any order, and those of what an event is about; `None` if it is none.
fn fields(hash_key: &HashKey, mut bytes: &[u8], depth: usize) -> Option<u64> {
    let mut sum = 0_u64;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let length = match tag & 7 {
            0 => {
                sum = sum.wrapping_add(hash_key.hash(b"", &[tag, varint(&mut bytes)?]));
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
        let inner = if is_about { fields(hash_key, value, depth + 1) } else { None };
        let value = inner.unwrap_or_else(|| hash_key.hash(value, &[]));
        sum = sum.wrapping_add(hash_key.hash(b"", &[tag, value]));
    }
    Some(sum)
}

/// A JSON text whose objects have their members in any order; `None` if it is none. Numbers and strings count as they are
/// written.
fn json(hash_key: &HashKey, mut bytes: &[u8]) -> Option<u64> {
    let hash = json_value(hash_key, &mut bytes, JSON_DEPTH_MAX)?;
    after_blanks(&mut bytes).is_none().then_some(hash)
}

fn json_value(hash_key: &HashKey, bytes: &mut &[u8], depth_left: usize) -> Option<u64> {
    let first = after_blanks(bytes)?;
    let closing = match first {
        b'{' => b'}',
        b'[' => b']',
        b'"' => return Some(hash_key.hash(json_string(bytes)?, &[])),
        _ => {
            let end = bytes.iter().position(|byte| b",:]}\" \t\r\n".contains(byte)).unwrap_or(bytes.len());
            let (scalar, rest) = bytes.split_at(end);
            *bytes = rest;
            return (end > 0).then(|| hash_key.hash(scalar, &[]));
        }
    };
    let depth_left = depth_left.checked_sub(1)?;
    *bytes = bytes.get(1..)?;
    let mut all = 0_u64;
    if after_blanks(bytes)? == closing {
        *bytes = bytes.get(1..)?;
        return Some(hash_key.hash(b"", &[first.into(), all]));
    }
    loop {
        if first == b'{' {
            after_blanks(bytes)?;
            let key = json_string(bytes)?;
            (after_blanks(bytes)? == b':').then_some(())?;
            *bytes = bytes.get(1..)?;
            all = all.wrapping_add(hash_key.hash(key, &[json_value(hash_key, bytes, depth_left)?]));
        } else {
            all = hash_key.hash(b"", &[all, json_value(hash_key, bytes, depth_left)?]);
        }
        let next = after_blanks(bytes)?;
        *bytes = bytes.get(1..)?;
        match next {
            b',' => {}
            end if end == closing => return Some(hash_key.hash(b"", &[first.into(), all])),
            _ => return None,
        }
    }
}

/// A string with its quotes.
fn json_string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    (bytes.first() == Some(&b'"')).then_some(())?;
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => break,
            _ => at += 1,
        }
    }
    let (string, rest) = bytes.split_at(at + 1);
    *bytes = rest;
    Some(string)
}

/// The first byte that is no whitespace (RFC 8259 §2), which is left where it is.
fn after_blanks(bytes: &mut &[u8]) -> Option<u8> {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = bytes {
        *bytes = rest;
    }
    bytes.first().copied()
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

    fn of(hash_key: &HashKey, pairs: &[(&str, &str)], payload: &[u8]) -> u64 {
        let mut metadata = Vec::new();
        let mut writer = MetadataWriter::new(&mut metadata);
        pairs.iter().for_each(|(key, value)| writer.push(key.as_bytes(), value.as_bytes()));
        let is_event = pairs.iter().any(|(key, value)| *key == "schema" && value.starts_with("analytics."));
        let kind = if is_event { KIND_EVENT } else { 0 };
        hash(hash_key, &Record { payload, metadata: &metadata, kind, ..Record::default() })
    }

    #[test]
    fn fingerprints_are_the_same_in_every_version() {
        let key = HashKey::from_bytes(std::array::from_fn(|at| at as u8));
        let record = Record { id: b"order-17", payload: b"an order", ..Record::default() };
        let fingerprint = fingerprint(&key, &record);
        let hex = format!("{:032x} {:016x} {:016x}", fingerprint.id, fingerprint.content, fingerprint.home);
        assert_eq!(hex, "00002aff0c46a2eae1a7d2f7037309ff 04cce6599efe840c 5f486ffe46343ef6");
        assert_eq!(format!("{key:?}"), "HashKey(set)");
    }

    #[test]
    fn the_order_of_metadata_does_not_matter_and_what_it_says_does() {
        let hash_key = HashKey::random();
        let one = of(&hash_key, &[("a", "1"), ("b", "2")], b"x");
        assert_eq!(one, of(&hash_key, &[("b", "2"), ("a", "1")], b"x"));
        for other in [
            &[("a", "2"), ("b", "1")][..],
            &[("a", "1")],
            &[("a", "1"), ("b", "2"), ("b", "2")],
            &[("a", "1"), ("b2", "")],
        ] {
            assert_ne!(one, of(&hash_key, other, b"x"), "{other:?}");
        }
    }

    #[test]
    fn the_order_of_an_events_fields_does_not_matter_and_what_they_say_does() {
        let hash_key = HashKey::random();
        let event = |payload: &[u8]| of(&hash_key, &[("schema", "analytics.v1.Event")], payload);
        // 1: "i"; 7: two entries of a map; 10: a message with 1: "c" and 2: "d".
        let (id, first, second) = (b"\x0a\x01i", b"\x3a\x02ab", b"\x3a\x02cd");
        let (about, turned) = (b"\x52\x06\x0a\x01c\x12\x01d", b"\x52\x06\x12\x01d\x0a\x01c");
        let one = event(&[&id[..], first, second, about].concat());
        assert_eq!(one, event(&[&about[..], second, first, id].concat()));
        assert_eq!(one, event(&[&turned[..], second, first, id].concat()));
        assert_ne!(one, event(&[&id[..], first, first, about].concat()));
        assert_ne!(one, event(&[&id[..], first, second, b"\x52\x06\x0a\x01d\x12\x01c"].concat()));
        // Of what is no event, and of what is no protobuf, every byte has its place.
        assert_ne!(
            of(&hash_key, &[], &[&id[..], first].concat()),
            of(&hash_key, &[], &[&first[..], id].concat())
        );
        assert_ne!(event(b"\x07ab"), event(b"\x07ba"));
    }

    #[test]
    fn the_order_of_a_json_objects_members_does_not_matter_and_what_they_say_does() {
        let hash_key = HashKey::random();
        let older = |payload: &str| of(&hash_key, &[("schema", "analytics.Event")], payload.as_bytes());
        let one = older(r#"{"id":"e","properties":{"a":"1","b":{"c":[1,{"d":2,"e":"}"}],"f":null}}}"#);
        assert_eq!(one, older(r#"{"properties":{"b":{"f":null,"c":[1,{"e":"}","d":2}]},"a":"1"},"id":"e"}"#));
        assert_eq!(
            one,
            older(
                "{\"id\": \"e\",\n\"properties\":{\"a\":\"1\",\"b\":{\"c\":[1,{\"d\":2,\"e\":\"}\"}],\"f\":null}}} "
            )
        );
        for other in [
            r#"{"id":"e","properties":{"a":"1","b":{"c":[{"d":2,"e":"}"},1],"f":null}}}"#,
            r#"{"id":"e","properties":{"a":"1","b":{"c":[1,{"d":2,"e":"}"}],"f":0}}}"#,
            r#"{"id":"e","properties":{"a":"1","c":{"c":[1,{"d":2,"e":"}"}],"f":null}}}"#,
            r#"{"id":"e","properties":{"a":"1"},"b":{"c":[1,{"d":2,"e":"}"}],"f":null}}"#,
        ] {
            assert_ne!(one, older(other), "{other}");
        }
        assert_ne!(older("{}"), older("[]"));
        assert_ne!(older(r#"{"a":"b"}"#), older(r#"{"b":"a"}"#));
        // Objects in metadata are JSON, too; a payload that is not said to be JSON is bytes.
        let (one, turned) = (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#);
        assert_eq!(of(&hash_key, &[("k", one)], b""), of(&hash_key, &[("k", turned)], b""));
        assert_ne!(of(&hash_key, &[], one.as_bytes()), of(&hash_key, &[], turned.as_bytes()));
    }

    #[test]
    fn what_only_looks_like_json_is_compared_byte_by_byte() {
        let hash_key = HashKey::random();
        let deep = "[".repeat(100_000);
        for text in ["{", "[1,", r#"{"a""#, r#"{"a":}"#, r#"{"a":1}}"#, r#"{"a\"#, "{a:1}", &deep, "[1 2]"] {
            assert_eq!(json(&hash_key, text.as_bytes()), None, "{}", text.get(..9).unwrap_or(text));
            let older = |text: &str| of(&hash_key, &[("schema", "analytics.Event")], text.as_bytes());
            assert_eq!(older(text), older(text));
            assert_ne!(older(text), older(&format!("{text} ")));
        }
    }
}

//! A message at a broker whose value is its payload and nothing else (`kafka.value = raw`, `nats.value = raw`), for consumers
//! that know no `DataMessage`. What else belongs to it stands in headers, so that reading it gives the same message again.
//!
//! | Header | What it is |
//! | --- | --- |
//! | `message_id`, `source` | as with a `DataMessage` |
//! | `schema` | `raw` |
//! | `timestamp` | seconds of the Unix epoch, in decimal digits |
//! | `metadata.<key>` | a value of the metadata; of one key several may stand there. librdkafka reads a name up to |
//! | | its first NUL: in the key a NUL is written `%00`, and so `%` is `%25` |
//!
//! NATS' headers are lines of text, so more is written in that way there ([`escape`]), in names and in values.

use std::borrow::Cow;

use engine_core::{MetadataPairs, Record, schema::MARK};

use crate::data_message;

/// What the value of a message's record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageValue {
    /// The older systems' JSON ([`crate::data_message`]).
    #[default]
    DataMessage,
    /// The payload alone.
    Raw,
}

/// The `schema` header of such a value.
pub const SCHEMA: &str = "raw";

/// In front of the keys of metadata.
const METADATA: &str = "metadata.";

/// The headers beside `message_id`, `source` and `schema`, in order.
pub fn headers<'a>(record: &Record<'a>) -> impl Iterator<Item = (Cow<'static, str>, Cow<'a, [u8]>)> {
    let timestamp = record.timestamp_seconds.to_string().into_bytes();
    let mark = data_message::mark(record).map(|mark| (MARK, mark));
    let metadata = MetadataPairs::new(record.metadata).filter(|(key, _)| *key != MARK).chain(mark);
    let metadata = metadata.map(|(key, value)| {
        let key = String::from_utf8_lossy(key).replace('%', "%25").replace('\0', "%00");
        (format!("{METADATA}{key}").into(), value.into())
    });
    std::iter::once(("timestamp".into(), timestamp.into())).chain(metadata)
}

/// Reads headers and value, and lends the record out. A timestamp that is none is 0: the payload counts more.
pub fn read<T>(headers: &[(&str, &[u8])], value: &[u8], then: impl FnOnce(&Record<'_>) -> T) -> T {
    let header =
        |name: &str| headers.iter().find(|(known, _)| *known == name).map_or(&b""[..], |pair| pair.1);
    let keys: Vec<(String, &[u8])> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(METADATA)?, *value)))
        .map(|(key, value)| (key.replace("%00", "\0").replace("%25", "%"), value))
        .collect();
    let mut metadata = Vec::new();
    let kind = data_message::write_metadata(
        || keys.iter().map(|(key, value)| (key.as_bytes(), *value)),
        &mut metadata,
    );
    let timestamp = std::str::from_utf8(header("timestamp")).ok().and_then(|text| text.parse().ok());
    then(&Record {
        id: header("message_id"),
        source: header("source"),
        payload: value,
        metadata: &metadata,
        timestamp_seconds: timestamp.unwrap_or_default(),
        kind,
        ..Record::default()
    })
}

/// Text for a line of NATS' headers: `%` and each byte of `also`, of what is no UTF-8, of a control character and of a blank
/// at an end is `%` and two hex digits.
pub fn escape(bytes: &[u8], also: impl Fn(char) -> bool) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // A string takes everything.
            let _ = write!(text, "%{byte:02X}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        let of_all = chunk.valid().as_ptr() as usize - bytes.as_ptr() as usize;
        for (at, c) in chunk.valid().char_indices() {
            let place = of_all + at;
            let at_an_end = c == ' ' && (place == 0 || place + 1 == bytes.len());
            if c == '%' || c.is_control() || at_an_end || also(c) {
                hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

/// What [`escape`] was given. A `%` without two hex digits behind it is a `%`.
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match rest {
            [b'%', high, low, behind @ ..] if digit(*high).is_some() && digit(*low).is_some() => {
                let number = digit(*high).unwrap_or_default() << 4 | digit(*low).unwrap_or_default();
                (u8::try_from(number).unwrap_or_default(), behind)
            }
            _ => (*first, behind),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use engine_core::{KIND_EVENT, MetadataWriter, schema};

    use super::*;

    #[test]
    fn an_event_is_one_again_and_what_only_sounds_like_one_is_none() {
        for kind in [KIND_EVENT, 0] {
            let mut metadata = Vec::new();
            let mut writer = MetadataWriter::new(&mut metadata);
            writer.push(engine_core::KEY_OVERRIDE, b"u");
            writer.push(schema::SCHEMA_KEY, schema::EVENTS[0]);
            writer.push(b"a", b"b");
            let record = Record { id: b"e", metadata: &metadata, kind, ..Record::default() };
            let mut written: Vec<(String, Vec<u8>)> =
                headers(&record).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
            // As they come back from a client that keeps no order.
            written.reverse();
            let written: Vec<(&str, &[u8])> =
                written.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            read(&written, b"", |again| {
                assert_eq!((again.kind, again.metadata), (kind, record.metadata), "{written:?}");
            });
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut metadata = Vec::new();
        let mut writer = MetadataWriter::new(&mut metadata);
        for (key, value) in
            [("type", "demo"), ("", ""), ("type", "twice"), ("metadata.x", "y"), ("a\0%00%", "z")]
        {
            writer.push(key.as_bytes(), value.as_bytes());
        }
        let record = Record {
            id: b"m-1",
            source: b"s",
            payload: b"\x00\xff{not json",
            metadata: &metadata,
            timestamp_seconds: 1_700_000_000,
            ..Record::default()
        };
        let mut written: Vec<(String, Vec<u8>)> =
            vec![("message_id".into(), record.id.into()), ("source".into(), record.source.into())];
        written.extend(headers(&record).map(|(name, value)| (name.into_owned(), value.into_owned())));
        assert!(written.iter().all(|(name, _)| !name.contains('\0')), "{written:?}");
        let written: Vec<(&str, &[u8])> =
            written.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        read(&written, record.payload, |again| {
            assert_eq!((again.id, again.source, again.payload), (record.id, record.source, record.payload));
            assert_eq!((again.metadata, again.timestamp_seconds), (record.metadata, 1_700_000_000));
        });
    }

    #[test]
    fn what_is_escaped_is_one_line_and_comes_back() {
        let is_odd = |c: char| c == ':';
        for bytes in [&b"plain"[..], b" a b ", b"100 %", b"a:b\r\nc", b"\xff\xc3\xbc\x00", b"", b"%25"] {
            let text = escape(bytes, is_odd);
            assert!(!text.contains(|c: char| c.is_control() || c == ':'), "{text:?}");
            assert_eq!(text.trim(), text);
            assert_eq!(unescape(text.as_bytes()), bytes, "{text:?}");
        }
        assert_eq!(escape("gr\u{fc}n 5".as_bytes(), is_odd), "gr\u{fc}n 5");
        assert_eq!(unescape(b"5 % and %zz%4"), b"5 % and %zz%4");
    }

    #[test]
    fn a_record_without_headers_is_its_payload() {
        read(&[("timestamp", b"soon")], b"x", |record| {
            assert_eq!((record.id, record.payload, record.timestamp_seconds), (&b""[..], &b"x"[..], 0));
        });
    }
}

//! The value of a message at a broker: the older systems' `DataMessage` in Go's JSON.
//!
//! ```json
//! {"id":"…","timestamp":1700000000,"source":"…","payload":"<base64>","metadata":{"key":"value"}}
//! ```
//!
//! Whether it is an event stands in its metadata (see [`engine_core::schema`]).

use base64::{Engine, engine::general_purpose::STANDARD};
use engine_core::{
    KEY_OVERRIDE, KIND_EVENT, MetadataPairs, MetadataWriter, Record,
    schema::{EVENTS, MARK, SCHEMA_KEY, at_start},
};
use serde::{
    Deserialize, Serialize,
    ser::{SerializeMap, Serializer},
};

/// The `schema` header of such a value.
pub const SCHEMA: &str = "diplom.v1.DataMessage";

#[derive(Serialize)]
struct Outgoing<'a> {
    id: &'a str,
    timestamp: i64,
    source: &'a str,
    payload: String,
    metadata: Pairs<'a>,
}

struct Pairs<'a> {
    metadata: &'a [u8],
    /// What the record is, where that has to be said.
    mark: Option<&'a [u8]>,
}

/// What has to be said of a record: that it is an event, or that it is none though its own metadata sounds like it.
pub(crate) fn mark<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    if record.kind & KIND_EVENT != 0 {
        return at_start(record.metadata);
    }
    let sounds = |(key, value): (&[u8], &[u8])| key == MARK || key == SCHEMA_KEY && EVENTS.contains(&value);
    MetadataPairs::new(record.metadata).any(sounds).then_some(SCHEMA.as_bytes())
}

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in MetadataPairs::new(self.metadata).filter(|(key, _)| *key != MARK) {
            map.serialize_entry(&text(key), &text(value))?;
        }
        if let Some(mark) = self.mark {
            map.serialize_entry(&text(MARK), &text(mark))?;
        }
        map.end()
    }
}

/// Ids, sources and metadata come from JSON or protobuf strings: they are UTF-8 already.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Appends a record's JSON.
pub fn write(record: &Record<'_>, out: &mut Vec<u8>) {
    let message = Outgoing {
        id: &text(record.id),
        timestamp: record.timestamp_seconds,
        source: &text(record.source),
        payload: STANDARD.encode(record.payload),
        metadata: Pairs { metadata: record.metadata, mark: mark(record) },
    };
    // Strings and numbers into a Vec: nothing can fail.
    let _ = serde_json::to_writer(out, &message);
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow, default)]
    id: std::borrow::Cow<'a, str>,
    #[serde(default)]
    timestamp: i64,
    #[serde(borrow, default)]
    source: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    payload: std::borrow::Cow<'a, str>,
    #[serde(default)]
    metadata: Option<std::collections::BTreeMap<String, String>>,
}

/// Reads a value and lends its record out.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read<T>(value: &[u8], then: impl FnOnce(&Record<'_>) -> T) -> Result<T, String> {
    if !value.trim_ascii_start().starts_with(b"{") {
        return Err("not a DataMessage: no JSON object".to_owned());
    }
    let message: Incoming<'_> =
        serde_json::from_slice(value).map_err(|error| format!("not a DataMessage: {error}"))?;
    let payload =
        STANDARD.decode(&*message.payload).map_err(|error| format!("payload is not base64: {error}"))?;
    let mut metadata = Vec::new();
    let pairs = || message.metadata.iter().flatten().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
    let kind = write_metadata(pairs, &mut metadata);
    Ok(then(&Record {
        id: message.id.as_bytes(),
        source: message.source.as_bytes(),
        payload: &payload,
        metadata: &metadata,
        timestamp_seconds: message.timestamp,
        kind,
        ..Record::default()
    }))
}

/// Writes the metadata of a record that came from a broker; returns its kind, which the mark says, or where there is none the
/// schema: others who write there know no mark.
pub(crate) fn write_metadata<'a, I: Iterator<Item = (&'a [u8], &'a [u8])>>(
    pairs: impl Fn() -> I,
    out: &mut Vec<u8>,
) -> u8 {
    let mut writer = MetadataWriter::new(out);
    let named = |name: &[u8]| pairs().find(|(key, _)| *key == name).map(|(_, value)| value);
    let is_event = named(MARK).or_else(|| named(SCHEMA_KEY)).is_some_and(|schema| EVENTS.contains(&schema));
    // A map has no order; these two are looked for at the start.
    let mark = named(MARK).filter(|_| is_event);
    let first = [(KEY_OVERRIDE, named(KEY_OVERRIDE)), (SCHEMA_KEY, mark.or_else(|| named(SCHEMA_KEY)))];
    for (key, value) in first {
        if let Some(value) = value {
            writer.push(key, value);
        }
    }
    // One of each stands there already.
    let mut stands = [KEY_OVERRIDE, SCHEMA_KEY].map(|key| (key, named(key).is_some()));
    for (key, value) in pairs().filter(|(key, _)| *key != MARK) {
        match stands.iter_mut().find(|(known, stands)| *stands && *known == key) {
            Some((_, stands)) => *stands = false,
            None => writer.push(key, value),
        }
    }
    if is_event { KIND_EVENT } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut metadata = Vec::new();
        MetadataWriter::new(&mut metadata).push(b"k\"ey", "väl\nue".as_bytes());
        let record = Record {
            id: b"id-1",
            source: b"sensor",
            payload: b"\0\xff any bytes",
            metadata: &metadata,
            timestamp_seconds: 1_700_000_000,
            ..Record::default()
        };
        let mut value = Vec::new();
        write(&record, &mut value);
        let go: serde_json::Value = serde_json::from_slice(&value).unwrap();
        assert_eq!((&go["timestamp"], &go["metadata"]["k\"ey"]), (&1_700_000_000.into(), &"väl\nue".into()));
        assert!(read(&value, |read| *read == record).unwrap());
    }

    #[test]
    fn an_event_is_recognised_behind_a_broker_and_a_message_that_sounds_like_one_is_none() {
        let event = EVENTS[0];
        for (kind, schema, marked) in
            [(KIND_EVENT, event, true), (0, event, true), (0, b"s", false), (KIND_EVENT, EVENTS[2], true)]
        {
            let mut metadata = Vec::new();
            let mut writer = MetadataWriter::new(&mut metadata);
            let pairs: [(&[u8], &[u8]); 3] = [(KEY_OVERRIDE, b"u"), (SCHEMA_KEY, schema), (b"a", b"b")];
            pairs.iter().for_each(|(key, value)| writer.push(key, value));
            let record = Record { id: b"e", metadata: &metadata, kind, ..Record::default() };
            let mut value = Vec::new();
            write(&record, &mut value);
            assert_eq!(String::from_utf8_lossy(&value).contains("tidegate-schema"), marked);
            assert!(read(&value, |read| *read == record).unwrap(), "{}", String::from_utf8_lossy(&value));
        }
    }

    #[test]
    fn others_say_that_it_is_an_event_by_its_schema_alone() {
        let value = br#"{"id":"e","metadata":{"a":"b","schema":"analytics.v1.Event"}}"#;
        assert_eq!(
            read(value, |read| (read.kind, at_start(read.metadata) == Some(EVENTS[0]))),
            Ok((KIND_EVENT, true))
        );
    }

    #[test]
    fn what_is_no_message_says_why() {
        assert!(read(b"[]", |_| ()).unwrap_err().contains("DataMessage"));
        assert!(read(br#"{"payload":"*"}"#, |_| ()).unwrap_err().contains("base64"));
    }
}

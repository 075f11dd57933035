//! The body of `POST /enqueue`: a `diplom.v1.DataMessage` in the form that Go's encoding/json gives it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, MapAccess};

use super::json::{self, Fields, Trail, read_object};
use super::{MessageError, Pairs};

/// A message on its way to the processor; every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataMessage<'a> {
    /// The id it already has, without control characters; empty when absent.
    pub id: Cow<'a, str>,
    /// Unix time in seconds, when given.
    pub timestamp_s: Option<i64>,
    /// Who sent it.
    pub source: Cow<'a, str>,
    /// The metadata as text.
    pub metadata: Pairs<'a>,
}

/// Decodes an enqueue body. The payload goes, decoded, into `payload`, whose old content is dropped; a
/// buffer that is used again makes this free of allocation.
///
/// # Errors
/// As [`decode_ingest_json`](super::decode_ingest_json), and for an id with control characters, a payload that is not base64 (RFC 4648 §4)
/// or a timestamp that is no whole number.
pub fn decode_data_message<'a>(
    body: &'a [u8],
    payload: &mut Vec<u8>,
) -> Result<DataMessage<'a>, MessageError> {
    payload.clear();
    let mut reading = Reading {
        id: None,
        timestamp_s: None,
        source: None,
        payload_text: None,
        payload,
        metadata_seen: None,
        metadata: Pairs::default(),
    };
    read_object(body, &mut reading)?;
    Ok(DataMessage {
        id: reading.id.unwrap_or_default(),
        timestamp_s: reading.timestamp_s.flatten(),
        source: reading.source.unwrap_or_default(),
        metadata: reading.metadata,
    })
}

struct Reading<'a, 'p> {
    id: Option<Cow<'a, str>>,
    timestamp_s: Option<Option<i64>>,
    source: Option<Cow<'a, str>>,
    payload_text: Option<Cow<'a, str>>,
    payload: &'p mut Vec<u8>,
    metadata_seen: Option<()>,
    metadata: Pairs<'a>,
}

impl<'de> Fields<'de> for Reading<'de, '_> {
    fn field<A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
        trail: &mut Trail<'de>,
    ) -> Result<bool, A::Error> {
        match key {
            "id" => {
                json::text(&mut self.id, map, trail)?;
                let has_control = self.id.as_deref().is_some_and(|id| id.chars().any(char::is_control));
                if has_control { Err(A::Error::custom("expected printable characters")) } else { Ok(true) }
            }
            "timestamp" => json::whole_number(&mut self.timestamp_s, map, trail),
            "source" => json::text(&mut self.source, map, trail),
            "metadata" => json::metadata(&mut self.metadata_seen, &mut self.metadata, map, trail),
            "payload" => {
                json::text(&mut self.payload_text, map, trail)?;
                let text = self.payload_text.as_deref().unwrap_or_default();
                STANDARD.decode_vec(text, self.payload).map_err(serde::de::Error::custom)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &str) -> Result<(DataMessage<'_>, Vec<u8>), MessageError> {
        let mut payload = b"old".to_vec();
        decode_data_message(body.as_bytes(), &mut payload).map(|message| (message, payload))
    }

    #[test]
    fn go_json_is_understood() {
        let (message, payload) = decode(
            r#"{"id":"m1","timestamp":1700000000,"source":"s","payload":"aGVsbG8=","metadata":{"k":"v"}}"#,
        )
        .unwrap();
        assert_eq!((&*message.id, message.timestamp_s, &*message.source), ("m1", Some(1_700_000_000), "s"));
        assert_eq!(payload, b"hello");
        assert_eq!(message.metadata.get("k"), Some("v"));
    }

    #[test]
    fn absent_and_null_fields_are_empty() {
        for body in ["{}", r#"{"id":null,"timestamp":null,"source":null,"payload":null,"metadata":null}"#] {
            assert_eq!(decode(body).unwrap(), (DataMessage::default(), Vec::new()));
        }
    }

    #[test]
    fn timestamp_is_a_whole_number_or_its_text() {
        for (value, seconds) in [("0", 0), ("-5", -5), ("\"1700\"", 1700), ("9223372036854775807", i64::MAX)]
        {
            let body = format!("{{\"timestamp\":{value}}}");
            assert_eq!(decode(&body).unwrap().0.timestamp_s, Some(seconds), "{value}");
        }
        for bad in
            ["1.5", "1e3", "9223372036854775808", "\"\"", "\"+1\"", "\" 1\"", "true", "[]", "\"\\u0031\""]
        {
            let body = format!("{{\"timestamp\":{bad}}}");
            assert_eq!(decode(&body).unwrap_err().pointer(), "/timestamp", "{bad}");
        }
    }

    #[test]
    fn payload_is_standard_base64_with_padding() {
        assert_eq!(decode(r#"{"payload":"\u002b\/+/"}"#).unwrap().1, [0xfb, 0xff, 0xbf]);
        for bad in ["aGVsbG8", "aGVsbG8==", "a-_b", "aGVs bG8=", "aGVsbG9="] {
            let body = format!("{{\"payload\":\"{bad}\"}}");
            assert_eq!(decode(&body).unwrap_err().pointer(), "/payload", "{bad}");
        }
    }

    #[test]
    fn an_id_has_no_control_characters() {
        for bad in ["a\\r\\nb", "\\u0000", "\\u007f", "\u{9b}"] {
            let error = decode(&format!(r#"{{"id":"{bad}"}}"#)).unwrap_err();
            assert_eq!(error.pointer(), "/id", "{error}");
        }
        assert_eq!(decode(r#"{"id":"é 1"}"#).unwrap().0.id, "é 1");
    }

    #[test]
    fn repeated_fields_are_refused() {
        for field in ["\"id\":\"a\"", "\"timestamp\":1", "\"payload\":\"\"", "\"timestamp\":null"] {
            assert!(decode(&format!("{{{field},{field}}}")).is_err(), "{field}");
        }
    }
}

//! The body of `POST /api/v1/ingest`: `{"source": "…", "data": "…", "metadata": {…}}`.

use std::borrow::Cow;

use serde::de::MapAccess;

use super::json::{self, Fields, Trail, read_object};
use super::{MessageError, Pairs};

/// A raw message as JSON brings it; every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestJson<'a> {
    /// Who sent it; empty when absent or null.
    pub source: Cow<'a, str>,
    /// The payload, byte for byte what the string says; empty when absent or null.
    pub data: Cow<'a, str>,
    /// The metadata as text.
    pub metadata: Pairs<'a>,
}

/// Decodes an ingest body.
///
/// # Errors
/// The body is no JSON object, a field has the wrong type, a key comes twice (at any level), a string holds
/// half a surrogate pair, or it nests too deep; the error says where.
pub fn decode_ingest_json(body: &[u8]) -> Result<IngestJson<'_>, MessageError> {
    let mut reading = Reading::default();
    read_object(body, &mut reading)?;
    Ok(IngestJson {
        source: reading.source.unwrap_or_default(),
        data: reading.data.unwrap_or_default(),
        metadata: reading.metadata,
    })
}

#[derive(Default)]
struct Reading<'a> {
    source: Option<Cow<'a, str>>,
    data: Option<Cow<'a, str>>,
    metadata_seen: Option<()>,
    metadata: Pairs<'a>,
}

impl<'de> Fields<'de> for Reading<'de> {
    fn field<A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
        trail: &mut Trail<'de>,
    ) -> Result<bool, A::Error> {
        match key {
            "source" => json::text(&mut self.source, map, trail),
            "data" => json::text(&mut self.data, map, trail),
            "metadata" => json::metadata(&mut self.metadata_seen, &mut self.metadata, map, trail),
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &str) -> Result<IngestJson<'_>, MessageError> {
        decode_ingest_json(body.as_bytes())
    }

    fn metadata(value: &str) -> String {
        let body = format!("{{\"metadata\":{{\"k\":{value}}}}}");
        decode(&body).unwrap().metadata.get("k").unwrap().to_owned()
    }

    fn error(body: &str) -> (String, String) {
        let error = decode(body).unwrap_err();
        (error.to_string(), error.pointer().to_owned())
    }

    #[test]
    fn plain_message_is_borrowed_whole() {
        let message = decode(r#"{"source":"test","data":"Hello World","metadata":{"type":"demo"}}"#).unwrap();
        assert!(matches!(message.source, Cow::Borrowed("test")));
        assert!(matches!(message.data, Cow::Borrowed("Hello World")));
        assert_eq!(message.metadata.iter().collect::<Vec<_>>(), [("type", "demo")]);
    }

    #[test]
    fn absent_and_null_fields_are_empty() {
        for body in ["{}", " { } \n", r#"{"source":null,"data":null,"metadata":null}"#, r#"{"metadata":{}}"#]
        {
            assert_eq!(decode(body).unwrap(), IngestJson::default(), "{body}");
        }
    }

    #[test]
    fn data_comes_out_byte_for_byte() {
        let message = decode(r#"{"data":"a\u0000\"\\\/\b\n\u00e9\ud83d\ude00é😀"}"#).unwrap();
        assert_eq!(message.data, "a\0\"\\/\u{8}\né😀é😀");
    }

    #[test]
    fn metadata_scalars_become_their_json_text() {
        for (value, text) in [
            (r#""text""#, "text"),
            (r#""a\tb""#, "a\tb"),
            ("1", "1"),
            ("-0.10", "-0.10"),
            ("1E300", "1E300"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("true", "true"),
            ("{ \"a\" : [ 1 , \" x \" ] }", "{\"a\":[1,\" x \"]}"),
            ("[ ]", "[]"),
        ] {
            assert_eq!(metadata(value), text);
        }
    }

    #[test]
    fn null_metadata_is_dropped() {
        let message = decode(r#"{"metadata":{"a":null,"b":"1","c":null}}"#).unwrap();
        assert_eq!(message.metadata.iter().collect::<Vec<_>>(), [("b", "1")]);
    }

    #[test]
    fn unknown_fields_are_ignored_but_must_be_valid() {
        let message = decode(r#"{"x":{"y":[1,{"z":null}]},"data":"d","n":1e99,"s":"\ud83d\ude00"}"#).unwrap();
        assert_eq!(message.data, "d");
        for bad in [
            r#"{"x":}"#,
            r#"{"x":tru}"#,
            r#"{"x":01}"#,
            r#"{"x":"\ud800"}"#,
            r#"{"x":{"a":1,"a":1}}"#,
            r#"{"x":1,"x":2}"#,
            r#"{"x":1e400}"#,
            r#"{"x":[1e400]}"#,
            "{\"x\":\"\n\"}",
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn duplicate_keys_are_refused_at_every_level() {
        for (body, pointer) in [
            (r#"{"data":"a","data":"a"}"#, "/data"),
            (r#"{"data":null,"data":"a"}"#, "/data"),
            (r#"{"d\u0061ta":"a","data":"a"}"#, "/data"),
            (r#"{"metadata":{},"metadata":{}}"#, "/metadata"),
            (r#"{"metadata":{"k":"1","k":"2"}}"#, "/metadata/k"),
            (r#"{"metadata":{"k":null,"k":"2"}}"#, "/metadata/k"),
            (r#"{"metadata":{"k":{"a":1,"a":1}}}"#, "/metadata/k/a"),
            (r#"{"y":1,"x":1,"y":2}"#, "/y"),
            (r#"{"x":[{"a":1,"a":1}]}"#, "/x/0/a"),
        ] {
            let (text, found) = error(body);
            assert_eq!(found, pointer, "{body}: {text}");
            assert!(text.starts_with("duplicate key at line 1, column "), "{text}");
        }
    }

    #[test]
    fn errors_name_the_field_and_the_place() {
        assert_eq!(
            error("{\"source\":\"s\",\n \"data\":5}").0,
            "invalid type: integer `5`, expected a string at line 2, column 9 (at /data)"
        );
        assert_eq!(error(r#"{"metadata":[]}"#).1, "/metadata");
        assert_eq!(error(r#"{"metadata":{"a/b":nope}}"#).1, "/metadata/a~1b");
        assert_eq!(
            error("{\"metadata\":\n{\"k\":[{\"a\":0,\"a\":0}]}}").0,
            "duplicate key at line 2, column 14 (at /metadata/k/0/a)"
        );
        assert_eq!(error("").1, "");
    }

    #[test]
    fn a_number_that_no_reader_can_hold_is_refused() {
        for (body, pointer) in [
            (r#"{"metadata":{"k":1e400}}"#, "/metadata/k"),
            (r#"{"metadata":{"k":{"a":[-1e400]}}}"#, "/metadata/k/a/0"),
        ] {
            let (text, found) = error(body);
            assert!(found == pointer && text.starts_with("a number beyond"), "{found} {text}");
        }
    }

    #[test]
    fn top_level_must_be_one_object() {
        for bad in ["", " ", "[]", "null", "1", "\"{}\"", "{}{}", "{} x", "{},", "\u{feff}{}", "{"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
        assert_eq!(decode_ingest_json(b"{\"data\":\"\xff\"}"), Err(MessageError::NotUtf8 { at: 9 }));
    }

    #[test]
    fn depth_is_bounded_in_metadata_and_unknown_fields() {
        for (before, after, levels) in [("{\"x\":", "}", 63), ("{\"metadata\":{\"k\":", "}}", 62)] {
            let body = |depth: usize| format!("{before}{}{}{after}", "[".repeat(depth), "]".repeat(depth));
            assert!(decode(&body(levels)).is_ok());
            assert!(error(&body(levels + 1)).0.contains("deeper"), "{before}");
            assert!(decode(&body(200_000)).is_err());
        }
        assert!(decode(&"{\"metadata\":".repeat(100_000)).is_err());
    }

    #[test]
    fn duplicates_among_many_metadata_keys_are_found() {
        for (twice, value) in [("k3", "1"), ("k3", "null"), ("k99", "1")] {
            let pairs: Vec<_> = (0..100).map(|n| format!("\"k{n}\":\"v\"")).collect();
            let body = format!("{{\"metadata\":{{{},\"{twice}\":{value}}}}}", pairs.join(","));
            assert_eq!(error(&body).1, format!("/metadata/{twice}"));
        }
    }

    #[test]
    fn metadata_pairs_are_bounded() {
        let body = |count: usize, value: &str| {
            let pairs: Vec<_> = (0..count).map(|n| format!("\"k{n}\":{value}")).collect();
            format!("{{\"metadata\":{{{}}}}}", pairs.join(","))
        };
        assert_eq!(decode(&body(1024, "1")).unwrap().metadata.len(), 1024);
        assert_eq!(decode(&body(1025, "1")), Err(MessageError::TooManyPairs));
        assert_eq!(decode(&body(1025, "null")), Err(MessageError::TooManyPairs));
    }
}

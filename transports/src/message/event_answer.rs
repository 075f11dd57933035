//! Answers to events: `IngestEventResponse`, `IngestEventsResponse` and `StreamEventsResponse` of `analytics.v1`, in
//! their wire form and in proto JSON (every field, lower camel case).

use std::{
    io::Write,
    time::{Duration, UNIX_EPOCH},
};

use super::{encode, write_json_text};

/// When and where it was worked on (`IngestMetadata`).
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Milliseconds of the Unix epoch.
    pub unix_ms: u64,
    /// What this process calls itself.
    pub node: &'a str,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
}

/// An event of a batch that was not taken.
#[derive(Clone, Debug)]
pub struct NotTaken<'a> {
    /// Where it stands in the batch: `events[2]`.
    pub place: String,
    /// Its id.
    pub id: &'a str,
    /// In words.
    pub message: &'a str,
    /// The name of a gRPC code.
    pub code: &'a str,
}

const NANOS: u64 = 1_000_000_000;

impl Stamp<'_> {
    fn encode(&self, out: &mut Vec<u8>, field: u32) {
        encode::message(out, field, |out| {
            encode::message(out, 1, |out| {
                encode::number(out, 1, self.unix_ms / 1000);
                encode::number(out, 2, self.unix_ms % 1000 * 1_000_000);
            });
            encode::text(out, 2, self.node.as_bytes());
            encode::message(out, 3, |out| {
                encode::number(out, 1, self.took_ns / NANOS);
                encode::number(out, 2, self.took_ns % NANOS);
            });
        });
    }

    fn write(&self, out: &mut Vec<u8>) {
        let at = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.unix_ms));
        // Writing to a Vec cannot fail.
        let _ = write!(out, r#"{{"processedAt":"{at}","processingNode":"#);
        write_json_text(out, self.node);
        let (seconds, nanos) = (self.took_ns / NANOS, self.took_ns % NANOS);
        let _ = write!(out, r#","processingTime":"{seconds}.{nanos:09}s"}}"#);
    }
}

/// Appends an `IngestEventResponse` without validation errors.
pub fn encode_event_response(out: &mut Vec<u8>, success: bool, id: &[u8], message: &str, stamp: &Stamp<'_>) {
    encode::number(out, 1, success.into());
    encode::text(out, 2, id);
    encode::text(out, 3, message.as_bytes());
    stamp.encode(out, 5);
}

/// Appends an encoded `IngestEventResponse` as an answer of a stream.
pub fn encode_streamed(out: &mut Vec<u8>, response: &[u8]) {
    encode::text(out, 1, response);
}

/// Appends an `IngestEventResponse` without validation errors as an answer of a stream.
pub fn encode_streamed_response(
    out: &mut Vec<u8>,
    success: bool,
    id: &[u8],
    message: &str,
    stamp: &Stamp<'_>,
) {
    encode::message(out, 1, |out| encode_event_response(out, success, id, message, stamp));
}

/// Appends a `StreamEventsResponse` that is a status.
pub fn encode_stream_status(out: &mut Vec<u8>, pending: usize, message: &str) {
    encode::message(out, 2, |out| {
        encode::number(out, 1, 1);
        encode::number(out, 2, pending as u64);
        encode::text(out, 3, message.as_bytes());
    });
}

/// Appends an `IngestEventsResponse`.
pub fn encode_events_response(out: &mut Vec<u8>, stored: usize, failed: &[NotTaken<'_>], stamp: &Stamp<'_>) {
    encode::number(out, 1, failed.is_empty().into());
    encode::number(out, 2, stored as u64);
    encode::number(out, 3, failed.len() as u64);
    for one in failed {
        encode::text(out, 4, one.id.as_bytes());
    }
    for one in failed {
        encode::message(out, 5, |out| {
            encode::text(out, 1, one.place.as_bytes());
            encode::text(out, 2, one.message.as_bytes());
            encode::text(out, 3, one.code.as_bytes());
        });
    }
    stamp.encode(out, 6);
}

/// Appends an `IngestEventResponse` without validation errors as JSON.
pub fn write_event_response(out: &mut Vec<u8>, id: &str, message: &str, stamp: &Stamp<'_>) {
    out.extend_from_slice(br#"{"success":true,"eventId":"#);
    write_json_text(out, id);
    out.extend_from_slice(br#","message":"#);
    write_json_text(out, message);
    out.extend_from_slice(br#","validationErrors":[],"metadata":"#);
    stamp.write(out);
    out.push(b'}');
}

/// Appends an `IngestEventsResponse` as JSON.
pub fn write_events_response(out: &mut Vec<u8>, stored: usize, failed: &[NotTaken<'_>], stamp: &Stamp<'_>) {
    let _ = write!(
        out,
        r#"{{"success":{},"processedCount":{stored},"failedCount":{},"failedEventIds":["#,
        failed.is_empty(),
        failed.len()
    );
    for (place, one) in failed.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_json_text(out, one.id);
    }
    out.extend_from_slice(br#"],"validationErrors":["#);
    for (place, one) in failed.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        for (name, text) in
            [(r#"{"field":"#, one.place.as_str()), (r#","message":"#, one.message), (r#","code":"#, one.code)]
        {
            out.extend_from_slice(name.as_bytes());
            write_json_text(out, text);
        }
        out.push(b'}');
    }
    out.extend_from_slice(br#"],"metadata":"#);
    stamp.write(out);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
    use tidegate_proto::analytics::v1::{
        IngestEventResponse, IngestEventsResponse, StreamEventsResponse, stream_events_response::Response,
    };

    use super::*;

    const STAMP: Stamp<'_> = Stamp { unix_ms: 1_700_000_000_123, node: "no\"de", took_ns: 1_000_250_000 };

    fn failed() -> [NotTaken<'static>; 2] {
        let one = |place: &str, id, message, code| NotTaken { place: place.to_owned(), id, message, code };
        [
            one("events[2]", "a\"b", "Queue is full", "RESOURCE_EXHAUSTED"),
            one("events[3].id", "c", "m", "ALREADY_EXISTS"),
        ]
    }

    /// What the general writer makes of the same message.
    fn general(name: &str, bytes: &[u8]) -> serde_json::Value {
        let pool = DescriptorPool::decode(tidegate_proto::FILE_DESCRIPTOR_SET).unwrap();
        let descriptor = pool.get_message_by_name(&format!("analytics.v1.{name}")).unwrap();
        let message = DynamicMessage::decode(descriptor, bytes).unwrap();
        let options = SerializeOptions::new().skip_default_fields(false);
        message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
    }

    fn same(name: &str, wire: &[u8], json: &[u8]) {
        let mut written: serde_json::Value = serde_json::from_slice(json).unwrap();
        let mut expected = general(name, wire);
        for value in [&mut written, &mut expected] {
            let took = value["metadata"]["processingTime"].take();
            assert!(took.as_str().unwrap().starts_with("1.00025"), "{took}");
        }
        assert_eq!(written, expected);
    }

    #[test]
    fn an_answer_says_the_same_in_both_forms() {
        let (mut wire, mut json) = (Vec::new(), Vec::new());
        encode_event_response(&mut wire, true, "é-1".as_bytes(), "accepted", &STAMP);
        write_event_response(&mut json, "é-1", "accepted", &STAMP);
        let decoded = IngestEventResponse::decode(wire.as_slice()).unwrap();
        assert!(decoded.success && decoded.event_id == "é-1" && decoded.message == "accepted");
        same("IngestEventResponse", &wire, &json);
        for failed in [&failed()[..], &[]] {
            let (mut wire, mut json) = (Vec::new(), Vec::new());
            encode_events_response(&mut wire, 998, failed, &STAMP);
            write_events_response(&mut json, 998, failed, &STAMP);
            let decoded = IngestEventsResponse::decode(wire.as_slice()).unwrap();
            assert_eq!((decoded.processed_count, decoded.failed_count as usize), (998, failed.len()));
            assert_eq!(decoded.success, failed.is_empty());
            same("IngestEventsResponse", &wire, &json);
        }
    }

    #[test]
    fn a_stream_is_answered_with_events_and_statuses() {
        let mut wire = Vec::new();
        encode_streamed_response(&mut wire, false, b"x", "no room", &STAMP);
        let decoded = StreamEventsResponse::decode(wire.as_slice()).unwrap().response.unwrap();
        assert!(
            matches!(decoded, Response::EventResponse(response) if !response.success && response.event_id == "x")
        );
        wire.clear();
        encode_stream_status(&mut wire, 7, "flushed");
        let decoded = StreamEventsResponse::decode(wire.as_slice()).unwrap().response.unwrap();
        assert!(
            matches!(decoded, Response::Status(status) if status.connected && status.pending_events == 7)
        );
    }
}

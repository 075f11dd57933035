//! One small message: as JSON, as a data message, as protobuf, as a gRPC body.

use transports::grpc::encode_prefix;

/// Who sends it.
pub const SOURCE: &str = "sensor-12";
/// What it says.
pub const DATA: &str = r#"{"temperature":21.5,"unit":"C","sequence":1048576}"#;
/// Its metadata.
pub const METADATA: (&str, &str) = ("region", "eu-north");

/// The body of `POST /api/v1/ingest`; its data holds no escapes, so that it can be borrowed.
pub const INGEST_JSON: &[u8] =
    br#"{"source":"sensor-12","data":"temperature=21.5;unit=C;sequence=1048576;ok","metadata":{"region":"eu-north"}}"#;

/// The body of `POST /enqueue`; its payload is [`DATA`] in base64.
pub const DATA_MESSAGE_JSON: &[u8] = br#"{"id":"018f3b2e-7c1d-7a55-9e2b-0123456789ab","timestamp":1700000000,"source":"sensor-12","payload":"eyJ0ZW1wZXJhdHVyZSI6MjEuNSwidW5pdCI6IkMiLCJzZXF1ZW5jZSI6MTA0ODU3Nn0=","metadata":{"region":"eu-north"}}"#;

/// A protobuf field of length-delimited type; lengths here stay below 128.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    assert!(number < 16 && bytes.len() < 128, "one byte for the tag and one for the length");
    out.push(number << 3 | 2);
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

/// The message as `diplom.v1.IngestRequest`.
pub fn ingest_proto() -> Vec<u8> {
    let (mut entry, mut message) = (Vec::new(), Vec::new());
    field(1, METADATA.0.as_bytes(), &mut entry);
    field(2, METADATA.1.as_bytes(), &mut entry);
    field(1, SOURCE.as_bytes(), &mut message);
    field(2, DATA.as_bytes(), &mut message);
    field(3, &entry, &mut message);
    message
}

/// `count` of them as a gRPC body: each behind its length prefix.
pub fn grpc_body(count: usize) -> Vec<u8> {
    let message = ingest_proto();
    let prefix = encode_prefix(message.len()).expect("far below 4 GiB");
    [&prefix[..], &message].concat().repeat(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use transports::message::{DataKind, decode_data_message, decode_ingest_json, decode_ingest_proto};

    #[test]
    fn every_form_decodes_to_the_same_message() {
        let bytes = ingest_proto();
        let proto = decode_ingest_proto(&bytes, DataKind::Text).expect("valid");
        assert_eq!((proto.source, proto.data), (SOURCE.as_bytes(), DATA.as_bytes()));
        assert_eq!(proto.metadata.get(b"region"), Some(&b"eu-north"[..]));

        let json = decode_ingest_json(INGEST_JSON).expect("valid");
        assert_eq!((&*json.source, json.metadata.get("region")), (SOURCE, Some("eu-north")));

        let mut payload = Vec::new();
        let message = decode_data_message(DATA_MESSAGE_JSON, &mut payload).expect("valid");
        assert_eq!((&*message.source, &payload[..]), (SOURCE, DATA.as_bytes()));
    }
}

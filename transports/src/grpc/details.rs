//! `grpc-status-details-bin`: what a program can act on, a `google.rpc.Status` in base64.
//!
//! ```text
//! Status     { 1 code int32, 2 message string, 3 details repeated Any }
//! Any        { 1 type_url string, 2 value bytes }
//! RetryInfo  { 1 retry_delay Duration { 1 seconds int64, 2 nanos int32 } }
//! BadRequest { 1 field_violations repeated { 1 field string, 2 description string } }
//! ```

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::Status;

/// One detail of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail<'a> {
    /// `google.rpc.RetryInfo`: not before this delay.
    RetryInfo(Duration),
    /// `google.rpc.BadRequest` with one violation.
    BadRequest {
        /// The field, as a path or a JSON pointer.
        field: &'a str,
        /// What is wrong with it.
        description: &'a str,
    },
}

/// Appends the value of `grpc-status-details-bin`, base64 without padding as the gRPC specification asks.
pub fn encode_details(out: &mut Vec<u8>, status: &Status, details: &[Detail<'_>]) {
    let mut message = Vec::with_capacity(128);
    number(&mut message, 1, u64::from(status.code.number()));
    bytes(&mut message, 2, status.message.as_bytes());
    for detail in details {
        let (type_url, value) = detail.encode();
        let mut any = Vec::with_capacity(type_url.len() + value.len() + 8);
        bytes(&mut any, 1, type_url.as_bytes());
        bytes(&mut any, 2, &value);
        bytes(&mut message, 3, &any);
    }
    out.extend_from_slice(STANDARD_NO_PAD.encode(message).as_bytes());
}

impl Detail<'_> {
    fn encode(&self) -> (&'static str, Vec<u8>) {
        let mut value = Vec::new();
        match self {
            Self::RetryInfo(delay) => {
                let mut duration = Vec::new();
                // protobuf's Duration ends at 10,000 years.
                number(&mut duration, 1, delay.as_secs().min(315_576_000_000));
                number(&mut duration, 2, u64::from(delay.subsec_nanos()));
                bytes(&mut value, 1, &duration);
                ("type.googleapis.com/google.rpc.RetryInfo", value)
            }
            Self::BadRequest { field, description } => {
                let mut violation = Vec::new();
                bytes(&mut violation, 1, field.as_bytes());
                bytes(&mut violation, 2, description.as_bytes());
                bytes(&mut value, 1, &violation);
                ("type.googleapis.com/google.rpc.BadRequest", value)
            }
        }
    }
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(field << 3);
        varint(out, value);
    }
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        out.push(field << 3 | 2);
        varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Code;

    fn decoded(status: &Status, details: &[Detail<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_details(&mut out, status, details);
        assert!(!out.contains(&b'='));
        STANDARD_NO_PAD.decode(out).unwrap()
    }

    #[test]
    fn retry_info_is_a_status_with_an_any() {
        let status = Status::new(Code::ResourceExhausted, "full");
        let bytes = decoded(&status, &[Detail::RetryInfo(Duration::from_millis(1500))]);
        let mut expected =
            b"\x08\x08\x12\x04full\x1a\x36\x0a\x28type.googleapis.com/google.rpc.RetryInfo".to_vec();
        expected.extend_from_slice(b"\x12\x0a\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn bad_request_names_the_field() {
        let status = Status::new(Code::InvalidArgument, "");
        let bytes = decoded(&status, &[Detail::BadRequest { field: "source", description: "no UTF-8" }]);
        assert!(bytes.starts_with(b"\x08\x03\x1a"));
        assert!(bytes.ends_with(b"\x12\x14\x0a\x12\x0a\x06source\x12\x08no UTF-8"), "{bytes:x?}");
    }
}

//! What a service answers to a request message that cannot be decoded.

use tonic::{
    Code, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};

/// How prost begins its errors.
const PREFIX: &str = "failed to decode Protobuf message: ";
/// How it ends those that are about what the caller said, not about bytes that make no message: its kinds are private.
const WRONG_VALUES: [&str; 2] = ["data is not UTF-8 encoded", "recursion limit reached"];

/// A decoder's error in words, if it is the caller's wrong value: a text that is no UTF-8, or nesting beyond 100.
/// `None`: the bytes make no message at all, which gRPC calls `INTERNAL` by custom.
#[must_use]
pub fn wrong_value(error: &str) -> Option<&str> {
    let text = error.strip_prefix(PREFIX).unwrap_or(error);
    WRONG_VALUES.iter().any(|end| text.ends_with(end)).then_some(text)
}

/// A service's codec, whose decoder answers a wrong value with `INVALID_ARGUMENT`. Clients have the inner codec as it is:
/// an answer that cannot be decoded is no argument of theirs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestCodec<C>(pub(crate) C);

impl<C: Codec> Codec for RequestCodec<C> {
    type Encode = C::Encode;
    type Decode = C::Decode;
    type Encoder = C::Encoder;
    type Decoder = RequestDecoder<C::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder(self.0.decoder())
    }
}

/// See [`RequestCodec`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestDecoder<D>(D);

impl<D: Decoder<Error = Status>> Decoder for RequestDecoder<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<D::Item>, Status> {
        self.0.decode(bytes).map_err(|status| match wrong_value(status.message()) {
            Some(text) if status.code() == Code::Internal => {
                Status::invalid_argument(format!("request message: {text}"))
            }
            _ => status,
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::analytics::v1::IngestEventRequest;

    fn said(bytes: &[u8]) -> (bool, String) {
        let error = IngestEventRequest::decode(bytes).unwrap_err().to_string();
        match wrong_value(&error) {
            Some(text) => (true, text.to_owned()),
            None => (false, error),
        }
    }

    #[test]
    fn a_wrong_value_is_told_from_bytes_that_make_no_message() {
        let (wrong, text) = said(b"\x0a\x03\x12\x01\xff");
        assert!(wrong && text.contains("Event.user_id: "), "{text}");
        let groups = [vec![0x23; 101], vec![0x24; 101]].concat();
        assert!(said(&groups).0, "{groups:?}");
        for broken in [&b"\x0a\x05x"[..], b"\x0f\x00", b"\x02\x00", b"\x08\x01", b"\x0a\x80", b"\x24"] {
            let (wrong, text) = said(broken);
            assert!(!wrong, "{broken:x?}: {text}");
        }
    }
}

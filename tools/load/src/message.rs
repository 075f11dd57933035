//! The one message that a load client sends over and over, in the encodings of the protocols.

use std::collections::HashMap;

use tidegate_proto::diplom::v1::IngestRequest;

/// Bytes before every gRPC message: one flag byte and a length of four.
pub const GRPC_PREFIX_BYTES: usize = 5;

/// A message to ingest.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it comes from.
    pub source: String,
    /// The payload; text, so that both encodings can carry it.
    pub data: String,
    /// Pairs that travel with it.
    pub metadata: Vec<(String, String)>,
}

impl Message {
    /// A message with `data_bytes` of payload: about 90 bytes of protobuf for 64.
    pub fn of_size(data_bytes: usize) -> Self {
        let alphabet = "abcdefghijklmnopqrstuvwxyz0123456789";
        let data = alphabet.chars().cycle().take(data_bytes).collect();
        Self { source: "load".to_owned(), data, metadata: vec![("host".to_owned(), "bench".to_owned())] }
    }

    /// As the JSON body of `POST /api/v1/ingest`.
    pub fn json(&self) -> Vec<u8> {
        let metadata: serde_json::Map<String, serde_json::Value> =
            self.metadata.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let body = serde_json::json!({ "source": self.source, "data": self.data, "metadata": metadata });
        body.to_string().into_bytes()
    }

    /// As a `diplom.v1.IngestRequest` with its gRPC prefix.
    pub fn grpc(&self) -> Vec<u8> {
        let request = IngestRequest {
            source: self.source.clone(),
            data: self.data.clone().into_bytes(),
            metadata: self.metadata.iter().cloned().collect::<HashMap<_, _>>(),
        };
        frame(&request)
    }
}

/// Any message with its gRPC prefix, not compressed.
pub fn frame(message: &impl prost::Message) -> Vec<u8> {
    let len = message.encoded_len();
    let mut bytes = Vec::with_capacity(GRPC_PREFIX_BYTES + len);
    bytes.push(0);
    // A message of this client is bounded by a DATA frame, far below 4 GiB.
    bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn grpc_message_decodes_to_what_went_in() {
        let message = Message::of_size(64);
        let bytes = message.grpc();
        assert_eq!(bytes[0], 0);
        assert_eq!(
            u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize,
            bytes.len() - GRPC_PREFIX_BYTES
        );
        let request = IngestRequest::decode(&bytes[GRPC_PREFIX_BYTES..]).unwrap();
        assert_eq!(request.data, message.data.as_bytes());
        assert_eq!(request.metadata["host"], "bench");
    }

    #[test]
    fn json_message_is_an_object_with_the_three_fields() {
        let value: serde_json::Value = serde_json::from_slice(&Message::of_size(5).json()).unwrap();
        assert_eq!(value["source"], "load");
        assert_eq!(value["data"], "abcde");
        assert_eq!(value["metadata"]["host"], "bench");
    }
}

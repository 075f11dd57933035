//! The beginning of a payload, for the eye.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

/// Bytes of a payload that are shown.
const PAYLOAD_BYTES_MAX: usize = 1024;

/// The beginning of a payload.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Where it is UTF-8.
    Text(String),
    /// Where it is not.
    Base64(String),
}

impl Payload {
    /// Of a payload that has so many bytes, of which these are the first.
    pub fn new(bytes: &[u8], all: usize) -> Self {
        let start = &bytes[..bytes.len().min(PAYLOAD_BYTES_MAX)];
        match str::from_utf8(start) {
            Ok(text) => Self::Text(text.to_owned()),
            // Cut within a letter.
            Err(error) if error.error_len().is_none() && start.len() < all => {
                Self::Text(String::from_utf8_lossy(&start[..error.valid_up_to()]).into_owned())
            }
            Err(_) => Self::Base64(STANDARD.encode(start)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_shown_as_text_where_it_is_text_and_never_whole_when_it_is_long() {
        let of = |bytes: &[u8]| serde_json::to_value(Payload::new(bytes, bytes.len())).unwrap();
        assert_eq!(of(b"{\"a\":1}"), serde_json::json!({"text": "{\"a\":1}"}));
        assert_eq!(of(&[0xff, 0]), serde_json::json!({"base64": "/wA="}));
        // The letter at the bound has two bytes.
        let long = format!("{}\u{e4}{}", "x".repeat(PAYLOAD_BYTES_MAX - 1), "y".repeat(10));
        assert_eq!(of(long.as_bytes())["text"].as_str().unwrap().len(), PAYLOAD_BYTES_MAX - 1);
    }
}

//! The hot routes' decoders: no input panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transports::message::{DataKind, decode_data_message, decode_ingest_json, decode_ingest_proto};

fuzz_target!(|data: &[u8]| {
    let _ = decode_ingest_json(data).is_ok();
    let _ = decode_data_message(data, &mut Vec::new()).is_ok();
    for kind in [DataKind::Bytes, DataKind::Text] {
        if let Ok(message) = decode_ingest_proto(data, kind) {
            assert!(std::str::from_utf8(message.source).is_ok());
            assert_eq!(message.metadata.iter().count(), message.metadata.len());
        }
    }
});

//! Events as JSON: what is transcoded here is the same event to the general reader.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde_json::Value;
use tidegate_proto::analytics::v1::Event;
use transports::message::transcode_event;

static DESCRIPTOR: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(tidegate_proto::FILE_DESCRIPTOR_SET).expect("our own descriptors");
    pool.get_message_by_name("analytics.v1.Event").expect("our own event")
});

fuzz_target!(|data: &[u8]| {
    let mut out = Vec::new();
    if transcode_event(data, &mut out).is_none() {
        return;
    }
    let event = Event::decode(out.as_slice()).expect("what is transcoded is an event");
    // As the cold lane reads.
    let Ok(value) = serde_json::from_slice::<Value>(data) else {
        // Numbers and escapes of fields that nobody looks at are not read here.
        return;
    };
    if value.get("timestamp").is_some_and(Value::is_number) || value.get("event").is_some() {
        // Ours alone: proto JSON knows neither.
        return;
    }
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let general = DynamicMessage::deserialize_with_options(DESCRIPTOR.clone(), &value, &options)
        .expect("what is transcoded is an event to the general reader");
    let general = Event::decode(general.encode_to_vec().as_slice()).expect("which wrote it");
    assert_eq!(event, general);
});

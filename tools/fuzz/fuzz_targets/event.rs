//! Events from their wire form: what is plain is an event to the general decoder, too, and says the same when that has
//! written it again. What the general decoder takes for a request of a stream is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tidegate_proto::analytics::v1::{Event, StreamEventsRequest, stream_events_request::Request};
use transports::message::{About, EventProto, StreamedRequest, decode_event, read_event, read_streamed};

const NOW_MS: i64 = 1_800_000_000_000;

/// What an event says, without the order of its properties.
fn said(event: &EventProto<'_>) -> String {
    let mut properties: Vec<_> = event.properties().collect();
    properties.sort_unstable();
    let about = match event.about {
        About::Custom(metrics) => format!("{:?}", metrics.iter().collect::<Vec<_>>()),
        other => format!("{other:?}"),
    };
    let EventProto { id, user_id, session_id, event_type, timestamp_ms, source, .. } = *event;
    format!("{:?}", (id, user_id, session_id, event_type, timestamp_ms, source, about, properties))
}

fuzz_target!(|data: &[u8]| {
    if let Some(event) = decode_event(data, NOW_MS) {
        let general = Event::decode(data).expect("what is plain is an event");
        let again = general.encode_to_vec();
        let again = decode_event(&again, NOW_MS).expect("and is plain when it is written again");
        assert_eq!(said(&event), said(&again));
        assert_eq!(read_event(data).map(|event| said(&event)), Some(said(&event)));
    }
    let (read, general) = (read_streamed(data), StreamEventsRequest::decode(data));
    if let (Ok(read), Ok(StreamEventsRequest { request })) = (&read, general) {
        match (read, request) {
            (StreamedRequest::Nothing, None) | (StreamedRequest::Config { .. }, Some(Request::Config(_))) => {
            }
            (StreamedRequest::Event(bytes), Some(Request::Event(event))) => {
                let read = Event::decode(*bytes).expect("an event that was decoded in its request");
                // No number is equal to none.
                assert!(read == event || format!("{event:?}").contains("NaN"));
            }
            (read, request) => panic!("{read:?} is {request:?}"),
        }
    }
});

//! The readers of events against the general ones (prost, prost-reflect), on inputs that were good before something
//! happened to them: bytes changed, lost, doubled, spliced. The same properties are fuzz targets in `tools/fuzz`.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use fastrand::Rng;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use prost_types::{Duration, Timestamp};
use serde_json::Value;
use tidegate_proto::analytics::v1::{
    CustomEvent, CustomMetric, Event, EventType, StreamConfig, StreamEventsRequest, SystemEvent,
    TransactionEvent, TransactionItem, UserContext, UserEvent, event::EventData,
    stream_events_request::Request,
};
use transports::message::{
    About, EventProto, StreamedRequest, decode_event, read_event, read_streamed, transcode_event,
};

const NOW_MS: i64 = 1_800_000_000_000;
const CASES: usize = 20_000;

fn seeds() -> Vec<Event> {
    let good = Event {
        id: "evt-1".into(),
        user_id: "ü-17".into(),
        session_id: "s".into(),
        event_type: EventType::User.into(),
        timestamp: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
        source: "web".into(),
        properties: [("page".to_owned(), "home".to_owned()), ("plan".to_owned(), String::new())].into(),
        ..Event::default()
    };
    let with = |data| Event { event_data: Some(data), ..good.clone() };
    let context = UserContext { is_new_user: true, os: "x".into(), ..Default::default() };
    vec![
        Event { user_id: "u".into(), event_type: 4, ..Event::default() },
        with(EventData::UserEvent(UserEvent {
            action: "click".into(),
            user_context: Some(context),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            ..Default::default()
        })),
        with(EventData::TransactionEvent(TransactionEvent {
            transaction_id: "t".into(),
            r#type: 1,
            amount: 12.5,
            currency: "EUR".into(),
            status: 2,
            items: vec![TransactionItem { price: 2.0, quantity: -3, ..Default::default() }; 2],
            ..Default::default()
        })),
        with(EventData::SystemEvent(SystemEvent { r#type: 1, severity: 2, ..Default::default() })),
        with(EventData::CustomEvent(CustomEvent {
            name: "n".into(),
            metrics: vec![CustomMetric { name: "m".into(), value: 1.5, unit: "s".into() }; 2],
            ..Default::default()
        })),
        good,
    ]
}

/// Does something to bytes, once to four times.
fn mutated(random: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(1..=4) {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        let at = random.usize(..length);
        let end = (at + random.usize(1..=12)).min(length);
        match random.u8(..8) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, random.u8(..)),
            4 => bytes.truncate(at),
            5 => bytes.extend_from_within(at..end),
            6 => {
                let other = &seeds[random.usize(..seeds.len())];
                let from = random.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // One more or less: lengths, numbers of fields and digits live on this.
            _ => bytes[at] = bytes[at].wrapping_add(if random.bool() { 1 } else { 255 }),
        }
    }
    bytes
}

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

#[test]
fn what_is_plain_is_an_event_to_the_general_decoder_and_says_the_same_there() {
    let mut random = Rng::with_seed(1);
    let seeds: Vec<_> = seeds().iter().map(Message::encode_to_vec).collect();
    let mut plain = 0;
    for _ in 0..CASES {
        let bytes = mutated(&mut random, &seeds);
        let Some(event) = decode_event(&bytes, NOW_MS) else { continue };
        plain += 1;
        let general = Event::decode(bytes.as_slice()).unwrap_or_else(|error| panic!("{error}: {bytes:x?}"));
        assert_eq!(
            (event.id, event.user_id, event.session_id, event.source),
            (
                general.id.as_bytes(),
                general.user_id.as_bytes(),
                general.session_id.as_bytes(),
                general.source.as_bytes()
            )
        );
        assert_eq!(event.properties().count(), general.properties.len(), "{bytes:x?}");
        let again = general.encode_to_vec();
        let again = decode_event(&again, NOW_MS).unwrap_or_else(|| panic!("not plain again: {bytes:x?}"));
        assert_eq!(said(&event), said(&again), "{bytes:x?}");
        assert_eq!(said(&read_event(&bytes).unwrap()), said(&event), "{bytes:x?}");
    }
    assert!(plain > CASES / 20, "{plain} were plain: the property was hardly asked for");
}

fn descriptor() -> MessageDescriptor {
    let pool = DescriptorPool::decode(tidegate_proto::FILE_DESCRIPTOR_SET).unwrap();
    pool.get_message_by_name("analytics.v1.Event").unwrap()
}

#[test]
fn what_is_transcoded_is_the_same_event_to_the_general_reader() {
    let seeds = [
        r#"{"user_id":"u","eventType":"EVENT_TYPE_USER","userEvent":{"action":"click","userContext":{"isNewUser":true}}}"#,
        r#"{"id":"e \"1\" é\u00e9","userId":"u","event_type":4,"timestamp":"2026-11-26T10:11:12.5Z","source":null,
            "properties":{"a":"1","b c":"é"},"unknown":{"deep":[1,{"x":[]}]},
            "custom_event":{"name":"n","metrics":[{"name":"m","value":1.5},{"name":"k","value":-3},{"name":"z"}]}}"#,
        r#"{"transaction_event":{"transaction_id":"t","type":"TRANSACTION_TYPE_REFUND","amount":12,"currency":"EUR",
            "items":[{"itemId":"i","price":1e3,"quantity":-2},{}],"metadata":{"customFields":{"k":"v"}}}}"#,
        r#"{"systemEvent":{"component":"c","severity":3,"tags":{},"metrics":{"cpuUsage":0.5,"activeConnections":7}}}"#,
        r#"{"event_type":2,"timestamp":"2024-02-29T23:59:59Z","user_event":null}"#,
        r#"{"timestamp":"2016-12-31T23:59:60Z"}"#,
        r#"{"timestamp":"1970-01-01T00:00:00.000000001Z"}"#,
    ]
    .map(|json| json.as_bytes().to_vec());
    let (descriptor, options) = (descriptor(), DeserializeOptions::new().deny_unknown_fields(false));
    let mut random = Rng::with_seed(2);
    let (mut transcoded, mut out) = (0, Vec::new());
    for _ in 0..CASES {
        let json = mutated(&mut random, &seeds);
        out.clear();
        if transcode_event(&json, &mut out).is_none() {
            continue;
        }
        let shown = String::from_utf8_lossy(&json);
        let event = Event::decode(out.as_slice()).unwrap_or_else(|error| panic!("{error}: {shown}"));
        // What the cold lane does.
        let value: Value = serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {shown}"));
        if value.get("timestamp").is_some_and(Value::is_number) || value.get("event").is_some() {
            // Ours alone: proto JSON knows neither.
            continue;
        }
        transcoded += 1;
        let general = DynamicMessage::deserialize_with_options(descriptor.clone(), &value, &options)
            .unwrap_or_else(|error| panic!("{error}: {shown}"));
        let general = Event::decode(general.encode_to_vec().as_slice()).unwrap();
        assert_eq!(event, general, "{shown}");
    }
    assert!(transcoded > CASES / 20, "{transcoded} were transcoded: the property was hardly asked for");
}

#[test]
fn what_the_general_decoder_takes_for_a_streamed_request_is_read_as_the_same() {
    let mut requests: Vec<Request> = seeds().into_iter().map(Request::Event).collect();
    for (batch_size, seconds, nanos) in [(7, 2, 5_000_000), (-1, 0, 0), (0, -3, -1), (100, 0, 999_999_999)] {
        let flush_interval = Some(Duration { seconds, nanos });
        requests.push(Request::Config(StreamConfig { batch_size, flush_interval }));
    }
    let encoded = |request| StreamEventsRequest { request: Some(request) }.encode_to_vec();
    let seeds: Vec<_> = requests.into_iter().map(encoded).collect();
    let mut random = Rng::with_seed(3);
    let mut good = 0;
    for _ in 0..CASES {
        let bytes = mutated(&mut random, &seeds);
        let read = read_streamed(&bytes);
        let Ok(StreamEventsRequest { request }) = StreamEventsRequest::decode(bytes.as_slice()) else {
            continue;
        };
        let read = match read {
            Ok(read) => read,
            // The general decoder makes one of two.
            Err(error) if error.to_string().contains("a second event or config") => continue,
            Err(error) => panic!("{error}: {bytes:x?}"),
        };
        good += 1;
        match request {
            None => assert_eq!(read, StreamedRequest::Nothing, "{bytes:x?}"),
            Some(Request::Event(event)) => {
                let StreamedRequest::Event(read) = read else { panic!("{read:?}: {bytes:x?}") };
                // No number is equal to none.
                let is_same = Event::decode(read).unwrap() == event || format!("{event:?}").contains("NaN");
                assert!(is_same, "{bytes:x?}");
            }
            Some(Request::Config(config)) => {
                let interval = config.flush_interval.unwrap_or_default();
                let seconds_ms = u64::from(u32::try_from(interval.seconds).unwrap_or(0)) * 1000;
                let nanos_ms = u64::from(u32::try_from(interval.nanos).unwrap_or(0)) / 1_000_000;
                let expected = StreamedRequest::Config {
                    batch_size: u64::from(u32::try_from(config.batch_size).unwrap_or(0)),
                    flush_interval_ms: seconds_ms + nanos_ms,
                };
                assert_eq!(read, expected, "{bytes:x?}");
            }
        }
    }
    assert!(good > CASES / 20, "{good} were good: the property was hardly asked for");
}

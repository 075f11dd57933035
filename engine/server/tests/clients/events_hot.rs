//! Events on the hot lane of the real binary: who may send them, that plain ones never meet the cold lane, and that
//! both lanes say the same.

use http::Method;
use prost::Message;
use serde_json::{Value, json};
use tidegate_proto::analytics::v1::{
    Event, EventType, IngestEventRequest, IngestEventResponse, IngestEventsRequest, IngestEventsResponse,
    StreamEventsRequest, StreamEventsResponse, stream_events_request, stream_events_response,
};
use transports::ENDPOINTS;

use crate::harness::{Answer, H2Peer, Peer, Server, Start, framed, get, on_runtime};

const REST: &str = "/v1/events";
const REST_BATCH: &str = "/v1/events/batch";
const SERVICE: &str = "/analytics.v1.EventIngestionService";

/// Every hot route that takes events.
fn event_routes() -> Vec<&'static str> {
    let routes = ENDPOINTS.iter().map(|row| row.path);
    let routes: Vec<_> = routes.filter(|path| path.starts_with(REST) || path.starts_with(SERVICE)).collect();
    assert_eq!(routes.len(), 5, "a new route of events needs a body in `plain_body`: {routes:?}");
    routes
}

fn is_grpc(path: &str) -> bool {
    path.starts_with(SERVICE)
}

fn event(id: &str) -> Event {
    Event {
        id: id.to_owned(),
        user_id: "u".to_owned(),
        event_type: EventType::User.into(),
        ..Event::default()
    }
}

fn event_json(id: &str) -> Value {
    json!({"id": id, "user_id": "u", "event_type": "EVENT_TYPE_USER"})
}

/// A good request with one event for a route.
fn plain_body(path: &str, id: &str) -> Vec<u8> {
    let streamed =
        |event| StreamEventsRequest { request: Some(stream_events_request::Request::Event(event)) };
    match path.strip_prefix(SERVICE) {
        Some("/IngestEvent") => {
            framed(0, &IngestEventRequest { event: Some(event(id)), options: None }.encode_to_vec())
        }
        Some("/IngestEvents") => {
            framed(0, &IngestEventsRequest { events: vec![event(id)], options: None }.encode_to_vec())
        }
        Some("/StreamEvents") => framed(0, &streamed(event(id)).encode_to_vec()),
        Some(other) => panic!("no body for {other}"),
        None if path == REST => event_json(id).to_string().into_bytes(),
        None => json!({"events": [event_json(id)]}).to_string().into_bytes(),
    }
}

fn over_http1(server: &Server, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    let content_type = if is_grpc(path) { "application/grpc" } else { "application/json" };
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    peer.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         {fields}\r\n",
        body.len()
    ));
    peer.send(body);
    peer.answer(false).unwrap()
}

/// HTTP status, and for gRPC its own status.
async fn over_http2(
    peer: &mut H2Peer,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> (u16, Option<u32>, Vec<u8>) {
    let answer = if is_grpc(path) {
        peer.call(path, fields, body).await.unwrap()
    } else {
        let fields = [&[("content-type", "application/json")], fields].concat();
        peer.ask(Method::POST, path, &fields, body).await.unwrap()
    };
    (answer.status.as_u16(), answer.grpc_status(), answer.body)
}

/// Requests that the cold lane was handed so far, without the one that asks.
fn cold_calls(server: &Server) -> u64 {
    let page = get(server.gateway(), "/metrics");
    let count = page.text().lines().find_map(|line| line.strip_prefix("tidegate_cold_calls_total "));
    count.unwrap().parse::<f64>().unwrap() as u64
}

/// How many requests the cold lane is handed while this is done.
fn cold_calls_of(server: &Server, act: impl FnOnce()) -> u64 {
    let before = cold_calls(server);
    act();
    // One is the second look.
    cold_calls(server) - before - 1
}

#[test]
fn every_event_route_asks_for_a_key_over_every_protocol_and_takes_nothing_without() {
    let server = Start::new().variable("API_KEYS", "one,two").variable("AUTH_TOKENS", "secret").run();
    let good =
        [[("x-api-key", "two")], [("authorization", "Bearer secret")], [("authorization", "bearer one")]];
    let bad: [&[(&str, &str)]; 6] = [
        &[],
        &[("x-api-key", "")],
        &[("x-api-key", "three")],
        &[("authorization", "Bearer two2")],
        &[("authorization", "Basic one two")],
        // The key counts, not the token beside it.
        &[("x-api-key", "three"), ("authorization", "Bearer secret")],
    ];
    on_runtime(async {
        for path in event_routes() {
            let address = if is_grpc(path) { server.grpc() } else { server.gateway() };
            let mut peer = H2Peer::connect(address).await;
            for fields in bad {
                let body = plain_body(path, "bad");
                let (status, grpc_status, _) = over_http2(&mut peer, path, fields, &body).await;
                let expected = if is_grpc(path) { (200, Some(16)) } else { (401, None) };
                assert_eq!((status, grpc_status), expected, "{path} {fields:?}");
                // In pieces, and never ended: the answer does not wait for it.
                if !is_grpc(path) {
                    let answer = over_http1(&server, path, fields, &body);
                    assert_eq!(
                        (answer.status, &answer.json()["code"]),
                        (401, &16.into()),
                        "{path} {fields:?}"
                    );
                }
            }
        }
        assert_eq!(server.received(), (0, 0, 0), "nothing was taken");
        let mut sent = 0;
        for path in event_routes() {
            let address = if is_grpc(path) { server.grpc() } else { server.gateway() };
            let mut peer = H2Peer::connect(address).await;
            for fields in &good {
                sent += 1;
                let body = plain_body(path, &format!("good-{sent}"));
                let (status, grpc_status, _) = over_http2(&mut peer, path, fields, &body).await;
                let expected = if is_grpc(path) { (200, Some(0)) } else { (200, None) };
                assert_eq!((status, grpc_status), expected, "{path} {fields:?}");
                if !is_grpc(path) {
                    sent += 1;
                    let body = plain_body(path, &format!("good-{sent}"));
                    assert_eq!(over_http1(&server, path, fields, &body).status, 200, "{path} {fields:?}");
                }
            }
        }
        assert_eq!(server.received(), (sent, sent, 0));
    });
}

#[test]
fn plain_events_never_meet_the_cold_lane_and_unusual_ones_do() {
    let server = Server::start();
    for path in event_routes() {
        let plain = cold_calls_of(&server, || {
            on_runtime(async {
                let mut peer = H2Peer::connect(server.gateway()).await;
                let (status, grpc_status, body) =
                    over_http2(&mut peer, path, &[], &plain_body(path, path)).await;
                assert_eq!((status, grpc_status.unwrap_or(0)), (200, 0), "{path}: {body:?}");
            });
            if !is_grpc(path) {
                assert_eq!(over_http1(&server, path, &[], &plain_body(path, "again")).status, 200);
            }
        });
        assert_eq!(plain, 0, "{path}");
    }
    let unusual: [(&str, &str); 5] = [
        (REST, r#"{"event":{"user_id":"u","event_type":1},"options":{}}"#),
        (REST, r#"{"user_id":"u","event_type":"EVENT_TYPE_USER","timestamp":"2026-05-29T10:00:00+02:00"}"#),
        (
            REST,
            r#"{"user_id":"u","event_type":1,"transaction_event":{"transaction_id":"t","amount":"1.5","currency":"EUR"}}"#,
        ),
        (REST_BATCH, r#"{"events":[{"user_id":"u","event_type":1}],"options":{}}"#),
        (REST_BATCH, r#"{"events":[{"user_id":"u","event_type":"1"}]}"#),
    ];
    for (path, body) in unusual {
        let calls = cold_calls_of(&server, || {
            let answer = over_http1(&server, path, &[], body.as_bytes());
            assert!(answer.status == 200 || answer.status == 400, "{body}: {}", answer.text());
        });
        assert_eq!(calls, 1, "{body}");
    }
}

/// Without what differs from one request to the next.
fn lasting(mut value: Value) -> Value {
    let metadata = value["metadata"].as_object_mut().unwrap();
    let names: Vec<String> = metadata.keys().cloned().collect();
    assert!(!names.is_empty());
    for name in names {
        if name != "processingNode" {
            // That it is there, and of which kind, is the same.
            let kind = if metadata[&name].is_string() { "text" } else { "other" };
            metadata[&name] = kind.into();
        }
    }
    if value["eventId"].as_str().is_some_and(|id| id.len() == 36) {
        value["eventId"] = "an id of ours".into();
    }
    value
}

#[test]
fn both_lanes_answer_a_good_event_alike_over_rest() {
    let server = Server::start();
    for event in [
        r#"{"id":"ID","user_id":"u","event_type":"EVENT_TYPE_USER"}"#,
        r#"{"user_id":"u","event_type":"EVENT_TYPE_USER"}"#,
        r#"{"id":"ID ü \" \\","userId":"u","eventType":4,"customEvent":{"name":"n"},"properties":{"a":"b"}}"#,
    ] {
        let (hot, cold) = (event.replace("ID", "h"), event.replace("ID", "h2"));
        let (mut answers, mut texts) = (Vec::new(), Vec::new());
        for (expected, body) in
            [(0, hot), (1, format!(r#"{{"event":{cold},"options":{{}}}}"#).replace("h2", "k"))]
        {
            let mut answer = None;
            let calls =
                cold_calls_of(&server, || answer = Some(over_http1(&server, REST, &[], body.as_bytes())));
            let answer = answer.unwrap();
            assert_eq!((calls, answer.status), (expected, 200), "{body}: {}", answer.text());
            let mut names: Vec<String> = answer.fields.iter().map(|(name, _)| name.to_lowercase()).collect();
            names.sort();
            texts.push((answer.field("content-type").map(str::to_owned), names));
            let text = answer.text().replace(r#""eventId":"k"#, r#""eventId":"h"#);
            answers.push(lasting(serde_json::from_str(&text).unwrap()));
        }
        assert_eq!(answers[0], answers[1], "{event}");
        assert_eq!(texts[0], texts[1], "{event}");
    }
    let batch = |options: &str, id: &str| {
        format!(r#"{{"events":[{{"id":"{id}","user_id":"u","event_type":1}}]{options}}}"#)
    };
    let [hot, cold] = [batch("", "hot"), batch(r#","options":{}"#, "cold")]
        .map(|body| lasting(over_http1(&server, REST_BATCH, &[], body.as_bytes()).json()));
    assert_eq!(hot, cold);
}

#[test]
fn both_lanes_answer_a_good_event_alike_over_grpc() {
    let server = Server::start();
    // A field that comes twice is unusual, and means the same.
    let said_twice = |id: &str| {
        let (mut once, id) = (event(id).encode_to_vec(), id.as_bytes());
        once.extend_from_slice(&[0x0a, u8::try_from(id.len()).unwrap()]);
        [&once, id].concat()
    };
    // One event is field 1 of a request for one and of a request for many.
    let request = |id: &str, twice: bool| {
        let event = if twice { said_twice(id) } else { event(id).encode_to_vec() };
        framed(0, &[&[0x0a, u8::try_from(event.len()).unwrap()], event.as_slice()].concat())
    };
    let calls = cold_calls(&server);
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let mut said = Vec::new();
        for (twice, id) in [(false, "same-1"), (true, "same-2")] {
            let body = request(id, twice);
            let answer = peer.call(&format!("{SERVICE}/IngestEvent"), &[], &body).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
            let mut response = IngestEventResponse::decode(&answer.body[5..]).unwrap();
            assert_eq!(std::mem::take(&mut response.event_id), id);
            let metadata = response.metadata.as_mut().unwrap();
            assert!(metadata.processed_at.take().is_some());
            metadata.processing_time = None;
            said.push((response, answer.head.contains_key("x-request-id")));
        }
        assert_eq!(said[0], said[1]);
        let mut said = Vec::new();
        for (twice, id) in [(false, "same-3"), (true, "same-4")] {
            let body = request(id, twice);
            let answer = peer.call(&format!("{SERVICE}/IngestEvents"), &[], &body).await.unwrap();
            let mut response = IngestEventsResponse::decode(&answer.body[5..]).unwrap();
            let metadata = response.metadata.as_mut().unwrap();
            assert!(metadata.processed_at.take().is_some());
            metadata.processing_time = None;
            said.push(response);
        }
        assert_eq!(said[0], said[1]);
    });
    assert_eq!(cold_calls(&server) - calls - 1, 2, "one of each two was for the cold lane");
}

#[test]
fn what_is_no_plain_unary_call_gets_the_code_it_deserves() {
    let server = Server::start();
    let path = format!("{SERVICE}/IngestEvent");
    let good = plain_body(&path, "e");
    let cases: [(&str, Vec<u8>, u32); 5] = [
        ("two messages", [good.clone(), good.clone()].concat(), 12),
        ("half a message", good[..9].to_vec(), 13),
        ("a broken protobuf", framed(0, b"\x0a\x05x"), 13),
        ("a flag that there is not", framed(2, &good[5..]), 13),
        ("compressed by nothing", framed(1, &good[5..]), 13),
    ];
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for (what, body, code) in cases {
            let answer = peer.call(&path, &[], &body).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(code), "{what}: {}", answer.grpc_message());
        }
        let answer = peer.call(&path, &[], b"").await.unwrap();
        assert_eq!(answer.grpc_status(), Some(12), "no message: {}", answer.grpc_message());
    });
    assert_eq!(server.received(), (0, 0, 0));
}

/// Events that protobuf can frame and nobody can take: what is wrong, their bytes, how the answer says it, and the id
/// that can be read all the same.
fn events_with_wrong_values() -> [(&'static str, Vec<u8>, &'static str, &'static str); 3] {
    let deep = [event("wrong").encode_to_vec(), vec![0x7b; 101], vec![0x7c; 101]].concat();
    [
        (
            "a user that is no UTF-8",
            b"\x0a\x05wrong\x12\x01\xff\x20\x01".to_vec(),
            "Event.user_id: ",
            "wrong",
        ),
        (
            "a text within a text that is none",
            [event("wrong").encode_to_vec(), b"\x52\x03\x0a\x01\x80".to_vec()].concat(),
            "UserEvent.action: ",
            "wrong",
        ),
        ("groups deeper than 100", deep, "recursion limit", ""),
    ]
}

/// Field 1 of a message.
fn field_1(value: &[u8]) -> Vec<u8> {
    let mut message = vec![0x0a];
    prost::encode_length_delimiter(value.len(), &mut message).unwrap();
    message.extend_from_slice(value);
    message
}

#[test]
fn a_text_that_is_not_utf8_is_an_invalid_argument_of_a_unary_call() {
    let server = Server::start();
    let legacy = "/analytics.ProducerService";
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for (what, event, says, _) in events_with_wrong_values() {
            let good = plain_body(&format!("{SERVICE}/IngestEvents"), "good")[5..].to_vec();
            for (path, request) in [
                (format!("{SERVICE}/IngestEvent"), field_1(&event)),
                (format!("{SERVICE}/IngestEvents"), [good, field_1(&event)].concat()),
            ] {
                let answer = peer.call(&path, &[], &framed(0, &request)).await.unwrap();
                let message = answer.grpc_message();
                assert_eq!(answer.grpc_status(), Some(3), "{path}, {what}: {message}");
                assert!(message.starts_with("request message: ") && message.contains(says), "{message}");
            }
        }
        let event = b"\x0a\x01e\x12\x01\xff\x1a\x01t";
        for (path, request) in [
            (format!("{legacy}/SendEvent"), event.to_vec()),
            (format!("{legacy}/SendBatchEvents"), field_1(event)),
            ("/analytics.v1.AnalyticsService/GetUserAnalytics".to_owned(), b"\x0a\x01\xff".to_vec()),
        ] {
            let answer = peer.call(&path, &[], &framed(0, &request)).await.unwrap();
            let message = answer.grpc_message();
            assert_eq!(answer.grpc_status(), Some(3), "{path}: {message}");
            assert!(message.contains("user_id: ") && message.contains("UTF-8"), "{path}: {message}");
        }
    });
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn a_text_that_is_not_utf8_is_answered_in_its_turn_and_its_stream_goes_on() {
    let server = Server::start();
    let path = format!("{SERVICE}/StreamEvents");
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for (what, event, says, id) in events_with_wrong_values() {
            let [before, after] = ["before", "after"].map(|id| plain_body(&path, &format!("{id}, {what}")));
            let body = [before, framed(0, &field_1(&event)), after].concat();
            let answer = peer.call(&path, &[], &body).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(0), "{what}: {}", answer.grpc_message());
            let (mut rest, mut answers) = (answer.body.as_slice(), Vec::new());
            while let Some((prefix, behind)) = rest.split_first_chunk::<5>() {
                let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                let response = StreamEventsResponse::decode(&behind[..length]).unwrap().response;
                if let Some(stream_events_response::Response::EventResponse(response)) = response {
                    answers.push(response);
                }
                rest = &behind[length..];
            }
            let stored: Vec<bool> = answers.iter().map(|answer| answer.success).collect();
            assert_eq!(stored, [true, false, true], "{what}");
            let wrong = &answers[1].validation_errors[0];
            assert_eq!(
                (answers[1].event_id.as_str(), wrong.field.as_str(), wrong.code.as_str()),
                (id, "events[1]", "INVALID"),
                "{what}"
            );
            assert!(wrong.message.contains(says), "{wrong:?}");
        }
        // What is no event at all ends it.
        let broken = framed(0, &field_1(b"\x0a\x05x"));
        let answer = peer.call(&path, &[], &broken).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(13), "{}", answer.grpc_message());
    });
    assert_eq!(server.received(), (6, 6, 0));
}

#[test]
fn a_batch_larger_than_the_queue_is_taken_in_pieces() {
    let server = Start::new().set("queue.size=16").run();
    let events: Vec<Value> = (0..1000).map(|number| event_json(&format!("e-{number}"))).collect();
    let body = json!({"events": events}).to_string();
    let answer = over_http1(&server, REST_BATCH, &[], body.as_bytes());
    assert_eq!((answer.status, &answer.json()["processedCount"]), (200, &1000.into()), "{}", answer.text());
    let events: Vec<Value> = (0..1001).map(|number| event_json(&format!("f-{number}"))).collect();
    let body = json!({"events": events}).to_string();
    let answer = over_http1(&server, REST_BATCH, &[], body.as_bytes());
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("1000"), "{}", answer.text());
}

#[test]
fn events_reach_the_level_that_was_asked_for() {
    let folder = crate::harness::Scratch::new();
    let directory = format!("data.directory={}", folder.path().join("data").display());
    let server = Start::new().set("queue.type=log").set(&directory).run();
    for (asked, reached) in [(None, "durable"), (Some("queued"), "queued"), (Some("durable"), "durable")] {
        for path in [REST, REST_BATCH] {
            let fields: Vec<(&str, &str)> = asked.map(|asked| ("tidegate-ack", asked)).into_iter().collect();
            // An event with an id is waited for, so that its answer can say whether it came before.
            let answer = over_http1(&server, path, &fields, &plain_body(path, ""));
            assert_eq!(
                (answer.status, answer.field("tidegate-ack")),
                (200, Some(reached)),
                "{path} {asked:?}"
            );
        }
    }
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for path in event_routes().into_iter().filter(|path| is_grpc(path)) {
            let answer = peer.call(path, &[], &plain_body(path, path)).await.unwrap();
            assert_eq!(
                (answer.grpc_status(), answer.grpc_field("tidegate-ack")),
                (Some(0), Some("durable")),
                "{path}"
            );
        }
    });
}

#[test]
fn a_stream_on_a_server_that_stops_is_answered_and_the_server_ends() {
    let server = Start::new().set("timeouts.shutdown=3s").run();
    let path = format!("{SERVICE}/StreamEvents");
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let (answer, mut stream) = peer.open(Method::POST, &path, &fields, false).await.unwrap();
        stream.send_data(plain_body(&path, "last").into(), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let first = crate::harness::patiently(body.data()).await.unwrap().unwrap();
        let first = StreamEventsResponse::decode(&first[5..]).unwrap();
        assert!(format!("{first:?}").contains("last"), "{first:?}");
        let end = tokio::task::spawn_blocking(move || server.stop()).await.unwrap();
        assert_eq!((end.accepted, end.processed, end.lost), (1, 1, 0));
    });
}

#[test]
fn a_conflict_in_a_batch_is_named_by_its_place_in_both_lanes() {
    let server = Server::start();
    assert_eq!(over_http1(&server, REST, &[], event_json("taken").to_string().as_bytes()).status, 200);
    let other = json!({"id": "taken", "user_id": "u", "event_type": 1, "source": "another"});
    for (options, name) in [("", "hot"), (r#","options":{}"#, "cold")] {
        let [first, last] = ["first", "last"].map(|which| event_json(&format!("{name}-{which}")));
        let body = format!(r#"{{"events":[{first},{last},{other}]{options}}}"#);
        let mut answer = None;
        let calls =
            cold_calls_of(&server, || answer = Some(over_http1(&server, REST_BATCH, &[], body.as_bytes())));
        let answer = answer.unwrap().json();
        assert_eq!(calls, u64::from(name == "cold"));
        assert_eq!((&answer["processedCount"], &answer["failedEventIds"]), (&2.into(), &json!(["taken"])));
        let error = &answer["validationErrors"][0];
        assert_eq!((&error["field"], &error["code"]), (&"events[2].id".into(), &"ALREADY_EXISTS".into()));
        // When it is all there is.
        let body = format!(r#"{{"events":[{other}]{options}}}"#);
        let answer = over_http1(&server, REST_BATCH, &[], body.as_bytes());
        let message = answer.json()["message"].clone();
        assert_eq!(answer.status, 409);
        assert!(message.as_str().unwrap().starts_with("events[0].id: "), "{message}");
    }
    on_runtime(async {
        let other = Event { source: "another".to_owned(), ..event("taken") };
        let request = IngestEventsRequest { events: vec![event("grpc"), other], options: None };
        let mut peer = H2Peer::connect(server.grpc()).await;
        let body = framed(0, &request.encode_to_vec());
        let answer = peer.call(&format!("{SERVICE}/IngestEvents"), &[], &body).await.unwrap();
        let response = IngestEventsResponse::decode(&answer.body[5..]).unwrap();
        assert_eq!(response.validation_errors[0].field, "events[1].id");
    });
}

#[test]
fn a_stream_of_messages_takes_no_key_that_is_for_one() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for service in ["/diplom.v1.IngestService", "/IngestService"] {
            let key = [("idempotency-key", "k-1")];
            let two = framed(0, b"\x12\x01a").repeat(2);
            let answer = peer.call(&format!("{service}/IngestStream"), &key, &two).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(3), "{service}");
            assert!(answer.grpc_message().starts_with("idempotency-key: "), "{}", answer.grpc_message());
            let answer = peer.call(&format!("{service}/IngestStream"), &[], &two).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(0), "{service}");
        }
    });
    assert_eq!(server.received(), (4, 4, 0));
}

#[test]
fn an_event_without_an_id_goes_by_the_requests_key_in_both_lanes() {
    let server = Server::start();
    let event = json!({"user_id": "u", "event_type": 1});
    for (lane, body) in
        [("hot", event.to_string()), ("cold", json!({"event": event, "options": {}}).to_string())]
    {
        let key = format!("key-{lane}");
        let said: Vec<Value> = (0..2)
            .map(|_| over_http1(&server, REST, &[("idempotency-key", &key)], body.as_bytes()).json())
            .collect();
        assert_eq!((&said[0]["eventId"], &said[0]["message"]), (&key.as_str().into(), &"accepted".into()));
        assert_eq!((&said[1]["eventId"], &said[1]["message"]), (&key.as_str().into(), &"duplicate".into()));
        let answer = over_http1(&server, REST, &[("idempotency-key", "two words")], body.as_bytes());
        let message = answer.json()["message"].clone();
        assert_eq!(answer.status, 400, "{message}");
        assert!(message.as_str().unwrap().starts_with("idempotency-key: "), "{message}");
    }
}

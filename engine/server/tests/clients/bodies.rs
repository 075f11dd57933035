//! What is asked in a way that only nearly fits, and what of an answer beside its body says so.

use prost_reflect::DescriptorPool;
use tidegate::events::OLDER_BATCH_PATHS;
use transports::ENDPOINTS;

use crate::harness::{
    Answer, H2Peer, Peer, Server, Start, eventually, get, on_runtime, patiently, post_json, read, send_all,
};

/// Every path that reads JSON from a body: the hot lane's, those of the API's description, the older systems' batches, and
/// the methods of `analytics.v1` under their gRPC names.
fn paths(described: &serde_json::Value) -> Vec<String> {
    let hot = ENDPOINTS.iter().filter(|row| row.method == "POST").map(|row| row.path.to_owned());
    let described = described["paths"].as_object().unwrap().iter();
    let described = described.filter(|(_, item)| item["post"].is_object()).map(|(path, _)| path.clone());
    let pool = DescriptorPool::decode(tidegate_proto::FILE_DESCRIPTOR_SET).unwrap();
    let methods = pool.services().filter(|service| service.package_name() == "analytics.v1");
    let methods: Vec<String> = methods
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
        // Asked with google.protobuf.Empty.
        .filter(|path| !path.ends_with("/Health"))
        .collect();
    assert!(methods.len() >= 10, "{methods:?}");
    let mut paths: Vec<String> =
        hot.chain(described).chain(methods).chain(OLDER_BATCH_PATHS.map(str::to_owned)).collect();
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn no_route_takes_an_array_for_an_object() {
    let server = Start::new().run();
    let paths = paths(&get(server.gateway(), "/openapi.json").json());
    assert!(paths.len() >= 30, "{paths:?}");
    // The last ones are whole objects' fields in the order of their declarations, once and nested.
    let event = r#"["e-1","u","page_view",{"a":"b"},0,"web"]"#;
    let bodies = [
        "[]".to_owned(),
        r#"["hello"]"#.to_owned(),
        r#"["hello",{"a":"b"}]"#.to_owned(),
        r#"["id-1",1,"web","aGk=",{}]"#.to_owned(),
        event.to_owned(),
        format!("[[{event}]]"),
        format!(r#"{{"events":[{event}]}}"#),
        format!(r#"{{"event":{event}}}"#),
    ];
    let mut taken = Vec::new();
    for path in &paths {
        // What is gRPC only says so.
        let is_grpc = path.contains("Service/") && !path.contains("analytics.v1.");
        for body in &bodies {
            // What has unknown fields only is an object all the same.
            if body.starts_with('{') && (path.contains("analytics.v1.") || !path.contains("event")) {
                continue;
            }
            let answer = post_json(server.gateway(), path, body);
            if answer.status != if is_grpc { 415 } else { 400 } {
                taken.push(format!("{path} {body}: {} {}", answer.status, answer.text()));
            }
        }
    }
    assert!(taken.is_empty(), "{}", taken.join("\n"));
    let stats = get(server.ingest(), "/stats").json();
    assert_eq!(stats["messages_sent"], 0, "{stats}");
}

#[test]
fn a_line_that_is_an_array_is_no_event() {
    let server = Start::new().run();
    for path in OLDER_BATCH_PATHS.into_iter().chain(["/v1/events/batch"]) {
        let mut peer = Peer::connect(server.gateway());
        let body = "[\"e-1\",\"u\",\"page_view\"]\n";
        peer.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer = peer.answer(false).unwrap();
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
}

/// A POST without a content type.
fn post_untyped(server: &Server, path: &str, fields: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(server.gateway());
    peer.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ));
    peer.answer(false).unwrap()
}

#[test]
fn json_without_a_content_type_is_answered_in_json_or_told_that_it_is_not_grpc() {
    let server = Start::new().run();
    let event = r#"{"event":{"id":"e-1","user_id":"u","event_type":"EVENT_TYPE_USER"}}"#;
    for fields in ["", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let answer = post_untyped(&server, "/analytics.v1.EventIngestionService/IngestEvent", fields, event);
        assert_eq!((answer.status, &answer.json()["success"]), (200, &true.into()), "{}", answer.text());
        let answer = post_untyped(&server, "/analytics.v1.AnalyticsService/GetTimeSeries", fields, "{}");
        assert_eq!((answer.status, &answer.json()["code"]), (400, &3.into()), "{}", answer.text());
        for path in [
            "/analytics.ProducerService/SendEvent",
            "/analytics.ConsumerService/GetConsumerStats",
            "/grpc.health.v1.Health/Check",
        ] {
            let answer = post_untyped(&server, path, fields, event);
            assert_eq!(answer.status, 415, "{path}: {}", answer.text());
            assert!(answer.json()["error"].as_str().unwrap().contains("application/grpc"));
        }
    }
}

#[test]
fn a_key_may_come_as_grpc_metadata_over_rest() {
    let server = Start::new().variable("API_KEYS", "one").variable("AUTH_TOKENS", "two").run();
    let event = r#"{"user_id":"u","event_type":"EVENT_TYPE_USER"}"#;
    for (field, status) in [
        ("Grpc-Metadata-X-Api-Key: one\r\n", 200),
        ("grpc-metadata-x-api-key: one\r\n", 200),
        ("Grpc-Metadata-Authorization: Bearer two\r\n", 200),
        ("Grpc-Metadata-X-Api-Key: three\r\n", 401),
        // What comes without the prefix counts more.
        ("X-Api-Key: three\r\nGrpc-Metadata-X-Api-Key: one\r\n", 401),
    ] {
        let answer = post_untyped(&server, "/v1/events", field, event);
        assert_eq!(answer.status, status, "{field}: {}", answer.text());
        let body = format!(r#"{{"events":[{event}]}}"#);
        assert_eq!(post_untyped(&server, "/v1/events/batch", field, &body).status, status, "{field}");
        let mut peer = Peer::connect(server.gateway());
        peer.send(format!("GET /v1/analytics/summary HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"));
        assert_eq!(peer.answer(false).unwrap().status, status, "{field}");
    }
}

#[test]
fn a_wrong_time_in_a_query_is_said_to_be_in_the_query() {
    let server = Start::new().run();
    for path in [
        "/v1/analytics/summary?time_range.start=yesterday",
        "/v1/analytics/timeseries?metric=events&time_range.end=2026-13-01T00:00:00Z",
        "/v1/analytics/users/u?timeRange.start=1",
        "/v1/metrics?time_range.start=",
        "/v1/analytics/realtime?window_seconds=99999999999999",
    ] {
        let answer = get(server.gateway(), path);
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{path}: {message}");
        assert!(!message.contains("body"), "{path}: {message}");
        let names_it = message.to_lowercase().contains("range.") || message.starts_with("query: ");
        assert!(names_it, "{path}: {message}");
    }
}

#[test]
fn of_an_older_batch_the_status_says_whether_any_of_it_was_stored() {
    let server = Start::new().run();
    let (good, wrong) = (r#"{"id":"e-1","event_type":"page_view"}"#, r#"{"id":"","event_type":""}"#);
    for path in OLDER_BATCH_PATHS {
        for (events, status, stored) in [
            ("".to_owned(), 400, None),
            (wrong.to_owned(), 400, Some(0)),
            (format!("{good},{wrong}"), 200, Some(1)),
            (format!("{{}},{wrong}"), 400, Some(0)),
        ] {
            let answer = post_json(server.ingest(), path, &format!(r#"{{"events":[{events}]}}"#));
            assert_eq!(answer.status, status, "{path} {events}: {}", answer.text());
            assert_eq!(answer.field("retry-after"), (status == 503).then_some("1"), "{path} {events}");
            if let Some(stored) = stored {
                let body = answer.json();
                assert_eq!((&body["processed_count"], &body["success"]), (&stored.into(), &false.into()));
            }
        }
    }
}

#[test]
fn whatever_is_refused_for_now_says_when_to_retry() {
    // A level that cannot be reached at the moment: nobody listens where NATS should be.
    let server = Start::new()
        .set("queue.type=nats")
        .variable("NATS_URL", "nats://127.0.0.1:1")
        .set("ack.default=delivered")
        .run();
    let event = r#"{"id":"e-1","user_id":"u","event_type":"EVENT_TYPE_USER"}"#;
    let (one, many) = (event.to_owned(), format!(r#"{{"events":[{event}]}}"#));
    let data = r#"{"data":"x"}"#.to_owned();
    let cases = [
        ("/events", &one),
        ("/events/batch", &many),
        ("/batch", &many),
        ("/v1/events", &one),
        ("/v1/events/batch", &many),
        ("/api/v1/events/user", &data),
        ("/api/v1/ingest", &data),
        ("/ingest", &data),
    ];
    eventually("delivered cannot be reached", || {
        (get(server.gateway(), "/ready").status == 503).then_some(())
    });
    for (path, body) in cases {
        let answer = post_json(server.gateway(), path, body);
        assert!(matches!(answer.status, 503 | 429), "{path}: {} {}", answer.status, answer.text());
        assert_eq!(answer.field("retry-after"), Some("1"), "{path}: {}", answer.text());
        let over_2 = on_runtime(async {
            let mut peer = H2Peer::connect(server.gateway()).await;
            peer.post(path, body.as_bytes()).await.unwrap()
        });
        assert!(matches!(over_2.status.as_u16(), 503 | 429), "{path}");
        assert_eq!(over_2.head["retry-after"], "1", "{path}");
    }
    for path in ["/ready", "/health"] {
        let answer = get(server.gateway(), path);
        assert_eq!(answer.field("retry-after"), (answer.status == 503).then_some("1"), "{path}");
    }
}

/// How often a bound was hit.
fn hits(server: &Server, reason: &str) -> u64 {
    let page = get(server.gateway(), "/metrics");
    let line = format!("tidegate_limit_hits_total{{reason=\"{reason}\"}} ");
    page.text().lines().find_map(|known| known.strip_prefix(&line)).unwrap_or("0").parse().unwrap()
}

#[test]
fn what_has_no_room_is_told_to_come_again_and_is_not_counted_as_too_large_over_every_protocol() {
    const ALMOST: usize = 10 << 20;
    let server = Start::new().argument("--cores").argument("1").run();
    // Bodies that never end, until there is no room for another.
    let (mut open, mut refused) = (Vec::new(), None);
    while refused.is_none() && open.len() < 100 {
        let mut peer = Peer::connect(server.gateway());
        peer.send(format!("POST /ingest HTTP/1.1\r\nHost: h\r\nContent-Length: {ALMOST}\r\n\r\n"));
        peer.send_if_open(vec![b'x'; ALMOST - 1]);
        // Its turn comes before the answer to this one.
        get(server.gateway(), "/livez");
        if peer.has_input() { refused = peer.answer(false) } else { open.push(peer) }
    }
    let answer = refused.expect("there is a bound");
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(answer.json()["code"], "RESOURCE_EXHAUSTED", "{}", answer.text());
    let counted = hits(&server, "body_room");
    assert!(counted > 0 && hits(&server, "too_large") == 0);
    on_runtime(async {
        let mut seen = counted;
        for (path, content_type) in [
            ("/ingest", "application/json"),
            ("/v1/events", "application/json"),
            ("/diplom.v1.IngestService/Ingest", "application/grpc"),
            ("/analytics.v1.EventIngestionService/IngestEvent", "application/grpc"),
        ] {
            let mut peer = H2Peer::connect(server.gateway()).await;
            let fields = [("content-type", content_type), ("te", "trailers")];
            // A gRPC prefix that promises as much as is allowed; to JSON it is a body like any other.
            let mut body = vec![0, 0, 0xa0, 0, 0];
            body.resize(ALMOST - 1, b'x');
            let is_grpc = content_type == "application/grpc";
            let (mut streams, mut answers) = (Vec::new(), tokio::task::JoinSet::new());
            for _ in 0..6 {
                let (answer, stream) = peer.open(http::Method::POST, path, &fields, false).await.unwrap();
                answers.spawn(read(answer));
                // A refusal of JSON comes behind its body.
                streams.push(tokio::spawn(send_all(stream, body.clone().into(), !is_grpc)));
            }
            let answer = loop {
                let answer = patiently(answers.join_next()).await.expect("one is refused").unwrap().unwrap();
                // What had room is no JSON.
                if answer.status != 400 {
                    break answer;
                }
            };
            if is_grpc {
                assert_eq!(answer.grpc_status(), Some(8), "{path}: {answer:?}");
                assert!(answer.grpc_message().contains("arriving at once"), "{path}: {answer:?}");
                assert!(answer.grpc_field("grpc-status-details-bin").is_some(), "{path}: {answer:?}");
            } else {
                let said = String::from_utf8_lossy(&answer.body);
                assert_eq!(answer.status, 503, "{path}: {said}");
                assert!(answer.head.contains_key("retry-after"), "{path}: {said}");
            }
            let counted = hits(&server, "body_room");
            assert!(counted > seen, "{path}: {counted} of {seen}");
            seen = counted;
        }
    });
    assert_eq!(hits(&server, "too_large"), 0);
}

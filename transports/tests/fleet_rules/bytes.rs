//! What reaches the worker is byte for byte what was sent.

use std::{collections::HashMap, io::Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use engine_core::PartitionKey;
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use serde_json::json;
use tidegate_proto::{
    compat,
    diplom::v1::{IngestRequest, IngestResponse},
};

use crate::harness::{H2Peer, TestFleet, Worked, framed, on_runtime, post};

/// Texts that a careless path would change.
const TEXTS: &[&str] = &[
    "",
    " leading and trailing ",
    "a\0b\u{1}\u{8}\t\n\r\u{1f}\u{7f}",
    "quote \" backslash \\ slash / ",
    "é 漢字 😀 \u{feff}\u{202e}\u{fffd}\u{10ffff}",
    "{\"not\":\"parsed\"}",
    "\\u0041 stays six characters",
];

fn one(fleet: &TestFleet) -> Worked {
    fleet.worked(1).remove(0)
}

#[test]
fn ingest_data_and_source_arrive_as_written() {
    for text in TEXTS {
        let fleet = TestFleet::open(1, PartitionKey::Arrival);
        let body = json!({"source": text, "data": text, "metadata": {*text: text}}).to_string();
        let answer = post(fleet.address, "/ingest", body.as_bytes());
        assert_eq!(answer.status, 200, "{body}");
        let worked = one(&fleet);
        assert_eq!(worked.payload, text.as_bytes());
        assert_eq!(worked.source, *text);
        assert_eq!(worked.metadata, [((*text).to_owned(), (*text).to_owned())]);
        assert_eq!(
            answer.json()["messageId"],
            worked.id.as_str(),
            "the id that was answered is the message's"
        );
    }
}

#[test]
fn escapes_are_undone_once() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    let body = br#"{"data":"\u0000\u0041\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t\\u0041","source":"\u0073"}"#;
    assert_eq!(post(fleet.address, "/ingest", body).status, 200);
    let worked = one(&fleet);
    assert_eq!(worked.payload, "\0Aé😀\"\\/\u{8}\u{c}\n\r\t\\u0041".as_bytes());
    assert_eq!(worked.source, "s");
}

#[test]
fn metadata_scalars_become_their_json_text() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    let body =
        br#"{"metadata":{"text":"v","int":1,"big":123456789012345678901234567890,"float":-0.10,"exp":1E300,
        "yes":true,"no":false,"null":null,"object":{ "a" : [ 1 , " x " ] },"list":[ ]}}"#;
    assert_eq!(post(fleet.address, "/ingest", body).status, 200);
    let worked = one(&fleet);
    for (key, value) in [
        ("text", Some("v")),
        ("int", Some("1")),
        ("big", Some("123456789012345678901234567890")),
        ("float", Some("-0.10")),
        ("exp", Some("1E300")),
        ("yes", Some("true")),
        ("no", Some("false")),
        ("null", None),
        ("object", Some(r#"{"a":[1," x "]}"#)),
        ("list", Some("[]")),
    ] {
        assert_eq!(worked.metadata(key), value, "{key}");
    }
    assert!(worked.payload.is_empty() && worked.source.is_empty());
}

#[test]
fn enqueue_keeps_the_callers_id_time_and_bytes() {
    let every_byte: Vec<u8> = (0..=255).collect();
    for timestamp in [json!(1_700_000_000), json!("1700000000")] {
        let fleet = TestFleet::open(1, PartitionKey::Arrival);
        let body = json!({
            "id": "the caller's own \u{1F600}",
            "timestamp": timestamp,
            "source": "go",
            "payload": STANDARD.encode(&every_byte),
            "metadata": {"k": "v", "a": "b"},
        });
        assert_eq!(post(fleet.address, "/enqueue", body.to_string().as_bytes()).status, 202);
        let worked = one(&fleet);
        assert_eq!(worked.id, "the caller's own \u{1F600}");
        assert_eq!(worked.timestamp_seconds, 1_700_000_000);
        assert_eq!(worked.source, "go");
        assert_eq!(worked.payload, every_byte);
        assert_eq!((worked.metadata("k"), worked.metadata("a")), (Some("v"), Some("b")));
    }
}

#[test]
fn enqueue_without_an_id_gets_ours() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    assert_eq!(post(fleet.address, "/enqueue", b"{}").status, 202);
    let worked = one(&fleet);
    assert_eq!(worked.id.len(), 36, "a UUID: {}", worked.id);
    assert!(worked.timestamp_seconds > 1_700_000_000, "now: {}", worked.timestamp_seconds);
}

#[test]
fn grpc_bytes_of_every_value_arrive() {
    let every_byte: Vec<u8> = (0..=255).cycle().take(1024).collect();
    let metadata: HashMap<String, String> = TEXTS
        .iter()
        .enumerate()
        .map(|(number, text)| (format!("{number}{text}"), (*text).to_owned()))
        .collect();
    let request =
        IngestRequest {
            source: "é 漢字".to_owned(), data: every_byte.clone(), metadata: metadata.clone()
        };
    let encoded = request.encode_to_vec();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&encoded).unwrap();
    let compressed = framed(1, &gzip.finish().unwrap());
    for service in ["/diplom.v1.IngestService/Ingest", "/diplom.v1.IngestService/IngestStream"] {
        for body in [framed(0, &encoded), compressed.clone()] {
            let fleet = TestFleet::open(1, PartitionKey::Arrival);
            let answer = on_runtime(async {
                let peer = H2Peer::connect(fleet.address).await;
                let request = http::Request::post(format!("http://{}{service}", fleet.address))
                    .header("content-type", "application/grpc")
                    .header("grpc-encoding", if body[0] == 1 { "gzip" } else { "identity" })
                    .header("te", "trailers")
                    .body(())
                    .unwrap();
                let (answer, mut stream) =
                    peer.requests.clone().ready().await.unwrap().send_request(request, false).unwrap();
                stream.send_data(body.clone().into(), true).unwrap();
                crate::harness::read(answer).await.unwrap()
            });
            assert_eq!(answer.field("grpc-status"), Some("0"), "{answer:?}");
            let worked = one(&fleet);
            assert_eq!(worked.payload, every_byte);
            assert_eq!(worked.source, "é 漢字");
            assert_eq!(worked.metadata.iter().cloned().collect::<HashMap<_, _>>(), metadata);
            if service.ends_with("Ingest") {
                assert_eq!(IngestResponse::decode(&answer.body[5..]).unwrap().message_id, worked.id);
            }
        }
    }
}

#[test]
fn text_of_the_service_without_a_package_arrives() {
    for text in TEXTS {
        let fleet = TestFleet::open(1, PartitionKey::Arrival);
        let request = compat::IngestRequest { data: (*text).to_owned(), ..Default::default() };
        let answer = on_runtime(async {
            let peer = H2Peer::connect(fleet.address).await;
            peer.post("/IngestService/Ingest", "application/grpc", &framed(0, &request.encode_to_vec())).await
        });
        assert_eq!(answer.field("grpc-status"), Some("0"), "{answer:?}");
        assert_eq!(one(&fleet).payload, text.as_bytes());
    }
}

#[test]
fn large_payloads_arrive_whole_over_every_protocol() {
    // Around the slab's classes and a frame's size, and far beyond; a pattern that shows a shift.
    for length in [255, 1023, 1024, 4096, 16_383, 16_384, 16_385, 65_535, 65_536, 1 << 20, 9 << 20] {
        let pattern: String =
            (0..length).map(|at| char::from(b'!' + u8::try_from(at % 89).unwrap())).collect();
        let pattern = pattern.replace(['"', '\\'], "_");
        let fleet = TestFleet::open(1, PartitionKey::Arrival);
        let body = format!(r#"{{"data":"{pattern}"}}"#);
        assert_eq!(post(fleet.address, "/ingest", body.as_bytes()).status, 200, "{length} over HTTP/1.1");
        on_runtime(async {
            let peer = H2Peer::connect(fleet.address).await;
            assert_eq!(
                peer.post("/ingest", "application/json", body.as_bytes()).await.status,
                200,
                "{length}"
            );
            let message =
                IngestRequest { data: pattern.clone().into_bytes(), ..Default::default() }.encode_to_vec();
            for path in ["/diplom.v1.IngestService/Ingest", "/diplom.v1.IngestService/IngestStream"] {
                let answer = peer.post(path, "application/grpc", &framed(0, &message)).await;
                assert_eq!(answer.field("grpc-status"), Some("0"), "{length}: {answer:?}");
            }
        });
        for worked in fleet.worked(4) {
            assert!(worked.payload == pattern.as_bytes(), "{length} bytes are not the same");
        }
    }
}

//! gRPC as tonic, grpcio, grpcurl and a plain HTTP/2 client speak it.

use std::{collections::HashMap, io::Write, net::SocketAddr, process::Command};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::Method;
use prost::Message;
use serde_json::Value;
use tidegate_proto::{
    compat,
    diplom::v1::{IngestRequest, IngestResponse, ingest_service_client::IngestServiceClient},
};
use tonic::{Code, codec::CompressionEncoding, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{H2Peer, Server, Start, framed, on_runtime, patiently, read, send_all, tool};

const UNARY: &str = "/diplom.v1.IngestService/Ingest";
const STREAM: &str = "/diplom.v1.IngestService/IngestStream";
const LIMIT: usize = 10 << 20;

async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn request(data: &[u8]) -> IngestRequest {
    let metadata = HashMap::from([("k".to_owned(), "v".to_owned())]);
    IngestRequest { source: "tonic".to_owned(), data: data.to_vec(), metadata }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn tonic_makes_a_unary_call_on_every_port() {
    let server = Server::start();
    on_runtime(async {
        for address in [server.grpc(), server.gateway(), server.ingest()] {
            let mut client = IngestServiceClient::new(channel(address).await);
            let answer = client.ingest(request(b"hello")).await.unwrap();
            assert_eq!(answer.metadata().get("tidegate-ack").unwrap(), "queued");
            let answer = answer.into_inner();
            assert_eq!(answer.status, "accepted");
            assert_eq!(uuid::Uuid::parse_str(&answer.message_id).unwrap().get_version_num(), 7);
        }
        let mut client =
            compat::ingest_service_client::IngestServiceClient::new(channel(server.grpc()).await);
        let text = compat::IngestRequest { data: "Hello gRPC".to_owned(), ..Default::default() };
        assert_eq!(client.ingest(text).await.unwrap().into_inner().status, "accepted");
    });
    assert_eq!(server.settled(), 4);
}

#[test]
fn tonic_streams_100_000_messages_as_one_batch() {
    let server = Server::start();
    const MESSAGES: u64 = 100_000;
    let answer = on_runtime(async {
        let mut client = IngestServiceClient::new(channel(server.grpc()).await);
        let messages = tokio_stream::iter((0..MESSAGES).map(|number| request(&number.to_le_bytes())));
        client.ingest_stream(messages).await.unwrap().into_inner()
    });
    assert_eq!(answer.message_id, format!("batch-{MESSAGES}"));
    assert_eq!(answer.status, "completed");
    assert_eq!(server.settled(), MESSAGES);
}

#[test]
fn an_empty_stream_is_a_batch_of_none() {
    let server = Server::start();
    let answer = on_runtime(async {
        let mut client = IngestServiceClient::new(channel(server.grpc()).await);
        client.ingest_stream(tokio_stream::empty()).await.unwrap().into_inner()
    });
    assert_eq!((answer.message_id.as_str(), answer.status.as_str()), ("batch-0", "completed"));
}

#[test]
fn the_first_bad_message_of_a_stream_ends_it_and_is_named() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let mut body = Vec::new();
        for _ in 0..3 {
            body.extend(framed(0, &request(b"good").encode_to_vec()));
        }
        body.extend(framed(0, b"\x0a\x02\xff\xff"));
        body.extend(framed(0, &request(b"never").encode_to_vec()));
        let answer = peer.call(STREAM, &[], &body).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(Code::InvalidArgument as u32), "{answer:?}");
        assert!(answer.grpc_message().contains('3'), "names its index: {}", answer.grpc_message());
    });
    assert_eq!(server.settled(), 3);
}

#[test]
fn tonic_compresses_its_messages() {
    let server = Server::start();
    on_runtime(async {
        let mut client =
            IngestServiceClient::new(channel(server.grpc()).await).send_compressed(CompressionEncoding::Gzip);
        // Numbers as text: they shrink to a third, well within the ratio of 100 that a bomb would exceed.
        let data = (0..100_000_u32).map(|number| format!("{number} ")).collect::<String>().into_bytes();
        assert_eq!(client.ingest(request(&data)).await.unwrap().into_inner().status, "accepted");
        let many = tokio_stream::iter((0..100).map(move |_| request(&data[..10_000])));
        assert_eq!(client.ingest_stream(many).await.unwrap().into_inner().message_id, "batch-100");
    });
    assert_eq!(server.settled(), 101);
}

#[test]
fn a_deadline_on_an_unfinished_stream_keeps_what_was_accepted() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "300m")];
        let (answer, mut stream) = peer.open(Method::POST, STREAM, &fields, false).await.unwrap();
        for _ in 0..7 {
            let message = Bytes::from(framed(0, &request(b"kept").encode_to_vec()));
            stream = send_all(stream, message, false).await.unwrap();
        }
        let answer = read(answer).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(Code::DeadlineExceeded as u32), "{answer:?}");
        // The stream is over, the connection is not.
        assert_eq!(peer.call(UNARY, &[], &framed(0, b"")).await.unwrap().grpc_status(), Some(0));
    });
    assert_eq!(server.settled(), 8);
    let end = server.stop();
    assert_eq!((end.exit_code, end.accepted, end.processed, end.lost), (Some(0), 8, 8, 0));
}

#[test]
fn a_malformed_timeout_is_refused_before_anything_is_taken() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let message = framed(0, &request(b"d").encode_to_vec());
        for timeout in ["soon", "1", "S", "123456789S", "-1S", "1.5S", "1s"] {
            let answer = peer.call(UNARY, &[("grpc-timeout", timeout)], &message).await.unwrap();
            assert!(answer.grpc_status().is_some_and(|status| status != 0), "{timeout}: {answer:?}");
        }
        let answer = peer.call(UNARY, &[("grpc-timeout", "99999999H")], &message).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(0), "{answer:?}");
    });
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn the_largest_message_is_taken_and_one_byte_more_is_resource_exhausted() {
    let server = Server::start();
    on_runtime(async {
        let mut client = IngestServiceClient::new(channel(server.grpc()).await);
        // Two bytes of tag and up to five of length stand before the data.
        let largest = IngestRequest { data: vec![7; LIMIT - 5], ..Default::default() };
        assert_eq!(largest.encoded_len(), LIMIT);
        assert_eq!(client.ingest(largest).await.unwrap().into_inner().status, "accepted");
        let larger = IngestRequest { data: vec![7; LIMIT - 4], ..Default::default() };
        let refused = client.ingest(larger).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains(&LIMIT.to_string()), "says the limit: {}", refused.message());
    });
    assert_eq!(server.settled(), 1);
}

#[test]
fn a_message_that_is_too_large_is_not_asked_for_again() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let answer = peer.call(UNARY, &[], &framed(0, &vec![0; LIMIT + 1])).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(Code::ResourceExhausted as u32), "{answer:?}");
        // It would be as large the next time: RetryInfo belongs to a full queue.
        let details = answer.grpc_field("grpc-status-details-bin").unwrap_or_default();
        assert!(
            !details.contains("UmV0cnlJbmZv")
                && !details.contains("JldHJ5SW5mb")
                && !details.contains("SZXRyeUluZm"),
            "{details}"
        );
    });
}

#[test]
fn a_length_over_the_limit_is_refused_from_its_five_bytes() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for path in [UNARY, STREAM] {
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            let (answer, stream) = peer.open(Method::POST, path, &fields, false).await.unwrap();
            let _open = send_all(stream, Bytes::from_static(b"\0\xff\xff\xff\xff"), false).await.unwrap();
            let answer = read(answer).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(Code::ResourceExhausted as u32), "{path}: {answer:?}");
        }
    });
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn a_bomb_is_refused_at_the_limit_of_its_plain_size() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let bomb = gzip(&IngestRequest { data: vec![0; 2 * LIMIT], ..Default::default() }.encode_to_vec());
        let answer = peer.call(UNARY, &[("grpc-encoding", "gzip")], &framed(1, &bomb)).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(Code::ResourceExhausted as u32), "{answer:?}");
    });
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn what_cannot_be_a_message_is_internal() {
    let server = Server::start();
    let good = framed(0, &request(b"d").encode_to_vec());
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for (what, fields, body) in [
            ("ends inside a message", vec![], good[..good.len() - 1].to_vec()),
            ("ends inside a prefix", vec![], good[..3].to_vec()),
            ("compressed without an encoding", vec![], framed(1, &gzip(b""))),
            ("flag 2", vec![], framed(2, b"")),
            ("flag 255", vec![], framed(255, b"")),
            ("no gzip", vec![("grpc-encoding", "gzip")], framed(1, b"no gzip at all")),
            ("invalid protobuf", vec![], framed(0, b"\x0a\x05ab")),
            ("invalid wire type", vec![], framed(0, b"\x0f\x00")),
            ("a field number of 0", vec![], framed(0, b"\x02\x00")),
        ] {
            for path in [UNARY, STREAM] {
                let answer = peer.call(path, &fields, &body).await.unwrap();
                assert_eq!(answer.grpc_status(), Some(Code::Internal as u32), "{path}, {what}: {answer:?}");
                assert!(!answer.grpc_message().is_empty(), "{path}, {what}: says what is wrong");
            }
        }
    });
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn text_that_is_not_utf8_and_nesting_over_100_are_invalid_arguments() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let source = framed(0, b"\x0a\x02\xff\xfe");
        let key = framed(0, b"\x1a\x03\x0a\x01\xff");
        let groups = framed(0, &[vec![0x7b; 101], vec![0x7c; 101]].concat());
        for body in [source, key, groups] {
            let answer = peer.call(UNARY, &[], &body).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(Code::InvalidArgument as u32), "{answer:?}");
        }
        // `data` is bytes in one service and text in the other.
        let data = framed(0, b"\x12\x02\xff\xfe");
        assert_eq!(peer.call(UNARY, &[], &data).await.unwrap().grpc_status(), Some(0));
        let answer = peer.call("/IngestService/Ingest", &[], &data).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(Code::InvalidArgument as u32), "{answer:?}");
        assert!(answer.grpc_field("grpc-status-details-bin").is_some(), "BadRequest is among the details");
    });
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn a_unary_call_carries_one_message() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let one = framed(0, &request(b"d").encode_to_vec());
        for body in [[one.clone(), one.clone()].concat(), Vec::new()] {
            let answer = peer.call(UNARY, &[], &body).await.unwrap();
            assert_eq!(
                answer.grpc_status(),
                Some(Code::Unimplemented as u32),
                "{} bytes: {answer:?}",
                body.len()
            );
        }
    });
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn an_unknown_method_is_unimplemented() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for path in
            ["/diplom.v1.IngestService/Nothing", "/nobody.Service/Method", "/grpc.health.v1.Health/Nothing"]
        {
            let answer = peer.call(path, &[], &framed(0, b"")).await.unwrap();
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(answer.grpc_status(), Some(Code::Unimplemented as u32), "{path}: {answer:?}");
        }
    });
}

#[test]
fn an_answer_of_trailers_only_ends_with_its_head() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let unknown = HealthCheckRequest { service: "nobody".to_owned() }.encode_to_vec();
        for (path, message) in [
            (UNARY, framed(255, b"")),
            ("/diplom.v1.IngestService/Nothing", framed(0, b"")),
            ("/nobody.Service/Method", framed(0, b"")),
            ("/grpc.health.v1.Health/Check", framed(0, &unknown)),
        ] {
            let (answer, mut stream) = peer.open(Method::POST, path, &fields, false).await.unwrap();
            stream.send_data(message.into(), true).unwrap();
            let answer = patiently(answer).await.unwrap();
            assert!(answer.headers().contains_key("grpc-status"), "{path}: {answer:?}");
            // grpcio takes an empty DATA frame with END_STREAM for a broken stream.
            assert!(answer.body().is_end_stream(), "{path}: END_STREAM is on the HEADERS frame");
        }
    });
}

#[test]
fn a_content_type_that_is_not_grpc_is_415() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let body = framed(0, b"");
        for content_type in ["application/json", "application/grpcx", "text/plain", "application/grpc-web"] {
            let answer =
                peer.ask(Method::POST, UNARY, &[("content-type", content_type)], &body).await.unwrap();
            assert_eq!(answer.status, 415, "{content_type}");
        }
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
            let fields = [("content-type", content_type), ("te", "trailers")];
            let answer = peer.ask(Method::POST, UNARY, &fields, &body).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(0), "{content_type}");
        }
    });
    assert_eq!(server.received(), (3, 3, 0));
}

#[test]
fn an_encoding_we_do_not_speak_is_unimplemented_and_ours_are_named() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let answer = peer.call(UNARY, &[("grpc-encoding", "zstd")], &framed(1, b"x")).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(Code::Unimplemented as u32), "{answer:?}");
        let ours = answer.grpc_field("grpc-accept-encoding").expect("grpc-accept-encoding");
        assert!(ours.split(',').any(|one| one.trim() == "gzip"), "{ours}");
    });
    assert_eq!(server.received(), (0, 0, 0));
}

#[test]
fn an_ack_level_out_of_reach_is_a_failed_precondition() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        for (level, code) in [("queued", Code::Ok), ("durable", Code::FailedPrecondition)] {
            let answer = peer.call(UNARY, &[("tidegate-ack", level)], &framed(0, b"")).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(code as u32), "{level}: {answer:?}");
        }
    });
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn a_message_may_come_in_any_pieces() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        // Unknown fields in front, the known ones out of order.
        let mut message = b"\x7a\x03abc\x12\x02hi".to_vec();
        message.extend_from_slice(b"\x0a\x01s");
        let body = framed(0, &message);
        for path in [UNARY, STREAM] {
            let (answer, mut stream) = peer.open(Method::POST, path, &fields, false).await.unwrap();
            for byte in &body {
                stream = send_all(stream, Bytes::copy_from_slice(&[*byte]), false).await.unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
            let answer = read(answer).await.unwrap();
            assert_eq!(answer.grpc_status(), Some(0), "{path}: {answer:?}");
            IngestResponse::decode(&answer.body[5..]).unwrap();
        }
    });
    assert_eq!(server.settled(), 2);
}

#[test]
fn a_unary_call_that_is_cancelled_before_its_end_is_not_enqueued() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        for _ in 0..20 {
            let (answer, stream) = peer.open(Method::POST, UNARY, &fields, false).await.unwrap();
            let message = Bytes::from(framed(0, &request(b"d").encode_to_vec()));
            let mut stream = send_all(stream, message, false).await.unwrap();
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
        }
        assert_eq!(peer.call(UNARY, &[], &framed(0, b"")).await.unwrap().grpc_status(), Some(0));
    });
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn health_says_serving_for_every_service() {
    let server = Server::start();
    on_runtime(async {
        let mut client = HealthClient::new(channel(server.grpc()).await);
        for service in ["", "diplom.v1.IngestService", "IngestService"] {
            let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
        }
        let unknown = client.check(HealthCheckRequest { service: "nobody".to_owned() }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
        let first = patiently(watch.into_inner().message()).await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
    });
}

#[test]
fn both_versions_of_reflection_list_the_services() {
    use tonic_reflection::pb::{v1, v1alpha};
    macro_rules! services {
        ($version:ident, $channel:expr) => {{
            let request = $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some($version::server_reflection_request::MessageRequest::ListServices(
                    String::new(),
                )),
            };
            let mut client = $version::server_reflection_client::ServerReflectionClient::new($channel);
            let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
            let answer = patiently(answers.into_inner().message()).await.unwrap().unwrap();
            let Some($version::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
                answer.message_response
            else {
                panic!("no list");
            };
            list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }};
    }
    let server = Server::start();
    on_runtime(async {
        let channel = channel(server.grpc()).await;
        for services in [services!(v1, channel.clone()), services!(v1alpha, channel)] {
            for name in ["IngestService", "diplom.v1.IngestService", "grpc.health.v1.Health"] {
                assert!(services.iter().any(|found| found == name), "{name} is not in {services:?}");
            }
        }
    });
}

/// Runs grpcurl against the server.
fn grpcurl(server: &Server, before: &[&str], after: &[&str]) -> Option<(bool, String, String)> {
    let output = Command::new(tool("grpcurl")?)
        .args(["-plaintext", "-max-time", "20"])
        .args(before)
        .arg(server.grpc().to_string())
        .args(after)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

#[test]
fn grpcurl_describes_calls_and_streams() {
    let server = Server::start();
    let Some((ok, text, said)) = grpcurl(&server, &[], &["describe", "diplom.v1.IngestService"]) else {
        return;
    };
    assert!(ok && text.contains("rpc IngestStream ( stream .diplom.v1.IngestRequest )"), "{text} {said}");
    let data = r#"{"source":"a","data":"aGk="} {"source":"b"} {"metadata":{"k":"v"}}"#;
    let (ok, text, said) =
        grpcurl(&server, &["-d", data], &["diplom.v1.IngestService/IngestStream"]).unwrap();
    assert!(ok && text.contains("batch-3") && text.contains("completed"), "{text} {said}");
    let (ok, text, _) = grpcurl(&server, &[], &["grpc.health.v1.Health/Check"]).unwrap();
    assert!(ok && text.contains("SERVING"), "{text}");
    let durable = ["-H", "tidegate-ack: durable"];
    let (ok, _, said) = grpcurl(&server, &durable, &["diplom.v1.IngestService/Ingest"]).unwrap();
    assert!(!ok && said.contains("FailedPrecondition"), "{said}");
    assert_eq!(server.settled(), 3);
}

#[test]
fn grpcio_from_python_gets_what_it_was_promised() {
    let server = Server::start();
    let Some(python) = tool("python") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/clients/python/grpc_client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(server.grpc().to_string())
        .env("no_proxy", "*")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    for service in ["IngestService", "diplom.v1.IngestService", "grpc.health.v1.Health"] {
        assert!(seen["services"].as_array().unwrap().iter().any(|name| name == service), "{seen:#}");
    }
    for call in ["unary", "asked_for_queued"] {
        assert_eq!(seen[call]["status"], "accepted");
        assert_eq!(seen[call]["metadata"]["tidegate-ack"], "queued");
    }
    assert_eq!(seen["asked_for_durable"]["code"], "FAILED_PRECONDITION");
    assert_eq!(seen["gzip"]["status"], "accepted");
    assert_eq!(seen["gzip_stream"]["message_id"], "batch-10");
    assert_eq!(seen["stream"]["message_id"], "batch-2000");
    assert_eq!(seen["stream"]["metadata"]["tidegate-ack"], "queued");
    assert_eq!(seen["empty_stream"]["message_id"], "batch-0");
    for service in ["", "diplom.v1.IngestService", "IngestService"] {
        assert_eq!(seen["health"][service], "SERVING", "{service:?}");
    }
    assert_eq!(seen["health_of_unknown"]["code"], "NOT_FOUND");
    assert_eq!(seen["unknown_method"]["code"], "UNIMPLEMENTED");
    assert_eq!(Some(server.settled()), seen["accepted"].as_u64());
}

#[test]
fn a_stream_may_be_far_longer_than_the_queue() {
    let server = Start::new().set("queue.size=8").run();
    let answer = on_runtime(async {
        let mut client = IngestServiceClient::new(channel(server.grpc()).await);
        let messages = tokio_stream::iter((0..20_000).map(|_| request(&[1; 200])));
        client.ingest_stream(messages).await.unwrap().into_inner()
    });
    assert_eq!(answer.message_id, "batch-20000");
    assert_eq!(server.settled(), 20_000);
}

#[test]
fn a_client_may_ping_without_a_stream() {
    let server = Server::start();
    on_runtime(async {
        let socket = tokio::net::TcpStream::connect(server.grpc()).await.unwrap();
        let (_requests, mut connection) = h2::client::handshake(socket).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let ended = tokio::spawn(connection);
        // grpc-go's own server would have said `too_many_pings` after two.
        for _ in 0..50 {
            patiently(pings.ping(h2::Ping::opaque())).await.unwrap();
        }
        assert!(!ended.is_finished());
    });
}

#[test]
fn gzip_is_taken_by_every_method_of_both_lanes() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.grpc()).await;
        // user_id "u", event_type 1; and one without a user.
        let (good, bad) = (b"\x12\x01u\x20\x01".as_slice(), b"\x20\x01".as_slice());
        let field = |number: u8, value: &[u8]| [&[number << 3 | 2, value.len() as u8], value].concat();
        let one = field(1, good);
        let with_options = [one.clone(), field(2, b"\x08\x00")].concat();
        let batch = [field(1, good), field(1, bad)].concat();
        for (path, message, status) in [
            ("/analytics.v1.EventIngestionService/IngestEvent", one.clone(), 0),
            ("/analytics.v1.EventIngestionService/IngestEvent", with_options, 0),
            ("/analytics.v1.EventIngestionService/IngestEvent", field(1, bad), 3),
            ("/analytics.v1.EventIngestionService/IngestEvents", batch, 0),
            ("/analytics.v1.AnalyticsService/GetAnalyticsSummary", Vec::new(), 0),
            ("/analytics.v1.MetricsService/GetMetrics", Vec::new(), 0),
            ("/analytics.AnalyticsService/GetAnalyticsSummary", Vec::new(), 0),
            ("/analytics.ConsumerService/GetConsumerStats", Vec::new(), 0),
            ("/grpc.health.v1.Health/Check", Vec::new(), 0),
        ] {
            let plain = peer.call(path, &[], &framed(0, &message)).await.unwrap();
            let packed =
                peer.call(path, &[("grpc-encoding", "gzip")], &framed(1, &gzip(&message))).await.unwrap();
            assert_eq!(plain.grpc_status(), packed.grpc_status(), "{path}: {}", packed.grpc_message());
            assert_eq!(packed.grpc_status(), Some(status), "{path}: {}", packed.grpc_message());
        }
    });
}

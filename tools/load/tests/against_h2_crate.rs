//! The raw HTTP/2 client against the server of the `h2` crate, whose HPACK encoder uses Huffman codes and the table.

// clippy.toml allows it in tests, but does not see that functions beside them are tests, too.
#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, thread};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use load::{Message, Outcome, Pace, Protocol, Scenario, Until, message};
use tidegate_proto::diplom::v1::IngestResponse;

/// Every so many-th request of a connection is refused.
const REFUSED_EVERY: usize = 10;

#[test]
fn every_json_answer_is_counted_as_what_it_is() {
    let outcome = run(Protocol::H2c, 1_000);
    assert_eq!((outcome.sent, outcome.accepted, outcome.refused, outcome.failed), (1_000, 900, 100, 0));
    assert_eq!(outcome.first_trouble.as_deref(), Some("HTTP 503"));
}

#[test]
fn every_grpc_answer_is_counted_as_what_it_is() {
    let outcome = run(Protocol::GrpcUnary, 1_000);
    assert_eq!((outcome.sent, outcome.accepted, outcome.refused, outcome.failed), (1_000, 900, 100, 0));
    assert_eq!(outcome.first_trouble.as_deref(), Some("grpc-status 8"));
}

#[test]
fn streamed_messages_are_acknowledged_by_their_count() {
    // More bytes than a default window holds, so that it has to be given back many times.
    let outcome = run(Protocol::GrpcStream, 20_000);
    assert_eq!((outcome.sent, outcome.accepted), (20_000, 20_000));
    assert_eq!(outcome.latency_ns.len(), 7);
}

fn run(protocol: Protocol, messages: u64) -> Outcome {
    let scenario = Scenario {
        protocol,
        connections: 1,
        in_flight: if protocol == Protocol::GrpcStream { 1 } else { 8 },
        frame_messages: 7,
        stream_messages: 3_000,
        message: Message::of_size(64),
    };
    let mut connected = scenario.connect(start_server()).unwrap();
    let outcome = connected.run(Pace::Closed, Until::sent(messages)).unwrap();
    assert!(outcome.adds_up(), "{outcome:?}");
    outcome
}

/// Serves one connection on a thread of its own.
fn start_server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (socket, _) = tokio::net::TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let mut count = 0;
            while let Some(Ok((request, respond))) = connection.accept().await {
                count += 1;
                tokio::spawn(answer(request, respond, count % REFUSED_EVERY == 0));
            }
        });
    });
    address
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, is_refused: bool) {
    let (head, mut body) = request.into_parts();
    let mut bytes = 0;
    while let Some(Ok(part)) = body.data().await {
        bytes += part.len();
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    let is_json = head.headers["content-type"] == "application/json";
    let status = if is_json && is_refused { 503 } else { 200 };
    let response =
        Response::builder().status(status).header("x-request", bytes.to_string()).body(()).unwrap();
    let mut stream = respond.send_response(response, false).unwrap();
    if is_json {
        assert_eq!(head.headers["content-length"], bytes.to_string());
        stream.send_data(Bytes::from_static(b"{}"), true).unwrap();
        return;
    }
    let is_stream = head.uri.path().ends_with("IngestStream");
    let messages = bytes / Message::of_size(64).grpc().len();
    let message_id = if is_stream { format!("batch-{messages}") } else { "id".to_owned() };
    let is_refused = is_refused && !is_stream;
    if !is_refused {
        let response = IngestResponse { message_id, status: "accepted".to_owned() };
        stream.send_data(message::frame(&response).into(), false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", if is_refused { "8" } else { "0" }.parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

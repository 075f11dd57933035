//! Our server against the `h2` crate's client, over a pipe in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use std::sync::Arc;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;
use transports::h2::{
    Application, Block, Connection, Credit, ErrorCode, Fields, Limits, Replies, RequestHead, Reset, StreamId,
    Work,
};

/// What a request's path asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// The body comes back, with trailers that count it.
    Echo,
    /// Ten megabytes.
    Large,
    /// An answer before the body.
    Early,
    /// RST_STREAM.
    Break,
}

struct Exchange {
    route: Route,
    body: Vec<u8>,
    sent: usize,
}

struct Echo {
    resets: usize,
}

const LARGE: usize = 10 << 20;

impl Echo {
    fn answer(&self, id: StreamId, exchange: &mut Exchange, replies: &mut Replies<'_>) {
        replies.head(id, &Block::new(200).field("content-type", "application/octet-stream"), false);
        self.go_on(id, exchange, replies);
    }

    fn go_on(&self, id: StreamId, exchange: &mut Exchange, replies: &mut Replies<'_>) {
        exchange.sent += replies.data(id, &exchange.body[exchange.sent..], false);
        if exchange.sent == exchange.body.len() {
            let count = exchange.body.len().to_string();
            replies.trailers(id, &Block::trailers().field("x-count", count));
        }
    }
}

impl Application for Echo {
    type Head = Route;
    type Stream = Exchange;

    fn classify(&mut self, head: &RequestHead<'_>) -> Route {
        match head.path() {
            b"/large" => Route::Large,
            b"/early" => Route::Early,
            b"/break" => Route::Break,
            _ => Route::Echo,
        }
    }

    fn open(&mut self, id: StreamId, route: &Route, end_stream: bool, replies: &mut Replies<'_>) -> Exchange {
        let body = if *route == Route::Large { vec![7; LARGE] } else { Vec::new() };
        let mut exchange = Exchange { route: *route, body, sent: 0 };
        match route {
            Route::Break => replies.reset(id, ErrorCode::INTERNAL_ERROR),
            Route::Early => replies.head(id, &Block::new(403), true),
            _ if end_stream => self.answer(id, &mut exchange, replies),
            _ => {}
        }
        exchange
    }

    fn data(
        &mut self,
        id: StreamId,
        exchange: &mut Exchange,
        data: &[u8],
        end_stream: bool,
        replies: &mut Replies<'_>,
    ) -> Credit {
        if exchange.route == Route::Echo {
            exchange.body.extend_from_slice(data);
        }
        if end_stream {
            self.answer(id, exchange, replies);
        }
        Credit::Now
    }

    fn trailers(
        &mut self,
        id: StreamId,
        exchange: &mut Exchange,
        fields: Fields<'_>,
        replies: &mut Replies<'_>,
    ) {
        for (name, value) in fields {
            exchange.body.extend_from_slice(name);
            exchange.body.extend_from_slice(value);
        }
        self.answer(id, exchange, replies);
    }

    fn writable(&mut self, id: StreamId, exchange: &mut Exchange, replies: &mut Replies<'_>) {
        self.go_on(id, exchange, replies);
    }

    fn reset(&mut self, _: StreamId, _: Exchange, _: Reset) -> Work {
        self.resets += 1;
        Work::Ended
    }
}

/// Drives a connection until the client closes; returns how many streams were reset.
async fn serve(mut pipe: DuplexStream, limits: Limits) -> usize {
    let mut connection = Connection::new(Arc::new(limits));
    let mut app = Echo { resets: 0 };
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        match pipe.read_buf(&mut input).await {
            Ok(0) | Err(_) => return app.resets,
            Ok(_) => {}
        }
        let taken = connection.receive(&input, 0, &mut app, &mut out);
        while !out.is_empty() {
            if pipe.write_all(&out).await.is_err() {
                return app.resets;
            }
            out.clear();
            connection.output_drained(0, &mut app, &mut out).unwrap();
        }
        input.drain(..taken.expect("the h2 crate keeps the rules"));
    }
}

/// Runs a client against a server; returns how many streams the server saw reset.
fn talk<F: Future<Output = ()>>(
    limits: Limits,
    client: h2::client::Builder,
    act: impl FnOnce(h2::client::SendRequest<bytes::Bytes>) -> F,
) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let (near, far) = tokio::io::duplex(64 << 10);
        let server = tokio::task::spawn_local(serve(far, limits));
        let (sender, connection) = client.handshake(near).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        act(sender).await;
        connection.await.unwrap().unwrap();
        server.await.unwrap()
    })
}

fn request(path: &str) -> Request<()> {
    Request::post(format!("http://a.example{path}")).header("x-id", "1").body(()).unwrap()
}

/// Reads a whole response: status, body, and what the trailers count.
async fn read(response: h2::client::ResponseFuture) -> (u16, Vec<u8>, Option<String>) {
    let response = response.await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        bytes.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap();
    let count = trailers.map(|trailers| trailers["x-count"].to_str().unwrap().to_owned());
    (status, bytes, count)
}

/// Sends a body as fast as the windows let it.
async fn write(stream: &mut h2::SendStream<bytes::Bytes>, mut body: bytes::Bytes, end: bool) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
        let part = body.split_to(room.min(body.len()));
        stream.send_data(part, end && body.is_empty()).unwrap();
    }
}

#[test]
fn unary_requests_one_after_the_other() {
    let resets = talk(Limits::default(), h2::client::Builder::new(), |mut sender| async move {
        for n in 0..100u32 {
            let (response, mut stream) = sender.send_request(request("/"), false).unwrap();
            stream.send_data(n.to_string().into(), true).unwrap();
            assert_eq!(
                read(response).await,
                (200, n.to_string().into_bytes(), Some(n.to_string().len().to_string()))
            );
        }
    });
    assert_eq!(resets, 0);
}

#[test]
fn large_bodies_both_ways_over_small_windows() {
    let limits = Limits { connection_window_bytes: 65_535, stream_window_bytes: 20_000, ..Limits::default() };
    let mut client = h2::client::Builder::new();
    client.initial_window_size(10_000).initial_connection_window_size(70_000);
    talk(limits, client, |mut sender| async move {
        let body: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let (response, mut stream) = sender.send_request(request("/"), false).unwrap();
        let reader = tokio::task::spawn_local(read(response));
        write(&mut stream, body.clone().into(), true).await;
        let (status, echoed, count) = reader.await.unwrap();
        assert_eq!((status, count.as_deref()), (200, Some("1000000")));
        assert!(echoed == body);
    });
}

#[test]
fn large_responses_share_the_connection() {
    talk(Limits::default(), h2::client::Builder::new(), |mut sender| async move {
        let mut readers = Vec::new();
        for _ in 0..4 {
            let (response, _) = sender.send_request(request("/large"), true).unwrap();
            readers.push(tokio::task::spawn_local(read(response)));
        }
        drop(sender);
        for reader in readers {
            let (status, body, _) = reader.await.unwrap();
            assert_eq!((status, body.len()), (200, LARGE));
        }
    });
}

#[test]
fn request_trailers_arrive() {
    talk(Limits::default(), h2::client::Builder::new(), |mut sender| async move {
        let (response, mut stream) = sender.send_request(request("/"), false).unwrap();
        stream.send_data("body ".into(), false).unwrap();
        let trailers = [("x-sum".parse().unwrap(), "12".parse().unwrap())].into_iter().collect();
        stream.send_trailers(trailers).unwrap();
        assert_eq!(read(response).await.1, b"body x-sum12");
    });
}

#[test]
fn many_streams_at_once() {
    let resets = talk(Limits::default(), h2::client::Builder::new(), |sender| async move {
        for _ in 0..5 {
            let mut readers = Vec::new();
            for n in 0..128u32 {
                let mut sender = sender.clone().ready().await.unwrap();
                let (response, mut stream) = sender.send_request(request(&format!("/{n}")), false).unwrap();
                stream.send_data(n.to_string().into(), false).unwrap();
                readers.push((n, stream, response));
            }
            for (n, mut stream, response) in readers.into_iter().rev() {
                stream.send_data("!".into(), true).unwrap();
                assert_eq!(read(response).await.1, format!("{n}!").into_bytes());
            }
        }
    });
    assert_eq!(resets, 0);
}

#[test]
fn resets_of_either_side_leave_the_neighbours_alone() {
    let resets = talk(Limits::default(), h2::client::Builder::new(), |mut sender| async move {
        for n in 0..50u32 {
            let (broken, _stream) = sender.send_request(request("/break"), false).unwrap();
            assert_eq!(broken.await.unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
            let (_cancelled, mut stream) = sender.send_request(request("/"), false).unwrap();
            stream.send_data("half".into(), false).unwrap();
            stream.send_reset(h2::Reason::CANCEL);
            let (response, mut stream) = sender.send_request(request("/"), false).unwrap();
            stream.send_data(n.to_string().into(), true).unwrap();
            assert_eq!(read(response).await.0, 200);
        }
    });
    // A request that was cancelled before it was sent never got here.
    assert!(resets <= 50, "{resets}");
}

#[test]
fn early_answer_reaches_a_client_that_is_still_sending() {
    talk(Limits::default(), h2::client::Builder::new(), |mut sender| async move {
        let (response, mut stream) = sender.send_request(request("/early"), false).unwrap();
        stream.send_data(vec![0; 10_000].into(), false).unwrap();
        assert_eq!(read(response).await.0, 403);
        let (response, mut stream) = sender.send_request(request("/"), false).unwrap();
        stream.send_data("x".into(), true).unwrap();
        assert_eq!(read(response).await.1, b"x");
    });
}

#[test]
fn large_header_lists_are_answered_431() {
    talk(Limits::default(), h2::client::Builder::new(), |mut sender| async move {
        let mut large = request("/");
        for n in 0..40 {
            let name: http::HeaderName = format!("x-large-{n}").parse().unwrap();
            large.headers_mut().insert(name, "v".repeat(1_000).parse().unwrap());
        }
        let (response, _) = sender.send_request(large, true).unwrap();
        assert_eq!(read(response).await.0, 431);
        let (response, _) = sender.send_request(request("/"), true).unwrap();
        assert_eq!(read(response).await.0, 200);
    });
}

#[test]
fn client_without_a_table_is_understood() {
    let mut client = h2::client::Builder::new();
    client.header_table_size(0);
    talk(Limits::default(), client, |mut sender| async move {
        for _ in 0..3 {
            let (response, _) = sender.send_request(request("/"), true).unwrap();
            assert_eq!(read(response).await.0, 200);
        }
    });
}

//! HTTP/2 by prior knowledge as curl, h2load and the `h2` crate speak it.

use std::{io::Write, process::Command};

use bytes::Bytes;
use h2::Reason;
use http::Method;
use tokio::task::JoinSet;

use crate::harness::{
    H2Peer, Peer, Scratch, Server, Start, curl, eventually, on_runtime, read, send_all, tool,
};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A JSON body with `length` bytes of data.
fn body_with(length: usize) -> Vec<u8> {
    format!(r#"{{"source":"h2","data":"{}"}}"#, "x".repeat(length)).into_bytes()
}

#[test]
fn curl_posts_by_prior_knowledge() {
    let server = Server::start();
    let url = server.url("/api/v1/ingest");
    let format = "\n%{http_version} %{http_code}";
    let Some((answer, _)) = curl(&["--http2-prior-knowledge", "-w", format, "-d", r#"{"data":"d"}"#, &url])
    else {
        return;
    };
    assert!(answer.ends_with("\n2 200") && answer.contains(r#""status":"accepted""#), "{answer}");
    let large = String::from_utf8(body_with(3 << 20)).unwrap();
    let home = Scratch::new();
    let from = format!("@{}", home.write("body", large).display());
    let (answer, _) = curl(&["--http2-prior-knowledge", "-w", format, "--data-binary", &from, &url]).unwrap();
    assert!(answer.ends_with("\n2 200"), "{answer}");
    assert_eq!(server.settled(), 2);
}

#[test]
fn curl_meets_the_same_codes_as_over_http_1() {
    let server = Server::start();
    for (path, arguments, status) in [
        ("/ingest", &["-d", "{"][..], "400"),
        ("/ingest", &[], "405"),
        ("/nowhere", &[], "404"),
        ("/enqueue", &["-d", "{}"], "202"),
        ("/ingest", &["-d", "{}", "-H", "Tidegate-Ack: durable"], "400"),
        ("/ingest", &["-d", "{}", "-H", "Content-Encoding: br"], "415"),
        ("/metrics", &[], "200"),
        ("/health", &["--head"], "200"),
    ] {
        let url = server.url(path);
        let mut all =
            vec!["--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"];
        all.extend_from_slice(arguments);
        all.push(&url);
        let Some((said, _)) = curl(&all) else { return };
        assert_eq!(said, format!("2 {status}"), "{path} {arguments:?}");
    }
}

#[test]
fn curl_sees_the_answer_to_a_large_upload_that_is_refused_before_its_end() {
    let server = Server::start();
    let home = Scratch::new();
    let large = body_with(10 << 20);
    let from = format!("@{}", home.write("body", large).display());
    let url = server.url("/ingest");
    let format = "\n%{http_version} %{http_code}";
    let Some((answer, _)) = curl(&["--http2-prior-knowledge", "-w", format, "--data-binary", &from, &url])
    else {
        return;
    };
    assert!(answer.ends_with("\n2 413"), "{answer}");
}

#[test]
fn h2load_gets_2xx_for_every_request() {
    let server = Start::new().set("queue.size=10000").run();
    let Some(h2load) = tool("h2load") else { return };
    let home = Scratch::new();
    let body = home.write("body", r#"{"source":"h2load","data":"d"}"#);
    const REQUESTS: u64 = 20_000;
    let output = Command::new(h2load)
        .args([
            "-n",
            &REQUESTS.to_string(),
            "-c",
            "16",
            "-m",
            "32",
            "-H",
            "content-type: application/json",
            "-d",
        ])
        .arg(body)
        .arg(server.url("/ingest"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout")), "{said}");
    assert!(said.contains(&format!("status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx")), "{said}");
    assert_eq!(server.settled(), REQUESTS);
}

#[test]
fn h2load_speaks_http_1_too() {
    let server = Server::start();
    let Some(h2load) = tool("h2load") else { return };
    let home = Scratch::new();
    let body = home.write("body", "{}");
    let output = Command::new(h2load)
        .args(["--h1", "-n", "5000", "-c", "16", "-m", "8", "-d"])
        .arg(body)
        .arg(server.url("/ingest"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("status codes: 5000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    assert_eq!(server.settled(), 5000);
}

#[test]
fn large_bodies_arrive_side_by_side() {
    let server = Server::start();
    on_runtime(async {
        let peer = H2Peer::connect(server.gateway()).await;
        let mut tasks = JoinSet::new();
        for length in [0, 1, 16_000, 16_384, 65_535, 70_000, 1 << 20, 9 << 20] {
            let mut peer = peer.clone();
            tasks.spawn(async move { (length, peer.post("/ingest", &body_with(length)).await) });
        }
        while let Some(done) = tasks.join_next().await {
            let (length, answer) = done.unwrap();
            assert_eq!(answer.unwrap().status, 200, "{length} bytes");
        }
    });
    assert_eq!(server.settled(), 8);
}

#[test]
fn a_body_over_the_limit_is_413_and_the_connection_goes_on() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        let answer = peer.post("/ingest", &body_with(10 << 20)).await.unwrap();
        assert_eq!(answer.status, 413);
        assert_eq!(peer.post("/ingest", b"{}").await.unwrap().status, 200);
    });
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn many_streams_over_one_connection_are_all_answered() {
    let server = Start::new().set("queue.size=10000").run();
    const STREAMS: usize = 3_000;
    on_runtime(async {
        let peer = H2Peer::connect(server.gateway()).await;
        let mut tasks = JoinSet::new();
        for number in 0..STREAMS {
            let mut peer = peer.clone();
            tasks.spawn(async move {
                let answer = if number % 10 == 0 {
                    peer.ask(Method::GET, "/health", &[], b"").await
                } else {
                    peer.post("/ingest", &body_with(number)).await
                };
                answer.unwrap().status
            });
        }
        while let Some(status) = tasks.join_next().await {
            assert_eq!(status.unwrap(), 200);
        }
    });
    assert_eq!(server.settled(), (STREAMS - STREAMS / 10) as u64);
}

#[test]
fn a_bad_stream_leaves_its_neighbours_unharmed() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        // A neighbour that is half sent while the others go wrong.
        let (neighbour, mut body) = peer.open(Method::POST, "/ingest", &[JSON], false).await.unwrap();
        body.send_data(Bytes::from_static(br#"{"data":"#), false).unwrap();

        let malformed = peer.post("/ingest", b"{\"data\":").await.unwrap();
        assert_eq!(malformed.status, 400);
        assert!(String::from_utf8_lossy(&malformed.body).contains("line 1, column"), "{malformed:?}");
        let length = [JSON, ("content-length", "5")];
        let wrong = peer.ask(Method::POST, "/ingest", &length, b"{\"data\":\"longer\"}").await.unwrap_err();
        assert_eq!(wrong.reason(), Some(Reason::PROTOCOL_ERROR), "content-length is not DATA: {wrong}");
        let short =
            peer.ask(Method::POST, "/ingest", &[JSON, ("content-length", "20")], b"{}").await.unwrap_err();
        assert_eq!(short.reason(), Some(Reason::PROTOCOL_ERROR), "content-length is not DATA: {short}");
        assert_eq!(peer.ask(Method::GET, "/nowhere", &[], b"").await.unwrap().status, 404);
        assert_eq!(peer.ask(Method::GET, "/ingest", &[], b"").await.unwrap().status, 405);

        body.send_data(Bytes::from_static(br#""whole"}"#), true).unwrap();
        assert_eq!(read(neighbour).await.unwrap().status, 200);
    });
    assert_eq!(server.settled(), 1);
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn a_request_is_answered_when_it_is_whole_also_where_no_body_is_wanted() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for (method, path) in [(Method::GET, "/health"), (Method::GET, "/ingest"), (Method::GET, "/nowhere")]
        {
            let fields = [("content-length", "5")];
            let (answer, mut body) = peer.open(method.clone(), path, &fields, false).await.unwrap();
            // A round trip: whoever answers the head alone has done so by now.
            assert_eq!(peer.ask(Method::GET, "/stats", &[], b"").await.unwrap().status, 200);
            // An answered stream may be gone; then there is nothing to send on.
            let _ = body.send_data(Bytes::from_static(b"more than five"), true);
            match read(answer).await {
                Err(error) => assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR), "{path}: {error}"),
                Ok(answer) => {
                    panic!("{path}: content-length is not DATA, and the answer is {}", answer.status)
                }
            }
        }
    });
}

#[test]
fn a_request_that_is_cancelled_before_its_end_is_not_enqueued() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for path in ["/ingest", "/enqueue"] {
            for _ in 0..50 {
                let (answer, mut body) = peer.open(Method::POST, path, &[JSON], false).await.unwrap();
                // A whole JSON object, and yet not the whole request.
                body.send_data(Bytes::from_static(b"{}"), false).unwrap();
                body.send_reset(Reason::CANCEL);
                drop(answer);
            }
        }
        assert_eq!(peer.post("/ingest", b"{}").await.unwrap().status, 200);
    });
    assert_eq!(server.settled(), 1);
    assert_eq!(server.received(), (1, 1, 0));
}

#[test]
fn a_connection_that_breaks_off_enqueues_nothing_unfinished() {
    let server = Server::start();
    on_runtime(async {
        for _ in 0..20 {
            let mut peer = H2Peer::connect(server.gateway()).await;
            let (_answer, stream) = peer.open(Method::POST, "/ingest", &[JSON], false).await.unwrap();
            let _stream = send_all(stream, Bytes::from_static(b"{}"), false).await.unwrap();
            // Dropped with its runtime's connection task still to flush it: either way the request has no end.
        }
    });
    assert_eq!(server.received(), (0, 0, 0));
    assert_eq!(server.stop().accepted, 0);
}

#[test]
fn resetting_a_request_of_the_cold_lane_does_no_harm() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        for _ in 0..200 {
            let (answer, mut stream) = peer.open(Method::GET, "/metrics", &[], true).await.unwrap();
            stream.send_reset(Reason::CANCEL);
            drop(answer);
        }
        // A stream's place is free when its work is over, not when it is reset: until then it may be refused.
        loop {
            match peer.ask(Method::GET, "/metrics", &[], b"").await {
                Ok(answer) => break assert_eq!(answer.status, 200),
                Err(error) => assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM), "{error}"),
            }
        }
    });
}

#[test]
fn resets_without_end_are_met_with_enhance_your_calm() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        let mut ended = None;
        for _ in 0..20_000 {
            match peer.open(Method::POST, "/ingest", &[JSON], false).await {
                Ok((answer, mut body)) => {
                    body.send_reset(Reason::CANCEL);
                    drop(answer);
                    // Lets the connection send it.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            }
        }
        let ended = ended.expect("the budget ends");
        assert_eq!(ended.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{ended}");
    });
    assert_eq!(server.received(), (0, 0, 0));
    let page = crate::harness::get(server.gateway(), "/metrics");
    assert!(
        page.text().contains(r#"tidegate_limit_hits_total{reason="enhance_your_calm"} 1"#),
        "{}",
        page.text()
    );
}

#[test]
fn a_reader_with_a_tiny_window_gets_all_of_a_large_answer() {
    let server = Server::start();
    on_runtime(async {
        let socket = tokio::net::TcpStream::connect(server.gateway()).await.unwrap();
        let (requests, connection) =
            h2::client::Builder::new().initial_window_size(7).handshake::<_, Bytes>(socket).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let mut requests = requests.ready().await.unwrap();
        let request = http::Request::get(server.url("/metrics")).body(()).unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        let length: usize = head.headers["content-length"].to_str().unwrap().parse().unwrap();
        let mut got = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            assert!(data.len() <= 7, "more than the window: {}", data.len());
            got += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(got, length);
    });
}

#[test]
fn half_a_preface_is_no_protocol_and_is_closed_in_time() {
    let server = Start::new().set("timeouts.preface=1s").run();
    let mut peer = Peer::connect(server.gateway());
    peer.send("PRI * HTTP/2.0\r\n");
    assert!(peer.rest().is_empty(), "closed without text");
}

#[test]
fn what_is_no_http2_after_the_preface_is_closed() {
    let server = Server::start();
    let mut socket = std::net::TcpStream::connect(server.gateway()).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n").unwrap();
    let rest = eventually("the connection is closed", || {
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut socket, &mut rest).ok().map(|_| rest)
    });
    // Frames only: a GOAWAY, and never a line of text.
    assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "{rest:?}");
    assert_eq!(server.received(), (0, 0, 0));
}

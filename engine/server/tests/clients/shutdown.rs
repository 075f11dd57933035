//! The end of a run: what was accepted is processed, what is open is answered, and the last line tells the truth.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use prost::Message;
use rustix::process::{Signal, kill_process};
use tidegate_proto::diplom::v1::IngestRequest;
use tokio::task::JoinSet;

use crate::{
    brokers,
    harness::{
        Answer, Farewell, H2Peer, Peer, Scratch, Server, Start, eventually, framed, get, on_runtime,
        patiently, read, send_all,
    },
};

const JSON: (&str, &str) = ("content-type", "application/json");
const STREAM: &str = "/diplom.v1.IngestService/IngestStream";

/// Waits until the listeners are closed, so that the drain has begun everywhere.
#[track_caller]
fn wait_for_the_drain(server: &Server) {
    server.wait_for_message("draining");
    eventually("the listeners are closed", || TcpStream::connect(server.gateway()).is_err().then_some(()));
}

#[track_caller]
fn assert_nothing_was_lost(end: Farewell, acknowledged: u64) {
    assert_eq!(end.exit_code, Some(0), "{end:?}");
    assert_eq!((end.accepted, end.failed, end.lost), (end.processed, 0, 0), "{end:?}");
    assert!(acknowledged <= end.accepted, "{acknowledged} acknowledged, {end:?}");
}

#[test]
fn a_run_without_work_ends_with_zeros() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start();
        server.signal(signal);
        let end = server.farewell();
        assert_eq!(end, Farewell { exit_code: Some(0), accepted: 0, processed: 0, failed: 0, lost: 0 });
    }
}

#[test]
fn answers_without_an_end_do_not_hold_a_shutdown_and_say_why_they_end() {
    let server = Server::start();
    on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        let mut open = Vec::new();
        for (path, message) in [
            ("/grpc.health.v1.Health/Watch", &b""[..]),
            ("/analytics.v1.AnalyticsService/GetRealTimeAnalytics", b""),
            ("/analytics.v1.MetricsService/StreamMetrics", b""),
            // `list_services`.
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\x3a\x00"),
        ] {
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            let (answer, mut stream) = peer.open(Method::POST, path, &fields, false).await.unwrap();
            let is_both_ways = path.starts_with("/grpc.reflection.");
            stream.send_data(framed(0, message).into(), !is_both_ways).unwrap();
            let mut body = patiently(answer).await.unwrap().into_body();
            // It has begun.
            patiently(body.data()).await.unwrap().unwrap();
            open.push((path, stream, body));
        }
        for path in ["/v1/analytics/realtime", "/v1/metrics/stream"] {
            let (answer, stream) = peer.open(Method::GET, path, &[], true).await.unwrap();
            let mut body = patiently(answer).await.unwrap().into_body();
            patiently(body.data()).await.unwrap().unwrap();
            open.push((path, stream, body));
        }
        server.signal(Signal::TERM);
        for (path, _stream, mut body) in open {
            let mut all = Vec::new();
            while let Some(data) = patiently(body.data()).await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                all.extend_from_slice(&data);
            }
            if path.starts_with("/v1/") {
                let last = all.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap();
                let last = String::from_utf8_lossy(last);
                assert!(last.starts_with(r#"{"error":{"code":14,"#), "{path}: {last}");
            } else {
                let trailers = patiently(body.trailers()).await.unwrap().unwrap();
                assert_eq!(trailers["grpc-status"], "14", "{path}");
            }
        }
    });
    assert_eq!(server.wait_for_message("stopped")["connections_cut"], 0);
}

#[test]
fn sigterm_under_http_load_loses_nothing() {
    let server = Server::start();
    let acknowledged = Arc::new(AtomicU64::new(0));
    on_runtime(async {
        let mut tasks = JoinSet::new();
        for connection in 0..4 {
            let peer = H2Peer::connect(server.gateway()).await;
            for _ in 0..16 {
                let (mut peer, acknowledged) = (peer.clone(), Arc::clone(&acknowledged));
                tasks.spawn(async move {
                    // Until the connection is no more.
                    while let Ok(answer) = peer.post("/ingest", br#"{"data":"under load"}"#).await {
                        match answer.status.as_u16() {
                            200 => acknowledged.fetch_add(1, Relaxed),
                            503 => 0,
                            other => panic!("connection {connection}: {other}"),
                        };
                    }
                });
            }
        }
        for _ in 0..4 {
            let (address, acknowledged) = (server.ingest(), Arc::clone(&acknowledged));
            tasks.spawn_blocking(move || {
                let mut peer = Peer::connect(address);
                loop {
                    peer.send_if_open(
                        "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
                    );
                    match peer.answer(false).map(|answer| answer.status) {
                        Some(200) => drop(acknowledged.fetch_add(1, Relaxed)),
                        Some(503) => {}
                        Some(other) => panic!("HTTP/1.1: {other}"),
                        None => break,
                    }
                }
            });
        }
        while acknowledged.load(Relaxed) < 2_000 {
            tokio::task::yield_now().await;
        }
        server.signal(Signal::TERM);
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    let end = server.farewell();
    assert_nothing_was_lost(end, acknowledged.load(Relaxed));
    assert!(end.accepted >= 2_000, "{end:?}");
}

#[test]
fn sigterm_under_grpc_load_loses_nothing() {
    let server = Server::start();
    let message =
        framed(0, &IngestRequest { data: b"under load".to_vec(), ..Default::default() }.encode_to_vec());
    let acknowledged = Arc::new(AtomicU64::new(0));
    on_runtime(async {
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let mut peer = H2Peer::connect(server.grpc()).await;
            let batch = Bytes::from(message.repeat(50));
            let acknowledged = Arc::clone(&acknowledged);
            tasks.spawn(async move {
                // Batch after batch, until the connection is no more.
                loop {
                    let Ok(answer) = peer.call(STREAM, &[], &batch).await else { return };
                    match answer.grpc_status() {
                        Some(0) => drop(acknowledged.fetch_add(50, Relaxed)),
                        // UNAVAILABLE and RESOURCE_EXHAUSTED: not all of it was taken, and that was said.
                        Some(8 | 14) => {}
                        other => panic!("{other:?}: {answer:?}"),
                    }
                }
            });
        }
        while acknowledged.load(Relaxed) < 5_000 {
            tokio::task::yield_now().await;
        }
        server.signal(Signal::TERM);
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    let end = server.farewell();
    assert_nothing_was_lost(end, acknowledged.load(Relaxed));
    assert!(end.accepted >= 5_000, "{end:?}");
}

#[test]
fn an_open_http1_request_is_finished() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{");
    // The head is there before the signal is.
    eventually("the server has the bytes", || {
        get(server.gateway(), "/metrics").text().contains("tidegate_connections 2").then_some(())
    });
    server.signal(Signal::TERM);
    wait_for_the_drain(&server);
    peer.send("}");
    let answer = peer.answer(false).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(peer.rest().is_empty());
    let end = server.farewell();
    assert_eq!((end.exit_code, end.accepted, end.processed, end.lost), (Some(0), 1, 1, 0));
}

/// POSTs twice in one write on a connection that was there before the signal, when the listeners are closed. `None`: the
/// second or two in which that is served were over, on a machine that had no time for the test.
fn post_twice_after_the_signal(has_spoken: bool) -> Option<(Vec<Answer>, Farewell)> {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    let request = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    if has_spoken {
        peer.send(request);
        let answer = peer.answer(false).unwrap();
        assert_eq!((answer.status, answer.field("connection")), (200, None));
    }
    server.signal(Signal::TERM);
    wait_for_the_drain(&server);
    peer.send_if_open(request.repeat(2));
    let answers: Vec<Answer> = std::iter::from_fn(|| peer.answer(false)).collect();
    drop(peer);
    (!answers.is_empty()).then(|| (answers, server.farewell()))
}

#[test]
fn what_comes_on_an_open_connection_after_the_signal_is_taken_and_told_to_be_its_last() {
    for has_spoken in [true, false] {
        let (answers, end) =
            eventually("the server reads it in time", || post_twice_after_the_signal(has_spoken));
        let said: Vec<_> = answers.iter().map(|answer| (answer.status, answer.field("connection"))).collect();
        // What stands behind it was not looked at: the client sees that it has no answer.
        assert_eq!(said, [(200, Some("close"))], "has spoken: {has_spoken}");
        let accepted = 1 + u64::from(has_spoken);
        assert_eq!((end.accepted, end.processed, end.lost), (accepted, accepted, 0), "{end:?}");
    }
}

/// The names of a process' threads.
fn threads(server: &Server) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process().as_raw_nonzero())).unwrap();
    // One may end meanwhile.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

#[test]
fn no_connection_is_taken_while_a_broker_that_stands_still_holds_the_shutdown() {
    if !brokers::can_be_had() {
        return;
    }
    let folder = Scratch::new();
    let (nats, url) = brokers::nats(&folder);
    let data = format!("data.directory={}", folder.path().join("data").display());
    // What the consumer has under way holds it; sometimes there is nothing.
    eventually("the door is closed while the consumer waits for its broker", || {
        let server = Start::new().set("queue.type=nats").variable("NATS_URL", &url).set(&data).run();
        let processed = || get(server.processor(), "/stats").json()["pool"]["ProcessedCount"].as_u64();
        let mut peer = Peer::connect(server.gateway());
        let request = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
        peer.send(request.repeat(20));
        (0..20).for_each(|_| assert_eq!(peer.answer(false).unwrap().status, 200));
        eventually("they come back from the broker", || processed().filter(|count| *count > 0));
        nats.pause();
        server.signal(Signal::TERM);
        wait_for_the_drain(&server);
        let waits = threads(&server).iter().any(|name| name == "nats-in");
        nats.resume();
        drop(peer);
        assert_eq!(server.farewell().lost, 0);
        waits.then_some(())
    });
}

#[test]
fn open_http2_requests_are_finished() {
    let server = Server::start();
    let end = on_runtime(async {
        let mut peer = H2Peer::connect(server.gateway()).await;
        let (post, mut body) = peer.open(Method::POST, "/ingest", &[JSON], false).await.unwrap();
        body.send_data(Bytes::from_static(b"{"), false).unwrap();
        let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
        let (streamed, stream) = peer.open(Method::POST, STREAM, &grpc, false).await.unwrap();
        let stream = send_all(stream, Bytes::from(framed(0, b"")), false).await.unwrap();
        // Answered on the same connection, so what stands before it has arrived, too.
        assert_eq!(peer.ask(Method::GET, "/health", &[], b"").await.unwrap().status, 200);
        server.signal(Signal::TERM);
        tokio::task::block_in_place(|| wait_for_the_drain(&server));
        body.send_data(Bytes::from_static(b"}"), true).unwrap();
        let _done = send_all(stream, Bytes::from(framed(0, b"")), true).await.unwrap();
        assert_eq!(read(post).await.unwrap().status, 200);
        let streamed = read(streamed).await.unwrap();
        assert_eq!(streamed.grpc_status(), Some(0), "{streamed:?}");
        assert!(String::from_utf8_lossy(&streamed.body).contains("batch-2"), "{streamed:?}");
        server.farewell()
    });
    assert_eq!((end.exit_code, end.accepted, end.processed, end.lost), (Some(0), 3, 3, 0));
}

#[test]
fn an_idle_keep_alive_connection_is_closed() {
    let server = Server::start();
    let mut idle = Peer::connect(server.gateway());
    idle.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(idle.answer(false).unwrap().status, 200);
    let mut silent = Peer::connect(server.gateway());
    server.signal(Signal::TERM);
    assert!(idle.rest().is_empty());
    assert!(silent.rest().is_empty());
    assert_eq!(server.farewell().exit_code, Some(0));
}

#[test]
fn readiness_is_503_while_draining() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(peer.answer(false).unwrap().status, 200);
    // The next request has begun on the open connection when the signal comes.
    let before = received_bytes(&server);
    peer.send("GET /ready HTTP/1.1\r\n");
    eventually("the server has read it", || (received_bytes(&server) > before + 300).then_some(()));
    server.signal(Signal::TERM);
    wait_for_the_drain(&server);
    peer.send("Host: localhost\r\n\r\n");
    let answer = peer.answer(false).expect("an open request is answered");
    assert_eq!(answer.status, 503);
    let body = answer.json();
    assert_eq!((&body["ready"], &body["status"]), (&false.into(), &"not_ready".into()), "{body}");
    assert_eq!(server.farewell().exit_code, Some(0));
}

/// Bytes the server has read so far; asking adds to them.
fn received_bytes(server: &Server) -> u64 {
    let page = get(server.gateway(), "/metrics");
    let line = page.text().lines().find(|line| line.starts_with("tidegate_received_bytes_total ")).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start();
    // An open request would hold the drain for 30 s.
    let mut peer = Peer::connect(server.gateway());
    peer.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{");
    server.signal(Signal::TERM);
    server.wait_for_message("draining");
    let drains_since = Instant::now();
    // One that comes within a second is the same wish; who keeps asking is obeyed.
    let asks = server.process();
    let status = eventually("it ends by a later signal", || {
        // It may be gone already.
        let _ = kill_process(asks, Signal::INT);
        server.has_exited()
    });
    assert_eq!(status.code(), Some(130));
    assert!(drains_since.elapsed() >= Duration::from_millis(900), "{:?}", drains_since.elapsed());
    server.wait_for_message("second signal");
}

#[test]
fn a_signal_twice_at_once_is_one_wish() {
    let server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{");
    eventually("the head was read", || (received_bytes(&server) > 60).then_some(()));
    server.signal(Signal::TERM);
    server.wait_for_message("draining");
    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    peer.send("}");
    assert_eq!(peer.answer(false).unwrap().status, 200);
    let end = server.farewell();
    assert_eq!((end.exit_code, end.accepted, end.processed, end.lost), (Some(0), 1, 1, 0));
}

#[test]
fn sighup_neither_ends_nor_drains_it() {
    let server = Server::start();
    server.signal(Signal::HUP);
    server.wait_for_message("SIGHUP is ignored");
    assert_eq!(get(server.gateway(), "/ready").status, 200);
    // It is no first signal either.
    server.signal(Signal::TERM);
    assert_eq!(server.farewell().exit_code, Some(0));
}

#[test]
fn a_closed_terminal_costs_no_message() {
    let mut server = Server::start();
    let mut peer = Peer::connect(server.gateway());
    peer.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(peer.answer(false).unwrap().status, 200);
    // Nobody reads its lines any more, and then it is told so.
    server.close_log();
    server.signal(Signal::HUP);
    assert_eq!(get(server.gateway(), "/ready").status, 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[test]
fn a_request_that_never_ends_is_cut_when_the_time_is_over() {
    let server = Start::new().set("timeouts.shutdown=1s").run();
    let mut peer = Peer::connect(server.gateway());
    peer.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{");
    let mut done = Peer::connect(server.gateway());
    done.send("POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(done.answer(false).unwrap().status, 200);
    let end = server.stop();
    assert_eq!((end.exit_code, end.accepted, end.processed, end.lost), (Some(0), 1, 1, 0));
    peer.rest();
}

#[test]
fn a_taken_port_names_the_address_and_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (setting, variable) in [
        ("listen.gateway", "API_PORT"),
        ("listen.ingest", "INGEST_PORT"),
        ("listen.processor", "PROCESSOR_PORT"),
        ("listen.grpc", "GRPC_PORT"),
    ] {
        let (status, said) = Start::new().set(&format!("{setting}={address}")).fail();
        assert_eq!(status.code(), Some(1), "{said}");
        for word in [setting, variable, &address] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
    }
}

#[test]
fn two_servers_do_not_share_a_port_by_accident() {
    let first = Server::start();
    let (status, said) = Start::new().set(&format!("listen.gateway={}", first.gateway())).fail();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("listen.gateway"), "{said}");
}

#[test]
fn a_taken_metrics_port_is_a_warning() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let server = Start::new().set("metrics.enabled=true").set(&format!("listen.metrics={address}")).run();
    let log = server.log();
    let warning =
        log.iter().find(|line| line.contains(r#""level":"WARN""#)).unwrap_or_else(|| panic!("{log:?}"));
    assert!(warning.contains("listen.metrics") && warning.contains(&address.to_string()), "{warning}");
    assert_eq!(get(server.gateway(), "/metrics").status, 200);
}

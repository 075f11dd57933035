//! Several processes, each with its part, joined by HTTP/2: what one is asked, another does, and its word counts.

use std::{
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Answer, H2Peer, Peer, Scratch, Start, eventually, framed, get, on_runtime, post_json};

/// A process of this role; it listens on ports of its own choosing.
fn role(name: &str) -> Start {
    Start::new().argument("--role").argument(name)
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// A processor that keeps its messages in `folder`.
fn processor(folder: &Scratch) -> Start {
    role("processor")
        .set("queue.type=log")
        .set(&format!("data.directory={}", folder.path().join("data").display()))
}

fn gateway_to(far: SocketAddr) -> Start {
    role("api-gateway").variable("INGEST_URL", &url(far))
}

/// POST to a gateway with further header lines.
fn post(address: SocketAddr, fields: &str, body: &str) -> Answer {
    let mut peer = Peer::connect(address);
    peer.send(format!(
        "POST /api/v1/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ));
    peer.answer(false).unwrap()
}

/// Waits until a process reaches the one behind it.
#[track_caller]
fn joined(address: SocketAddr) {
    eventually("it reaches the process behind it", || (get(address, "/ready").status == 200).then_some(()));
}

/// A number on the metrics page.
#[track_caller]
fn metric(address: SocketAddr, name: &str) -> f64 {
    let page = get(address, "/metrics");
    let line = page.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

fn processed(processor: SocketAddr) -> u64 {
    get(processor, "/stats").json()["pool"]["ProcessedCount"].as_u64().unwrap()
}

#[test]
fn a_message_goes_through_gateway_and_ingest_to_the_processor_and_its_word_comes_back() {
    let folder = Scratch::new();
    let processor = processor(&folder).run();
    let ingest = role("ingest").variable("PROCESSOR_URL", &url(processor.processor())).run();
    // The older systems' files name this, too, and the same queue for all; neither is the gateway's to use.
    let gateway = gateway_to(ingest.ingest())
        .variable("PROCESSOR_URL", "http://127.0.0.1:1")
        .variable("QUEUE_TYPE", "kafka")
        .run();
    joined(ingest.ingest());
    joined(gateway.gateway());
    let answer = post(gateway.gateway(), "", r#"{"source":"s","data":"hello","metadata":{"a":"b"}}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = answer.json();
    assert_eq!(
        (&said["ack"], &said["offset"], answer.field("tidegate-ack")),
        (&json!("durable"), &json!(0), Some("durable"))
    );
    assert!(said["shard"].is_u64(), "{said}");
    // A level that is asked for is the far side's to give, and to refuse in its own words.
    assert_eq!(post(gateway.gateway(), "Tidegate-Ack: queued\r\n", "{}").json()["ack"], "queued");
    let refused = post(gateway.gateway(), "Tidegate-Ack: delivered\r\n", "{}");
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("FAILED_PRECONDITION")));
    assert!(refused.text().contains("there is no broker"), "{}", refused.text());
    let enqueued = post_json(gateway.gateway(), "/enqueue", r#"{"id":"mine","source":"s","payload":"aGk="}"#);
    assert_eq!((enqueued.status, enqueued.field("tidegate-ack")), (202, Some("durable")));
    assert!(enqueued.field("tidegate-offset").is_some());
    eventually("the processor works on them", || (processed(processor.processor()) == 3).then_some(()));
    let stats = get(gateway.gateway(), "/stats").json();
    assert_eq!(
        (&stats["queue"]["type"], &stats["queue"]["CurrentSize"], &stats["pool"]["ProcessedCount"]),
        (&json!("remote"), &json!(0), &json!(0))
    );
    // The gateway's status has the processor's own counts, over the ingest service between them.
    let status = get(gateway.gateway(), "/api/v1/status").json();
    assert_eq!(
        (
            &status["ingest"]["stats"]["TotalReceived"],
            &status["processor"]["stats"]["pool"]["ProcessedCount"]
        ),
        (&json!(4), &json!(3)),
        "{status}"
    );
    assert_eq!((gateway.stop().lost, ingest.stop().lost, processor.stop().exit_code), (0, 0, Some(0)));
}

#[test]
fn a_forwarding_process_tells_how_the_one_behind_it_is() {
    let processor = role("processor").run();
    let gateway = role("api-gateway").variable("PROCESSOR_URL", &url(processor.processor())).run();
    joined(gateway.gateway());
    let status = get(gateway.gateway(), "/api/v1/status").json();
    assert_eq!((&status["processor"]["healthy"], &status["remote"]["healthy"]), (&json!(true), &json!(true)));
    assert_eq!(status["remote"]["url"], url(processor.processor()));
    let trace = get(gateway.gateway(), "/api/v1/trace").json();
    assert_eq!(trace["success"], true, "{trace}");
    let far = processor.processor();
    drop(processor);
    eventually("readiness says so", || {
        let ready = get(gateway.gateway(), "/ready");
        (ready.status == 503 && ready.text().contains(&url(far))).then_some(())
    });
    let health = get(gateway.gateway(), "/health");
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("unhealthy")));
    let status = get(gateway.gateway(), "/api/v1/status").json();
    let error = status["processor"]["error"].as_str().unwrap();
    assert!(status["processor"]["healthy"] == false && error.contains("remote.processor_url"), "{status}");
    assert_eq!(get(gateway.gateway(), "/api/v1/trace").json()["success"], false);
}

#[test]
fn a_full_queue_behind_is_a_refusal_in_front_and_nothing_piles_up() {
    // A broker that is never there: the processor's queue fills and stays full.
    let processor = role("processor")
        .variable("QUEUE_TYPE", "kafka")
        .variable("KAFKA_BROKERS", "127.0.0.1:1")
        .set("queue.size=8")
        .set("engine.cores=1")
        .set("queue.consume=false")
        .run();
    let gateway = gateway_to(processor.processor()).run();
    joined(gateway.gateway());
    let send = || post(gateway.gateway(), "Tidegate-Ack: queued\r\n", r#"{"data":"x"}"#);
    for _ in 0..8 {
        assert_eq!(send().status, 200);
    }
    let refused = send();
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    assert!(
        refused.json()["code"] == "RESOURCE_EXHAUSTED" && refused.text().contains("Queue is full"),
        "{}",
        refused.text()
    );
    let flood = |count: usize| {
        on_runtime(async {
            let peer = H2Peer::connect(gateway.gateway()).await;
            let tasks: Vec<_> = (0..32)
                .map(|_| {
                    let mut peer = peer.clone();
                    tokio::spawn(async move {
                        for _ in 0..count / 32 {
                            let body = json!({"data": "x".repeat(4096)}).to_string();
                            let fields = [("content-type", "application/json"), ("tidegate-ack", "queued")];
                            let answer = peer
                                .ask(http::Method::POST, "/api/v1/ingest", &fields, body.as_bytes())
                                .await;
                            assert_eq!(answer.unwrap().status, 503);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    };
    flood(1024);
    let before = metric(gateway.gateway(), "process_resident_memory_bytes");
    flood(8192);
    let grown = metric(gateway.gateway(), "process_resident_memory_bytes") - before;
    println!(
        "resident memory grew by {:.1} MiB over 8,192 refused messages of 4 KiB",
        grown / f64::from(1 << 20)
    );
    assert!(grown < f64::from(16 << 20), "{grown}");
    assert_eq!(get(gateway.gateway(), "/stats").json()["queue"]["CurrentSize"], 0);
}

#[test]
fn many_messages_use_few_connections() {
    const MESSAGES: usize = 20_000;
    let processor = role("processor").run();
    let gateway = gateway_to(processor.processor()).run();
    joined(gateway.gateway());
    on_runtime(async {
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let peer = H2Peer::connect(gateway.gateway()).await;
            for _ in 0..50 {
                let mut peer = peer.clone();
                tasks.push(tokio::spawn(async move {
                    for _ in 0..MESSAGES / 200 {
                        assert_eq!(
                            peer.post("/api/v1/ingest", br#"{"data":"x"}"#).await.unwrap().status,
                            200
                        );
                    }
                }));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    let requests = metric(gateway.gateway(), "tidegate_remote_requests_total");
    let opened = metric(gateway.gateway(), "tidegate_remote_connections_opened_total");
    println!(
        "{requests} messages over {opened} connections: {:.2} % used again",
        100.0 * (1.0 - opened / requests)
    );
    assert_eq!(requests, MESSAGES as f64);
    assert!(opened <= 10.0, "{opened}");
    assert_eq!(processor.settled(), MESSAGES as u64);
}

#[test]
fn a_far_side_that_dies_is_told_at_once_and_found_again_by_itself() {
    let folder = Scratch::new();
    let far = processor(&folder).run();
    let address = far.processor();
    let gateway = gateway_to(address).run();
    joined(gateway.gateway());
    assert_eq!(post(gateway.gateway(), "", "{}").status, 200);
    drop(far);
    eventually("it counts as out of reach", || {
        let answer = post(gateway.gateway(), "", "{}");
        assert!(matches!(answer.status, 503 | 504), "{}", answer.text());
        (get(gateway.gateway(), "/ready").status == 503).then_some(())
    });
    let refused = post(gateway.gateway(), "", "{}");
    assert!(refused.status == 503 && refused.text().contains("not accepted"), "{}", refused.text());
    let far = processor(&folder).set(&format!("listen.processor={address}")).run();
    eventually("it is found again", || (post(gateway.gateway(), "", "{}").status == 200).then_some(()));
    // Stopped, it takes connections and says nothing.
    far.signal(Signal::STOP);
    let unknown = post(gateway.gateway(), "", "{}");
    assert_eq!(
        (unknown.status, &unknown.json()["code"]),
        (504, &json!("DEADLINE_EXCEEDED")),
        "{}",
        unknown.text()
    );
    assert!(unknown.text().contains("remote.answer_timeout"), "{}", unknown.text());
    eventually("it counts as out of reach", || {
        (get(gateway.gateway(), "/ready").status == 503).then_some(())
    });
    far.signal(Signal::CONT);
    eventually("it is found again", || (post(gateway.gateway(), "", "{}").status == 200).then_some(()));
    assert_eq!(gateway.stop().lost, 0);
}

#[test]
fn a_far_side_that_shuts_down_in_order_loses_nothing() {
    let folder = Scratch::new();
    let far = processor(&folder).run();
    let address = far.processor();
    let gateway = gateway_to(address).run();
    joined(gateway.gateway());
    let there = gateway.gateway();
    let sender = thread::spawn(move || {
        let mut statuses = Vec::new();
        for _ in 0..400 {
            statuses.push(post(there, "", r#"{"data":"x"}"#).status);
        }
        statuses
    });
    eventually("some have come", || (processed(address) > 20).then_some(()));
    let kept = far.stop();
    let statuses = sender.join().unwrap();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    let accepted = statuses.iter().filter(|status| **status == 200).count() as u64;
    assert_eq!((kept.accepted, kept.lost), (accepted, 0));
}

#[test]
fn a_repeated_key_is_told_as_a_repeat_through_the_gateway() {
    let folder = Scratch::new();
    let processor = processor(&folder).run();
    let gateways = [gateway_to(processor.processor()).run(), gateway_to(processor.processor()).run()];
    gateways.iter().for_each(|gateway| joined(gateway.gateway()));
    let send =
        |place: usize, body: &str| post(gateways[place].gateway(), "Idempotency-Key: order-17\r\n", body);
    let first = send(0, r#"{"data":"x"}"#).json();
    assert_eq!((&first["messageId"], first.get("duplicate")), (&json!("order-17"), None));
    // The far side has them from everybody: through another gateway it is the same message.
    for place in [0, 1] {
        let again = send(place, r#"{"data":"x"}"#).json();
        assert_eq!((&again["duplicate"], &again["offset"]), (&json!(true), &first["offset"]));
    }
    let conflict = send(1, r#"{"data":"another"}"#);
    assert_eq!((conflict.status, &conflict.json()["code"]), (409, &json!("ALREADY_EXISTS")));
    eventually("it is worked on once", || (processed(processor.processor()) == 1).then_some(()));
}

#[test]
fn grpc_goes_the_same_way_and_a_stream_larger_than_the_queue_waits_for_room() {
    const STREAMED: usize = 3000;
    let folder = Scratch::new();
    let processor = processor(&folder).run();
    let front = role("grpc-server")
        .variable("PROCESSOR_URL", &url(processor.processor()))
        .set("queue.size=100")
        .run();
    joined(front.grpc());
    // IngestRequest: source = "s", data = "hi".
    let message = framed(0, b"\x0a\x01s\x12\x02hi");
    on_runtime(async {
        let mut peer = H2Peer::connect(front.grpc()).await;
        let answer = peer.call("/diplom.v1.IngestService/Ingest", &[], &message).await.unwrap();
        assert_eq!(
            (answer.grpc_status(), &answer.head["tidegate-ack"]),
            (Some(0), &http::HeaderValue::from_static("durable"))
        );
        assert!(answer.head.contains_key("tidegate-offset"));
        let refused = peer
            .call("/diplom.v1.IngestService/Ingest", &[("tidegate-ack", "delivered")], &message)
            .await
            .unwrap();
        assert_eq!(refused.grpc_status(), Some(9));
        let answer =
            peer.call("/diplom.v1.IngestService/IngestStream", &[], &message.repeat(STREAMED)).await.unwrap();
        assert_eq!(answer.grpc_status(), Some(0), "{}", answer.grpc_message());
    });
    eventually("all of it is worked on", || {
        (processed(processor.processor()) == STREAMED as u64 + 1).then_some(())
    });
    assert_eq!(front.stop().lost, 0);
}

#[test]
fn an_id_without_a_key_may_stand_on_several_messages() {
    let processor = role("processor").run();
    let gateway = gateway_to(processor.processor()).run();
    joined(gateway.gateway());
    for payload in ["YQ==", "YQ==", "Yg=="] {
        let body = json!({"id": "trace-test", "payload": payload}).to_string();
        assert_eq!(post_json(gateway.gateway(), "/enqueue", &body).status, 202);
    }
    assert_eq!(processor.settled(), 3);
}

#[test]
fn events_keep_their_user_and_their_kind_on_the_way_and_are_added_up_at_the_end() {
    let processor = role("processor").run();
    let gateway = gateway_to(processor.processor()).run();
    joined(gateway.gateway());
    let event = json!({"id": "evt-1", "user_id": "u-1", "event_type": "EVENT_TYPE_USER", "source": "web",
        "user_event": {"action": "click"}});
    let answer = post_json(gateway.gateway(), "/v1/events", &event.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let legacy = json!({"id": "event_2", "user_id": "u-1", "event_type": "purchase", "source": "shop"});
    assert_eq!(post_json(gateway.gateway(), "/events", &legacy.to_string()).status, 200);
    eventually("the processor has added them up", || {
        let summary = get(processor.processor(), "/analytics/summary").json();
        (summary["total_events"] == 2 && summary["total_users"] == 1).then_some(())
    });
    let user = get(processor.processor(), "/v1/analytics/users/u-1");
    assert!(user.status == 200 && user.text().contains("u-1"), "{}", user.text());
    // The gateway has worked on none of them, and does not say that there are none.
    let asked = get(gateway.gateway(), "/v1/analytics/users/u-1");
    assert!(asked.status == 400 && asked.text().contains(&url(processor.processor())), "{}", asked.text());
    // Told again, it is recognised there.
    let again = post_json(gateway.gateway(), "/v1/events", &event.to_string()).json();
    assert_eq!(again["message"], "duplicate", "{again}");
}

/// Another process as the test wants it: it says on each connection what `answer` gives for its number, or hangs up
/// after the request. The keys of the requests, in order.
fn far_side(
    answers: Vec<Option<(u16, &'static str)>>,
) -> (SocketAddr, std::sync::mpsc::Receiver<Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, keys) = std::sync::mpsc::channel();
    thread::spawn(move || {
        on_runtime(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            for answer in answers {
                let (socket, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let key = request.headers().get("idempotency-key");
                    let key = key.map(|key| key.to_str().unwrap().to_owned());
                    let mut body = request.into_body();
                    // The connection moves while it is asked for the next request.
                    let read = async {
                        while let Some(data) = body.data().await {
                            let length = data.unwrap().len();
                            body.flow_control().release_capacity(length).unwrap();
                        }
                    };
                    tokio::select! {
                        () = read => {}
                        _ = connection.accept() => {}
                    }
                    sender.send(key).unwrap();
                    let Some((status, text)) = answer else { break };
                    let head = http::Response::builder().status(status).body(()).unwrap();
                    let mut stream = respond.send_response(head, false).unwrap();
                    stream.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
                }
            }
        });
    });
    (address, keys)
}

#[test]
fn a_message_whose_connection_breaks_is_sent_once_more_under_the_same_key() {
    let (far, keys) = far_side(vec![None, Some((202, ""))]);
    let gateway = gateway_to(far).run();
    joined(gateway.gateway());
    let answer = post(gateway.gateway(), "", "{}");
    // The older processor names no level: it has it in its queue.
    assert_eq!((answer.status, &answer.json()["ack"]), (200, &json!("queued")), "{}", answer.text());
    let first = keys.recv().unwrap();
    assert!(first.is_some());
    assert_eq!(first.as_deref(), answer.json()["messageId"].as_str());
    assert_eq!(keys.recv().unwrap(), first);
    assert_eq!(metric(gateway.gateway(), "tidegate_remote_retries_total"), 1.0);
}

#[test]
fn a_second_break_is_unknown() {
    let (far, keys) = far_side(vec![None, None, Some((202, ""))]);
    let gateway = gateway_to(far).run();
    joined(gateway.gateway());
    let answer = post(gateway.gateway(), "", "{}");
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (504, &json!("DEADLINE_EXCEEDED")),
        "{}",
        answer.text()
    );
    assert_eq!(keys.recv().unwrap(), keys.recv().unwrap());
    assert_eq!(post(gateway.gateway(), "", "{}").status, 200);
}

#[test]
fn what_is_no_processor_is_named_with_the_setting() {
    let (far, _keys) = far_side(vec![Some((404, "404 page not found"))]);
    let gateway = gateway_to(far).run();
    joined(gateway.gateway());
    let answer = post(gateway.gateway(), "", "{}");
    assert!(answer.status == 503 && answer.text().contains("remote.ingest_url"), "{}", answer.text());
}

#[test]
fn a_url_that_leads_back_or_is_not_used_is_said() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (status, said) = role("ingest")
        .set(&format!("listen.ingest=127.0.0.1:{port}"))
        .variable("PROCESSOR_URL", &format!("http://localhost:{port}"))
        .fail();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("remote.processor_url") && said.contains("itself"), "{said}");
    let all = Start::new()
        .variable("PROCESSOR_URL", "http://localhost:8082")
        .variable("INGEST_URL", "http://localhost:8081")
        .run();
    let line = all.log().into_iter().find(|line| line.contains("remote.ingest_url, remote.processor_url"));
    assert!(line.is_some_and(|line| line.contains("not used")));
    assert_eq!(post(all.gateway(), "", "{}").status, 200);
}

#[test]
fn every_part_opens_the_older_programs_listeners() {
    for (name, roles) in [
        ("producer", &["ingest", "grpc"][..]),
        ("grpc-gateway", &["gateway", "grpc"]),
        ("consumer", &["processor", "grpc"]),
        ("analytics", &["analytics", "grpc"]),
        ("producer-service", &["gateway"]),
        ("highload-microservice", &["gateway"]),
    ] {
        let server = role(name).run();
        assert_eq!(server.roles(), roles, "{name}");
        assert_eq!(server.stop().exit_code, Some(0));
    }
}

#[test]
fn health_check_asks_the_server_of_this_machine() {
    let server = Start::new().run();
    let ask = |address: &str| {
        std::process::Command::new(crate::harness::TIDEGATE)
            .arg("-health-check")
            .env_clear()
            .env("SERVER_ADDRESS", address)
            .current_dir(Scratch::new().path())
            .output()
            .unwrap()
    };
    let address = server.gateway().to_string();
    eventually("it is healthy", || ask(&address).status.success().then_some(()));
    drop(server);
    let said = ask(&address);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains(&address));
}

#[test]
fn a_stopping_gateway_waits_for_what_is_under_way() {
    let (far, keys) = far_side(vec![Some((202, ""))]);
    let gateway = gateway_to(far).run();
    joined(gateway.gateway());
    let there = gateway.gateway();
    let sender = thread::spawn(move || post(there, "", "{}").status);
    keys.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(gateway.stop().lost, 0);
    assert_eq!(sender.join().unwrap(), 200);
}

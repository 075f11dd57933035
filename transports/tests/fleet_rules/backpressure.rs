//! A full queue: refused in the words of each protocol, or the stream's window withheld; and never anything else.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use engine_core::PartitionKey;
use prost::Message;
use tidegate_proto::diplom::v1::IngestRequest;
use transports::Tally;

use crate::harness::{H2Peer, TestFleet, eventually, framed, on_runtime, patiently, post, read, send};

const QUEUE: usize = 4;
const UNARY: &str = "/diplom.v1.IngestService/Ingest";
const STREAM: &str = "/diplom.v1.IngestService/IngestStream";
const LONG: Duration = Duration::from_secs(20);

fn shut() -> TestFleet {
    TestFleet::shut(1, QUEUE, PartitionKey::Arrival)
}

/// Fills the queue.
fn fill(fleet: &TestFleet) {
    for number in 0..QUEUE {
        assert_eq!(post(fleet.address, "/ingest", b"{}").status, 200, "message {number}");
    }
}

fn message(data: &[u8]) -> Vec<u8> {
    framed(0, &IngestRequest { data: data.to_vec(), ..Default::default() }.encode_to_vec())
}

/// Whether the details of a status hold a RetryInfo.
fn has_retry_info(details: &str) -> bool {
    let details = STANDARD_NO_PAD.decode(details.trim_end_matches('=')).unwrap();
    details.windows(20).any(|window| window == b"google.rpc.RetryInfo")
}

#[test]
fn a_full_queue_refuses_with_503_and_retry_after() {
    let fleet = shut();
    fill(&fleet);
    for (path, body) in
        [("/ingest", &b"{}"[..]), ("/api/v1/ingest", b"{}"), ("/enqueue", br#"{"payload":"aGk="}"#)]
    {
        let answer = post(fleet.address, path, body);
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.head.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n"), "{}", answer.head);
        let body = answer.json();
        assert_eq!((&body["status"], &body["code"]), (&"error".into(), &"RESOURCE_EXHAUSTED".into()));
        assert!(body["error"].as_str().unwrap().contains("Queue is full"), "{body}");
    }
    assert_eq!(fleet.tally(Tally::MessagesQueued), QUEUE as u64);
    assert_eq!(fleet.tally(Tally::MessagesRefused), 3);
    fleet.open_the_gate();
    eventually("there is room again", || (post(fleet.address, "/ingest", b"{}").status == 200).then_some(()));
    let end = fleet.end(LONG);
    assert_eq!((end.accepted, end.done, end.lost), (QUEUE as u64 + 1, QUEUE as u64 + 1, 0));
}

#[test]
fn a_full_queue_refuses_over_http2_and_the_connection_goes_on() {
    let fleet = shut();
    fill(&fleet);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for _ in 0..3 {
            let answer = peer.post("/ingest", "application/json", b"{}").await;
            assert_eq!(answer.status, 503);
            assert_eq!(answer.field("retry-after"), Some("1"));
        }
        fleet.gate.set(true);
        // The worker gets its turn behind the answer to this one, or before it.
        peer.post("/ingest", "application/json", b"{}").await;
        assert_eq!(peer.post("/ingest", "application/json", b"{}").await.status, 200);
    });
}

#[test]
fn a_full_queue_refuses_a_unary_call_with_resource_exhausted_and_retry_info() {
    let fleet = shut();
    fill(&fleet);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let answer = peer.post(UNARY, "application/grpc", &message(b"d")).await;
        assert_eq!(answer.field("grpc-status"), Some("8"), "{answer:?}");
        assert!(has_retry_info(answer.field("grpc-status-details-bin").unwrap()), "{answer:?}");
    });
    assert_eq!(fleet.tally(Tally::MessagesRefused), 1);
}

#[test]
fn a_malformed_message_is_refused_as_malformed_also_when_the_queue_is_full() {
    let fleet = shut();
    fill(&fleet);
    assert_eq!(post(fleet.address, "/ingest", b"{").status, 400);
    assert_eq!(fleet.tally(Tally::MessagesRefused), 0);
}

/// Pushes until a round trip gives no more window. Bytes that were taken, and the stream.
pub(crate) async fn push_until_withheld(
    peer: &mut H2Peer,
    mut stream: h2::SendStream<Bytes>,
    body: &mut Bytes,
) -> (usize, h2::SendStream<Bytes>) {
    let before = body.len();
    let mut fruitless = 0;
    while fruitless < 5 && !body.is_empty() {
        stream.reserve_capacity(body.len());
        match stream.capacity() {
            0 => {
                peer.round_trip().await;
                fruitless += 1;
            }
            capacity => {
                stream.send_data(body.split_to(capacity.min(body.len())), false).unwrap();
                fruitless = 0;
            }
        }
    }
    (before - body.len(), stream)
}

#[test]
fn a_full_queue_withholds_a_streams_window_until_the_sink_goes_on() {
    const MESSAGES: usize = 20_000;
    let fleet = shut();
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        let (answer, stream) = peer.open(STREAM, "application/grpc").await;
        let mut body = Vec::new();
        for number in 0..MESSAGES {
            body.extend(message(format!("{number:0>1000}").as_bytes()));
        }
        let mut body = Bytes::from(body);
        let all = body.len();
        let (pushed, stream) = push_until_withheld(&mut peer, stream, &mut body).await;
        assert_eq!(fleet.tally(Tally::MessagesQueued), QUEUE as u64);
        assert_eq!(fleet.tally(Tally::MessagesRefused), 0, "waiting is no refusal");
        assert!(pushed < all / 4, "{pushed} of {all} bytes were taken for a queue of {QUEUE}");

        // Its neighbours on the connection are served all the same.
        let refused = peer.post("/ingest", "application/json", b"{}").await;
        assert_eq!(refused.status, 503);
        assert_eq!(peer.post("/ingest", "application/json", b"{").await.status, 400);

        fleet.gate.set(true);
        // Any request gives the core a turn.
        assert_eq!(peer.post("/ingest", "application/json", b"{").await.status, 400);
        patiently(send(stream, body, true)).await.unwrap();
        let answer = read(answer).await.unwrap();
        assert_eq!(answer.field("grpc-status"), Some("0"), "{answer:?}");
        assert!(String::from_utf8_lossy(&answer.body).contains(&format!("batch-{MESSAGES}")), "{answer:?}");
    });
    let worked = fleet.worked(MESSAGES);
    for (number, worked) in worked.iter().enumerate() {
        assert_eq!(worked.payload, format!("{number:0>1000}").as_bytes());
    }
    let end = fleet.end(LONG);
    assert_eq!((end.accepted, end.done, end.lost), (MESSAGES as u64, MESSAGES as u64, 0));
}

#[test]
fn many_withheld_streams_all_go_on() {
    const STREAMS: usize = 20;
    const MESSAGES: usize = 500;
    let fleet = shut();
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        let mut open = Vec::new();
        for _ in 0..STREAMS {
            let (answer, stream) = peer.open(STREAM, "application/grpc").await;
            let mut body = Bytes::from(message(&[7; 100]).repeat(MESSAGES));
            let (_, stream) = push_until_withheld(&mut peer, stream, &mut body).await;
            open.push((answer, stream, body));
        }
        assert_eq!(fleet.tally(Tally::MessagesQueued), QUEUE as u64);
        fleet.gate.set(true);
        assert_eq!(peer.post("/ingest", "application/json", b"{").await.status, 400);
        for (answer, stream, body) in open {
            let mut stream = patiently(send(stream, body, false)).await.unwrap();
            stream.send_data(Bytes::new(), true).unwrap();
            let answer = read(answer).await.unwrap();
            assert_eq!(answer.field("grpc-status"), Some("0"), "{answer:?}");
        }
    });
    fleet.worked(STREAMS * MESSAGES);
}

#[test]
fn a_withheld_stream_that_is_reset_leaves_nothing_behind() {
    let fleet = shut();
    fill(&fleet);
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        for _ in 0..10 {
            let (answer, stream) = peer.open(STREAM, "application/grpc").await;
            let mut body = Bytes::from(message(&[7; 100]).repeat(2_000));
            let (_, mut stream) = push_until_withheld(&mut peer, stream, &mut body).await;
            // A reset overtakes what this side has not written yet: let it arrive first.
            peer.round_trip().await;
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
        }
        // The connection's window came back: a large body still goes through.
        peer.round_trip().await;
        fleet.gate.set(true);
        assert_eq!(peer.post("/ingest", "application/json", b"{").await.status, 400);
        let body = format!(r#"{{"data":"{}"}}"#, "x".repeat(4 << 20));
        assert_eq!(peer.post("/ingest", "application/json", body.as_bytes()).await.status, 200);
    });
    // What was there before the streams, and the large one.
    fleet.worked(QUEUE + 1);
    let end = fleet.end(LONG);
    assert_eq!((end.accepted, end.done, end.lost), (QUEUE as u64 + 1, QUEUE as u64 + 1, 0));
}

#[test]
fn every_message_is_accepted_and_processed_or_refused() {
    const CLIENTS: usize = 8;
    const EACH: usize = 400;
    let fleet = TestFleet::shut(2, 16, PartitionKey::Arrival);
    let refused = AtomicUsize::new(0);
    let done = Arc::new(AtomicBool::new(false));
    let flapping = {
        let (gate, done) = (Arc::clone(&fleet.gate), Arc::clone(&done));
        thread::spawn(move || {
            let mut open = false;
            while !done.load(Relaxed) {
                open = !open;
                gate.set(open);
                thread::sleep(Duration::from_micros(500));
            }
        })
    };
    let acknowledged: BTreeSet<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (fleet, refused) = (&fleet, &refused);
                scope.spawn(move || {
                    on_runtime(async {
                        let peer = H2Peer::connect(fleet.address).await;
                        let mut mine = Vec::new();
                        for number in 0..EACH {
                            let name = format!("{client}-{number}");
                            let accepted = if number % 2 == 0 {
                                let body = format!(r#"{{"data":"{name}"}}"#);
                                let answer = peer.post("/ingest", "application/json", body.as_bytes()).await;
                                assert!(answer.status == 200 || answer.status == 503, "{answer:?}");
                                answer.status == 200
                            } else {
                                let answer =
                                    peer.post(UNARY, "application/grpc", &message(name.as_bytes())).await;
                                let status = answer.field("grpc-status").unwrap();
                                assert!(status == "0" || status == "8", "{answer:?}");
                                status == "0"
                            };
                            if accepted {
                                mine.push(name);
                            } else {
                                refused.fetch_add(1, Relaxed);
                            }
                        }
                        mine
                    })
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    done.store(true, Relaxed);
    flapping.join().unwrap();
    let refused = refused.into_inner();
    assert_eq!(acknowledged.len() + refused, CLIENTS * EACH);
    assert_eq!(fleet.tally(Tally::MessagesRefused), refused as u64);
    fleet.gate.set(true);
    let worked = fleet.worked(acknowledged.len());
    let worked: BTreeSet<String> =
        worked.into_iter().map(|worked| String::from_utf8(worked.payload).unwrap()).collect();
    assert_eq!(worked, acknowledged);
    let end = fleet.end(LONG);
    assert_eq!((end.accepted, end.lost), (end.done, 0));
}

#[test]
fn a_sink_that_never_goes_on_is_reported_as_lost() {
    let fleet = shut();
    fill(&fleet);
    let end = fleet.end(Duration::from_millis(200));
    assert_eq!((end.accepted, end.done, end.lost), (QUEUE as u64, 0, QUEUE as u64));
}

#[test]
fn a_message_over_the_byte_budget_waits_for_nobody_else() {
    // Slots there are plenty, bytes of large bodies there are 256 MiB: 36 of 8 MiB are too many.
    let fleet = TestFleet::shut(1, 1000, PartitionKey::Arrival);
    let body = format!(r#"{{"data":"{}"}}"#, "x".repeat(8 << 20));
    let mut statuses = Vec::new();
    for _ in 0..36 {
        statuses.push(post(fleet.address, "/ingest", body.as_bytes()).status);
    }
    let accepted = statuses.iter().filter(|status| **status == 200).count();
    assert!((28..=32).contains(&accepted), "{accepted} of 8 MiB in 256 MiB: {statuses:?}");
    assert!(statuses[accepted..].iter().all(|status| *status == 503), "{statuses:?}");
    assert_eq!(post(fleet.address, "/ingest", b"{}").status, 200, "a small one needs none of that");
    fleet.open_the_gate();
    fleet.worked(accepted + 1);
}

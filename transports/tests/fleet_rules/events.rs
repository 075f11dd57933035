//! Streams of events: a queue that is full, a client that does not read, a stream that says what it wants to hear, and
//! the end of the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use engine_core::{AckLevel, Outcome, PartitionKey};
use transports::Tally;

use crate::{
    backpressure::push_until_withheld,
    event_peer::{Answers, GRPC, STREAM, Told, config, many, open, send_and_end, told},
    harness::{
        H2Peer, TestFleet, Verdicts, eventually, eventually_meanwhile, on_runtime, patiently, post, read,
    },
};

const QUEUE: usize = 4;
const LONG: Duration = Duration::from_secs(20);

fn shut() -> TestFleet {
    TestFleet::shut(1, QUEUE, PartitionKey::Arrival)
}

fn ids(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// Ids so long that few events fill a window.
fn long_ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:0>120}")).collect()
}

/// A request that gives the core a turn.
async fn turn(peer: &H2Peer) {
    assert_eq!(peer.post("/ingest", "application/json", b"{").await.status, 400);
}

#[test]
fn a_full_queue_withholds_the_window_and_every_event_is_answered_once_and_in_order() {
    let fleet = shut();
    let ids = long_ids(5_000);
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        let (stream, mut answers) = open(&peer, &[]).await;
        let mut body = many(ids.clone());
        let all = body.len();
        let (pushed, stream) = push_until_withheld(&mut peer, stream, &mut body).await;
        assert_eq!(fleet.tally(Tally::MessagesQueued), QUEUE as u64);
        assert_eq!(fleet.tally(Tally::MessagesRefused), 0, "waiting is no refusal");
        assert!(pushed < all * 3 / 4, "{pushed} of {all} bytes were taken for a queue of {QUEUE}");
        fleet.gate.set(true);
        turn(&peer).await;
        let (_, (answered, end)) = tokio::join!(send_and_end(stream, body), answers.ids());
        assert_eq!((end.code.as_str(), &answered), ("0", &ids));
    });
    let worked: Vec<String> = fleet.worked(ids.len()).into_iter().map(|worked| worked.id).collect();
    assert_eq!(worked, ids);
    let end = fleet.end(LONG);
    assert_eq!((end.accepted, end.done, end.lost), (5_000, 5_000, 0));
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read_from() {
    const EVENTS: usize = 20_000;
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    let ids = long_ids(EVENTS);
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        let (stream, mut answers) = open(&peer, &[]).await;
        let mut body = many(ids.clone());
        let (_, stream) = push_until_withheld(&mut peer, stream, &mut body).await;
        let accepted = fleet.tally(Tally::MessagesQueued);
        assert!(!body.is_empty() && accepted < EVENTS as u64 / 4, "{accepted} were taken from it");
        // And it stays so.
        for _ in 0..5 {
            peer.round_trip().await;
        }
        assert_eq!(fleet.tally(Tally::MessagesQueued), accepted);
        let (_, (answered, end)) = tokio::join!(send_and_end(stream, body), answers.ids());
        assert_eq!((end.code.as_str(), &answered), ("0", &ids));
    });
    fleet.worked(EVENTS);
}

/// Lets the sink finish events in small lots, and each stream read what it is told, until half of them are answered.
/// How many of its events each stream saw answered then, at least.
async fn answered_of_each(verdicts: &Arc<Verdicts>, streams: Vec<Answers>, half: usize) -> Vec<usize> {
    const LOT: usize = 8;
    let counts: Vec<_> = streams.iter().map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let read = |count: &Arc<AtomicUsize>| count.load(Ordering::Acquire);
    for (mut answers, count) in streams.into_iter().zip(counts.clone()) {
        tokio::spawn(async move {
            while let Some(told) = answers.next().await {
                if matches!(told, Told::Event(..)) {
                    count.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
    }
    for lot in 1..=half / LOT {
        eventually_meanwhile("the queue is full", || verdicts.held() == QUEUE_HELD).await;
        verdicts.say_of_many(LOT, Outcome::Processed);
        eventually_meanwhile("they are answered", || counts.iter().map(read).sum::<usize>() >= lot * LOT)
            .await;
    }
    counts.iter().map(read).collect()
}

const QUEUE_HELD: usize = 64;

/// Every one of so many streams has events enough to fill the queue alone. When half of what all of them have to say
/// is answered, none was passed over.
fn none_is_passed_over(streams: usize, on_one_connection: bool) {
    const EVENTS: usize = 400;
    let (fleet, verdicts) = TestFleet::holding_so_many(QUEUE_HELD, AckLevel::Queued, LONG);
    let counts = on_runtime(async {
        let mut peers = vec![H2Peer::connect(fleet.address).await];
        let (mut senders, mut answers) = (Vec::new(), Vec::new());
        for number in 0..streams {
            if number > 0 && !on_one_connection {
                peers.push(H2Peer::connect(fleet.address).await);
            }
            let (mut sender, of_it) = open(peers.last().unwrap(), &[]).await;
            sender.send_data(many(ids(&format!("s{number}"), EVENTS)), false).unwrap();
            senders.push(sender);
            answers.push(of_it);
        }
        for peer in &mut peers {
            peer.round_trip().await;
        }
        answered_of_each(&verdicts, answers, streams * EVENTS / 2).await
    });
    let fair = EVENTS / 2;
    assert!(counts.iter().all(|count| *count > fair / 4), "answered of {EVENTS} of each: {counts:?}");
    end_now(fleet, &verdicts);
}

/// Lets everything that is held go.
fn end_now(fleet: TestFleet, verdicts: &Verdicts) {
    eventually("the sink holds nothing", || {
        let held = verdicts.held();
        if held > 0 {
            verdicts.say_of_many(held, Outcome::Processed);
            // Until these are gone no others may be spoken for.
            eventually("they are gone", || (verdicts.unheard() == 0).then_some(()));
        }
        (held == 0).then_some(())
    });
    assert_eq!(fleet.end(LONG).lost, 0);
}

#[test]
fn of_many_streams_of_a_connection_none_is_passed_over_while_the_queue_is_full() {
    none_is_passed_over(8, true);
}

#[test]
fn of_many_connections_none_is_passed_over_while_the_queue_is_full() {
    none_is_passed_over(8, false);
}

#[test]
fn a_stream_hears_how_it_is_after_as_many_events_as_it_asked_for() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let body = [config(3, 60_000), many(ids("e", 7)).to_vec()].concat();
        let (all, end) = told(&peer, body).await;
        let mut expected = vec![Told::status(0, "configured")];
        for (number, id) in ids("e", 7).iter().enumerate() {
            expected.push(Told::stored(id));
            if number == 2 || number == 5 {
                expected.push(Told::status(6 - number as i32, "flushed"));
            }
        }
        expected.push(Told::status(0, "end of stream: 7 events"));
        // How many wait at the time depends on how fast the sink is.
        let without_counts = |all: Vec<Told>| -> Vec<Told> {
            let told = |told| if let Told::Status(_, text) = told { Told::Status(0, text) } else { told };
            all.into_iter().map(told).collect()
        };
        assert_eq!((without_counts(all), end.code.as_str()), (without_counts(expected), "0"));
    });
}

#[test]
fn a_stream_hears_how_it_is_once_when_its_interval_is_over_and_no_more_when_nothing_comes() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (mut stream, mut answers) = open(&peer, &[]).await;
        stream.send_data(config(0, 20).into(), false).unwrap();
        assert_eq!(answers.next().await, Some(Told::status(0, "configured")));
        for round in ["a", "b"] {
            stream.send_data(many(ids(round, 2)), false).unwrap();
            assert_eq!(answers.next().await, Some(Told::stored(&format!("{round}-0"))));
            assert_eq!(answers.next().await, Some(Told::stored(&format!("{round}-1"))));
            assert_eq!(answers.next().await, Some(Told::status(0, "flushed")));
            let more = tokio::time::timeout(Duration::from_millis(100), answers.next()).await;
            assert!(more.is_err(), "{more:?}");
        }
        stream.send_data(Bytes::new(), true).unwrap();
        let (rest, end) = answers.rest().await;
        assert_eq!(rest, [Told::status(0, "end of stream: 4 events")]);
        assert_eq!(end.code, "0");
    });
}

#[test]
fn times_that_never_come_do_no_harm() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (mut stream, mut answers) = open(&peer, &[("grpc-timeout", "99999999H")]).await;
        stream.send_data(config(i32::MAX, i64::from(u32::MAX) * 1000).into(), false).unwrap();
        assert_eq!(answers.next().await, Some(Told::status(0, "configured")));
        stream.send_data(many(ids("e", 2)), false).unwrap();
        assert_eq!(answers.next().await, Some(Told::stored("e-0")));
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(answers.rest().await.1.code, "0");
    });
}

#[test]
fn a_stream_without_events_ends_well() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (all, end) = told(&peer, Bytes::new()).await;
        assert_eq!((all, end.code.as_str()), (vec![Told::status(0, "end of stream: 0 events")], "0"));
        // One that is over with its head.
        let request = http::Request::post(format!("http://{}{STREAM}", fleet.address))
            .header("content-type", GRPC)
            .body(())
            .unwrap();
        let (answer, _) = peer.requests.clone().ready().await.unwrap().send_request(request, true).unwrap();
        let answer = read(answer).await.unwrap();
        assert_eq!(answer.field("grpc-status"), Some("0"), "{answer:?}");
    });
}

#[test]
fn a_drain_tells_the_client_and_serves_the_stream_to_its_end() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Queued, LONG);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (mut stream, mut answers) = open(&peer, &[]).await;
        stream.send_data(many(ids("early", 3)), false).unwrap();
        eventually_meanwhile("they are held", || verdicts.held() == 3).await;
        let ending = thread::spawn(move || fleet.end(LONG));
        // The client is told by GOAWAY: it opens no stream any more.
        let refused = patiently(async {
            loop {
                match peer.requests.clone().ready().await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => return error,
                }
            }
        })
        .await;
        assert!(refused.is_go_away(), "{refused}");
        stream.send_data(many(ids("late", 1)), true).unwrap();
        eventually_meanwhile("the late one is held, too", || verdicts.held() == 4).await;
        verdicts.say_of_many(4, Outcome::Processed);
        let (answered, end) = answers.ids().await;
        let expected = ["early-0", "early-1", "early-2", "late-0"].map(str::to_owned);
        assert_eq!((answered.as_slice(), end.code.as_str()), (&expected[..], "0"));
        let end = ending.join().unwrap();
        assert_eq!((end.accepted, end.done, end.lost), (4, 4, 0));
    });
}

#[test]
fn a_drain_ends_a_stream_between_two_events_and_says_why() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (mut stream, mut answers) = open(&peer, &[]).await;
        stream.send_data(many(ids("e", 2)), false).unwrap();
        assert_eq!(answers.next().await, Some(Told::stored("e-0")));
        assert_eq!(answers.next().await, Some(Told::stored("e-1")));
        let ending = thread::spawn(move || fleet.end(LONG));
        let (rest, end) = answers.rest().await;
        // It may hear once more how it is.
        assert!(rest.iter().all(|told| matches!(told, Told::Status(0, _))), "{rest:?}");
        assert_eq!(
            (end.code.as_str(), end.text.as_str()),
            ("14", "this server shuts down; all that came is answered")
        );
        let end = ending.join().unwrap();
        assert_eq!((end.accepted, end.done, end.lost, end.cut), (2, 2, 0, 0));
    });
}

#[test]
fn a_unary_call_gets_no_room_that_it_did_not_find_and_a_stream_goes_on_after_it() {
    let fleet = shut();
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        let (mut stream, mut answers) = open(&peer, &[]).await;
        stream.send_data(many(ids("e", QUEUE + 3)), false).unwrap();
        peer.round_trip().await;
        assert_eq!(fleet.tally(Tally::MessagesQueued), QUEUE as u64);
        assert_eq!(post(fleet.address, "/v1/events", br#"{"user_id":"u","event_type":1}"#).status, 429);
        fleet.gate.set(true);
        turn(&peer).await;
        stream.send_data(Bytes::new(), true).unwrap();
        let (answered, end) = answers.ids().await;
        assert_eq!((answered, end.code.as_str()), (ids("e", QUEUE + 3), "0"));
    });
}

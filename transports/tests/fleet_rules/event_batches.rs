//! Batches of events: how many, what becomes of each, and what is said of it over each protocol.

use std::{thread, time::Duration};

use engine_core::{AckLevel, Outcome, PartitionKey, Receipt, Rejection};
use prost::Message;
use serde_json::{Value, json};
use tidegate_proto::analytics::v1::IngestEventsResponse;
use transports::Tally;

use crate::{
    event_peer::{EVENT, EVENTS, GRPC, batch, unary},
    harness::{
        H2Answer, H2Peer, TestFleet, Verdicts, eventually, eventually_meanwhile, eventually_within,
        on_runtime, post_with, read,
    },
};

const LONG: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/events/batch";

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("b-{number}")).collect()
}

fn as_json(ids: &[String]) -> Vec<u8> {
    let event = |id: &String| json!({"id": id, "user_id": "u", "event_type": "EVENT_TYPE_USER"});
    json!({"events": ids.iter().map(event).collect::<Vec<Value>>()}).to_string().into_bytes()
}

fn response(answer: &H2Answer) -> IngestEventsResponse {
    assert_eq!(answer.field("grpc-status"), Some("0"), "{answer:?}");
    IngestEventsResponse::decode(&answer.body[5..]).unwrap()
}

fn stored(duplicate: bool) -> Outcome {
    let mut receipt = Receipt::new(AckLevel::Durable, Some(1));
    receipt.duplicate = duplicate;
    Outcome::Stored(receipt)
}

async fn ask(peer: &H2Peer, fields: &[(&str, &str)], body: Vec<u8>) -> h2::client::ResponseFuture {
    let (answer, mut stream) = peer.open_with(EVENTS, GRPC, fields).await;
    stream.send_data(body.into(), true).unwrap();
    answer
}

/// Sends a batch and says this of its events.
async fn with_verdicts(
    peer: &H2Peer,
    verdicts: &Verdicts,
    fields: &[(&str, &str)],
    outcomes: &[Outcome],
) -> H2Answer {
    let answer = ask(peer, fields, batch(ids(outcomes.len()))).await;
    eventually_meanwhile("they are held", || verdicts.held() == outcomes.len()).await;
    for outcome in outcomes {
        verdicts.say(*outcome);
    }
    read(answer).await.unwrap()
}

#[test]
fn a_thousand_events_are_a_batch_and_one_more_is_for_the_cold_lane() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let answer = read(ask(&peer, &[], batch(ids(1000))).await).await.unwrap();
        assert_eq!((response(&answer).processed_count, response(&answer).success), (1000, true));
        let answer = peer.post(PATH, "application/json", &as_json(&ids(1000))).await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status.as_u16(), &body["processedCount"]), (200, &1000.into()));
        assert_eq!(fleet.passed_on(), None);
        let _answer = ask(&peer, &[], batch(ids(1001))).await;
        eventually_meanwhile("it is passed on", || fleet.passed_on().as_deref() == Some(EVENTS)).await;
        let (_answer, mut stream) = peer.open(PATH, "application/json").await;
        stream.send_data(as_json(&ids(1001)).into(), true).unwrap();
        eventually_meanwhile("it is passed on", || fleet.passed_on().as_deref() == Some(PATH)).await;
    });
    fleet.worked(2000);
}

#[test]
fn a_batch_that_finds_no_room_for_all_of_it_is_for_the_cold_lane_and_nothing_of_it_is_taken() {
    let fleet = TestFleet::shut(1, 4, PartitionKey::Arrival);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let _answer = ask(&peer, &[], batch(ids(5))).await;
        eventually_meanwhile("it is passed on", || fleet.passed_on().as_deref() == Some(EVENTS)).await;
    });
    assert_eq!(fleet.tally(Tally::MessagesReceived), 0);
}

#[test]
fn each_event_of_a_batch_has_its_own_end() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, LONG);
    let conflict = Outcome::Rejected(Rejection::Conflict);
    let outcomes = [stored(false), conflict, stored(true), Outcome::Failed];
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let answer = with_verdicts(&peer, &verdicts, &[("x-request-id", "r-1")], &outcomes).await;
        assert_eq!(
            (answer.field("x-request-id"), answer.field("tidegate-ack")),
            (Some("r-1"), Some("durable"))
        );
        let said = response(&answer);
        assert_eq!((said.processed_count, said.failed_count, said.success), (2, 2, false));
        assert_eq!(said.failed_event_ids, ["b-1", "b-3"]);
        let codes: Vec<&str> = said.validation_errors.iter().map(|error| error.code.as_str()).collect();
        assert_eq!(codes, ["ALREADY_EXISTS", "FAILED_PRECONDITION"]);
    });
    let address = fleet.address;
    let asking = thread::spawn(move || {
        let fields = "Content-Type: application/json\r\nX-Request-Id: r-2\r\n";
        post_with(address, PATH, fields, &as_json(&ids(4)))
    });
    eventually("they are held", || (verdicts.held() == 4).then_some(()));
    outcomes.iter().for_each(|outcome| verdicts.say(*outcome));
    let answer = asking.join().unwrap();
    let body = answer.json();
    assert_eq!((answer.status, &body["processedCount"], &body["failedCount"]), (200, &2.into(), &2.into()));
    assert_eq!(body["failedEventIds"], json!(["b-1", "b-3"]));
    let head = answer.head.to_ascii_lowercase();
    assert!(head.contains("x-request-id: r-2\r\n") && head.contains("tidegate-ack: durable\r\n"), "{head}");
}

#[test]
fn a_batch_of_which_nothing_is_taken_is_an_error() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, LONG);
    let outcomes = [Outcome::Rejected(Rejection::Conflict); 3];
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let answer = with_verdicts(&peer, &verdicts, &[], &outcomes).await;
        assert_eq!(answer.field("grpc-status"), Some("6"), "{answer:?}");
    });
    let address = fleet.address;
    let asking = thread::spawn(move || post_with(address, PATH, "", &as_json(&ids(3))));
    eventually("they are held", || (verdicts.held() == 3).then_some(()));
    outcomes.iter().for_each(|outcome| verdicts.say(*outcome));
    let answer = asking.join().unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (409, &6.into()));
}

#[test]
fn a_large_batch_goes_to_the_sink_whole_before_the_sink_is_done_with_any_of_it() {
    let (fleet, verdicts) = TestFleet::holding_so_many(2000, AckLevel::Durable, LONG);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let answer = ask(&peer, &[], batch(ids(1000))).await;
        // Nothing else happens on its core, and nobody waits until the answers are overdue.
        eventually_within(Duration::from_secs(10), "they are held", || verdicts.held() == 1000).await;
        verdicts.say_of_many(1000, stored(false));
        assert_eq!(response(&read(answer).await.unwrap()).processed_count, 1000);
    });
}

#[test]
fn the_answer_to_a_large_batch_that_failed_comes_whole() {
    let (fleet, verdicts) = TestFleet::holding_so_many(2000, AckLevel::Durable, LONG);
    let mut outcomes = vec![Outcome::Rejected(Rejection::Conflict); 1000];
    outcomes[0] = stored(false);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        // More than a stream's window and its queue hold.
        let ids: Vec<String> = (0..1000).map(|number| format!("{number:0>120}")).collect();
        let answer = ask(&peer, &[], batch(ids.clone())).await;
        eventually_meanwhile("they are held", || verdicts.held() == 1000).await;
        outcomes.iter().for_each(|outcome| verdicts.say(*outcome));
        let answer = read(answer).await.unwrap();
        assert_eq!(response(&answer).failed_count, 999);
        assert_eq!(response(&answer).failed_event_ids, ids[1..]);
        let (answer, mut stream) = peer.open(PATH, "application/json").await;
        stream.send_data(as_json(&ids).into(), true).unwrap();
        eventually_meanwhile("they are held", || verdicts.held() == 1000).await;
        outcomes.iter().for_each(|outcome| verdicts.say(*outcome));
        let answer = read(answer).await.unwrap();
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status.as_u16(), &body["failedCount"]), (200, &999.into()));
        assert_eq!(answer.field("content-length"), Some(answer.body.len().to_string().as_str()));
    });
}

#[test]
fn a_request_has_its_id_given_back_or_gets_one() {
    let fleet = TestFleet::open(1, PartitionKey::Arrival);
    let one = br#"{"user_id":"u","event_type":1}"#;
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let long = "x".repeat(200);
        for (given, back) in [("mine", Some("mine")), ("", None), (long.as_str(), None)] {
            let fields = [("x-request-id", given)];
            let (answer, mut stream) = peer.open_with(EVENT, GRPC, &fields).await;
            stream.send_data(unary("e").into(), true).unwrap();
            let over_grpc = read(answer).await.unwrap();
            let (answer, mut stream) = peer.open_with("/v1/events", "application/json", &fields).await;
            stream.send_data(one.as_slice().into(), true).unwrap();
            let over_h2 = read(answer).await.unwrap();
            for answer in [over_grpc, over_h2] {
                let id = answer.field("x-request-id").unwrap();
                assert!(back.map_or(id.starts_with("req-"), |back| back == id), "{given}: {id}");
                assert_eq!(answer.field("tidegate-ack"), Some("queued"));
            }
        }
    });
    let answer = post_with(fleet.address, "/v1/events", "X-Request-Id: mine\r\n", one);
    assert!(answer.head.to_ascii_lowercase().contains("x-request-id: mine\r\n"), "{}", answer.head);
}

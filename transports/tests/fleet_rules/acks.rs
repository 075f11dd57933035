//! Answers that wait for what becomes of the message: given when it is known, in the words of each protocol.

use std::{thread, time::Duration};

use bytes::Bytes;
use engine_core::{AckLevel, Outcome, Receipt, Rejection};
use prost::Message;
use tidegate_proto::diplom::v1::{IngestRequest, IngestResponse};

use crate::harness::{
    H2Peer, TestFleet, eventually, eventually_meanwhile, framed, on_runtime, post, post_with, read, send,
};

const UNARY: &str = "/diplom.v1.IngestService/Ingest";
const STREAM: &str = "/diplom.v1.IngestService/IngestStream";
const LONG: Duration = Duration::from_secs(60);

fn stored(level: AckLevel, offset: u64) -> Outcome {
    Outcome::Stored(Receipt::new(level, Some(offset)))
}

fn message() -> Vec<u8> {
    framed(0, &IngestRequest { data: b"x".to_vec(), ..Default::default() }.encode_to_vec())
}

#[test]
fn an_answer_over_http1_waits_until_the_message_is_durable() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, LONG);
    let address = fleet.address;
    let asking = thread::spawn(move || post(address, "/ingest", b"{}"));
    eventually("the message is held", || (verdicts.held() == 1).then_some(()));
    assert!(!asking.is_finished());
    verdicts.say(stored(AckLevel::Durable, 41));
    let answer = asking.join().unwrap();
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(
        (&body["ack"], &body["shard"], &body["offset"], &body["status"]),
        (&"durable".into(), &0.into(), &41.into(), &"accepted".into())
    );
    assert!(answer.head.contains("Tidegate-Ack: durable"), "{}", answer.head);
}

#[test]
fn who_asks_for_less_is_answered_at_once() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Delivered, LONG);
    let answer = post_with(fleet.address, "/ingest", "Tidegate-Ack: queued\r\n", b"{}");
    assert_eq!((answer.status, &answer.json()["ack"]), (200, &"queued".into()));
    verdicts.say(stored(AckLevel::Delivered, 0));
}

#[test]
fn enqueue_says_in_its_head_where_the_message_is() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, LONG);
    let address = fleet.address;
    let asking = thread::spawn(move || post(address, "/enqueue", br#"{"payload":"aGk="}"#));
    eventually("the message is held", || (verdicts.held() == 1).then_some(()));
    verdicts.say(stored(AckLevel::Durable, 7));
    let answer = asking.join().unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (202, &b""[..]));
    assert!(answer.head.contains("Tidegate-Offset: 7\r\n"), "{}", answer.head);
}

#[test]
fn every_other_end_has_a_status_of_its_own() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Delivered, LONG);
    let address = fleet.address;
    for (outcome, status, code, word) in [
        (Outcome::Rejected(Rejection::Conflict), 409, "ALREADY_EXISTS", "this id"),
        (Outcome::Rejected(Rejection::Refused { sides: 2 }), 422, "FAILED_PRECONDITION", "kafka"),
        (Outcome::Failed, 422, "FAILED_PRECONDITION", "gave it up"),
    ] {
        let asking = thread::spawn(move || post(address, "/ingest", b"{}"));
        eventually("the message is held", || (verdicts.held() == 1).then_some(()));
        verdicts.say(outcome);
        let answer = asking.join().unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (status, &code.into()), "{outcome:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains(word), "{}", answer.json());
    }
}

#[test]
fn what_takes_too_long_is_answered_as_unknown() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, Duration::from_secs(1));
    let answer = post(fleet.address, "/ingest", b"{}");
    assert_eq!((answer.status, &answer.json()["code"]), (504, &"DEADLINE_EXCEEDED".into()));
    // It comes through all the same, and nobody is told twice.
    verdicts.say(stored(AckLevel::Durable, 0));
    eventually("the slot is free", || (verdicts.held() == 0).then_some(()));
    assert_eq!(post_with(fleet.address, "/ingest", "Tidegate-Ack: queued\r\n", b"{}").status, 200);
    verdicts.say(stored(AckLevel::Durable, 1));
}

#[test]
fn a_key_becomes_the_id_and_is_answered_with_what_was_reached() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Queued, LONG);
    let address = fleet.address;
    let asking =
        thread::spawn(move || post_with(address, "/ingest", "Idempotency-Key: \"order-17\"\r\n", b"{}"));
    eventually("the message is held", || (verdicts.held() == 1).then_some(()));
    let mut receipt = Receipt::new(AckLevel::Durable, Some(3));
    receipt.duplicate = true;
    verdicts.say(Outcome::Stored(receipt));
    let body = asking.join().unwrap().json();
    assert_eq!((&body["messageId"], &body["duplicate"]), (&"order-17".into(), &true.into()));
    assert_eq!(post_with(address, "/ingest", "Idempotency-Key: a b\r\n", b"{}").status, 400);
    assert_eq!(post_with(address, "/ingest", "Tidegate-Ack: safe\r\n", b"{}").status, 400);
}

#[test]
fn grpc_calls_wait_side_by_side_and_are_answered_in_any_order() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, LONG);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let mut calls = Vec::new();
        for _ in 0..3 {
            let (answer, stream) = peer.open(UNARY, "application/grpc").await;
            drop(send(stream, Bytes::from(message()), true).await.unwrap());
            calls.push(answer);
        }
        eventually_meanwhile("all are held", || verdicts.held() == 3).await;
        verdicts.say(stored(AckLevel::Durable, 100));
        verdicts.say(Outcome::Rejected(Rejection::Refused { sides: 3 }));
        verdicts.say(stored(AckLevel::Durable, 102));
        let mut answers = Vec::new();
        for call in calls {
            answers.push(read(call).await.unwrap());
        }
        assert_eq!(answers[0].field("tidegate-offset"), Some("100"));
        assert_eq!(answers[0].field("grpc-status"), Some("0"));
        let response = IngestResponse::decode(&answers[0].body[5..]).unwrap();
        assert_eq!((response.message_id.len(), response.status.as_str()), (36, "accepted"));
        assert_eq!(answers[1].field("grpc-status"), Some("9"));
        assert!(answers[1].field("grpc-message").unwrap().contains("nats, kafka"));
        assert_eq!(answers[2].field("tidegate-ack"), Some("durable"));
    });
}

#[test]
fn a_stream_is_answered_when_all_its_messages_are_safe() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, LONG);
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (answer, stream) = peer.open(STREAM, "application/grpc").await;
        drop(send(stream, Bytes::from(message().repeat(3)), true).await.unwrap());
        eventually_meanwhile("all are held", || verdicts.held() == 3).await;
        let answer = tokio::spawn(read(answer));
        for offset in 0..3 {
            assert!(!answer.is_finished());
            verdicts.say(stored(AckLevel::Durable, offset));
        }
        let answer = answer.await.unwrap().unwrap();
        assert_eq!((answer.field("grpc-status"), answer.field("tidegate-ack")), (Some("0"), Some("durable")));
        let response = IngestResponse::decode(&answer.body[5..]).unwrap();
        assert_eq!((response.message_id.as_str(), response.status.as_str()), ("batch-3", "completed"));
    });
}

#[test]
fn a_call_that_is_reset_while_it_waits_counts_as_open_until_its_work_ends() {
    let (fleet, verdicts) = TestFleet::holding(AckLevel::Durable, LONG);
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        let mut calls = Vec::new();
        for _ in 0..90 {
            let (answer, stream) = peer.open(UNARY, "application/grpc").await;
            calls.push((answer, send(stream, Bytes::from(message()), true).await.unwrap()));
        }
        eventually_meanwhile("all are held", || verdicts.held() == 90).await;
        for (answer, mut stream) in calls {
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
        }
        peer.round_trip().await;
        for offset in 0..90 {
            verdicts.say(stored(AckLevel::Durable, offset));
        }
        let (answer, stream) = peer.open(UNARY, "application/grpc").await;
        drop(send(stream, Bytes::from(message()), true).await.unwrap());
        eventually_meanwhile("the next one is held", || verdicts.held() == 1).await;
        verdicts.say(stored(AckLevel::Durable, 90));
        assert_eq!(read(answer).await.unwrap().field("grpc-status"), Some("0"));
    });
}

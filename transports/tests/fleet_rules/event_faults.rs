//! Events that come in pieces, broken or too large, and requests that end before they are answered.

use std::{
    io::{Read, Write},
    net::TcpStream,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use engine_core::{AckLevel, Outcome, PartitionKey};
use flate2::{Compression, write::GzEncoder};
use h2::Reason;
use prost::Message;
use tidegate_proto::analytics::v1::IngestEventResponse;
use transports::Tally;

use crate::{
    backpressure::push_until_withheld,
    event_peer::{
        EVENT, EVENTS, GRPC, STREAM, Told, batch, config, many, open, send_and_end, streamed, told,
        told_with, unary,
    },
    harness::{
        H2Answer, H2Peer, TestFleet, eventually, eventually_meanwhile, framed, on_runtime, patiently, read,
        send,
    },
};

const LONG: Duration = Duration::from_secs(20);
const INGEST_STREAM: &str = "/diplom.v1.IngestService/IngestStream";
const GZIP: (&str, &str) = ("grpc-encoding", "gzip");

fn ids(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

fn open_fleet() -> TestFleet {
    TestFleet::open(1, PartitionKey::Arrival)
}

fn held_fleet() -> (TestFleet, std::sync::Arc<crate::harness::Verdicts>) {
    TestFleet::holding_so_many(1000, AckLevel::Queued, LONG)
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(message).unwrap();
    framed(1, &packed.finish().unwrap())
}

/// The event id in the answer of a unary call.
#[track_caller]
fn answered_id(answer: &H2Answer) -> String {
    assert_eq!(answer.field("grpc-status"), Some("0"), "{answer:?}");
    IngestEventResponse::decode(&answer.body[5..]).unwrap().event_id
}

/// A call of which everything was sent.
async fn call(
    peer: &H2Peer,
    path: &str,
    fields: &[(&str, &str)],
    body: Vec<u8>,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let (answer, mut stream) = peer.open_with(path, GRPC, fields).await;
    stream.send_data(body.into(), true).unwrap();
    (answer, stream)
}

#[test]
fn events_may_be_cut_at_every_byte() {
    let fleet = open_fleet();
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for (path, body) in [(EVENT, unary("one")), (EVENTS, batch(ids("b", 2)))] {
            let (answer, mut stream) = peer.open(path, GRPC).await;
            for byte in &body {
                stream.send_data(Bytes::copy_from_slice(&[*byte]), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
            assert_eq!(read(answer).await.unwrap().field("grpc-status"), Some("0"), "{path}");
        }
        let (mut stream, mut answers) = open(&peer, &[]).await;
        for byte in [config(0, 60_000), many(ids("s", 3)).to_vec()].concat() {
            stream.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
        let (answered, end) = answers.ids().await;
        assert_eq!((answered, end.code.as_str()), (ids("s", 3), "0"));
    });
    fleet.worked(6);
    assert_eq!(fleet.passed_on(), None);
}

#[test]
fn events_may_be_cut_in_two_at_any_byte() {
    let fleet = open_fleet();
    let body = many(ids("s", 2));
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for at in 1..body.len() {
            let (mut stream, mut answers) = open(&peer, &[]).await;
            stream.send_data(body.slice(..at), false).unwrap();
            stream.send_data(body.slice(at..), true).unwrap();
            let (answered, end) = answers.ids().await;
            assert_eq!((answered, end.code.as_str()), (ids("s", 2), "0"), "cut at {at}");
        }
    });
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn padding_is_no_part_of_an_event() {
    let fleet = open_fleet();
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", STREAM),
        (":authority", "localhost"),
        ("content-type", GRPC),
        ("te", "trailers"),
    ] {
        // Literal, not indexed, not Huffman (RFC 7541 §6.2.2).
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    let events = many(ids("p", 3));
    let (first, second) = events.split_at(events.len() / 2);
    let padded = |piece: &[u8], padding: u8| [&[padding], piece, &vec![0; padding.into()]].concat();
    let mut socket = TcpStream::connect(fleet.address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let bytes = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &block),
        frame(0, 8, 1, &padded(first, 255)),
        frame(0, 8, 1, &padded(&[], 9)),
        frame(0, 9, 1, &padded(second, 1)),
    ]
    .concat();
    socket.write_all(&bytes).unwrap();
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    while !seen.windows(23).any(|window| window == b"end of stream: 3 events") {
        let read = socket.read(&mut piece).unwrap();
        assert_ne!(read, 0, "{:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..read]);
    }
    fleet.worked(3);
}

#[test]
fn events_may_be_compressed() {
    let fleet = open_fleet();
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (answer, _) = call(&peer, EVENT, &[GZIP], gzip(&unary("packed")[5..])).await;
        assert_eq!(answered_id(&read(answer).await.unwrap()), "packed");
        let (answer, _) = call(&peer, EVENTS, &[GZIP], gzip(&batch(ids("b", 3))[5..])).await;
        assert_eq!(read(answer).await.unwrap().field("grpc-status"), Some("0"));
        let body = [gzip(&streamed("x")), framed(0, &streamed("y")), gzip(&streamed("z"))].concat();
        let (all, end) = told_with(&peer, &[GZIP], body).await;
        assert_eq!(all[..3], ["x", "y", "z"].map(Told::stored), "{end:?}");
    });
    fleet.worked(7);
    assert_eq!(fleet.passed_on(), None);
}

#[test]
fn a_stream_that_is_no_stream_of_events_ends_with_the_right_code_and_the_number_of_the_message() {
    let fleet = open_fleet();
    let good = || many(ids("e", 2)).to_vec();
    let too_large = [0, 0x7f, 0xff, 0xff, 0xff];
    let cases: [(&str, Vec<u8>, &str, &str); 8] = [
        ("a message over the limit", [good(), too_large.to_vec()].concat(), "8", "message 2: gRPC message"),
        ("a flag that there is not", [good(), framed(2, b"")].concat(), "13", "message 2: invalid gRPC"),
        ("compressed by nothing", [good(), framed(1, b"x")].concat(), "13", "message 2: "),
        ("a cut protobuf", [good(), framed(0, b"\x0a\x05x")].concat(), "13", "message 2: "),
        ("no event", [good(), framed(0, b"\x0a\x02\x0a\x05")].concat(), "13", "message 2: events[2]"),
        ("a broken config", [good(), framed(0, b"\x12\x02\x12\x05")].concat(), "13", "message 2: "),
        ("an end inside a message", [good(), vec![0, 0, 0, 0, 9, 1]].concat(), "13", "ended inside"),
        ("an end inside a prefix", [good(), vec![0, 0]].concat(), "13", "ended inside"),
    ];
    let count = cases.len();
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for (what, body, code, text) in cases {
            let (all, end) = told(&peer, body).await;
            assert_eq!(end.code, code, "{what}: {end:?}");
            assert!(end.text.contains(text), "{what}: {end:?}");
            // What was good is answered before the end.
            assert_eq!(all[..2], ["e-0", "e-1"].map(Told::stored), "{what}");
        }
    });
    fleet.worked(2 * count);
}

#[test]
fn events_before_a_broken_one_are_answered_when_it_is_known_what_became_of_them() {
    let (fleet, verdicts) = held_fleet();
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (stream, mut answers) = open(&peer, &[]).await;
        let more = many(ids("never", 3)).to_vec();
        send_and_end(stream, [many(ids("e", 3)).to_vec(), framed(0, b"\x0a\x05x"), more].concat()).await;
        eventually_meanwhile("they are held", || verdicts.held() == 3).await;
        verdicts.say_of_many(3, Outcome::Processed);
        let (answered, end) = answers.ids().await;
        assert_eq!((answered, end.code.as_str()), (ids("e", 3), "13"));
        assert!(end.text.starts_with("message 3: "), "{end:?}");
    });
    assert_eq!(fleet.tally(Tally::MessagesQueued), 3);
}

#[test]
fn a_unary_message_over_the_limit_is_refused_from_its_prefix_alone() {
    let fleet = open_fleet();
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for path in [EVENT, EVENTS] {
            let (answer, mut stream) = peer.open(path, GRPC).await;
            stream.send_data(Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff]), false).unwrap();
            let answer = read(answer).await.unwrap();
            assert_eq!(answer.field("grpc-status"), Some("8"), "{path}");
        }
    });
    assert_eq!(fleet.tally(Tally::MessagesQueued), 0);
}

#[test]
fn a_unary_call_carries_one_whole_message() {
    let fleet = open_fleet();
    let unimplemented = "a unary call carries one message, this one carried";
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for (what, body, code, text) in [
            ("two messages", [unary("a"), unary("b")].concat(), "12", unimplemented),
            ("none", Vec::new(), "12", unimplemented),
            ("half a message", unary("a")[..9].to_vec(), "13", "ended inside"),
            ("one and a half", [unary("a"), vec![0, 0]].concat(), "13", "ended inside"),
            ("a flag that there is not", framed(2, &unary("a")[5..]), "13", "flag 2"),
        ] {
            for path in [EVENT, EVENTS] {
                let (answer, _stream) = call(&peer, path, &[], body.clone()).await;
                let answer = read(answer).await.unwrap();
                let said = answer.field("grpc-message").unwrap_or_default().replace("%20", " ");
                assert_eq!(answer.field("grpc-status"), Some(code), "{path} {what}: {said}");
                assert!(said.contains(text), "{path} {what}: {said}");
            }
        }
    });
    assert_eq!((fleet.tally(Tally::MessagesReceived), fleet.passed_on()), (0, None));
}

#[test]
fn what_is_no_plain_event_is_passed_on_whole() {
    let fleet = open_fleet();
    let invalid = b"\x0a\x08\x0a\x01\xff\x12\x01u\x20\x01";
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for (what, body) in [
            ("text that is no UTF-8", framed(0, invalid)),
            ("no event", framed(0, b"")),
            ("compressed by nothing", framed(1, &unary("a")[5..])),
        ] {
            let _open = call(&peer, EVENT, &[], body).await;
            let mut passed = None;
            eventually_meanwhile(what, || {
                passed = fleet.passed_on();
                passed.is_some()
            })
            .await;
            assert_eq!(passed.as_deref(), Some(EVENT), "{what}");
        }
    });
    assert_eq!(fleet.tally(Tally::MessagesReceived), 0);
}

#[test]
fn a_deadline_ends_a_call_and_what_was_accepted_stays_accepted() {
    let (fleet, verdicts) = held_fleet();
    let soon = [("grpc-timeout", "50m")];
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        for (path, body) in [(EVENT, unary("one")), (EVENTS, batch(ids("b", 2)))] {
            let (answer, _stream) = call(&peer, path, &soon, body).await;
            assert_eq!(read(answer).await.unwrap().field("grpc-status"), Some("4"), "{path}");
        }
        let (mut stream, mut answers) = open(&peer, &soon).await;
        stream.send_data(many(ids("s", 2)), false).unwrap();
        let (all, end) = answers.rest().await;
        assert_eq!((all, end.code.as_str()), (vec![], "4"));
        // Verdicts on what nobody waits for any more change nothing.
        eventually_meanwhile("all are held", || verdicts.held() == 5).await;
        verdicts.say_of_many(5, Outcome::Processed);
        let (answer, _) = call(&peer, EVENT, &[], unary("after")).await;
        eventually_meanwhile("it is held", || verdicts.unheard() == 0 && verdicts.held() == 1).await;
        verdicts.say(Outcome::Processed);
        assert_eq!(answered_id(&read(answer).await.unwrap()), "after");
    });
    let end = fleet.end(LONG);
    assert_eq!((end.accepted, end.done, end.lost), (6, 6, 0));
}

#[test]
fn a_deadline_ends_a_stream_between_two_answers_also_when_its_client_did_not_read() {
    let fleet = open_fleet();
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        let ids: Vec<String> = (0..20_000).map(|number| format!("{number:0>120}")).collect();
        let mut body = many(ids.clone());
        let over = tokio::time::Instant::now() + Duration::from_millis(1500);
        let (stream, mut answers) = open(&peer, &[("grpc-timeout", "1S")]).await;
        let _stream = push_until_withheld(&mut peer, stream, &mut body).await;
        // Its time has to be over before anything is read.
        tokio::time::sleep_until(over).await;
        let (answered, end) = answers.ids().await;
        assert_eq!(end.code, "4", "{end:?}");
        assert!(!answered.is_empty() && answered == ids[..answered.len()]);
    });
}

#[test]
fn a_reset_stream_leaves_what_it_brought_and_takes_nothing_more() {
    const QUEUE: usize = 4;
    let fleet = TestFleet::shut(1, QUEUE, PartitionKey::Arrival);
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        for number in 0..20 {
            let (mut stream, _answers) = open(&peer, &[]).await;
            stream.send_data(many(ids(&format!("r{number}"), 200)), false).unwrap();
            peer.round_trip().await;
            stream.send_reset(Reason::CANCEL);
        }
        peer.round_trip().await;
        assert_eq!(fleet.tally(Tally::MessagesQueued), QUEUE as u64);
        fleet.gate.set(true);
        let (all, end) = told(&peer, many(ids("after", 10))).await;
        assert_eq!((all[0].clone(), end.code.as_str()), (Told::stored("after-0"), "0"));
    });
    fleet.worked(QUEUE + 10);
    assert_eq!(fleet.end(LONG).lost, 0);
}

#[test]
fn a_lost_connection_leaves_what_it_brought() {
    let (fleet, verdicts) = held_fleet();
    on_runtime(async {
        let peer = H2Peer::connect(fleet.address).await;
        let (mut stream, _answers) = open(&peer, &[]).await;
        stream.send_data(many(ids("s", 2)), false).unwrap();
        let _one = call(&peer, EVENT, &[], unary("one")).await;
        let _batch = call(&peer, EVENTS, &[], batch(ids("b", 3))).await;
        let (_half, mut half) = peer.open(EVENTS, GRPC).await;
        half.send_data(Bytes::copy_from_slice(&batch(ids("h", 3))[..20]), false).unwrap();
        eventually_meanwhile("they are held", || verdicts.held() == 6).await;
    });
    // The runtime is gone, and its sockets with it.
    eventually("the connection is gone", || {
        (fleet.tally(Tally::ConnectionsClosed) == fleet.tally(Tally::ConnectionsOpened)).then_some(())
    });
    verdicts.say_of_many(6, Outcome::Processed);
    let end = fleet.end(LONG);
    assert_eq!((end.accepted, end.done, end.lost), (6, 6, 0));
}

/// Calls that are reset while their events are under way hold their place until the last of these is done.
fn a_place_is_held_until_the_last_is_done(path: &'static str, body: impl Fn(usize) -> Vec<u8>, each: usize) {
    const STREAMS: usize = 128;
    let (fleet, verdicts) = held_fleet();
    on_runtime(async {
        let mut peer = H2Peer::connect(fleet.address).await;
        for number in 0..STREAMS {
            let (answer, mut stream) = peer.open(path, GRPC).await;
            // The stream's end would be an end of `StreamEvents`.
            stream.send_data(body(number).into(), path != STREAM).unwrap();
            eventually_meanwhile("they are held", || verdicts.held() == (number + 1) * each).await;
            stream.send_reset(Reason::CANCEL);
            drop(answer);
        }
        peer.round_trip().await;
        let is_refused = || async {
            let (answer, _stream) = call(&peer, EVENT, &[], unary("more")).await;
            read(answer).await.is_err_and(|error| error.reason() == Some(Reason::REFUSED_STREAM))
        };
        assert!(is_refused().await, "as many as may be are open");
        for done in 1..each {
            verdicts.say(Outcome::Processed);
            eventually_meanwhile("it is done", || verdicts.held() == STREAMS * each - done).await;
            assert!(is_refused().await, "{done} of {each} are done");
        }
        verdicts.say(Outcome::Processed);
        let held = STREAMS * each - each;
        eventually_meanwhile("it is done", || verdicts.held() == held).await;
        let (_answer, _stream) = call(&peer, EVENT, &[], unary("more")).await;
        eventually_meanwhile("another is taken", || verdicts.held() == held + 1).await;
        verdicts.say_of_many(held + 1, Outcome::Processed);
    });
    assert_eq!(fleet.end(LONG).lost, 0);
}

#[test]
fn a_reset_call_holds_its_place_until_its_event_is_done() {
    a_place_is_held_until_the_last_is_done(EVENT, |number| unary(&format!("e{number}")), 1);
}

#[test]
fn a_reset_batch_holds_its_place_until_the_last_of_its_events_is_done() {
    a_place_is_held_until_the_last_is_done(EVENTS, |number| batch(ids(&format!("b{number}"), 3)), 3);
}

#[test]
fn a_reset_stream_holds_its_place_until_the_last_of_its_events_is_done() {
    a_place_is_held_until_the_last_is_done(STREAM, |number| many(ids(&format!("s{number}"), 3)).to_vec(), 3);
}

#[test]
fn messages_that_come_in_part_have_a_bound_over_all_streams() {
    const MESSAGE: usize = 10 << 20;
    let fleet = open_fleet();
    on_runtime(async {
        let (mut refused, mut held) = (0, Vec::new());
        for path in [STREAM, INGEST_STREAM] {
            for _ in 0..20 {
                let mut peer = H2Peer::connect(fleet.address).await;
                let (answer, stream) = peer.open_with(path, GRPC, &[]).await;
                let mut part = framed(0, &vec![0; MESSAGE]);
                part.truncate(MESSAGE);
                let mut stream = patiently(send(stream, part.into(), false)).await.unwrap();
                // Whatever was said of the stream has come by then.
                peer.round_trip().await;
                let reset = std::future::poll_fn(|context| Poll::Ready(stream.poll_reset(context))).await;
                if reset.is_ready() {
                    let answer = read(answer).await.unwrap();
                    assert_eq!(answer.field("grpc-status"), Some("8"), "{answer:?}");
                    refused += 1;
                } else {
                    held.push((peer, answer, stream));
                }
            }
        }
        // A buffer may have grown to twice what is in it.
        let bytes = held.len() * MESSAGE;
        assert!(
            refused > 0 && (128 << 20..=256 << 20).contains(&bytes),
            "{refused} refused, {bytes} bytes held"
        );
        // What they held is free again.
        drop(held);
        let (answered, end) = told(&H2Peer::connect(fleet.address).await, many(ids("later", 1))).await;
        assert_eq!((answered.len(), end.code.as_str()), (2, "0"));
    });
}

//! Floods: each ends with ENHANCE_YOUR_CALM, and an honest client never meets it.

use transports::h2::frame::{flag, kind};
use transports::h2::{Budget, ConnectionError, ErrorCode, Limits};

use crate::peer::*;

const NONE: Budget = Budget { burst: 10, per_second: 1 };

/// Sends inputs until the connection ends; how many were taken.
fn flood(talk: &mut Talk, mut input: impl FnMut(u32) -> Vec<u8>) -> (u32, ConnectionError) {
    for n in 0..200_000 {
        if let Err(error) = talk.send(&input(n)) {
            assert_eq!(error.code, ErrorCode::ENHANCE_YOUR_CALM);
            return (n, error);
        }
        talk.out.clear();
    }
    panic!("nothing stopped it");
}

#[test]
fn rapid_resets_are_cut() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::Never;
    let (taken, _) = flood(&mut talk, |n| [get(2 * n + 1), rst(2 * n + 1)].concat());
    assert_eq!(taken, 1_000);
    assert_eq!(talk.connection.open_streams(), 1, "the last one was not reset any more");
}

#[test]
fn resets_that_we_are_made_to_send_are_cut() {
    let mut talk = Talk::new();
    let (taken, _) = flood(&mut talk, |n| [post(2 * n + 1), window_update(2 * n + 1, 0)].concat());
    assert_eq!(taken, 1_000);
    let mut talk = Talk::new();
    let (taken, _) = flood(&mut talk, |n| headers(2 * n + 1, 0, &post_block(&[("Bad", "x")])));
    assert_eq!(taken, 1_000);
}

#[test]
fn refused_streams_are_cut() {
    let mut talk = Talk::with(Limits { max_concurrent_streams: 0, ..Limits::default() });
    assert_eq!(flood(&mut talk, |n| post(2 * n + 1)).0, 1_000);
}

#[test]
fn resets_come_back_with_time() {
    let mut talk = Talk::new();
    for n in 0..4_000 {
        talk.now_ms = u64::from(n) * 31;
        talk.send(&[post(2 * n + 1), rst(2 * n + 1)].concat()).unwrap();
    }
}

#[test]
fn floods_of_idle_frames_are_cut() {
    let mut talk = Talk::new();
    assert_eq!(flood(&mut talk, |_| ping()).0, 9_998, "two went to SETTINGS");
    for input in [
        settings(&[]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        frame(kind::PING, flag::ACK, 0, &[0; 8]),
        frame(kind::PRIORITY, 0, 99, &[0; 5]),
        frame(0x42, 0, 0, b""),
        window_update(0, 1),
        frame(kind::GOAWAY, 0, 0, &[0; 8]),
    ] {
        let mut talk = Talk::with(Limits { glitches: NONE, ..Limits::default() });
        assert_eq!(flood(&mut talk, |_| input.clone()).0, 8, "{input:?}");
    }
}

#[test]
fn frames_on_closed_streams_are_cut() {
    let mut talk = Talk::with(Limits { glitches: NONE, ..Limits::default() });
    talk.resets(&headers(1, 0, &post_block(&[("Bad", "x")])), 1, ErrorCode::PROTOCOL_ERROR);
    assert_eq!(flood(&mut talk, |_| data(1, b"x")).0, 8);
    let mut talk = Talk::with(Limits { glitches: NONE, ..Limits::default() });
    talk.send(&[post(1), rst(1)].concat()).unwrap();
    assert_eq!(flood(&mut talk, |_| rst(1)).0, 8);
}

#[test]
fn empty_data_is_cut() {
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    assert_eq!(flood(&mut talk, |_| data(1, b"")).0, 100);
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    assert_eq!(flood(&mut talk, |_| frame(kind::DATA, flag::PADDED, 1, &[2, 0, 0])).0, 100);
}

#[test]
fn data_that_is_mostly_overhead_is_cut() {
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    let mut payload = [0; 257];
    payload[0] = 255;
    let (taken, _) = flood(&mut talk, |_| frame(kind::DATA, flag::PADDED, 1, &payload));
    assert!((3_000..5_000).contains(&taken), "{taken}");
}

#[test]
fn small_messages_are_no_abuse() {
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    for _ in 0..100_000 {
        talk.send(&data(1, &[0; 20])).unwrap();
        talk.out.clear();
    }
    for byte in 0..30_000u32 {
        talk.send(&data(1, &[byte as u8])).unwrap();
        talk.out.clear();
    }
}

#[test]
fn an_honest_clients_window_updates_and_pings_are_paid_by_our_answers() {
    let mut talk = Talk::with(Limits { glitches: NONE, ..Limits::default() });
    for n in 0..1_000 {
        talk.send(&[get(2 * n + 1), window_update(0, 2), ping()].concat()).unwrap();
        talk.out.clear();
    }
}

#[test]
fn unread_control_replies_are_bounded() {
    let mut talk = Talk::new();
    let mut input = Vec::new();
    for _ in 0..1_001 {
        input.extend_from_slice(&ping());
    }
    talk.dies(&input, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn an_application_that_resets_too_often_ends_the_connection() {
    let mut talk = Talk::with(Limits { resets: NONE, ..Limits::default() });
    talk.app.answer = Answer::Never;
    for n in 0..11 {
        let id = transports::h2::StreamId::new(2 * n + 1);
        talk.send(&get(id.get())).unwrap();
        let (_, mut replies) = talk.connection.stream(id, &mut talk.out).unwrap();
        replies.reset(id, ErrorCode::CANCEL);
    }
    talk.dies(b"", ErrorCode::ENHANCE_YOUR_CALM);
}

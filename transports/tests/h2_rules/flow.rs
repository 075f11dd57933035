//! Flow control, both ways.

use transports::h2::frame::{flag, kind};
use transports::h2::{ErrorCode, Limits, StreamId, Waiting};

use crate::peer::*;

/// The sizes of the DATA frames for a stream, and whether the last one ended it.
fn sizes(frames: &[Frame], stream: u32) -> (Vec<usize>, bool) {
    let data: Vec<_> =
        frames.iter().filter(|frame| frame.kind == kind::DATA && frame.stream == stream).collect();
    let ended = data.last().is_some_and(|frame| frame.ends_stream());
    (data.iter().map(|frame| frame.payload.len()).collect(), ended)
}

/// Sum of WINDOW_UPDATEs for a stream.
fn given_back(frames: &[Frame], stream: u32) -> u32 {
    let updates = frames.iter().filter(|frame| frame.kind == kind::WINDOW_UPDATE && frame.stream == stream);
    updates.map(Frame::number).sum()
}

#[test]
fn responses_stop_at_the_stream_window() {
    let mut talk = Talk::new();
    talk.app.body = vec![b'x'; 10];
    talk.send(&settings(&[(4, 3)])).unwrap();
    talk.frames();
    talk.send(&get(1)).unwrap();
    assert_eq!(sizes(&talk.frames(), 1), (vec![3], false));
    assert_eq!(talk.connection.queued_bytes(StreamId::new(1)), 7);
    assert_eq!(talk.connection.waiting_for(), Waiting::PeerWindow);
    talk.send(&window_update(1, 2)).unwrap();
    assert_eq!(sizes(&talk.frames(), 1), (vec![2], false));
    talk.send(&window_update(1, 100)).unwrap();
    assert_eq!(sizes(&talk.frames(), 1), (vec![5], true));
    assert_eq!(talk.connection.open_streams(), 0);
}

#[test]
fn trailers_wait_behind_queued_data() {
    let mut talk = Talk::new();
    talk.app.trailers = true;
    talk.send(&settings(&[(4, 0)])).unwrap();
    talk.frames();
    talk.send(&get(1)).unwrap();
    assert_eq!(talk.frames().len(), 1, "only the head");
    talk.send(&window_update(1, 1)).unwrap();
    assert_eq!(talk.frames().len(), 1);
    talk.send(&window_update(1, 1)).unwrap();
    let frames = talk.frames();
    assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [kind::DATA, kind::HEADERS]);
    assert!(frames[1].ends_stream());
}

#[test]
fn empty_response_needs_no_window() {
    let mut talk = Talk::new();
    talk.app.body = Vec::new();
    talk.send(&settings(&[(4, 0)])).unwrap();
    talk.frames();
    talk.send(&get(1)).unwrap();
    assert_eq!(sizes(&talk.frames(), 1), (vec![0], true));
}

#[test]
fn initial_window_moves_open_streams_even_below_zero() {
    let mut talk = Talk::new();
    talk.app.body = vec![b'x'; 20];
    talk.send(&settings(&[(4, 10)])).unwrap();
    talk.send(&get(1)).unwrap();
    talk.frames();
    talk.send(&settings(&[(4, 4)])).unwrap();
    talk.send(&window_update(1, 6)).unwrap();
    assert_eq!(sizes(&talk.frames(), 1), (vec![], false), "-6 + 6 is nothing");
    talk.send(&settings(&[(4, 5)])).unwrap();
    let frames = talk.frames();
    assert_eq!(frames[0].kind, kind::SETTINGS, "the acknowledgement comes first");
    assert_eq!(sizes(&frames, 1), (vec![1], false));
    talk.send(&settings(&[(4, 100)])).unwrap();
    assert_eq!(sizes(&talk.frames(), 1), (vec![9], true));
}

#[test]
fn window_overflow_is_a_flow_control_error() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::Never;
    talk.send(&get(1)).unwrap();
    talk.resets(&window_update(1, 0x7fff_ffff), 1, ErrorCode::FLOW_CONTROL_ERROR);
    talk.send(&get(3)).unwrap();
    talk.send(&window_update(3, 0x7fff_ffff - 65_535)).unwrap();
    talk.dies(&settings(&[(4, 65_536)]), ErrorCode::FLOW_CONTROL_ERROR);
    Talk::new().dies(&window_update(0, 0x7fff_ffff), ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn zero_window_increment_resets_stream() {
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    talk.resets(&window_update(1, 0), 1, ErrorCode::PROTOCOL_ERROR);
    talk.still_answers(3);
}

#[test]
fn connection_window_is_shared_in_turn() {
    let mut talk = Talk::new();
    talk.app.body = vec![b'x'; 40_000];
    talk.send(&settings(&[(4, 1 << 20)])).unwrap();
    talk.frames();
    talk.send(&[get(1), get(3), get(5)].concat()).unwrap();
    let frames = talk.frames();
    assert_eq!(sizes(&frames, 1), (vec![16_384, 16_384, 7_232], true));
    assert_eq!(sizes(&frames, 3), (vec![16_384, 9_151], false));
    assert_eq!(sizes(&frames, 5), (vec![], false));
    assert!(talk.connection.wants_output());
    talk.send(&window_update(0, 20_000)).unwrap();
    let frames = talk.frames();
    assert_eq!(sizes(&frames, 3), (vec![14_465], true));
    assert_eq!(sizes(&frames, 5), (vec![5_535], false));
    talk.send(&window_update(0, 1_000)).unwrap();
    assert_eq!(sizes(&talk.frames(), 5), (vec![1_000], false));
    talk.send(&window_update(0, 1 << 20)).unwrap();
    assert!(sizes(&talk.frames(), 5).1);
    assert!(!talk.connection.wants_output());
}

#[test]
fn two_long_responses_alternate() {
    let mut talk = Talk::new();
    talk.app.body = vec![b'x'; 60_000];
    talk.send(&[settings(&[(4, 0)]), get(1), get(3)].concat()).unwrap();
    talk.send(&window_update(0, 1 << 20)).unwrap();
    talk.frames();
    // Both wait for their own window; then the connection's is used up by a third.
    talk.send(&[window_update(1, 1 << 20), window_update(3, 1 << 20)].concat()).unwrap();
    assert!(sizes(&talk.frames(), 3).1);
    let mut talk = Talk::new();
    talk.app.body = vec![b'x'; 60_000];
    talk.send(&[settings(&[(4, 1 << 20)]), get(1), get(3), get(5)].concat()).unwrap();
    talk.frames();
    talk.send(&window_update(0, 40_000)).unwrap();
    let order: Vec<_> = talk.frames().iter().map(|frame| frame.stream).collect();
    assert_eq!(order, [3, 5, 3], "in turn, a frame each");
}

#[test]
fn what_the_queue_does_not_take_waits_with_the_application() {
    let mut talk = Talk::new();
    talk.app.body = vec![b'x'; 200_000];
    talk.send(&[settings(&[(4, 0)]), get(1)].concat()).unwrap();
    assert_eq!(talk.connection.queued_bytes(StreamId::new(1)), 64 << 10);
    talk.send(&window_update(0, 1 << 20)).unwrap();
    let mut received = 0;
    talk.frames();
    for _ in 0..100 {
        talk.send(&window_update(1, 10_000)).unwrap();
        let (data, ended) = sizes(&talk.frames(), 1);
        received += data.iter().sum::<usize>();
        assert!(talk.connection.queued_bytes(StreamId::new(1)) <= 64 << 10);
        if ended {
            break;
        }
    }
    assert_eq!(received, 200_000);
    assert_eq!(talk.connection.open_streams(), 0);
}

#[test]
fn a_full_output_holds_bodies_back() {
    let mut talk = Talk::with(Limits { output_bytes_max: 20_000, ..Limits::default() });
    talk.app.body = vec![b'x'; 60_000];
    talk.send(&[settings(&[(4, 1 << 20)]), window_update(0, 1 << 20), get(1), get(3)].concat()).unwrap();
    let mut received = 0;
    let mut rounds = 0;
    while talk.connection.open_streams() > 0 {
        assert!(talk.out.len() < 40_000, "{}", talk.out.len());
        assert!(talk.connection.wants_output());
        received += talk
            .frames()
            .iter()
            .filter(|frame| frame.kind == kind::DATA)
            .map(|it| it.payload.len())
            .sum::<usize>();
        talk.connection.output_drained(0, &mut talk.app, &mut talk.out).unwrap();
        rounds += 1;
        assert!(rounds < 20);
    }
    received += talk.frames().iter().map(|frame| frame.payload.len()).sum::<usize>();
    assert_eq!(received, 120_000);
}

#[test]
fn stalled_responses_are_reset() {
    let mut talk = Talk::new();
    talk.send(&[settings(&[(4, 0)]), get(1)].concat()).unwrap();
    talk.now_ms = 10_000;
    talk.send(&get(3)).unwrap();
    talk.frames();
    let stalled = talk.connection.reset_stalled(31_000, 30_000, &mut talk.app, &mut talk.out);
    assert_eq!(stalled, Ok(1));
    assert_eq!(talk.frames(), [rst_frame(1, ErrorCode::CANCEL)]);
    assert_eq!(talk.connection.open_streams(), 1);
}

#[test]
fn windows_are_given_back_at_half() {
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    let mut back = (0, 0);
    for round in 0..64 {
        talk.send(&data(1, &[0; 16_384])).unwrap();
        let frames = talk.frames();
        assert!(frames.len() <= 2);
        back.0 += given_back(&frames, 0);
        back.1 += given_back(&frames, 1);
        if round == 6 {
            assert_eq!(back.1, 0, "not before half of 256 KiB");
        }
    }
    assert_eq!(back, (1 << 20, 1 << 20));
}

#[test]
fn data_beyond_the_stream_window_resets() {
    let limits = Limits { stream_window_bytes: 70_000, ..Limits::default() };
    let mut talk = Talk::with(limits);
    talk.app.later = true;
    talk.send(&post(1)).unwrap();
    for _ in 0..4 {
        talk.send(&data(1, &[0; 16_384])).unwrap();
    }
    talk.resets(&data(1, &[0; 5_000]), 1, ErrorCode::FLOW_CONTROL_ERROR);
    talk.still_answers(3);
}

#[test]
fn a_window_below_the_default_holds_after_its_acknowledgement() {
    let limits = Limits { stream_window_bytes: 1_000, ..Limits::default() };
    let mut talk = Talk::before_preface(limits);
    talk.app.answer = Answer::Never;
    let preface = transports::h2::frame::PREFACE.as_slice();
    talk.send(&[preface, &settings(&[]), &post(1), &data(1, &[0; 900])].concat()).unwrap();
    // Before the acknowledgement 65,535 hold.
    talk.send(&data(1, &[0; 10_000])).unwrap();
    talk.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).unwrap();
    talk.out.clear();
    talk.send(&post(3)).unwrap();
    talk.resets(&data(3, &[0; 1_001]), 3, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn data_beyond_the_connection_window_ends_the_connection() {
    let limits = Limits { held_bytes_max: 0, connection_window_bytes: 65_535, ..Limits::default() };
    let mut talk = Talk::with(limits);
    talk.app.later = true;
    talk.send(&[post(1), post(3)].concat()).unwrap();
    for stream in [1, 1, 3] {
        talk.send(&data(stream, &[0; 16_384])).unwrap();
    }
    talk.dies(&data(3, &[0; 16_384]), ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn padding_is_credited_to_both_windows() {
    let mut talk = Talk::with(Limits {
        connection_window_bytes: 65_535,
        stream_window_bytes: 65_535,
        ..Limits::default()
    });
    talk.app.later = true;
    talk.send(&post(1)).unwrap();
    let mut payload = vec![0; 256 + 100];
    payload[0] = 255;
    let mut back = (0, 0);
    for _ in 0..300 {
        talk.send(&frame(kind::DATA, flag::PADDED, 1, &payload)).unwrap();
        let frames = talk.frames();
        back.0 += given_back(&frames, 0);
        back.1 += given_back(&frames, 1);
    }
    assert!(back.1 > 200 * 256, "padding comes back though the bytes are held: {back:?}");
    assert!(back.0 > 200 * 256);
}

#[test]
fn held_bytes_withhold_the_connection_window_and_credit_opens_it() {
    let limits = Limits {
        connection_window_bytes: 1 << 20,
        stream_window_bytes: 4 << 20,
        held_bytes_max: 100_000,
        ..Limits::default()
    };
    let mut talk = Talk::with(limits);
    talk.app.later = true;
    talk.send(&post(1)).unwrap();
    for _ in 0..64 {
        talk.send(&data(1, &[0; 16_384])).unwrap();
    }
    // Without a word from the application only `held_bytes_max` came back.
    let early = given_back(&talk.frames(), 0);
    assert!(early <= 100_000, "{early}");
    let id = StreamId::new(1);
    let (_, mut replies) = talk.connection.stream(id, &mut talk.out).unwrap();
    replies.credit(id, 1 << 20);
    replies.credit(id, 1 << 20);
    assert_eq!(early + given_back(&talk.frames(), 0), 1 << 20);
}

#[test]
fn what_a_reset_stream_held_comes_back() {
    let limits = Limits { connection_window_bytes: 65_535, held_bytes_max: 0, ..Limits::default() };
    let mut talk = Talk::with(limits);
    talk.app.later = true;
    talk.send(&post(1)).unwrap();
    for _ in 0..3 {
        talk.send(&data(1, &[0; 16_384])).unwrap();
    }
    assert!(talk.frames().is_empty());
    talk.send(&rst(1)).unwrap();
    assert_eq!(given_back(&talk.frames(), 0), 3 * 16_384);
}

#[test]
fn data_on_reset_streams_is_credited_to_the_connection() {
    let mut talk = Talk::with(Limits { connection_window_bytes: 65_535, ..Limits::default() });
    talk.resets(&headers(1, 0, &post_block(&[("Bad", "x")])), 1, ErrorCode::PROTOCOL_ERROR);
    let mut back = 0;
    for _ in 0..20 {
        talk.send(&data(1, &[0; 16_384])).unwrap();
        back += given_back(&talk.frames(), 0);
    }
    assert!(back >= 19 * 16_384);
}

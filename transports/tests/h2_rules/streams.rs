//! Frames, sizes, stream states, ids, GOAWAY.

use transports::h2::frame::{PREFACE, flag, kind};
use transports::h2::{Block, ErrorCode, Limits, StreamId, Waiting, Work};

use crate::peer::*;

#[test]
fn settings_come_first_and_open_the_connection_window() {
    let mut talk = Talk::before_preface(Limits::default());
    assert_eq!(talk.connection.waiting_for(), Waiting::Preface);
    talk.send(PREFACE).unwrap();
    assert_eq!(talk.connection.waiting_for(), Waiting::Settings);
    let frames = talk.frames();
    assert_eq!(
        frames.iter().map(|frame| (frame.kind, frame.flags)).collect::<Vec<_>>(),
        [(kind::SETTINGS, 0), (kind::WINDOW_UPDATE, 0)]
    );
    let expected = settings(&[(3, 128), (4, 256 << 10), (6, 16_384)]);
    assert_eq!(frames[0].payload, expected[9..]);
    assert_eq!(frames[1].number(), (1 << 20) - 65_535);
    talk.send(&settings(&[])).unwrap();
    assert_eq!(talk.connection.waiting_for(), Waiting::Idle);
    assert_eq!(talk.frames(), parse(&frame(kind::SETTINGS, flag::ACK, 0, &[])));
}

#[test]
fn wrong_preface_is_refused_at_its_first_wrong_byte() {
    for at in 0..PREFACE.len() {
        let mut talk = Talk::before_preface(Limits::default());
        let mut preface = *PREFACE;
        preface[at] ^= 0x20;
        talk.send(&preface[..at]).unwrap();
        let error = talk.send(&preface[at..=at]).unwrap_err();
        assert_eq!(error.code, ErrorCode::PROTOCOL_ERROR);
        assert!(talk.out.is_empty(), "nothing is said to who does not speak HTTP/2");
    }
}

#[test]
fn greeting_before_the_preface_is_not_repeated() {
    let mut talk = Talk::before_preface(Limits::default());
    talk.connection.greet(&mut talk.out);
    assert_eq!(talk.frames().len(), 2);
    talk.send(PREFACE).unwrap();
    assert!(talk.frames().is_empty());
}

#[test]
fn first_frame_must_be_settings() {
    for first in [ping(), get(1), frame(kind::SETTINGS, flag::ACK, 0, &[])] {
        let mut talk = Talk::before_preface(Limits::default());
        talk.dies(&[PREFACE.as_slice(), &first].concat(), ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn ping_is_echoed() {
    let mut talk = Talk::new();
    talk.send(&ping()).unwrap();
    assert_eq!(talk.frames(), parse(&frame(kind::PING, flag::ACK, 0, b"12345678")));
    talk.send(&frame(kind::PING, flag::ACK, 0, b"12345678")).unwrap();
    assert!(talk.frames().is_empty());
}

#[test]
fn wrong_sizes_end_the_connection() {
    for input in [
        frame(kind::PING, 0, 0, b"1234567"),
        frame(kind::RST_STREAM, 0, 1, b"123"),
        frame(kind::WINDOW_UPDATE, 0, 0, b"12345"),
        frame(kind::WINDOW_UPDATE, 0, 1, b"123"),
        frame(kind::SETTINGS, 0, 0, b"12345"),
        frame(kind::SETTINGS, flag::ACK, 0, b"123456"),
        frame(kind::GOAWAY, 0, 0, b"1234567"),
        frame(kind::HEADERS, flag::PRIORITY | flag::END_HEADERS, 3, b"1234"),
        frame(kind::DATA, 0, 1, &[0; 16_385]),
        frame(kind::HEADERS, 0, 3, &[0; 16_385]),
        frame(0x42, 0, 1, &[0; 16_385]),
    ] {
        let mut talk = Talk::new();
        talk.send(&post(1)).unwrap();
        talk.dies(&input, ErrorCode::FRAME_SIZE_ERROR);
    }
}

#[test]
fn oversize_is_refused_by_its_header_alone() {
    let mut talk = Talk::new();
    talk.dies(&frame(kind::DATA, 0, 1, &[0; 16_385])[..9], ErrorCode::FRAME_SIZE_ERROR);
}

#[test]
fn wrong_streams_end_the_connection() {
    for input in [
        frame(kind::PING, 0, 1, b"12345678"),
        frame(kind::SETTINGS, 0, 1, &[]),
        frame(kind::GOAWAY, 0, 1, b"12345678"),
        frame(kind::DATA, 0, 0, b"x"),
        frame(kind::PRIORITY, 0, 0, &[0; 5]),
        rst(0),
        headers(0, 0, &[0x82]),
        headers(2, 0, &[0x82]),
        frame(kind::CONTINUATION, 0, 0, b""),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, b""),
        frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]),
        window_update(0, 0),
    ] {
        let mut talk = Talk::new();
        talk.send(&post(1)).unwrap();
        talk.dies(&input, ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn frames_on_idle_streams_end_the_connection() {
    for input in [data(3, b"x"), rst(3), window_update(3, 1), data(2, b"x"), rst(2), window_update(2, 1)] {
        let mut talk = Talk::new();
        talk.send(&get(1)).unwrap();
        talk.dies(&input, ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn padding_longer_than_the_frame_ends_the_connection() {
    for input in [
        frame(kind::DATA, flag::PADDED, 1, &[3, 0, 0]),
        frame(kind::DATA, flag::PADDED, 1, &[]),
        frame(kind::HEADERS, flag::PADDED | flag::END_HEADERS, 3, &[2, 0x82]),
    ] {
        let mut talk = Talk::new();
        talk.send(&post(1)).unwrap();
        talk.dies(&input, ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn padding_and_priority_are_taken_off() {
    let mut talk = Talk::new();
    let mut payload = vec![4, 0, 0, 0, 9, 16];
    payload.extend_from_slice(&post_block(&[]));
    payload.extend_from_slice(&[0; 4]);
    talk.send(&headers(1, flag::PADDED | flag::PRIORITY, &payload)).unwrap();
    talk.send(&frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x02hi\0\0")).unwrap();
    let open = Call::Open(1, "/x".into(), false);
    assert_eq!(talk.calls(), [open, Call::Data(1, b"hi".to_vec(), true), Call::Closed(1)]);
}

#[test]
fn unknown_frames_and_settings_and_flags_are_ignored() {
    let mut talk = Talk::new();
    talk.send(&frame(0x42, 0xff, 77, b"what")).unwrap();
    talk.send(&settings(&[(0x42, 7)])).unwrap();
    talk.send(&frame(kind::PING, 0xfe, 0, b"12345678")).unwrap();
    talk.still_answers(1);
}

#[test]
fn reserved_bits_are_ignored() {
    let mut talk = Talk::new();
    talk.send(&window_update(0, 0x8000_0001)).unwrap();
    let mut input = get(1);
    input[5] |= 0x80;
    talk.send(&input).unwrap();
    assert_eq!(talk.frames().len(), 2);
}

#[test]
fn settings_are_validated() {
    for (id, value, code) in [
        (2, 2, ErrorCode::PROTOCOL_ERROR),
        (4, 0x8000_0000, ErrorCode::FLOW_CONTROL_ERROR),
        (5, 16_383, ErrorCode::PROTOCOL_ERROR),
        (5, 16_777_216, ErrorCode::PROTOCOL_ERROR),
    ] {
        Talk::new().dies(&settings(&[(id, value)]), code);
    }
    Talk::new().dies(&settings(&[(9, 9); 33]), ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn a_request_is_handed_on_whole_and_answered() {
    let mut talk = Talk::new();
    talk.app.trailers = true;
    talk.send(&[post(1), data(1, b"he"), last_data(1, b"llo")].concat()).unwrap();
    assert_eq!(
        talk.calls(),
        [
            Call::Open(1, "/x".into(), false),
            Call::Data(1, b"he".to_vec(), false),
            Call::Data(1, b"llo".to_vec(), true),
            Call::Closed(1)
        ]
    );
    let frames = talk.frames();
    let shape: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.flags, frame.stream)).collect();
    assert_eq!(
        shape,
        [
            (kind::HEADERS, flag::END_HEADERS, 1),
            (kind::DATA, 0, 1),
            (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1)
        ]
    );
    assert_eq!((frames[0].payload.as_slice(), frames[1].payload.as_slice()), (&[0x88][..], &b"ok"[..]));
    assert_eq!(talk.connection.open_streams(), 0);
    assert_eq!(talk.connection.received_data_bytes(), 5);
}

#[test]
fn trailers_end_a_request() {
    let mut talk = Talk::new();
    let trailers = headers(1, flag::END_STREAM, &block(&[("x-checksum", "1")]));
    talk.send(&[post(1), data(1, b"hi"), trailers].concat()).unwrap();
    assert_eq!(talk.calls()[2..], [Call::Trailers(1, 1), Call::Closed(1)]);
}

#[test]
fn continuation_is_put_together() {
    let mut talk = Talk::new();
    let block = post_block(&[]);
    talk.send(&frame(kind::HEADERS, flag::END_STREAM, 1, &block[..3])).unwrap();
    assert_eq!(talk.connection.waiting_for(), Waiting::HeaderBlock);
    talk.send(&frame(kind::CONTINUATION, 0, 1, &block[3..9])).unwrap();
    talk.send(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block[9..])).unwrap();
    assert_eq!(talk.calls(), [Call::Open(1, "/x".into(), true), Call::Closed(1)]);
}

#[test]
fn nothing_may_stand_inside_a_header_block() {
    let block = post_block(&[]);
    for between in [
        ping(),
        get(3),
        data(1, b"x"),
        settings(&[]),
        frame(0x42, 0, 0, b""),
        frame(kind::CONTINUATION, flag::END_HEADERS, 3, b""),
    ] {
        let mut talk = Talk::new();
        talk.send(&frame(kind::HEADERS, 0, 1, &block[..3])).unwrap();
        talk.dies(&between, ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn ids_must_go_up() {
    let mut talk = Talk::new();
    talk.send(&get(5)).unwrap();
    talk.dies(&get(3), ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn half_closed_remote_takes_no_body_and_no_headers() {
    for input in [data(1, b"x"), get(1), post(1)] {
        let mut talk = Talk::new();
        talk.app.answer = Answer::Never;
        talk.send(&get(1)).unwrap();
        talk.resets(&input, 1, ErrorCode::STREAM_CLOSED);
        assert_eq!(talk.calls()[1..], [Call::Reset(1, ErrorCode::STREAM_CLOSED, false)]);
        talk.still_answers(3);
    }
}

#[test]
fn ended_stream_takes_no_body_and_no_headers() {
    for input in [data(1, b"x"), get(1)] {
        let mut talk = Talk::new();
        talk.send(&get(1)).unwrap();
        talk.dies(&input, ErrorCode::STREAM_CLOSED);
    }
}

#[test]
fn stream_that_the_client_reset_takes_no_body_and_no_headers() {
    for input in [data(1, b"x"), get(1)] {
        let mut talk = Talk::new();
        talk.send(&[post(1), rst(1)].concat()).unwrap();
        talk.resets(&input, 1, ErrorCode::STREAM_CLOSED);
        talk.still_answers(3);
    }
}

#[test]
fn closed_stream_still_takes_small_frames() {
    let mut talk = Talk::new();
    talk.send(&get(1)).unwrap();
    talk.frames();
    for input in [window_update(1, 1), rst(1), frame(kind::PRIORITY, 0, 1, &[0; 5])] {
        talk.send(&input).unwrap();
    }
    assert!(talk.frames().is_empty());
}

#[test]
fn frames_under_way_to_a_stream_we_reset_are_ignored() {
    let mut talk = Talk::new();
    talk.resets(&headers(1, 0, &post_block(&[("Bad", "x")])), 1, ErrorCode::PROTOCOL_ERROR);
    let trailers = headers(1, flag::END_STREAM, &block(&[("x", "y")]));
    talk.send(&[data(1, b"x"), last_data(1, b"y"), trailers].concat()).unwrap();
    assert!(talk.frames().is_empty());
    talk.still_answers(3);
}

#[test]
fn client_reset_takes_the_stream_back() {
    let mut talk = Talk::new();
    talk.send(&[post(1), data(1, b"hi"), rst(1)].concat()).unwrap();
    assert_eq!(talk.calls()[2..], [Call::Reset(1, ErrorCode::CANCEL, true)]);
    assert!(talk.frames().is_empty());
    assert_eq!(talk.connection.open_streams(), 0);
    talk.still_answers(3);
}

#[test]
fn priority_is_checked_and_forgotten() {
    let mut talk = Talk::new();
    talk.send(&frame(kind::PRIORITY, 0, 9, &[0, 0, 0, 3, 1])).unwrap();
    talk.send(&post(1)).unwrap();
    talk.resets(&frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0]), 1, ErrorCode::FRAME_SIZE_ERROR);
    talk.send(&post(3)).unwrap();
    talk.resets(&frame(kind::PRIORITY, 0, 3, &[0x80, 0, 0, 3, 1]), 3, ErrorCode::PROTOCOL_ERROR);
    let depends_on_itself = [&[0, 0, 0, 5, 1], post_block(&[]).as_slice()].concat();
    talk.resets(&headers(5, flag::PRIORITY, &depends_on_itself), 5, ErrorCode::PROTOCOL_ERROR);
    talk.still_answers(7);
    talk.dies(&frame(kind::PRIORITY, 0, 11, &[0, 0, 0, 11, 1]), ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn streams_over_the_limit_are_refused_and_the_decoder_keeps_step() {
    let mut talk = Talk::with(Limits { max_concurrent_streams: 2, ..Limits::default() });
    talk.send(&[post(1), post(3)].concat()).unwrap();
    talk.calls();
    // The refused block inserts `x: y` into the table.
    let refused = [post_block(&[]).as_slice(), &[0x40, 1, b'x', 1, b'y']].concat();
    talk.resets(&headers(5, 0, &refused), 5, ErrorCode::REFUSED_STREAM);
    assert_eq!(talk.calls(), [Call::Refused(5, ErrorCode::REFUSED_STREAM)]);
    talk.send(&last_data(1, b"")).unwrap();
    talk.frames();
    talk.send(&headers(7, flag::END_STREAM, &[post_block(&[]).as_slice(), &[0xbe]].concat())).unwrap();
    assert_eq!(talk.frames().len(), 2);
}

#[test]
fn work_that_remains_keeps_its_place() {
    let mut talk = Talk::with(Limits { max_concurrent_streams: 1, ..Limits::default() });
    talk.app.work = Work::Remains;
    talk.send(&[post(1), rst(1)].concat()).unwrap();
    talk.resets(&post(3), 3, ErrorCode::REFUSED_STREAM);
    talk.connection.work_ended();
    talk.still_answers(5);
}

#[test]
fn early_answer_asks_the_client_to_stop() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::AtOnce;
    talk.send(&post(1)).unwrap();
    let frames = talk.frames();
    assert!(frames[1].ends_stream());
    assert_eq!(frames[2], rst_frame(1, ErrorCode::NO_ERROR));
    assert_eq!(talk.calls(), [Call::Open(1, "/x".into(), false), Call::Closed(1)]);
    talk.send(&[data(1, b"more"), last_data(1, b"and more")].concat()).unwrap();
    assert!(talk.frames().is_empty() && talk.calls().is_empty());
}

#[test]
fn early_answer_to_a_request_that_ends_in_the_same_read_needs_no_reset() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::AtOnce;
    talk.send(&[post(1), data(1, b"x"), last_data(1, b"y")].concat()).unwrap();
    assert_eq!(talk.frames().len(), 2);
    assert_eq!(talk.calls(), [Call::Open(1, "/x".into(), false), Call::Closed(1)]);
    let trailers = headers(3, flag::END_STREAM, &block(&[("x", "y")]));
    talk.send(&[post(3), trailers].concat()).unwrap();
    assert_eq!(talk.frames().len(), 2);
}

#[test]
fn answers_from_outside_are_sent() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::Never;
    talk.send(&[get(1), post(3)].concat()).unwrap();
    assert_eq!(talk.connection.waiting_for(), Waiting::Body);
    for id in [1, 3].map(StreamId::new) {
        let (_, mut replies) = talk.connection.stream(id, &mut talk.out).unwrap();
        replies.head(id, &Block::new(200), false);
        assert_eq!(replies.data(id, b"later", true), 5);
        assert!(!replies.is_open(id));
        assert!(talk.connection.stream(id, &mut talk.out).is_none());
    }
    let frames = talk.frames();
    assert_eq!(frames.len(), 5);
    assert_eq!(frames[4], rst_frame(3, ErrorCode::NO_ERROR));
    assert_eq!(talk.connection.open_streams(), 0);
    talk.connection.settle(&mut talk.app, &mut talk.out).unwrap();
    assert_eq!(talk.calls().len(), 4);
}

#[test]
fn interim_heads_may_come_first() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::Never;
    talk.send(&get(1)).unwrap();
    let id = StreamId::new(1);
    let (_, mut replies) = talk.connection.stream(id, &mut talk.out).unwrap();
    replies.head(id, &Block::new(103), true);
    replies.head(id, &Block::new(200), true);
    replies.head(id, &Block::new(500), true);
    let frames = talk.frames();
    assert_eq!(frames.iter().map(|frame| frame.ends_stream()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn body_before_its_head_is_our_own_error() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::Never;
    talk.send(&[get(1), get(3)].concat()).unwrap();
    for id in [1, 3].map(StreamId::new) {
        let (_, mut replies) = talk.connection.stream(id, &mut talk.out).unwrap();
        match id.get() {
            1 => assert_eq!(replies.data(id, b"x", true), 1),
            _ => replies.trailers(id, &Block::trailers()),
        }
        assert_eq!(talk.frames(), [rst_frame(id.get(), ErrorCode::INTERNAL_ERROR)]);
    }
}

#[test]
fn shrinking_the_client_table_is_followed_by_a_size_update() {
    let mut talk = Talk::new();
    talk.send(&settings(&[(1, 0)])).unwrap();
    talk.frames();
    talk.send(&get(1)).unwrap();
    assert_eq!(talk.frames()[0].payload, [0x20, 0x88]);
    talk.send(&settings(&[(1, 100)])).unwrap();
    talk.frames();
    talk.send(&get(3)).unwrap();
    assert_eq!(talk.frames()[0].payload, [0x88], "a table of 0 is below every limit");
}

#[test]
fn long_response_heads_are_continued() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::Never;
    talk.send(&get(1)).unwrap();
    let id = StreamId::new(1);
    let (_, mut replies) = talk.connection.stream(id, &mut talk.out).unwrap();
    replies.head(id, &Block::new(200).field("x", "\u{1f600}".repeat(10_000)), true);
    let frames = talk.frames();
    let shape: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(
        shape,
        [(kind::HEADERS, flag::END_STREAM), (kind::CONTINUATION, 0), (kind::CONTINUATION, flag::END_HEADERS)]
    );
}

#[test]
fn going_away_finishes_what_is_open() {
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    talk.connection.go_away_notice(&mut talk.out);
    assert_eq!(talk.frames()[0].payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    talk.send(&post(3)).unwrap();
    talk.connection.go_away(&mut talk.out);
    assert_eq!(talk.frames()[0].payload[..8], [0, 0, 0, 3, 0, 0, 0, 0]);
    assert!(!talk.connection.is_drained());
    talk.calls();
    talk.send(&[post(5), data(5, b"ignored"), last_data(1, b""), last_data(3, b"")].concat()).unwrap();
    assert_eq!(talk.frames().len(), 4);
    assert_eq!(talk.calls().iter().filter(|call| matches!(call, Call::Closed(_))).count(), 2);
    assert!(talk.connection.is_drained());
}

#[test]
fn goaway_from_the_client_drains() {
    let mut talk = Talk::new();
    talk.send(&[post(1), frame(kind::GOAWAY, 0, 0, &[0; 8])].concat()).unwrap();
    assert!(!talk.connection.is_drained());
    talk.send(&last_data(1, b"")).unwrap();
    assert_eq!(talk.frames().len(), 2);
    assert!(talk.connection.is_drained());
}

#[test]
fn disconnect_takes_every_stream_back() {
    let mut talk = Talk::new();
    talk.app.answer = Answer::Never;
    talk.send(&[post(1), get(3)].concat()).unwrap();
    talk.calls();
    talk.connection.disconnect(&mut talk.app);
    assert_eq!(talk.calls().len(), 2);
    assert_eq!(talk.connection.open_streams(), 0);
    assert!(talk.connection.stream(StreamId::new(1), &mut talk.out).is_none());
}

#[test]
fn the_caller_may_close() {
    let mut talk = Talk::new();
    talk.connection.close_with(ErrorCode::SETTINGS_TIMEOUT, "too slow", &mut talk.out);
    let frames = talk.frames();
    assert_eq!(frames[0].payload[4..], *b"\0\0\0\x04too slow");
    assert_eq!(talk.send(&get(1)).unwrap_err().code, ErrorCode::SETTINGS_TIMEOUT);
}

#[test]
fn shrinking_loses_nothing_but_memory() {
    let mut talk = Talk::new();
    // Inserts `x: y`, which is still known afterwards.
    talk.send(&headers(
        1,
        flag::END_STREAM,
        &[post_block(&[]).as_slice(), &[0x40, 1, b'x', 1, b'y']].concat(),
    ))
    .unwrap();
    talk.connection.shrink();
    talk.send(&headers(3, flag::END_STREAM, &[post_block(&[]).as_slice(), &[0xbe]].concat())).unwrap();
    talk.still_answers(5);
}

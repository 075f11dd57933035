//! Header blocks and what RFC 9113 §8 demands of requests.

use transports::h2::frame::{flag, kind};
use transports::h2::{ErrorCode, Limits};

use crate::peer::*;

/// Malformed: reset, never opened, and the next request is answered.
#[track_caller]
fn is_malformed(input: &[u8]) {
    let mut talk = Talk::new();
    talk.resets(input, 1, ErrorCode::PROTOCOL_ERROR);
    assert_eq!(talk.calls(), [Call::Refused(1, ErrorCode::PROTOCOL_ERROR)]);
    talk.still_answers(3);
}

#[test]
fn malformed_heads_are_never_dispatched() {
    for fields in [
        &[("Upper", "x")][..],
        &[("", "x")],
        &[("connection", "keep-alive")],
        &[("te", "gzip")],
        &[("x", "a\r\nb")],
        &[("x", " a")],
        &[(":path", "/again")],
        &[(":unknown", "x")],
        &[("x", "y"), (":method", "GET")],
        &[("content-length", "one")],
        &[("content-length", "1"), ("content-length", "2")],
    ] {
        is_malformed(&headers(1, 0, &post_block(fields)));
    }
    for missing in [":method", ":scheme", ":path"] {
        let fields: Vec<_> = POST.into_iter().filter(|(name, _)| *name != missing).collect();
        is_malformed(&headers(1, 0, &block(&fields)));
    }
    is_malformed(&headers(1, flag::END_STREAM, &post_block(&[("content-length", "1")])));
}

#[test]
fn malformed_heads_are_not_remembered_as_good() {
    let mut talk = Talk::new();
    for stream in [1, 3, 5] {
        talk.resets(&headers(stream, 0, &post_block(&[("Bad", "x")])), stream, ErrorCode::PROTOCOL_ERROR);
    }
}

#[test]
fn content_length_must_be_the_body() {
    let head = headers(1, 0, &post_block(&[("content-length", "5")]));
    for (bodies, is_good) in [
        (vec![last_data(1, b"hello")], true),
        (vec![data(1, b"he"), data(1, b"llo"), last_data(1, b"")], true),
        (vec![data(1, b"hello"), headers(1, flag::END_STREAM, &block(&[("x", "y")]))], true),
        (vec![last_data(1, b"hell")], false),
        (vec![last_data(1, b"hello!")], false),
        (vec![data(1, b"hello!")], false),
        (vec![last_data(1, b"")], false),
        (vec![data(1, b"hell"), headers(1, flag::END_STREAM, &block(&[("x", "y")]))], false),
    ] {
        let mut talk = Talk::new();
        talk.send(&head).unwrap();
        talk.send(&bodies.concat()).unwrap();
        let calls = talk.calls();
        let frames = talk.frames();
        if is_good {
            assert_eq!(calls.last(), Some(&Call::Closed(1)));
            assert_eq!(frames.len(), 2);
        } else {
            assert_eq!(calls.last(), Some(&Call::Reset(1, ErrorCode::PROTOCOL_ERROR, false)));
            assert_eq!(frames, [rst_frame(1, ErrorCode::PROTOCOL_ERROR)]);
            assert!(!calls.iter().any(|call| matches!(call, Call::Data(_, _, true) | Call::Trailers(..))));
        }
        talk.still_answers(3);
    }
}

#[test]
fn content_length_holds_for_remembered_heads_too() {
    let mut talk = Talk::new();
    let head = |stream, flags| headers(stream, flags, &post_block(&[("content-length", "2")]));
    talk.send(&[head(1, 0), last_data(1, b"hi"), head(3, 0), last_data(3, b"hi")].concat()).unwrap();
    assert_eq!(talk.app.classified, 1);
    talk.frames();
    talk.resets(&[head(5, 0), last_data(5, b"hi!")].concat(), 5, ErrorCode::PROTOCOL_ERROR);
    talk.resets(&head(7, flag::END_STREAM), 7, ErrorCode::PROTOCOL_ERROR);
}

#[test]
fn bad_trailers_reset() {
    for (flags, fields) in [
        (flag::END_STREAM, [(":path", "/")]),
        (flag::END_STREAM, [("Upper", "x")]),
        (flag::END_STREAM, [("connection", "close")]),
        (0, [("x", "y")]),
    ] {
        let mut talk = Talk::new();
        talk.send(&post(1)).unwrap();
        talk.resets(&headers(1, flags, &block(&fields)), 1, ErrorCode::PROTOCOL_ERROR);
        assert_eq!(talk.calls()[1..], [Call::Reset(1, ErrorCode::PROTOCOL_ERROR, false)]);
        talk.still_answers(3);
    }
}

#[test]
fn bad_blocks_end_the_connection() {
    for block in [
        &[0x80][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xbe],
        &[0x00, 0x85, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x82, 0x20],
        &[0x3f, 0xe2, 0x1f],
        &[0x00, 0x05],
    ] {
        Talk::new().dies(&headers(1, flag::END_STREAM, block), ErrorCode::COMPRESSION_ERROR);
        let mut talk = Talk::new();
        talk.send(&post(1)).unwrap();
        talk.dies(&headers(1, flag::END_STREAM, block), ErrorCode::COMPRESSION_ERROR);
    }
}

#[test]
fn large_header_lists_are_answered_431_with_the_decoder_in_step() {
    let mut talk = Talk::new();
    // A 100-byte field enters the table and is named 200 times: 200 × 132 is over 16 KiB.
    let mut bomb = post_block(&[]);
    bomb.extend_from_slice(&[0x40, 1, b'x', 99]);
    bomb.extend_from_slice(&[b'v'; 99]);
    bomb.extend_from_slice(&[0xbe; 200]);
    talk.send(&headers(1, 0, &bomb)).unwrap();
    let frames = talk.frames();
    // ":status" by its index, and "431" as Huffman would not make it shorter.
    assert_eq!(frames[0].payload, b"\x08\x03431");
    assert!(frames[0].ends_stream());
    assert_eq!(frames[1], rst_frame(1, ErrorCode::NO_ERROR));
    assert_eq!(talk.calls(), [Call::Refused(1, ErrorCode::NO_ERROR)]);
    // Still under way, and the table holds the field.
    talk.send(&last_data(1, b"body")).unwrap();
    talk.send(&headers(3, flag::END_STREAM, &[post_block(&[]).as_slice(), &[0xbe]].concat())).unwrap();
    assert_eq!(talk.frames().len(), 2);
}

#[test]
fn too_many_fields_are_answered_431() {
    let mut talk = Talk::new();
    let fields: Vec<_> = std::iter::repeat_n(("x", "y"), 97).collect();
    talk.send(&headers(1, flag::END_STREAM, &post_block(&fields))).unwrap();
    let frames = talk.frames();
    assert_eq!(frames.len(), 1);
    assert!(frames[0].ends_stream());
    talk.still_answers(3);
}

#[test]
fn large_trailers_reset() {
    let mut talk = Talk::new();
    talk.send(&post(1)).unwrap();
    let fields: Vec<_> = std::iter::repeat_n(("x", "y"), 101).collect();
    talk.resets(&headers(1, flag::END_STREAM, &block(&fields)), 1, ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn connect_is_answered_501() {
    let mut talk = Talk::new();
    talk.send(&headers(1, 0, &block(&[(":method", "CONNECT"), (":authority", "a:1")]))).unwrap();
    let frames = talk.frames();
    assert_eq!(frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(), [kind::HEADERS, kind::RST_STREAM]);
    is_malformed(&headers(1, 0, &block(&[(":method", "CONNECT"), (":authority", "a"), (":path", "/")])));
}

#[test]
fn repeated_heads_are_classified_once() {
    let mut talk = Talk::new();
    for stream in (1..40).step_by(2) {
        talk.send(&[post(stream), last_data(stream, b"x")].concat()).unwrap();
    }
    assert_eq!(talk.app.classified, 1);
    assert_eq!(talk.calls().len(), 20 * 3);
}

#[test]
fn remembered_heads_do_not_outlive_a_change_of_the_table() {
    let mut talk = Talk::new();
    let path = |index| headers(index, flag::END_STREAM, &[0x82, 0x86, 0xbe]);
    let insert = |stream, path: &[u8]| {
        let mut block = vec![0x82, 0x86, 0x44, path.len() as u8];
        block.extend_from_slice(path);
        headers(stream, flag::END_STREAM, &block)
    };
    talk.send(&[insert(1, b"/a"), path(3), path(5), insert(7, b"/b"), path(9), path(11)].concat()).unwrap();
    let paths: Vec<_> = talk
        .calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::Open(_, path, _) => Some(path),
            _ => None,
        })
        .collect();
    assert_eq!(paths, ["/a", "/a", "/a", "/b", "/b", "/b"]);
    assert_eq!(talk.app.classified, 4);
    talk.send(&headers(13, flag::END_STREAM, &[0x20, 0x82, 0x86, 0x84])).unwrap();
    talk.dies(&path(15), ErrorCode::COMPRESSION_ERROR);
}

#[test]
fn continuation_frames_are_counted() {
    let mut talk = Talk::new();
    talk.send(&frame(kind::HEADERS, 0, 1, &post_block(&[]))).unwrap();
    for _ in 0..8 {
        talk.send(&frame(kind::CONTINUATION, 0, 1, b"")).unwrap();
    }
    talk.dies(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, b""), ErrorCode::ENHANCE_YOUR_CALM);
}

#[test]
fn header_blocks_are_bounded_before_they_are_decoded() {
    let mut talk = Talk::with(Limits { frame_bytes_max: 1 << 20, ..Limits::default() });
    talk.send(&frame(kind::HEADERS, 0, 1, &post_block(&[]))).unwrap();
    talk.dies(&frame(kind::CONTINUATION, 0, 1, &[0x82; 65_536]), ErrorCode::ENHANCE_YOUR_CALM);
}

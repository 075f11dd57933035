//! Any cut of the input gives the same result, and garbage never panics.

use transports::h2::frame::{PREFACE, flag, kind};
use transports::h2::{ErrorCode, Limits};

use crate::peer::*;

/// A conversation with a bit of everything.
fn conversation() -> Vec<u8> {
    let block = post_block(&[("content-length", "5")]);
    let mut padded = vec![3];
    padded.extend_from_slice(b"padded\0\0\0");
    [
        PREFACE.to_vec(),
        settings(&[(4, 100), (5, 20_000)]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        post(1),
        data(1, b"hello"),
        ping(),
        frame(kind::HEADERS, 0, 3, &block[..7]),
        frame(kind::CONTINUATION, 0, 3, b""),
        frame(kind::CONTINUATION, flag::END_HEADERS, 3, &block[7..]),
        last_data(1, b""),
        last_data(3, b"world"),
        headers(5, flag::END_STREAM, &[0x82, 0x86, 0x84, 0x40, 1, b'x', 1, b'y']),
        headers(7, flag::END_STREAM, &[0x82, 0x86, 0x84, 0xbe]),
        headers(9, 0, &post_block(&[("Bad", "x")])),
        data(9, b"ignored"),
        post(11),
        frame(kind::DATA, flag::PADDED, 11, &padded),
        rst(11),
        window_update(0, 5),
        frame(0x42, 0, 3, b"unknown"),
        post(13),
        headers(13, flag::END_STREAM, &crate::peer::block(&[("x", "y")])),
        frame(kind::GOAWAY, 0, 0, &[0; 8]),
    ]
    .concat()
}

/// Feeds `input` in pieces as a driver does, keeping what is not taken.
fn feed(talk: &mut Talk, input: &[u8], mut piece: impl FnMut() -> usize) -> Result<(), ErrorCode> {
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let end = (at + piece().max(1)).min(input.len());
        buffer.extend_from_slice(&input[at..end]);
        at = end;
        let taken = talk.connection.receive(&buffer, 0, &mut talk.app, &mut talk.out);
        buffer.drain(..taken.map_err(|error| error.code)?);
        assert!(buffer.len() < 9 + 16_384);
    }
    Ok(())
}

#[test]
fn any_cut_gives_the_same_result() {
    let input = conversation();
    let mut whole = Talk::before_preface(Limits::default());
    whole.send(&input).unwrap();
    assert!(whole.connection.is_drained());
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..200 {
        let mut cut = Talk::before_preface(Limits::default());
        feed(&mut cut, &input, || if round == 0 { 1 } else { random.usize(1..60) }).unwrap();
        assert_eq!(cut.out, whole.out);
        assert_eq!(cut.app.calls, whole.app.calls);
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2_000 {
        let mut talk = Talk::new();
        let mut garbage = vec![0; random.usize(..400)];
        random.fill(&mut garbage);
        let _ = feed(&mut talk, &garbage, || 64);
        talk.connection.disconnect(&mut talk.app);
    }
}

#[test]
fn random_frames_never_panic() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut survivors = 0;
    for _ in 0..3_000 {
        let limits = Limits { max_concurrent_streams: 5, held_bytes_max: 200, ..Limits::default() };
        let mut talk = Talk::with(limits);
        talk.app.answer = *random.choice([Answer::AtTheEnd, Answer::AtOnce, Answer::Never].iter()).unwrap();
        talk.app.later = random.bool();
        talk.app.trailers = random.bool();
        talk.app.body = vec![b'x'; random.usize(..40_000)];
        let mut next = 1;
        let mut input = settings(&[(4, random.u32(..50_000))]);
        for _ in 0..40 {
            let old = (random.u32(..next / 2 + 1)) * 2 + 1;
            let mut bytes = vec![0; random.usize(..20)];
            random.fill(&mut bytes);
            input.extend_from_slice(&match random.u8(..14) {
                0 => frame(random.u8(..10), random.u8(..) & 0x2d, old, &bytes),
                1 => rst(old),
                2 => window_update(0, random.u32(..20_000)),
                3 => window_update(old, random.u32(..20_000)),
                4 => headers(old, random.u8(..) & flag::END_STREAM, &block(&[("x", "y")])),
                5 => settings(&[(random.u16(1..7), random.u32(..100_000))]),
                6 => data(old, &bytes),
                7 => last_data(old, &bytes),
                8 => ping(),
                _ => {
                    let stream = next;
                    next += 2;
                    let mut fields = post_block(&[("content-length", "4")]);
                    if random.bool() {
                        fields = post_block(&[]);
                    }
                    [headers(stream, random.u8(..) & flag::END_STREAM, &fields), data(stream, b"1234")]
                        .concat()
                }
            });
        }
        survivors += u32::from(feed(&mut talk, &input, || random.usize(1..3_000)).is_ok());
        parse(&talk.out);
        talk.connection.for_each_stream(&mut talk.out, |id, _, replies| replies.reset(id, ErrorCode::CANCEL));
        talk.connection.disconnect(&mut talk.app);
        assert_eq!(talk.connection.open_streams(), 0);
        // Whatever was opened was taken back, once.
        let opened = talk.app.calls.iter().filter(|call| matches!(call, Call::Open(..))).count();
        let ended =
            talk.app.calls.iter().filter(|call| matches!(call, Call::Closed(_) | Call::Reset(..))).count();
        assert_eq!(opened, ended);
    }
    assert!(survivors > 0);
}

#[test]
fn flipped_bits_never_panic() {
    let input = conversation();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..5_000 {
        let mut flipped = input.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(PREFACE.len()..flipped.len());
            flipped[at] ^= 1 << random.u8(..8);
        }
        let mut talk = Talk::before_preface(Limits::default());
        let _ = feed(&mut talk, &flipped, || 1_000);
        parse(&talk.out);
    }
}

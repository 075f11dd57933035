//! HTTP/2 alone: 32 unary gRPC calls in one read, all answered in one write, their bodies not looked at.
//!
//! `memo_hit`: the heads are the same bytes every time, as clients send them. `memo_miss`: one field
//! changes, so each head is decoded, checked and classified. `alone`: one call a read.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use benches::http2::{Heads, UnaryCalls};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use transports::h2::{
    Application, Block, Connection, Credit, Fields, Limits, Replies, RequestHead, Reset, StreamId, Work,
};

/// Answers everything with 24 bytes and status 0.
struct Yes {
    head: Block,
    trailers: Block,
    body_bytes: usize,
}

const ANSWER: [u8; 24] = [7; 24];

impl Application for Yes {
    type Head = usize;
    type Stream = usize;

    fn classify(&mut self, head: &RequestHead<'_>) -> usize {
        head.path().len()
    }

    fn open(&mut self, _: StreamId, head: &usize, _end: bool, _: &mut Replies<'_>) -> usize {
        *head
    }

    fn data(
        &mut self,
        id: StreamId,
        _: &mut usize,
        data: &[u8],
        end: bool,
        replies: &mut Replies<'_>,
    ) -> Credit {
        self.body_bytes += data.len();
        if end {
            replies.head(id, &self.head, false);
            assert_eq!(replies.data(id, &ANSWER, false), ANSWER.len());
            replies.trailers(id, &self.trailers);
        }
        Credit::Now
    }

    fn trailers(&mut self, _: StreamId, _: &mut usize, _: Fields<'_>, _: &mut Replies<'_>) {}

    fn reset(&mut self, _: StreamId, _: usize, _: Reset) -> Work {
        Work::Ended
    }
}

fn unary_calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http2_unary");
    for (name, calls, heads) in [
        ("memo_hit_32", 32, Heads::Same),
        ("memo_miss_32", 32, Heads::Changing),
        ("memo_hit_alone", 1, Heads::Same),
    ] {
        group.throughput(Throughput::Elements(calls as u64));
        let mut app = Yes {
            head: Block::new(200).field("content-type", "application/grpc"),
            trailers: Block::trailers().field("grpc-status", "0"),
            body_bytes: 0,
        };
        let mut client = UnaryCalls::new(calls, heads, ANSWER.len());
        let mut connection = Connection::new(Arc::new(Limits::default()));
        let mut out = Vec::with_capacity(1 << 16);
        connection.receive(&client.opening(), 0, &mut app, &mut out).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                let input = client.next_batch();
                let used = connection.receive(black_box(input), 1, &mut app, &mut out).unwrap();
                assert_eq!(used, input.len());
                out.len()
            })
        });
        black_box(app.body_bytes);
    }
    group.finish();
}

criterion_group! {
    name = http2;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = unary_calls
}
criterion_main!(http2);

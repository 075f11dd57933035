//! HTTP/1.1 alone: a small ingest request parsed and answered, its body not looked at; one request in
//! the input, and 32 pipelined. Bytes in, bytes out, no socket.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use benches::http1::{DATE, requests};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use transports::h1::{Accept, Answer, Application, Connection, Limits, Ready, Reply, RequestHead};

/// Says yes to everything, with an answer as long as the ingest routes'.
struct Yes {
    ready: Ready,
    body_bytes: usize,
}

const ANSWER: &[u8] = br#"{"status":"queued","id":"018f3b2e-7c1d-7a55-9e2b-0123456789ab"}"#;

impl Application for Yes {
    fn head(&mut self, head: &RequestHead<'_>, _reply: Reply<'_>) -> Accept {
        black_box((head.path(), head.content_type()));
        Accept::Body
    }

    fn request(&mut self, _head: &RequestHead<'_>, body: &[u8], reply: Reply<'_>) -> Answer {
        self.body_bytes += body.len();
        reply.ready(&self.ready, ANSWER)
    }
}

fn parse_and_answer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http1");
    for count in [1, 32] {
        group.throughput(Throughput::Elements(count as u64));
        let input = requests(count);
        let mut app = Yes { ready: Ready::json(200), body_bytes: 0 };
        let mut connection = Connection::new(Limits::default());
        let mut out = Vec::with_capacity(1 << 16);
        group.bench_function(BenchmarkId::new("pipelined", count), |bencher| {
            bencher.iter(|| {
                out.clear();
                let used = connection.receive(black_box(&input), &DATE, &mut app, &mut out).unwrap();
                assert_eq!(used, input.len());
                out.len()
            })
        });
        black_box(app.body_bytes);
    }
    group.finish();
}

criterion_group! {
    name = http1;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = parse_and_answer
}
criterion_main!(http1);

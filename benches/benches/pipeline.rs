//! One core's whole work on a message, without sockets: request bytes in, decoded, submitted to the
//! engine, processed by `MemorySink<Prefix>` and freed, answer bytes out. 32 requests a turn, and one.
//!
//! What the binary adds beside the sockets: authentication, counters, budgets of time, a real message id
//! (here a counter as text, of the same length).
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use benches::http2::{Heads, UnaryCalls};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine_core::{MemorySink, MetadataWriter, Prefix, Record, Shard, SlabConfig, mesh};
use transports::grpc::{Deframer, PREFIX_BYTES, Take, encode_prefix};
use transports::message::{DataKind, decode_ingest_json, decode_ingest_proto, encode_ingest_response};
use transports::{h1, h2};

const TURNS: [usize; 2] = [1, 32];
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The engine, and what is needed to put a message into it.
struct Engine {
    shard: Shard<MemorySink<Prefix>>,
    metadata: Vec<u8>,
    id: [u8; 36],
    next_id: u64,
}

impl Engine {
    fn new() -> Self {
        let port = mesh(1, &SlabConfig::default()).remove(0);
        let shard = Shard::new(port, MemorySink::new(Prefix));
        Self { shard, metadata: Vec::new(), id: *b"018f3b2e-7c1d-7a55-9e2b-0123456789ab", next_id: 0 }
    }

    /// Says the id of the message, which is then in the queue.
    fn accept<P: AsRef<[u8]>>(
        &mut self,
        source: &[u8],
        payload: &[u8],
        pairs: impl Iterator<Item = (P, P)>,
    ) -> &str {
        self.next_id += 1;
        for (digit, place) in self.id[24..].iter_mut().rev().zip(0..) {
            *digit = b"0123456789abcdef"[(self.next_id >> (4 * place)) as usize & 15];
        }
        self.metadata.clear();
        let mut writer = MetadataWriter::new(&mut self.metadata);
        pairs.for_each(|(key, value)| writer.push(key.as_ref(), value.as_ref()));
        let record = Record {
            id: &self.id,
            source,
            payload,
            metadata: &self.metadata,
            timestamp_seconds: 1_700_000_000,
            ..Record::default()
        };
        self.shard.submit(0, &record).unwrap();
        std::str::from_utf8(&self.id).unwrap()
    }
}

struct Grpc {
    engine: Engine,
    head: h2::Block,
    trailers: h2::Block,
    answer: Vec<u8>,
}

impl h2::Application for Grpc {
    type Head = bool;
    type Stream = Deframer;

    fn classify(&mut self, head: &h2::RequestHead<'_>) -> bool {
        head.path() == b"/diplom.v1.IngestService/Ingest"
    }

    fn open(&mut self, _: h2::StreamId, head: &bool, _: bool, _: &mut h2::Replies<'_>) -> Deframer {
        assert!(*head);
        Deframer::new(MESSAGE_BYTES_MAX)
    }

    fn data(
        &mut self,
        id: h2::StreamId,
        deframer: &mut Deframer,
        data: &[u8],
        _end: bool,
        replies: &mut h2::Replies<'_>,
    ) -> h2::Credit {
        let Self { engine, answer, .. } = self;
        deframer
            .feed(data, |message| {
                let message = decode_ingest_proto(message.bytes, DataKind::Bytes).unwrap();
                let id = engine.accept(message.source, message.data, message.metadata.iter());
                answer.clear();
                answer.extend_from_slice(&[0; PREFIX_BYTES]);
                encode_ingest_response(answer, id, "queued");
                let prefix = encode_prefix(answer.len() - PREFIX_BYTES).unwrap();
                answer[..PREFIX_BYTES].copy_from_slice(&prefix);
                Take::Next
            })
            .unwrap();
        replies.head(id, &self.head, false);
        assert_eq!(replies.data(id, &self.answer, false), self.answer.len());
        replies.trailers(id, &self.trailers);
        h2::Credit::Now
    }

    fn trailers(&mut self, _: h2::StreamId, _: &mut Deframer, _: h2::Fields<'_>, _: &mut h2::Replies<'_>) {}

    fn reset(&mut self, _: h2::StreamId, _: Deframer, _: h2::Reset) -> h2::Work {
        h2::Work::Ended
    }
}

/// Bytes of DATA in an answer: prefix, message id and status, each of these with tag and length.
const GRPC_ANSWER_BYTES: usize = PREFIX_BYTES + 2 + 36 + 2 + 6;

fn grpc_over_http2(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline_grpc_unary");
    for calls in TURNS {
        group.throughput(Throughput::Elements(calls as u64));
        let mut app = Grpc {
            engine: Engine::new(),
            head: h2::Block::new(200).field("content-type", "application/grpc"),
            trailers: h2::Block::trailers().field("grpc-status", "0"),
            answer: Vec::new(),
        };
        let mut client = UnaryCalls::new(calls, Heads::Same, GRPC_ANSWER_BYTES);
        let mut connection = h2::Connection::new(Arc::new(h2::Limits::default()));
        let mut out = Vec::with_capacity(1 << 16);
        connection.receive(&client.opening(), 0, &mut app, &mut out).unwrap();
        group.bench_function(BenchmarkId::new("calls_a_turn", calls), |bencher| {
            bencher.iter(|| {
                out.clear();
                let input = client.next_batch();
                let used = connection.receive(black_box(input), 1, &mut app, &mut out).unwrap();
                assert_eq!(used, input.len());
                app.engine.shard.poll();
                out.len()
            })
        });
        assert_eq!((app.answer.len(), app.engine.shard.in_flight()), (GRPC_ANSWER_BYTES, 0));
    }
    group.finish();
}

struct Json {
    engine: Engine,
    ready: h1::Ready,
    answer: Vec<u8>,
}

impl h1::Application for Json {
    fn head(&mut self, head: &h1::RequestHead<'_>, _reply: h1::Reply<'_>) -> h1::Accept {
        assert_eq!(head.path(), b"/api/v1/ingest");
        h1::Accept::Body
    }

    fn request(&mut self, _: &h1::RequestHead<'_>, body: &[u8], reply: h1::Reply<'_>) -> h1::Answer {
        let message = decode_ingest_json(body).unwrap();
        let (source, data) = (message.source.as_bytes(), message.data.as_bytes());
        let id = self.engine.accept(source, data, message.metadata.iter());
        self.answer.clear();
        for part in [r#"{"status":"queued","message_id":""#, id, r#""}"#] {
            self.answer.extend_from_slice(part.as_bytes());
        }
        reply.ready(&self.ready, &self.answer)
    }
}

fn json_over_http1(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline_http1_json");
    for requests in TURNS {
        group.throughput(Throughput::Elements(requests as u64));
        let input = benches::http1::requests(requests);
        let mut app = Json { engine: Engine::new(), ready: h1::Ready::json(200), answer: Vec::new() };
        let mut connection = h1::Connection::new(h1::Limits::default());
        let mut out = Vec::with_capacity(1 << 16);
        group.bench_function(BenchmarkId::new("requests_a_turn", requests), |bencher| {
            bencher.iter(|| {
                out.clear();
                let input = black_box(&input);
                let used = connection.receive(input, &benches::http1::DATE, &mut app, &mut out).unwrap();
                assert_eq!(used, input.len());
                app.engine.shard.poll();
                out.len()
            })
        });
        assert_eq!(app.engine.shard.in_flight(), 0);
    }
    group.finish();
}

criterion_group! {
    name = pipeline;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = grpc_over_http2, json_over_http1
}
criterion_main!(pipeline);

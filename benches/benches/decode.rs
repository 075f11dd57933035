//! Decoding alone: one message from each form a client may send it in, and cutting a gRPC stream.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use benches::message::{DATA_MESSAGE_JSON, INGEST_JSON, grpc_body, ingest_proto};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use transports::grpc::{Deframer, Take};
use transports::message::{DataKind, decode_data_message, decode_ingest_json, decode_ingest_proto};

fn one_message(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    group.bench_function("ingest_json", |bencher| {
        bencher.iter(|| {
            let message = decode_ingest_json(black_box(INGEST_JSON)).unwrap();
            black_box((message.source.len(), message.data.len(), message.metadata.len()))
        })
    });
    let mut payload = Vec::new();
    group.bench_function("data_message_json", |bencher| {
        bencher.iter(|| {
            let message = decode_data_message(black_box(DATA_MESSAGE_JSON), &mut payload).unwrap();
            black_box((message.source.len(), message.metadata.len(), payload.len()))
        })
    });
    let bytes = ingest_proto();
    group.bench_function("ingest_proto", |bencher| {
        bencher.iter(|| {
            let message = decode_ingest_proto(black_box(&bytes), DataKind::Bytes).unwrap();
            black_box((message.source.len(), message.data.len(), message.metadata.len()))
        })
    });
    group.finish();
}

/// The usual slice of a client stream: whole messages, none split.
fn stream(criterion: &mut Criterion) {
    const MESSAGES: usize = 64;
    let mut group = criterion.benchmark_group("grpc_64_messages");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    let data = grpc_body(MESSAGES);
    let mut deframer = Deframer::new(1 << 20);
    group.bench_function("deframe", |bencher| {
        bencher.iter(|| {
            let mut bytes = 0;
            deframer
                .feed(black_box(&data), |message| {
                    bytes += message.bytes.len();
                    Take::Next
                })
                .unwrap();
            bytes
        })
    });
    group.bench_function("deframe_and_decode", |bencher| {
        bencher.iter(|| {
            let mut bytes = 0;
            deframer
                .feed(black_box(&data), |message| {
                    bytes += decode_ingest_proto(message.bytes, DataKind::Bytes).unwrap().data.len();
                    Take::Next
                })
                .unwrap();
            bytes
        })
    });
    group.finish();
}

criterion_group! {
    name = decode;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = one_message, stream
}
criterion_main!(decode);

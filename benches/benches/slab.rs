//! The slab and the whole cycle of one core, beside an allocation per message.
//!
//! `insert_read_free` keeps 64 messages in flight, so that each is written, left, read and freed as
//! in a running core; `cycle` is `Shard::submit` × 256, `poll` (process, complete, free).
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine_core::{MemorySink, Outcome, Prefix, Record, Shard, SlabConfig, mesh, slab};

const IN_FLIGHT: usize = 64;

fn record(payload: &[u8]) -> Record<'_> {
    Record {
        id: b"018f3b2e-7c1d-7a55-9e2b-0123456789ab",
        source: b"sensor-12",
        payload,
        timestamp_seconds: 1_700_000_000,
        ..Record::default()
    }
}

/// The message as it would be without a slab.
struct Owned {
    id: Box<[u8]>,
    source: Box<[u8]>,
    payload: Vec<u8>,
    timestamp_seconds: i64,
}

fn insert_read_free(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("insert_read_free");
    group.throughput(Throughput::Elements(1));
    for payload_bytes in [35, 80, 1024] {
        let payload = vec![b'x'; payload_bytes];
        let record = record(&payload);

        let (mut owner, reader) = slab(0, &SlabConfig::default());
        let mut in_flight = VecDeque::with_capacity(IN_FLIGHT);
        in_flight.extend((1..IN_FLIGHT).map(|_| owner.insert(&record).unwrap()));
        group.bench_function(BenchmarkId::new("slab", payload_bytes), |bencher| {
            bencher.iter(|| {
                in_flight.push_back(owner.insert(black_box(&record)).unwrap());
                let handle = in_flight.pop_front().unwrap();
                let view = reader.read(&handle);
                black_box((view.id(), view.payload(), view.timestamp_seconds()));
                owner.free(handle);
            })
        });

        let mut in_flight: VecDeque<Vec<u8>> = VecDeque::with_capacity(IN_FLIGHT);
        in_flight.resize(IN_FLIGHT - 1, payload.clone());
        group.bench_function(BenchmarkId::new("one_vec", payload_bytes), |bencher| {
            bencher.iter(|| {
                let record = black_box(&record);
                let parts = [record.id, record.source, record.payload];
                in_flight.push_back(parts.concat());
                black_box(in_flight.pop_front().unwrap().as_slice());
            })
        });

        let mut in_flight = VecDeque::with_capacity(IN_FLIGHT);
        let owned = |record: &Record<'_>| {
            Box::new(Owned {
                id: record.id.into(),
                source: record.source.into(),
                payload: record.payload.to_vec(),
                timestamp_seconds: record.timestamp_seconds,
            })
        };
        in_flight.extend((1..IN_FLIGHT).map(|_| owned(&record)));
        group.bench_function(BenchmarkId::new("owned_struct", payload_bytes), |bencher| {
            bencher.iter(|| {
                in_flight.push_back(owned(black_box(&record)));
                let owned = in_flight.pop_front().unwrap();
                black_box((&owned.id, &owned.source, &owned.payload, owned.timestamp_seconds));
            })
        });
    }
    group.finish();
}

fn cycle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cycle");
    for payload_bytes in [80, 1024] {
        let payload = vec![b'x'; payload_bytes];
        let record = record(&payload);
        for messages in [1, 256] {
            group.throughput(Throughput::Elements(messages));
            let name = format!("{payload_bytes}_B_{messages}_a_turn");

            let port = mesh(1, &SlabConfig::default()).remove(0);
            let mut shard = Shard::new(port, MemorySink::new(Prefix));
            group.bench_function(BenchmarkId::new("home_prefix", &name), |bencher| {
                bencher.iter(|| {
                    (0..messages).for_each(|_| shard.submit(0, black_box(&record)).unwrap());
                    shard.poll()
                })
            });

            let port = mesh(1, &SlabConfig::default()).remove(0);
            let touch = |record: &Record<'_>, _: &mut Vec<u8>| {
                black_box(record.payload);
                Outcome::Processed
            };
            let mut shard = Shard::new(port, MemorySink::new(touch));
            group.bench_function(BenchmarkId::new("home_read_only", &name), |bencher| {
                bencher.iter(|| {
                    (0..messages).for_each(|_| shard.submit(0, black_box(&record)).unwrap());
                    shard.poll()
                })
            });

            // Both cores of a mesh polled by one thread: what the rings and doorbells add.
            let mut ports = mesh(2, &SlabConfig::default());
            let mut away = Shard::new(ports.remove(1), MemorySink::new(touch));
            let mut home = Shard::new(ports.remove(0), MemorySink::new(touch));
            group.bench_function(BenchmarkId::new("away_read_only", &name), |bencher| {
                bencher.iter(|| {
                    (0..messages).for_each(|_| home.submit(1, black_box(&record)).unwrap());
                    home.flush();
                    away.poll();
                    home.poll()
                })
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = insert_read_free, cycle
}
criterion_main!(benches);

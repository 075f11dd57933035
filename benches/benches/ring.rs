//! The SPSC ring beside its peers, in one run: ns per message (64 bytes unless said otherwise), capacity 4096.
//!
//! - `one_thread_…`: push and pop by turns, with values of a handle's and of a line's length; or 256 by 256.
//! - `single`: across two threads, one message a call.
//! - `batch_256`: across two threads, 256 messages a publish where the peer can (rtrb's chunks).
//!
//! A figure counts only against its neighbours of the same run: `cargo bench --bench ring`. After
//! criterion's groups it prints ratios from rounds that alternate between the peers.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use engine_core::ring::ring;

const CAPACITY: usize = 4096;
const BATCH: usize = 256;
/// Messages of one measurement across threads.
const MESSAGES: u64 = 1 << 21;

type Message = [u64; 8];

fn message(number: u64) -> Message {
    [number; 8]
}

/// Runs a producer on a thread of its own against a consumer here; ns for all `messages`.
fn across(
    messages: u64,
    mut produce: impl FnMut(u64) -> u64 + Send,
    mut consume: impl FnMut(&mut u64) -> u64,
) -> Duration {
    let go = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let started = Arc::clone(&go);
        scope.spawn(move || {
            while !started.load(Ordering::Acquire) {
                spin_loop();
            }
            let mut sent = 0;
            while sent < messages {
                match produce(messages - sent) {
                    0 => spin_loop(),
                    count => sent += count,
                }
            }
        });
        let mut sum = 0;
        let start = Instant::now();
        go.store(true, Ordering::Release);
        let mut received = 0;
        while received < messages {
            match consume(&mut sum) {
                0 => spin_loop(),
                count => received += count,
            }
        }
        black_box(sum);
        start.elapsed()
    })
}

fn own_single(messages: u64) -> Duration {
    let (mut producer, mut consumer) = ring::<Message>(CAPACITY);
    let consume = |sum: &mut u64| consumer.pop().map_or(0, |m| add(sum, &m));
    across(messages, move |left| u64::from(producer.push(message(left)).is_ok()), consume)
}

fn rtrb_single(messages: u64) -> Duration {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Message>::new(CAPACITY);
    let consume = |sum: &mut u64| consumer.pop().map_or(0, |m| add(sum, &m));
    across(messages, move |left| u64::from(producer.push(message(left)).is_ok()), consume)
}

fn crossbeam_single(messages: u64) -> Duration {
    let (sender, receiver) = crossbeam_channel::bounded::<Message>(CAPACITY);
    let consume = |sum: &mut u64| receiver.try_recv().map_or(0, |m| add(sum, &m));
    across(messages, move |left| u64::from(sender.try_send(message(left)).is_ok()), consume)
}

fn array_queue_single(messages: u64) -> Duration {
    let queue = crossbeam_queue::ArrayQueue::<Message>::new(CAPACITY);
    let consume = |sum: &mut u64| queue.pop().map_or(0, |m| add(sum, &m));
    across(messages, |left| u64::from(queue.push(message(left)).is_ok()), consume)
}

fn std_single(messages: u64) -> Duration {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Message>(CAPACITY);
    let consume = |sum: &mut u64| receiver.try_recv().map_or(0, |m| add(sum, &m));
    across(messages, move |left| u64::from(sender.try_send(message(left)).is_ok()), consume)
}

fn own_batch(messages: u64) -> Duration {
    let (mut producer, mut consumer) = ring::<Message>(CAPACITY);
    let produce = move |left: u64| {
        let wanted = (left as usize).min(BATCH);
        let staged = producer.stage_all((0..wanted).map(|_| message(left)));
        producer.publish();
        staged as u64
    };
    across(messages, produce, |sum| {
        consumer.take(BATCH, |m| {
            add(sum, &m);
        }) as u64
    })
}

fn rtrb_batch(messages: u64) -> Duration {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Message>::new(CAPACITY);
    let produce = move |left: u64| {
        let wanted = (left as usize).min(BATCH);
        // Ask first: write_chunk_uninit for more than is free fails as a whole.
        let wanted = wanted.min(producer.slots());
        match producer.write_chunk_uninit(wanted) {
            Ok(chunk) => chunk.fill_from_iter((0..wanted).map(|_| message(left))) as u64,
            Err(_) => 0,
        }
    };
    across(messages, produce, |sum| {
        let wanted = consumer.slots().min(BATCH);
        let Ok(chunk) = consumer.read_chunk(wanted) else { return 0 };
        chunk.into_iter().map(|m| add(sum, &m)).sum()
    })
}

/// Reads the whole message, as a worker would.
#[inline(always)]
fn add(sum: &mut u64, message: &Message) -> u64 {
    *sum = sum.wrapping_add(message.iter().fold(0, |a, b| a ^ b.rotate_left(1)));
    1
}

type Peer = (&'static str, fn(u64) -> Duration);

const BATCHES: [Peer; 2] = [("own", own_batch), ("rtrb_chunks", rtrb_batch)];
const SINGLES: [Peer; 5] = [
    ("own", own_single),
    ("rtrb", rtrb_single),
    ("crossbeam_channel", crossbeam_single),
    ("array_queue", array_queue_single),
    ("std_mpsc", std_single),
];

fn two_threads(criterion: &mut Criterion) {
    for (name, peers) in [("batch_256", &BATCHES[..]), ("single", &SINGLES[..])] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for (peer, run) in peers {
            // Criterion asks for n iterations; below a few thousand it would time the thread's start.
            group.bench_function(*peer, |bencher| {
                bencher.iter_custom(|n| run(n.max(MESSAGES)).mul_f64(n as f64 / n.max(MESSAGES) as f64))
            });
        }
        group.finish();
    }
}

fn one_thread(criterion: &mut Criterion) {
    one_by_one(criterion, "one_thread_16_B", [7_u64; 2]); // as long as a slab's handle
    one_by_one(criterion, "one_thread_64_B", message(7));
    batch_by_batch(criterion);
}

fn one_by_one<T: Copy + Send + 'static>(criterion: &mut Criterion, name: &str, value: T) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let (mut producer, mut consumer) = ring::<T>(CAPACITY);
    group.bench_function("own", |bencher| {
        bencher.iter(|| {
            let _ = producer.push(black_box(value));
            black_box(consumer.pop())
        })
    });
    let (mut producer, mut consumer) = rtrb::RingBuffer::<T>::new(CAPACITY);
    group.bench_function("rtrb", |bencher| {
        bencher.iter(|| {
            let _ = producer.push(black_box(value));
            black_box(consumer.pop())
        })
    });
    let (sender, receiver) = crossbeam_channel::bounded::<T>(CAPACITY);
    group.bench_function("crossbeam_channel", |bencher| {
        bencher.iter(|| {
            let _ = sender.try_send(black_box(value));
            black_box(receiver.try_recv())
        })
    });
    let queue = crossbeam_queue::ArrayQueue::<T>::new(CAPACITY);
    group.bench_function("array_queue", |bencher| {
        bencher.iter(|| {
            let _ = queue.push(black_box(value));
            black_box(queue.pop())
        })
    });
    group.finish();
}

/// Batches on one thread: what the loops cost, without what moving lines between cores costs.
fn batch_by_batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_thread_batch_256");
    group.throughput(Throughput::Elements(BATCH as u64));
    let (mut producer, mut consumer) = ring::<Message>(CAPACITY);
    group.bench_function("own", |bencher| {
        bencher.iter(|| {
            let value = black_box(7);
            producer.stage_all((0..BATCH).map(|_| message(value)));
            producer.publish();
            let mut sum = 0;
            consumer.take(BATCH, |m| {
                add(&mut sum, &m);
            });
            sum
        })
    });
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Message>::new(CAPACITY);
    group.bench_function("rtrb_chunks", |bencher| {
        bencher.iter(|| {
            let value = black_box(7);
            let chunk = producer.write_chunk_uninit(BATCH).unwrap();
            chunk.fill_from_iter((0..BATCH).map(|_| message(value)));
            let mut sum = 0;
            for m in consumer.read_chunk(BATCH).unwrap() {
                add(&mut sum, &m);
            }
            sum
        })
    });
    group.finish();
}

/// Alternates between the peers, so that a drifting machine moves all of them, and prints the
/// ratios to them.
fn print_ratios() {
    const ROUNDS: usize = 7;
    for (name, peers) in [("batch_256", &BATCHES[..]), ("single", &SINGLES[..])] {
        let mut nanoseconds = vec![Vec::new(); peers.len()];
        for _ in 0..ROUNDS {
            for (peer, (_, run)) in peers.iter().enumerate() {
                nanoseconds[peer].push(run(MESSAGES).as_nanos() as f64 / MESSAGES as f64);
            }
        }
        nanoseconds.iter_mut().for_each(|rounds| rounds.sort_by(f64::total_cmp));
        let own = nanoseconds[0][ROUNDS / 2];
        println!("\n{name}, {ROUNDS} alternating rounds: ns per message, median [min … max], own / peer");
        for ((peer, _), rounds) in peers.iter().zip(&nanoseconds) {
            let median = rounds[ROUNDS / 2];
            let (least, most) = (rounds[0], rounds[ROUNDS - 1]);
            println!("  {peer:<18} {median:>7.2} [{least:.2} … {most:.2}]  {:.3}", own / median);
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = one_thread, two_threads
}

fn main() {
    // `cargo test --benches` passes --test: one quick pass, no ratios.
    let quick = std::env::args().any(|argument| argument == "--test");
    if std::env::args().all(|argument| argument != "--ratios") {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
    if !quick {
        print_ratios();
    }
}

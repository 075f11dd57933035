//! The mesh and the shards on it: a message's round trip, sleeping and waking, and draining.
#![cfg(loom)]
#![allow(clippy::unwrap_used, missing_docs)]

use engine_core::{MemorySink, Prefix, Record, Reply, Shard, SizeClass, SlabConfig, mesh};
use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use std::future::poll_fn;

/// A shard's turn touches a dozen atomics, too many for every interleaving; up to this many preemptions
/// are tried at every place. (The ring and the slab are tried without a bound.)
const PREEMPTIONS_MAX: usize = 4;

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS_MAX); // LOOM_MAX_PREEMPTIONS may say more
    builder.check(run);
}

fn two_shards(slots: u32) -> [Shard<MemorySink<Prefix>>; 2] {
    let class = SizeClass { block_bytes: 64, blocks: 2 };
    let config = SlabConfig { slots, classes: [class; 3], bytes_max: 4096 };
    let shards = mesh(2, &config).into_iter().map(|port| Shard::new(port, MemorySink::new(Prefix)));
    shards.collect::<Vec<_>>().try_into().unwrap_or_else(|_| unreachable!())
}

fn record(reply_token: u64) -> Record<'static> {
    Record { payload: b"hello", reply_token, ..Record::default() }
}

/// Sleeps, as a core does, until the shard has work.
fn sleep_until_work(shard: &Shard<MemorySink<Prefix>>) {
    block_on(poll_fn(|context| shard.poll_work(context.waker())));
}

#[test]
fn message_makes_the_round_trip() {
    model(|| {
        let [mut home, mut away] = two_shards(2);
        let worker = thread::spawn(move || {
            while away.poll() == 0 {
                thread::yield_now();
            }
        });
        home.submit(1, &record(9)).unwrap();
        home.flush();
        while home.poll() == 0 {
            thread::yield_now();
        }
        assert_eq!(home.in_flight(), 0);
        assert_eq!(home.take_replies().map(|Reply { token, .. }| token).collect::<Vec<_>>(), [9]);
        worker.join().unwrap();
    });
}

/// Loom reports a deadlock if any interleaving leaves a core asleep with work before it.
#[test]
fn no_wake_is_lost_between_two_cores_that_sleep() {
    model(|| {
        let [mut home, mut away] = two_shards(1);
        let worker = thread::spawn(move || {
            while away.poll() == 0 {
                sleep_until_work(&away);
            }
        });
        home.submit(1, &record(0)).unwrap();
        home.poll();
        while home.in_flight() > 0 {
            sleep_until_work(&home);
            home.poll();
        }
        worker.join().unwrap();
    });
}

#[test]
fn doorbell_rung_twice_wakes_a_core_that_goes_to_sleep() {
    model(|| {
        let [home, _away] = two_shards(1);
        let published = Arc::new(AtomicUsize::new(0));
        let bell = home.doorbell();
        let ringer = {
            let published = Arc::clone(&published);
            thread::spawn(move || {
                for _ in 0..2 {
                    published.fetch_add(1, Ordering::Relaxed);
                    bell.ring();
                }
            })
        };
        // Relaxed on purpose: the bell itself must carry what was published before it.
        while published.load(Ordering::Relaxed) < 2 {
            block_on(poll_fn(|context| home.doorbell().poll_rung(context.waker())));
        }
        ringer.join().unwrap();
    });
}

#[test]
fn everything_accepted_before_a_drain_is_processed() {
    model(|| {
        let [mut home, mut away] = two_shards(2);
        let drained = Arc::new(AtomicUsize::new(0));
        let worker = {
            let drained = Arc::clone(&drained);
            thread::spawn(move || {
                away.begin_drain(); // it still works for the other core
                while drained.load(Ordering::Acquire) == 0 {
                    if away.poll() == 0 {
                        thread::yield_now();
                    }
                }
                assert!(away.is_drained());
                away.counters().snapshot().processed
            })
        };
        home.submit(1, &record(0)).unwrap();
        home.submit(1, &record(0)).unwrap();
        home.begin_drain();
        assert!(home.submit(1, &record(0)).is_err());
        while !home.is_drained() {
            if home.poll() == 0 {
                thread::yield_now();
            }
        }
        drained.store(1, Ordering::Release);
        assert_eq!(worker.join().unwrap(), 2);
    });
}

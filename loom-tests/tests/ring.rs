//! The ring: values come in order, none lost, none twice, each write visible, each value dropped once.
//! The ring's slots are loom cells, so an access that is not ordered after the other side's is an error.
#![cfg(loom)]
#![allow(clippy::unwrap_used, missing_docs)]

use engine_core::ring::{Consumer, ring};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

fn take_until(consumer: &mut Consumer<Box<usize>>, next: &mut usize, count: usize) {
    while *next < count {
        let taken = consumer.take(2, |value| {
            assert_eq!(*value, *next);
            *next += 1;
        });
        if taken == 0 {
            thread::yield_now();
        }
    }
}

#[test]
fn pushed_values_come_in_order_through_a_full_ring() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<Box<usize>>(2);
        let writer = thread::spawn(move || {
            for n in 0..3 {
                let mut value = Box::new(n);
                while let Err(back) = producer.push(value) {
                    assert_eq!(*back, n); // a full ring returns the value
                    value = back;
                    thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < 3 {
            match consumer.pop() {
                Some(value) => {
                    assert_eq!(*value, next);
                    next += 1;
                }
                None => thread::yield_now(),
            }
        }
        writer.join().unwrap();
        assert!(consumer.pop().is_none());
    });
}

#[test]
fn staged_values_come_together_and_slots_are_used_again() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<Box<usize>>(2);
        let writer = thread::spawn(move || {
            producer.stage(Box::new(0)).unwrap();
            producer.stage(Box::new(1)).unwrap();
            producer.publish();
            let mut value = Box::new(2);
            while let Err(back) = producer.stage(value) {
                value = back;
                thread::yield_now();
            }
            producer.publish();
        });
        let mut next = 0;
        // One publish: never one value without the other.
        assert!(matches!(consumer.len(), 0 | 2 | 3));
        take_until(&mut consumer, &mut next, 3);
        writer.join().unwrap();
        assert!(consumer.is_abandoned() && consumer.is_empty());
    });
}

#[test]
fn last_values_are_seen_once_the_producer_is_seen_gone() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<Box<usize>>(2);
        let writer = thread::spawn(move || {
            producer.push(Box::new(0)).unwrap();
            producer.push(Box::new(1)).unwrap();
        });
        if consumer.is_abandoned() {
            assert_eq!(consumer.take(2, drop), 2);
        }
        writer.join().unwrap();
    });
}

struct CountsDrops(Arc<AtomicUsize>);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn both_sides_dropping_at_once_drop_each_value_once() {
    loom::model(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let (mut producer, mut consumer) = ring::<CountsDrops>(2);
        let counted = Arc::clone(&drops);
        let writer = thread::spawn(move || {
            assert!(producer.push(CountsDrops(Arc::clone(&counted))).is_ok());
            assert!(producer.stage(CountsDrops(counted)).is_ok());
            // Dropped here with one value staged and not published.
        });
        drop(consumer.pop());
        drop(consumer);
        writer.join().unwrap();
        assert_eq!(drops.load(Ordering::Relaxed), 2);
    });
}

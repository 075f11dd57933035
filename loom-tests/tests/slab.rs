//! The slab: a slot is written, read by another core, freed at home and written again, with nothing but
//! the rings that carry its handle to order it.
#![cfg(loom)]
#![allow(clippy::unwrap_used, missing_docs)]

use engine_core::ring::ring;
use engine_core::{Handle, InsertError, Record, SizeClass, SlabConfig, slab};
use loom::thread;

fn config(slots: u32, block_bytes: u32) -> SlabConfig {
    let class = SizeClass { block_bytes, blocks: 1 };
    SlabConfig { slots, classes: [class; 3], bytes_max: 4096 }
}

/// One slot for two messages: the second insert must wait for the first one's way home.
fn slot_goes_out_home_and_out_again(config: SlabConfig) {
    loom::model(move || {
        let (mut owner, reader) = slab(0, &config);
        let (mut out, mut inbound) = ring::<Handle>(2);
        let (mut done, mut home) = ring::<Handle>(2);
        let worker = thread::spawn(move || {
            let mut next = 0_u8;
            while next < 2 {
                match inbound.pop() {
                    Some(handle) => {
                        let view = reader.read(&handle);
                        assert_eq!(
                            (view.payload(), view.timestamp_seconds()),
                            (&[next; 80][..], next.into())
                        );
                        assert!(done.push(handle).is_ok());
                        next += 1;
                    }
                    None => thread::yield_now(),
                }
            }
        });
        for n in 0..2_u8 {
            let payload = [n; 80];
            let record = Record { payload: &payload, timestamp_seconds: n.into(), ..Record::default() };
            let handle = loop {
                match owner.insert(&record) {
                    Ok(handle) => break handle,
                    Err(error) => assert_eq!(error, InsertError::Full),
                }
                match home.pop() {
                    Some(handle) => owner.free(handle),
                    None => thread::yield_now(),
                }
            };
            assert!(out.push(handle).is_ok());
        }
        worker.join().unwrap();
        owner.free(home.pop().unwrap());
        assert_eq!((owner.in_use(), owner.bytes_in_use()), (0, 0));
    });
}

#[test]
fn slot_with_a_block_goes_out_home_and_out_again() {
    slot_goes_out_home_and_out_again(config(1, 128));
}

#[test]
fn slot_with_a_heap_buffer_goes_out_home_and_out_again() {
    slot_goes_out_home_and_out_again(config(1, 64));
}

#[test]
fn reader_may_outlive_the_owner() {
    loom::model(|| {
        let (mut owner, reader) = slab(0, &config(2, 64));
        let handle = owner.insert(&Record { payload: &[7; 80], ..Record::default() }).unwrap();
        let worker = thread::spawn(move || {
            assert_eq!(reader.read(&handle).payload(), [7; 80]);
            // The slab, and the heap buffer in it, goes with whoever is last.
        });
        drop(owner);
        worker.join().unwrap();
    });
}

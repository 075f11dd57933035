use super::*;
use crate::metadata::MetadataWriter;

fn small(slots: u32, bytes_max: usize) -> (SlabOwner, SlabReader) {
    slab(0, &SlabConfig::new(slots, bytes_max))
}

fn payload(payload: &[u8]) -> Record<'_> {
    Record { payload, ..Record::default() }
}

#[test]
fn every_field_comes_back() {
    let (mut owner, reader) = slab(7, &SlabConfig::default());
    let mut metadata = Vec::new();
    MetadataWriter::new(&mut metadata).push(b"region", b"eu");
    let record = Record {
        id: b"id-1",
        source: b"sensor",
        payload: b"hello",
        metadata: &metadata,
        timestamp_seconds: -5,
        key_hash: 99,
        kind: 3,
        level: AckLevel::Durable,
        level_named: true,
        once: true,
        reply_token: 42,
    };
    let handle = owner.insert(&record).unwrap();
    let view = reader.read(&handle);
    assert_eq!(view.record(), record);
    assert_eq!((view.id(), view.source(), view.payload()), (&b"id-1"[..], &b"sensor"[..], &b"hello"[..]));
    assert_eq!(view.metadata().collect::<Vec<_>>(), [(&b"region"[..], &b"eu"[..])]);
    assert_eq!((view.timestamp_seconds(), view.key_hash(), view.kind()), (-5, 99, 3));
    assert!(view.is_awaited());
    assert_eq!(handle.core(), 7);
    assert_eq!(owner.release(handle).reply_token, 42);
    assert_eq!((owner.in_use(), owner.bytes_in_use()), (0, 0));
}

#[test]
fn full_slab_refuses_and_a_freed_slot_is_used_again() {
    let (mut owner, reader) = small(2, 1 << 20);
    let first = owner.insert(&payload(b"first")).unwrap();
    let second = owner.insert(&payload(b"second")).unwrap();
    assert_eq!(owner.insert(&payload(b"third")), Err(InsertError::Full));
    owner.free(first);
    let third = owner.insert(&payload(b"third")).unwrap();
    assert_eq!(
        (reader.read(&second).payload(), reader.read(&third).payload()),
        (&b"second"[..], &b"third"[..])
    );
    assert_eq!((owner.in_use(), owner.capacity()), (2, 2));
    owner.free(second);
    owner.free(third);
}

#[test]
fn empty_record_takes_a_slot_and_no_bytes() {
    let (mut owner, reader) = small(1, 1 << 20);
    let handle = owner.insert(&Record::default()).unwrap();
    assert_eq!((reader.read(&handle).payload().len(), reader.read(&handle).metadata().count()), (0, 0));
    assert_eq!((owner.in_use(), owner.bytes_in_use()), (1, 0));
    owner.free(handle);
}

#[test]
fn a_record_takes_the_smallest_class_that_fits() {
    let (mut owner, _reader) = small(16, 1 << 20);
    for (length, cost) in [(1, 256), (256, 256), (257, 2048), (2049, 16384), (16384, 16384), (16385, 16385)] {
        let handle = owner.insert(&payload(&vec![0; length])).unwrap();
        assert_eq!(owner.bytes_in_use(), cost, "{length} bytes");
        owner.free(handle);
        assert_eq!(owner.bytes_in_use(), 0);
    }
}

#[test]
fn an_empty_class_falls_back_to_bigger_ones_then_to_the_heap() {
    let one = |block_bytes| SizeClass { block_bytes, blocks: 1 };
    let config = SlabConfig { slots: 8, classes: [one(256), one(2048), one(16384)], bytes_max: 1 << 20 };
    let (mut owner, reader) = slab(0, &config);
    let bodies: Vec<[u8; 80]> = (0..5).map(|n| [n; 80]).collect();
    let handles: Vec<Handle> = bodies.iter().map(|body| owner.insert(&payload(body)).unwrap()).collect();
    assert_eq!(owner.bytes_in_use(), 256 + 2048 + 16384 + 80 + 80);
    for (handle, body) in handles.iter().zip(&bodies) {
        assert_eq!(reader.read(handle).payload(), body);
    }
    handles.into_iter().for_each(|handle| owner.free(handle));
    assert_eq!(owner.bytes_in_use(), 0);
}

#[test]
fn over_budget_is_refused_and_changes_nothing() {
    let (mut owner, _reader) = small(8, 40_000);
    let large = owner.insert(&payload(&[1; 30_000])).unwrap();
    assert_eq!(owner.insert(&payload(&[2; 20_000])), Err(InsertError::OverBudget));
    assert_eq!((owner.in_use(), owner.bytes_in_use()), (1, 30_000));
    let short = owner.insert(&payload(b"short ones still fit")).unwrap();
    owner.free(large);
    let large = owner.insert(&payload(&[2; 20_000])).unwrap();
    owner.free(large);
    owner.free(short);
    assert_eq!(owner.insert(&payload(&[3; 40_001])), Err(InsertError::OverBudget));
}

#[test]
fn budget_smaller_than_a_block_falls_through_to_a_buffer_of_the_right_length() {
    let (mut owner, reader) = small(4, 100);
    let handle = owner.insert(&payload(&[5; 90])).unwrap();
    assert_eq!((owner.bytes_in_use(), reader.read(&handle).payload().len()), (90, 90));
    assert_eq!(owner.insert(&payload(&[6; 20])), Err(InsertError::OverBudget));
    owner.free(handle);
}

/// What safe code cannot do: a second handle to the same slot.
fn forged(handle: &Handle) -> Handle {
    Handle { ..*handle }
}

#[test]
#[should_panic(expected = "stale handle")]
fn stale_generation_panics_on_read() {
    let (mut owner, reader) = small(2, 1 << 20);
    let handle = owner.insert(&payload(b"gone")).unwrap();
    let stale = forged(&handle);
    owner.free(handle);
    let _next = owner.insert(&payload(b"someone else's"));
    reader.read(&stale);
}

#[test]
#[should_panic(expected = "stale handle")]
fn freeing_twice_panics() {
    let (mut owner, _reader) = small(2, 1 << 20);
    let handle = owner.insert(&payload(b"once")).unwrap();
    let again = forged(&handle);
    owner.free(handle);
    owner.free(again);
}

#[test]
#[should_panic(expected = "another slab")]
fn handle_of_another_slab_of_the_same_core_panics() {
    let (mut owner, _reader) = small(2, 1 << 20);
    let (_owner, other_reader) = small(2, 1 << 20);
    let handle = owner.insert(&payload(b"mine")).unwrap();
    other_reader.read(&handle);
}

#[test]
fn generation_wraps_past_zero() {
    let (mut owner, reader) = small(1, 1 << 20);
    let first = owner.insert(&payload(b"first")).unwrap();
    owner.free(first);
    // SAFETY: the slot is free and was written.
    owner.headers()[0].with_mut(|header| unsafe {
        (*header).assume_init_mut().generation = NonZeroU32::MAX;
    });
    for (round, generation) in [(1_u8, u32::MAX), (2, 1), (3, 2)] {
        let handle = owner.insert(&payload(&[round])).unwrap();
        assert_eq!((reader.read(&handle).payload(), handle.generation()), (&[round][..], generation));
        owner.free(handle);
    }
}

#[test]
fn heap_buffers_still_in_flight_are_freed_with_the_slab() {
    // Seen by miri and leak checkers: the handle is gone, the buffer is not.
    let (mut owner, reader) = small(2, 1 << 20);
    let handle = owner.insert(&payload(&[1; 50_000])).unwrap();
    drop(owner);
    assert_eq!(reader.read(&handle).payload().len(), 50_000);
}

#[test]
fn worst_case_is_the_documented_sum() {
    let config = SlabConfig::new(1_000, 8 << 20);
    let sum = 1_000 * 68 + 1_000 * 260 + 250 * 2_052 + 62 * 16_388 + (8 << 20);
    assert_eq!(config.bytes_worst_case(), sum);
}

#[test]
fn blocks_never_outnumber_what_the_budget_could_use() {
    let config = SlabConfig::new(1_000_000, 1 << 20);
    assert_eq!(config.classes.map(|class| class.blocks), [4096, 512, 64]);
    assert_eq!(SlabConfig::new(1, 0).classes.map(|class| class.blocks), [1, 1, 1]);
}

#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn a_slab_for_a_million_messages_costs_next_to_nothing_until_they_come() {
    let resident_bytes = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident_bytes();
    let (mut owner, reader) = small(1_000_000, 4 << 30);
    let handle = owner.insert(&payload(b"one")).unwrap();
    assert_eq!(reader.read(&handle).payload(), b"one");
    // Other tests run beside this one, so the bound is generous: the slab itself reserves 1.9 GB.
    assert!(resident_bytes().saturating_sub(before) < 64 << 20);
    owner.free(handle);
}

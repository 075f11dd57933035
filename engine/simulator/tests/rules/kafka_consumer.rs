//! The production consumer with a real broker.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use brokers::{
    inbound::{Source, Taken},
    kafka::{KafkaConfig, consume::KafkaSource},
    status::SideStatus,
};

use crate::kafka::{Asked, Real, Record};

const PATIENCE: Duration = Duration::from_secs(60);

/// Takes records, and works on each at once, until there are so many different ones.
fn take(source: &mut KafkaSource, count: usize) -> BTreeSet<String> {
    let (begun, mut found) = (Instant::now(), BTreeSet::new());
    while found.len() < count {
        assert!(begun.elapsed() < PATIENCE, "{} of {count} come: {found:?}", found.len());
        let mut tags = Vec::new();
        source.take(100, Duration::from_millis(50), &mut |tag, taken| {
            tags.push(tag);
            if let Taken::Malformed { value, .. } = taken {
                // What the wire writes is no message; its length says which it is.
                found.insert(value.len().to_string());
            }
        });
        tags.into_iter().for_each(|tag| source.done(tag));
        source.flush();
    }
    found
}

/// Writes records of so many bytes each.
fn write(real: &mut Real, topic: &str, lengths: std::ops::Range<usize>) {
    let records: Vec<Record<'_>> = lengths.map(|bytes| Record { key: Some("k"), bytes }).collect();
    assert_eq!(real.produce((topic, 0), None, &records), Ok(()));
}

pub fn a_topic_that_is_made_anew_is_read_from_its_beginning(real: &mut Real) {
    real.create("reread", 1, &[]);
    let config = KafkaConfig {
        brokers: real.brokers(),
        consumer_group: "reread".into(),
        ..simulator::kafka::config("reread")
    };
    let mut source = KafkaSource::new(&config, Arc::new(SideStatus::new("kafka"))).unwrap();
    write(real, "reread", 100..120);
    take(&mut source, 20);
    let begun = Instant::now();
    while real.committed("reread", "reread") != Some(20) {
        assert!(begun.elapsed() < PATIENCE);
        source.take(100, Duration::from_millis(50), &mut |_, _| {});
    }
    real.delete("reread");
    real.create("reread", 1, &[]);
    // More than were read of the one before.
    write(real, "reread", 200..240);
    let found = take(&mut source, 40);
    assert_eq!(found, (200..240).map(|bytes| bytes.to_string()).collect());
    // An orderly end leaves nothing uncommitted.
    drop(source);
    assert_eq!(real.committed("reread", "reread"), Some(40));
}

//! The production consumer with a real server.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use brokers::{
    data_message,
    inbound::{Source, Taken},
    nats::{NatsConfig, PACK_HEADER, consume::NatsSource},
    status::SideStatus,
};
use engine_core::Record;
use simulator::nats::{Limits, Message};

use crate::nats::{Asked, Real, message, with};

const PATIENCE: Duration = Duration::from_secs(60);

fn record(id: &str) -> Vec<u8> {
    let mut value = Vec::new();
    data_message::write(&Record { id: id.as_bytes(), ..Record::default() }, &mut value);
    value
}

/// A work queue keeps what is not acknowledged.
fn is_empty(real: &mut Real, stream: &str) {
    let begun = Instant::now();
    // Less than the ack wait, after which it would come again.
    while real.count(stream) > 0 {
        assert!(begun.elapsed() < PATIENCE / 4, "{} of {stream}", real.count(stream));
    }
}

/// An orderly stop leaves nothing unacknowledged that was worked on.
pub fn what_was_worked_on_is_acknowledged_when_it_stops(real: &mut Real) {
    for round in 0..5 {
        let stream = format!("STOP{round}");
        real.make(&stream, &format!("stop.{round}"), Limits::default());
        for number in 0..300 {
            let id = format!("{number}");
            let one = Message { payload: record(&id).into(), ..message(&format!("stop.{round}"), &id, 0) };
            assert_eq!(real.publish(one), Some(Ok(false)));
        }
        let config = NatsConfig {
            servers: real.servers(),
            consumer: "worker".into(),
            ..simulator::nats::config(&stream, &format!("stop.{round}"))
        };
        let mut source = NatsSource::new(config, Arc::new(SideStatus::new("nats"))).unwrap();
        let (begun, mut found) = (Instant::now(), BTreeSet::new());
        while found.len() < 300 {
            assert!(begun.elapsed() < PATIENCE, "{}", found.len());
            source.take(300 - found.len(), Duration::from_millis(50), &mut |tag, _| {
                found.insert(tag);
            });
        }
        found.into_iter().for_each(|tag| source.done(tag));
        source.flush();
        source.finish();
        drop(source);
        is_empty(real, &stream);
    }
}

/// What a pack holds more than was asked for is handed on before the end.
pub fn the_rest_of_a_pack_is_handed_on(real: &mut Real) {
    real.make("REST", "rest", Limits::default());
    let lines: Vec<Vec<u8>> = (0..10).map(|number| record(&number.to_string())).collect();
    let pack = Message { payload: lines.join(&b'\n').into(), ..message("rest", "pack", 0) };
    assert_eq!(real.publish(with(pack, PACK_HEADER, "10")), Some(Ok(false)));
    let config = NatsConfig {
        servers: real.servers(),
        consumer: "worker".into(),
        ..simulator::nats::config("REST", "rest")
    };
    let mut source = NatsSource::new(config, Arc::new(SideStatus::new("nats"))).unwrap();
    let (begun, mut tags) = (Instant::now(), Vec::new());
    while tags.is_empty() {
        assert!(begun.elapsed() < PATIENCE);
        source.take(1, Duration::from_millis(50), &mut |tag, _: Taken<'_>| tags.push(tag));
    }
    assert_eq!((tags.len(), source.left()), (1, 9));
    source.take(source.left(), Duration::from_millis(50), &mut |tag, _| tags.push(tag));
    assert_eq!((tags.len(), source.left()), (10, 0));
    tags.into_iter().for_each(|tag| source.done(tag));
    source.flush();
    source.finish();
    drop(source);
    is_empty(real, "REST");
}

/// What is being worked on does not come again because it takes longer than the ack wait.
pub fn what_is_being_worked_on_does_not_come_again(real: &mut Real) {
    real.make("LONG", "long", Limits::default());
    let ack_wait = Duration::from_secs(1);
    real.make_consumer("LONG", "worker", ack_wait);
    let one = Message { payload: record("a").into(), ..message("long", "a", 0) };
    assert_eq!(real.publish(one), Some(Ok(false)));
    let config = NatsConfig {
        servers: real.servers(),
        consumer: "worker".into(),
        ..simulator::nats::config("LONG", "long")
    };
    let status = Arc::new(SideStatus::new("nats"));
    let mut source = NatsSource::new(config, Arc::clone(&status)).unwrap();
    let (mut begun, mut tags) = (Instant::now(), Vec::new());
    while begun.elapsed() < ack_wait * 4 {
        let before = tags.len();
        source.take(10, Duration::from_millis(50), &mut |tag, _| tags.push(tag));
        source.flush();
        // The time runs from when it came.
        begun = if before == 0 { Instant::now() } else { begun };
    }
    assert_eq!((tags.len(), status.redelivered.load(Ordering::Relaxed)), (1, 0));
    source.done(tags[0]);
    source.flush();
    source.finish();
    is_empty(real, "LONG");
}

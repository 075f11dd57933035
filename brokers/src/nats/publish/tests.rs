//! Against a real nats-server.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use async_nats::{
    HeaderMap, Message,
    jetstream::{
        self,
        stream::{Config, DiscardPolicy, StorageType},
    },
};
use futures_util::StreamExt;
use ledger::process::{self, Process};
use parking_lot::Mutex;

use super::*;
use crate::nats::{PACK_HEADER, Servers};

mod stand_in;

const STREAM: &str = "TESTS";
const SUBJECT: &str = "tests.messages";
/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A nats-server with JetStream, and a connection to look into it.
struct Broker {
    process: Process,
    folder: PathBuf,
    runtime: tokio::runtime::Runtime,
    client: async_nats::Client,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill();
        // It is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Broker {
    /// `None` where it cannot be had; under CI it has to.
    fn start() -> Option<Self> {
        Self::start_with(true)
    }

    fn start_with(jetstream: bool) -> Option<Self> {
        let installed = process::install_services();
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(installed.is_ok() || !ci, "NATS cannot be installed: {installed:?}");
        if let Err(error) = &installed {
            eprintln!("skipped, because NATS cannot be installed: {error:#}");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("tidegate-nats-{:016x}", fastrand::u64(..)));
        let process = if jetstream { process::nats(&folder).unwrap() } else { bare(&folder) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client =
            runtime.block_on(async_nats::connect(format!("nats://127.0.0.1:{}", process.port))).unwrap();
        Some(Self { process, folder, runtime, client })
    }

    fn context(&self) -> jetstream::Context {
        let _within = self.runtime.enter();
        jetstream::new(self.client.clone())
    }

    fn make_stream(&self, config: Config) {
        self.runtime.block_on(self.context().create_stream(config)).unwrap();
    }

    fn change_stream(&self, config: Config) {
        self.runtime.block_on(self.context().update_stream(config)).unwrap();
    }

    fn delete_stream(&self) {
        self.runtime.block_on(self.context().delete_stream(STREAM)).unwrap();
    }

    fn purge_stream(&self) {
        let purge = async { self.context().get_stream(STREAM).await.unwrap().purge().await };
        self.runtime.block_on(purge).unwrap();
    }

    fn publisher(&self, pack_messages: usize) -> NatsPublisher {
        self.publisher_with(pack_messages, Duration::from_secs(30))
    }

    fn publisher_with(&self, pack_messages: usize, ack_timeout: Duration) -> NatsPublisher {
        let config = NatsConfig {
            servers: Servers::parse(&format!("nats://127.0.0.1:{}", self.process.port)).unwrap(),
            stream: STREAM.into(),
            subject: SUBJECT.into(),
            subject_choice: None,
            value: MessageValue::DataMessage,
            consumer: "none".into(),
            in_flight_max: 1024,
            pack_messages,
            ack_timeout,
        };
        let naming = Naming::Log { log: "log".into(), shards: vec![(0, 0)] };
        let mut publisher = NatsPublisher::new(config, naming, Arc::new(SideStatus::new("nats"))).unwrap();
        let begun = Instant::now();
        while !publisher.is_connected() {
            assert!(begun.elapsed() < PATIENCE, "{:?}", publisher.status.trouble());
            publisher.poll(Duration::from_millis(10), &mut Vec::new());
        }
        publisher
    }

    /// What is stored, in its order: the `Nats-Msg-Id` and the numbers of the records in it.
    fn stored(&self) -> Vec<(String, Vec<u64>)> {
        self.runtime.block_on(async {
            let stream = self.context().get_stream(STREAM).await.unwrap();
            let state = &stream.cached_info().state;
            let mut found = Vec::new();
            for sequence in (state.first_sequence..=state.last_sequence).filter(|_| state.messages > 0) {
                let message = stream.get_raw_message(sequence).await.unwrap();
                found.push(read(&message.headers, &message.payload));
            }
            found
        })
    }

    /// The numbers of all stored records, in order.
    fn stored_numbers(&self) -> Vec<u64> {
        self.stored().into_iter().flat_map(|(_, numbers)| numbers).collect()
    }
}

/// A nats-server without JetStream.
fn bare(folder: &Path) -> Process {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/nats-server");
    let port = process::free_port().unwrap();
    let arguments = ["-a", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned).into();
    let mut process = Process::start("nats", &program, arguments, Vec::new(), folder, port).unwrap();
    process.wait().unwrap();
    process
}

fn read(headers: &HeaderMap, payload: &[u8]) -> (String, Vec<u64>) {
    let number = |line: &[u8]| {
        data_message::read(line, |record| std::str::from_utf8(record.id).unwrap().parse().unwrap()).unwrap()
    };
    let numbers: Vec<u64> = payload.split(|byte| *byte == b'\n').map(number).collect();
    let packed = headers.get(PACK_HEADER).map(|count| count.as_str().parse().unwrap());
    assert_eq!(packed.unwrap_or(1), numbers.len());
    (headers.get("Nats-Msg-Id").unwrap().to_string(), numbers)
}

fn config() -> Config {
    Config {
        name: STREAM.into(),
        subjects: vec!["tests.*".into()],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        ..Config::default()
    }
}

/// Offers the records `from..to`, of which each has a payload of `bytes` bytes. All are taken.
fn offer(publisher: &mut NatsPublisher, numbers: std::ops::Range<u64>, bytes: impl Fn(u64) -> usize) {
    for number in numbers {
        let (id, payload) = (format!("{number:05}"), vec![b'x'; bytes(number)]);
        let record = Record { id: id.as_bytes(), payload: &payload, ..Record::default() };
        publisher.publish(number, &record).unwrap();
    }
}

/// Drives the publisher until `enough`.
fn drive(
    publisher: &mut NatsPublisher,
    outcomes: &mut HashMap<u64, Result<(), Rejected>>,
    enough: impl Fn(&NatsPublisher, &HashMap<u64, Result<(), Rejected>>) -> bool,
) {
    let begun = Instant::now();
    while !enough(publisher, outcomes) {
        assert!(begun.elapsed() < PATIENCE, "{}: {:?}", outcomes.len(), publisher.status.trouble());
        let mut acks = Vec::new();
        publisher.poll(Duration::from_millis(10), &mut acks);
        for ack in acks {
            assert!(outcomes.insert(ack.tag, ack.outcome).is_none(), "{} is decided twice", ack.tag);
        }
    }
}

/// Drives the publisher until all it has is decided.
fn decide(publisher: &mut NatsPublisher) -> HashMap<u64, Result<(), Rejected>> {
    let mut outcomes = HashMap::new();
    drive(publisher, &mut outcomes, |publisher, _| publisher.in_flight() == 0);
    outcomes
}

fn refused(outcomes: &HashMap<u64, Result<(), Rejected>>) -> Vec<(u64, &str)> {
    let refused = outcomes.iter().filter_map(|(tag, outcome)| Some((*tag, outcome.as_ref().err()?)));
    let mut refused: Vec<_> = refused.map(|(tag, why)| (tag, why.code.as_str())).collect();
    refused.sort_unstable();
    refused
}

#[test]
fn of_a_pack_that_is_too_large_only_the_record_that_is_too_large_alone_is_a_dead_letter() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    let mut publisher = broker.publisher(64);
    // Packed under one limit, sent under another, which refuses all three packs. (One behind them that fits would be stored
    // before them.)
    offer(&mut publisher, 0..192, |number| if number == 77 { 3000 } else { 100 });
    broker.change_stream(Config { max_message_size: 2000, ..config() });
    let outcomes = decide(&mut publisher);
    assert_eq!(outcomes.len(), 192);
    assert_eq!(refused(&outcomes), [(77, "10054")]);
    let stored = broker.stored();
    let numbers: Vec<u64> = stored.iter().flat_map(|(_, numbers)| numbers.clone()).collect();
    assert_eq!(numbers, (0..192).filter(|number| *number != 77).collect::<Vec<_>>());
    // What travels alone has its record's name, as if it had never been in a pack.
    for (id, numbers) in stored.iter().filter(|(_, numbers)| numbers.len() == 1) {
        let (number, payload) = (numbers[0], vec![b'x'; 100]);
        let sender = format!("{number:05}");
        let record = Record { id: sender.as_bytes(), payload: &payload, ..Record::default() };
        let mut naming = Naming::Log { log: "log".into(), shards: vec![(0, 0)] };
        assert_eq!(*id, naming.name(number, &record).text);
    }
    assert!(stored.iter().any(|(_, numbers)| numbers.len() > 1));
}

#[test]
fn a_stream_that_has_taken_the_subject_over_is_not_the_one_that_was_asked_for() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    let mut publisher = broker.publisher(1);
    broker.change_stream(Config { subjects: vec!["elsewhere".into()], ..config() });
    broker.make_stream(Config { name: "OTHER".into(), ..config() });
    offer(&mut publisher, 0..3, |_| 10);
    let mut outcomes = HashMap::new();
    drive(&mut publisher, &mut outcomes, |publisher, outcomes| {
        assert!(outcomes.is_empty(), "{outcomes:?}");
        publisher.status.trouble().is_some_and(|why| why.contains("10060") || why.contains("do not cover"))
    });
    // It goes on when the subject is back.
    broker.runtime.block_on(broker.context().delete_stream("OTHER")).unwrap();
    broker.change_stream(config());
    let later = decide(&mut publisher);
    assert_eq!((later.len(), refused(&later)), (3, Vec::new()));
    assert_eq!(broker.stored_numbers(), [0, 1, 2]);
}

#[test]
fn packs_that_were_made_under_a_higher_limit_are_taken_apart_before_they_are_sent() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    let mut publisher = broker.publisher(64);
    // The last pack would fit, and would be stored before those that do not.
    offer(&mut publisher, 0..200, |number| if number == 77 { 3000 } else { 100 });
    broker.change_stream(Config { max_message_size: 2000, ..config() });
    publisher.go_back(Leave::AtOnce);
    let outcomes = decide(&mut publisher);
    assert_eq!(refused(&outcomes), [(77, "10054")]);
    assert_eq!(broker.stored_numbers(), (0..200).filter(|number| *number != 77).collect::<Vec<_>>());
    assert_eq!(publisher.status.retries.load(Ordering::Relaxed), 0);
}

#[test]
fn packs_are_kept_below_the_streams_limit() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(Config { max_message_size: 2000, ..config() });
    let mut publisher = broker.publisher(64);
    offer(&mut publisher, 0..200, |number| if number == 77 { 3000 } else { 100 });
    let outcomes = decide(&mut publisher);
    assert_eq!(refused(&outcomes), [(77, "10054")]);
    assert_eq!(publisher.status.retries.load(Ordering::Relaxed), 0);
    assert_eq!(broker.stored_numbers(), (0..200).filter(|number| *number != 77).collect::<Vec<_>>());
    assert!(broker.stored().iter().any(|(_, numbers)| numbers.len() > 1));
}

#[test]
fn a_record_whose_headers_are_over_64_kib_is_refused_alone() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    let mut publisher = broker.publisher(1);
    let source = vec![b's'; 70_000];
    publisher.publish(0, &Record { id: b"0", source: &source, ..Record::default() }).unwrap();
    offer(&mut publisher, 1..20, |_| 10);
    let outcomes = decide(&mut publisher);
    assert_eq!(refused(&outcomes), [(0, "10097")]);
    assert_eq!(broker.stored_numbers(), (1..20).collect::<Vec<_>>());
}

#[test]
fn a_record_over_max_payload_is_refused_alone_whatever_makes_it_large() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    let mut publisher = broker.publisher(1);
    let max = publisher.session.as_ref().unwrap().1.max_payload();
    // The value alone would fit; the header that says the same counts as well.
    let source = vec![b's'; max * 3 / 5];
    publisher.publish(0, &Record { id: b"0", source: &source, ..Record::default() }).unwrap();
    offer(&mut publisher, 1..20, |number| if number == 5 { max } else { 10 });
    let outcomes = decide(&mut publisher);
    assert_eq!(refused(&outcomes), [(0, "MAX_PAYLOAD"), (5, "MAX_PAYLOAD")]);
    assert_eq!(broker.stored_numbers(), (1..20).filter(|number| *number != 5).collect::<Vec<_>>());
}

/// A stream that takes nothing buries nothing: all of it waits, the trouble says why, and goes on in its order.
fn waits(broker: &Broker, code: &str, mend: impl FnOnce()) {
    let mut publisher = broker.publisher(1);
    offer(&mut publisher, 0..20, |_| 10);
    let mut outcomes = HashMap::new();
    drive(&mut publisher, &mut outcomes, |publisher, _| {
        publisher
            .status
            .trouble()
            .is_some_and(|trouble| trouble.contains(code) && trouble.contains("nats.stream"))
    });
    mend();
    drive(&mut publisher, &mut outcomes, |publisher, _| publisher.in_flight() == 0);
    assert_eq!(outcomes.len(), 20);
    assert_eq!(refused(&outcomes), []);
}

#[test]
fn a_log_that_was_set_back_sends_other_records_from_the_same_places_and_all_are_stored() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    for bytes in [10, 20, 20] {
        let mut publisher = broker.publisher(1);
        offer(&mut publisher, 0..10, |_| bytes);
        assert_eq!(refused(&decide(&mut publisher)), []);
    }
    // Those of the third round are the second's, and are recognised.
    assert_eq!(broker.stored_numbers(), (0..10).chain(0..10).collect::<Vec<_>>());
}

#[test]
fn what_is_under_way_has_a_bound_in_bytes_and_gives_its_room_back() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    for pack_messages in [1, 8] {
        let mut publisher = broker.publisher(pack_messages);
        let payload = vec![b'x'; 200_000];
        let mut taken = 0;
        for round in 0..2 {
            let begun = taken;
            let mut take = |number: &u64| {
                let id = format!("{pack_messages} {number:05}");
                publisher
                    .publish(*number, &Record { id: id.as_bytes(), payload: &payload, ..Record::default() })
            };
            taken += (taken..1024).take_while(|number| take(number).is_ok()).count() as u64;
            let bytes = (taken - begun) as usize * 200_000;
            // Written in base64, they are a third longer.
            assert!((40 << 20..60 << 20).contains(&bytes), "round {round}: {bytes}");
            assert_eq!(refused(&decide(&mut publisher)), []);
        }
        assert_eq!(publisher.bytes, 0);
    }
}

#[test]
fn a_full_stream_buries_nothing_and_goes_on_in_order() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(Config { max_messages: 10, ..config() });
    let before = Mutex::new(Vec::new());
    waits(&broker, "10077", || {
        *before.lock() = broker.stored_numbers();
        broker.purge_stream();
    });
    let mut all = before.into_inner();
    all.extend(broker.stored_numbers());
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_sealed_stream_buries_nothing() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    broker.change_stream(Config { sealed: true, ..config() });
    // Nothing unseals a stream; without one, the publisher makes one.
    waits(&broker, "10109", || broker.delete_stream());
    assert_eq!(broker.stored_numbers(), (0..20).collect::<Vec<_>>());
}

#[test]
fn a_deleted_stream_buries_nothing() {
    let Some(broker) = Broker::start() else { return };
    broker.make_stream(config());
    let mut publisher = broker.publisher(1);
    offer(&mut publisher, 0..20, |_| 10);
    broker.delete_stream();
    let outcomes = decide(&mut publisher);
    assert_eq!(refused(&outcomes), []);
    assert_eq!(broker.stored_numbers(), (0..20).collect::<Vec<_>>());
}

//! What was computed from events outlives the process: killed, with damaged snapshots, with a log that forgot, with
//! messages that a broker brings again.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use load::day::{Day, DayEvent};
use serde_json::{Value, json};

use crate::{
    brokers,
    events::{DAY_MS, answers, typed},
    harness::{Scratch, Server, Start, eventually, get, post_json},
};

const EVENTS: usize = 6000;

fn day() -> Vec<DayEvent> {
    Day::new(5, EVENTS as u64, 300, DAY_MS).collect()
}

/// A server with its data in `folder`.
fn on_disk(folder: &Scratch) -> Start {
    Start::new().set(&format!("data.directory={}", folder.path().join("data").display()))
}

fn with_log(folder: &Scratch) -> Start {
    on_disk(folder).set("queue.type=log").set("analytics.snapshot_interval=200ms")
}

/// The log in front of a broker, and the workers behind it.
fn with_broker(folder: &Scratch) -> Start {
    on_disk(folder).set("ack.default=durable").set("analytics.snapshot_interval=200ms")
}

/// Sends events until they are taken; a broker may not be reached yet.
fn send(server: &Server, events: &[DayEvent]) {
    for batch in events.chunks(250) {
        let body = json!({"events": batch.iter().map(typed).collect::<Vec<_>>()}).to_string();
        eventually("a batch is taken", || {
            let answer = post_json(server.gateway(), "/v1/events/batch", &body);
            (answer.status == 200 && answer.json()["processedCount"] == batch.len()).then_some(())
        });
    }
}

/// The answers of a process that nothing happened to.
fn undisturbed() -> Vec<Value> {
    let server = Start::new().run();
    send(&server, &day());
    server.settled();
    let answers = answers(&server);
    assert_eq!(answers[0]["totalEvents"], EVENTS.to_string());
    answers
}

#[track_caller]
fn comes_to(server: &Server, expected: &[Value]) {
    // Kafka gives a dead member's partitions away after 20 s.
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let now = answers(server);
        if now == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{:#?}\n{:#?}\n{:#?}", now[0], expected[0], server.log());
        // Six queries over everything: not so often that they are all that the machine does.
        thread::sleep(Duration::from_millis(200));
    }
}

/// A value of `/metrics`.
fn metric(server: &Server, series: &str) -> Option<f64> {
    let page = get(server.gateway(), "/metrics");
    let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok();
    page.text().lines().find_map(value)
}

/// Messages that the broker holds and that were not told done.
fn lag(server: &Server) -> Option<f64> {
    ["nats", "kafka"]
        .into_iter()
        .find_map(|broker| metric(server, &format!("tidegate_broker_lag{{broker=\"{broker}\"}}")))
}

/// Waits until the disk has the numbers of a moment behind this call.
fn snapshot(server: &Server) {
    let called = Instant::now();
    eventually("snapshots are written", || {
        (metric(server, "tidegate_snapshot_age_seconds")? < called.elapsed().as_secs_f64()).then_some(())
    });
    assert!(metric(server, "tidegate_snapshot_bytes") > Some(1000.0));
    for name in ["tidegate_snapshot_failures_total", "tidegate_journal_missed_total"] {
        assert_eq!(metric(server, name), Some(0.0), "{name}");
    }
}

/// What a start has said about where its numbers come from: in all, from snapshots, replayed.
fn origin(server: &Server) -> (u64, u64, u64) {
    let lines = server.log();
    let line = lines.iter().find(|line| line.contains("the aggregates are as they were")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    let count = |name: &str| line[name].as_u64().unwrap();
    (count("events"), count("from_snapshots"), count("replayed"))
}

/// The snapshots of a core, newest first.
fn files(folder: &Scratch, core: usize) -> Vec<PathBuf> {
    let prefix = format!("core-{core:03}-of-");
    let all = fs::read_dir(folder.path().join("data/snapshots")).unwrap();
    let mut paths: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix));
    paths.sort();
    paths.reverse();
    paths
}

#[test]
fn killed_again_and_again_in_the_middle_of_a_day_it_answers_as_if_nothing_had_been() {
    let (folder, events) = (Scratch::new(), day());
    let mut sent = 0;
    for part in events.chunks(EVENTS / 3) {
        let server = with_log(&folder).run();
        if sent > 0 {
            let (all, from_snapshots, replayed) = origin(&server);
            assert!(from_snapshots > 0 && replayed < sent, "{all}, {from_snapshots}, {replayed}");
            assert!(all <= sent);
        }
        let (first, last) = part.split_at(part.len() / 2);
        send(&server, first);
        snapshot(&server);
        send(&server, last);
        sent += part.len() as u64;
        // Dropped: SIGKILL.
    }
    let server = with_log(&folder).run();
    comes_to(&server, &undisturbed());
    // What was sent once is not counted again, whoever sends it.
    send(&server, &events[EVENTS - 250..]);
    comes_to(&server, &undisturbed());
}

#[test]
fn a_damaged_snapshot_gives_way_to_the_one_before_and_to_the_log() {
    let (folder, events) = (Scratch::new(), day());
    let expected = undisturbed();
    let server = with_log(&folder).run();
    send(&server, &events[..EVENTS / 2]);
    server.settled();
    snapshot(&server);
    send(&server, &events[EVENTS / 2..]);
    server.settled();
    assert_eq!(server.stop().lost, 0);
    // A flipped bit for one core, half a file for the other.
    let (one, other) = (files(&folder, 0), files(&folder, 1));
    assert!(one.len() == 2 && other.len() <= 2, "{one:?} {other:?}");
    let mut bytes = fs::read(&one[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&one[0], &bytes).unwrap();
    if let Some(path) = other.first() {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let server = with_log(&folder).run();
    let (all, from_snapshots, replayed) = origin(&server);
    assert!(all == EVENTS as u64 && from_snapshots > 0 && replayed > 0, "{all} {from_snapshots} {replayed}");
    assert!(server.log().iter().any(|line| line.contains("a snapshot cannot be used")), "{:?}", server.log());
    comes_to(&server, &expected);
    drop(server);
    // Without any, the log alone.
    fs::remove_dir_all(folder.path().join("data/snapshots")).unwrap();
    let server = with_log(&folder).run();
    assert_eq!(origin(&server), (EVENTS as u64, 0, EVENTS as u64));
    comes_to(&server, &expected);
}

#[test]
fn what_the_logs_retention_deleted_is_still_in_the_numbers() {
    let (folder, events) = (Scratch::new(), day());
    let start = || {
        with_log(&folder)
            .set("limits.http_body_bytes_max=150000")
            .set("limits.grpc_message_bytes_max=150000")
            .set("data.segment_bytes=290000")
            .set("data.retention_bytes=0")
            .run()
    };
    let server = start();
    // What lies behind the older of two snapshots is kept.
    for part in events.chunks(EVENTS / 3) {
        send(&server, part);
        server.settled();
        snapshot(&server);
    }
    eventually("old segments are gone", || {
        let all = fs::read_dir(folder.path().join("data/shard-000")).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let first = names.filter(|name| name.ends_with(".segment")).min()?;
        (first != format!("{:020}.segment", 0)).then_some(())
    });
    drop(server);
    let server = start();
    let (all, from_snapshots, _) = origin(&server);
    assert!(all == EVENTS as u64 && from_snapshots > 0, "{all} {from_snapshots}");
    comes_to(&server, &undisturbed());
}

#[test]
fn a_snapshot_that_does_not_go_with_what_is_there_is_not_used_and_that_is_said() {
    let (folder, events) = (Scratch::new(), day());
    let server = with_log(&folder).run();
    send(&server, &events[..1000]);
    server.settled();
    let expected = answers(&server);
    assert_eq!(server.stop().lost, 0);
    let said = |server: &Server, text: &str| server.log().iter().any(|line| line.contains(text));
    // Another number of cores takes them over.
    let server = with_log(&folder).set("engine.cores=1").run();
    assert_eq!(origin(&server), (1000, 1000, 0));
    assert!(said(&server, "snapshots of another number of cores were taken over"), "{:?}", server.log());
    comes_to(&server, &expected);
    drop(server);
    // The log is gone: the numbers are all there is.
    for entry in fs::read_dir(folder.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        } else if !path.ends_with("snapshots") {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let server = with_log(&folder).run();
    assert_eq!(origin(&server), (1000, 1000, 0));
    assert!(said(&server, "the log is empty and a snapshot is not"), "{:?}", server.log());
    send(&server, &events[1000..]);
    comes_to(&server, &undisturbed());
}

/// With so many cores, whatever this machine has.
fn with_cores(start: Start, cores: usize) -> Server {
    let server =
        start.set(&format!("engine.cores={cores}")).variable("DEBUG_CORES_THERE", &cores.to_string()).run();
    let ready = server.log().into_iter().find(|line| line.contains("tidegate is ready")).unwrap();
    assert!(ready.contains(&format!("\"cores\":{cores},")), "{ready}");
    server
}

/// Killed behind each part of the day and started with another number of cores: before and behind a snapshot, with messages that
/// were not worked on yet. `start` says what it is started with.
fn killed_with_other_cores(start: impl Fn() -> Start) {
    let (events, expected) = (day(), undisturbed());
    let with = |cores: usize| with_cores(start(), cores);
    let parts: Vec<_> = events.chunks(EVENTS / 4).collect();
    for (round, (part, cores)) in parts.iter().zip([4, 2, 1, 3]).enumerate() {
        let server = with(cores);
        let (first, last) = part.split_at(part.len() / 2);
        send(&server, first);
        if round != 1 {
            server.settled();
            snapshot(&server);
        }
        send(&server, last);
        if round == 2 {
            // So that this number of cores has a snapshot and none of the one before is left.
            server.settled();
            snapshot(&server);
        }
        // Dropped: SIGKILL.
    }
    for cores in [2, 4, 3] {
        let server = with(cores);
        let (all, from_snapshots, _) = origin(&server);
        assert!(from_snapshots > EVENTS as u64 / 2, "{all}, {from_snapshots}");
        comes_to(&server, &expected);
        server.settled();
    }
    // What was sent once is not counted again.
    let server = with(2);
    send(&server, &events[EVENTS - 500..]);
    server.settled();
    comes_to(&server, &expected);
    assert_eq!(server.stop().lost, 0);
    let server = with(1);
    assert_eq!(origin(&server), (EVENTS as u64, EVENTS as u64, 0));
    comes_to(&server, &expected);
}

#[test]
fn with_other_numbers_of_cores_it_answers_as_if_nothing_had_been() {
    let folder = Scratch::new();
    killed_with_other_cores(|| with_log(&folder));
}

#[test]
fn with_other_numbers_of_cores_what_the_log_has_deleted_is_still_in_the_numbers() {
    let folder = Scratch::new();
    killed_with_other_cores(|| {
        with_log(&folder)
            .set("limits.http_body_bytes_max=150000")
            .set("limits.grpc_message_bytes_max=150000")
            .set("data.segment_bytes=290000")
            .set("data.retention_bytes=0")
    });
}

#[test]
fn what_waited_in_the_log_is_counted_where_its_user_is_with_another_number_of_cores() {
    for has_snapshot in [true, false] {
        let (folder, events) = (Scratch::new(), day());
        let start = || with_log(&folder);
        let mut sent = 0;
        if has_snapshot {
            let server = with_cores(start(), 4);
            send(&server, &events[..EVENTS / 3]);
            server.settled();
            snapshot(&server);
            sent = EVENTS / 3;
        }
        // Nobody works on these.
        let server = with_cores(start().set("queue.consume=false"), 4);
        send(&server, &events[sent..EVENTS / 3 * 2]);
        drop(server);
        let server = with_cores(start(), 3);
        let (all, from_snapshots, _) = origin(&server);
        assert_eq!((all, from_snapshots), (EVENTS as u64 / 3 * 2, sent as u64), "{:#?}", server.log());
        let waited = (EVENTS / 3 * 2 - sent) as f64;
        let processed = metric(&server, "processor_messages_total{status=\"processed\"}");
        assert_eq!(processed, Some(waited), "what was worked on at the start is in the number, too");
        send(&server, &events[EVENTS / 3 * 2..]);
        comes_to(&server, &undisturbed());
    }
}

fn counted(server: &Server) -> u64 {
    answers(server)[0]["totalEvents"].as_str().unwrap().parse().unwrap()
}

/// Waits until so many events are counted and the broker has none left.
fn comes_back(server: &Server, events: u64) {
    // What the killed process was given, JetStream gives out again after 30 s, and Kafka after 20.
    let deadline = Instant::now() + Duration::from_secs(120);
    while counted(server) < events || lag(server) != Some(0.0) {
        assert!(Instant::now() < deadline, "{} of {events}, lag {:?}", counted(server), lag(server));
        thread::sleep(Duration::from_millis(100));
    }
}

/// Killed with messages under way between the broker and the workers.
fn killed_behind_a_broker(kills: usize, start: impl Fn() -> Start) {
    let events = day();
    let expected = undisturbed();
    for part in events.chunks(EVENTS / (kills + 1)).take(kills) {
        let server = start().run();
        let (first, last) = part.split_at(part.len() / 2);
        let before = origin(&server).0;
        send(&server, first);
        // So that the kill meets a consumer that was given something.
        comes_back(&server, before + first.len() as u64);
        snapshot(&server);
        send(&server, last);
        // At once: some of them were worked on and not committed, others not worked on.
    }
    let server = start().run();
    let (all, from_snapshots, replayed) = origin(&server);
    assert!(from_snapshots > 0 && replayed < all, "{all}, {from_snapshots}, {replayed}");
    send(&server, &events[EVENTS / (kills + 1) * kills..]);
    comes_to(&server, &expected);
    assert_eq!(server.stop().lost, 0);
    let server = start().run();
    assert_eq!(origin(&server), (EVENTS as u64, EVENTS as u64, 0));
    comes_to(&server, &expected);
}

#[test]
fn killed_behind_nats_it_counts_every_event_once() {
    if !brokers::can_be_had() {
        return;
    }
    let (folder, data) = (Scratch::new(), Scratch::new());
    let (_nats, url) = brokers::nats(&folder);
    killed_behind_a_broker(2, || {
        let start = with_broker(&data);
        start.variable("QUEUE_TYPE", "nats").variable("NATS_URL", &url)
    });
}

#[test]
fn killed_behind_kafka_it_counts_every_event_once() {
    if !brokers::can_be_had() {
        return;
    }
    let (folder, data) = (Scratch::new(), Scratch::new());
    let (_kafka, brokers) = brokers::kafka(&folder);
    // Each kill costs the session timeout of a dead member, 20 s; the broker's first look at what it may delete falls
    // into that, and the day is longer ago than the topic keeps records.
    killed_behind_a_broker(2, || {
        let start = with_broker(&data);
        start.variable("QUEUE_TYPE", "kafka").variable("KAFKA_BROKERS", &brokers)
    });
}

#[test]
fn killed_between_the_log_and_a_broker_it_counts_every_event_once() {
    if !brokers::can_be_had() {
        return;
    }
    let (folder, data) = (Scratch::new(), Scratch::new());
    let (_nats, url) = brokers::nats(&folder);
    killed_behind_a_broker(2, || {
        let start = with_broker(&data)
            .variable("QUEUE_TYPE", "composite")
            .variable("COMPOSITE_PROVIDERS", "log,nats");
        start.variable("NATS_URL", &url)
    });
}

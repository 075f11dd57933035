//! What the aggregates cost: time per event, bytes per event and user, time of queries. On one thread.
//!
//! `cargo run --release -p engine-analytics --example cost`
#![allow(clippy::print_stdout, reason = "it is what it is for")]

use std::time::Instant;

use engine_analytics::{Bounds, Bucket, DAY_MS, Event, Filter, Kind, Part, Snapshot, funnel};
use load::day::{Day, DayEvent};

/// Resident bytes of this process (proc(5)).
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) * 1024
}

fn add(part: &mut Part, event: &DayEvent) {
    let properties: Vec<(&[u8], &[u8])> =
        event.properties.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
    part.add(&Event {
        id: event.id.as_bytes(),
        user: &event.user,
        session: &event.session,
        kind: Kind::Custom,
        name: event.name,
        source: event.source,
        timestamp_ms: event.timestamp_ms,
        amount_micros: event.amount_micros,
        is_error: event.is_error,
        metrics: &[],
        properties: &properties,
        ..Event::default()
    });
}

/// What a snapshot costs: the core that takes it, the thread that writes it, the start that reads it.
fn snapshot(part: &mut Part) {
    let started = Instant::now();
    let snapshot = part.snapshot();
    let taken = started.elapsed();
    let (mut bytes, started) = (Vec::new(), Instant::now());
    let length = snapshot.write(&mut bytes).expect("room in memory");
    let written = started.elapsed();
    let started = Instant::now();
    let again = Snapshot::read(&mut &*bytes, Bounds::default()).expect("what was just written");
    assert_eq!(again.events(), part.events());
    println!(
        "  a snapshot: taken in {:.2} ms, {:.1} MiB in {:.0} ms, read in {:.0} ms; {:.0} bytes an event, {:.0} a user",
        taken.as_secs_f64() * 1e3,
        length as f64 / f64::from(1 << 20),
        written.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3,
        length as f64 / part.events() as f64,
        length as f64 / part.users_known() as f64
    );
}

fn main() {
    let start_ms = 1_780_012_800_000;
    let day: Vec<DayEvent> = Day::new(1, 1_000_000, 40_000, start_ms).collect();
    let mut part = Part::new(Bounds::default());
    let (before, started) = (resident(), Instant::now());
    day.iter().for_each(|event| add(&mut part, event));
    let took = started.elapsed();
    println!("1,000,000 events of 40,000 users: {:.0} ns an event", took.as_secs_f64() * 1e3);
    println!(
        "  {:.0} bytes an event in columns, {} MiB in all",
        part.event_bytes() as f64 / 1e6,
        (resident() - before) >> 20
    );

    let mut times: Vec<f64> = (0..200)
        .map(|_| {
            let started = Instant::now();
            let mut sum = Bucket::default();
            // Not on whole hours: minutes at both ends.
            part.cover(start_ms + 60_000 * 7, start_ms + DAY_MS - 60_000 * 7)
                .iter()
                .for_each(|bucket| sum.merge(bucket));
            assert!(sum.events > 900_000 && sum.unique_users() > 1000);
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("  summary over the day: p50 {:.2} ms, p99 {:.2} ms", times[100], times[198]);

    let step = |name: &str| Filter { names: vec![name.to_owned()], ..Filter::default() };
    let steps = ["page_view", "add_to_cart", "checkout", "purchase"].map(step);
    let started = Instant::now();
    let counted = funnel(&part.view(), &steps, &Filter::default(), start_ms, start_ms + DAY_MS, None);
    println!(
        "  four-step funnel: {:.0} ms, {} of {} users came through",
        started.elapsed().as_secs_f64() * 1e3,
        counted[3].users,
        counted[0].users
    );
    let started = Instant::now();
    for _ in 0..1000 {
        assert!(part.view().users > 0);
    }
    println!("  a view: {:.1} µs", started.elapsed().as_secs_f64() * 1e3);

    snapshot(&mut part);
    let time = |part: &mut Part| {
        let mut times: Vec<u128> = Vec::new();
        for event in &day[..100_000] {
            let started = Instant::now();
            add(part, event);
            times.push(started.elapsed().as_nanos());
        }
        times.sort_unstable();
        let all: u128 = times.iter().sum();
        format!(
            "{} ns an event, p99.9 {} µs, worst {} µs",
            all / 100_000,
            times[99_900] / 1000,
            times[99_999] / 1000
        )
    };
    let before = time(&mut part);
    let held = part.snapshot();
    println!("  while a snapshot is held {}; without {before}", time(&mut part));
    drop(held);

    let mut part = Part::new(Bounds { events: 8192, ..Bounds::default() });
    let before = resident();
    for number in 0..1_000_000 {
        let user = format!("user-{number}");
        part.add(&Event {
            id: b"e",
            user: &user,
            name: "n",
            timestamp_ms: start_ms + number,
            ..Event::default()
        });
    }
    println!("1,000,000 users with one event each: {} bytes a user", (resident() - before) / 1_000_000);
    snapshot(&mut part);
}

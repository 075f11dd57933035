//! A part that was written and read answers every query as before, and what is no snapshot is refused.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

use engine_analytics::{
    Bounds, Bucket, Damage, Event, Filter, HOUR_MS, Kind, MINUTE_MS, Part, Snapshot, Step, funnel, scan,
    sessions_begun,
};

const KINDS: [Kind; 5] = [Kind::Unspecified, Kind::User, Kind::Transaction, Kind::System, Kind::Custom];
const BOUNDS: Bounds =
    Bounds { events: 8192, users: 1500, event_bytes: 4 << 20, names: 20, quantile_bins: 5000 };

/// Adds random events: more users, names and events than the bounds allow, over three days.
fn add(part: &mut Part, random: &mut fastrand::Rng, events: usize) {
    for number in 0..events {
        let user = if random.u8(..) < 10 { String::new() } else { format!("u-{}", random.u32(..2000)) };
        let session = if random.bool() { String::new() } else { format!("s-{}", random.u8(..5)) };
        let (name, source) = (format!("n-{}", random.u8(..25)), format!("source-{}", random.u8(..4)));
        let metric = format!("m-{}", random.u8(..3));
        let metrics = [(metric.as_str(), (random.f64() * 9.0).exp()), ("both", random.f64() - 0.5)];
        let text = "ü".repeat(random.usize(..30));
        part.add(&Event {
            id: format!("{number}-{:x}", random.u64(..)).as_bytes(),
            user: &user,
            session: &session,
            kind: KINDS[random.usize(..5)],
            name: &name,
            source: &source,
            timestamp_ms: random.i64(-HOUR_MS..3 * 24 * HOUR_MS),
            amount_micros: random.bool().then(|| random.i64(-1000..1_000_000)),
            is_error: random.u8(..) < 5,
            metrics: &metrics[..random.usize(..3)],
            properties: &[
                (b"text", text.as_bytes()),
                (b"plan", if random.bool() { b"paid" } else { b"free" }),
            ],
            detail: &[b'd'; 30][..random.usize(..30)],
        });
    }
}

fn bytes(part: &mut Part) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = part.snapshot().write(&mut bytes).unwrap();
    assert_eq!(length, bytes.len() as u64);
    bytes
}

/// Everything that can be asked of a part.
#[derive(Debug, PartialEq)]
struct Answers {
    events: u64,
    sums: Vec<Bucket>,
    names: Vec<String>,
    users: Vec<Option<String>>,
    scanned: String,
    funnel: Vec<Step>,
}

fn answers(part: &mut Part) -> Answers {
    let user = |part: &mut Part, number: u32| {
        let (profile, view) = part.user(&format!("u-{number}"))?;
        let history = view.history(&profile, i64::MIN, i64::MAX, 20);
        let events: Vec<Vec<&str>> = history.latest.iter().map(|event| event.texts().collect()).collect();
        // Its last field is a short cut of this run, and in no snapshot.
        let profile_text = format!("{profile:?}");
        let kept = profile_text.split("counted_minute").next().unwrap_or_default();
        Some(format!("{kept} {events:?} {}", profile.days_active()))
    };
    let filter = Filter { properties: vec![("plan".into(), "paid".into())], ..Filter::default() };
    let found = scan(&part.view(), &filter, None, i64::MIN, i64::MAX, |ms| ms / HOUR_MS);
    let scanned = found.iter().map(|(hour, counted)| {
        let mut users: Vec<u32> = counted.users.iter().copied().collect();
        users.sort_unstable();
        let sums = (counted.events, counted.revenue_micros, counted.errors);
        (*hour, sums, counted.by_name.clone(), users)
    });
    let begun = sessions_begun(&part.view(), &filter, None, i64::MIN, i64::MAX, |ms| ms / HOUR_MS);
    let users = (0..2000).map(|number| user(part, number)).collect();
    let steps = ["n-1", "n-2"].map(|name| Filter { names: vec![name.into()], ..Filter::default() });
    let funnel = funnel(&part.view(), &steps, &Filter::default(), i64::MIN, i64::MAX, Some(HOUR_MS));
    let sum = |(from, to): (i64, i64)| {
        let mut sum = Bucket::default();
        part.cover(from, to).iter().for_each(|bucket| sum.merge(bucket));
        sum
    };
    let all = [part.names(), part.sources(), part.metrics()];
    Answers {
        events: part.events(),
        sums: [(0, MINUTE_MS), (59 * MINUTE_MS, 1381 * MINUTE_MS), (i64::MIN, i64::MAX)].map(sum).into(),
        names: all.into_iter().flat_map(|names| names.all().map(str::to_owned)).collect(),
        users,
        scanned: format!("{:?} {begun:?}", scanned.collect::<Vec<_>>()),
        funnel,
    }
}

#[test]
fn what_was_read_back_answers_as_before_and_goes_on_as_before() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut part = Part::new(BOUNDS);
        let events = random.usize(..20_000);
        add(&mut part, &mut random, if seed == 0 { 0 } else { events });
        let mut again = Snapshot::read(&mut &*bytes(&mut part), BOUNDS).unwrap();
        assert_eq!(answers(&mut again), answers(&mut part), "seed {seed}");
        let mut same = random.clone();
        add(&mut part, &mut random, 5000);
        add(&mut again, &mut same, 5000);
        assert_eq!(answers(&mut again), answers(&mut part), "seed {seed}, later");
    }
}

#[test]
fn a_snapshot_does_not_change_with_what_comes_behind_it() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut part = Part::new(BOUNDS);
    add(&mut part, &mut random, 6000);
    let snapshot = part.snapshot();
    let before = answers(&mut part);
    add(&mut part, &mut random, 6000);
    let mut written = Vec::new();
    snapshot.write(&mut written).unwrap();
    assert_eq!(answers(&mut Snapshot::read(&mut &*written, BOUNDS).unwrap()), before);
}

#[test]
fn other_bounds_keep_what_is_counted() {
    let mut part = Part::new(BOUNDS);
    add(&mut part, &mut fastrand::Rng::with_seed(2), 10_000);
    let written = bytes(&mut part);
    let narrow = Bounds { events: 4096, users: 10, names: 2, quantile_bins: 0, ..BOUNDS };
    for bounds in [narrow, Bounds::default()] {
        let mut again = Snapshot::read(&mut &*written, bounds).unwrap();
        assert_eq!((again.events(), again.users_known()), (10_000, part.users_known()));
        add(&mut again, &mut fastrand::Rng::with_seed(3), 10_000);
        assert_eq!(again.events(), 20_000);
    }
}

#[test]
fn every_damage_is_told_and_none_is_believed() {
    let mut part = Part::new(BOUNDS);
    let mut random = fastrand::Rng::with_seed(4);
    add(&mut part, &mut random, 200);
    let written = bytes(&mut part);
    let read = |bytes: &[u8]| Snapshot::read(&mut &*bytes, BOUNDS).map(|part| part.events());
    assert!(matches!(read(b"something else entirely"), Err(Damage::Foreign)));
    let mut later = written.clone();
    later[8] = 200;
    assert_eq!(read(&later).unwrap_err().to_string(), "is of version 200, and this program reads version 2");
    for length in (0..written.len()).step_by(written.len() / 200) {
        assert!(matches!(read(&written[..length]), Err(Damage::Io(_))), "{length}");
    }
    for _ in 0..300 {
        let mut damaged = written.clone();
        let place = random.usize(..damaged.len());
        damaged[place] ^= 1 << random.u8(..8);
        assert!(read(&damaged).is_err(), "byte {place}");
    }
}

#[test]
fn what_somebody_made_up_is_refused_or_harmless() {
    let mut part = Part::new(BOUNDS);
    let mut random = fastrand::Rng::with_seed(5);
    add(&mut part, &mut random, 200);
    let written = bytes(&mut part);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..400 {
        // A few bytes of a frame are others, and its checksum says that they are right.
        let (mut forged, mut at, wanted) = (written.clone(), 12, random.usize(..written.len()));
        loop {
            let length = u32::from_le_bytes(*forged[at..].first_chunk().unwrap()) as usize;
            let content = at + 8..at + 8 + length;
            if content.end > wanted {
                for _ in 0..random.usize(1..4) {
                    forged[random.usize(content.clone())] = random.u8(..);
                }
                let crc = crc32c::crc32c(&forged[content]).to_le_bytes();
                forged[at + 4..at + 8].copy_from_slice(&crc);
                break;
            }
            at = content.end;
        }
        match Snapshot::read(&mut &*forged, BOUNDS) {
            Err(_) => refused += 1,
            Ok(mut part) => {
                taken += 1;
                if taken % 10 == 0 {
                    answers(&mut part);
                }
            }
        }
    }
    assert!(refused > 20 && taken > 20, "{refused} {taken}");
    // A length that promises four gigabytes promises nothing.
    let mut endless = written[..12].to_vec();
    endless.extend_from_slice(&[0xff; 8]);
    assert!(matches!(Snapshot::read(&mut &*endless, BOUNDS), Err(Damage::Io(_))));
}

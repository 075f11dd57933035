//! The log on a disk that forgets what was not synced, fails, and fills up.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its common part too")]

mod disk;

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use brokers::log::{Health, Io, Log, LogConfig, LogError, Pushback, ShardWriter, Sync};

use crate::disk::{Disk, Faults};

/// Longest a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);

/// A disk, where FUSE can be had; under CI it has to.
fn disk() -> Option<Disk> {
    match Disk::mount() {
        Ok(disk) => Some(disk),
        Err(error) => {
            let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!ci, "the lossy disk needs root and /dev/fuse: {error}");
            eprintln!("skipped, because the lossy disk needs root and /dev/fuse: {error}");
            None
        }
    }
}

fn config(disk: &Disk, io: Io, sync: Sync) -> LogConfig {
    let directory = disk.path().join("data");
    LogConfig { segment_bytes: 32 << 10, retention_bytes: 64 << 10, io, sync, ..LogConfig::new(directory, 1) }
}

fn open(disk: &Disk, io: Io, sync: Sync) -> Result<(Log, ShardWriter), LogError> {
    let (log, _) = Log::open(config(disk, io, sync))?;
    let writer = log.writer(0, Arc::new(|| {}))?;
    Ok((log, writer))
}

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        thread::yield_now();
    }
}

/// Commits a message; whether it was acknowledged, and under which offset.
fn append(writer: &mut ShardWriter, payload: &str) -> (u64, bool) {
    let mut appended = Err(Pushback::Busy);
    // The next segment may be a moment away.
    eventually("it is taken or has failed", || {
        writer.commit();
        appended = writer.append(7, |out| out.extend_from_slice(payload.as_bytes()));
        appended != Err(Pushback::Busy) || writer.has_failed()
    });
    let Ok(offset) = appended else { return (0, false) };
    eventually("it is durable or has failed", || {
        writer.commit();
        writer.durable_upto() > offset || writer.has_failed()
    });
    (offset, writer.durable_upto() > offset)
}

/// Everything in the log.
fn read(log: &Log) -> Result<BTreeMap<u64, String>, LogError> {
    let mut found = BTreeMap::new();
    let mut reader = log.reader(0, log.first_offset(0));
    reader.read(usize::MAX, |offset, _, payload| {
        found.insert(offset, String::from_utf8(payload.to_vec()).unwrap());
        true
    })?;
    Ok(found)
}

/// Lets the power fail at a random place again and again; how many acknowledged messages were lost.
fn lost_in_crashes(disk: &Disk, io: Io, sync: Sync, crashes: u32, seed: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    let mut lost = 0;
    for crash in 0..crashes {
        disk.fail_after(random.u64(..60));
        let opened = open(disk, io, sync).and_then(|(log, writer)| Ok((read(&log)?, log, writer)));
        match opened {
            Ok((found, log, mut writer)) => {
                acknowledged.retain(|offset, payload| {
                    let kept = found.get(offset) == Some(payload);
                    lost += usize::from(!kept);
                    kept
                });
                let cursor = log.cursor("workers");
                while !writer.has_failed() {
                    let payload = format!("{crash} {}", "x".repeat(random.usize(..2000)));
                    let (offset, is_durable) = append(&mut writer, &payload);
                    if is_durable {
                        acknowledged.insert(offset, payload);
                        // What the cursor has passed may go, and the failing power may stop that anywhere.
                        if let Ok(cursor) = &cursor {
                            cursor.advance(0, offset.saturating_sub(10));
                            acknowledged = acknowledged.split_off(&offset.saturating_sub(10));
                        }
                        // It fails with the power.
                        let _ = log.maintain();
                    }
                }
            }
            // The power failed before the log was open.
            Err(LogError::Io { .. }) => {}
            // Without syncs a log may be found damaged: then what was acknowledged is lost.
            Err(error) => {
                assert_eq!(sync, Sync::Omitted, "crash {crash}, seed {seed}: {error}");
                return lost + acknowledged.len();
            }
        }
        disk.fail();
        disk.restore(&mut random);
    }
    lost
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let Some(disk) = disk() else { return };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    assert_eq!(lost_in_crashes(&disk, Io::Blocking, Sync::Fdatasync, 200, seed), 0, "seed {seed}");
}

#[test]
fn nor_through_io_uring() {
    let Some(disk) = disk() else { return };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    assert_eq!(lost_in_crashes(&disk, Io::Auto, Sync::Fdatasync, 200, seed), 0, "seed {seed}");
}

#[test]
fn without_the_sync_it_is_lost() {
    let Some(disk) = disk() else { return };
    assert!(lost_in_crashes(&disk, Io::Blocking, Sync::Omitted, 200, 1) > 0);
}

#[test]
fn a_sync_that_fails_once_is_not_tried_again_and_what_was_acknowledged_survives() {
    for io in [Io::Blocking, Io::Auto] {
        let Some(disk) = disk() else { return };
        {
            let (_log, mut writer) = open(&disk, io, Sync::Fdatasync).unwrap();
            assert!(append(&mut writer, "before").1);
            // By now the next segment is prepared: the next sync is a commit's.
            assert!(append(&mut writer, "before, too").1);
            disk.set_faults(Faults { sync_fails: true, ..Faults::default() });
            assert!(!append(&mut writer, "unknown").1);
            assert!(matches!(writer.health(), Health::Failed(_)), "{:?}", writer.health());
            assert_eq!(writer.append(7, |_| {}), Err(Pushback::Failed));
        }
        // The restart still reads from the cache what the disk does not have; what it shows must be on the disk, too.
        let (log, mut writer) = open(&disk, io, Sync::Fdatasync).unwrap();
        let shown = read(&log).unwrap();
        assert_eq!(shown.get(&0).map(String::as_str), Some("before"));
        assert!(append(&mut writer, "after").1);
        disk.fail();
        drop((log, writer));
        disk.restore(&mut fastrand::Rng::with_seed(1));
        let (log, _writer) = open(&disk, io, Sync::Fdatasync).unwrap();
        let left = read(&log).unwrap();
        assert!(
            shown.iter().all(|(offset, payload)| left.get(offset) == Some(payload)),
            "{shown:?} {left:?}"
        );
        assert!(left.values().any(|payload| payload == "after"), "{left:?}");
    }
}

#[test]
fn a_short_write_is_completed_before_it_is_acknowledged() {
    for io in [Io::Blocking, Io::Auto] {
        let Some(disk) = disk() else { return };
        {
            let (_log, mut writer) = open(&disk, io, Sync::Fdatasync).unwrap();
            assert!(append(&mut writer, "before").1);
            disk.set_faults(Faults { short_write: true, ..Faults::default() });
            assert!(append(&mut writer, "in two pieces").1);
            disk.fail();
        }
        disk.restore(&mut fastrand::Rng::with_seed(1));
        let (log, _writer) = open(&disk, io, Sync::Fdatasync).unwrap();
        let left: Vec<String> = read(&log).unwrap().into_values().collect();
        assert_eq!(left, ["before", "in two pieces"]);
    }
}

#[test]
fn a_full_disk_pushes_back_and_goes_on_by_itself() {
    let Some(disk) = disk() else { return };
    let (log, mut writer) = open(&disk, Io::Auto, Sync::Fdatasync).unwrap();
    disk.set_faults(Faults { full: true, ..Faults::default() });
    let payload = "x".repeat(3000);
    let mut acknowledged = 0;
    // The segments that are there still take everything.
    eventually("it is full", || {
        let pushed = writer.append(7, |out| out.extend_from_slice(payload.as_bytes()));
        writer.commit();
        acknowledged += u64::from(pushed.is_ok());
        matches!(writer.health(), Health::Full(_)) && pushed == Err(Pushback::Busy)
    });
    let Health::Full(said) = writer.health() else { panic!("{:?}", writer.health()) };
    assert!(said.contains("data.directory"), "{said}");
    assert!(writer.durable_upto() > 0);
    disk.set_faults(Faults::default());
    eventually("all that waited is durable", || {
        writer.commit();
        writer.durable_upto() >= acknowledged
    });
    assert_eq!(read(&log).unwrap().len() as u64, acknowledged);
}

#[test]
fn a_batch_that_needs_a_segment_that_cannot_be_had_says_so_and_is_let_go_of_at_the_end() {
    let Some(disk) = disk() else { return };
    let (_log, mut writer) = open(&disk, Io::Auto, Sync::Fdatasync).unwrap();
    disk.set_faults(Faults { full: true, ..Faults::default() });
    // Less than half of the segment.
    assert!(append(&mut writer, &"x".repeat(10_000)).1);
    writer.append(7, |out| out.resize(out.len() + 25_000, b'y')).unwrap();
    writer.commit();
    eventually("it says that there is no room", || matches!(writer.health(), Health::Full(_)));
    writer.append(7, |out| out.extend_from_slice(b"waits behind it")).unwrap();
    // The end does not wait for room that may never come.
    drop(writer);
}

//! What is deleted, what is kept, and what happens when nothing may be.

use std::{fs, time::Duration};

use brokers::log::{Health, Log, LogConfig, LogError, Pushback, Scrub};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::harness::{Folder, append, eventually, read, writer};

/// Keeps nothing that was consumed.
fn eager(folder: &Folder) -> LogConfig {
    LogConfig { retention_bytes: 0, retention_age: Duration::ZERO, ..folder.config() }
}

#[test]
fn only_what_every_consumer_has_passed_is_deleted() {
    let folder = Folder::new();
    let (log, _) = Log::open(eager(&folder)).unwrap();
    let (slow, quick) = (log.cursor("slow").unwrap(), log.cursor("quick").unwrap());
    let mut writer = writer(&log);
    let long = "z".repeat(10 << 10);
    for _ in 0..30 {
        append(&mut writer, &[&long]);
    }
    quick.advance(0, 30);
    slow.advance(0, 8);
    log.maintain().unwrap();
    let first = log.first_offset(0);
    assert!((1..=8).contains(&first), "{first}");
    assert_eq!(read(&log).len() as u64, 30 - first);
    slow.advance(0, 30);
    log.maintain().unwrap();
    // The one in use stays.
    assert_eq!(folder.segments().len(), 1);
}

#[test]
fn positions_and_offsets_survive_a_restart_though_all_is_deleted() {
    let folder = Folder::new();
    {
        let (log, _) = Log::open(eager(&folder)).unwrap();
        let cursor = log.cursor("workers").unwrap();
        let mut writer = writer(&log);
        append(&mut writer, &["a", "b"]);
        cursor.advance(0, 2);
        log.maintain().unwrap();
    }
    let (log, _) = Log::open(eager(&folder)).unwrap();
    assert_eq!(log.cursor("workers").unwrap().position(0), 2);
    let mut writer = writer(&log);
    assert_eq!(writer.append(0, |out| out.push(1)), Ok(2));
}

#[test]
fn a_consumer_that_is_away_still_holds_what_it_has_not_passed() {
    let folder = Folder::new();
    let long = "z".repeat(10 << 10);
    {
        let (log, _) = Log::open(eager(&folder)).unwrap();
        let _kafka = log.cursor("kafka").unwrap();
        let mut writer = writer(&log);
        for _ in 0..20 {
            append(&mut writer, &[&long]);
        }
        log.maintain().unwrap();
    }
    let (log, _) = Log::open(eager(&folder)).unwrap();
    log.cursor("workers").unwrap().advance(0, 20);
    log.maintain().unwrap();
    assert_eq!((log.first_offset(0), log.absent_consumers()), (0, vec!["kafka".to_owned()]));
}

#[test]
fn a_full_log_pushes_back_and_goes_on_by_itself() {
    let folder = Folder::new();
    let config = LogConfig { bytes_max: 4 * (64 << 10), ..eager(&folder) };
    let (log, _) = Log::open(config).unwrap();
    let cursor = log.cursor("slowpoke").unwrap();
    let mut writer = writer(&log);
    let long = "z".repeat(10 << 10);
    let mut appended = 0_u64;
    eventually("it is full", || {
        match writer.append(0, |out| out.extend_from_slice(long.as_bytes())) {
            Ok(_) => appended += 1,
            Err(pushback) => assert_eq!(pushback, Pushback::Busy),
        }
        writer.commit();
        matches!(writer.health(), Health::Full(_))
    });
    let Health::Full(text) = writer.health() else { panic!("full") };
    assert!(text.contains("data.bytes_max") && text.contains("`slowpoke`"), "{text}");
    let durable = writer.durable_upto();
    cursor.advance(0, durable);
    log.maintain().unwrap();
    eventually("all of it is durable", || {
        cursor.advance(0, writer.durable_upto());
        log.maintain().unwrap();
        writer.commit();
        writer.durable_upto() == appended && writer.health() == Health::Writing
    });
}

/// Appends until it is durable what `bytes` of records are. Whatever is durable is passed at once, and at most ten records
/// (two segments) are on the way, so there is always something finished that can give way.
fn take_in(log: &Log, bytes: usize) {
    let cursor = log.cursor("workers").unwrap();
    let mut writer = writer(log);
    let long = "z".repeat(10 << 10);
    let mut appended = 0;
    let mut passed = 0;
    while appended as usize * long.len() < bytes {
        if appended < passed + 10 {
            match writer.append(0, |out| out.extend_from_slice(long.as_bytes())) {
                Ok(_) => appended += 1,
                Err(pushback) => assert_eq!(pushback, Pushback::Busy),
            }
        }
        writer.commit();
        passed = writer.durable_upto();
        cursor.advance(0, passed);
        assert!(!matches!(writer.health(), Health::Full(_)), "{:?}", writer.health());
    }
    eventually("all of it is durable", || {
        writer.commit();
        writer.durable_upto() == appended
    });
}

#[test]
fn what_is_finished_gives_way_before_anything_is_refused_for_the_logs_own_bound() {
    let folder = Folder::new();
    // Retention would keep everything.
    let config = LogConfig { bytes_max: 6 * (64 << 10), ..folder.config() };
    assert!(config.retention_bytes > config.bytes_max && config.retention_age > Duration::from_secs(3600));
    let (log, _) = Log::open(config).unwrap();
    log.hold(0, Some(0));
    take_in(&log, 2 << 20);
}

#[test]
fn what_is_finished_gives_way_before_anything_is_refused_for_a_full_disk() {
    let folder = Folder::new();
    let disk = folder.config().directory.join("disk");
    std::fs::create_dir_all(&disk).unwrap();
    // No `mount` command: a child process holds the locks of the logs that other tests have open until it executes.
    let mounted = rustix::mount::mount("none", &disk, "tmpfs", MountFlags::empty(), c"size=512k");
    if mounted.is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "a tmpfs cannot be mounted");
        println!("skipped, because a tmpfs cannot be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let (log, _) = Log::open(LogConfig { directory: disk.join("data"), ..folder.config() }).unwrap();
        take_in(&log, 2 << 20);
    });
    rustix::mount::unmount(&disk, UnmountFlags::empty()).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_consumer_whose_place_is_lost_is_not_sent_to_where_the_log_is_damaged() {
    let folder = Folder::new();
    {
        let (log, _) = folder.open().unwrap();
        let (kept, lost) = (log.cursor("kept").unwrap(), log.cursor("lost").unwrap());
        let mut writer = writer(&log);
        let payload = "x".repeat(20 << 10);
        for _ in 0..6 {
            append(&mut writer, &[payload.as_str()]);
        }
        for cursor in [&kept, &lost] {
            cursor.advance(0, 6);
        }
        log.maintain().unwrap();
    }
    // In what everybody has passed.
    let path = folder.segments()[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[30 << 10] ^= 1;
    fs::write(&path, bytes).unwrap();
    let start = || {
        let (log, _) = folder.open()?;
        log.cursor("kept")?;
        log.cursor("lost").map(drop)
    };
    start().unwrap();
    fs::remove_file(folder.path().join("cursors/lost")).unwrap();
    for _ in 0..2 {
        let refused = start().unwrap_err();
        assert!(matches!(&refused, LogError::Damaged { path: found, .. } if *found == path), "{refused}");
    }
}

#[test]
fn damage_in_what_everybody_has_passed_is_found_once_and_by_name() {
    let folder = Folder::new();
    let (log, _) = folder.open().unwrap();
    let cursor = log.cursor("workers").unwrap();
    let mut writer = writer(&log);
    let payload = "x".repeat(20 << 10);
    for _ in 0..12 {
        append(&mut writer, &[payload.as_str()]);
    }
    cursor.advance(0, 12);
    log.maintain().unwrap();
    let mut scrub = Scrub::new(log.clone());
    let mut round = || -> (Vec<LogError>, usize) {
        let found = (0..100).filter_map(|_| scrub.look(30 << 10)).collect();
        (found, scrub.damaged())
    };
    assert!(matches!(round(), (found, 0) if found.is_empty()));
    let segments = folder.segments();
    assert!(segments.len() > 3, "{segments:?}");
    for (segment, at) in [(&segments[0], 50 << 10), (&segments[2], 100)] {
        let mut bytes = fs::read(segment).unwrap();
        bytes[at] ^= 1;
        fs::write(segment, bytes).unwrap();
    }
    let (found, count) = round();
    let paths: Vec<_> = found
        .iter()
        .map(|error| match error {
            LogError::Damaged { path, .. } => path,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!((paths, count), (vec![&segments[0], &segments[2]], 2));
    assert!(matches!(round(), (found, 2) if found.is_empty()), "the operator was told");
    fs::remove_file(&segments[0]).unwrap();
    let (found, _) = round();
    assert!(matches!(&found[..], [LogError::Io { path, .. }] if *path == segments[0]), "{found:?}");
}

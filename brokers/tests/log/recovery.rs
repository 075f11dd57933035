//! Starting again after every kind of end.

use std::fs;

use brokers::log::{LogError, offline};

use crate::harness::{Folder, append, read, writer};

/// A log of a few commits, as a crash leaves it that came before the last of them was acknowledged; and its one segment.
fn crashed(folder: &Folder) -> (std::path::PathBuf, Vec<u8>) {
    let (log, _) = folder.open().unwrap();
    let mut writer = writer(&log);
    append(&mut writer, &["one", "two"]);
    append(&mut writer, &["three"]);
    let manifest = fs::read(manifest(folder)).unwrap();
    append(&mut writer, &["four", "five"]);
    let path = folder.segments()[0].clone();
    let bytes = fs::read(&path).unwrap();
    // In order; the bytes from before are put back.
    drop(writer);
    drop(log);
    put_back(folder, &path, &bytes, &manifest);
    (path, bytes)
}

fn manifest(folder: &Folder) -> std::path::PathBuf {
    folder.path().join("manifests/shard-000")
}

fn put_back(folder: &Folder, path: &std::path::Path, segment: &[u8], of_manifest: &[u8]) {
    for segment in folder.segments() {
        fs::remove_file(segment).unwrap();
    }
    fs::write(path, segment).unwrap();
    fs::write(manifest(folder), of_manifest).unwrap();
}

fn payloads(found: &[(u64, String)]) -> Vec<&str> {
    found.iter().map(|(_, payload)| payload.as_str()).collect()
}

/// Bytes of the file that were written.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let folder = Folder::new();
    crashed(&folder);
    for round in 0..3 {
        let (log, recovery) = folder.open().unwrap();
        assert_eq!(recovery.shards[0].next_offset, 5 + round);
        assert_eq!(recovery.shards[0].torn_bytes, 0);
        append(&mut writer(&log), &["more"]);
        let found = read(&log);
        assert_eq!(payloads(&found)[..5], ["one", "two", "three", "four", "five"]);
        assert_eq!(found.len() as u64, 6 + round);
        assert!(found.iter().enumerate().all(|(at, (offset, _))| at as u64 == *offset));
    }
}

#[test]
fn a_commit_torn_at_any_byte_is_cut_off_and_the_ones_before_are_kept() {
    let folder = Folder::new();
    let (path, bytes) = crashed(&folder);
    let before = fs::read(manifest(&folder)).unwrap();
    let end = used(&bytes);
    // Records of 64 bytes behind a header of 64: the last commit is the last two.
    let last_commit = end.next_multiple_of(8) - 2 * 64;
    for cut in last_commit..end {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        put_back(&folder, &path, &torn, &before);
        let (log, recovery) = folder.open().unwrap();
        let whole = if cut >= last_commit + 64 - 4 { 4 } else { 3 };
        let found = read(&log);
        assert_eq!(payloads(&found), ["one", "two", "three", "four", "five"][..whole], "cut at {cut}");
        assert_eq!(recovery.shards[0].next_offset, whole as u64);
        drop(log);
    }
}

#[test]
fn what_is_not_proven_durable_is_written_again_before_it_counts() {
    let folder = Folder::new();
    crashed(&folder);
    let (log, recovery) = folder.open().unwrap();
    assert_eq!(recovery.shards[0].rewritten, 2);
    assert_eq!(folder.segments().len(), 2);
    assert_eq!(read(&log).len(), 5);
    drop(log);
    // Written durably, and marked so: nothing is in doubt.
    let (_log, recovery) = folder.open().unwrap();
    assert_eq!(recovery.shards[0].rewritten, 0);
}

#[test]
fn every_flipped_bit_of_a_small_log_is_noticed() {
    let folder = Folder::new();
    let (path, bytes) = crashed(&folder);
    let end = used(&bytes) + 16;
    for bit in 0..end * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        let reports = offline::verify(&brokers::disk::Machine, folder.path()).unwrap();
        assert_ne!(reports.segments[0].verdict, offline::Verdict::Whole, "bit {bit}");
    }
}

#[test]
fn damage_to_what_was_acknowledged_stops_the_start_and_names_the_place() {
    let folder = Folder::new();
    let (path, mut bytes) = crashed(&folder);
    // In the first record, with commits behind it that prove that it was durable.
    bytes[64 + 56] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = folder.open().unwrap_err();
    assert!(matches!(error, LogError::Damaged { position: 64, .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("offset 0") && text.contains("repair --salvage") && text.contains(".segment"),
        "{text}"
    );
}

#[test]
fn a_missing_segment_stops_the_start() {
    let folder = Folder::new();
    let (log, _) = folder.open().unwrap();
    let mut writer = writer(&log);
    let long = "z".repeat(20 << 10);
    for _ in 0..12 {
        append(&mut writer, &[&long]);
    }
    drop(writer);
    drop(log);
    let segments = folder.segments();
    assert!(segments.len() > 3);
    fs::remove_file(&segments[1]).unwrap();
    let text = folder.open().unwrap_err().to_string();
    assert!(text.contains("the next segment begins at"), "{text}");
}

#[test]
fn an_end_or_a_beginning_that_is_lost_stops_the_start_by_name_and_repair_says_what_is_gone() {
    type Damage = fn(&[std::path::PathBuf]);
    let damages: [(&str, Damage); 7] = [
        ("the last emptied", |all| fs::write(&all[all.len() - 1], b"").unwrap()),
        ("the last cut to 2,000 bytes", |all| cut(&all[all.len() - 1], 2_000)),
        ("the last gone", |all| fs::remove_file(&all[all.len() - 1]).unwrap()),
        ("the first gone", |all| fs::remove_file(&all[0]).unwrap()),
        ("the last page zeroed", |all| zero_end(&all[all.len() - 1])),
        ("all gone, with their folder", |all| fs::remove_dir_all(all[0].parent().unwrap()).unwrap()),
        ("all gone", |all| all.iter().for_each(|path| fs::remove_file(path).unwrap())),
    ];
    for (name, damage) in damages {
        let folder = Folder::new();
        let (log, _) = folder.open().unwrap();
        let mut writer = writer(&log);
        let long = "z".repeat(20 << 10);
        for _ in 0..13 {
            append(&mut writer, &[&long]);
        }
        drop(writer);
        drop(log);
        damage(&folder.segments());
        let error = folder.open().unwrap_err();
        assert!(matches!(error, LogError::Missing { .. } | LogError::Damaged { .. }), "{name}: {error}");
        let verified = offline::verify(&brokers::disk::Machine, folder.path()).unwrap();
        assert!(!verified.is_whole(), "{name}");
        let salvage = folder.path().join("salvage");
        let repaired = offline::repair(&brokers::disk::Machine, folder.path(), &salvage).unwrap();
        let said: u64 = repaired.iter().flat_map(|one| &one.lost).map(|(from, upto)| upto - from).sum();
        let (log, recovery) = folder.open().unwrap();
        assert_eq!(recovery.shards[0].next_offset, 13, "{name}: no offset is given out twice");
        let left = read(&log).len() as u64;
        assert_eq!(said + left, 13, "{name}: said to be lost, and left");
        assert!(said > 0, "{name}");
    }
}

fn cut(path: &std::path::Path, length: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn zero_end(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let end = used(&bytes);
    bytes[end.saturating_sub(4096).max(64)..end].fill(0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_lock_file_that_is_deleted_lets_nobody_else_in() {
    let folder = Folder::new();
    let (log, _) = folder.open().unwrap();
    let mut writer = writer(&log);
    append(&mut writer, &["one"]);
    fs::remove_file(folder.path().join("LOCK")).unwrap();
    log.maintain().unwrap();
    assert!(matches!(folder.open().unwrap_err(), LogError::Locked { .. }));
    append(&mut writer, &["two"]);
    drop((writer, log));
    assert_eq!(payloads(&read(&folder.open().unwrap().0)), ["one", "two"]);
}

#[test]
fn a_damaged_number_of_shards_stops_the_start_and_repair_counts_them() {
    let folder = Folder::new();
    let (log, _) = folder.open().unwrap();
    append(&mut writer(&log), &["one"]);
    drop(log);
    fs::write(folder.path().join("shards"), "x").unwrap();
    let text = folder.open().unwrap_err().to_string();
    assert!(text.contains("shards") && text.contains("repair"), "{text}");
    assert!(!offline::verify(&brokers::disk::Machine, folder.path()).unwrap().is_whole());
    let repaired =
        offline::repair(&brokers::disk::Machine, folder.path(), &folder.path().join("salvage")).unwrap();
    assert!(repaired.iter().all(|one| one.lost.is_empty()), "{repaired:?}");
    assert_eq!(payloads(&read(&folder.open().unwrap().0)), ["one"]);
}

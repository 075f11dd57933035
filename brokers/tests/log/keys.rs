//! What repeats are recognised by, on a real disk.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use brokers::{
    entry,
    fingerprint::Fingerprint,
    log::{ENTRY_BYTES, Log, LogConfig, Repeats, ShardWriter},
};
use engine_core::Record;

use crate::harness::{Folder, eventually, writer};

fn config(folder: &Folder) -> LogConfig {
    let repeats = Repeats { entries: 1_000_000, age: Duration::from_secs(600) };
    LogConfig { repeats: Some(repeats), retention_bytes: 0, ..folder.config() }
}

fn files(folder: &Folder) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path().join("shard-000")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "keys"));
    paths.sort();
    paths
}

/// Every second one has an id of its sender's.
fn append(writer: &mut ShardWriter, count: u64) {
    for number in writer.next_offset()..writer.next_offset() + count {
        let (id, once) = (number.to_le_bytes(), number % 2 == 0);
        let record = Record { id: &id, payload: &[7; 64], once, ..Record::default() };
        let fingerprint = Fingerprint { id: number.into(), ..Fingerprint::default() };
        eventually("there is room", || {
            writer.commit();
            let encode = |out: &mut Vec<u8>| entry::encode(&record, out);
            writer.append_known(number, once.then_some(fingerprint), encode).is_ok()
        });
    }
    let upto = writer.next_offset();
    eventually("durable", || {
        writer.commit();
        writer.durable_upto() == upto
    });
}

#[test]
fn keys_outlive_their_segments_and_cost_what_is_said() {
    let folder = Folder::new();
    let (log, _) = Log::open(config(&folder)).unwrap();
    let cursor = log.cursor("all").unwrap();
    let mut first = writer(&log);
    append(&mut first, 5_000);
    cursor.advance(0, 5_000);
    log.maintain().unwrap();
    assert!(log.first_offset(0) > 2_000, "{}", log.first_offset(0));
    drop((first, cursor, log));
    let bytes: u64 = files(&folder).iter().map(|path| path.metadata().unwrap().len() - 64).sum();
    assert_eq!(bytes, 2_500 * ENTRY_BYTES as u64, "{:?}", files(&folder));

    let (log, _) = Log::open(config(&folder)).unwrap();
    let known = log.known(10_000, Duration::from_secs(600));
    let offsets: Vec<u64> = known.iter().rev().map(|(_, known)| known.offset).collect();
    assert_eq!(offsets, (0..5_000).step_by(2).collect::<Vec<u64>>());
    assert!(known.iter().all(|(shard, known)| {
        *shard == 0 && known.fingerprint.id == u128::from(known.offset) && known.key_hash == known.offset
    }));
    let newest: Vec<u64> =
        log.known(3, Duration::from_secs(600)).iter().map(|(_, known)| known.offset).collect();
    assert_eq!(newest, [4_998, 4_996, 4_994]);
}

#[test]
fn the_key_of_the_hashes_is_for_nobody_else_and_is_never_shown() {
    let folder = Folder::new();
    let path = folder.path().join("window.key");
    let (log, _) = Log::open(config(&folder)).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!((bytes.len(), path.metadata().unwrap().permissions().mode() & 0o777), (16, 0o600));
    assert!(!folder.path().join("window.key.new").exists());
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = format!("{log:?} {:?} {bytes:?}", log.hash_key());
    let numbers = format!("{bytes:?}");
    assert!(!shown.contains(&hex) && shown.matches(&numbers).count() == 1, "{shown}");
    drop(log);
    drop(Log::open(config(&folder)).unwrap());
    assert_eq!(fs::read(&path).unwrap(), bytes, "it stays");
    drop(Log::open(folder.config()).unwrap());
}

#[test]
fn a_flipped_bit_of_the_keys_is_noticed() {
    let folder = Folder::new();
    let (log, _) = Log::open(config(&folder)).unwrap();
    let mut first = writer(&log);
    append(&mut first, 40);
    drop((first, log));
    let path = files(&folder).remove(0);
    // Made from the segment: these are the hashes of the log's own key.
    fs::remove_file(&path).unwrap();
    let known = || {
        let (log, _) = Log::open(config(&folder)).unwrap();
        log.known(100, Duration::from_secs(600))
    };
    let expected = known();
    assert_eq!(expected.len(), 20);
    let bytes = fs::read(&path).unwrap();
    // Each start syncs: not every one of them.
    for bit in (0..bytes.len() * 8).step_by(37) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        assert_eq!(known(), expected, "bit {bit}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "bit {bit}: it is made again");
    }
}

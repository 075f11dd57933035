//! What the tools do with a damaged log.

use std::fs;

use brokers::log::offline;

use crate::harness::{Folder, append, read, writer};

#[test]
fn repair_copies_the_damage_aside_and_says_exactly_what_is_lost() {
    let folder = Folder::new();
    {
        let (log, _) = folder.open().unwrap();
        let mut writer = writer(&log);
        for payload in ["one", "two", "three", "four"] {
            append(&mut writer, &[payload]);
        }
    }
    let path = folder.segments()[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[64 + 64 + 56] ^= 0x40; // in the payload of offset 1
    fs::write(&path, &bytes).unwrap();
    assert!(folder.open().is_err());

    let salvage = folder.path().join("salvage");
    let repaired = offline::repair(&brokers::disk::Machine, folder.path(), &salvage).unwrap();
    assert_eq!(repaired.len(), 1);
    assert_eq!((repaired[0].lost.as_slice(), repaired[0].kept), (&[(1, 2)][..], 3));
    assert_eq!(fs::read(repaired[0].copy.as_ref().unwrap()).unwrap(), bytes);

    let (log, _) = folder.open().unwrap();
    let found: Vec<(u64, String)> = read(&log);
    let expected = [(0, "one"), (2, "three"), (3, "four")].map(|(offset, text)| (offset, text.to_owned()));
    assert_eq!(found, expected);
    assert!(offline::verify(&brokers::disk::Machine, folder.path()).unwrap().is_whole());
}

#[test]
fn repair_of_a_segment_among_others_keeps_all_of_it_but_the_damage() {
    let folder = Folder::new();
    let long = "z".repeat(20 << 10);
    {
        let (log, _) = folder.open().unwrap();
        let mut writer = writer(&log);
        for _ in 0..9 {
            append(&mut writer, &[long.as_str()]);
        }
    }
    let segments = folder.segments();
    assert!(segments.len() > 2, "{segments:?}");
    let mut bytes = fs::read(&segments[0]).unwrap();
    bytes[1 << 10] ^= 0x40; // in the payload of offset 0
    fs::write(&segments[0], &bytes).unwrap();
    let repaired =
        offline::repair(&brokers::disk::Machine, folder.path(), &folder.path().join("salvage")).unwrap();
    assert_eq!(repaired[0].lost, [(0, 1)]);
    let offsets: Vec<u64> = read(&folder.open().unwrap().0).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, (1..9).collect::<Vec<_>>());
}

#[test]
fn dump_shows_every_message_once() {
    let folder = Folder::new();
    for _ in 0..2 {
        let (log, _) = folder.open().unwrap();
        append(&mut writer(&log), &["one", "two"]);
    }
    let mut offsets = Vec::new();
    offline::dump(&brokers::disk::Machine, folder.path(), None, |dumped| {
        offsets.push(dumped.offset);
        true
    })
    .unwrap();
    assert_eq!(offsets, [0, 1, 2, 3]);
}

#[test]
fn repair_says_what_it_put_back_and_writes_over_no_earlier_copy() {
    let folder = Folder::new();
    {
        let (log, _) = folder.open().unwrap();
        let mut writer = writer(&log);
        let long = "z".repeat(20 << 10);
        for _ in 0..12 {
            append(&mut writer, &[&long]);
        }
    }
    let salvage = folder.path().join("salvage");
    let repair = || offline::repair(&brokers::disk::Machine, folder.path(), &salvage).unwrap();
    let swap = || {
        let segments = folder.segments();
        let other = folder.path().join("other");
        fs::rename(&segments[0], &other).unwrap();
        fs::rename(&segments[1], &segments[0]).unwrap();
        fs::rename(&other, &segments[1]).unwrap();
    };
    for round in 1..=2 {
        swap();
        let repaired = repair();
        assert_eq!(repaired.len(), 2, "{repaired:?}");
        assert!(repaired.iter().all(|one| one.lost.is_empty() && one.kept > 0), "{repaired:?}");
        assert_eq!(fs::read_dir(&salvage).unwrap().count(), 2 * round);
    }
    assert_eq!(read(&folder.open().unwrap().0).len(), 12);
}

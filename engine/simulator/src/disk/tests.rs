use std::path::Path;

use brokers::disk::{Disk, Open};

use super::SimDisk;

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(1 << 20, seed);
    disk.create_folder(Path::new("data")).unwrap();
    disk.sync_folder(Path::new("")).unwrap();
    disk
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    brokers::disk::read(disk, &Path::new("data").join(name)).ok()
}

#[test]
fn what_was_synced_with_its_name_is_there_after_every_power_cut() {
    for seed in 0..500 {
        let disk = disk(seed);
        let path = Path::new("data/a");
        let file = disk.open(path, Open::Create).unwrap();
        file.write_all_at(b"kept", 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_folder(Path::new("data")).unwrap();
        file.write_all_at(b"perhaps", 4).unwrap();
        disk.power_off();
        assert!(file.read_at(&mut [0; 4], 0).is_err());
        disk.power_on();
        let bytes = content(&disk, "a").unwrap();
        assert_eq!(&bytes[..4], b"kept", "seed {seed}");
    }
}

#[test]
fn what_was_not_synced_is_lost_kept_and_torn_in_some_power_cut() {
    let (mut lost, mut kept, mut torn, mut no_name) = (0, 0, 0, 0);
    for seed in 0..500 {
        let disk = disk(seed);
        let file = disk.open(Path::new("data/a"), Open::Create).unwrap();
        let bytes = vec![7; 4096];
        file.write_all_at(&bytes, 0).unwrap();
        disk.power_off();
        disk.power_on();
        match content(&disk, "a") {
            None => no_name += 1,
            Some(found) if found.is_empty() => lost += 1,
            Some(found) if found == bytes => kept += 1,
            Some(_) => torn += 1,
        }
    }
    assert!(lost > 20 && kept > 20 && torn > 20 && no_name > 20, "{lost} {kept} {torn} {no_name}");
}

#[test]
fn a_failed_sync_has_lost_what_readers_still_see() {
    let disk = disk(1);
    let file = disk.open(Path::new("data/a"), Open::Create).unwrap();
    file.sync_all().unwrap();
    disk.sync_folder(Path::new("data")).unwrap();
    file.write_all_at(b"seen", 0).unwrap();
    disk.fail_once_at(1);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "a").unwrap(), b"seen");
    disk.power_off();
    disk.power_on();
    assert_eq!(content(&disk, "a").unwrap(), b"");
}

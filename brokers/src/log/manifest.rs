//! What a shard must hold, kept apart from what it holds: so that a segment that is lost, or the lost end of one, or the
//! whole folder, shows.
//!
//! ```text
//! manifests/shard-000   list, one slot of it │ list, the other slot │ mark         a sector of 512 bytes each
//! list                  sequence u64 │ first offset u64 │ last segment u64 │ end u64 │ CRC32C u32
//! mark                  durable upto u64 │ CRC32C u32
//! ```
//!
//! The *list* is synced whenever a segment comes or goes: the first offset that is kept before what lies below it is deleted,
//! the last segment before anything in it is acknowledged.
//!
//! The *mark* says up to where the shard is durable. It is written behind the sync of each commit and before anybody is told,
//! so a killed process leaves it true: nothing acknowledged can be missing without a word. It is synced with the next list, after
//! [`MARK_AFTER`] without a commit, and once a second under load. A sync of its own for each commit would double what an
//! acknowledgement costs; what that leaves open is two faults at once, a power cut within that time and a disk that loses
//! what it had synced.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::disk::{self, Disk, DiskFile, Open};

/// So long without a commit, the mark is synced.
pub(super) const MARK_AFTER: Duration = Duration::from_millis(10);
/// The folder of all manifests, beside those of the shards.
pub(super) const FOLDER: &str = "manifests";
const SECTOR_BYTES: usize = 512;
/// No segment.
const NONE: u64 = u64::MAX;

/// What a shard must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List {
    /// First offset that is kept.
    pub(super) first_offset: u64,
    /// First offset of the last segment.
    pub(super) last: Option<u64>,
    /// The offset behind the last record, as far as it was known then.
    pub(super) end: u64,
}

/// The manifest of a shard that is written.
#[derive(Debug)]
pub(super) struct Manifest {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    list: List,
    mark: u64,
    marked_durably: u64,
}

/// What a manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// It was being made when the process or the power ended: nothing was acknowledged before it was there.
    Empty,
    /// This, with the sequence of the list.
    Says {
        sequence: u64,
        list: List,
        /// All below was durable.
        mark: u64,
    },
    /// It is damaged.
    Damaged,
}

/// Where the manifest of the shard with this folder is.
pub(super) fn path_of(folder: &Path) -> PathBuf {
    folder.with_file_name(FOLDER).join(folder.file_name().unwrap_or_default())
}

/// Reads a shard's manifest.
pub(super) fn read(disk: &dyn Disk, folder: &Path) -> io::Result<Found> {
    let bytes = match disk::read(disk, &path_of(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other?,
    };
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Found::Empty);
    }
    let sector = |number: usize| bytes.get(number * SECTOR_BYTES..(number + 1) * SECTOR_BYTES);
    let newest =
        [0, 1].into_iter().filter_map(|slot| decode_list(sector(slot)?)).max_by_key(|(number, _)| *number);
    let (Some((sequence, list)), Some(mark)) = (newest, sector(2).and_then(decode_mark)) else {
        return Ok(Found::Damaged);
    };
    // One that was torn is the older one's successor and was never relied on; two that are whole follow each other.
    Ok(Found::Says { sequence, list, mark: mark.max(list.end) })
}

impl Manifest {
    /// Goes on behind what was found, or makes one.
    pub(super) fn open(disk: &dyn Disk, folder: &Path, found: Found, list: List) -> io::Result<Self> {
        let file = disk.open(&path_of(folder), Open::Create)?;
        let sequence = match found {
            Found::Says { sequence, .. } => sequence,
            Found::Nothing | Found::Empty | Found::Damaged => {
                // Its room, so that it can be written on a full disk.
                file.write_all_at(&[0; 3 * SECTOR_BYTES], 0)?;
                0
            }
        };
        let mut manifest = Self { file, sequence, list, mark: list.end, marked_durably: 0 };
        manifest.write_mark()?;
        manifest.set(list)?;
        if sequence == 0 {
            disk.sync_folder(&folder.with_file_name(FOLDER))?;
        }
        Ok(manifest)
    }

    /// What it says.
    pub(super) fn list(&self) -> List {
        self.list
    }

    /// Says something else, durably.
    pub(super) fn set(&mut self, list: List) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file.write_all_at(&encode_list(sequence, &list), (sequence % 2) * SECTOR_BYTES as u64)?;
        self.file.sync_data()?;
        (self.sequence, self.list, self.marked_durably) = (sequence, list, self.mark);
        Ok(())
    }

    /// All below is durable: every later reader knows, as long as the machine runs.
    pub(super) fn mark(&mut self, durable_upto: u64) -> io::Result<()> {
        self.mark = durable_upto;
        self.write_mark()
    }

    fn write_mark(&self) -> io::Result<()> {
        let mut sector = [0; SECTOR_BYTES];
        sector[..8].copy_from_slice(&self.mark.to_le_bytes());
        let crc = crc32c::crc32c(&sector[..8]);
        sector[8..12].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&sector, 2 * SECTOR_BYTES as u64)
    }

    /// Whether there is nothing to be synced.
    pub(super) fn is_mark_durable(&self) -> bool {
        self.marked_durably >= self.mark
    }

    /// Makes the mark durable, if it is not.
    pub(super) fn sync_mark(&mut self) -> io::Result<()> {
        if !self.is_mark_durable() {
            self.file.sync_data()?;
            self.marked_durably = self.mark;
        }
        Ok(())
    }
}

fn encode_list(sequence: u64, list: &List) -> Vec<u8> {
    let mut sector = Vec::with_capacity(SECTOR_BYTES);
    for number in [sequence, list.first_offset, list.last.unwrap_or(NONE), list.end] {
        sector.extend_from_slice(&number.to_le_bytes());
    }
    sector.extend_from_slice(&crc32c::crc32c(&sector).to_le_bytes());
    sector.resize(SECTOR_BYTES, 0);
    sector
}

fn decode_list(sector: &[u8]) -> Option<(u64, List)> {
    let (numbers, crc) = (sector.get(..32)?, sector.get(32..36)?);
    if crc32c::crc32c(numbers).to_le_bytes() != crc {
        return None;
    }
    let number = |at: usize| numbers.get(at * 8..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let last = number(2).map(|last| (last != NONE).then_some(last))?;
    let sequence = number(0).filter(|sequence| *sequence > 0)?;
    Some((sequence, List { first_offset: number(1)?, last, end: number(3)? }))
}

fn decode_mark(sector: &[u8]) -> Option<u64> {
    let (number, crc) = (sector.first_chunk::<8>()?, sector.get(8..12)?);
    (crc32c::crc32c(number).to_le_bytes() == crc).then_some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Machine;

    #[test]
    fn every_flipped_bit_shows_or_leaves_what_was_said_before() {
        let data = std::env::temp_dir().join(format!("tidegate-manifest-{}", std::process::id()));
        std::fs::create_dir_all(data.join(FOLDER)).unwrap();
        let folder = data.join("shard-000");
        let list = |end| List { first_offset: 3, last: Some(7), end };
        let mut manifest = Manifest::open(&Machine, &folder, Found::Nothing, list(10)).unwrap();
        manifest.set(list(20)).unwrap();
        manifest.mark(25).unwrap();
        let said = read(&Machine, &folder).unwrap();
        assert_eq!(said, Found::Says { sequence: 2, list: list(20), mark: 25 });
        let bytes = std::fs::read(path_of(&folder)).unwrap();
        for bit in (0..36 * 8).chain(512 * 8..(512 + 36) * 8).chain(1024 * 8..(1024 + 12) * 8) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(path_of(&folder), &flipped).unwrap();
            match read(&Machine, &folder).unwrap() {
                Found::Damaged => {}
                Found::Says { sequence, list: found, mark } => {
                    assert!(mark == 25 && (sequence == 2 || found == list(10)), "bit {bit}");
                }
                other => panic!("bit {bit}: {other:?}"),
            }
        }
        std::fs::remove_dir_all(data).unwrap();
    }
}

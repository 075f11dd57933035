//! Segment files: their names, how they come into being, and how one is read through from end to end.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::format::{
    ALIGNMENT, Found, Kind, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, look,
    next_offset as behind_record,
};
use crate::disk::{Disk, DiskFile, Open};

/// A segment that is allocated and not in use yet.
const PREPARED: &str = "prepared.tmp";

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// Offset of its first record.
    pub first_offset: u64,
    /// The run that wrote it.
    pub epoch: u64,
    /// When it was begun, in milliseconds of the Unix epoch.
    pub created_ms: u64,
    /// Its length, preallocated room included.
    pub bytes: u64,
}

/// The folder of a shard.
pub(super) fn folder_of(directory: &Path, shard: usize) -> PathBuf {
    directory.join(format!("shard-{shard:03}"))
}

/// The shards that have a folder.
pub(super) fn shards(disk: &dyn Disk, directory: &Path) -> io::Result<Vec<usize>> {
    let number = |name: &String| name.strip_prefix("shard-")?.parse::<usize>().ok();
    let mut shards: Vec<usize> = disk.list(directory)?.iter().filter_map(number).collect();
    shards.sort_unstable();
    Ok(shards)
}

/// The segment files of a folder by first offset, whatever is in them.
pub(super) fn paths(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for name in disk.list(folder)? {
        if let Some(first) = name.strip_suffix(".segment").and_then(|digits| digits.parse().ok()) {
            found.push((first, folder.join(name)));
        }
    }
    found.sort();
    Ok(found)
}

/// Allocates a segment under a name that says that it is not in use.
pub(super) fn prepare(disk: &dyn Disk, folder: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(&folder.join(PREPARED), Open::Empty)?;
    file.allocate(bytes)?;
    file.sync_all()?;
    disk.sync_folder(folder)?;
    Ok(file)
}

/// Makes a prepared segment the one with this header. Nothing needs to be allocated for it.
pub(super) fn put_in_use(
    disk: &dyn Disk,
    folder: &Path,
    file: &dyn DiskFile,
    header: &SegmentHeader,
) -> io::Result<Segment> {
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    let path = folder.join(format!("{:020}.segment", header.first_offset));
    disk.rename(&folder.join(PREPARED), &path)?;
    disk.sync_folder(folder)?;
    Ok(Segment {
        path,
        first_offset: header.first_offset,
        epoch: header.epoch,
        created_ms: header.created_ms,
        bytes: file.length()?,
    })
}

/// Removes what was prepared and never used.
pub(super) fn remove_prepared(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    match disk.remove(&folder.join(PREPARED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Its header; `None` when that is damaged.
    pub header: Option<SegmentHeader>,
    /// Position behind the last valid record of the run of valid records from the start.
    pub end: u64,
    /// The offset that is due there.
    pub next_offset: u64,
    /// Messages up to there.
    pub records: u64,
    /// The strongest proof: everything below this offset was durable.
    pub proven: u64,
    /// What follows `end`.
    pub after: After,
}

/// What stands behind the last of the valid records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing but zeros.
    Zeros,
    /// Bytes that are no record, this far, and no valid record behind them.
    Garbage {
        /// Position behind the last byte that is not zero.
        end: u64,
    },
    /// Bytes that are no record, and valid records behind them.
    Records {
        /// Offset of the first of those.
        first: u64,
        /// The strongest proof among them.
        proven: u64,
    },
}

/// Reads a segment through, from memory: a segment is small.
pub(super) fn scan(bytes: &[u8], mut each: impl FnMut(u64, &RecordHeader, &[u8])) -> Scan {
    let Some(header) = SegmentHeader::decode(bytes) else {
        let after = garbage(bytes, 0);
        return Scan { header: None, end: 0, next_offset: 0, records: 0, proven: 0, after };
    };
    let (mut at, mut next_offset, mut records) = (SEGMENT_HEADER_BYTES, header.first_offset, 0);
    let mut proven = 0;
    while let Found::Record(record, payload) = look(&bytes[at..], header.epoch)
        && record.offset == next_offset
    {
        proven = proven.max(record.proves_durable());
        if record.kind == Kind::Message {
            each(at as u64, &record, payload);
            records += 1;
        }
        next_offset = behind_record(&record, payload);
        at += record.stride();
    }
    let mut scan = Scan {
        header: Some(header),
        end: at as u64,
        next_offset,
        records,
        proven,
        after: garbage(bytes, at),
    };
    if scan.after != After::Zeros {
        let mut behind = at + ALIGNMENT;
        let mut found: Option<(u64, u64)> = None;
        while behind < bytes.len() {
            match look(&bytes[behind..], header.epoch) {
                // An older record of the same offsets is none of ours.
                Found::Record(record, _) if record.offset >= next_offset => {
                    let (first, strongest) = found.unwrap_or((record.offset, 0));
                    found = Some((first, strongest.max(record.proves_durable())));
                    behind += record.stride();
                }
                _ => behind += ALIGNMENT,
            }
        }
        if let Some((first, proven)) = found {
            scan.after = After::Records { first, proven };
        }
    }
    scan
}

fn garbage(bytes: &[u8], from: usize) -> After {
    match bytes[from..].iter().rposition(|byte| *byte != 0) {
        None => After::Zeros,
        Some(last) => After::Garbage { end: (from + last + 1) as u64 },
    }
}

/// Every message of a segment that is whole, wherever it stands, in the order of the file.
pub(super) fn salvage(bytes: &[u8], epoch: u64, mut each: impl FnMut(&RecordHeader, &[u8])) {
    let mut at = SEGMENT_HEADER_BYTES;
    while at < bytes.len() {
        match look(&bytes[at..], epoch) {
            Found::Record(header, payload) => {
                if header.kind == Kind::Message {
                    each(&header, payload);
                }
                at += header.stride();
            }
            _ => at += ALIGNMENT,
        }
    }
}

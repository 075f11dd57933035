//! What the tools do with a log's folder: look through it, show it, cut damage out of it.
//!
//! All but [`repair`] only read, and may be used while a server writes: what it is just writing shows as a torn tail.

use std::path::{Path, PathBuf};

use engine_core::clock;

use super::{
    LogError, Positions, cursor,
    format::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
    segment::{self, After, Scan, scan},
    take_lock,
};
use crate::disk::{self, Disk, Open};

/// What is wrong in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Whole,
    /// The end of the last commit was not written in full; the next start cuts it off.
    TornTail {
        /// From this byte on.
        position: u64,
        /// So many bytes.
        bytes: u64,
    },
    /// Records that were acknowledged are damaged.
    Damaged {
        /// From this byte on.
        position: u64,
        /// The first offset that is missing.
        offset: u64,
        /// The first offset behind that is whole, if any.
        resumes: Option<u64>,
    },
}

/// A segment as [`verify`] finds it.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// Whose shard's.
    pub shard: usize,
    /// Where.
    pub path: PathBuf,
    /// First offset, as its name says.
    pub first_offset: u64,
    /// Offset behind its last valid record.
    pub next_offset: u64,
    /// Valid records.
    pub records: u64,
    /// Length of the file.
    pub bytes: u64,
    /// What is wrong.
    pub verdict: Verdict,
}

/// Looks through every segment.
///
/// # Errors
/// When files cannot be read.
pub fn verify(disk: &dyn Disk, directory: &Path) -> Result<Vec<SegmentReport>, LogError> {
    let mut reports = Vec::new();
    for shard in segment::shards(disk, directory).map_err(LogError::io("list", directory))? {
        let folder = segment::folder_of(directory, shard);
        let paths = segment::paths(disk, &folder).map_err(LogError::io("list", &folder))?;
        for (place, (first_offset, path)) in paths.iter().enumerate() {
            let bytes = disk::read(disk, path).map_err(LogError::io("read", path))?;
            let found = scan(&bytes, |_, _, _| {});
            let next = paths.get(place + 1).map(|(first, _)| *first);
            reports.push(SegmentReport {
                shard,
                path: path.clone(),
                first_offset: *first_offset,
                next_offset: found.next_offset,
                records: found.records,
                bytes: bytes.len() as u64,
                verdict: judge(&found, *first_offset, next),
            });
        }
    }
    Ok(reports)
}

fn judge(found: &Scan, first_offset: u64, next_segment: Option<u64>) -> Verdict {
    let damaged = |resumes| Verdict::Damaged { position: found.end, offset: found.next_offset, resumes };
    if found.header.is_none_or(|header| header.first_offset != first_offset) {
        return Verdict::Damaged { position: 0, offset: first_offset, resumes: next_segment };
    }
    match (found.after, next_segment) {
        (_, Some(next)) if next > found.next_offset => damaged(Some(next)),
        (After::Records { first, .. }, Some(_)) => damaged(Some(first)),
        (After::Records { first, proven }, None) if proven > found.next_offset => damaged(Some(first)),
        (After::Garbage { end }, Some(next)) if next >= found.next_offset => {
            Verdict::TornTail { position: found.end, bytes: end - found.end }
        }
        (After::Garbage { end }, None) => Verdict::TornTail { position: found.end, bytes: end - found.end },
        (After::Records { .. }, None) => Verdict::TornTail { position: found.end, bytes: 0 },
        (After::Zeros | After::Garbage { .. }, _) => Verdict::Whole,
    }
}

/// A record as [`dump`] shows it.
#[derive(Clone, Copy, Debug)]
pub struct Dumped<'a> {
    /// Its shard.
    pub shard: usize,
    /// Its offset.
    pub offset: u64,
    /// When it was appended, in milliseconds of the Unix epoch.
    pub appended_ms: u64,
    /// A message, see [`crate::entry`].
    pub payload: &'a [u8],
}

/// Shows every valid record in order, of one shard or of all; stops when `each` says false.
///
/// # Errors
/// When files cannot be read. Damaged parts are skipped: [`verify`] is for them.
pub fn dump(
    disk: &dyn Disk,
    directory: &Path,
    only: Option<usize>,
    mut each: impl FnMut(Dumped<'_>) -> bool,
) -> Result<(), LogError> {
    for shard in segment::shards(disk, directory).map_err(LogError::io("list", directory))? {
        if only.is_some_and(|only| only != shard) {
            continue;
        }
        let folder = segment::folder_of(directory, shard);
        let paths = segment::paths(disk, &folder).map_err(LogError::io("list", &folder))?;
        for (place, (_, path)) in paths.iter().enumerate() {
            // What a later segment holds as well counts there.
            let end = paths.get(place + 1).map_or(u64::MAX, |(first, _)| *first);
            let bytes = disk::read(disk, path).map_err(LogError::io("read", path))?;
            let mut go_on = true;
            scan(&bytes, |_, header, payload| {
                if go_on && header.offset < end {
                    let (offset, appended_ms) = (header.offset, header.appended_ms);
                    go_on = each(Dumped { shard, offset, appended_ms, payload });
                }
            });
            if !go_on {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The cursors of a folder with their positions.
///
/// # Errors
/// When they cannot be read.
pub fn cursors(disk: &dyn Disk, directory: &Path) -> Result<Vec<(String, Positions)>, LogError> {
    let folder = directory.join("cursors");
    cursor::all(disk, &folder).map_err(LogError::io("read", &folder))
}

/// Moves a cursor that no server uses.
///
/// # Errors
/// When it cannot be written.
pub fn advance_cursor(
    disk: &dyn Disk,
    directory: &Path,
    consumer: &str,
    shard: usize,
    upto: u64,
) -> Result<(), LogError> {
    let folder = directory.join("cursors");
    let io = || LogError::io("write a cursor in", &folder);
    disk::create_folders(disk, &folder).map_err(io())?;
    let cursor = cursor::Cursor::open(disk, &folder, consumer, Default::default).map_err(io())?;
    cursor.advance(shard, upto);
    cursor.flush().map_err(io())
}

/// What [`repair`] did to a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Whose shard's.
    pub shard: usize,
    /// The segment.
    pub path: PathBuf,
    /// Where its bytes were copied as they were.
    pub copy: PathBuf,
    /// Messages that were whole, and were kept.
    pub kept: u64,
    /// Offsets that are lost, each from … to before …
    pub lost: Vec<(u64, u64)>,
    /// Whether more may be lost behind these: the segment was the shard's last.
    pub open_end: bool,
}

/// Copies every damaged segment to `salvage`, then writes it anew from its whole messages, with the lost ones marked, so
/// that the log opens again.
///
/// # Errors
/// When another process uses the folder, or files cannot be read or written.
pub fn repair(disk: &dyn Disk, directory: &Path, salvage: &Path) -> Result<Vec<Repaired>, LogError> {
    let _lock = take_lock(disk, directory)?;
    disk::create_folders(disk, salvage).map_err(LogError::io("create", salvage))?;
    let mut repaired = Vec::new();
    let reports = verify(disk, directory)?;
    for (place, report) in reports.iter().enumerate() {
        if !matches!(report.verdict, Verdict::Damaged { .. }) {
            continue;
        }
        let name = format!("shard-{:03}-{:020}.segment", report.shard, report.first_offset);
        let copy = salvage.join(name);
        copy_file(disk, &report.path, &copy).map_err(LogError::io("copy", &report.path))?;
        let next = reports.get(place + 1).filter(|next| next.shard == report.shard);
        repaired.push(write_anew(disk, directory, report, copy, next.map(|next| next.first_offset))?);
    }
    Ok(repaired)
}

fn copy_file(disk: &dyn Disk, from: &Path, to: &Path) -> std::io::Result<()> {
    let bytes = disk::read(disk, from)?;
    let copy = disk.open(to, Open::Empty)?;
    copy.write_all_at(&bytes, 0)?;
    copy.sync_all()
}

fn write_anew(
    disk: &dyn Disk,
    directory: &Path,
    report: &SegmentReport,
    copy: PathBuf,
    next_segment: Option<u64>,
) -> Result<Repaired, LogError> {
    let bytes = disk::read(disk, &report.path).map_err(LogError::io("read", &report.path))?;
    // A damaged header takes the epoch with it; any whole record would have to be found without.
    let old_epoch = SegmentHeader::decode(&bytes).map_or(0, |header| header.epoch);
    let epoch = fastrand::u64(1..);
    let (mut records, mut lost, mut kept) = (Vec::new(), Vec::new(), 0);
    let mut due = report.first_offset;
    segment::salvage(&bytes, old_epoch, |header, payload| {
        // What an older record left behind, or what a later segment holds.
        if header.offset < due || next_segment.is_some_and(|next| header.offset >= next) {
            return;
        }
        if header.offset > due {
            lost.push((due, header.offset));
            format::append_gap(&mut records, epoch, due, header.offset, clock::wall_ms());
        }
        format::append(&mut records, epoch, (header.offset, 0), header.appended_ms, header.key_hash, |out| {
            out.extend_from_slice(payload);
        });
        due = header.offset + 1;
        kept += 1;
    });
    if let Some(next) = next_segment.filter(|next| *next > due) {
        lost.push((due, next));
        format::append_gap(&mut records, epoch, due, next, clock::wall_ms());
        due = next;
    }
    format::append_seal(&mut records, epoch, due, clock::wall_ms());
    let folder = segment::folder_of(directory, report.shard);
    let length = (SEGMENT_HEADER_BYTES + records.len()) as u64;
    let file =
        segment::prepare(disk, &folder, length).map_err(LogError::io("allocate a segment in", &folder))?;
    file.write_all_at(&records, SEGMENT_HEADER_BYTES as u64)
        .map_err(LogError::io("write a segment in", &folder))?;
    let header = SegmentHeader {
        shard: report.shard as u32,
        epoch,
        first_offset: report.first_offset,
        created_ms: clock::wall_ms(),
    };
    // It takes the damaged one's name and place.
    segment::put_in_use(disk, &folder, &*file, &header)
        .map_err(LogError::io("put in use a segment in", &folder))?;
    let (shard, path) = (report.shard, report.path.clone());
    Ok(Repaired { shard, path, copy, kept, lost, open_end: next_segment.is_none() })
}

//! Finding out at the start what is there: which records count, what is cut off, and what stops the start.
//!
//! A run never appends to what an earlier one left. Only the last segment of a shard can have a torn tail; what stands
//! behind its last valid record is cut off if nothing proves that it was ever durable (see [`super::format`]), and
//! stops the start otherwise.
//!
//! Valid records that nothing proves durable (the last commit, mostly) may be in the page cache only: after a failed
//! fdatasync Linux marks pages clean, and reading them back says nothing of the disk. So they are written again, into a
//! new segment, before they count. The old file keeps them; a segment that begins at their offset takes precedence.

use std::path::Path;

use engine_core::clock;

use super::{
    LogError,
    format::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
    segment::{self, After, Scan, Segment, scan},
};
use crate::disk::{self, Disk, Open};

/// What recovery found and did in one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardRecovery {
    /// Which shard.
    pub shard: usize,
    /// First offset that is there.
    pub first_offset: u64,
    /// Offset of the next message.
    pub next_offset: u64,
    /// Bytes of a torn tail that were cut off; nothing acknowledged was in them.
    pub torn_bytes: u64,
    /// Records of the last commit that were written again.
    pub rewritten: u64,
}

/// The segments of a shard after recovery.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Segment>,
    pub(super) report: ShardRecovery,
}

/// Recovers a shard. `needed` is the lowest offset that a consumer still wants: segments below it are not read.
pub(super) fn recover(
    disk: &dyn Disk,
    directory: &Path,
    shard: usize,
    epoch: u64,
    needed: u64,
    segment_bytes: u64,
) -> Result<Recovered, LogError> {
    let folder = segment::folder_of(directory, shard);
    segment::remove_prepared(disk, &folder).map_err(LogError::io("remove", &folder))?;
    let mut report = ShardRecovery { shard, ..ShardRecovery::default() };
    let mut segments: Vec<Segment> = Vec::new();
    let paths = segment::paths(disk, &folder).map_err(LogError::io("list", &folder))?;
    for (place, (first, path)) in paths.iter().enumerate() {
        let last = place + 1 == paths.len();
        if !last && paths[place + 1].0 <= needed {
            segments.push(unread(disk, path, shard)?);
            continue;
        }
        let bytes = disk::read(disk, path).map_err(LogError::io("read", path))?;
        let mut tail = Vec::new();
        let found = scan(&bytes, |at, header, _| tail.push((header.offset, at)));
        let Some(header) = found.header.filter(|header| header.first_offset == *first) else {
            if last && bytes.iter().all(|byte| *byte == 0) {
                // Created, and not a byte of it in use.
                disk.remove(path).map_err(LogError::io("remove", path))?;
                continue;
            }
            return Err(damaged(path, 0, "its header is damaged or another segment's"));
        };
        let mut kept = Segment {
            path: path.clone(),
            first_offset: *first,
            epoch: header.epoch,
            created_ms: header.created_ms,
            bytes: bytes.len() as u64,
        };
        check_end(path, &found, last, paths.get(place + 1).map(|(next, _)| *next))?;
        report.next_offset = found.next_offset;
        if !last {
            segments.push(kept);
            continue;
        }
        if let After::Garbage { end } = found.after {
            report.torn_bytes = end - found.end;
        }
        if let After::Records { .. } = found.after {
            report.torn_bytes = bytes.len() as u64 - found.end;
        }
        let proven = found.proven.clamp(*first, found.next_offset);
        if found.records == 0 {
            disk.remove(path).map_err(LogError::io("remove", path))?;
            disk.sync_folder(&folder).map_err(LogError::io("sync", &folder))?;
            continue;
        }
        // Room that was never used, and the torn tail.
        let file = disk.open(path, Open::Write).map_err(LogError::io("open", path))?;
        file.set_len(found.end).and_then(|()| file.sync_all()).map_err(LogError::io("truncate", path))?;
        kept.bytes = found.end;
        segments.push(kept);
        if proven < found.next_offset {
            report.rewritten = found.next_offset - proven;
            let from = tail.iter().find(|(offset, _)| *offset >= proven).map_or(0, |(_, at)| *at as usize);
            let again = rewrite(
                disk,
                &folder,
                shard,
                epoch,
                proven,
                &bytes[from..found.end as usize],
                &header,
                segment_bytes,
            )?;
            if proven == *first {
                // It has the same name: the new one has taken the old one's place.
                segments.pop();
            }
            segments.push(again);
        }
    }
    report.first_offset = segments.first().map_or(report.next_offset, |segment| segment.first_offset);
    Ok(Recovered { segments, report })
}

/// A segment that no consumer needs: only its header is looked at.
fn unread(disk: &dyn Disk, path: &Path, shard: usize) -> Result<Segment, LogError> {
    let file = disk.open(path, Open::Read).map_err(LogError::io("open", path))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    disk::read_up_to(&*file, &mut bytes, 0).map_err(LogError::io("read", path))?;
    let header = SegmentHeader::decode(&bytes)
        .filter(|header| header.shard as usize == shard)
        .ok_or_else(|| damaged(path, 0, "its header is damaged or another shard's"))?;
    Ok(Segment {
        path: path.to_owned(),
        first_offset: header.first_offset,
        epoch: header.epoch,
        created_ms: header.created_ms,
        bytes: file.length().map_err(LogError::io("read", path))?,
    })
}

/// Whether what stands behind the last valid record may stand there.
fn check_end(path: &Path, found: &Scan, last: bool, next_first: Option<u64>) -> Result<(), LogError> {
    let (end, next) = (found.end, found.next_offset);
    if let After::Records { first, proven } = found.after
        && (!last || proven > next)
    {
        let text = format!(
            "offset {next} is damaged, and offset {first} behind it is whole; what was there was acknowledged"
        );
        return Err(damaged(path, end, &text));
    }
    if !last {
        if next_first.is_some_and(|next_first| next_first > next) {
            let text = format!(
                "it ends before offset {next}, but the next segment begins at {}",
                next_first.unwrap_or_default()
            );
            return Err(damaged(path, end, &text));
        }
        if found.after != After::Zeros && next_first.is_none_or(|next_first| next_first >= next) {
            return Err(damaged(path, end, &format!("there is no valid record of offset {next}")));
        }
    }
    Ok(())
}

/// Writes records again, into a segment of their own.
#[expect(clippy::too_many_arguments, reason = "what a segment is made of")]
fn rewrite(
    disk: &dyn Disk,
    folder: &Path,
    shard: usize,
    epoch: u64,
    first_offset: u64,
    records: &[u8],
    old: &SegmentHeader,
    segment_bytes: u64,
) -> Result<Segment, LogError> {
    let mut bytes = Vec::with_capacity(records.len());
    let mut rest = records;
    let (mut offset, mut last_ms) = (first_offset, old.created_ms);
    while let format::Found::Record(header, payload) = format::look(rest, old.epoch) {
        if header.kind == format::Kind::Message {
            // One record a commit: all of it is durable before the segment has its name.
            format::append(&mut bytes, epoch, (offset, 0), header.appended_ms, header.key_hash, |out| {
                out.extend_from_slice(payload);
            });
            last_ms = header.appended_ms;
            offset += 1;
        }
        rest = &rest[header.stride()..];
    }
    format::append_seal(&mut bytes, epoch, offset, last_ms);
    let length = (SEGMENT_HEADER_BYTES + bytes.len()) as u64;
    let file = segment::prepare(disk, folder, length.min(segment_bytes).max(length))
        .map_err(LogError::io("allocate a segment in", folder))?;
    file.write_all_at(&bytes, SEGMENT_HEADER_BYTES as u64)
        .map_err(LogError::io("write a segment in", folder))?;
    let header = SegmentHeader { shard: shard as u32, epoch, first_offset, created_ms: clock::wall_ms() };
    segment::put_in_use(disk, folder, &*file, &header)
        .map_err(LogError::io("put in use a segment in", folder))
}

fn damaged(path: &Path, position: u64, what: &str) -> LogError {
    LogError::Damaged { path: path.to_owned(), position, what: what.to_owned() }
}

//! Finding out at the start what is there: which records count, what is cut off, and what stops the start.
//!
//! A run never appends to what an earlier one left. Only the last segment of a shard can have a torn tail; what stands
//! behind its last valid record is cut off if nothing proves that it was ever durable, and stops the start otherwise. Proof is a
//! later record (see [`super::format`]), and the [`manifest`], which also knows the segments: one that is
//! lost or cut short, at either end, stops the start.
//!
//! Valid records that nothing proves durable (the last commit, mostly) may be in the page cache only: after a failed
//! fdatasync Linux marks pages clean, and reading them back says nothing of the disk. So they are written again, into a
//! new segment, before they count. The old file keeps them; a segment that begins at their offset takes precedence.

use std::path::{Path, PathBuf};

use engine_core::clock;

use super::{
    LogError,
    format::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
    manifest::{self, Found, List, Manifest},
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
    pub(super) manifest: Manifest,
    pub(super) report: ShardRecovery,
}

/// What recovery is told of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The run that recovers.
    pub(super) epoch: u64,
    /// The lowest offset that a consumer still wants: segments below it are not read.
    pub(super) needed: u64,
    /// The highest offset that a consumer has come to.
    pub(super) reached: u64,
    /// Whether the shard has to have a manifest: an earlier version wrote none.
    pub(super) has_manifest: bool,
    /// Length of a segment.
    pub(super) segment_bytes: u64,
}

/// Recovers a shard.
pub(super) fn recover(
    disk: &dyn Disk,
    directory: &Path,
    shard: usize,
    known: Known,
) -> Result<Recovered, LogError> {
    let folder = segment::folder_of(directory, shard);
    segment::remove_prepared(disk, &folder).map_err(LogError::io("remove", &folder))?;
    let found = manifest::read(disk, &folder).map_err(LogError::io("read", manifest::path_of(&folder)))?;
    let mut paths = segment::paths(disk, &folder).map_err(LogError::io("list", &folder))?;
    let said = match found {
        Found::Says { list, mark, .. } => Some((list, mark)),
        Found::Damaged if known.has_manifest => {
            return Err(damaged(&manifest::path_of(&folder), 0, "it says nothing that is whole"));
        }
        Found::Nothing | Found::Empty if known.has_manifest => {
            let text = "there is no manifest, which says what has to be there";
            return Err(missing(shard, 0, None, text.to_owned()));
        }
        // It was being made, or an earlier version was here.
        Found::Nothing | Found::Empty | Found::Damaged => None,
    };
    if let Some((list, mark)) = said {
        drop_deleted(disk, &folder, &mut paths, list)?;
        check_list(shard, &paths, list, mark)?;
    }
    let proven = said.map_or(0, |(_, mark)| mark);
    let mut report = ShardRecovery { shard, ..ShardRecovery::default() };
    let mut segments: Vec<Segment> = Vec::new();
    // The last segment, as it was read; and where its records stand.
    let mut last_read = None;
    for (place, (first, path)) in paths.iter().enumerate() {
        let next = paths.get(place + 1).map(|(next, _)| *next);
        if next.is_some_and(|next| next <= known.needed) {
            segments.push(unread(disk, path, shard, *first)?);
            continue;
        }
        let bytes = disk::read(disk, path).map_err(LogError::io("read", path))?;
        let mut tail = Vec::new();
        let scanned = scan(&bytes, |at, header, _| tail.push((header.offset, at)));
        let is_it = |header: &SegmentHeader| header.first_offset == *first && header.shard as usize == shard;
        let Some(header) = scanned.header.filter(is_it) else {
            let is_listed = said.is_some_and(|(list, _)| list.last.is_some_and(|last| *first <= last));
            if next.is_none() && !is_listed && bytes.iter().all(|byte| *byte == 0) {
                // Created, and not a byte of it in use.
                disk.remove(path).map_err(LogError::io("remove", path))?;
                continue;
            }
            return Err(damaged(path, 0, "its header is damaged or another segment's"));
        };
        check_end(path, &scanned, next, proven)?;
        report.next_offset = scanned.next_offset;
        segments.push(Segment {
            path: path.clone(),
            first_offset: *first,
            epoch: header.epoch,
            created_ms: header.created_ms,
            bytes: bytes.len() as u64,
        });
        if next.is_none() {
            last_read = Some((header, scanned, bytes, tail));
        }
    }
    if segments.is_empty() {
        report.next_offset = said.map_or(0, |(list, _)| list.first_offset.max(list.end));
    }
    let promised = proven.max(if known.has_manifest { known.reached } else { 0 });
    if report.next_offset < promised {
        let text = "the end of what was written is lost".to_owned();
        return Err(missing(shard, report.next_offset, Some(promised), text));
    }
    // An older log that was emptied by retention goes on where its consumers are: offsets are never used twice.
    report.next_offset = report.next_offset.max(known.reached);
    report.first_offset = segments.first().map_or(report.next_offset, |segment| segment.first_offset);
    // An empty segment is about to be deleted.
    let is_empty =
        last_read.as_ref().is_some_and(|(header, scanned, ..)| scanned.next_offset == header.first_offset);
    let list = List {
        first_offset: report.first_offset,
        last: segments.iter().rev().nth(usize::from(is_empty)).map(|segment| segment.first_offset),
        end: proven,
    };
    if let Some((_, scanned, bytes, _)) = &last_read {
        report.torn_bytes = match scanned.after {
            After::Zeros => 0,
            After::Garbage { end } => end - scanned.end,
            After::Records { .. } => bytes.len() as u64 - scanned.end,
        };
    }
    let folder_io = |action| LogError::io(action, &folder);
    let mut manifest =
        Manifest::open(disk, &folder, found, list).map_err(folder_io("write the manifest of"))?;
    if let Some((header, scanned, bytes, tail)) = last_read {
        let again = end_segment(
            disk,
            &folder,
            shard,
            &known,
            &mut segments,
            &mut report,
            proven,
            &header,
            &scanned,
            &bytes,
            &tail,
        )?;
        segments.extend(again);
    }
    let list = List {
        first_offset: report.first_offset,
        last: segments.last().map(|segment| segment.first_offset),
        end: report.next_offset,
    };
    manifest.mark(report.next_offset).map_err(folder_io("write the manifest of"))?;
    manifest.set(list).map_err(folder_io("write the manifest of"))?;
    Ok(Recovered { segments, manifest, report })
}

/// Ends what an earlier run has left: cuts the last segment behind its last record, or deletes an empty one; writes what is not
/// proven durable again.
#[expect(clippy::too_many_arguments, reason = "everything that was read of the last segment")]
fn end_segment(
    disk: &dyn Disk,
    folder: &Path,
    shard: usize,
    known: &Known,
    segments: &mut Vec<Segment>,
    report: &mut ShardRecovery,
    proven: u64,
    header: &SegmentHeader,
    scanned: &Scan,
    bytes: &[u8],
    tail: &[(u64, u64)],
) -> Result<Option<Segment>, LogError> {
    let Some(last) = segments.last_mut() else { return Ok(None) };
    let path = last.path.clone();
    let first = last.first_offset;
    if scanned.next_offset == first {
        segments.pop();
        disk.remove(&path).map_err(LogError::io("remove", &path))?;
        disk.sync_folder(folder).map_err(LogError::io("sync", folder))?;
        return Ok(None);
    }
    // Room that was never used, and the torn tail.
    let file = disk.open(&path, Open::Write).map_err(LogError::io("open", &path))?;
    file.set_len(scanned.end).and_then(|()| file.sync_all()).map_err(LogError::io("truncate", &path))?;
    last.bytes = scanned.end;
    let proven = proven.max(scanned.proven).clamp(first, scanned.next_offset);
    if proven == scanned.next_offset {
        return Ok(None);
    }
    report.rewritten = scanned.next_offset - proven;
    let from = tail.iter().find(|(offset, _)| *offset >= proven).map_or(0, |(_, at)| *at as usize);
    let records = &bytes[from..scanned.end as usize];
    let again = rewrite(disk, folder, shard, known, proven, records, header)?;
    if proven == first {
        // It has the same name: the new one has taken the old one's place.
        segments.pop();
    }
    Ok(Some(again))
}

/// Deletes the segments that were about to be deleted when the process or the power ended.
fn drop_deleted(
    disk: &dyn Disk,
    folder: &Path,
    paths: &mut Vec<(u64, PathBuf)>,
    list: List,
) -> Result<(), LogError> {
    while paths.get(1).is_some_and(|(next, _)| *next <= list.first_offset) {
        let (_, path) = paths.remove(0);
        disk.remove(&path).map_err(LogError::io("delete", &path))?;
        disk.sync_folder(folder).map_err(LogError::io("sync", folder))?;
    }
    Ok(())
}

/// Whether the segments that have to be there are.
fn check_list(shard: usize, paths: &[(u64, PathBuf)], list: List, mark: u64) -> Result<(), LogError> {
    let end = list.end.max(mark);
    let Some(last) = list.last else { return Ok(()) };
    let first = paths.first().map(|(first, _)| *first);
    if first.is_none_or(|first| first > list.first_offset) {
        let upto = first.unwrap_or(end.max(last + 1));
        let text = format!("the segment that begins at offset {} is gone", list.first_offset);
        return Err(missing(shard, list.first_offset, Some(upto), text));
    }
    if !paths.iter().any(|(first, _)| *first == last) {
        let text = format!("the segment that begins at offset {last} is gone");
        let upto = (end > last).then_some(end);
        return Err(missing(shard, last, upto, text));
    }
    Ok(())
}

/// A segment that no consumer needs: only its header is looked at.
fn unread(disk: &dyn Disk, path: &Path, shard: usize, first: u64) -> Result<Segment, LogError> {
    let file = disk.open(path, Open::Read).map_err(LogError::io("open", path))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    disk::read_up_to(&*file, &mut bytes, 0).map_err(LogError::io("read", path))?;
    let header = SegmentHeader::decode(&bytes)
        .filter(|header| header.shard as usize == shard && header.first_offset == first)
        .ok_or_else(|| damaged(path, 0, "its header is damaged or another segment's"))?;
    Ok(Segment {
        path: path.to_owned(),
        first_offset: header.first_offset,
        epoch: header.epoch,
        created_ms: header.created_ms,
        bytes: file.length().map_err(LogError::io("read", path))?,
    })
}

/// Whether what stands behind the last valid record may stand there; `promised`: all below was durable.
fn check_end(path: &Path, found: &Scan, next_first: Option<u64>, promised: u64) -> Result<(), LogError> {
    let (end, next) = (found.end, found.next_offset);
    if let After::Records { first, proven } = found.after
        && (next_first.is_some() || proven.max(promised) > next)
    {
        let text = format!(
            "offset {next} is damaged, and offset {first} behind it is whole; what was there was acknowledged"
        );
        return Err(damaged(path, end, &text));
    }
    match next_first {
        None if promised > next => {
            let text = format!(
                "offsets {next} to {} were acknowledged as durable, and there is no valid record of them",
                promised - 1
            );
            Err(damaged(path, end, &text))
        }
        Some(next_first) if next_first > next => {
            let text = format!("it ends before offset {next}, but the next segment begins at {next_first}");
            Err(damaged(path, end, &text))
        }
        _ => Ok(()),
    }
}

/// Writes records again, into a segment of their own.
fn rewrite(
    disk: &dyn Disk,
    folder: &Path,
    shard: usize,
    known: &Known,
    first_offset: u64,
    records: &[u8],
    old: &SegmentHeader,
) -> Result<Segment, LogError> {
    let epoch = known.epoch;
    let mut bytes = Vec::with_capacity(records.len());
    let mut rest = records;
    let mut offset = first_offset;
    while let format::Found::Record(header, payload) = format::look(rest, old.epoch) {
        if header.kind == format::Kind::Message {
            // One record a commit: all of it is durable before the segment has its name.
            format::append(&mut bytes, epoch, (offset, 0), header.appended_ms, header.key_hash, |out| {
                out.extend_from_slice(payload);
            });
            offset += 1;
        }
        rest = &rest[header.stride()..];
    }
    let length = (SEGMENT_HEADER_BYTES + bytes.len()) as u64;
    let file = segment::prepare(disk, folder, length.min(known.segment_bytes).max(length))
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

fn missing(shard: usize, from: u64, upto: Option<u64>, what: String) -> LogError {
    LogError::Missing { shard, from, upto, what }
}

//! What the tools do with a log's folder: look through it, show it, cut damage out of it.
//!
//! All but [`repair`] only read, and may be used while a server writes: what it is just writing shows as a torn tail.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use engine_core::clock;

use super::{
    LogError, Positions, cursor,
    format::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
    manifest::{self, Found, List, Manifest},
    read_shard_count,
    segment::{self, After, Scan, scan},
    take_lock, write_shard_count,
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
        /// The first offset behind that is whole, if any; else the one behind the last that is known to be missing.
        resumes: Option<u64>,
    },
    /// It is whole, and another's: this shard's, with this first offset.
    Misplaced {
        /// Whose it is.
        shard: usize,
        /// Its first offset.
        first_offset: u64,
    },
}

impl Verdict {
    /// Whether something that was acknowledged is not where it should be.
    pub fn is_damage(&self) -> bool {
        matches!(self, Verdict::Damaged { .. } | Verdict::Misplaced { .. })
    }
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

/// Offsets that have to be there and are in no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Of which shard.
    pub shard: usize,
    /// The first.
    pub from: u64,
    /// Behind the last; the same when there may be none.
    pub upto: u64,
    /// What is not there.
    pub what: String,
}

/// What [`verify`] finds.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// By shard and first offset.
    pub segments: Vec<SegmentReport>,
    /// By shard.
    pub missing: Vec<Missing>,
    /// By shard: the offset behind the last that was ever acknowledged, as far as that is known.
    ends: BTreeMap<usize, u64>,
}

impl Verified {
    /// Whether nothing that was acknowledged is damaged or missing.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && !self.segments.iter().any(|report| report.verdict.is_damage())
    }
}

/// Looks through every segment, and whether all are there.
///
/// # Errors
/// When files cannot be read.
pub fn verify(disk: &dyn Disk, directory: &Path) -> Result<Verified, LogError> {
    walk(disk, directory, None, |_, _| true)
}

/// The same, of one shard or of all, with each segment's bytes given to `visit` until that says false.
fn walk(
    disk: &dyn Disk,
    directory: &Path,
    only: Option<usize>,
    mut visit: impl FnMut(&Visited<'_>, &[u8]) -> bool,
) -> Result<Verified, LogError> {
    let mut verified = Verified::default();
    let there = segment::shards(disk, directory).map_err(LogError::io("list", directory))?;
    let folders = there.last().map_or(0, |last| last + 1);
    let with_manifest = match read_shard_count(disk, directory) {
        Ok(count) => count,
        Err(LogError::Damaged { .. }) => {
            let what = "the number of shards, in the file `shards`".to_owned();
            verified.missing.push(Missing { shard: 0, from: 0, upto: 0, what });
            folders
        }
        Err(error) => return Err(error),
    };
    let cursors = cursors(disk, directory)?;
    for shard in (0..folders.max(with_manifest)).filter(|shard| only.is_none_or(|only| only == *shard)) {
        let reached = cursors.iter().filter_map(|(_, positions)| positions.get(&shard)).max().copied();
        let has_manifest = shard < with_manifest;
        if (has_manifest || there.contains(&shard))
            && !walk_shard(
                disk,
                directory,
                (shard, has_manifest, reached.unwrap_or(0)),
                &mut verified,
                &mut visit,
            )?
        {
            break;
        }
    }
    Ok(verified)
}

/// A segment that is looked at.
struct Visited<'a> {
    report: &'a SegmentReport,
    /// Where the next one begins: what both hold counts there.
    next: Option<u64>,
}

/// What is known of a shard beside its segments.
struct Promise {
    /// What the segments have to begin with, if that is known.
    first: Option<u64>,
    /// The segment that has to be there.
    last: Option<u64>,
    /// All below was durable.
    end: u64,
}

fn promise_of(found: Found, reached: u64, has_manifest: bool) -> Promise {
    match found {
        Found::Says { list, mark, .. } => {
            Promise { first: list.last.map(|_| list.first_offset), last: list.last, end: mark.max(reached) }
        }
        // An earlier version's log may have been emptied by retention.
        _ => Promise { first: None, last: None, end: if has_manifest { reached } else { 0 } },
    }
}

/// The manifest of a shard and the segments that it is about. A server may delete segments meanwhile, and says so in the
/// manifest before.
fn look_up(disk: &dyn Disk, folder: &Path) -> Result<(Found, Vec<(u64, PathBuf)>), LogError> {
    let read = || manifest::read(disk, folder).map_err(LogError::io("read", manifest::path_of(folder)));
    let list_of = |found| match found {
        Found::Says { sequence, .. } => Some(sequence),
        _ => None,
    };
    let mut found = read()?;
    loop {
        let paths = if disk.exists(folder) {
            segment::paths(disk, folder).map_err(LogError::io("list", folder))?
        } else {
            Vec::new()
        };
        let again = read()?;
        if list_of(again) == list_of(found) {
            return Ok((found, paths));
        }
        found = again;
    }
}

/// False: `visit` wants no more.
fn walk_shard(
    disk: &dyn Disk,
    directory: &Path,
    (shard, has_manifest, reached): (usize, bool, u64),
    verified: &mut Verified,
    visit: &mut impl FnMut(&Visited<'_>, &[u8]) -> bool,
) -> Result<bool, LogError> {
    let folder = segment::folder_of(directory, shard);
    let (found, mut paths) = look_up(disk, &folder)?;
    let promise = promise_of(found, reached, has_manifest);
    verified.ends.insert(shard, promise.end);
    let mut missing = |from: u64, upto: u64, what: String| {
        verified.missing.push(Missing { shard, from, upto: upto.max(from), what });
    };
    if has_manifest && !matches!(found, Found::Says { .. }) {
        missing(promise.end, promise.end, "its manifest, which says what has to be there".to_owned());
    }
    // About to be deleted when the process ended.
    while promise.first.is_some_and(|first| paths.get(1).is_some_and(|(next, _)| *next <= first)) {
        paths.remove(0);
    }
    let first = paths.first().map(|(first, _)| *first);
    if let Some(due) = promise.first
        && first.is_none_or(|first| first > due)
    {
        missing(due, first.unwrap_or(promise.end), format!("the segment that begins at offset {due}"));
    } else if let Some(last) = promise.last
        && !paths.iter().any(|(first, _)| *first == last)
    {
        let upto = if paths.last().is_some_and(|(first, _)| *first > last) { last } else { promise.end };
        missing(last, upto, format!("the segment that begins at offset {last}"));
    }
    for (place, (first_offset, path)) in paths.iter().enumerate() {
        let bytes = match disk::read(disk, path) {
            Ok(bytes) => bytes,
            // Deleted by a server that writes here: everybody has passed it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && is_let_go(disk, &folder, *first_offset) =>
            {
                continue;
            }
            Err(error) => return Err(LogError::io("read", path)(error)),
        };
        let found = scan(&bytes, |_, _, _| {});
        let next = paths.get(place + 1).map(|(first, _)| *first);
        let report = SegmentReport {
            shard,
            path: path.clone(),
            first_offset: *first_offset,
            next_offset: found.next_offset,
            records: found.records,
            bytes: bytes.len() as u64,
            verdict: judge(&found, (shard, *first_offset), next, &promise),
        };
        let goes_on = visit(&Visited { report: &report, next }, &bytes);
        verified.segments.push(report);
        if !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the manifest says that the segment with this first offset is not kept any more.
fn is_let_go(disk: &dyn Disk, folder: &Path, first_offset: u64) -> bool {
    let found = manifest::read(disk, folder);
    matches!(found, Ok(Found::Says { list, .. }) if list.first_offset > first_offset)
}

fn judge(
    found: &Scan,
    (shard, first_offset): (usize, u64),
    next_segment: Option<u64>,
    promise: &Promise,
) -> Verdict {
    let damaged = |resumes| Verdict::Damaged { position: found.end, offset: found.next_offset, resumes };
    let Some(header) = found.header else {
        let is_new = next_segment.is_none() && promise.last.is_some_and(|last| first_offset > last);
        if found.after == After::Zeros && (is_new || promise.last.is_none() && next_segment.is_none()) {
            // Created, and not a byte of it in use.
            return Verdict::Whole;
        }
        let resumes = next_segment.or(Some(promise.end)).filter(|upto| *upto > first_offset);
        return Verdict::Damaged { position: 0, offset: first_offset, resumes };
    };
    if (header.shard as usize, header.first_offset) != (shard, first_offset) {
        return Verdict::Misplaced { shard: header.shard as usize, first_offset: header.first_offset };
    }
    let is_short = next_segment.is_none() && promise.end > found.next_offset;
    match (found.after, next_segment) {
        (_, Some(next)) if next > found.next_offset => damaged(Some(next)),
        (After::Records { first, .. }, Some(_)) => damaged(Some(first)),
        (After::Records { first, proven }, None) if proven > found.next_offset || is_short => {
            damaged(Some(first))
        }
        (_, None) if is_short => damaged(Some(promise.end)),
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

/// Shows every valid record in order, of one shard or of all; stops when `each` says false. Returns the places where something
/// that was acknowledged is damaged or missing, and is not shown: [`verify`] says more of them.
///
/// # Errors
/// When files cannot be read.
pub fn dump(
    disk: &dyn Disk,
    directory: &Path,
    only: Option<usize>,
    mut each: impl FnMut(Dumped<'_>) -> bool,
) -> Result<Vec<String>, LogError> {
    let verified = walk(disk, directory, only, |Visited { report, next }, bytes| {
        if matches!(report.verdict, Verdict::Misplaced { .. }) {
            return true;
        }
        let end = next.unwrap_or(u64::MAX);
        let (mut due, mut go_on) = (report.first_offset, true);
        segment::salvage(bytes, epoch_of(bytes), |header, payload| {
            if go_on && header.offset >= due && header.offset < end {
                due = header.offset + 1;
                let (shard, offset, appended_ms) = (report.shard, header.offset, header.appended_ms);
                go_on = each(Dumped { shard, offset, appended_ms, payload });
            }
        });
        go_on
    })?;
    let missing = verified.missing.iter().map(|Missing { shard, from, what, .. }| {
        format!("shard {shard} from offset {from} on: {what} is not there")
    });
    let damaged = verified.segments.iter().filter(|report| report.verdict.is_damage());
    let damaged =
        damaged.map(|report| format!("{} from offset {} on", report.path.display(), report.next_offset));
    Ok(missing.chain(damaged).collect())
}

/// The epoch of a segment, which its header and each of its records hold; 0 when no whole one does.
fn epoch_of(bytes: &[u8]) -> u64 {
    SegmentHeader::decode(bytes)
        .map_or_else(|| format::first_epoch(bytes.get(SEGMENT_HEADER_BYTES..)), |header| header.epoch)
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

/// What [`repair`] did to a segment, or for one that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Whose shard's.
    pub shard: usize,
    /// The segment; the shard's folder when there is none.
    pub path: PathBuf,
    /// Where its bytes were copied as they were, if there were any.
    pub copy: Option<PathBuf>,
    /// Messages that were whole, and were kept.
    pub kept: u64,
    /// Offsets that are lost, each from … to before …
    pub lost: Vec<(u64, u64)>,
}

/// Makes a damaged log open again: copies every damaged segment to `salvage`, gives those that have another's name their own
/// back, writes the damaged ones anew from their whole messages with the lost ones marked, and says what is lost. Nothing that
/// is lost is given to another message: offsets go on behind the last that was ever acknowledged.
///
/// # Errors
/// When another process uses the folder, or files cannot be read or written.
pub fn repair(disk: &dyn Disk, directory: &Path, salvage: &Path) -> Result<Vec<Repaired>, LogError> {
    let _lock = take_lock(disk, directory)?;
    disk::create_folders(disk, salvage)
        .map_err(|error| LogError::Salvage { path: salvage.to_owned(), error })?;
    let verified = verify(disk, directory)?;
    if verified.is_whole() {
        return Ok(Vec::new());
    }
    let manifests = directory.join(manifest::FOLDER);
    disk::create_folders(disk, &manifests).map_err(LogError::io("create", &manifests))?;
    let mut repaired = put_in_place(disk, directory, salvage, &verified)?;
    let verified = verify(disk, directory)?;
    for Missing { shard, from, upto, .. } in &verified.missing {
        let (shard, path) = (*shard, segment::folder_of(directory, *shard));
        disk::create_folders(disk, &path).map_err(LogError::io("create", &path))?;
        // What lies behind a segment that is there is told of with that one.
        let has_before =
            verified.segments.iter().any(|report| report.shard == shard && report.first_offset <= *from);
        let lost = if upto > from && !has_before { vec![(*from, *upto)] } else { Vec::new() };
        if let Some((from, upto)) = lost.first() {
            // Whoever has come to an offset there finds where it goes on.
            write_segment(disk, &path, shard, *from, |records, epoch| {
                format::append_gap(records, epoch, *from, *upto, clock::wall_ms());
                *upto
            })?;
        }
        repaired.push(Repaired { shard, path, copy: None, kept: 0, lost });
    }
    let mut shards: Vec<usize> = verified.missing.iter().map(|missing| missing.shard).collect();
    for (place, report) in verified.segments.iter().enumerate() {
        let next = verified.segments.get(place + 1).filter(|next| next.shard == report.shard);
        if !report.verdict.is_damage() {
            continue;
        }
        shards.push(report.shard);
        let copy = copy_aside(disk, salvage, &report.path, report.shard)?;
        if matches!(report.verdict, Verdict::Misplaced { .. }) {
            // Its place is taken by another one that is whole.
            disk.remove(&report.path).map_err(LogError::io("remove", &report.path))?;
            continue;
        }
        let next = next.map(|next| next.first_offset);
        let due = next.or(verified.ends.get(&report.shard).copied());
        repaired.push(write_anew(disk, directory, report, copy, next, due)?);
    }
    shards.sort_unstable();
    shards.dedup();
    for shard in shards {
        restate(disk, directory, shard)?;
    }
    if let Some(last) = segment::shards(disk, directory).map_err(LogError::io("list", directory))?.last()
        && read_shard_count(disk, directory).ok() != Some(last + 1)
    {
        for shard in 0..=*last {
            restate(disk, directory, shard)?;
        }
        write_shard_count(disk, directory, last + 1)?;
    }
    Ok(repaired)
}

/// Gives segments that have each other's names their own back, as far as those are free.
fn put_in_place(
    disk: &dyn Disk,
    directory: &Path,
    salvage: &Path,
    verified: &Verified,
) -> Result<Vec<Repaired>, LogError> {
    let (mut whole, mut placed) = (Vec::new(), Vec::new());
    for report in &verified.segments {
        if let Verdict::Misplaced { shard, first_offset } = report.verdict {
            let bytes = disk::read(disk, &report.path).map_err(LogError::io("read", &report.path))?;
            let copy = copy_aside(disk, salvage, &report.path, report.shard)?;
            disk.remove(&report.path).map_err(LogError::io("remove", &report.path))?;
            whole.push((shard, first_offset, bytes, copy, report.records));
        }
    }
    for (shard, first_offset, bytes, copy, kept) in whole {
        let folder = segment::folder_of(directory, shard);
        let path = folder.join(format!("{first_offset:020}.segment"));
        if disk.exists(&folder) && !disk.exists(&path) {
            let written = disk.open(&path, Open::Empty).and_then(|file| {
                file.write_all_at(&bytes, 0)?;
                file.sync_all()
            });
            written.and_then(|()| disk.sync_folder(&folder)).map_err(LogError::io("write", &path))?;
            placed.push(Repaired { shard, path, copy: Some(copy), kept, lost: Vec::new() });
        }
    }
    Ok(placed)
}

/// Copies a file into the salvage folder, where nothing is ever written over: an earlier repair's copy may be all that is left.
fn copy_aside(disk: &dyn Disk, salvage: &Path, path: &Path, shard: usize) -> Result<PathBuf, LogError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("segment");
    let free = |copy: &PathBuf| !disk.exists(copy);
    let names = std::iter::once(String::new()).chain((1_u32..).map(|number| format!(".{number}")));
    let mut copies = names.map(|again| salvage.join(format!("shard-{shard:03}-{name}{again}")));
    let copy = copies.find(free).unwrap_or_else(|| salvage.to_owned());
    let bytes = disk::read(disk, path).map_err(LogError::io("read", path))?;
    let written = disk.open(&copy, Open::Empty).and_then(|file| {
        file.write_all_at(&bytes, 0)?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(copy),
        Err(error) => Err(LogError::Salvage { path: copy, error }),
    }
}

/// Says anew what a shard has to hold: what it holds.
fn restate(disk: &dyn Disk, directory: &Path, shard: usize) -> Result<(), LogError> {
    let folder = segment::folder_of(directory, shard);
    let path = manifest::path_of(&folder);
    let found = manifest::read(disk, &folder).map_err(LogError::io("read", &path))?;
    let reached = cursors(disk, directory)?;
    let reached = reached.iter().filter_map(|(_, positions)| positions.get(&shard)).max().copied();
    let promise = promise_of(found, reached.unwrap_or(0), true);
    let paths = segment::paths(disk, &folder).map_err(LogError::io("list", &folder))?;
    let end = match paths.last() {
        Some((_, path)) => {
            let bytes = disk::read(disk, path).map_err(LogError::io("read", path))?;
            scan(&bytes, |_, _, _| {}).next_offset
        }
        None => promise.end,
    };
    let list = List {
        first_offset: paths.first().map_or(end, |(first, _)| *first),
        last: paths.last().map(|(first, _)| *first),
        end,
    };
    Manifest::open(disk, &folder, found, list).map_err(LogError::io("write", &path))?;
    Ok(())
}

/// Writes a segment anew from its whole messages; `due`: the offset behind what has to be in it.
fn write_anew(
    disk: &dyn Disk,
    directory: &Path,
    report: &SegmentReport,
    copy: PathBuf,
    next_segment: Option<u64>,
    due_upto: Option<u64>,
) -> Result<Repaired, LogError> {
    let bytes = disk::read(disk, &report.path).map_err(LogError::io("read", &report.path))?;
    let (mut lost, mut kept) = (Vec::new(), 0);
    let folder = segment::folder_of(directory, report.shard);
    // It takes the damaged one's name and place.
    write_segment(disk, &folder, report.shard, report.first_offset, |records, epoch| {
        let mut due = report.first_offset;
        segment::salvage(&bytes, epoch_of(&bytes), |header, payload| {
            // What an older record left behind, or what a later segment holds.
            if header.offset < due || next_segment.is_some_and(|next| header.offset >= next) {
                return;
            }
            if header.offset > due {
                lost.push((due, header.offset));
                format::append_gap(records, epoch, due, header.offset, clock::wall_ms());
            }
            let place = (header.offset, 0);
            format::append(records, epoch, place, header.appended_ms, header.key_hash, |out| {
                out.extend_from_slice(payload);
            });
            due = header.offset + 1;
            kept += 1;
        });
        if let Some(upto) = due_upto.filter(|upto| *upto > due) {
            lost.push((due, upto));
            format::append_gap(records, epoch, due, upto, clock::wall_ms());
            due = upto;
        }
        due
    })?;
    let (shard, path) = (report.shard, report.path.clone());
    Ok(Repaired { shard, path, copy: Some(copy), kept, lost })
}

/// Writes a segment of the records that `fill` appends, which returns the offset behind them.
fn write_segment(
    disk: &dyn Disk,
    folder: &Path,
    shard: usize,
    first_offset: u64,
    fill: impl FnOnce(&mut Vec<u8>, u64) -> u64,
) -> Result<(), LogError> {
    let (mut records, epoch) = (Vec::new(), fastrand::u64(1..));
    let end = fill(&mut records, epoch);
    format::append_seal(&mut records, epoch, end, clock::wall_ms());
    let length = (SEGMENT_HEADER_BYTES + records.len()) as u64;
    let file =
        segment::prepare(disk, folder, length).map_err(LogError::io("allocate a segment in", folder))?;
    file.write_all_at(&records, SEGMENT_HEADER_BYTES as u64)
        .map_err(LogError::io("write a segment in", folder))?;
    let header = SegmentHeader { shard: shard as u32, epoch, first_offset, created_ms: clock::wall_ms() };
    segment::put_in_use(disk, folder, &*file, &header)
        .map_err(LogError::io("put in use a segment in", folder))?;
    Ok(())
}

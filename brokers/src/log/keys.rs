//! What repeats are recognised by, beside the segments: the fingerprints of a segment's messages that have an id of their
//! sender's, in a file of their own, so that a start need not read segments and so that they outlive theirs.
//!
//! ```text
//! shard-000/00000000000000000000.keys   header │ entry │ entry │ …                   numbers little endian
//! header   magic 8 │ version u32 │ shard u32 │ first offset u64 │ epoch of the segment u64 │ check of the hash key u64 │
//!          entries u64 │ newest, ms u64 │ CRC32C of the entries u32 │ CRC32C of the header u32
//! entry    id 16 │ content u64 │ home u64 │ hash of the partition key u64 │ offset u64 │ appended, ms u64
//! window.key   16 random bytes: the key of the hashes
//! ```
//!
//! The file is written while the segment is, and finished when the next one is begun. It is not synced then: as long as the
//! segment is there, a file that is missing, torn or of another segment is made from that. Before a segment is deleted its
//! file is read through and synced. It goes itself when all in it is older than the window's age, or when as many newer entries as
//! the windows hold stand behind it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use engine_core::clock;

use super::{
    Log, LogError,
    segment::{self, Segment},
    writer::ShardState,
};
use crate::{
    content,
    disk::{self, Disk, DiskFile, Open},
    entry,
    fingerprint::{Fingerprint, HashKey},
};

/// How long and how many repeats are to be recognised after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// Messages with an id of their sender's that all windows hold together.
    pub entries: usize,
    /// For how long.
    pub age: Duration,
}

/// A message with an id of its sender's, as its repeat is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What its repeat has, too.
    pub fingerprint: Fingerprint,
    /// What it is partitioned by.
    pub key_hash: u64,
    /// Where it is.
    pub offset: u64,
    /// When it was appended, in milliseconds of the Unix epoch.
    pub appended_ms: u64,
}

const MAGIC: &[u8; 8] = b"TIDEKEYS";
/// Another version hashes or writes in another way; its files are made again from the segments.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 56;
/// Bytes that are gathered before they are written.
const GATHERED_BYTES: usize = 64 << 10;
/// The file of the hash key.
const HASH_KEY: &str = "window.key";

/// What a log has of it.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) hash_key: HashKey,
    pub(super) repeats: Repeats,
}

/// A file of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeysFile {
    pub(super) first_offset: u64,
    epoch: u64,
    entries: u64,
    newest_ms: u64,
    entries_crc: u32,
}

/// Where it is.
fn path_of(folder: &Path, first_offset: u64) -> PathBuf {
    folder.join(format!("{first_offset:020}.keys"))
}

/// Reads the hash key of a data directory, or makes one.
pub(super) fn hash_key(disk: &dyn Disk, directory: &Path) -> Result<HashKey, LogError> {
    let path = directory.join(HASH_KEY);
    match disk::read(disk, &path) {
        Ok(bytes) => {
            if let Ok(bytes) = <[u8; HashKey::BYTES]>::try_from(bytes) {
                return Ok(HashKey::from_bytes(bytes));
            }
            tracing::warn!(
                path = %path.display(),
                "it does not hold 16 bytes and is made anew: repeats of what is in no segment any more are not recognised"
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(LogError::io("read", &path)(error)),
    }
    let hash_key = HashKey::random();
    let new = directory.join(format!("{HASH_KEY}.new"));
    let write = || {
        let file = disk.open(&new, Open::Private)?;
        file.write_all_at(hash_key.expose(), 0)?;
        file.sync_all()?;
        disk.rename(&new, &path)?;
        disk.sync_folder(directory)
    };
    write().map_err(LogError::io("write", &path))?;
    Ok(hash_key)
}

/// The files of a shard that can be of use, oldest first; clears away the others. `segments` are those that are there.
pub(super) fn find(
    disk: &dyn Disk,
    folder: &Path,
    shard: usize,
    segments: &[Segment],
    next_offset: u64,
    hash_key: &HashKey,
) -> io::Result<Vec<KeysFile>> {
    let mut found = Vec::new();
    let first_kept = segments.first().map_or(next_offset, |segment| segment.first_offset);
    for name in disk.list(folder)? {
        if name.ends_with(".keys.new") {
            disk.remove(&folder.join(name))?;
            continue;
        }
        let Some(first) = name.strip_suffix(".keys").and_then(|digits| digits.parse::<u64>().ok()) else {
            continue;
        };
        let path = folder.join(&name);
        let mut header = [0; HEADER_BYTES];
        disk::read_up_to(&*disk.open(&path, Open::Read)?, &mut header, 0)?;
        let file = decode_header(&header, shard, hash_key).filter(|file| file.first_offset == first);
        let segment = segments.iter().find(|segment| segment.first_offset == first);
        let is_of_use = match (&file, segment) {
            (Some(file), Some(segment)) => file.epoch == segment.epoch,
            // Of a segment that retention has deleted; what a repair has lost is not known any more.
            (Some(_), None) => first < first_kept,
            (None, _) => false,
        };
        if let Some(file) = file.filter(|_| is_of_use) {
            found.push(file);
            continue;
        }
        if segment.is_none() && first < first_kept {
            tracing::warn!(
                path = %path.display(),
                "it is damaged or goes with another window.key, and its segment is gone: repeats of what was in it are not recognised"
            );
        }
        disk.remove(&path)?;
    }
    found.sort_unstable_by_key(|file| file.first_offset);
    Ok(found)
}

fn encode_header(file: &KeysFile, shard: usize, check: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(shard as u32).to_le_bytes());
    for number in [file.first_offset, file.epoch, check, file.entries, file.newest_ms] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&file.entries_crc.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&bytes);
    header
}

fn decode_header(bytes: &[u8], shard: usize, hash_key: &HashKey) -> Option<KeysFile> {
    let (start, crc) = bytes.get(..HEADER_BYTES)?.split_last_chunk::<4>()?;
    if crc32c::crc32c(start).to_le_bytes() != *crc || !start.starts_with(MAGIC) {
        return None;
    }
    let short = |at: usize| start.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let long =
        |place: usize| start.get(16 + 8 * place..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if short(8)? != VERSION || short(12)? as usize != shard || long(2)? != hash_key.check() {
        return None;
    }
    Some(KeysFile {
        first_offset: long(0)?,
        epoch: long(1)?,
        entries: long(3)?,
        newest_ms: long(4)?,
        entries_crc: short(56)?,
    })
}

fn encode(known: &Known, out: &mut Vec<u8>) {
    let Known { fingerprint, key_hash, offset, appended_ms } = known;
    out.extend_from_slice(&fingerprint.id.to_le_bytes());
    for number in [fingerprint.content, fingerprint.home, *key_hash, *offset, *appended_ms] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn decode(bytes: &[u8; ENTRY_BYTES]) -> Known {
    let (id, numbers) = bytes.split_at(16);
    let number =
        |place: usize| numbers[8 * place..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Known {
        fingerprint: Fingerprint {
            id: id.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes)),
            content: number(0),
            home: number(1),
        },
        key_hash: number(2),
        offset: number(3),
        appended_ms: number(4),
    }
}

/// Reads a file, which is what its header said; `None` when it is not whole.
fn load(disk: &dyn Disk, folder: &Path, file: &KeysFile) -> io::Result<Option<Vec<Known>>> {
    let bytes = match disk::read(disk, &path_of(folder, file.first_offset)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let entries = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let is_whole = entries.len() as u64 == file.entries.saturating_mul(ENTRY_BYTES as u64)
        && crc32c::crc32c(entries) == file.entries_crc;
    Ok(is_whole.then(|| entries.as_chunks().0.iter().map(decode).collect()))
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    shard: usize,
    check: u64,
    file: KeysFile,
    gathered: Vec<u8>,
    /// There once more was gathered than is held in memory.
    open: Option<Arc<dyn DiskFile>>,
    written: u64,
    /// Something could not be written: there will be no file.
    has_failed: bool,
}

impl Spool {
    pub(super) fn new(
        folder: PathBuf,
        shard: usize,
        hash_key: &HashKey,
        first_offset: u64,
        epoch: u64,
    ) -> Self {
        let file = KeysFile { first_offset, epoch, entries: 0, newest_ms: 0, entries_crc: 0 };
        let check = hash_key.check();
        Self { folder, shard, check, file, gathered: Vec::new(), open: None, written: 0, has_failed: false }
    }

    /// Adds entries, in order.
    pub(super) fn add(&mut self, disk: &dyn Disk, entries: &[Known]) {
        if self.has_failed {
            return;
        }
        for known in entries {
            encode(known, &mut self.gathered);
            self.file.newest_ms = self.file.newest_ms.max(known.appended_ms);
            if self.gathered.len() >= GATHERED_BYTES
                && let Err(error) = self.write_gathered(disk)
            {
                self.give_up(disk, &error);
                return;
            }
        }
        self.file.entries += entries.len() as u64;
    }

    fn temporary(&self) -> PathBuf {
        path_of(&self.folder, self.file.first_offset).with_extension("keys.new")
    }

    fn write_gathered(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let file = match &self.open {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.open.insert(disk.open(&self.temporary(), Open::Empty)?)),
        };
        file.write_all_at(&self.gathered, HEADER_BYTES as u64 + self.written)?;
        self.file.entries_crc = crc32c::crc32c_append(self.file.entries_crc, &self.gathered);
        self.written += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    fn give_up(&mut self, disk: &dyn Disk, error: &io::Error) {
        tracing::debug!(shard = self.shard, %error, "the keys of a segment cannot be written beside it");
        self.has_failed = true;
        (self.gathered, self.open) = (Vec::new(), None);
        // It would be cleared away at the next start, too.
        let _ = disk.remove(&self.temporary());
    }

    /// Gives it its name. With `durably` it is synced.
    pub(super) fn finish(mut self, disk: &dyn Disk, durably: bool) -> io::Result<KeysFile> {
        if self.has_failed {
            return Err(io::Error::other("it was given up"));
        }
        let finished = self.try_finish(disk, durably);
        if let Err(error) = &finished {
            self.give_up(disk, error);
        }
        finished
    }

    fn try_finish(&mut self, disk: &dyn Disk, durably: bool) -> io::Result<KeysFile> {
        self.write_gathered(disk)?;
        let Some(file) = &self.open else { return Err(io::Error::other("no file")) };
        file.write_all_at(&encode_header(&self.file, self.shard, self.check), 0)?;
        if durably {
            file.sync_all()?;
        }
        disk.rename(&self.temporary(), &path_of(&self.folder, self.file.first_offset))?;
        if durably {
            disk.sync_folder(&self.folder)?;
        }
        Ok(self.file)
    }
}

/// A stretch of a shard whose messages can be recognised.
#[derive(Clone, Debug)]
struct Stretch {
    file: Option<KeysFile>,
    /// The segment, and where the next one begins.
    segment: Option<(Segment, Option<Segment>)>,
}

impl Log {
    /// The key of the hashes that repeats are recognised by, if the log keeps what that takes.
    pub fn hash_key(&self) -> Option<HashKey> {
        self.shared.keeping.as_ref().map(|keeping| keeping.hash_key.clone())
    }

    /// The last messages with an id of their sender's, `entries` at most and no older than `age`, over all shards; newest first,
    /// with the shard of each. To be called before anything is appended.
    pub fn known(&self, entries: usize, age: Duration) -> Vec<(usize, Known)> {
        let oldest_ms = clock::wall_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let mut shards: Vec<(usize, Vec<Stretch>, Vec<Known>)> =
            self.shards().into_iter().map(|shard| (shard, self.stretches(shard), Vec::new())).collect();
        let mut known = Vec::new();
        while known.len() < entries {
            for (shard, stretches, loaded) in &mut shards {
                while loaded.is_empty()
                    && let Some(stretch) = stretches.pop()
                {
                    if stretch.is_older(oldest_ms) {
                        stretches.clear();
                        break;
                    }
                    *loaded = self.entries_of(*shard, &stretch);
                    loaded.retain(|known| known.appended_ms > oldest_ms);
                    loaded.drain(..loaded.len().saturating_sub(entries));
                }
            }
            let newest = shards
                .iter_mut()
                .filter(|(.., loaded)| !loaded.is_empty())
                .max_by_key(|(.., loaded)| loaded.last().map(|known| known.appended_ms));
            let Some((shard, _, loaded)) = newest else { break };
            known.extend(loaded.pop().map(|known| (*shard, known)));
        }
        known
    }

    /// What there is of a shard, oldest first.
    fn stretches(&self, shard: usize) -> Vec<Stretch> {
        let Ok(state) = self.shard(shard) else { return Vec::new() };
        let segments = state.segments.lock().clone();
        let files = state.keys.lock().clone();
        let first_kept = segments.first().map_or(u64::MAX, |segment| segment.first_offset);
        let outlived = files.iter().filter(|file| file.first_offset < first_kept);
        let mut stretches: Vec<Stretch> =
            outlived.map(|file| Stretch { file: Some(*file), segment: None }).collect();
        for (place, segment) in segments.iter().enumerate() {
            let file = files.iter().find(|file| file.first_offset == segment.first_offset).copied();
            let next = segments.get(place + 1).cloned();
            stretches.push(Stretch { file, segment: Some((segment.clone(), next)) });
        }
        stretches
    }

    fn entries_of(&self, shard: usize, stretch: &Stretch) -> Vec<Known> {
        let folder = segment::folder_of(&self.config().directory, shard);
        if let Some(file) = &stretch.file {
            match load(self.disk(), &folder, file) {
                Ok(Some(entries)) => return entries,
                Ok(None) if stretch.segment.is_some() => {}
                Ok(None) => tracing::warn!(
                    shard,
                    first_offset = file.first_offset,
                    "the file of the keys of a deleted segment is damaged: their repeats are not recognised"
                ),
                Err(error) => tracing::warn!(
                    shard, first_offset = file.first_offset, %error,
                    "the file of the keys of a segment cannot be read"
                ),
            }
        }
        let Some((segment, next)) = &stretch.segment else { return Vec::new() };
        let entries = self.read_keys(shard, segment, next.as_ref());
        // So that the next start need not read the segment.
        if let (Some(keeping), Ok(state)) = (&self.shared.keeping, self.shard(shard)) {
            let mut spool = Spool::new(folder, shard, &keeping.hash_key, segment.first_offset, segment.epoch);
            spool.add(self.disk(), &entries);
            if let Ok(file) = spool.finish(self.disk(), false) {
                state.note_keys(file);
            }
        }
        entries
    }

    /// Reads them from the segment.
    fn read_keys(&self, shard: usize, segment: &Segment, next: Option<&Segment>) -> Vec<Known> {
        let Some(keeping) = &self.shared.keeping else { return Vec::new() };
        let end = next.map_or(u64::MAX, |next| next.first_offset);
        let (mut entries, mut reader) = (Vec::new(), self.reader(shard, segment.first_offset));
        let read = reader.read(usize::MAX, |offset, appended_ms, bytes| {
            if offset >= end {
                return false;
            }
            if let Ok(record) = entry::decode(bytes)
                && record.once
            {
                let fingerprint = content::fingerprint(&keeping.hash_key, &record);
                entries.push(Known { fingerprint, key_hash: record.key_hash, offset, appended_ms });
            }
            true
        });
        if let Err(error) = read {
            tracing::warn!(shard, %error, "repeats of what an earlier run kept are not recognised from here on");
        }
        entries
    }

    /// Has the oldest segment's keys outlive it. Returns those for which there is no room yet, to be written when it is
    /// gone.
    pub(super) fn keep_keys(
        &self,
        shard: usize,
        state: &ShardState,
        segment: &Segment,
        next: &Segment,
    ) -> io::Result<Option<Vec<Known>>> {
        let Some(keeping) = &self.shared.keeping else { return Ok(None) };
        let folder = segment::folder_of(&self.config().directory, shard);
        let file = state.keys.lock().iter().find(|file| file.first_offset == segment.first_offset).copied();
        if let Some(file) = file
            && let Some(entries) = load(self.disk(), &folder, &file)?
        {
            if entries.is_empty() {
                state.drop_keys(file.first_offset);
                self.disk().remove(&path_of(&folder, file.first_offset))?;
                return Ok(None);
            }
            let path = path_of(&folder, file.first_offset);
            let synced = self.disk().open(&path, Open::Write).and_then(|open| {
                open.sync_all()?;
                self.disk().sync_folder(&folder)
            });
            if synced.is_err() {
                // A later sync would say nothing of what this one has left out: it is written anew, from the segment.
                state.drop_keys(file.first_offset);
                let _ = self.disk().remove(&path);
            }
            return synced.map(|()| None);
        }
        if is_older(next.created_ms, keeping.repeats.age) {
            return Ok(None);
        }
        let mut entries = self.read_keys(shard, segment, Some(next));
        entries.drain(..entries.len().saturating_sub(keeping.repeats.entries));
        if entries.is_empty() {
            return Ok(None);
        }
        match self.write_keys(shard, state, segment, &entries) {
            Ok(()) => Ok(None),
            Err(error) if disk::is_full(&error) => Ok(Some(entries)),
            Err(error) => Err(error),
        }
    }

    /// Writes them durably.
    pub(super) fn write_keys(
        &self,
        shard: usize,
        state: &ShardState,
        segment: &Segment,
        entries: &[Known],
    ) -> io::Result<()> {
        let Some(keeping) = &self.shared.keeping else { return Ok(()) };
        let folder = segment::folder_of(&self.config().directory, shard);
        let mut spool = Spool::new(folder, shard, &keeping.hash_key, segment.first_offset, segment.epoch);
        for chunk in entries.chunks(GATHERED_BYTES / ENTRY_BYTES) {
            spool.add(self.disk(), chunk);
        }
        state.note_keys(spool.finish(self.disk(), true)?);
        Ok(())
    }

    /// Deletes the files of keys whose segments are gone and that nobody would be recognised by any more.
    pub(super) fn drop_old_keys(&self) -> Result<(), LogError> {
        let Some(keeping) = &self.shared.keeping else { return Ok(()) };
        for (shard, state) in &self.shared.shards {
            let first_kept = self.first_offset(*shard);
            let folder = segment::folder_of(&self.config().directory, *shard);
            let (mut newer, mut done) = (0, Vec::new());
            for file in state.keys.lock().iter().rev() {
                let is_done =
                    newer >= keeping.repeats.entries as u64 || is_older(file.newest_ms, keeping.repeats.age);
                if is_done && file.first_offset < first_kept {
                    done.push(file.first_offset);
                }
                newer += file.entries;
            }
            for first_offset in done {
                let path = path_of(&folder, first_offset);
                self.disk().remove(&path).map_err(LogError::io("delete", &path))?;
                state.drop_keys(first_offset);
            }
        }
        Ok(())
    }
}

impl Stretch {
    /// Whether all of it is from before this moment.
    fn is_older(&self, oldest_ms: u64) -> bool {
        match (&self.file, &self.segment) {
            (Some(file), _) => file.entries > 0 && file.newest_ms < oldest_ms,
            (None, Some((_, Some(next)))) => next.created_ms < oldest_ms,
            (None, _) => false,
        }
    }
}

fn is_older(ms: u64, age: Duration) -> bool {
    Duration::from_millis(clock::wall_ms().saturating_sub(ms)) > age
}

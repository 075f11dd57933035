//! The embedded durable log: a folder of segments for each shard, synced before anything is acknowledged.
//!
//! ```text
//! data.directory/
//!   LOCK                                held while a process writes here
//!   id, shards, consumers               what tells this log from others; how many shards it has; who has a cursor
//!   window.key                          what hashes are keyed by that repeats are recognised by
//!   cursors/workers, cursors/kafka …    how far each consumer has come
//!   manifests/shard-000 …               what each shard has to hold
//!   shard-000/00000000000000000000.segment …
//!   shard-000/00000000000000000000.keys …
//! ```
//!
//! [`format`] says what the bytes mean, [`writer`] how they get there, `manifest` what has to be there, [`recovery`] what
//! counts after a crash, [`reader`] how they are read back, [`cursor`] how consumers remember their place, `keys` by what
//! repeats are recognised after a restart, [`offline`] is for the tools.
//!
//! Segments are deleted by [`Log::maintain`] once every consumer's *durable* position has passed them and retention
//! allows. A log that has grown to `bytes_max` pushes back; it never drops what a consumer has not passed.

mod commit;
mod cursor;
pub mod format;
mod keys;
mod manifest;
pub mod offline;
mod reader;
pub mod recovery;
mod scrub;
pub mod segment;
mod uring;
pub mod writer;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use engine_core::clock;
use parking_lot::Mutex;

pub use self::{
    cursor::Cursor,
    keys::{ENTRY_BYTES, Known, Repeats},
    reader::Reader,
    recovery::ShardRecovery,
    scrub::Scrub,
    writer::{Commits, Health, OnProgress, Pushback, SYNC_BOUNDS_US, ShardWriter, Turn},
};
use self::{keys::Keeping, segment::Segment, writer::ShardState};
use crate::disk::{self, Disk, DiskLock, NotLocked, Open};

/// How the log writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// io_uring where the kernel gives one, else blocking calls.
    #[default]
    Auto,
    /// io_uring, or nothing.
    IoUring,
    /// pwrite and fdatasync.
    Blocking,
}

/// Whether commits are synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::manual_non_exhaustive, reason = "the hidden variant is for a test in another crate")]
pub enum Sync {
    /// With fdatasync.
    #[default]
    Fdatasync,
    /// Not at all: for the test that shows that it is the sync that keeps messages.
    #[doc(hidden)]
    Omitted,
}

/// What a log is to be.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Its folder.
    pub directory: PathBuf,
    /// Shards that will be written; folders of further ones are kept and read.
    pub shards: usize,
    /// Length of a segment, which also bounds a record.
    pub segment_bytes: u64,
    /// Length of all segments together, at most.
    pub bytes_max: u64,
    /// Bytes of consumed segments that are kept.
    pub retention_bytes: u64,
    /// How long consumed segments are kept at most.
    pub retention_age: Duration,
    /// How it writes.
    pub io: Io,
    /// Whether it syncs.
    pub sync: Sync,
    /// What is kept so that repeats are recognised after a restart; `None`: nothing.
    pub repeats: Option<Repeats>,
    /// The disk that the folder is on.
    pub disk: Arc<dyn Disk>,
}

impl LogConfig {
    /// The defaults, in this folder: 64 MiB segments, 10 GiB at most, 1 GiB or a day of consumed ones kept.
    pub fn new(directory: impl Into<PathBuf>, shards: usize) -> Self {
        Self {
            directory: directory.into(),
            shards,
            segment_bytes: 64 << 20,
            bytes_max: 10 << 30,
            retention_bytes: 1 << 30,
            retention_age: Duration::from_secs(86_400),
            io: Io::Auto,
            sync: Sync::Fdatasync,
            repeats: None,
            disk: disk::machine(),
        }
    }
}

/// Next offsets to consume, by shard.
pub type Positions = BTreeMap<usize, u64>;

/// Why the log cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process writes here.
    #[error(
        "data.directory = {path}: another process ({owner}) writes there; stop it, or give this one a directory of its own"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the other process wrote about itself.
        owner: String,
    },
    /// A system call failed.
    #[error("data.directory: cannot {action} {path}: {error}{}", hint(error))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What is to be salvaged cannot be copied.
    #[error(
        "cannot write the copy {path}: {error}; give `--salvage` a folder that can be written to and has room"
    )]
    Salvage {
        /// The copy.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Bytes that were acknowledged are damaged.
    #[error(
        "{path} is damaged at byte {position}: {what}. `tidegate log verify` shows what is there, `tidegate log repair --salvage DIR` copies it aside and cuts the damage out"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        position: u64,
        /// What is wrong.
        what: String,
    },
    /// Bytes that were acknowledged are not there.
    #[error(
        "shard {shard}: offsets from {from}{} were acknowledged as durable and are not there: {what}. Put the lost file back; or \
         `tidegate log verify` shows what is there, `tidegate log repair --salvage DIR` goes on without it",
        range_end(*upto)
    )]
    Missing {
        /// Which shard.
        shard: usize,
        /// The first offset that is not there.
        from: u64,
        /// The offset behind the last one, if that is known.
        upto: Option<u64>,
        /// What was found.
        what: String,
    },
    /// Records were deleted by retention before this reader came to them.
    #[error("shard {shard}: offset {offset} was deleted, the first one kept is {first}")]
    Gone {
        /// Which shard.
        shard: usize,
        /// The offset asked for.
        offset: u64,
        /// The first one there is.
        first: u64,
    },
}

fn range_end(upto: Option<u64>) -> String {
    upto.map_or_else(|| " on".to_owned(), |upto| format!(" to {}", upto.saturating_sub(1)))
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; make it writable for this user, or set data.directory to another place"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some room, or set data.directory to another disk"
        }
        io::ErrorKind::FileTooLarge => {
            "; raise this process's limit of a file's size (ulimit -f, LimitFSIZE), or lower data.segment_bytes"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; set data.directory to a folder, or to where one can be made"
        }
        _ => "",
    }
}

impl LogError {
    /// Wraps an I/O error with what was tried on what.
    pub(super) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> LogError {
        let path = path.as_ref().to_owned();
        move |error| LogError::Io { action, path, error }
    }
}

/// What was found at the start.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// By shard.
    pub shards: Vec<ShardRecovery>,
    /// Consumers that have a cursor here, with their positions.
    pub cursors: Vec<(String, Positions)>,
}

/// The log of a process. Clones share it.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: LogConfig,
    epoch: u64,
    shards: BTreeMap<usize, Arc<ShardState>>,
    cursors: Mutex<Vec<Cursor>>,
    /// Consumers that ever had a cursor here: one whose file is lost is told from a new one.
    consumers: Mutex<Vec<String>>,
    /// By shard: what is kept whatever the consumers have passed.
    holds: Mutex<BTreeMap<usize, u64>>,
    /// One deletes at a time: between looking which segment is the oldest and taking it off the list.
    deleting: Mutex<()>,
    id: String,
    /// By what repeats are recognised, if that is kept.
    keeping: Option<Keeping>,
    /// Cursors of consumers that this run does not have; they hold what they have not passed.
    strangers: Vec<(String, Positions)>,
    lock: Lock,
    lock_is_gone: AtomicBool,
}

impl Log {
    /// Opens a folder, or makes it: takes its lock, and finds out what is there.
    ///
    /// # Errors
    /// [`LogError`], with the setting and the way out.
    pub fn open(config: LogConfig) -> Result<(Log, Recovery), LogError> {
        let (disk, directory) = (&*config.disk, &config.directory);
        disk::create_folders(disk, directory).map_err(LogError::io("create", directory))?;
        let lock = take_lock(disk, directory)?;
        let cursor_folder = directory.join("cursors");
        create_if_absent(disk, &cursor_folder).map_err(LogError::io("create", &cursor_folder))?;
        let manifests = directory.join(manifest::FOLDER);
        create_if_absent(disk, &manifests).map_err(LogError::io("create", &manifests))?;
        let with_manifest = read_shard_count(disk, directory)?;
        for shard in 0..config.shards.max(with_manifest) {
            let folder = segment::folder_of(directory, shard);
            create_if_absent(disk, &folder).map_err(LogError::io("create", &folder))?;
        }
        let id = id_of(disk, directory)?;
        let keeping = match config.repeats {
            Some(repeats) => Some(Keeping { hash_key: keys::hash_key(disk, directory)?, repeats }),
            None => None,
        };
        disk.sync_folder(directory).map_err(LogError::io("sync", directory))?;
        let cursors = cursor::all(disk, &cursor_folder).map_err(LogError::io("read", &cursor_folder))?;
        let consumers = match disk::read(disk, &directory.join(CONSUMERS)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect(),
            // An earlier version wrote none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                cursors.iter().map(|(name, _)| name.clone()).collect()
            }
            Err(error) => return Err(LogError::io("read", directory.join(CONSUMERS))(error)),
        };
        // 0 is what an unwritten header holds.
        let epoch = fastrand::u64(1..);
        let mut recovery = Recovery { cursors: cursors.clone(), ..Recovery::default() };
        let mut shards = BTreeMap::new();
        let there = segment::shards(disk, directory).map_err(LogError::io("list", directory))?;
        for shard in there.iter().copied() {
            let position = |(_, positions): &(String, Positions)| positions.get(&shard).copied().unwrap_or(0);
            let known = recovery::Known {
                epoch,
                needed: cursors.iter().map(position).min().unwrap_or(0),
                reached: cursors.iter().map(position).max().unwrap_or(0),
                has_manifest: shard < with_manifest,
                segment_bytes: config.segment_bytes,
            };
            let found = recovery::recover(disk, directory, shard, known)?;
            let (folder, next_offset) = (segment::folder_of(directory, shard), found.report.next_offset);
            let keys = keeping.as_ref().map(|Keeping { hash_key, .. }| {
                keys::find(disk, &folder, shard, &found.segments, next_offset, hash_key)
            });
            let keys = keys.transpose().map_err(LogError::io("read the keys in", &folder))?;
            let state =
                ShardState::new(shard, next_offset, found.segments, found.manifest, keys.unwrap_or_default());
            shards.insert(shard, Arc::new(state));
            recovery.shards.push(found.report);
        }
        let count = there.last().map_or(0, |last| last + 1);
        if count > with_manifest {
            write_shard_count(disk, directory, count)?;
        }
        let shared = Shared {
            config,
            id,
            keeping,
            epoch,
            shards,
            cursors: Mutex::default(),
            consumers: Mutex::new(consumers),
            holds: Mutex::default(),
            deleting: Mutex::default(),
            strangers: cursors,
            lock,
            lock_is_gone: AtomicBool::new(false),
        };
        Ok((Log { shared: Arc::new(shared) }, recovery))
    }

    /// What it was opened with.
    pub fn config(&self) -> &LogConfig {
        &self.shared.config
    }

    /// What tells this log from every other one: made up at random with it, and kept in its folder.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    fn disk(&self) -> &dyn Disk {
        &*self.shared.config.disk
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// The shards that have a folder.
    pub fn shards(&self) -> Vec<usize> {
        self.shared.shards.keys().copied().collect()
    }

    fn shard(&self, shard: usize) -> Result<&Arc<ShardState>, LogError> {
        self.shared.shards.get(&shard).ok_or(LogError::Gone { shard, offset: 0, first: 0 })
    }

    /// The writer of a shard, and its thread. There is one at a time.
    ///
    /// # Errors
    /// When the ring or the thread cannot be had.
    pub fn writer(&self, shard: usize, on_progress: OnProgress) -> Result<ShardWriter, LogError> {
        let state = Arc::clone(self.shard(shard)?);
        ShardWriter::start(self, state, on_progress)
            .map_err(LogError::io("start writing in", segment::folder_of(&self.config().directory, shard)))
    }

    /// The writer of a shard without a thread: the caller takes the turns of its other end.
    ///
    /// # Errors
    /// When the first segment cannot be had.
    pub fn writer_apart(
        &self,
        shard: usize,
        on_progress: OnProgress,
    ) -> Result<(ShardWriter, Commits), LogError> {
        let state = Arc::clone(self.shard(shard)?);
        ShardWriter::apart(self, state, on_progress)
            .map_err(LogError::io("start writing in", segment::folder_of(&self.config().directory, shard)))
    }

    /// Reads a shard from an offset on.
    pub fn reader(&self, shard: usize, from: u64) -> Reader {
        Reader::new(self.clone(), shard, from)
    }

    /// Offsets below are durable.
    pub fn durable_upto(&self, shard: usize) -> u64 {
        self.shared.shards.get(&shard).map_or(0, |state| state.durable_upto.load(Ordering::Acquire))
    }

    /// The first offset that is still there.
    pub fn first_offset(&self, shard: usize) -> u64 {
        let Some(state) = self.shared.shards.get(&shard) else { return 0 };
        let first = state.segments.lock().first().map(|segment| segment.first_offset);
        first.unwrap_or_else(|| state.durable_upto.load(Ordering::Acquire))
    }

    /// The cursor of a consumer; from now on retention waits for it. A new consumer starts where the slowest of the
    /// known ones is, or at the first record; one whose place is lost at the first record.
    ///
    /// # Errors
    /// When its file cannot be read or made.
    pub fn cursor(&self, consumer: &str) -> Result<Cursor, LogError> {
        let folder = self.config().directory.join("cursors");
        let mut consumers = self.shared.consumers.lock();
        let is_new = !consumers.iter().any(|known| known == consumer);
        let start = || {
            let of = |shard: usize| {
                let others = self.shared.strangers.iter().filter(|(name, _)| name != consumer);
                let known = others.map(|(_, positions)| positions.get(&shard).copied());
                let first = self.first_offset(shard);
                let slowest = known.map(|position| position.unwrap_or(0)).min().unwrap_or(first);
                (shard, if is_new { slowest.max(first) } else { first })
            };
            if !is_new {
                tracing::warn!(
                    consumer,
                    "its place in the log is lost (data.directory/cursors): it begins with the first message"
                );
            }
            self.shards().into_iter().map(of).collect()
        };
        let cursor = Cursor::open(self.disk(), &folder, consumer, start)
            .map_err(LogError::io("open", folder.join(consumer)))?;
        if is_new {
            consumers.push(consumer.to_owned());
            write_beside(self.disk(), &self.config().directory, CONSUMERS, &(consumers.join("\n") + "\n"))?;
        }
        drop(consumers);
        for shard in self.shards() {
            let (position, first) = (cursor.position(shard), self.first_offset(shard));
            if position < first {
                // All before it was passed once by everybody: nothing is deleted before that is durable.
                tracing::warn!(
                    consumer,
                    shard,
                    position,
                    first,
                    "an old place in the log: it goes on with the first message kept"
                );
                cursor.advance(shard, first);
            }
            self.look_through(shard, cursor.position(shard))?;
        }
        self.shared.cursors.lock().push(cursor.clone());
        Ok(cursor)
    }

    /// Reads what the start took as it is because everybody had passed it, for a consumer that comes to it again.
    fn look_through(&self, shard: usize, from: u64) -> Result<(), LogError> {
        let passed = self.shared.strangers.iter().map(|(_, positions)| positions.get(&shard).copied());
        let unread_upto = passed.map(|position| position.unwrap_or(0)).min().unwrap_or(0);
        if from < unread_upto {
            self.reader(shard, from).read(usize::MAX, |offset, _, _| offset < unread_upto)?;
        }
        Ok(())
    }

    /// Keeps the shard's records from this offset on, though every consumer has passed them; `None`: no longer. For as long
    /// as the process runs.
    pub fn hold(&self, shard: usize, from: Option<u64>) {
        let mut holds = self.shared.holds.lock();
        match from {
            Some(from) => holds.insert(shard, from),
            None => holds.remove(&shard),
        };
    }

    /// The segment that holds an offset: its path, epoch and first offset.
    fn segment_of(&self, shard: usize, offset: u64) -> Result<(PathBuf, u64, u64), LogError> {
        let segments = self.shard(shard)?.segments.lock();
        let place = segments.partition_point(|segment| segment.first_offset <= offset);
        let Some(segment) = place.checked_sub(1).and_then(|place| segments.get(place)) else {
            let first = segments.first().map_or(offset, |segment| segment.first_offset);
            return Err(LogError::Gone { shard, offset, first });
        };
        Ok((segment.path.clone(), segment.epoch, segment.first_offset))
    }

    /// The first offset of the segment behind the one that an offset is in.
    fn segment_behind(&self, shard: usize, offset: u64) -> Option<u64> {
        let segments = self.shard(shard).ok()?.segments.lock();
        let place = segments.partition_point(|segment| segment.first_offset <= offset);
        segments.get(place).map(|segment| segment.first_offset)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        let of =
            |state: &Arc<ShardState>| state.segments.lock().iter().map(|segment| segment.bytes).sum::<u64>();
        self.shared.shards.values().map(of).sum()
    }

    /// Whether another segment of this length may come; the error names who holds the rest.
    fn may_grow(&self, bytes: u64) -> Result<(), String> {
        let config = self.config();
        if self.bytes() + bytes <= config.bytes_max {
            return Ok(());
        }
        let slowest = self.lags().into_iter().max_by_key(|(_, lag)| *lag);
        let who = slowest.map_or_else(String::new, |(name, lag)| {
            format!("; consumer `{name}` is furthest behind, by {lag} messages")
        });
        Err(format!(
            "the log in data.directory = {} has reached data.bytes_max = {} bytes{who}; it goes on when they are consumed",
            config.directory.display(),
            config.bytes_max
        ))
    }

    /// How many messages each consumer is behind, over all shards.
    pub fn lags(&self) -> Vec<(String, u64)> {
        let cursors = self.shared.cursors.lock();
        let lag = |position: &dyn Fn(usize) -> u64| {
            self.shared
                .shards
                .keys()
                .map(|shard| self.durable_upto(*shard).saturating_sub(position(*shard)))
                .sum()
        };
        let mut lags: Vec<(String, u64)> = cursors
            .iter()
            .map(|cursor| (cursor.name().to_owned(), lag(&|shard| cursor.position(shard))))
            .collect();
        for (name, positions) in &self.shared.strangers {
            if !cursors.iter().any(|cursor| cursor.name() == name) {
                lags.push((name.clone(), lag(&|shard| positions.get(&shard).copied().unwrap_or(0))));
            }
        }
        lags
    }

    /// Consumers that have a cursor here and take no part in this run.
    pub fn absent_consumers(&self) -> Vec<String> {
        let cursors = self.shared.cursors.lock();
        let absent = |name: &&String| !cursors.iter().any(|cursor| cursor.name() == name.as_str());
        self.shared.strangers.iter().map(|(name, _)| name).filter(absent).cloned().collect()
    }

    /// How the writing of a shard is.
    pub fn health(&self, shard: usize) -> Health {
        self.shared.shards.get(&shard).map(|state| state.health.lock().clone()).unwrap_or_default()
    }

    /// Makes the consumers' positions durable, then deletes what all of them have passed and retention does not keep.
    /// To be called about once a second.
    ///
    /// # Errors
    /// When a cursor cannot be written; nothing is deleted then.
    pub fn maintain(&self) -> Result<(), LogError> {
        let _alone = self.shared.deleting.lock();
        if !self.shared.lock.named.is_still_there() && !self.shared.lock_is_gone.swap(true, Ordering::Relaxed)
        {
            let directory = self.config().directory.display();
            tracing::error!(
                %directory,
                "LOCK was deleted while this process has it; `id` is locked as well, so no other process can write there"
            );
        }
        self.flush_cursors()?;
        for (shard, state) in &self.shared.shards {
            let passed = self.passed(*shard, Holds::Kept);
            loop {
                // Counted before the lock is taken: it takes that of every shard.
                let all = self.bytes();
                let Some(next) = state.next_after_passed(passed) else { break };
                let age = Duration::from_millis(clock::wall_ms().saturating_sub(next.created_ms));
                if all <= self.config().retention_bytes && age <= self.config().retention_age {
                    break;
                }
                self.delete_oldest(*shard, state)?;
            }
        }
        self.drop_old_keys()
    }

    /// Deletes the oldest segment that every consumer has passed, whatever retention keeps: finished records give way before
    /// a new one is refused. Those that are only held come last. Says whether there was one.
    ///
    /// # Errors
    /// When a position cannot be written or a file not deleted.
    fn give_way(&self) -> Result<bool, LogError> {
        let _alone = self.shared.deleting.lock();
        self.flush_cursors()?;
        for holds in [Holds::Kept, Holds::LetGo] {
            let passed = |(shard, state): (&usize, &Arc<ShardState>)| {
                let next = state.next_after_passed(self.passed(*shard, holds))?;
                Some((next.created_ms, *shard, Arc::clone(state)))
            };
            let oldest =
                self.shared.shards.iter().filter_map(passed).min_by_key(|(created_ms, ..)| *created_ms);
            if let Some((_, shard, state)) = oldest {
                self.delete_oldest(shard, &state)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn flush_cursors(&self) -> Result<(), LogError> {
        let cursors = self.shared.cursors.lock().clone();
        for cursor in &cursors {
            let path = self.config().directory.join("cursors").join(cursor.name());
            cursor.flush().map_err(LogError::io("write", path))?;
        }
        Ok(())
    }

    /// The offset below which nobody needs a shard's records, as far as that is durable.
    fn passed(&self, shard: usize, holds: Holds) -> u64 {
        let cursors = self.shared.cursors.lock();
        let is_absent = |name: &str| !cursors.iter().any(|cursor| cursor.name() == name);
        let absent = self.shared.strangers.iter().filter(|(name, _)| is_absent(name));
        let held = (holds == Holds::Kept).then(|| self.shared.holds.lock().get(&shard).copied()).flatten();
        cursors
            .iter()
            .map(|cursor| cursor.durable_position(shard))
            .chain(absent.map(|(_, positions)| positions.get(&shard).copied().unwrap_or(0)))
            .chain(held)
            .min()
            .unwrap_or(0)
    }

    /// The oldest segment of a shard that is not its last: its first offset, the next segment's, and when that was begun.
    pub fn oldest_segment(&self, shard: usize) -> Option<(u64, u64, u64)> {
        let segments = self.shared.shards.get(&shard)?.segments.lock();
        let (first, next) = (segments.first()?, segments.get(1)?);
        Some((first.first_offset, next.first_offset, next.created_ms))
    }

    /// Deletes it, whoever needs it.
    ///
    /// # Errors
    /// When the file cannot be deleted.
    pub fn delete_oldest_segment(&self, shard: usize) -> Result<(), LogError> {
        let _alone = self.shared.deleting.lock();
        let state = Arc::clone(self.shard(shard)?);
        self.delete_oldest(shard, &state)
    }

    fn delete_oldest(&self, shard: usize, state: &ShardState) -> Result<(), LogError> {
        let (oldest, next) = {
            let segments = state.segments.lock();
            let (Some(oldest), Some(next)) = (segments.first(), segments.get(1)) else { return Ok(()) };
            (oldest.clone(), next.clone())
        };
        let path = oldest.path.clone();
        let unwritten =
            self.keep_keys(shard, state, &oldest, &next).map_err(LogError::io("write the keys of", &path))?;
        // From here on nobody asks for it.
        state
            .rewrite_list(|list| list.first_offset = next.first_offset)
            .map_err(LogError::io("write the manifest beside", &path))?;
        self.disk().remove(&path).map_err(LogError::io("delete", &path))?;
        let folder = segment::folder_of(&self.config().directory, shard);
        self.disk().sync_folder(&folder).map_err(LogError::io("sync", &folder))?;
        state.segments.lock().remove(0);
        if let Some(entries) = unwritten
            && let Err(error) = self.write_keys(shard, state, &oldest, &entries)
        {
            tracing::warn!(
                shard, %error, messages = entries.len(),
                "the keys of a deleted segment cannot be written: repeats of its messages are not recognised after a restart"
            );
        }
        Ok(())
    }

    /// What the log holds and how it does.
    pub fn stat(&self) -> Vec<ShardStat> {
        let stat = |(shard, state): (&usize, &Arc<ShardState>)| {
            let segments: Vec<Segment> = state.segments.lock().clone();
            let timings = &state.timings;
            ShardStat {
                shard: *shard,
                segments: segments.len(),
                bytes: segments.iter().map(|segment| segment.bytes).sum(),
                first_offset: self.first_offset(*shard),
                next_offset: self.durable_upto(*shard),
                oldest_ms: segments.first().map(|segment| segment.created_ms),
                health: state.health.lock().clone(),
                sync_buckets: std::array::from_fn(|at| timings.buckets[at].load(Ordering::Relaxed)),
                sync_seconds: timings.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9,
                records: timings.records.load(Ordering::Relaxed),
                bytes_written: timings.bytes.load(Ordering::Relaxed),
            }
        };
        self.shared.shards.iter().map(stat).collect()
    }
}

/// Whether records that are only held count as needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Kept,
    LetGo,
}

/// A shard of the log at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardStat {
    /// Which shard.
    pub shard: usize,
    /// Segments, the one in use included.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// First offset that is there.
    pub first_offset: u64,
    /// Offset of the next message.
    pub next_offset: u64,
    /// When the oldest segment was begun, in milliseconds of the Unix epoch.
    pub oldest_ms: Option<u64>,
    /// How the writing is.
    pub health: Health,
    /// Commits by how long they took; bounds in [`SYNC_BOUNDS_US`].
    pub sync_buckets: [u64; SYNC_BOUNDS_US.len() + 1],
    /// How long all of them took.
    pub sync_seconds: f64,
    /// Records made durable in this run.
    pub records: u64,
    /// Bytes written in this run.
    pub bytes_written: u64,
}

/// The id in the folder's file of that name; made if it is not there.
fn id_of(disk: &dyn Disk, directory: &Path) -> Result<String, LogError> {
    let path = directory.join("id");
    if let Ok(id) = disk::read(disk, &path)
        && let Ok(id) = String::from_utf8(id)
        && id.trim().len() == 32
    {
        return Ok(id.trim().to_owned());
    }
    let id = format!("{:032x}", fastrand::u128(..));
    write_beside(disk, directory, "id", &format!("{id}\n"))?;
    Ok(id)
}

/// How many shards the folder has, each with a manifest; 0 when an earlier version made it.
fn read_shard_count(disk: &dyn Disk, directory: &Path) -> Result<usize, LogError> {
    let path = directory.join(SHARDS);
    let bytes = match disk::read(disk, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(LogError::io("read", &path))?,
    };
    let count = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    count.ok_or_else(|| LogError::Damaged {
        path,
        position: 0,
        what: "it is to hold the number of shards".to_owned(),
    })
}

fn write_shard_count(disk: &dyn Disk, directory: &Path, count: usize) -> Result<(), LogError> {
    write_beside(disk, directory, SHARDS, &format!("{count}\n"))?;
    disk.sync_folder(directory).map_err(LogError::io("sync", directory))
}

/// Written beside and renamed: there is all of it or none.
fn write_beside(disk: &dyn Disk, directory: &Path, name: &str, text: &str) -> Result<(), LogError> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = disk.open(&new, Open::Empty).and_then(|file| {
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_all()
    });
    written.and_then(|()| disk.rename(&new, &path)).map_err(LogError::io("write", &path))
}

/// The file that names the consumers.
const CONSUMERS: &str = "consumers";
/// The file that holds the number of shards.
const SHARDS: &str = "shards";

fn create_if_absent(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    match disk.create_folder(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Keeps every other process out of the folder until it is dropped, which a crash does, too.
#[derive(Debug)]
struct Lock {
    /// `LOCK`, which says who has it.
    named: Box<dyn DiskLock>,
    /// `id`: LOCK files are deleted by hand when a start is refused, and that must not let a second process in.
    _held: Box<dyn DiskLock>,
}

fn take_lock(disk: &dyn Disk, directory: &Path) -> Result<Lock, LogError> {
    let take = |name: &str, owner: &str| {
        let path = directory.join(name);
        disk.lock(&path, owner).map_err(|why| match why {
            NotLocked::Taken(_) if owner.is_empty() => {
                LogError::Locked { path: directory.to_owned(), owner: "its LOCK was deleted".to_owned() }
            }
            NotLocked::Taken(owner) => LogError::Locked { path: directory.to_owned(), owner },
            NotLocked::Io(error) => LogError::io("lock", &path)(error),
        })
    };
    let named = take("LOCK", &format!("process {}\n", std::process::id()))?;
    id_of(disk, directory)?;
    Ok(Lock { named, _held: take("id", "")? })
}

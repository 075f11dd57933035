//! A shard's writer: the core gathers records, a thread of the shard's own writes and syncs them.
//!
//! ```text
//! core      append, append, … ──commit()──► (idle?) hand the batch over ──► append, append, …
//! thread    wait ─► write + fdatasync ─► durable_upto ─► on_progress (rings the core's doorbell) ─► wait
//! ```
//!
//! One commit is in flight; what is appended meanwhile is the next one. Two buffers go round between the two. The thread
//! does nothing but [`Commits::turn`] again and again; who has no thread for it takes the turns himself.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use engine_core::clock;
use parking_lot::{Condvar, Mutex};

use super::{
    Log, Sync,
    commit::Committer,
    format::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
    keys::{KeysFile, Known, Spool},
    manifest::{List, MARK_AFTER, Manifest},
    segment::{self, Segment},
};
use crate::{disk::DiskFile, fingerprint::Fingerprint};

/// Bytes of a batch at most, unless a single record is longer.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Under load the mark is synced so often.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// How long a wait may be when there is nothing to do in idle time.
const NOTHING_TO_DO: Duration = Duration::from_secs(3600);
/// How often room is looked for when there is none.
const ROOM_RETRY: Duration = Duration::from_millis(100);

/// Called when something became durable or the health changed.
pub type OnProgress = Arc<dyn Fn() + Send + std::marker::Sync>;

/// How a shard's writing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    #[default]
    Writing,
    /// There is no room; it goes on by itself when there is some.
    Full(String),
    /// A write or a sync failed: nothing more is written in this run, and what was not acknowledged is unknown.
    Failed(String),
}

/// The log takes nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// The batch is as large as it may be while the one before is being synced; or there is no room on the disk.
    Busy,
    /// The record is longer than a segment.
    TooLong,
    /// The log has failed.
    Failed,
}

/// Records that are written and synced together.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Those that have an id of their sender's.
    known: Vec<Known>,
}

impl Gathered {
    fn clear(&mut self) {
        self.bytes.clear();
        self.known.clear();
    }
}

#[derive(Debug, Default)]
struct Slot {
    batch: Gathered,
    /// Offset behind the batch's last record.
    next_offset: u64,
    handed_over: bool,
    /// What was gathered when the core's end went, for after the batch that was under way then.
    rest: Option<(Gathered, u64)>,
    closing: bool,
}

/// What the core, the thread and onlookers share.
pub(super) struct ShardState {
    pub(super) shard: usize,
    pub(super) durable_upto: AtomicU64,
    slot: Mutex<Slot>,
    wake: Condvar,
    busy: AtomicBool,
    failed: AtomicBool,
    pub(super) health: Mutex<Health>,
    pub(super) segments: Mutex<Vec<Segment>>,
    /// The files of keys, by first offset.
    pub(super) keys: Mutex<Vec<KeysFile>>,
    manifest: Mutex<Manifest>,
    pub(super) timings: Timings,
}

/// Bounds of the buckets of fsync times, in microseconds; one more is unbounded.
pub const SYNC_BOUNDS_US: [u64; 12] =
    [50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400];

/// How long commits took.
#[derive(Debug, Default)]
pub struct Timings {
    /// Commits by how long write and sync took; bounds in [`SYNC_BOUNDS_US`].
    pub buckets: [AtomicU64; SYNC_BOUNDS_US.len() + 1],
    /// Nanoseconds in all.
    pub nanoseconds: AtomicU64,
    /// Records made durable.
    pub records: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
}

impl Timings {
    fn note(&self, took: Duration, records: u64, bytes: usize) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = SYNC_BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(SYNC_BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl ShardState {
    /// The segment behind the oldest one, if the oldest ends below the offset: then nobody needs it.
    pub(super) fn next_after_passed(&self, passed: u64) -> Option<Segment> {
        self.segments.lock().get(1).filter(|next| next.first_offset <= passed).cloned()
    }

    /// Says durably what the shard has to hold from now on.
    pub(super) fn rewrite_list(&self, change: impl FnOnce(&mut List)) -> io::Result<()> {
        let mut manifest = self.manifest.lock();
        let mut list = manifest.list();
        change(&mut list);
        manifest.set(list)
    }

    /// There is this file of keys now.
    pub(super) fn note_keys(&self, file: KeysFile) {
        let mut keys = self.keys.lock();
        keys.retain(|known| known.first_offset != file.first_offset);
        let place = keys.partition_point(|known| known.first_offset < file.first_offset);
        keys.insert(place, file);
    }

    /// There is no file of keys of this first offset any more.
    pub(super) fn drop_keys(&self, first_offset: u64) {
        self.keys.lock().retain(|known| known.first_offset != first_offset);
    }

    pub(super) fn new(
        shard: usize,
        next_offset: u64,
        segments: Vec<Segment>,
        manifest: Manifest,
        keys: Vec<KeysFile>,
    ) -> Self {
        Self {
            shard,
            durable_upto: AtomicU64::new(next_offset),
            slot: Mutex::default(),
            wake: Condvar::new(),
            busy: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            health: Mutex::default(),
            segments: Mutex::new(segments),
            keys: Mutex::new(keys),
            manifest: Mutex::new(manifest),
            timings: Timings::default(),
        }
    }
}

impl std::fmt::Debug for ShardState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardState").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// The core's end: gathers records. Never blocks.
#[derive(Debug)]
pub struct ShardWriter {
    state: Arc<ShardState>,
    epoch: u64,
    record_bytes_max: usize,
    /// Whether what repeats are recognised by is kept.
    keeps_known: bool,
    open: Gathered,
    /// Records in `open`.
    gathered: u32,
    /// When the first of them came.
    batch_ms: u64,
    next_offset: u64,
    thread: Option<JoinHandle<()>>,
}

impl ShardWriter {
    pub(super) fn start(log: &Log, state: Arc<ShardState>, on_progress: OnProgress) -> io::Result<Self> {
        let (mut writer, committer) = Self::apart(log, state, on_progress)?;
        let name = format!("log-{}", writer.state.shard);
        writer.thread = Some(thread::Builder::new().name(name).spawn(move || committer.run())?);
        Ok(writer)
    }

    /// The two ends, without a thread.
    pub(super) fn apart(
        log: &Log,
        state: Arc<ShardState>,
        on_progress: OnProgress,
    ) -> io::Result<(Self, Commits)> {
        let next_offset = state.durable_upto.load(Ordering::Acquire);
        let config = log.config();
        let mut committer = Commits {
            log: log.clone(),
            state: Arc::clone(&state),
            committer: Committer::new(config.io)?,
            sync: config.sync,
            segment_bytes: config.segment_bytes,
            current: None,
            prepared: None,
            keys: None,
            marked_at: clock::now(),
            batch: Gathered::default(),
            under_way: None,
            on_progress,
        };
        // The first segment is there before the first message comes, and its lack is said at the start.
        committer.prepare().or_else(|error| committer.out_of_room(error, false))?;
        let writer = Self {
            epoch: log.epoch(),
            record_bytes_max: usize::try_from(config.segment_bytes).unwrap_or(usize::MAX)
                - SEGMENT_HEADER_BYTES
                - format::RECORD_HEADER_BYTES
                - format::ALIGNMENT,
            keeps_known: config.repeats.is_some(),
            open: Gathered::default(),
            gathered: 0,
            batch_ms: 0,
            next_offset,
            thread: None,
            state,
        };
        Ok((writer, committer))
    }

    /// Appends a record whose payload `encode` writes; returns its offset. It is durable when
    /// [`durable_upto`](Self::durable_upto) has passed that.
    ///
    /// # Errors
    /// [`Pushback`]; nothing was appended.
    pub fn append(&mut self, key_hash: u64, encode: impl FnOnce(&mut Vec<u8>)) -> Result<u64, Pushback> {
        self.append_known(key_hash, None, encode)
    }

    /// The same for a record whose repeats are recognised by this.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_known(
        &mut self,
        key_hash: u64,
        fingerprint: Option<Fingerprint>,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u64, Pushback> {
        if self.state.failed.load(Ordering::Relaxed) {
            return Err(Pushback::Failed);
        }
        if !self.has_room() {
            return Err(Pushback::Busy);
        }
        let (start, offset) = (self.open.bytes.len(), self.next_offset);
        if self.gathered == 0 {
            self.batch_ms = clock::wall_ms();
        }
        let place = (offset, self.gathered);
        format::append(&mut self.open.bytes, self.epoch, place, self.batch_ms, key_hash, encode);
        if self.open.bytes.len() - start > self.record_bytes_max {
            self.open.bytes.truncate(start);
            return Err(Pushback::TooLong);
        }
        if let Some(fingerprint) = fingerprint.filter(|_| self.keeps_known) {
            self.open.known.push(Known { fingerprint, key_hash, offset, appended_ms: self.batch_ms });
        }
        self.gathered += 1;
        self.next_offset += 1;
        Ok(offset)
    }

    /// Whether a record may be appended before the batch is handed over.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.open.bytes.len() < BATCH_BYTES_MAX.min(self.record_bytes_max / 2)
    }

    /// Hands what was gathered to the thread, if that is idle; to be called once per turn, and again when
    /// `on_progress` was called.
    pub fn commit(&mut self) {
        // Acquire: pairs with the Release behind a commit, so its buffer is back in the slot.
        if self.gathered == 0 || self.state.busy.load(Ordering::Acquire) {
            return;
        }
        self.hand_over();
    }

    fn hand_over(&mut self) {
        self.state.busy.store(true, Ordering::Relaxed);
        let mut slot = self.state.slot.lock();
        std::mem::swap(&mut slot.batch, &mut self.open);
        slot.next_offset = self.next_offset;
        slot.handed_over = true;
        drop(slot);
        self.state.wake.notify_one();
        self.open.clear();
        self.gathered = 0;
    }

    /// Records below this offset are durable.
    #[inline]
    pub fn durable_upto(&self) -> u64 {
        self.state.durable_upto.load(Ordering::Acquire)
    }

    /// The offset of the next record.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Whether writing has failed for good.
    #[inline]
    pub fn has_failed(&self) -> bool {
        self.state.failed.load(Ordering::Acquire)
    }

    /// How the writing is.
    pub fn health(&self) -> Health {
        self.state.health.lock().clone()
    }
}

impl Drop for ShardWriter {
    /// Has the thread finish what was appended, unless the log has failed or is full, and end.
    fn drop(&mut self) {
        let mut slot = self.state.slot.lock();
        if self.gathered > 0 {
            slot.rest = Some((std::mem::take(&mut self.open), self.next_offset));
        }
        slot.closing = true;
        drop(slot);
        self.state.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed, and there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// The segment that is being written.
struct Current {
    file: Arc<dyn DiskFile>,
    position: u64,
    bytes: u64,
}

/// What a turn of the thread came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something was written.
    Committed,
    /// There is nothing to write.
    Idle,
    /// There is no room for what is to be written.
    NoRoom,
    /// Nothing more will be written.
    Ended,
}

/// The thread's end.
pub struct Commits {
    log: Log,
    state: Arc<ShardState>,
    committer: Committer,
    sync: Sync,
    segment_bytes: u64,
    current: Option<Current>,
    prepared: Option<Arc<dyn DiskFile>>,
    /// Of the current segment, if that is kept.
    keys: Option<Spool>,
    /// When the mark was synced last.
    marked_at: Instant,
    batch: Gathered,
    /// The offset behind the batch, if there is one that is not written.
    under_way: Option<u64>,
    on_progress: OnProgress,
}

impl std::fmt::Debug for Commits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commits").field("shard", &self.state.shard).finish_non_exhaustive()
    }
}

impl Commits {
    fn run(mut self) {
        let mut idle = false;
        loop {
            match self.turn(idle) {
                Turn::Committed => idle = false,
                Turn::Idle => idle = self.wait_for_a_batch(),
                Turn::NoRoom => self.wait(ROOM_RETRY, |slot| slot.closing),
                Turn::Ended => return,
            }
        }
    }

    /// Waits for something to do, or until it is time for what is done in idle time: then it is true.
    fn wait_for_a_batch(&self) -> bool {
        let idle = if self.prepared.is_none() {
            ROOM_RETRY
        } else if self.state.manifest.lock().is_mark_durable() {
            NOTHING_TO_DO
        } else {
            MARK_AFTER
        };
        self.wait(idle, |slot| slot.handed_over || slot.closing);
        let slot = self.state.slot.lock();
        !slot.handed_over && !slot.closing
    }

    fn wait(&self, longest: Duration, until: impl Fn(&Slot) -> bool) {
        let mut slot = self.state.slot.lock();
        self.state.wake.wait_while_for(&mut slot, |slot| !until(slot), longest);
    }

    /// Does the next thing, without waiting: writes and syncs the batch that was handed over; or, in idle time, vouches for the
    /// last commit and makes the next segment ready.
    pub fn turn(&mut self, idle: bool) -> Turn {
        let closing = self.take_batch();
        let Some(next_offset) = self.under_way else {
            let synced = if closing || idle { self.sync_mark() } else { Ok(()) };
            if closing {
                self.finish_keys();
            }
            if let Err(error) = synced {
                self.fail(&error);
                return Turn::Ended;
            }
            if closing {
                return Turn::Ended;
            }
            if idle && self.prepared.is_none() {
                self.try_prepare();
            }
            return Turn::Idle;
        };
        let started = clock::now();
        match self.commit().and_then(|done| self.mark(done, next_offset)) {
            Ok(true) => {}
            Ok(false) if closing => {
                self.fail(&io::Error::other("the log is full, and the process ends"));
                return Turn::Ended;
            }
            Ok(false) => return Turn::NoRoom,
            Err(error) => {
                self.fail(&error);
                return Turn::Ended;
            }
        }
        let records = next_offset - self.state.durable_upto.load(Ordering::Relaxed);
        self.state.timings.note(clock::since(started), records, self.batch.bytes.len());
        self.batch.clear();
        self.under_way = None;
        // Release: pairs with the Acquire in `durable_upto`. What is below was synced.
        self.state.durable_upto.store(next_offset, Ordering::Release);
        self.state.busy.store(false, Ordering::Release);
        (self.on_progress)();
        if self.prepared.is_none() {
            self.try_prepare();
        }
        Turn::Committed
    }

    /// Takes what was handed over, if nothing is under way. Whether the core's end is gone.
    fn take_batch(&mut self) -> bool {
        let mut slot = self.state.slot.lock();
        if self.under_way.is_none() {
            if slot.handed_over {
                std::mem::swap(&mut slot.batch, &mut self.batch);
                slot.handed_over = false;
                self.under_way = Some(slot.next_offset);
            } else if let Some((batch, next_offset)) = slot.rest.take() {
                self.batch = batch;
                self.under_way = Some(next_offset);
            }
        }
        slot.closing
    }

    /// Writes and syncs the batch, in the next segment when this one has no room for it. False: there is no room for another.
    fn commit(&mut self) -> io::Result<bool> {
        let length = self.batch.bytes.len() as u64;
        let fits = |current: &Current| current.position + length <= current.bytes;
        if !self.current.as_ref().is_some_and(fits) && !self.switch()? {
            return Ok(false);
        }
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment")) };
        self.committer.commit(&*current.file, &self.batch.bytes, current.position, self.sync)?;
        current.position += length;
        if let Some(keys) = &mut self.keys {
            keys.add(self.log.disk(), &self.batch.known);
        }
        Ok(true)
    }

    /// Whether a batch of so many bytes would be written now, for whoever takes the turns and can do without.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let fits = |current: &Current| current.position + bytes as u64 <= current.bytes;
        if self.prepared.is_none() && !self.current.as_ref().is_some_and(fits) {
            self.try_prepare();
        }
        self.prepared.is_some() || self.current.as_ref().is_some_and(fits)
    }

    /// Goes on in the prepared segment. False: there is none, and no room for one.
    fn switch(&mut self) -> io::Result<bool> {
        if self.prepared.is_none() {
            // What cannot pass by itself ends the log's writing; a lack of room is waited out.
            match self.prepare() {
                Ok(()) => self.set_health(Health::Writing),
                Err(error) => self.out_of_room(error, true)?,
            }
        }
        let Some(file) = self.prepared.take() else { return Ok(false) };
        let folder = segment::folder_of(&self.log.config().directory, self.state.shard);
        let header = SegmentHeader {
            shard: self.state.shard as u32,
            epoch: self.log.epoch(),
            first_offset: self.state.durable_upto.load(Ordering::Relaxed),
            created_ms: clock::wall_ms(),
        };
        let segment = match segment::put_in_use(self.log.disk(), &folder, &*file, &header) {
            Ok(segment) => segment,
            // A new name may need a block, too.
            Err(error) if crate::disk::is_full(&error) => {
                self.prepared = Some(file);
                self.out_of_room(error, true)?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let (first, bytes) = (segment.first_offset, segment.bytes);
        self.state.rewrite_list(|list| (list.last, list.end) = (Some(first), first))?;
        if let Some(old) = self.current.take() {
            // Room that was not used; nothing in it counts.
            old.file.set_len(old.position)?;
            if let Some(last) = self.state.segments.lock().last_mut() {
                last.bytes = old.position;
            }
        }
        self.finish_keys();
        self.keys = self.log.hash_key().map(|hash_key| {
            Spool::new(folder, self.state.shard, &hash_key, segment.first_offset, segment.epoch)
        });
        self.state.segments.lock().push(segment);
        self.current = Some(Current { file, position: SEGMENT_HEADER_BYTES as u64, bytes });
        Ok(true)
    }

    /// The current segment takes no more. Keys that cannot be written are read from it when they are needed.
    fn finish_keys(&mut self) {
        if let Some(keys) = self.keys.take()
            && let Ok(file) = keys.finish(self.log.disk(), false)
        {
            self.state.note_keys(file);
        }
    }

    /// Allocates the next segment, if the log may grow by one.
    fn prepare(&mut self) -> io::Result<()> {
        let folder = segment::folder_of(&self.log.config().directory, self.state.shard);
        loop {
            let grown = self.log.may_grow(self.segment_bytes).map_err(io::Error::other);
            let error =
                match grown.and_then(|()| segment::prepare(self.log.disk(), &folder, self.segment_bytes)) {
                    Ok(prepared) => {
                        self.prepared = Some(prepared);
                        return Ok(());
                    }
                    Err(error) => error,
                };
            let wants_room = error.raw_os_error().is_none() || crate::disk::is_full(&error);
            // What is finished gives way before anything new is refused.
            if !wants_room || !self.log.give_way().unwrap_or(false) {
                return Err(error);
            }
        }
    }

    fn try_prepare(&mut self) {
        match self.prepare() {
            Ok(()) => self.set_health(Health::Writing),
            Err(error) => {
                // A disk that fails for good says so again when the segment is needed.
                let _noted = self.out_of_room(error, false);
            }
        }
    }

    /// Notes why there is no next segment; only what can pass is no error. `waits`: a batch cannot be written without.
    fn out_of_room(&mut self, error: io::Error, waits: bool) -> io::Result<()> {
        let directory = self.log.config().directory.display();
        let text = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                let free = self.log.disk().free_bytes(&self.log.config().directory).unwrap_or(0);
                format!(
                    "the disk of data.directory = {directory} has no room for another segment of {} bytes ({free} bytes are free); free some, or set data.directory to another disk",
                    self.segment_bytes
                )
            }
            Some(rustix::io::Errno::FBIG) => format!(
                "this process may write no file of {} bytes into data.directory = {directory}: raise its limit (ulimit -f, LimitFSIZE), or lower data.segment_bytes",
                self.segment_bytes
            ),
            Some(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
                format!("data.directory = {directory} cannot be written to: {error}")
            }
            // Its own limit.
            None => error.to_string(),
            Some(_) => return Err(error),
        };
        // What is left of the current one is used up first.
        let half_left = self.current.as_ref().is_some_and(|current| current.position < current.bytes / 2);
        if waits || !half_left {
            self.set_health(Health::Full(text));
        }
        Ok(())
    }

    fn set_health(&mut self, health: Health) {
        let mut known = self.state.health.lock();
        if *known != health {
            *known = health;
            drop(known);
            (self.on_progress)();
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let directory = self.log.config().directory.display();
        let text = format!(
            "writing the log in data.directory = {directory} failed: {error}; what was not acknowledged is unknown, and this run writes nothing more"
        );
        tracing::error!(shard = self.state.shard, %error, "the log has failed");
        self.state.failed.store(true, Ordering::Release);
        self.set_health(Health::Failed(text));
        (self.on_progress)();
    }

    /// Notes that the batch is durable, before anybody is told.
    fn mark(&mut self, done: bool, next_offset: u64) -> io::Result<bool> {
        if done {
            self.state.manifest.lock().mark(next_offset)?;
            if clock::since(self.marked_at) >= MARK_EVERY {
                self.sync_mark()?;
            }
        }
        Ok(done)
    }

    /// A failed sync is the end of this run's writing, as any other: whether a later one says something of what was written
    /// before is nowhere promised.
    fn sync_mark(&mut self) -> io::Result<()> {
        self.state.manifest.lock().sync_mark()?;
        self.marked_at = clock::now();
        Ok(())
    }
}

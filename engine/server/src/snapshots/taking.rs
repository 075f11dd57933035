//! Taking and writing snapshots, one core after the other, on a thread of its own: one is held in memory at a time.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use brokers::{
    Onlooker, Progress,
    log::{Cursor, Health},
};
use engine_analytics::Snapshot;
use engine_core::{Doorbell, clock};
use parking_lot::{Condvar, Mutex};

use super::{JOURNAL, Snapshots, file::Header, restore::Base};

/// Longest that a core may take to get between two messages, and the journal to be synced.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Asks a core for a snapshot.
#[derive(Debug, Default)]
pub(super) struct Ask {
    wanted: AtomicBool,
    taken: Mutex<Option<Taken>>,
    came: Condvar,
}

/// A part, and what it stands for.
#[derive(Debug)]
struct Taken {
    progress: Progress,
    events: u64,
    snapshot: Snapshot,
}

/// What was written last of a core.
#[derive(Debug, Default)]
pub(super) struct Last {
    generation: u64,
    written: Option<(Progress, u64)>,
    bytes: u64,
}

impl Last {
    pub(super) fn of(base: &Base, core: usize) -> Self {
        let written = base.header.as_ref().map(|header| {
            let at = |positions: &super::Positions| positions.get(&core).copied();
            (Progress { log: at(&header.log), journal: at(&header.journal) }, header.events)
        });
        Self { generation: base.generation, written, bytes: 0 }
    }
}

impl Snapshots {
    /// The end at a core.
    pub fn onlooker(&self, core: usize) -> Onlooker {
        let (ask, part) = (Arc::clone(&self.asks[core]), Arc::clone(&self.parts[core]));
        Box::new(move |progress| {
            if !ask.wanted.load(Relaxed) || !ask.wanted.swap(false, Ordering::Acquire) {
                return;
            }
            let mut part = part.lock();
            let taken = Taken { progress, events: part.events(), snapshot: part.snapshot() };
            drop(part);
            *ask.taken.lock() = Some(taken);
            ask.came.notify_one();
        })
    }

    /// Starts the thread, if there are to be any.
    ///
    /// # Errors
    /// When it or the journal's cursor cannot be had.
    pub fn start(self: &Arc<Self>, doorbells: &[Doorbell]) -> Result<()> {
        if self.interval.is_zero() {
            return Ok(());
        }
        let cursor = self.sources.journal.as_ref().map(|journal| journal.cursor(JOURNAL)).transpose()?;
        let (snapshots, doorbells, stop) = (Arc::clone(self), doorbells.to_vec(), Arc::clone(&self.stop));
        let thread = thread::Builder::new().name("snapshots".to_owned()).spawn(move || {
            let mut next = Instant::now() + snapshots.interval;
            while !stop.load(Ordering::Acquire) {
                let left = next.saturating_duration_since(Instant::now());
                if left > Duration::ZERO {
                    thread::park_timeout(left);
                    continue;
                }
                let taken = |core: usize| snapshots.ask(core, &doorbells[core]);
                snapshots.round(taken, cursor.as_ref());
                next = Instant::now() + snapshots.interval;
            }
            cursor
        });
        *self.thread.lock() = Some(thread.context("the thread of the snapshots cannot be started")?);
        Ok(())
    }

    /// The last snapshots, when the cores have ended.
    pub fn finish(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        self.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        // A panic of it was printed.
        let cursor = thread.join().ok().flatten();
        let taken = |core: usize| {
            let progress = Progress {
                log: self.sources.log.as_ref().map(|(_, workers)| workers.position(core)),
                journal: self.sources.journal.as_ref().map(|journal| journal.durable_upto(core)),
            };
            let mut part = self.parts[core].lock();
            Ok(Taken { progress, events: part.events(), snapshot: part.snapshot() })
        };
        self.round(taken, cursor.as_ref());
    }

    /// A snapshot of every core that has something new.
    fn round(&self, taken: impl Fn(usize) -> io::Result<Taken>, cursor: Option<&Cursor>) {
        let (started, began_ms, mut whole) = (Instant::now(), clock::wall_ms(), true);
        for core in 0..self.parts.len() {
            if let Err(error) = taken(core).and_then(|taken| self.keep(core, taken, cursor)) {
                whole = false;
                self.counts.failed.fetch_add(1, Relaxed);
                if let Some((log, _)) = &self.sources.log {
                    // Taking messages in comes before remembering their numbers.
                    log.hold(core, None);
                }
                tracing::error!(
                    core, %error,
                    "a snapshot could not be written; the one before stays, and the log is not kept for it any longer than \
                     its retention says"
                );
            }
        }
        if whole && !self.is_whole.load(Relaxed) {
            match self.folder.keep_only(self.parts.len()) {
                Ok(()) => self.is_whole.store(true, Relaxed),
                Err(error) => {
                    tracing::error!(%error, "snapshots of another number of cores cannot be deleted")
                }
            }
        }
        if whole
            && self.is_whole.load(Relaxed)
            && let Some((log, _)) = &self.sources.log
        {
            // What lies in shards that no core writes any more is in everybody's snapshot by now.
            let gone = log.shards().into_iter().filter(|shard| *shard >= self.parts.len());
            gone.for_each(|shard| log.hold(shard, None));
        }
        if let (Some(journal), Some(cursor)) = (&self.sources.journal, cursor) {
            if whole {
                // What cores wrote that are no more is in everybody's snapshot by now.
                let gone = journal.shards().into_iter().filter(|shard| *shard >= self.parts.len());
                gone.for_each(|shard| cursor.advance(shard, journal.durable_upto(shard)));
            }
            if let Err(error) = journal.maintain() {
                tracing::error!(%error, "the journal cannot be tidied up; nothing is deleted meanwhile");
            }
        }
        let bytes = self.last.lock().iter().map(|last| last.bytes).sum();
        self.counts.bytes.store(bytes, Relaxed);
        let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counts.round_nanoseconds.store(took, Relaxed);
        if whole {
            self.counts.current_ms.store(began_ms, Relaxed);
        }
    }

    /// Waits for the core to get between two messages.
    fn ask(&self, core: usize, doorbell: &Doorbell) -> io::Result<Taken> {
        let ask = &self.asks[core];
        let mut taken = ask.taken.lock();
        // One that came too late is not of this moment.
        *taken = None;
        ask.wanted.store(true, Ordering::Release);
        doorbell.ring();
        let deadline = Instant::now() + PATIENCE;
        while taken.is_none() && Instant::now() < deadline && !self.stop.load(Ordering::Acquire) {
            // In slices: a core that has ended says nothing.
            let _timed_out = ask.came.wait_for(&mut taken, Duration::from_millis(100)).timed_out();
        }
        ask.wanted.store(false, Relaxed);
        taken.take().ok_or_else(|| io::Error::other("the core did not come to it"))
    }

    fn keep(&self, core: usize, taken: Taken, cursor: Option<&Cursor>) -> io::Result<()> {
        let Taken { progress, events, snapshot } = taken;
        let (generation, before) = {
            let last = &self.last.lock()[core];
            if last.written == Some((progress, events)) {
                return Ok(());
            }
            (last.generation + 1, last.written)
        };
        self.wait_for_journal(core, progress)?;
        let (mut log, mut journal) = self.positions[core].clone();
        log.extend(progress.log.map(|position| (core, position)));
        journal.extend(progress.journal.map(|position| (core, position)));
        let header =
            Header { core, cores: self.parts.len(), taken_ms: clock::wall_ms(), events, log, journal };
        let bytes = self.folder.write(&header, generation, snapshot)?;
        self.last.lock()[core] = Last { generation, written: Some((progress, events)), bytes };
        self.counts.taken.fetch_add(1, Relaxed);
        if !self.is_whole.load(Relaxed) {
            return Ok(());
        }
        // Two are kept, so what came behind the older one is kept, too.
        let oldest = before.map_or(progress, |(progress, _)| progress);
        if let (Some((log, _)), Some(from)) = (&self.sources.log, oldest.log) {
            log.hold(core, Some(from));
        }
        if let (Some(cursor), Some(from)) = (cursor, oldest.journal) {
            cursor.advance(core, from);
        }
        Ok(())
    }

    /// What a snapshot counts as written to the journal must be there after a power cut: offsets are never used twice.
    fn wait_for_journal(&self, core: usize, progress: Progress) -> io::Result<()> {
        let (Some(journal), Some(upto)) = (&self.sources.journal, progress.journal) else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        while journal.durable_upto(core) < upto && journal.health(core) == Health::Writing {
            if Instant::now() > deadline {
                return Err(io::Error::other("the journal is not synced"));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

//! What the workers computed outlives the process: snapshots of every core's part, and a replay of what came since.
//!
//! ```text
//! core         between two messages, when asked: its part (shared, not copied) and how far it has come
//! `snapshots`  asks one core after the other, writes the file, then lets go of what log and journal kept for it
//! start        newest good snapshot ─▶ the log from there to the workers' place ─▶ the journal from there to its end
//! ```
//!
//! Two logs say what happened since: the log itself, where this process's workers read it, and the [journal](brokers::journal)
//! of what they took from brokers. A write that fails is said and counted, and delivery goes on: nothing waits for numbers.

mod file;
mod restore;
mod taking;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use brokers::{
    log::{Cursor, Log, LogConfig, LogError},
    window::Window,
};
use engine_analytics::Bounds;
use engine_core::clock;
use parking_lot::Mutex;

use self::{
    file::{Folder, Positions},
    restore::{Base, Bases, Replay},
    taking::{Ask, Last},
};
use crate::events::Parts;

/// The journal's name among the folders of a data directory, and of its cursor.
const JOURNAL: &str = "journal";
/// A journal's segment: short ones are soon done with.
const JOURNAL_SEGMENT_BYTES: u64 = 16 << 20;
/// How long the journal is kept beyond its snapshots: ids of what a broker may bring again. Kafka's offsets are committed every
/// second and a dead member's session ends after 20 s; JetStream hands out again after 30 s.
const JOURNAL_AGE: Duration = Duration::from_secs(120);

/// What happened since a snapshot.
#[derive(Debug)]
struct Sources {
    /// The log and the workers' place in it, where they read it.
    log: Option<(Log, Cursor)>,
    journal: Option<Log>,
}

/// What `/metrics` says.
#[derive(Debug, Default)]
pub struct Counts {
    /// Snapshots written.
    pub taken: AtomicU64,
    /// Snapshots that could not be.
    pub failed: AtomicU64,
    /// Messages from brokers that the journal could not take.
    pub journal_missed: Arc<AtomicU64>,
    /// Bytes of the newest files, over all cores.
    pub bytes: AtomicU64,
    /// How long the last round took, in nanoseconds.
    pub round_nanoseconds: AtomicU64,
    /// When the numbers on the disk were those of the process, in milliseconds of the Unix epoch; 0: not in this run.
    pub current_ms: AtomicU64,
}

impl Counts {
    /// Age of the numbers on the disk.
    pub fn age(&self) -> Option<Duration> {
        let current_ms = self.current_ms.load(Relaxed);
        (current_ms > 0).then(|| Duration::from_millis(clock::wall_ms().saturating_sub(current_ms)))
    }
}

/// The snapshots of a run.
#[derive(Debug)]
pub struct Snapshots {
    folder: Folder,
    interval: Duration,
    parts: Parts,
    sources: Sources,
    /// Positions in shards that other cores write, or that nobody reads in this run; by core.
    positions: Vec<(Positions, Positions)>,
    last: Mutex<Vec<Last>>,
    /// Whether the snapshots of this number of cores stand for all there is: until each core has one, those of the run before count.
    is_whole: AtomicBool,
    asks: Vec<Arc<Ask>>,
    /// It gives the journal's cursor back.
    thread: Mutex<Option<JoinHandle<Option<Cursor>>>>,
    stop: Arc<AtomicBool>,
    /// Messages of the log that no run before had worked on, and whose keys belong to other cores than they did: they were
    /// worked on before this one's cores began.
    pub worked: u64,
    /// For `/metrics`.
    pub counts: Counts,
}

/// How the snapshots of a run are set up.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The data directory.
    pub data: &'a Path,
    /// From the end of a round to the next one; zero: none are read and none are written, and everything is counted anew.
    pub interval: Duration,
    /// What is kept.
    pub parts: &'a Parts,
    /// How much of it.
    pub bounds: Bounds,
    /// The log with the workers' cursor, where they read it.
    pub log: Option<(Log, Cursor)>,
    /// The settings of the log, for a journal; `None`: nothing comes from brokers.
    pub journal: Option<&'a LogConfig>,
    /// Windows of the workers that recognise repeats, by core; filled.
    pub windows: &'a mut [Option<Window>],
    /// How many messages they remember.
    pub entries: usize,
}

impl Snapshots {
    /// Fills the parts with what there is, and the windows with what may come again.
    ///
    /// # Errors
    /// When the folders cannot be used.
    pub fn open(plan: Plan<'_>) -> Result<Arc<Self>> {
        let (started, cores) = (Instant::now(), plan.parts.len());
        let folder = Folder::open(plan.data)?;
        let is_on = !plan.interval.is_zero();
        let wanted = plan.journal.filter(|_| is_on);
        let journal = wanted.map(|config| open_journal(plan.data, config, cores)).transpose()?;
        let sources = Sources { log: plan.log, journal };
        let bases = if is_on {
            restore::load(&folder, &sources, plan.parts, plan.bounds)
        } else {
            Bases { of: (0..cores).map(|_| Base::default()).collect(), resharded: false }
        };
        let Bases { of: bases, resharded } = bases;
        let from_snapshots: u64 = plan.parts.iter().map(|part| part.lock().events()).sum();
        let has_none = bases.iter().all(|base| base.header.is_none());
        let had_more = sources.log.as_ref().is_some_and(|(log, _)| log.shards().len() > cores);
        let keys_moved = resharded || (has_none && had_more);
        let mut replay = Replay {
            parts: plan.parts,
            windows: plan.windows,
            bases: &bases,
            keys_moved,
            read: 0,
            worked: 0,
        };
        replay.run(&sources, plan.entries);
        let (replayed, worked) = (replay.read, replay.worked);
        let events: u64 = plan.parts.iter().map(|part| part.lock().events()).sum();
        tracing::info!(
            events,
            from_snapshots,
            replayed,
            took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "the aggregates are as they were: from snapshots, and from the messages replayed since"
        );
        if let (Some((log, _)), true) = (&sources.log, is_on) {
            for shard in log.shards() {
                // The one before must do if the newest is damaged by then.
                let oldest = bases.get(shard).and_then(|base| base.before.as_ref().or(base.header.as_ref()));
                let from = oldest.and_then(|header| header.log.get(&shard).copied());
                let is_needed = shard < cores || shard < bases.len();
                log.hold(shard, is_needed.then(|| from.unwrap_or_else(|| log.first_offset(shard))));
            }
        }
        let none = Base::default();
        // When all that is read was counted, each shard's place is the same for every core.
        let base_of = |core: usize| if resharded { &none } else { &bases[core] };
        let positions = (0..cores)
            .map(|core| {
                let (mut log, mut journal) = sources.positions(base_of(core));
                if resharded {
                    for (shard, header) in bases.iter().map(|base| &base.header).enumerate() {
                        let Some(header) = header else { continue };
                        header.log.get(&shard).map(|place| log.entry(shard).or_insert(*place));
                        header.journal.get(&shard).map(|place| journal.entry(shard).or_insert(*place));
                    }
                }
                (log, journal)
            })
            .collect();
        Ok(Arc::new(Self {
            folder,
            interval: plan.interval,
            parts: Arc::clone(plan.parts),
            positions,
            last: Mutex::new((0..cores).map(|core| Last::of(base_of(core), core)).collect()),
            is_whole: AtomicBool::new(!resharded),
            asks: (0..cores).map(|_| Arc::default()).collect(),
            sources,
            thread: Mutex::default(),
            stop: Arc::default(),
            worked,
            counts: Counts::default(),
        }))
    }

    /// The journal, if there is one.
    pub fn journal(&self) -> Option<&Log> {
        self.sources.journal.as_ref()
    }
}

impl Sources {
    /// What a part holds once the replay is over: all of what is read in this run, and of the rest what its snapshot said.
    fn positions(&self, base: &Base) -> (Positions, Positions) {
        let (mut log, mut journal) = base
            .header
            .as_ref()
            .map(|header| (header.log.clone(), header.journal.clone()))
            .unwrap_or_default();
        if let Some((shards, workers)) = &self.log {
            log.extend(shards.shards().into_iter().map(|shard| (shard, workers.position(shard))));
        }
        if let Some(shards) = &self.journal {
            journal.extend(shards.shards().into_iter().map(|shard| (shard, shards.durable_upto(shard))));
        }
        (log, journal)
    }
}

fn open_journal(data: &Path, config: &LogConfig, cores: usize) -> Result<Log> {
    let directory = data.join(JOURNAL);
    let segment_bytes = config.segment_bytes.min(JOURNAL_SEGMENT_BYTES);
    let bytes_max = (config.bytes_max / 4).max(4 * segment_bytes * cores as u64);
    let config = LogConfig {
        directory: directory.clone(),
        shards: cores,
        segment_bytes,
        bytes_max,
        retention_bytes: bytes_max,
        retention_age: JOURNAL_AGE,
        repeats: None,
        ..config.clone()
    };
    let opened = match Log::open(config.clone()) {
        Err(LogError::Damaged { path, position, what }) => {
            let aside = data.join("journal.damaged");
            tracing::warn!(
                path = %path.display(), position, what, aside = %aside.display(),
                "the journal is damaged and is put aside: what came from brokers since the last snapshot is in no number, and \
                 what they bring again is counted again"
            );
            if aside.exists() {
                std::fs::remove_dir_all(&aside)?;
            }
            std::fs::rename(&directory, &aside)?;
            Log::open(config)
        }
        other => other,
    };
    let (journal, _) = opened.context("the journal of what comes from brokers cannot be opened")?;
    Ok(journal)
}

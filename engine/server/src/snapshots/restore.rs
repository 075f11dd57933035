//! The start: the newest good snapshot of every core, then what was worked on since, from the log and from the journal.
//!
//! The windows that recognise repeats are filled on the way: with what the snapshots hold, as far as log and journal still have
//! it, and with what is counted now. So a message that stands in both is counted once, and what a broker brings again is known.

use std::{fs::File, sync::Arc, time::Instant};

use brokers::{
    entry,
    log::{Log, LogError},
    window::{Seen, Window},
};
use engine_analytics::{Bounds, Part, reshard};
use engine_core::{Outcome, Record, key_hash, shard_of};

use super::{
    Sources,
    file::{self, Folder, Header},
};
use crate::events::{Parts, Worker};

/// What a core starts from.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// The highest generation there is, good or not.
    pub(super) generation: u64,
    /// The snapshot that is used; positions as they are used.
    pub(super) header: Option<Header>,
    /// Of the snapshot before that one.
    pub(super) before: Option<Header>,
}

/// What a run starts from.
#[derive(Debug)]
pub(super) struct Bases {
    /// By core of the run that took the snapshots.
    pub(super) of: Vec<Base>,
    /// It had another number of cores than this one has.
    pub(super) resharded: bool,
}

/// Finds the snapshots to start from and fills the parts with them, whatever number of cores they are of.
pub(super) fn load(folder: &Folder, sources: &Sources, parts: &Parts, bounds: Bounds) -> Bases {
    let cores = parts.len();
    let set = folder.whole_set().unwrap_or_else(|error| {
        tracing::warn!(%error, "the folder of the snapshots cannot be read");
        None
    });
    // Of a first round that was interrupted every core has its own, or none.
    let before = set.unwrap_or(cores);
    if set.is_some()
        && let Err(error) = folder.keep_only(before)
    {
        tracing::warn!(%error, "snapshots of another number of cores cannot be deleted");
    }
    let resharded = before != cores;
    // Each new part lets go of what is beyond its own share, when it has it.
    let share = if resharded { Bounds { quantile_bins: usize::MAX, ..bounds } } else { bounds };
    let (of, found): (Vec<Base>, Vec<Option<Part>>) =
        (0..before).map(|core| newest(folder, sources, core, before, share)).unzip();
    if resharded {
        let found = found.into_iter().map(|part| part.unwrap_or_else(|| Part::new(bounds))).collect();
        let moved = reshard(found, cores, bounds, |key| shard_of(key_hash(key), cores));
        for (place, part) in parts.iter().zip(moved) {
            *place.lock() = part;
        }
        tracing::info!(before, cores, "the snapshots of another number of cores were taken over");
    } else {
        for (place, part) in parts.iter().zip(found) {
            if let Some(part) = part {
                *place.lock() = part;
            }
        }
    }
    Bases { of, resharded }
}

fn newest(
    folder: &Folder,
    sources: &Sources,
    core: usize,
    cores: usize,
    bounds: Bounds,
) -> (Base, Option<Part>) {
    let generations = folder.generations(core, cores).unwrap_or_default();
    let generation = generations.first().map_or(0, |(generation, _)| *generation);
    let mut base = Base { generation, ..Base::default() };
    let mut found = None;
    for (_, path) in generations {
        if base.header.is_some() {
            base.before = File::open(&path).ok().and_then(|mut file| file::read_header(&mut file).ok());
            break;
        }
        match file::read(&path, bounds) {
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "a snapshot cannot be used; trying the one before");
            }
            Ok((mut header, part)) => {
                if sources.fit(core, &mut header) {
                    base.header = Some(header);
                    found = Some(part);
                }
            }
        }
    }
    (base, found)
}

impl Sources {
    /// Whether a snapshot goes with the log; brings its positions to where they can be read from.
    fn fit(&self, core: usize, header: &mut Header) -> bool {
        if let Some((log, workers)) = &self.log {
            let (first, end) = (log.first_offset(core), log.durable_upto(core));
            // It counted what a queue without this log brought: everything before the workers' place is done with.
            let position = header.log.entry(core).or_insert_with(|| workers.position(core));
            if *position > end && first < end {
                tracing::warn!(
                    core,
                    snapshot = *position,
                    log = end,
                    "a snapshot is newer than the log, which seems to be another one or an older copy: it is not used, and the \
                     numbers are computed from what the log holds"
                );
                return false;
            }
            if *position > end {
                tracing::warn!(
                    core,
                    "the log is empty and a snapshot is not: its numbers go on, and what was in the log and not worked on is lost"
                );
                *position = end;
            }
        }
        if let Some(journal) = &self.journal {
            let end = journal.durable_upto(core);
            let position = header.journal.entry(core).or_insert(0);
            if *position > end {
                tracing::warn!(
                    core,
                    "the journal is shorter than it was when the snapshot was taken: the snapshot's numbers go on, and what the \
                     brokers bring again of its last messages is counted again"
                );
                *position = end;
            }
        }
        true
    }
}

/// Counts what the snapshots do not have.
pub(super) struct Replay<'a> {
    pub(super) parts: &'a Parts,
    pub(super) windows: &'a mut [Option<Window>],
    pub(super) bases: &'a [Base],
    /// Keys may belong to other cores than those whose shards they lie in.
    pub(super) keys_moved: bool,
    /// Messages read to be counted.
    pub(super) read: u64,
    /// Those of them that no run before had worked on.
    pub(super) worked: u64,
}

/// What is done with records on a pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Those that a snapshot holds are remembered by id.
    Remember,
    /// The others are counted.
    Count,
}

impl Replay<'_> {
    /// All of it. `tail`: records of the log whose ids are remembered, by shard.
    pub(super) fn run(&mut self, sources: &Sources, tail: usize) {
        let recognises = self.windows.iter().any(Option::is_some);
        if let (Some(journal), true) = (&sources.journal, recognises) {
            self.journal(journal, Pass::Remember);
        }
        if let Some((log, workers)) = &sources.log {
            for shard in log.shards() {
                let (first, from) = (log.first_offset(shard), self.log_positions(shard));
                // Of a shard that no core writes any more the cores can have come differently far.
                let (start, end) =
                    (from.iter().min().copied().unwrap_or(0), from.iter().max().copied().unwrap_or(0));
                let durable_upto = log.durable_upto(shard);
                let upto = if shard < self.parts.len() && !self.keys_moved {
                    workers.position(shard).max(end.min(durable_upto))
                } else {
                    // The core that goes on with it would count for users that are on another: the rest is counted now, each
                    // event where its user is.
                    durable_upto
                };
                // The snapshot proves that everything before it was worked on, whatever the cursor's last write was.
                let worked_upto = workers.position(shard);
                workers.advance(shard, upto);
                if first > start && self.bases.iter().any(|base| base.header.is_some()) {
                    tracing::warn!(
                        shard,
                        messages = first - start,
                        "the log does not go back to where the snapshot was taken: what it deleted in between is in no number"
                    );
                }
                let remembered = end.saturating_sub(tail as u64).max(first);
                if recognises {
                    self.records(log, shard, remembered..end, &from, Pass::Remember);
                }
                let waiting = worked_upto.clamp(start.max(first), upto.max(start.max(first)));
                self.records(log, shard, start.max(first)..waiting, &from, Pass::Count);
                self.worked += self.records(log, shard, waiting..upto, &from, Pass::Count);
            }
        }
        if let Some(journal) = &sources.journal {
            self.journal(journal, Pass::Count);
        }
    }

    /// From where on a shard of the log is to be counted, by the core that a record belonged to when the snapshots were taken.
    fn log_positions(&self, shard: usize) -> Vec<u64> {
        self.positions(shard, |header| header.log.get(&shard).copied())
    }

    fn positions(&self, shard: usize, of: impl Fn(&Header) -> Option<u64>) -> Vec<u64> {
        let position = |base: &Base| base.header.as_ref().and_then(&of).unwrap_or(0);
        match self.bases.get(shard) {
            // Its core counted it, wherever the keys belong.
            Some(own) => vec![position(own); self.bases.len()],
            None => self.bases.iter().map(position).collect(),
        }
    }

    fn journal(&mut self, journal: &Log, pass: Pass) {
        for shard in journal.shards() {
            let (first, end) = (journal.first_offset(shard), journal.durable_upto(shard));
            let mut from = self.positions(shard, |header| header.journal.get(&shard).copied());
            let is_known = match self.bases.get(shard) {
                Some(own) => own.header.is_some(),
                None => self.bases.iter().all(|base| base.header.is_some()),
            };
            if first > 0 && !is_known {
                // What is left of a journal whose beginning was cut off with snapshots that are gone is no whole number.
                from.fill(end);
                if pass == Pass::Count && first < end {
                    tracing::warn!(
                        shard,
                        "no snapshot goes with the journal: the numbers of what came from brokers begin anew"
                    );
                }
            }
            self.records(journal, shard, first..end, &from, pass);
        }
    }

    /// How many were counted.
    fn records(
        &mut self,
        log: &Log,
        shard: usize,
        range: std::ops::Range<u64>,
        from: &[u64],
        pass: Pass,
    ) -> u64 {
        let mut reader = log.reader(shard, range.start);
        let mut counted = 0;
        let mut read = || -> Result<(), LogError> {
            while reader.offset() < range.end {
                let count = reader.read(usize::MAX, |offset, _, bytes| {
                    if offset >= range.end {
                        return false;
                    }
                    if let Ok(record) = entry::decode(bytes) {
                        // As it was routed when it came, or would be with the cores of today.
                        let core = shard_of(record.key_hash, self.parts.len());
                        let before = shard_of(record.key_hash, from.len());
                        counted += u64::from(self.record(core, &record, offset >= from[before], pass));
                    }
                    true
                })?;
                if count == 0 {
                    break;
                }
            }
            Ok(())
        };
        if let Err(error) = read() {
            tracing::warn!(shard, %error, "what was counted before the start is not known in full");
        }
        counted
    }

    /// Whether it was counted.
    fn record(&mut self, core: usize, record: &Record<'_>, is_new: bool, pass: Pass) -> bool {
        match (pass, is_new, &mut self.windows[core]) {
            // The window's age begins now: a broker brings it again right after the start, however long that was away.
            (Pass::Remember, false, Some(window)) => {
                window.remember(record, Outcome::Processed, Instant::now());
            }
            (Pass::Count, true, window) => {
                self.read += 1;
                if let Some(window) = window {
                    let id = window.id(record);
                    match window.look(id, record, Instant::now()) {
                        Seen::New => window.decide(id, Outcome::Processed),
                        Seen::Conflict => {}
                        Seen::UnderWay | Seen::Done(_) => return false,
                    }
                }
                // What is no event was told so when it came.
                let _is_event = Worker::new(Some(Arc::clone(&self.parts[core]))).analyse(record);
                return true;
            }
            _ => {}
        }
        false
    }
}

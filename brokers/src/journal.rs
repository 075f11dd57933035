//! What was worked on and came from a broker, kept by this process itself: a broker forgets a message once it is told that
//! it is done, and what was computed from it would be gone with the process.
//!
//! It is a log of its own (the same bytes, the same group commit), and the broker is told only when the record is synced:
//! neither a kill nor a power cut loses what was counted. What the broker then brings again is recognised by its id, as the
//! window of the next run is filled from here.
//!
//! Bounded like every log. When it is full or has failed, messages are worked on and told done without it, and that is
//! counted: delivery does not wait for numbers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use engine_core::Record;

use crate::{
    entry,
    log::{Health, Log, LogError, OnProgress, ShardWriter},
};

/// A core's end of the journal.
#[derive(Debug)]
pub struct Journal {
    writer: ShardWriter,
    keeps: fn(&Record<'_>) -> bool,
    missed: Arc<AtomicU64>,
    /// While it takes nothing: how many it did not take. That it does not is said once, and once that it does again.
    missing: Option<u64>,
}

impl Journal {
    /// Writes to a core's shard what `keeps` says yes to; what it could not is counted in `missed`.
    ///
    /// # Errors
    /// When the writer cannot be had.
    pub fn new(
        log: &Log,
        core: usize,
        on_progress: OnProgress,
        keeps: fn(&Record<'_>) -> bool,
        missed: Arc<AtomicU64>,
    ) -> Result<Self, LogError> {
        Ok(Self { writer: log.writer(core, on_progress)?, keeps, missed, missing: None })
    }

    fn is_out_of_order(&self) -> bool {
        self.writer.has_failed() || matches!(self.writer.health(), Health::Full(_))
    }

    /// Whether a message should wait for the sync that is under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.writer.has_room() && !self.is_out_of_order()
    }

    /// Keeps a record that was worked on, if it is one to be kept.
    pub(crate) fn append(&mut self, record: &Record<'_>) {
        let keeps = self.keeps;
        if !keeps(record) {
            return;
        }
        match self.writer.append(record.key_hash, |out| entry::encode(record, out)) {
            Ok(_) => {
                if let Some(missed) = self.missing.take() {
                    tracing::info!(missed, "the journal takes again what comes from brokers");
                }
            }
            Err(_) => {
                self.missed.fetch_add(1, Relaxed);
                if let Some(missed) = &mut self.missing {
                    *missed += 1;
                } else if self.is_out_of_order() {
                    self.missing = Some(1);
                    tracing::warn!(
                        health = ?self.writer.health(),
                        "the journal takes nothing: delivery goes on without it, and a crash would forget in the numbers what \
                         comes from brokers meanwhile (tidegate_journal_missed_total)"
                    );
                }
            }
        }
    }

    /// The offset behind what was appended.
    pub(crate) fn next_offset(&self) -> u64 {
        self.writer.next_offset()
    }

    /// Who waits for an offset up to this one waits no longer.
    pub(crate) fn settled_upto(&self) -> u64 {
        let durable_upto = self.writer.durable_upto();
        if durable_upto < self.next_offset() && self.is_out_of_order() { u64::MAX } else { durable_upto }
    }

    /// Once per turn of the core.
    pub(crate) fn commit(&mut self) {
        self.writer.commit();
    }
}

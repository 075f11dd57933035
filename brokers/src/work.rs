//! Working on messages: the processing step with its counts, and each message once though it comes from several sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use engine_core::{Outcome, Process, Record};

use crate::window::{Seen, Window};

/// What one core has worked on. One writer, read by anyone.
#[derive(Debug, Default)]
pub struct WorkCounters {
    processed: AtomicU64,
    failed: AtomicU64,
    repeated: AtomicU64,
}

/// The numbers of one core, or their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// Messages worked on.
    pub processed: u64,
    /// Messages the processing step gave up.
    pub failed: u64,
    /// Messages that another side had brought before.
    pub repeated: u64,
}

impl WorkCounters {
    /// The numbers of this moment.
    pub fn read(&self) -> Worked {
        Worked {
            processed: self.processed.load(Relaxed),
            failed: self.failed.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
        }
    }
}

/// The processing step of one core.
#[derive(Debug)]
pub struct Work<P> {
    process: P,
    /// As large as the largest result so far, which the limits on a message bound.
    result: Vec<u8>,
    seen: Option<Window>,
    worked: Worked,
    counters: Arc<WorkCounters>,
}

impl<P: Process> Work<P> {
    /// Works with `process`. `sides` from which messages are read: with more than one a message is worked on when the
    /// first brings it, as long as the others follow within `entries` messages and `age`.
    pub fn new(process: P, sides: usize, entries: usize, age: Duration, counters: Arc<WorkCounters>) -> Self {
        let seen = (sides > 1).then(|| Window::new(entries, age));
        Self { process, result: Vec::new(), seen, worked: Worked::default(), counters }
    }

    /// Ends a turn of the core: the processing step rests, and the counts are shown to the others.
    pub fn publish(&mut self) {
        self.process.rest();
        self.counters.processed.store(self.worked.processed, Relaxed);
        self.counters.failed.store(self.worked.failed, Relaxed);
        self.counters.repeated.store(self.worked.repeated, Relaxed);
    }

    /// Works on a message; false when the processing step gave it up.
    pub fn work(&mut self, record: &Record<'_>) -> bool {
        let id = match &mut self.seen {
            None => None,
            Some(seen) => {
                let id = seen.id(record);
                match seen.look(id, record, Instant::now()) {
                    Seen::New => Some(id),
                    // The same id with another content is another message: only its sender can have erred.
                    Seen::Conflict => None,
                    Seen::UnderWay | Seen::Done(_) => {
                        self.worked.repeated += 1;
                        return true;
                    }
                }
            }
        };
        self.result.clear();
        let outcome = self.process.process(record, &mut self.result);
        if let (Some(id), Some(seen)) = (id, &mut self.seen) {
            seen.decide(id, outcome);
        }
        let processed = outcome == Outcome::Processed;
        if processed {
            self.worked.processed += 1;
        } else {
            self.worked.failed += 1;
        }
        processed
    }
}

#[cfg(test)]
mod tests {
    use engine_core::Prefix;

    use super::*;

    #[test]
    fn a_message_from_two_sides_is_worked_on_once() {
        let counters = Arc::new(WorkCounters::default());
        let mut work = Work::new(Prefix, 2, 100, Duration::from_secs(60), Arc::clone(&counters));
        for id in [&b"a"[..], b"b", b"a"] {
            assert!(work.work(&Record { id, payload: b"same", ..Record::default() }));
        }
        work.publish();
        assert_eq!(counters.read(), Worked { processed: 2, failed: 0, repeated: 1 });
    }
}

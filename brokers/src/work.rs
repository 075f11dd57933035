//! Working on messages: the processing step with its counts, and each message once though it comes from several sides.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use engine_core::{Outcome, Process, Record, clock};

use crate::window::{Seen, Window};

/// What one core has worked on. One writer, read by anyone.
#[derive(Debug, Default)]
pub struct WorkCounters {
    processed: AtomicU64,
    failed: AtomicU64,
    failed_attempts: AtomicU64,
    repeated: AtomicU64,
}

/// The numbers of one core, or their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// Messages worked on.
    pub processed: u64,
    /// Messages that were given up.
    pub failed: u64,
    /// Attempts at a message that came to nothing: of what comes from a broker there are several before it is given up.
    pub failed_attempts: u64,
    /// Messages that another side had brought before.
    pub repeated: u64,
}

impl WorkCounters {
    /// The numbers of this moment.
    pub fn read(&self) -> Worked {
        Worked {
            processed: self.processed.load(Relaxed),
            failed: self.failed.load(Relaxed),
            failed_attempts: self.failed_attempts.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
        }
    }
}

/// What a message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Worked on now.
    Processed,
    /// It was before.
    Repeated,
    /// The processing step gave it up.
    Failed,
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
    /// Works with `process`. With `seen` a message is worked on when it comes for the first time, as long as it comes again
    /// within that window: for those that come from several sides, or again after a crash.
    pub fn new(process: P, seen: Option<Window>, counters: Arc<WorkCounters>) -> Self {
        Self { process, result: Vec::new(), seen, worked: Worked::default(), counters }
    }

    /// Ends a turn of the core: the processing step rests, and the counts are shown to the others.
    pub fn publish(&mut self) {
        self.process.rest();
        self.counters.processed.store(self.worked.processed, Relaxed);
        self.counters.failed.store(self.worked.failed, Relaxed);
        self.counters.failed_attempts.store(self.worked.failed_attempts, Relaxed);
        self.counters.repeated.store(self.worked.repeated, Relaxed);
    }

    /// Works on a message, unless it was worked on before; there is no other attempt.
    pub(crate) fn work(&mut self, record: &Record<'_>) -> Fate {
        let fate = self.attempt(record);
        self.worked.failed += u64::from(fate == Fate::Failed);
        fate
    }

    /// The same for a message that comes again when this comes to nothing: whoever gives it up counts that.
    pub(crate) fn attempt(&mut self, record: &Record<'_>) -> Fate {
        let id = match &mut self.seen {
            None => None,
            Some(seen) => {
                let id = seen.id(record);
                match seen.look(id, record, clock::now()) {
                    Seen::New => Some(id),
                    // The same id with another content is another message: only its sender can have erred.
                    Seen::Conflict => None,
                    Seen::UnderWay | Seen::Done(_) => {
                        self.worked.repeated += 1;
                        return Fate::Repeated;
                    }
                }
            }
        };
        self.result.clear();
        let outcome = self.process.process(record, &mut self.result);
        if let (Some(id), Some(seen)) = (id, &mut self.seen) {
            seen.decide(id, outcome);
        }
        if outcome == Outcome::Processed {
            self.worked.processed += 1;
            Fate::Processed
        } else {
            self.worked.failed_attempts += 1;
            Fate::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine_core::Prefix;

    use super::*;

    #[test]
    fn a_message_from_two_sides_is_worked_on_once() {
        let counters = Arc::new(WorkCounters::default());
        let window = Window::new(100, Duration::from_secs(60));
        let mut work = Work::new(Prefix, Some(window), Arc::clone(&counters));
        for (id, fate) in [(&b"a"[..], Fate::Processed), (b"b", Fate::Processed), (b"a", Fate::Repeated)] {
            assert_eq!(work.work(&Record { id, payload: b"same", ..Record::default() }), fate);
        }
        work.publish();
        assert_eq!(counters.read(), Worked { processed: 2, repeated: 1, ..Worked::default() });
    }
}

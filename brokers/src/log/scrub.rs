//! Reads everything that is kept, a little at a time: damage in what every consumer has passed is met by nobody else before
//! somebody needs it again.

use std::{collections::BTreeSet, mem};

use super::{Log, LogError, Reader};

/// A check of all segments, round after round.
///
/// It reads through the operating system, which may answer from memory: what is damaged on the disk is found when it is read from
/// there, so at the latest in the round behind the next restart of the machine.
#[derive(Debug)]
pub struct Scrub {
    log: Log,
    /// Which of the log's shards is being read.
    place: usize,
    reader: Option<Reader>,
    /// Shard and offset of each damage found in this round; one for each segment at most.
    found: BTreeSet<(usize, u64)>,
    /// The same of the round before.
    known: BTreeSet<(usize, u64)>,
}

impl Scrub {
    /// Begins with the first record.
    pub fn new(log: Log) -> Self {
        Self { log, place: 0, reader: None, found: BTreeSet::new(), known: BTreeSet::new() }
    }

    /// Segments that were found damaged, in the last round or in this one.
    pub fn damaged(&self) -> usize {
        self.known.union(&self.found).count()
    }

    /// Reads on, `bytes` or a record more; says what is damaged there and was not known, and passes its segment.
    pub fn look(&mut self, bytes: usize) -> Option<LogError> {
        let shards = self.log.shards();
        let Some(&shard) = shards.get(self.place) else {
            self.place = 0;
            self.known = mem::take(&mut self.found);
            return None;
        };
        let first = self.log.first_offset(shard);
        let reader = self.reader.get_or_insert_with(|| self.log.reader(shard, first));
        match reader.read(bytes, |_, _, _| true) {
            Ok(0) => self.next_shard(),
            Ok(_) => {}
            // Deleted by retention meanwhile.
            Err(LogError::Gone { first, .. }) if first > reader.offset() => {
                self.reader = Some(self.log.reader(shard, first));
            }
            Err(LogError::Gone { .. }) => self.next_shard(),
            Err(error) => {
                let offset = reader.offset();
                if offset < self.log.first_offset(shard) {
                    // The same, between two looks at the list.
                    self.reader = None;
                    return None;
                }
                match self.log.segment_behind(shard, offset) {
                    Some(next) => self.reader = Some(self.log.reader(shard, next)),
                    None => self.next_shard(),
                }
                self.found.insert((shard, offset));
                return (!self.known.contains(&(shard, offset))).then_some(error);
            }
        }
        None
    }

    fn next_shard(&mut self) {
        self.reader = None;
        self.place += 1;
    }
}

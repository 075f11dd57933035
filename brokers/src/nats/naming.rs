//! The id that JetStream recognises repeats by. It names the *record*, not what its sender calls it: several messages may
//! have one id of a caller's, and each has to be stored. The caller's id is the window's business, and a header of its own.

use std::fmt::Write;

use engine_core::{Record, key_hash};

/// Names the records that go to JetStream.
#[derive(Clone, Debug)]
pub enum Naming {
    /// By their place in the log and what they say, which are the same when a later run sends them again. The place alone
    /// would not do: a directory that was restored from a copy gives its places out again, to other records.
    Log {
        /// What tells this log from others.
        log: String,
        /// By the place of a shard among the log's: its number, and the offset behind what an earlier run can have sent.
        shards: Vec<(usize, u64)>,
    },
    /// By a number of this run's: what is not acknowledged when it ends is not sent again.
    Run {
        /// What tells this run from others.
        run: String,
        /// The next number.
        next: u64,
    },
}

/// What a record is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    /// An earlier run can have sent it, so it may be stored already.
    pub(super) may_be_there: bool,
}

/// Bits of a tag that are an offset; above them is the shard's place ([`crate::delivery`]).
const OFFSET_BITS: u32 = 48;

impl Naming {
    /// For messages that are in no log.
    pub fn of_this_run() -> Self {
        Self::Run { run: format!("{:032x}", fastrand::u128(..)), next: 0 }
    }

    /// The name of the record with this tag, which is asked for once.
    pub(super) fn name(&mut self, tag: u64, record: &Record<'_>) -> Name {
        let mut text = String::with_capacity(80);
        // Writing to a String cannot fail.
        let may_be_there = match self {
            Self::Log { log, shards } => {
                let (place, low) = ((tag >> OFFSET_BITS) as usize, tag & ((1 << OFFSET_BITS) - 1));
                let (shard, sent_below) = shards.get(place).copied().unwrap_or((place, u64::MAX));
                let _ = write!(text, "{log}-{shard}-{low}-{:016x}", hash(record));
                low < sent_below
            }
            Self::Run { run, next } => {
                let _ = write!(text, "{run}-{next}");
                *next += 1;
                false
            }
        };
        Name { text, may_be_there }
    }
}

/// Tells records apart that stand in one place, one after the other.
fn hash(record: &Record<'_>) -> u64 {
    let parts = [record.id, record.source, record.metadata, record.payload].map(key_hash);
    let mut all = [0; 40];
    let numbers = parts.into_iter().chain([record.timestamp_seconds.cast_unsigned()]);
    for (place, number) in all.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    key_hash(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_log_has_one_name_in_every_run_and_others_have_another() {
        let naming = |upto| Naming::Log { log: "a1".into(), shards: vec![(0, upto), (3, upto)] };
        let (tag, record) = (1 << OFFSET_BITS | 17, Record { id: b"i", payload: b"p", ..Record::default() });
        let text = "a1-3-17-db4fffc8af2e069d";
        assert_eq!(naming(10).name(tag, &record), Name { text: text.into(), may_be_there: false });
        assert_eq!(naming(18).name(tag, &record), Name { text: text.into(), may_be_there: true });
        for other in [
            Record { id: b"j", ..record },
            Record { source: b"s", ..record },
            Record { payload: b"q", ..record },
            Record { metadata: b"m", ..record },
            Record { timestamp_seconds: 1, ..record },
        ] {
            assert_ne!(naming(10).name(tag, &other).text, text);
        }
        let (mut one, mut other) = (Naming::of_this_run(), Naming::of_this_run());
        assert_ne!(one.name(1, &record), one.name(1, &record));
        assert_ne!(one.name(1, &record).text, other.name(1, &record).text);
    }
}

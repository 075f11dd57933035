//! The id that JetStream recognises repeats by. It names the *record*, not what its sender calls it: several messages may
//! have one id of a caller's, and each has to be stored. The caller's id is the window's business, and a header of its own.

use std::fmt::Write;

/// Names the records that go to JetStream.
#[derive(Clone, Debug)]
pub enum Naming {
    /// By their place in the log, which is the same when a later run sends them again.
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
    pub(super) fn name(&mut self, tag: u64) -> Name {
        let mut text = String::with_capacity(64);
        // Writing to a String cannot fail.
        let may_be_there = match self {
            Self::Log { log, shards } => {
                let (place, low) = ((tag >> OFFSET_BITS) as usize, tag & ((1 << OFFSET_BITS) - 1));
                let (shard, sent_below) = shards.get(place).copied().unwrap_or((place, u64::MAX));
                let _ = write!(text, "{log}-{shard}-{low}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_log_has_one_name_in_every_run_and_others_have_another() {
        let naming = |upto| Naming::Log { log: "a1".into(), shards: vec![(0, upto), (3, upto)] };
        let tag = 1 << OFFSET_BITS | 17;
        assert_eq!(naming(10).name(tag), Name { text: "a1-3-17".into(), may_be_there: false });
        assert_eq!(naming(18).name(tag), Name { text: "a1-3-17".into(), may_be_there: true });
        let (mut one, mut other) = (Naming::of_this_run(), Naming::of_this_run());
        assert_ne!(one.name(1), one.name(1));
        assert_ne!(one.name(1).text, other.name(1).text);
    }
}

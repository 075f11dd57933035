//! What can become of a message, and how safe that makes it.

/// How safe a message is when its sender is told that it was accepted; ordered by what it survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AckLevel {
    /// In a bounded queue of this process.
    #[default]
    Queued,
    /// In the embedded log, and fdatasync returned.
    Durable,
    /// The broker acknowledged it; of several, as the strategy says.
    Delivered,
}

impl AckLevel {
    /// All levels, in order.
    pub const ALL: [AckLevel; 3] = [AckLevel::Queued, AckLevel::Durable, AckLevel::Delivered];

    /// The level's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            AckLevel::Queued => "queued",
            AckLevel::Durable => "durable",
            AckLevel::Delivered => "delivered",
        }
    }

    /// The level of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name().as_bytes() == name)
    }
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was worked on in this process, and is kept nowhere.
    Processed,
    /// It is stored at the level its sender asked for.
    Stored(Receipt),
    /// The processing step gave it up.
    Failed,
    /// It was not accepted after all.
    Rejected(Rejection),
}

/// Where a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// How safe it is there.
    pub level: AckLevel,
    /// Whether it was there before: this one is a repeat.
    pub duplicate: bool,
    shard: u32,
    offset: u64,
}

impl Receipt {
    /// Stored at this level; `offset` is its place in the log of the shard that worked on it.
    ///
    /// # Panics
    /// When the offset is `u64::MAX`, which no log reaches.
    pub fn new(level: AckLevel, offset: Option<u64>) -> Self {
        assert_ne!(offset, Some(u64::MAX), "an offset of 2^64 - 1");
        Self { level, duplicate: false, shard: u32::MAX, offset: offset.unwrap_or(u64::MAX) }
    }

    /// The same in this shard of another process; else the shard is the core that worked on it.
    #[must_use]
    pub fn in_shard(self, shard: u32) -> Self {
        Self { shard, ..self }
    }

    /// The shard of another process that the offset belongs to.
    pub fn shard(self) -> Option<u32> {
        (self.shard != u32::MAX).then_some(self.shard)
    }

    /// Its place in the log of the shard that worked on it, if there is a log.
    pub fn offset(self) -> Option<u64> {
        (self.offset != u64::MAX).then_some(self.offset)
    }
}

/// Why a message was not accepted after all. Sides are bits: the n-th of a composite is `1 << n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Another message with the same id was accepted before.
    Conflict,
    /// These sides refuse it for ever; it is among the dead letters.
    Refused {
        /// The sides that refuse it.
        sides: u8,
    },
    /// Nobody knows whether it is stored: writing it failed half-way.
    Unknown,
    /// The process it was sent on to did not take it, or it did not get there, or nothing is known of it any more.
    Far {
        /// The HTTP status to answer with.
        status: u16,
        /// The number of the words for it, in [`Reasons`](crate::Reasons).
        reason: u32,
    },
}

impl Rejection {
    /// Whether another message with the same id was accepted before, here or in the process it was sent on to.
    pub fn is_conflict(self) -> bool {
        matches!(self, Rejection::Conflict | Rejection::Far { status: 409, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_found_under_its_name() {
        for level in AckLevel::ALL {
            assert_eq!(AckLevel::from_name(level.name().as_bytes()), Some(level));
        }
        assert_eq!(AckLevel::from_name(b"Durable"), None);
        assert!(AckLevel::Queued < AckLevel::Durable && AckLevel::Durable < AckLevel::Delivered);
    }

    #[test]
    fn an_outcome_is_two_words() {
        assert_eq!(size_of::<Outcome>(), 16);
        assert_eq!(Receipt::new(AckLevel::Durable, Some(7)).offset(), Some(7));
        assert_eq!(Receipt::new(AckLevel::Delivered, None).offset(), None);
        assert_eq!(Receipt::new(AckLevel::Durable, Some(7)).in_shard(3).shard(), Some(3));
    }
}

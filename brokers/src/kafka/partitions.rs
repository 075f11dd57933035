//! Which partition a record goes to, and when the next one may follow.
//!
//! A broker holds a producer to its sequence only from the first batch on that it has stored of it. What it knows nothing of
//! may begin anywhere (`ProducerAppendInfo.checkSequence`). So of the batches that a new producer has under way to a
//! partition, a later one can be stored although the first was refused. When the first was refused for now
//! (`NOT_ENOUGH_REPLICAS`, `NOT_LEADER_OR_FOLLOWER`), librdkafka even takes the later one's success for its
//! (`rd_kafka_dr_implicit_ack`): a record is acknowledged that is nowhere. Therefore a partition is *opened*: the first record goes
//! alone, and the next ones when it is acknowledged.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use engine_core::clock;

/// A broker forgets a producer that sends nothing (`producer.id.expiration.ms`, a day), so a partition that got nothing for so
/// long is opened again.
const OPEN_FOR: Duration = Duration::from_secs(3600);
/// Records without a key go to one partition, so many at a time.
const STICKY: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing was sent there.
    Closed,
    /// The record of this number was.
    Opening(usize),
    /// One was acknowledged.
    Open,
}

#[derive(Debug, Default)]
struct Topic {
    places: Vec<Place>,
    /// When something was sent there last.
    used: Vec<Option<Instant>>,
}

/// The partitions of all topics, as one producer sees them.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    /// One record at a time until a partition is open: else the broker keeps no order.
    are_opened: bool,
    topics: HashMap<String, Topic>,
    /// Records under way that open a partition.
    opening: Vec<(usize, String, usize)>,
    now: Option<Instant>,
}

impl Partitions {
    /// `are_opened`: of an idempotent producer. Others have no sequence.
    pub(super) fn new(are_opened: bool) -> Self {
        Self { are_opened, ..Self::default() }
    }

    /// A topic has so many partitions.
    pub(super) fn learn(&mut self, topic: &str, count: usize) {
        let known = self.topics.entry(topic.to_owned()).or_default();
        known.places.resize(count, Place::Closed);
        known.used.resize(count, None);
    }

    /// A topic is not there.
    pub(super) fn forget(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    /// There is a new producer.
    pub(super) fn close(&mut self) {
        self.topics.values_mut().for_each(|topic| topic.places.fill(Place::Closed));
        self.opening.clear();
    }

    /// Looks at the clock, for all records until the next time.
    pub(super) fn tick(&mut self) {
        self.now = Some(clock::now());
    }

    /// The partition of a record; `None` while it has to wait. A key is always in the partition that librdkafka's default
    /// partitioner (`consistent_random`) would choose; a record that is sent again stays in the one it was in `before`.
    pub(super) fn take(
        &mut self,
        topic: &str,
        key: &[u8],
        number: usize,
        before: Option<i32>,
    ) -> Option<i32> {
        let known = self.topics.get_mut(topic).filter(|known| !known.places.is_empty())?;
        let by = if key.is_empty() { number / STICKY } else { crc32fast::hash(key) as usize };
        let before = before.and_then(|before| usize::try_from(before).ok());
        let at = before.filter(|at| *at < known.places.len()).unwrap_or(by % known.places.len());
        let partition = i32::try_from(at).ok()?;
        if !self.are_opened {
            return Some(partition);
        }
        let is_forgotten = known.places[at] == Place::Open
            && known.used[at].zip(self.now).is_some_and(|(used, now)| now.duration_since(used) > OPEN_FOR);
        match known.places[at] {
            Place::Open if !is_forgotten => {}
            Place::Opening(_) => return None,
            Place::Open | Place::Closed => {
                known.places[at] = Place::Opening(number);
                self.opening.push((number, topic.to_owned(), at));
            }
        }
        known.used[at] = self.now;
        Some(partition)
    }

    /// The client did not take the record after all.
    pub(super) fn give_back(&mut self, number: usize) {
        self.settle(number, Place::Closed);
    }

    /// A record was acknowledged.
    pub(super) fn acknowledged(&mut self, number: usize) {
        if !self.opening.is_empty() {
            self.settle(number, Place::Open);
        }
    }

    fn settle(&mut self, number: usize, place: Place) {
        let Some(at) = self.opening.iter().position(|(opening, ..)| *opening == number) else { return };
        let (_, topic, partition) = self.opening.swap_remove(at);
        let places = self.topics.get_mut(&topic).and_then(|topic| topic.places.get_mut(partition));
        if let Some(known) = places.filter(|known| **known == Place::Opening(number)) {
            *known = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_takes_one_record_until_that_is_acknowledged() {
        let mut partitions = Partitions::new(true);
        assert_eq!(partitions.take("t", b"key", 0, None), None);
        partitions.learn("t", 1);
        partitions.tick();
        assert_eq!(partitions.take("t", b"key", 0, None), Some(0));
        assert_eq!(partitions.take("t", b"key", 1, None), None);
        partitions.give_back(0);
        assert_eq!(partitions.take("t", b"key", 1, None), Some(0));
        partitions.acknowledged(1);
        assert_eq!([2, 3].map(|number| partitions.take("t", b"other", number, None)), [Some(0); 2]);
        partitions.close();
        assert_eq!([4, 5].map(|number| partitions.take("t", b"key", number, None)), [Some(0), None]);
    }

    #[test]
    fn a_partition_that_got_nothing_for_an_hour_is_opened_again() {
        let clock = clock::SimulatedClock::start(0);
        let mut partitions = Partitions::new(true);
        partitions.learn("t", 1);
        partitions.tick();
        partitions.take("t", b"key", 0, None);
        partitions.acknowledged(0);
        clock.advance(OPEN_FOR / 2);
        partitions.tick();
        assert_eq!([1, 2].map(|number| partitions.take("t", b"key", number, None)), [Some(0); 2]);
        clock.advance(OPEN_FOR * 2);
        partitions.tick();
        assert_eq!([3, 4].map(|number| partitions.take("t", b"key", number, None)), [Some(0), None]);
    }
}

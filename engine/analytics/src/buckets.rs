//! Counts over time: every event is in a minute, an hour and a day. Old minutes go first, then hours; days stay.

use std::{collections::BTreeMap, sync::Arc};

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::{chunk::NOBODY, event::Event, quantiles::Quantiles, sketch::Sketch};

/// Milliseconds of the three widths.
pub const MINUTE_MS: i64 = 60_000;
/// An hour.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
/// A day.
pub const DAY_MS: i64 = 24 * HOUR_MS;

/// How many of each width are kept: two days of minutes, 62 days of hours, ten years of days.
pub(crate) const KEPT: [usize; 3] = [2 * 24 * 60, 62 * 24, 3653];
/// Named values of a bucket; further names are not added up in it.
const METRICS_MAX: usize = 256;

/// What happened in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Events.
    pub events: u64,
    /// By the number of their name.
    pub by_name: Vec<(u16, u64)>,
    /// By the number of their source.
    pub by_source: Vec<(u16, u64)>,
    /// Users that have a number.
    pub users: RoaringBitmap,
    /// Users beyond the bound.
    pub more_users: Option<Box<Sketch>>,
    /// Sessions that began.
    pub sessions: i64,
    /// Transactions.
    pub transactions: u64,
    /// Millionths of a currency unit.
    pub revenue_micros: i128,
    /// Events that report an error.
    pub errors: u64,
    /// Named values by the number of their name.
    pub metrics: Vec<(u16, Values)>,
}

/// Values of one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// How many.
    pub count: u64,
    /// All of them added up.
    pub sum: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// Their quantiles; `None` where they were let go of to make room for later ones.
    pub quantiles: Option<Quantiles>,
}

impl Values {
    fn none() -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { count: 0, sum: 0.0, min, max, quantiles: Some(Quantiles::default()) }
    }

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if let Some(quantiles) = &mut self.quantiles {
            quantiles.add(value);
        }
    }

    /// The lowest value that at least this share of all is not above, within 1 %.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        Some(self.quantiles.as_ref()?.quantile(share)?.clamp(self.min, self.max))
    }

    fn bins(&self) -> usize {
        self.quantiles.as_ref().map_or(0, Quantiles::bins)
    }

    /// Adds other values of the name.
    pub fn merge(&mut self, other: &Values) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        match (&mut self.quantiles, &other.quantiles) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine, _) => *mine = None,
        }
    }
}

fn count(list: &mut Vec<(u16, u64)>, number: u16, by: u64) {
    match list.iter_mut().find(|(known, _)| *known == number) {
        Some((_, events)) => *events += by,
        None => list.push((number, by)),
    }
}

/// An event's numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'a> {
    pub(crate) user: u32,
    pub(crate) user_hash: u64,
    /// Whether the user was counted in this minute before, and so in its hour and its day.
    pub(crate) user_is_known: bool,
    pub(crate) name: u16,
    pub(crate) source: u16,
    pub(crate) metrics: &'a [(u16, f64)],
}

impl Bucket {
    /// Takes an event in; returns how many bins of quantiles that made.
    fn add(&mut self, event: &Event<'_>, numbers: &Numbers<'_>) -> usize {
        self.events += 1;
        count(&mut self.by_name, numbers.name, 1);
        count(&mut self.by_source, numbers.source, 1);
        if numbers.user != NOBODY {
            if !numbers.user_is_known {
                self.users.insert(numbers.user);
            }
        } else if !event.user.is_empty() {
            self.more_users.get_or_insert_default().add(numbers.user_hash);
        }
        if let Some(amount) = event.amount_micros {
            self.transactions += 1;
            self.revenue_micros += i128::from(amount);
        }
        self.errors += u64::from(event.is_error);
        let mut bins_made = 0;
        for (name, value) in numbers.metrics {
            let place = match self.metrics.iter().position(|(known, _)| known == name) {
                Some(place) => place,
                None if self.metrics.len() < METRICS_MAX => {
                    self.metrics.push((*name, Values::none()));
                    self.metrics.len() - 1
                }
                None => continue,
            };
            let values = &mut self.metrics[place].1;
            let before = values.bins();
            values.add(*value);
            bins_made += values.bins() - before;
        }
        bins_made
    }

    /// Bins of its quantiles.
    fn bins(&self) -> usize {
        self.metrics.iter().map(|(_, values)| values.bins()).sum()
    }

    /// Adds another one's content.
    pub fn merge(&mut self, other: &Bucket) {
        self.events += other.events;
        other.by_name.iter().for_each(|(number, by)| count(&mut self.by_name, *number, *by));
        other.by_source.iter().for_each(|(number, by)| count(&mut self.by_source, *number, *by));
        self.users |= &other.users;
        if let Some(more) = &other.more_users {
            self.more_users.get_or_insert_default().merge(more);
        }
        self.sessions += other.sessions;
        self.transactions += other.transactions;
        self.revenue_micros += other.revenue_micros;
        self.errors += other.errors;
        for (name, theirs) in &other.metrics {
            match self.metrics.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.merge(theirs),
                None => self.metrics.push((*name, theirs.clone())),
            }
        }
    }

    /// Different users: exact for those that have a number, estimated for the rest.
    pub fn unique_users(&self) -> u64 {
        self.users.len() + self.more_users.as_ref().map_or(0, |more| more.estimate())
    }
}

/// Buckets of one width, by the number of widths since the epoch.
pub(crate) type Width = BTreeMap<i64, Arc<Bucket>>;

/// Buckets of all widths.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buckets {
    pub(crate) minutes: Width,
    pub(crate) hours: Width,
    pub(crate) days: Width,
    /// The latest minute, by its number: nobody else sees it, so adding to it is cheap. It is in none of the others yet.
    open: Option<(i64, Bucket)>,
    /// Bins of quantiles in all of them.
    bins: usize,
    bins_max: usize,
}

impl Buckets {
    pub(crate) fn new(bins_max: usize) -> Self {
        Self { bins_max, ..Self::default() }
    }

    /// Those of a snapshot.
    pub(crate) fn restored([minutes, hours, days]: [Width; 3], bins_max: usize) -> Self {
        let mut buckets = Self { minutes, hours, days, open: None, bins: 0, bins_max };
        let all = [&buckets.minutes, &buckets.hours, &buckets.days];
        buckets.bins = all.into_iter().flat_map(BTreeMap::values).map(|bucket| bucket.bins()).sum();
        buckets.let_go();
        buckets
    }

    pub(crate) fn add(&mut self, event: &Event<'_>, numbers: &Numbers<'_>) {
        let minute = event.timestamp_ms.div_euclid(MINUTE_MS);
        if self.open.as_ref().is_none_or(|(latest, _)| *latest < minute) {
            self.close();
            self.open = Some((minute, Bucket::default()));
        }
        match &mut self.open {
            Some((latest, bucket)) if *latest == minute => self.bins += bucket.add(event, numbers),
            // A late one.
            _ => self.each(event.timestamp_ms, |bucket| bucket.add(event, numbers)),
        }
        self.let_go();
    }

    /// A session began at this time, or did not after all.
    pub(crate) fn change_sessions(&mut self, at_ms: i64, by: i64) {
        match &mut self.open {
            Some((latest, bucket)) if *latest == at_ms.div_euclid(MINUTE_MS) => bucket.sessions += by,
            _ => self.each(at_ms, |bucket| {
                bucket.sessions += by;
                0
            }),
        }
    }

    /// Puts the latest minute among the others, into its hour and its day.
    pub(crate) fn close(&mut self) {
        let Some((minute, closed)) = self.open.take() else { return };
        self.bins -= closed.bins();
        self.each(minute * MINUTE_MS, |bucket| {
            let before = bucket.bins();
            bucket.merge(&closed);
            bucket.bins().saturating_sub(before)
        });
    }

    /// Beyond their bound the quantiles of the oldest minutes go, then of hours, then of days: an eighth of all, so that
    /// looking for them costs little.
    fn let_go(&mut self) {
        if self.bins <= self.bins_max {
            return;
        }
        let upto = self.bins_max - self.bins_max / 8;
        for buckets in [&mut self.minutes, &mut self.hours, &mut self.days] {
            for bucket in buckets.values_mut() {
                if self.bins <= upto {
                    return;
                }
                let bins = bucket.bins();
                if bins > 0 {
                    let bucket = Arc::make_mut(bucket);
                    bucket.metrics.iter_mut().for_each(|(_, values)| values.quantiles = None);
                    self.bins -= bins;
                }
            }
        }
    }

    /// Gives the buckets of a time to `then`, which says how many bins it made.
    fn each(&mut self, at_ms: i64, mut then: impl FnMut(&mut Bucket) -> usize) {
        let widths = [(&mut self.minutes, MINUTE_MS), (&mut self.hours, HOUR_MS), (&mut self.days, DAY_MS)];
        for ((buckets, width), kept) in widths.into_iter().zip(KEPT) {
            let number = at_ms.div_euclid(width);
            if !buckets.contains_key(&number) && buckets.len() >= kept {
                match buckets.first_key_value() {
                    // Older than everything that is kept of this width.
                    Some((first, _)) if number < *first => continue,
                    _ => {
                        let oldest = buckets.pop_first();
                        self.bins -= oldest.map_or(0, |(_, bucket)| bucket.bins());
                    }
                }
            }
            // A query that looks at the bucket keeps what it saw.
            self.bins += then(Arc::make_mut(buckets.entry(number).or_default()));
        }
    }

    /// The range that [`cover`](Self::cover) really takes for `from..to`: whole minutes, hours where minutes are gone, days
    /// where hours are.
    pub(crate) fn covered(&self, from_ms: i64, to_ms: i64) -> (i64, i64) {
        let width = |at: i64| {
            let gone = |buckets: &Width, width: i64, kept: usize| {
                let first = buckets.first_key_value().map_or(i64::MAX, |(number, _)| number * width);
                buckets.len() >= kept && at < first
            };
            if gone(&self.hours, HOUR_MS, KEPT[1]) {
                DAY_MS
            } else if gone(&self.minutes, MINUTE_MS, KEPT[0]) {
                HOUR_MS
            } else {
                MINUTE_MS
            }
        };
        let (from, last) = (width(from_ms), to_ms.saturating_sub(1));
        let to = width(last);
        let end = last.div_euclid(to).saturating_add(1).saturating_mul(to);
        (from_ms.div_euclid(from) * from, end)
    }

    /// The buckets that make up `from..to` (milliseconds, taken to whole minutes outwards): days where whole days lie in
    /// it, hours where whole hours do, minutes for the rest. Where minutes are gone, the hours they were in.
    pub fn cover(&self, from_ms: i64, to_ms: i64) -> Vec<Arc<Bucket>> {
        let mut found = Vec::new();
        let from_minute = from_ms.div_euclid(MINUTE_MS);
        if let Some((minute, bucket)) = &self.open
            && (from_minute..=(to_ms - 1).div_euclid(MINUTE_MS)).contains(minute)
        {
            found.push(Arc::new(bucket.clone()));
        }
        let mut take = |width: &Width, number: i64| found.extend(width.get(&number).cloned());
        // Where there is nothing, there is nothing to cover: open ends cost no time.
        let first = self.days.first_key_value().map_or(0, |(day, _)| day * DAY_MS);
        let last = self.days.last_key_value().map_or(0, |(day, _)| (day + 1) * DAY_MS);
        let mut at = from_ms.max(first).div_euclid(MINUTE_MS) * MINUTE_MS;
        let to = to_ms.min(last);
        let first_minute = self.minutes.first_key_value().map_or(i64::MAX, |(minute, _)| minute * MINUTE_MS);
        let first_hour = self.hours.first_key_value().map_or(i64::MAX, |(hour, _)| hour * HOUR_MS);
        let minutes_gone = self.minutes.len() >= KEPT[0];
        let hours_gone = self.hours.len() >= KEPT[1];
        while at < to {
            let day_fits = at.rem_euclid(DAY_MS) == 0 && at + DAY_MS <= to;
            let hour_fits = at.rem_euclid(HOUR_MS) == 0 && at + HOUR_MS <= to;
            if day_fits || (hours_gone && at < first_hour) {
                take(&self.days, at.div_euclid(DAY_MS));
                at = (at.div_euclid(DAY_MS) + 1) * DAY_MS;
            } else if hour_fits || (minutes_gone && at < first_minute) {
                take(&self.hours, at.div_euclid(HOUR_MS));
                at = (at.div_euclid(HOUR_MS) + 1) * HOUR_MS;
            } else {
                take(&self.minutes, at.div_euclid(MINUTE_MS));
                at += MINUTE_MS;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(buckets: &mut Buckets, timestamp_ms: i64, user: u32) {
        let event = Event { timestamp_ms, user: "u", ..Event::default() };
        buckets.add(
            &event,
            &Numbers { user, user_hash: 0, user_is_known: false, name: 0, source: 0, metrics: &[] },
        );
    }

    fn sum(buckets: &Buckets, from: i64, to: i64) -> (u64, u64) {
        let mut sum = Bucket::default();
        buckets.cover(from, to).iter().for_each(|bucket| sum.merge(bucket));
        (sum.events, sum.unique_users())
    }

    #[test]
    fn a_range_is_covered_by_days_hours_and_minutes_once() {
        let mut buckets = Buckets::new(1000);
        for minute in 0..2 * 24 * 60 {
            at(&mut buckets, minute * MINUTE_MS + 17, (minute % 100) as u32);
        }
        for (from, to) in [(0, 1440), (1, 2), (59, 61), (30, 2500), (1440, 1500), (2000, 2879)] {
            let expected = (to - from) as u64;
            assert_eq!(sum(&buckets, from * MINUTE_MS, to * MINUTE_MS), (expected, expected.min(100)));
        }
        assert_eq!(sum(&buckets, i64::MIN / 2, i64::MAX / 2), (2880, 100));
        // Half a minute counts as the whole.
        assert_eq!(sum(&buckets, 30_000, MINUTE_MS + 1), (2, 2));
    }

    #[test]
    fn old_minutes_go_and_their_hours_stay() {
        let mut buckets = Buckets::new(1000);
        for minute in 0..4 * 24 * 60 {
            at(&mut buckets, minute * MINUTE_MS, 1);
        }
        assert_eq!(buckets.minutes.len(), KEPT[0]);
        assert_eq!(sum(&buckets, 0, 4 * DAY_MS), (4 * 1440, 1));
        // A minute of the first day is not known any more: its hour is, and that is said.
        assert_eq!(sum(&buckets, 5 * MINUTE_MS, 6 * MINUTE_MS).0, 60);
        assert_eq!(buckets.covered(5 * MINUTE_MS, 6 * MINUTE_MS), (0, HOUR_MS));
        let late = 3 * DAY_MS + 7;
        assert_eq!(buckets.covered(HOUR_MS + 1, late), (HOUR_MS, 3 * DAY_MS + MINUTE_MS));
        assert_eq!(buckets.covered(late, late + 1), (3 * DAY_MS, 3 * DAY_MS + MINUTE_MS));
    }

    #[test]
    fn the_oldest_quantiles_go_first_and_what_is_left_is_told() {
        let mut buckets = Buckets::new(1000);
        for minute in 0..120 {
            let metrics: Vec<(u16, f64)> = (0..20).map(|value| (0, f64::from(1 << value))).collect();
            let event = Event { timestamp_ms: minute * MINUTE_MS, ..Event::default() };
            let numbers = Numbers {
                user: NOBODY,
                user_hash: 0,
                user_is_known: false,
                name: 0,
                source: 0,
                metrics: &metrics,
            };
            buckets.add(&event, &numbers);
            let held: usize = buckets.cover(0, i64::MAX).iter().map(|bucket| bucket.bins()).sum();
            assert!(held <= buckets.bins && buckets.bins <= 1000, "{held}, {}", buckets.bins);
        }
        let told = |from: i64, to: i64| {
            let mut sum = Bucket::default();
            buckets.cover(from * MINUTE_MS, to * MINUTE_MS).iter().for_each(|bucket| sum.merge(bucket));
            let values = &sum.metrics[0].1;
            (values.count, values.quantile(0.5).map(f64::round))
        };
        assert_eq!((told(0, 1), told(119, 120)), ((20, None), (20, Some(508.0))));
        // The hour keeps what its minutes have lost.
        assert_eq!(told(0, 60), (1200, Some(508.0)));
    }

    #[test]
    fn a_view_keeps_what_it_saw() {
        let mut buckets = Buckets::new(1000);
        at(&mut buckets, 0, 1);
        let seen = buckets.cover(0, MINUTE_MS);
        at(&mut buckets, 1, 2);
        assert_eq!((seen[0].events, sum(&buckets, 0, MINUTE_MS).0), (1, 2));
    }
}

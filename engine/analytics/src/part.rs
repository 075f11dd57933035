//! One core's part of the aggregates. Its worker adds events; a query takes a [`View`], which costs it a few
//! microseconds, and works on that.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
};

use crate::{
    buckets::{Bucket, Buckets, DAY_MS, Numbers, Width},
    chunk::{CHUNK_EVENTS, Chunk, NO_ROW, NOBODY, Row},
    counted::CountedIds,
    event::{Event, TIMES_MS},
    lendable::Lendable,
    names::Names,
    quantiles::Quantiles,
    snapshot::Snapshot,
    users::{Profile, Users},
};

/// Bounds of a part; what lies beyond is stated at each.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events that funnels, filters and recent events see: the latest ones, to a chunk of 4,096. Counts see all.
    pub events: usize,
    /// Users with a profile. Further ones are counted, by estimate, and are in no funnel.
    pub users: usize,
    /// Bytes of those events; with long texts fewer of them are kept.
    pub event_bytes: usize,
    /// Names of events, sources and metrics. Further ones are `other`.
    pub names: usize,
    /// Bins that the quantiles of metrics may have, 8 bytes each, of every metric in every bucket together. Beyond, those of
    /// the oldest minutes are let go of, then of hours, then of days; count, sum, lowest and highest stay.
    pub quantile_bins: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { events: 2 << 20, event_bytes: 1 << 30, users: 1 << 20, names: 1024, quantile_bins: 4 << 20 }
    }
}

/// The aggregates of one core.
#[derive(Debug)]
pub struct Part {
    pub(crate) bounds: Bounds,
    pub(crate) names: Names,
    pub(crate) sources: Names,
    metrics: Names,
    pub(crate) users: Users,
    buckets: Buckets,
    /// Full chunks, oldest first.
    full: VecDeque<Arc<Chunk>>,
    full_bytes: usize,
    open: Lendable<Chunk>,
    pub(crate) next_row: u64,
    /// The ids of the events that are kept.
    pub(crate) counted: CountedIds,
    repeats: u64,
    /// Reused from event to event.
    changes: Vec<(i64, i64)>,
    values: Vec<(u16, f64)>,
}

impl Part {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            names: Names::new(bounds.names),
            sources: Names::new(bounds.names),
            metrics: Names::new(bounds.names),
            users: Users::new(bounds.users),
            buckets: Buckets::new(bounds.quantile_bins),
            full: VecDeque::new(),
            full_bytes: 0,
            open: Lendable::Own(Chunk::new(0)),
            next_row: 0,
            counted: CountedIds::default(),
            repeats: 0,
            changes: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Adds an event, unless one of its user and its id is kept: that one is counted. Events come in any order of time; one
    /// without an id is new. Says whether it was added.
    pub fn add(&mut self, event: &Event<'_>) -> bool {
        let timestamp_ms = event.timestamp_ms.clamp(*TIMES_MS.start(), *TIMES_MS.end());
        let event = &Event { timestamp_ms, ..*event };
        let user_hash = self.users.hash(event.user);
        if !event.id.is_empty() {
            let hash = self.users.event_hash(user_hash, event.id);
            if !self.counted.note(hash, self.bounds.events) {
                self.repeats += 1;
                return false;
            }
        }
        let user = if event.user.is_empty() { NOBODY } else { self.users.number(event.user, user_hash) };
        self.values.clear();
        for (name, value) in event.metrics {
            self.values.push((self.metrics.number(name), *value));
        }
        let (mut previous, mut user_is_known) = (NO_ROW, false);
        if user != NOBODY {
            let (profile, changes) = (self.users.get_mut(user), &mut self.changes);
            user_is_known = profile.note_minute(event.timestamp_ms);
            previous = profile.add(event, self.next_row, |change| changes.push(change));
        }
        let numbers = Numbers {
            user,
            user_hash,
            user_is_known,
            name: self.names.number(event.name),
            source: self.sources.number(event.source),
            metrics: &self.values,
        };
        self.buckets.add(event, &numbers);
        for (at, by) in self.changes.drain(..) {
            self.buckets.change_sessions(at, by);
        }
        let row = Row { user, name: numbers.name, source: numbers.source, previous };
        self.keep(event, row);
        true
    }

    /// Keeps an event, and lets go of the oldest beyond the bounds.
    pub(crate) fn keep(&mut self, event: &Event<'_>, row: Row) {
        let open = self.open.get_mut();
        open.push(event, row);
        self.next_row += 1;
        if open.is_full() {
            let full = Arc::new(std::mem::take(open));
            // Memory that was just given up is better than memory the kernel has to clear first.
            let mut spare = None;
            self.full_bytes += full.bytes();
            self.counted.close_chunk();
            while ((self.full.len() + 1) * CHUNK_EVENTS > self.bounds.events
                || self.full_bytes > self.bounds.event_bytes)
                && let Some(oldest) = self.full.pop_front()
            {
                self.full_bytes -= oldest.bytes();
                self.counted.forget_oldest();
                // Unless a query looks at it.
                spare = Arc::into_inner(oldest);
            }
            self.open = Lendable::Own(full.next(spare));
            self.full.push_back(full);
        }
    }

    /// An empty one with the keys of another.
    pub(crate) fn with_keys(bounds: Bounds, keys: (u64, u64)) -> Self {
        Self { users: Users::with_keys(keys, bounds.users), ..Self::new(bounds) }
    }

    /// So many events more came before those that it keeps. To be said before it keeps any.
    pub(crate) fn begin_behind(&mut self, events: u64) {
        self.next_row += events;
        self.open = Lendable::Own(Chunk::new(self.next_row));
    }

    /// Takes over a user without its events. Returns its number, [`NOBODY`] beyond the bound, and its hash.
    pub(crate) fn adopt(&mut self, profile: &Profile) -> (u32, u64) {
        let hash = self.users.hash(&profile.id);
        let number = self.users.number(&profile.id, hash);
        if number != NOBODY {
            self.users.get_mut(number).take_over(profile);
        }
        (number, hash)
    }

    /// The numbers that the names of events, sources and metrics have here.
    pub(crate) fn numbers_of(&mut self, names: &[Vec<Arc<str>>; 3]) -> [Vec<u16>; 3] {
        let [events, sources, metrics] = names;
        let of =
            |known: &mut Names, names: &[Arc<str>]| names.iter().map(|name| known.number(name)).collect();
        [of(&mut self.names, events), of(&mut self.sources, sources), of(&mut self.metrics, metrics)]
    }

    /// What it has counted.
    pub(crate) fn set_buckets(&mut self, widths: [Width; 3]) {
        self.buckets = Buckets::restored(widths, self.bounds.quantile_bins);
    }

    /// All of it as it is now, to be written down. It shares what it can: what changes while the snapshot is held is copied
    /// first, a page of 1,024 users or a bucket at a time.
    pub fn snapshot(&mut self) -> Snapshot {
        self.buckets.close();
        let (keys, pages) = self.users.shared();
        let chunks = self.full.iter().cloned().chain([self.open.lend()]).collect();
        let names = [&self.names, &self.sources, &self.metrics].map(Names::shared);
        let Buckets { minutes, hours, days, .. } = self.buckets.clone();
        Snapshot { keys, names, pages, buckets: [minutes, hours, days], chunks }
    }

    /// What a snapshot says; bounds may have changed since. `Err`: what is wrong with it.
    pub(crate) fn restored(bounds: Bounds, snapshot: Snapshot) -> Result<Self, &'static str> {
        let Snapshot { keys, names, pages, buckets, chunks } = snapshot;
        let users = Users::restored(keys, pages, bounds.users)?;
        let mut next_row = chunks.first().map_or(0, |chunk| chunk.first_row);
        for chunk in &chunks {
            if chunk.first_row != next_row || !chunk.is_sound(users.len()) {
                return Err("events that do not follow each other");
            }
            next_row = next_row.checked_add(chunk.len() as u64).ok_or("more events than can be counted")?;
        }
        let quantiles = buckets.iter().flat_map(|width| width.values()).flat_map(|bucket| &bucket.metrics);
        if !quantiles.filter_map(|(_, values)| values.quantiles.as_ref()).all(Quantiles::is_sound) {
            return Err("quantiles that no values make");
        }
        let mut counted = CountedIds::default();
        for (place, chunk) in chunks.iter().enumerate() {
            if place > 0 {
                counted.close_chunk();
            }
            for at in 0..chunk.len() {
                // The users beyond the bound are not kept: their events are known no longer than the process.
                let user = chunk.users[at];
                let user_hash = users.hash(if user == NOBODY { "" } else { &users.get(user).id });
                let id = chunk.id(at);
                if !id.is_empty() {
                    counted.note(users.event_hash(user_hash, id), bounds.events);
                }
            }
        }
        let mut full = VecDeque::from(chunks);
        let open = full.pop_back().map_or_else(|| Lendable::Own(Chunk::new(0)), Lendable::Lent);
        let [names, sources, metrics] = names.map(|names| Names::restored(names, bounds.names));
        Ok(Self {
            names,
            sources,
            metrics,
            users,
            buckets: Buckets::restored(buckets, bounds.quantile_bins),
            full_bytes: full.iter().map(|chunk| chunk.bytes()).sum(),
            full,
            open,
            next_row,
            counted,
            ..Self::new(bounds)
        })
    }

    /// What bounds it.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Events so far, kept or not.
    pub fn events(&self) -> u64 {
        self.next_row
    }

    /// Events that came again in this run, and were not counted again.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// What there is now.
    pub fn view(&mut self) -> View {
        let mut chunks: Vec<Arc<Chunk>> = self.full.iter().cloned().collect();
        chunks.push(self.open.lend());
        View { chunks, names: self.names.clone(), sources: self.sources.clone(), users: self.users.len() }
    }

    /// The sum of what happened in `from..to` (milliseconds, to whole minutes outwards), with the parts that make it up.
    pub fn cover(&self, from_ms: i64, to_ms: i64) -> Vec<Arc<Bucket>> {
        self.buckets.cover(from_ms, to_ms)
    }

    /// The range, in milliseconds, that [`cover`](Self::cover) really takes for `from..to`.
    pub fn covered(&self, from_ms: i64, to_ms: i64) -> (i64, i64) {
        self.buckets.covered(from_ms, to_ms)
    }

    /// The names of events, by number.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The names of sources, by number.
    pub fn sources(&self) -> &Names {
        &self.sources
    }

    /// The names of metrics, by number.
    pub fn metrics(&self) -> &Names {
        &self.metrics
    }

    /// A user's profile, and the view that has its events ([`View::history`]).
    pub fn user(&mut self, id: &str) -> Option<(Profile, View)> {
        let profile = self.users.get(self.users.find(id, self.users.hash(id))?).clone();
        Some((profile, self.view()))
    }

    /// The number of a user, for a scan.
    pub fn find_user(&self, id: &str) -> Option<u32> {
        self.users.find(id, self.users.hash(id))
    }

    /// Bytes of the events that are kept; profiles and buckets come on top.
    pub fn event_bytes(&self) -> usize {
        self.full.iter().map(|chunk| chunk.bytes()).sum::<usize>() + self.open.get().bytes()
    }

    /// Users with a profile.
    pub fn users_known(&self) -> usize {
        self.users.len()
    }
}

/// An event in a view.
#[derive(Clone, Debug)]
pub struct Found {
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) at: usize,
}

impl Found {
    /// When it happened, in milliseconds.
    pub fn timestamp_ms(&self) -> i64 {
        self.chunk.timestamps_ms[self.at]
    }

    /// The number of its name.
    pub fn name(&self) -> u16 {
        self.chunk.names[self.at]
    }

    /// The number of its source.
    pub fn source(&self) -> u16 {
        self.chunk.sources[self.at]
    }

    /// What it is about.
    pub fn kind(&self) -> crate::Kind {
        self.chunk.kinds[self.at]
    }

    /// What it earned, in millionths.
    pub fn amount_micros(&self) -> Option<i64> {
        self.chunk.amount(self.at)
    }

    /// Its id, its session, then keys and values of its properties in turns. A detail stands last, and makes them odd in
    /// number.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.chunk.texts(self.at)
    }

    /// What else it says, as it was added; empty where nothing is kept.
    pub fn detail(&self) -> &[u8] {
        self.chunk.detail(self.at)
    }
}

/// What a user did in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Events.
    pub events: u64,
    /// Days with events, in UTC.
    pub days_active: u32,
    /// Transactions.
    pub transactions: u64,
    /// Millionths of a currency unit.
    pub revenue_micros: i128,
    /// The latest events, newest first.
    pub latest: Vec<Found>,
}

/// The events of a part as they were at one moment.
#[derive(Clone, Debug)]
pub struct View {
    pub(crate) chunks: Vec<Arc<Chunk>>,
    pub(crate) names: Names,
    pub(crate) sources: Names,
    /// Users with a number.
    pub users: usize,
}

impl View {
    /// The chunks with events of this time.
    pub(crate) fn chunks_of(&self, from_ms: i64, to_ms: i64) -> impl Iterator<Item = &Chunk> {
        let chunks = self.chunks.iter().map(|chunk| &**chunk);
        chunks.filter(move |chunk| chunk.last_ms >= from_ms && chunk.first_ms < to_ms)
    }

    /// The name of events with this number.
    pub fn name(&self, number: u16) -> &str {
        self.names.name(number)
    }

    /// The source with this number.
    pub fn source(&self, number: u16) -> &str {
        self.sources.name(number)
    }

    /// What a user did in `from..to` (milliseconds), as far as its events are kept, with the latest `latest_max` of them by
    /// time; of one time, the one that came later is the later one. Walks all its events.
    pub fn history(&self, profile: &Profile, from_ms: i64, to_ms: i64, latest_max: usize) -> History {
        let mut history = History::default();
        let (mut days, mut latest) = (BTreeSet::new(), BinaryHeap::new());
        let mut row = profile.last_row;
        while let Some((chunk, at)) = self.place(row) {
            let (time, this) = (chunk.timestamps_ms[at], row);
            row = chunk.previous[at];
            if time < from_ms || time >= to_ms {
                continue;
            }
            history.events += 1;
            days.insert(time.div_euclid(DAY_MS));
            if let Some(amount) = chunk.amount(at) {
                history.transactions += 1;
                history.revenue_micros += i128::from(amount);
            }
            latest.push(Reverse((time, this)));
            if latest.len() > latest_max {
                latest.pop();
            }
        }
        history.days_active = days.len() as u32;
        // The latest of the heap's order is its least: the newest first.
        let latest = latest.into_sorted_vec().into_iter().map(|Reverse((_, row))| row);
        let found = latest.filter_map(|row| self.place(row));
        history.latest = found.map(|(chunk, at)| Found { chunk: Arc::clone(chunk), at }).collect();
        history
    }

    /// Where a row stands; `None`: it is not kept.
    fn place(&self, row: u64) -> Option<(&Arc<Chunk>, usize)> {
        let behind = self.chunks.partition_point(|chunk| chunk.first_row <= row);
        let chunk = self.chunks.get(behind.checked_sub(1)?)?;
        let at = usize::try_from(row - chunk.first_row).ok()?;
        (at < chunk.len()).then_some((chunk, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(bounds: Bounds, events: usize, text: &str) -> Part {
        let mut part = Part::new(bounds);
        for number in 0..events {
            let user = format!("u-{}", number % 10);
            let properties: [(&[u8], &[u8]); 1] = [(b"text", text.as_bytes())];
            let event = Event { user: &user, name: "n", properties: &properties, ..Event::default() };
            part.add(&event);
        }
        part
    }

    #[test]
    fn the_oldest_events_go_by_number_and_by_bytes_and_are_still_counted() {
        let kept = |part: &mut Part| part.view().chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
        let mut by_number =
            fill(Bounds { events: 2 * CHUNK_EVENTS, ..Bounds::default() }, 5 * CHUNK_EVENTS, "");
        assert_eq!(kept(&mut by_number), 2 * CHUNK_EVENTS);
        let mut by_bytes =
            fill(Bounds { event_bytes: 4 << 20, ..Bounds::default() }, 10_000, &"x".repeat(2000));
        assert!(kept(&mut by_bytes) < 4000 && by_bytes.event_bytes() < 8 << 20, "{}", by_bytes.event_bytes());
        for (mut part, events) in [(by_number, 5 * CHUNK_EVENTS), (by_bytes, 10_000)] {
            let counted: u64 = part.cover(0, 1).iter().map(|bucket| bucket.events).sum();
            assert_eq!(counted as usize, events);
            // A user's list ends where the events end.
            let (profile, view) = part.user("u-3").unwrap();
            let found = view.history(&profile, i64::MIN, i64::MAX, usize::MAX).latest;
            assert!(
                profile.events as usize == events / 10 + usize::from(events % 10 > 3)
                    && found.len() < events / 10
            );
        }
    }

    #[test]
    fn an_event_is_counted_once_by_its_user_and_id_as_long_as_it_is_kept() {
        let event = |user: &'static str, id: &'static [u8]| Event { user, id, name: "n", ..Event::default() };
        let mut part = Part::new(Bounds { events: 2 * CHUNK_EVENTS, ..Bounds::default() });
        assert!(part.add(&event("u", b"1")) && part.add(&event("v", b"1")) && part.add(&event("", b"1")));
        assert!(!part.add(&event("u", b"1")) && !part.add(&event("", b"1")));
        assert!(part.add(&event("u", b"")) && part.add(&event("u", b"")));
        assert_eq!((part.events(), part.repeats()), (5, 2));
        // So does the part of the next run, which has it from a snapshot.
        let mut bytes = Vec::new();
        part.snapshot().write(&mut bytes).unwrap();
        let mut again = Snapshot::read(&mut &*bytes, part.bounds()).unwrap();
        assert!(
            !again.add(&event("v", b"1")) && !again.add(&event("", b"1")) && again.add(&event("v", b"2"))
        );
        assert_eq!(again.events(), 6);
        for _ in 0..3 * CHUNK_EVENTS {
            part.add(&event("w", b""));
        }
        assert!(part.add(&event("u", b"1")), "it is forgotten with its chunk");
        assert!(!part.add(&event("u", b"1")));
    }

    #[test]
    fn users_beyond_the_bound_are_counted_by_estimate() {
        let mut part = Part::new(Bounds { users: 100, ..Bounds::default() });
        for number in 0..5000 {
            part.add(&Event { user: &format!("u-{number}"), name: "n", ..Event::default() });
        }
        let mut sum = Bucket::default();
        part.cover(0, 1).iter().for_each(|bucket| sum.merge(bucket));
        assert!(sum.unique_users().abs_diff(5000) < 5000 * 8 / 100, "{}", sum.unique_users());
        assert!(part.user("u-99").is_some() && part.user("u-100").is_none());
    }
}

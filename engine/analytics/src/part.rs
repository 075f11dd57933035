//! One core's part of the aggregates. Its worker adds events; a query takes a [`View`], which costs it a few
//! microseconds, and works on that.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    buckets::{Bucket, Buckets, Numbers},
    chunk::{Chunk, NO_ROW, NOBODY, Row},
    event::Event,
    names::Names,
    users::{Profile, Users},
};

/// Bounds of a part; what lies beyond is stated at each.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events that funnels, filters and recent events see: the latest ones, to a chunk of 4,096. Counts see all.
    pub events: usize,
    /// Users with a profile. Further ones are counted, by estimate, and are in no funnel.
    pub users: usize,
    /// Names of events, sources and metrics. Further ones are `other`.
    pub names: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { events: 2 << 20, users: 1 << 20, names: 1024 }
    }
}

/// The aggregates of one core.
#[derive(Debug)]
pub struct Part {
    bounds: Bounds,
    names: Names,
    sources: Names,
    metrics: Names,
    users: Users,
    buckets: Buckets,
    /// Full chunks, oldest first.
    full: VecDeque<Arc<Chunk>>,
    open: Arc<Chunk>,
    next_row: u64,
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
            buckets: Buckets::default(),
            full: VecDeque::new(),
            open: Arc::new(Chunk::new(0)),
            next_row: 0,
            changes: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Adds an event. Events come in any order of time; a repeat is the caller's to recognise.
    pub fn add(&mut self, event: &Event<'_>) {
        let user_hash = self.users.hash(event.user);
        let user = if event.user.is_empty() { NOBODY } else { self.users.number(event.user, user_hash) };
        self.values.clear();
        for (name, value) in event.metrics {
            self.values.push((self.metrics.number(name), *value));
        }
        let numbers = Numbers {
            user,
            user_hash,
            name: self.names.number(event.name),
            source: self.sources.number(event.source),
            metrics: &self.values,
        };
        self.buckets.add(event, &numbers);
        let mut previous = NO_ROW;
        if user != NOBODY {
            self.changes.clear();
            let changes = &mut self.changes;
            previous = self.users.get_mut(user).add(event, self.next_row, |change| changes.push(change));
            for (at, by) in self.changes.drain(..) {
                self.buckets.change_sessions(at, by);
            }
        }
        let row = Row { user, name: numbers.name, source: numbers.source, previous };
        Arc::make_mut(&mut self.open).push(event, row);
        self.next_row += 1;
        if self.open.is_full() {
            self.full.push_back(std::mem::replace(&mut self.open, Arc::new(Chunk::new(self.next_row))));
            while self.full.len() * crate::chunk::CHUNK_EVENTS > self.bounds.events {
                self.full.pop_front();
            }
        }
    }

    /// What there is now.
    pub fn view(&self) -> View {
        let mut chunks: Vec<Arc<Chunk>> = self.full.iter().cloned().collect();
        chunks.push(Arc::clone(&self.open));
        View { chunks, names: self.names.clone(), sources: self.sources.clone(), users: self.users.len() }
    }

    /// The sum of what happened in `from..to` (milliseconds, to whole minutes outwards), with the parts that make it up.
    pub fn cover(&self, from_ms: i64, to_ms: i64) -> Vec<Arc<Bucket>> {
        self.buckets.cover(from_ms, to_ms)
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

    /// A user's profile, and the latest `events_max` of its events as places in the view.
    pub fn user(&self, id: &str, events_max: usize) -> Option<(Profile, Vec<Found>)> {
        let profile = self.users.get(self.users.find(id, self.users.hash(id))?).clone();
        let mut found = Vec::new();
        let mut row = profile.last_row;
        while found.len() < events_max
            && let Some((chunk, at)) = self.place(row)
        {
            row = chunk.previous[at];
            found.push(Found { chunk, at });
        }
        Some((profile, found))
    }

    /// The number of a user, for a scan.
    pub fn find_user(&self, id: &str) -> Option<u32> {
        self.users.find(id, self.users.hash(id))
    }

    fn place(&self, row: u64) -> Option<(Arc<Chunk>, usize)> {
        if row >= self.next_row {
            return None;
        }
        if row >= self.open.first_row {
            return Some((Arc::clone(&self.open), (row - self.open.first_row) as usize));
        }
        let behind = self.full.partition_point(|chunk| chunk.first_row <= row);
        let chunk = self.full.get(behind.checked_sub(1)?)?;
        Some((Arc::clone(chunk), (row - chunk.first_row) as usize))
    }

    /// Bytes of the events that are kept; profiles and buckets come on top.
    pub fn event_bytes(&self) -> usize {
        self.full.iter().chain([&self.open]).map(|chunk| chunk.bytes()).sum()
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

    /// Its id, its session, then keys and values of its properties in turns.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.chunk.texts(self.at)
    }
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
    /// The name of events with this number.
    pub fn name(&self, number: u16) -> &str {
        self.names.name(number)
    }
}

//! The parts of so many cores, made into those of another number: every query is answered as before.
//!
//! What belongs to a user goes where the user's next events come to: its profile, its events, its place in every bucket. What is
//! only counted (events, names, sums, quantiles) can be split by nobody and need not be: it is added up over all parts
//! anyway, and stays together. Names and users get other numbers on the way.
//!
//! The events of several parts are merged by their times, as nothing says which came first; of one user they keep their
//! order. With parts of the default bounds, what was kept is kept; users beyond a part's bound are counted by estimate from now on.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    buckets::{Bucket, KEPT, Width},
    chunk::{Chunk, NO_ROW, NOBODY, Row},
    event::Event,
    names::Names,
    part::{Bounds, Part},
    snapshot::Snapshot,
};

/// Where the things of an old part are in the new ones.
struct Moved {
    /// The part that what is only counted goes to.
    sums: usize,
    /// By number: the part and the number in it.
    users: Vec<(usize, u32)>,
    /// Hashes of the users, by number.
    hashes: Vec<u64>,
    /// Of events, sources and metrics, by number: their numbers in the part of the sums.
    names: [Vec<u16>; 3],
}

/// Makes parts of all cores into those of `cores`. `core_of` says where what has this key belongs: an event goes by its user, one
/// without a user by its id.
pub fn reshard(
    parts: Vec<Part>,
    cores: usize,
    bounds: Bounds,
    core_of: impl Fn(&[u8]) -> usize,
) -> Vec<Part> {
    let cores = cores.max(1);
    let snapshots: Vec<(u64, Snapshot)> =
        parts.into_iter().map(|mut part| (part.events(), part.snapshot())).collect();
    let Some((_, first)) = snapshots.first() else {
        return (0..cores).map(|_| Part::new(bounds)).collect();
    };
    let mut new: Vec<Part> = (0..cores).map(|_| Part::with_keys(bounds, first.keys)).collect();
    let mut widths: Vec<[BTreeMap<i64, Bucket>; 3]> = (0..cores).map(|_| Default::default()).collect();
    let mut floors: Vec<[i64; 3]> = vec![[i64::MIN; 3]; cores];
    let mut moved = Vec::with_capacity(snapshots.len());
    for (place, (events, snapshot)) in snapshots.iter().enumerate() {
        let kept: u64 = snapshot.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let sums = place % cores;
        new[sums].begin_behind(events.saturating_sub(kept));
        let this = Moved::of(snapshot, sums, &mut new, &core_of);
        for (at, width) in snapshot.buckets.iter().enumerate() {
            // Where this one knows no minutes any more, the sum of several does not either.
            if width.len() >= KEPT[at] {
                let first = width.first_key_value().map_or(i64::MIN, |(number, _)| *number);
                floors[sums][at] = floors[sums][at].max(first);
            }
            for (number, bucket) in width {
                this.split(bucket, &mut widths, (at, *number));
            }
        }
        moved.push(this);
    }
    for ((part, widths), floors) in new.iter_mut().zip(widths).zip(floors) {
        let mut finished = widths.into_iter().zip(floors).zip(KEPT).map(|((mut width, floor), kept)| {
            width.retain(|number, _| *number >= floor);
            while width.len() > kept {
                width.pop_first();
            }
            width.into_iter().map(|(number, bucket)| (number, Arc::new(bucket))).collect::<Width>()
        });
        let widths = std::array::from_fn(|_| finished.next().unwrap_or_default());
        part.set_buckets(widths);
    }
    let chunks = snapshots.into_iter().map(|(_, snapshot)| (snapshot.names, snapshot.chunks));
    let mut rows: Vec<Rows> = chunks.map(|(names, chunks)| Rows { names, chunks, chunk: 0, at: 0 }).collect();
    while let Some(place) =
        (0..rows.len()).filter_map(|place| Some((rows[place].time()?, place))).min().map(|(_, place)| place)
    {
        rows[place].move_one(&moved[place], &mut new, &core_of);
    }
    new
}

impl Moved {
    fn of(snapshot: &Snapshot, sums: usize, new: &mut [Part], core_of: impl Fn(&[u8]) -> usize) -> Self {
        let (mut users, mut hashes) = (Vec::new(), Vec::new());
        for profile in snapshot.pages.iter().flat_map(|page| page.iter()) {
            let core = core_of(profile.id.as_bytes());
            let (number, hash) = new[core].adopt(profile);
            users.push((core, number));
            hashes.push(hash);
        }
        let names = new[sums].numbers_of(&snapshot.names);
        Self { sums, users, hashes, names }
    }

    /// Splits a bucket of a width and a number into those of the new parts.
    fn split(&self, bucket: &Bucket, new: &mut [[BTreeMap<i64, Bucket>; 3]], (at, number): (usize, i64)) {
        let [names, sources, metrics] = &self.names;
        let renumbered = |list: &[(u16, u64)], numbers: &[u16]| {
            list.iter()
                .map(|(old, count)| (numbers.get(usize::from(*old)).copied().unwrap_or(u16::MAX), *count))
                .collect()
        };
        let metric = |(old, values): &(u16, crate::Values)| {
            (metrics.get(usize::from(*old)).copied().unwrap_or(u16::MAX), values.clone())
        };
        let mut sums = Bucket {
            by_name: Vec::new(),
            by_source: Vec::new(),
            metrics: Vec::new(),
            users: roaring::RoaringBitmap::new(),
            more_users: bucket.more_users.clone(),
            events: bucket.events,
            sessions: bucket.sessions,
            transactions: bucket.transactions,
            revenue_micros: bucket.revenue_micros,
            errors: bucket.errors,
        };
        // Two old numbers may be one now: `other`. Merging adds them up.
        sums.merge(&Bucket {
            by_name: renumbered(&bucket.by_name, names),
            by_source: renumbered(&bucket.by_source, sources),
            ..Bucket::default()
        });
        for values in bucket.metrics.iter().map(metric) {
            sums.merge(&Bucket { metrics: vec![values], ..Bucket::default() });
        }
        new[self.sums][at].entry(number).or_default().merge(&sums);
        for user in &bucket.users {
            let Some((part, user_there)) = self.users.get(user as usize).copied() else { continue };
            let bucket = new[part][at].entry(number).or_default();
            if user_there == NOBODY {
                bucket.more_users.get_or_insert_default().add(self.hashes[user as usize]);
            } else {
                bucket.users.insert(user_there);
            }
        }
    }
}

/// The events of an old part, oldest first.
struct Rows {
    names: [Vec<Arc<str>>; 3],
    chunks: Vec<Arc<Chunk>>,
    chunk: usize,
    at: usize,
}

impl Rows {
    /// When the next one happened.
    fn time(&mut self) -> Option<i64> {
        while self.at >= self.chunks.get(self.chunk)?.len() {
            // It is not needed any more.
            self.chunks[self.chunk] = Arc::default();
            (self.chunk, self.at) = (self.chunk + 1, 0);
        }
        Some(self.chunks[self.chunk].timestamps_ms[self.at])
    }

    /// Gives the next one to the part it belongs to.
    fn move_one(&mut self, moved: &Moved, new: &mut [Part], core_of: impl Fn(&[u8]) -> usize) {
        let (chunk, at) = (&self.chunks[self.chunk], self.at);
        self.at += 1;
        let mut texts = chunk.bytes_of(at);
        let id = texts.next().unwrap_or_default();
        let session = chunk.session(at);
        let rest: Vec<&[u8]> = texts.skip(1).collect();
        let (pairs, detail) = rest.as_chunks::<2>();
        let properties: Vec<(&[u8], &[u8])> = pairs.iter().map(|[key, value]| (*key, *value)).collect();
        let user = moved.users.get(chunk.users[at] as usize).copied();
        let (core, user) = user.unwrap_or_else(|| (core_of(id), NOBODY));
        let text = |names: &[Arc<str>], number: u16| names.get(usize::from(number)).cloned();
        let event = Event {
            id,
            session,
            kind: chunk.kinds[at],
            timestamp_ms: chunk.timestamps_ms[at],
            amount_micros: chunk.amount(at),
            is_error: chunk.errors[at],
            properties: &properties,
            detail: detail.first().copied().unwrap_or_default(),
            ..Event::default()
        };
        let name = text(&self.names[0], chunk.names[at]);
        let source = text(&self.names[1], chunk.sources[at]);
        let other = Names::OTHER;
        new[core].readd(&event, user, name.as_deref().unwrap_or(other), source.as_deref().unwrap_or(other));
    }
}

impl Part {
    /// Takes over an event that is counted already.
    fn readd(&mut self, event: &Event<'_>, user: u32, name: &str, source: &str) {
        let user_hash = self.users.hash(if user == NOBODY { "" } else { &self.users.get(user).id });
        if !event.id.is_empty() {
            self.counted.note(self.users.event_hash(user_hash, event.id), self.bounds.events);
        }
        let previous = match user {
            NOBODY => NO_ROW,
            user => std::mem::replace(&mut self.users.get_mut(user).last_row, self.next_row),
        };
        let row = Row { user, name: self.names.number(name), source: self.sources.number(source), previous };
        self.keep(event, row);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Filter, MINUTE_MS, funnel};

    fn core_of(key: &[u8], cores: usize) -> usize {
        key.iter().fold(7_usize, |sum, byte| sum.wrapping_mul(31) + usize::from(*byte)) % cores
    }

    /// So many events of everything that can be asked for, each on the core of its user.
    fn add(parts: &mut [Part], numbers: std::ops::Range<u64>) {
        let cores = parts.len();
        for number in numbers {
            let user =
                if number.is_multiple_of(11) { String::new() } else { format!("u-{}", number * 7 % 97) };
            let (id, name) = (format!("e-{number}"), format!("n-{}", (number * 13 + number / 7) % 5));
            let key = if user.is_empty() { &id } else { &user };
            let properties: [(&[u8], &[u8]); 1] = [(b"k", id.as_bytes())];
            let event = Event {
                id: id.as_bytes(),
                user: &user,
                session: if number.is_multiple_of(3) { "s" } else { "" },
                name: &name,
                source: if number.is_multiple_of(2) { "a" } else { "b" },
                timestamp_ms: (number * 7919 % 5000) as i64 * MINUTE_MS / 3,
                amount_micros: (number.is_multiple_of(4)).then_some(number as i64),
                is_error: number.is_multiple_of(9),
                metrics: &[("m", number as f64), ("other one", 1.0)],
                properties: &properties,
                detail: if number.is_multiple_of(5) { b"detail" } else { b"" },
                ..Event::default()
            };
            parts[core_of(key.as_bytes(), cores)].add(&event);
        }
    }

    /// What all queries are made of.
    fn answers(parts: &mut [Part]) -> BTreeMap<String, String> {
        let mut told: BTreeMap<String, f64> = BTreeMap::new();
        let mut texts = BTreeMap::new();
        let ranges = [(i64::MIN / 2, i64::MAX / 2), (0, MINUTE_MS * 60), (MINUTE_MS * 100, MINUTE_MS * 103)];
        for part in parts.iter_mut() {
            let mut note = |what: String, by: f64| *told.entry(what).or_default() += by;
            note("events".to_owned(), part.events() as f64);
            for (place, (from, to)) in ranges.into_iter().enumerate() {
                let mut sum = Bucket::default();
                part.cover(from, to).iter().for_each(|bucket| sum.merge(bucket));
                note(format!("{place} events"), sum.events as f64);
                note(format!("{place} users"), sum.unique_users() as f64);
                note(format!("{place} sessions"), sum.sessions as f64);
                note(format!("{place} transactions"), sum.transactions as f64);
                note(format!("{place} revenue"), sum.revenue_micros as f64);
                note(format!("{place} errors"), sum.errors as f64);
                for (name, count) in &sum.by_name {
                    note(format!("{place} of {}", part.names().name(*name)), *count as f64);
                }
                for (source, count) in &sum.by_source {
                    note(format!("{place} from {}", part.sources().name(*source)), *count as f64);
                }
                for (metric, values) in &sum.metrics {
                    let name = part.metrics().name(*metric);
                    note(format!("{place} values of {name}"), values.count as f64);
                    note(format!("{place} sum of {name}"), values.sum);
                }
            }
            let view = part.view();
            let steps =
                [0, 1, 2].map(|name| Filter { names: vec![format!("n-{name}")], ..Filter::default() });
            let all = Filter::default();
            for (place, step) in funnel(&view, &steps, &all, i64::MIN, i64::MAX, None).into_iter().enumerate()
            {
                note(format!("step {place} users"), step.users as f64);
                note(format!("step {place} time"), step.total_ms as f64);
            }
        }
        for number in 0..97 {
            let user = format!("u-{number}");
            let found: Vec<_> = parts.iter_mut().filter_map(|part| part.user(&user)).collect();
            let text = found.iter().map(|(profile, view)| {
                let history = view.history(profile, i64::MIN, i64::MAX, 20);
                let latest: Vec<String> = history
                    .latest
                    .iter()
                    .map(|event| {
                        let (name, source) = (view.name(event.name()), view.source(event.source()));
                        format!(
                            "{name} {source} {:?} {:?}",
                            event.texts().collect::<Vec<_>>(),
                            event.detail()
                        )
                    })
                    .collect();
                let sessions = profile.sessions.list();
                format!(
                    "{} {} {} {} {} {sessions:?} {} {} {} {latest:?}",
                    profile.events,
                    profile.first_ms,
                    profile.last_ms,
                    profile.sessions_begun,
                    profile.days_active(),
                    history.events,
                    history.days_active,
                    history.revenue_micros
                )
            });
            texts.insert(user, text.collect());
        }
        texts.extend(told.into_iter().map(|(what, number)| (what, number.to_string())));
        texts
    }

    #[test]
    fn queries_are_answered_as_before_with_any_number_of_cores() {
        let mut parts: Vec<Part> = (0..4).map(|_| Part::new(Bounds::default())).collect();
        add(&mut parts, 0..20_000);
        let mut expected: Vec<Part> = (0..1).map(|_| Part::new(Bounds::default())).collect();
        add(&mut expected, 0..20_000);
        let mut end = 20_000;
        for cores in [2, 1, 3, 7, 3] {
            assert_eq!(answers(&mut parts), answers(&mut expected), "before {cores} cores");
            parts = reshard(parts, cores, Bounds::default(), |key| core_of(key, cores));
            assert_eq!(answers(&mut parts), answers(&mut expected), "{cores} cores");
            // What is counted stays counted, and what comes next goes to what is there.
            add(&mut parts, end - 20_000..end + 1_000);
            add(&mut expected, end..end + 1_000);
            end += 1_000;
        }
        assert_eq!(answers(&mut parts), answers(&mut expected));
    }

    #[test]
    fn resharded_parts_are_written_and_read_like_others() {
        let mut parts: Vec<Part> = (0..3).map(|_| Part::new(Bounds::default())).collect();
        add(&mut parts, 0..10_000);
        let expected = answers(&mut parts);
        let mut again = Vec::new();
        for mut part in reshard(parts, 2, Bounds::default(), |key| core_of(key, 2)) {
            let mut bytes = Vec::new();
            part.snapshot().write(&mut bytes).unwrap();
            again.push(Snapshot::read(&mut &*bytes, Bounds::default()).unwrap());
        }
        assert_eq!(answers(&mut again), expected);
    }
}

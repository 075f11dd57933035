//! Events in columns, a few thousand to a chunk. A full chunk never changes again and is shared with whoever asks.

use serde::{Deserialize, Serialize};

use crate::event::{DETAIL_BYTES_MAX, Event, Kind};

/// Events of a chunk at most.
pub(crate) const CHUNK_EVENTS: usize = 4096;
/// Bytes of ids, sessions, properties and details of a chunk at most, unless one event has more.
const CHUNK_BYTES: usize = 1 << 20;
/// The user of nobody's events, and of those beyond the bound.
pub(crate) const NOBODY: u32 = u32::MAX;
/// The row before the first.
pub(crate) const NO_ROW: u64 = u64::MAX;

/// Columns of events in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) first_row: u64,
    pub(crate) timestamps_ms: Vec<i64>,
    pub(crate) users: Vec<u32>,
    pub(crate) names: Vec<u16>,
    pub(crate) sources: Vec<u16>,
    pub(crate) kinds: Vec<Kind>,
    /// What each earned; `i64::MIN` is no transaction.
    pub(crate) amounts: Vec<i64>,
    pub(crate) errors: Vec<bool>,
    /// The row of the same user's event before, or [`NO_ROW`].
    pub(crate) previous: Vec<u64>,
    /// End of each event's texts in `texts`.
    ends: Vec<u32>,
    /// Id, session and pairs, each with its length, and behind them the detail where there is one: it makes them odd in
    /// number, so those without one are as they were before there were any.
    #[serde(with = "serde_bytes")]
    texts: Vec<u8>,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
}

/// What the columns say of one event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) user: u32,
    pub(crate) name: u16,
    pub(crate) source: u16,
    pub(crate) previous: u64,
}

impl Chunk {
    pub(crate) fn new(first_row: u64) -> Self {
        Self { first_row, first_ms: i64::MAX, last_ms: i64::MIN, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= CHUNK_EVENTS || self.texts.len() >= CHUNK_BYTES
    }

    /// An empty one behind this one, with room for as much; in the memory of `spare`, if there is one.
    pub(crate) fn next(&self, spare: Option<Self>) -> Self {
        if let Some(mut spare) = spare {
            spare.clear();
            spare.first_row = self.first_row + self.len() as u64;
            return spare;
        }
        const ROWS: usize = CHUNK_EVENTS;
        Self {
            timestamps_ms: Vec::with_capacity(ROWS),
            users: Vec::with_capacity(ROWS),
            names: Vec::with_capacity(ROWS),
            sources: Vec::with_capacity(ROWS),
            kinds: Vec::with_capacity(ROWS),
            amounts: Vec::with_capacity(ROWS),
            errors: Vec::with_capacity(ROWS),
            previous: Vec::with_capacity(ROWS),
            ends: Vec::with_capacity(ROWS),
            texts: Vec::with_capacity(self.texts.len() + self.texts.len() / 16),
            ..Self::new(self.first_row + self.len() as u64)
        }
    }

    fn clear(&mut self) {
        self.timestamps_ms.clear();
        self.users.clear();
        self.names.clear();
        self.sources.clear();
        self.kinds.clear();
        self.amounts.clear();
        self.errors.clear();
        self.previous.clear();
        self.ends.clear();
        self.texts.clear();
        (self.first_ms, self.last_ms) = (i64::MAX, i64::MIN);
    }

    pub(crate) fn push(&mut self, event: &Event<'_>, row: Row) {
        self.timestamps_ms.push(event.timestamp_ms);
        self.users.push(row.user);
        self.names.push(row.name);
        self.sources.push(row.source);
        self.kinds.push(event.kind);
        self.amounts.push(event.amount_micros.unwrap_or(i64::MIN));
        self.errors.push(event.is_error);
        self.previous.push(row.previous);
        let texts = &mut self.texts;
        let mut write = |text: &[u8]| {
            // Longer ones were refused at the door.
            let length = text.len().min(usize::from(u16::MAX));
            texts.extend_from_slice(&(length as u16).to_le_bytes());
            texts.extend_from_slice(&text[..length]);
        };
        write(event.id);
        write(event.session.as_bytes());
        for (key, value) in event.properties {
            write(key);
            write(value);
        }
        if !event.detail.is_empty() && event.detail.len() <= DETAIL_BYTES_MAX {
            write(event.detail);
        }
        self.ends.push(self.texts.len() as u32);
        self.first_ms = self.first_ms.min(event.timestamp_ms);
        self.last_ms = self.last_ms.max(event.timestamp_ms);
    }

    /// Whether its columns are of one length and point at what there is; `users` have a number.
    pub(crate) fn is_sound(&self, users: usize) -> bool {
        let length = self.len();
        let lengths = [
            self.timestamps_ms.len(),
            self.names.len(),
            self.sources.len(),
            self.kinds.len(),
            self.amounts.len(),
            self.errors.len(),
            self.previous.len(),
            self.ends.len(),
        ];
        let last_end = self.ends.last().map_or(0, |end| *end as usize);
        let row = |place: usize| self.first_row.checked_add(place as u64);
        length <= CHUNK_EVENTS
            && lengths.iter().all(|column| *column == length)
            && self.ends.is_sorted()
            && last_end == self.texts.len()
            && self.users.iter().all(|user| *user == NOBODY || (*user as usize) < users)
            // Backwards only: who follows them comes to an end.
            && self.previous.iter().enumerate().all(|(at, before)| {
                *before == NO_ROW || row(at).is_some_and(|row| *before < row)
            })
    }

    /// What this event earned.
    pub(crate) fn amount(&self, at: usize) -> Option<i64> {
        Some(self.amounts[at]).filter(|amount| *amount != i64::MIN)
    }

    /// Id, session, then keys and values in turns, and the detail where there is one.
    pub(crate) fn texts(&self, at: usize) -> impl Iterator<Item = &str> {
        self.bytes_of(at).map(|text| text.utf8_chunks().next().map_or("", |chunk| chunk.valid()))
    }

    /// The detail, or nothing.
    pub(crate) fn detail(&self, at: usize) -> &[u8] {
        let (count, last) = self.bytes_of(at).fold((0, &b""[..]), |(count, _), text| (count + 1, text));
        if count % 2 == 1 { last } else { b"" }
    }

    /// The same as bytes.
    pub(crate) fn bytes_of(&self, at: usize) -> impl Iterator<Item = &[u8]> {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        let mut rest = &self.texts[start..self.ends[at] as usize];
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let (text, behind) = behind.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            rest = behind;
            Some(text)
        })
    }

    /// The id of the event.
    pub(crate) fn id(&self, at: usize) -> &[u8] {
        self.bytes_of(at).next().unwrap_or_default()
    }

    /// The session that the event names.
    pub(crate) fn session(&self, at: usize) -> &str {
        self.texts(at).nth(1).unwrap_or_default()
    }

    /// Whether a property has this value. Compared byte by byte: what was kept is text, and looking at it as text would cost
    /// more than the comparison.
    pub(crate) fn has(&self, at: usize, key: &str, value: &str) -> bool {
        let mut texts = self.bytes_of(at).skip(2);
        while let (Some(name), Some(known)) = (texts.next(), texts.next()) {
            if name == key.as_bytes() {
                return known == value.as_bytes();
            }
        }
        false
    }

    /// The values of these properties, all in one walk.
    pub(crate) fn values<'c>(&'c self, at: usize, keys: &[&str], values: &mut Vec<Option<&'c [u8]>>) {
        values.clear();
        values.resize(keys.len(), None);
        let mut texts = self.bytes_of(at).skip(2);
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            if let Some(place) = keys.iter().position(|key| key.as_bytes() == name)
                && values[place].is_none()
            {
                values[place] = Some(value);
            }
        }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        const ROW: usize = 8 + 4 + 2 + 2 + 1 + 8 + 1 + 8 + 4;
        self.users.capacity() * ROW + self.texts.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_comes_back_whole_or_not_at_all() {
        let mut chunk = Chunk::new(0);
        let row = Row { user: 1, name: 2, source: 3, previous: NO_ROW };
        let properties: [(&[u8], &[u8]); 1] = [(b"k", b"v")];
        let (largest, too_large) = ([7; DETAIL_BYTES_MAX], [7; DETAIL_BYTES_MAX + 1]);
        let cases: [(&[u8], &[u8]); 4] =
            [(b"", b""), (b"\xff\x00", b"\xff\x00"), (&largest, &largest), (&too_large, b"")];
        for (at, (detail, kept)) in cases.into_iter().enumerate() {
            chunk.push(&Event { properties: &properties, detail, ..Event::default() }, row);
            assert_eq!(chunk.detail(at), kept);
            assert!(chunk.has(at, "k", "v") && !chunk.has(at, "\0", ""));
        }
        chunk.push(&Event { detail: b"x", ..Event::default() }, row);
        assert_eq!((chunk.detail(4), chunk.session(4)), (&b"x"[..], ""));
    }

    #[test]
    fn texts_come_back() {
        let mut chunk = Chunk::new(7);
        let row = Row { user: 1, name: 2, source: 3, previous: NO_ROW };
        let properties: [(&[u8], &[u8]); 2] = [(b"k", b"v"), (b"x", b"")];
        let first = Event { id: b"a", session: "s", properties: &properties, ..Event::default() };
        chunk.push(&first, row);
        chunk.push(&Event { id: b"b\xff", ..Event::default() }, row);
        assert_eq!(chunk.texts(0).collect::<Vec<_>>(), ["a", "s", "k", "v", "x", ""]);
        assert_eq!(chunk.texts(1).collect::<Vec<_>>(), ["b", ""]);
        assert!(chunk.has(0, "x", "") && chunk.has(0, "k", "v"));
        let mut values = Vec::new();
        chunk.values(0, &["x", "y", "k"], &mut values);
        assert_eq!(values, [Some(&b""[..]), None, Some(b"v")]);
        assert!(!chunk.has(0, "y", "") && !chunk.has(0, "k", "w") && !chunk.has(1, "k", "v"));
        assert_eq!((chunk.session(0), chunk.amount(0)), ("s", None));
    }
}
